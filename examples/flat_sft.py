"""Supervised fine-tuning in one flat file, from the package's parts: a table of questions and answers.

    python examples/flat_sft.py [MODEL] [FOLDER] [TABLE] [EPOCHS]

The base is measured first, then taught, then measured again on rows that it never saw. A second start with the same
folder goes on from the newest checkpoint, to the same bits. `tunesmith run` does all of this and more from a recipe;
this file is to read, and to change what a recipe cannot.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tunesmith.data import ingest
from tunesmith.data.columns import Columns
from tunesmith.data.feed import FileFeed, Laying
from tunesmith.data.pack import pack
from tunesmith.data.render import Renderer
from tunesmith.data.split import split
from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State, train
from tunesmith.engine.schedule import Schedule, auto_lr
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec, Who
from tunesmith.evals.compare import Cases, Rules, compare
from tunesmith.evals.metrics import METRICS
from tunesmith.evals.score import mean_nll
from tunesmith.evals.tasks import answer_text, instructed
from tunesmith.export.write import Serving, write_tuned
from tunesmith.generate.limits import Limits
from tunesmith.models.adapters import Adapt
from tunesmith.models.load import Base, load
from tunesmith.objectives.sft import SFT
from tunesmith.types import Example, Record

TABLE = Path(__file__).parent / "tickets.csv"
COLUMNS = Columns(prompt=("message",), reply="department")
ASKED = "Which department should read this message? Answer with its name only."
METRIC = METRICS["exact_match"]
SEED, EVERY, MAX_NEW_TOKENS, UPDATE_TOKENS, MICRO_TOKENS = 0, 10, 16, 2048, 2048


def answers(session: Session, who: Who, renderer: Renderer, cases: Sequence[Example]) -> list[str]:
    """What the base (None) or a snapshot says to the cases, greedily."""
    prompts = [renderer.prompt(instructed(e, ASKED).prompt) for e in cases]
    limits = Limits(MAX_NEW_TOKENS, renderer.stop_ids)
    return [c.text for c in session.sample(who, prompts, limits, decode=renderer.text)]


def learner(base: Base, rows: Sequence[Record], out: Path, epochs: int) -> tuple[Session, State, FileFeed]:
    """Everything that the loop needs, at update 0, or where an earlier start came to."""
    session = Session(base)
    adapt = Adapt(rank=16, alpha=32)
    session.create("tuned", Spec(adapt, seed=SEED))
    feed = FileFeed(rows, UPDATE_TOKENS, MICRO_TOKENS, epochs, SEED, Laying(rope=base.rope))
    lr, _ = auto_lr(adapt.method, base.num_weights, feed.num_updates)
    state = State("tuned", SFT(), Schedule("cosine", warmup_frac=0.05), lr, feed.num_updates)
    newest, _ = checkpoint.newest(out / "checkpoints")
    if newest is not None:
        checkpoint.load(newest, session, state, feed)
    return session, state, feed


def main(
    model: str = "smollm2-135m-instruct", folder: str = "runs/flat_sft", table: str = str(TABLE), epochs: str = "3"
) -> str:
    out, base = Path(folder), load(model)
    renderer = Renderer(base.tokenizer, 512)
    read = ingest.read([Path(table)], COLUMNS if Path(table) == TABLE else None)
    parts = split(read.examples, dev_frac=0.1, test_frac=0.2, salt=str(SEED))
    rows, dev = (renderer.records([instructed(e, ASKED) for e in part]) for part in (parts.train, parts.dev))
    print(f"{len(rows.records)} rows to learn from, {len(parts.test)} held out, {len(read.rejected)} rejected")
    session, state, feed = learner(base, rows.records, out, int(epochs))
    dev_forests = pack(dev.records, MICRO_TOKENS, base.rope)

    def after(update: int, facts: dict[str, float]) -> None:
        print(f"update {update} of {state.num_updates}: loss {facts['loss']:.3f}, {facts['tokens_per_s']:.0f} tokens/s")
        if update % EVERY == 0 or update == state.num_updates:
            checkpoint.save(out / "checkpoints", session, state, feed)
            print(f"  dev: {mean_nll(dev_forests, session.logprobs('tuned', dev_forests)):.3f} nats per token")

    before = answers(session, None, renderer, parts.test)
    train(session, state, feed, state.num_updates, [after])
    tuned = session.publish("tuned")
    now = answers(session, tuned, renderer, parts.test)
    wanted = [answer_text(e) for e in parts.test]
    verdict = compare(Cases(wanted, before, now), METRIC, Rules(seed=SEED))
    serving = Serving(base.tokenizer, renderer.template, renderer.stop_ids, MAX_NEW_TOKENS)
    write_tuned(session, tuned, serving, out / "adapter")
    print(verdict.claim, *verdict.notes, sep="\n")
    return verdict.decision


if __name__ == "__main__":
    main(*sys.argv[1:])
