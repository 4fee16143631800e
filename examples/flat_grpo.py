"""Reinforcement learning in one flat file, from the package's parts: GRPO on sums of two numbers.

    python examples/flat_grpo.py [MODEL] [FOLDER] [UPDATES]

The base is measured first, then taught by rewards alone, then measured again on the same sums, which were never trained
on. A second start with the same folder goes on from the newest checkpoint, to the same bits. This file is to read, and
to change what a recipe cannot.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tunesmith.data.render import Renderer
from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State, train
from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec, Who
from tunesmith.evals.compare import Cases, Rules, compare
from tunesmith.evals.metrics import METRICS
from tunesmith.export.write import Serving, write_tuned
from tunesmith.generate.limits import Limits
from tunesmith.models.adapters import Adapt
from tunesmith.models.load import Base, load
from tunesmith.objectives.policy import Policy, Reinforcing
from tunesmith.regularisers.still import Still
from tunesmith.rollouts.draws import Draws, Prompts
from tunesmith.rollouts.feed import Actor, RolloutFeed
from tunesmith.types import Attempt, Example, Grade, Message, Task

ASKED = Policy(method="grpo", prompts=8, group_size=8, max_new_tokens=24, kl=0.02)
MOST, LR, SEED, NUM_TEST, EVERY = 14, 3e-4, 0, 60, 10


def sums() -> list[Example]:
    """Every sum of two numbers below MOST, in an order of its own. `facts` is what the reward is told."""
    pairs = [(a, b) for a in range(MOST) for b in range(MOST)]
    random.Random(SEED).shuffle(pairs)
    ask = "State the final answer to the following arithmetic problem: {} + {} ="
    return [
        Example(f"{a}+{b}", (Message("user", ask.format(a, b)),), Task({"sum": a + b}), source=f"{a}+{b}")
        for a, b in pairs
    ]


def is_right(attempt: Attempt) -> bool:
    """Its last number is the sum."""
    found = re.findall(r"\d+", attempt.text)
    return bool(found) and int(found[-1]) == attempt.example.target.facts["sum"]  # type: ignore[union-attr]


def reward(attempts: Sequence[Attempt]) -> list[Grade]:
    """1 for the right sum; a tenth is added where the reply comes to an end, so that there is a step on the way."""
    right = [float(is_right(attempt)) for attempt in attempts]
    return [
        Grade(r + 0.1 * attempt.stopped, {"right": r, "stopped": float(attempt.stopped)})
        for r, attempt in zip(right, attempts, strict=True)
    ]


def prompts_of(renderer: Renderer, examples: Sequence[Example]) -> Prompts:
    return Prompts(examples, [renderer.prompt(e.prompt) for e in examples], renderer.stop_ids, renderer.text)


def scores(session: Session, who: Who, asked: Prompts) -> list[float]:
    """1 or 0 for each held-out sum, answered greedily."""
    limits = Limits(ASKED.max_new_tokens, asked.stop_ids)
    done = session.sample(who, asked.tokens, limits, decode=asked.decode)
    return [
        float(is_right(Attempt(e, c.text, c.stopped, len(c.tokens)))) for e, c in zip(asked.examples, done, strict=True)
    ]


def learner(base: Base, train_on: Prompts, out: Path, updates: int) -> tuple[Session, State, RolloutFeed]:
    """Everything that the loop needs, at update 0, or where an earlier start came to."""
    session = Session(base)
    session.create("tuned", Spec(Adapt(rank=16, alpha=32), seed=SEED, regularisers=(Still(),)))
    epochs = 1 + updates * ASKED.prompts // len(train_on.examples)
    feed = RolloutFeed(Draws(train_on, ASKED, epochs, SEED, rope=base.rope), Actor(session, "tuned"), reward, out)
    state = State("tuned", Reinforcing(ASKED), Schedule("constant", warmup_frac=0.1), LR, updates)
    newest, _ = checkpoint.newest(out / "checkpoints")
    if newest is not None:
        checkpoint.load(newest, session, state, feed)
    return session, state, feed


def main(model: str = "smollm2-135m-instruct", folder: str = "runs/flat_grpo", updates: str = "60") -> str:
    out, num = Path(folder), int(updates)
    base = load(model)
    renderer = Renderer(base.tokenizer, 512)
    examples = sums()
    test, train_on = (prompts_of(renderer, part) for part in (examples[:NUM_TEST], examples[NUM_TEST:]))
    session, state, feed = learner(base, train_on, out, num)

    def after(update: int, facts: dict[str, float]) -> None:
        facts = {**facts, **feed.told}
        shown = ("reward", "reply_tokens", "stopped_frac", "flat_frac", "kl_nats", "entropy_nats", "mismatch_nats")
        print(f"update {update}: " + ", ".join(f"{name} {facts[name]:.3g}" for name in shown if name in facts))
        if update % EVERY == 0 or update == num:
            checkpoint.save(out / "checkpoints", session, state, feed)

    before = scores(session, None, test)
    train(session, state, feed, num, [after])
    tuned = session.publish("tuned")
    now = scores(session, tuned, test)
    right = ["right"] * NUM_TEST
    was, is_now = (["right" if score else "wrong" for score in side] for side in (before, now))
    verdict = compare(Cases(right, was, is_now), METRICS["accuracy"], Rules(seed=SEED))
    write_tuned(session, tuned, Serving(base.tokenizer, renderer.template, renderer.stop_ids, 64), out / "adapter")
    print(verdict.claim, *verdict.notes, sep="\n")
    return verdict.decision


if __name__ == "__main__":
    main(*sys.argv[1:])
