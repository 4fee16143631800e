"""The rehearsal: all that a run will do, done once, small but real, before it begins. What would fail in hour five
fails in the first minute.

It has a session of its own, and leaves the base as it found it: a run with a rehearsal equals one without, bit by bit.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from peft import PeftModel
from transformers import PreTrainedModel

from tunesmith.build import TENANT, Compute, Material, num_updates, start
from tunesmith.data.feed import FileFeed
from tunesmith.data.pack import forest
from tunesmith.engine import checkpoint
from tunesmith.engine.cuts import Cuts
from tunesmith.engine.session import Session
from tunesmith.engine.update import update
from tunesmith.errors import RunError
from tunesmith.evals.tasks import label_record
from tunesmith.export.verify import expect, verify
from tunesmith.export.write import Serving, open_adapter, open_model, write_tuned
from tunesmith.files import PARTIAL, tensors_digest
from tunesmith.folder import RunFolder
from tunesmith.generate.limits import Limits
from tunesmith.models.load import Base
from tunesmith.recipe import Recipe

NAME = "rehearsal.json"
NUM_ASKED, NUM_TOKENS = 8, 4  # longest prompts, and tokens of each answer
SCRATCH = f"{PARTIAL}rehearsal"  # swept by the next start, if this one is killed


def rehearse(
    recipe: Recipe, folder: RunFolder, base: Base, made: Material, where: Compute, feed: FileFeed, cuts: Cuts
) -> None:
    """Once a run; its time, step by step, is kept in rehearsal.json."""
    if not recipe.train.rehearsal or folder.read(NAME) is not None:
        return
    took: dict[str, float] = {}

    @contextmanager
    def doing(text: str) -> Iterator[None]:
        began = time.monotonic()
        with folder.doing(text):
            yield
        took[text] = round(time.monotonic() - began, 2)

    scratch = folder.path / SCRATCH
    session = Session(base, compiled=recipe.train.compile, checkpointing=recipe.train.checkpointing == "on")
    session.cuts = cuts
    with folder.stage("rehearsal"):
        try:
            state = start(recipe, session, made, num_updates(recipe, feed), most_general=1)
            with doing("longest micro-batch, forward and backward, and a step"):
                longest = max(feed.heaviest(), key=lambda batch: batch.num_tokens)
                update(session, TENANT, [longest], state.objective, state.lr)
            with doing("longest prompts answered"):
                answer_longest(session, made)
            with doing("checkpoint written and read"):
                kept = tensors_digest(session.save_state(TENANT)[0].items())
                state.update = 1
                checkpoint.load(checkpoint.save(scratch, session, state, feed), session, state, feed)
                if tensors_digest(session.save_state(TENANT)[0].items()) != kept:
                    raise RunError(
                        f"a checkpoint read back from {folder.path} is not what was written: is the disk well?"
                    )
            with doing("export written, opened and compared"):
                export_once(recipe, session, made, where, folder)
        finally:
            session.close()
            shutil.rmtree(scratch, ignore_errors=True)
    folder.write(NAME, {"seconds": took, "total_s": round(sum(took.values()), 2)})


def answer_longest(session: Session, made: Material) -> None:
    """Few tokens each; the base's answers, which come next, take as many rows as the recipe says."""
    prompts = [made.forms[0].prompt(e, made.instruction) for e in made.split.test]
    tokens = sorted((made.renderer.prompt(p) for p in prompts), key=len, reverse=True)[:NUM_ASKED]
    limits = Limits(min(NUM_TOKENS, made.max_new_tokens), made.renderer.stop_ids, rows=NUM_ASKED)
    session.sample(TENANT, tokens, limits, decode=made.renderer.text)
    if made.kind.scoring == "likelihood":
        longest = max(prompts, key=lambda p: sum(len(m.content) for m in p))
        session.logprobs(TENANT, [forest([label_record(made.renderer, "rehearsed", longest, made.labels)])])


def export_once(recipe: Recipe, session: Session, made: Material, where: Compute, folder: RunFolder) -> None:
    """What the run will export, after one step, opened by peft or transformers and compared on one prompt."""
    stops = made.renderer.stop_ids
    serving = Serving(session.base.tokenizer, made.renderer.template, stops, made.max_new_tokens)
    prompts = [made.renderer.prompt(made.forms[0].prompt(e, made.instruction)) for e in made.split.test[:1]]
    snapshot = session.publish(TENANT)
    expected = expect(session, snapshot, prompts, Limits(min(NUM_TOKENS, made.max_new_tokens), stops))
    tuned = write_tuned(session, snapshot, serving, folder.path / SCRATCH / "export")
    if recipe.adapt.is_adapter:
        opened: PreTrainedModel | PeftModel = open_adapter(session.base.located.folder, tuned, where.dtype)
    else:
        opened = open_model(tuned, where.dtype)
    verify("rehearsed export", opened, expected)
