"""The rehearsal: all that a run will do, done once, small but real, before it begins. What would fail in hour five
fails in the first minute.

It goes on with what was tried for the plan's speeds (speeds.py), in that session, which is not the run's and leaves the
base as it found it: a run with a rehearsal equals one without, bit by bit.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from peft import PeftModel
from transformers import PreTrainedModel

from tunesmith import class_export
from tunesmith.build import TENANT, Compute, Material
from tunesmith.crew import learning
from tunesmith.data.pack import forest
from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State
from tunesmith.engine.session import Session
from tunesmith.engine.update import update
from tunesmith.errors import NotFinite, RunError
from tunesmith.evals.tasks import answer_text, label_record
from tunesmith.export.verify import expect, verify
from tunesmith.export.write import Serving, open_adapter, open_model, write_tuned
from tunesmith.files import PARTIAL, tensors_digest
from tunesmith.fitted import Fitted
from tunesmith.folder import RunFolder
from tunesmith.generate.limits import Limits
from tunesmith.recipe import Recipe
from tunesmith.rewarded import actor_of, rolling, try_group
from tunesmith.roles import Foretold
from tunesmith.speeds import Tried, longest_of

NAME = "rehearsal.json"
Together = Callable[[Session], AbstractContextManager[None]]  # held while something is learned
NUM_ASKED, NUM_TOKENS = 2, 4  # longest prompts, and tokens of each answer
SCRATCH = f"{PARTIAL}rehearsal"  # swept by the next start, if this one is killed


def rehearse(fitted: Fitted, folder: RunFolder, made: Material, where: Compute, tried: Tried) -> None:
    """Once a run; its time, step by step, is kept in rehearsal.json. The session is closed at its end."""
    recipe, feed, session, state = fitted.recipe, fitted.feed, tried.session, tried.state
    took: dict[str, float] = {}

    @contextmanager
    def doing(text: str) -> Iterator[None]:
        began = time.monotonic()
        with folder.doing(text):
            yield
        took[text] = round(time.monotonic() - began, 2)

    scratch = folder.path / SCRATCH
    with folder.stage("rehearsal"):
        try:
            with doing("longest micro-batch, forward and backward, and a step"):
                if not tried.speeds.is_done:
                    learn_longest(session, state, feed, learning(folder, recipe))
            with doing("longest prompts answered"):
                answer_longest(session, made)
            if made.kind.rewards:
                with doing("replies sampled and graded"):
                    try_group(actor_of(recipe, folder, session, made), feed, made)
            with doing("checkpoint written and read"):
                giving = rolling(recipe, folder, session, made, feed, state)
                kept = tensors_digest(session.save_state(TENANT, copies=False)[0].items())
                state.update = 1
                checkpoint.load(checkpoint.save(scratch, session, state, giving), session, state, giving)
                if tensors_digest(session.save_state(TENANT, copies=False)[0].items()) != kept:
                    raise RunError(
                        f"a checkpoint read back from {folder.path} is not what was written: is the disk well?"
                    )
            with doing("export written, opened and compared"):
                export_once(recipe, session, made, where, folder)
        finally:
            session.close()
            shutil.rmtree(scratch, ignore_errors=True)
    folder.write(NAME, {"seconds": took, "total_s": round(sum(took.values()), 2)})


def learn_longest(session: Session, state: State, feed: Foretold, together: Together) -> None:
    """NotFinite, naming the examples, unless the run would leave them out."""
    try:
        with together(session):
            update(session, TENANT, [longest_of(feed)], state.objective, state.lr)
    except NotFinite:
        if state.on_nan == "abort":
            raise


def answer_longest(session: Session, made: Material) -> None:
    """Few tokens each; a batch of others was answered for the plan. Where hidden tokens are told, the longest text."""
    if session.base.is_masked:
        text = max(made.split.test, key=lambda e: len(answer_text(e)))
        session.logprobs(TENANT, [forest(made.renderer.plain.scored(text)[:1])])
        return
    if session.base.scores:
        session.scores(TENANT, [forest([max(made.train.records, key=lambda r: r.num_tokens)])])
        return
    tokens = sorted((made.asked(made.forms[0], e) for e in made.split.test), key=len, reverse=True)[:NUM_ASKED]
    limits = Limits(min(NUM_TOKENS, made.max_new_tokens), made.renderer.stop_ids, rows=NUM_ASKED)
    session.sample(TENANT, tokens, limits, decode=made.renderer.text)
    if made.kind.scoring == "likelihood":
        prompts = [made.forms[0].prompt(e, made.instruction) for e in made.split.test]
        longest = max(prompts, key=lambda p: sum(len(m.content) for m in p))
        session.logprobs(TENANT, [forest([label_record(made.renderer, "rehearsed", longest, made.labels)])])


def export_once(recipe: Recipe, session: Session, made: Material, where: Compute, folder: RunFolder) -> None:
    """What the run will export, after one step, opened by peft or transformers and compared on one prompt."""
    stops = made.renderer.stop_ids
    serving = Serving(session.base.tokenizer, made.renderer.template, stops, made.max_new_tokens)
    prompts = [made.asked(made.forms[0], e) for e in made.split.test[:1]]
    snapshot = session.publish(TENANT)
    if not session.base.writes:
        class_export.export_once(session, made, folder.path / SCRATCH / "export", snapshot)
        return
    expected = expect(session, snapshot, prompts, Limits(min(NUM_TOKENS, made.max_new_tokens), stops))
    tuned = write_tuned(session, snapshot, serving, folder.path / SCRATCH / "export")
    if recipe.adapt.is_adapter:
        opened: PreTrainedModel | PeftModel = open_adapter(session.base.located.folder, tuned, where.dtype)
    else:
        opened = open_model(tuned, where.dtype)
    verify("rehearsed export", opened, expected)
