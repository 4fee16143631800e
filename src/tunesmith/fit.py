"""What fits this machine and the time: how much is held out, how long examples may be, how many updates are made.

Times are rough, from one measured product of matrices; they are for choosing sizes, and a run measures its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from tunesmith.data.ingest import Ingested
from tunesmith.data.traits import label_counts
from tunesmith.engine.precision import choose_device, choose_dtype
from tunesmith.evals.calibration import MIN_CASES
from tunesmith.evals.probes import LEVELS
from tunesmith.models.here import Here, memory_gib, speed
from tunesmith.recipe import Recipe
from tunesmith.types import Example, Label, Marked, Pair, Ranked, Reply

CHARS_PER_TOKEN = 3.5  # English has about 4, most other languages fewer
TRAIN_OPERATIONS = 6  # for a weight and token: two forward, four backward
ANSWER_OPERATIONS = 2
SLOWER = 3  # a token that is written, against one that is read
EXTRA_S = 60  # loading, opening the exports, the report
FORMS = 3  # prompt forms in which the base is tried on dev
FEWEST_UPDATES, FEWEST_CASES = 20, 60
GUARD_TOKENS = 45_000, 13_000  # that one model reads, and writes, for all guard probes
DEFAULTS = Recipe()

Rows = list[tuple[str, Any, str]]  # dotted key, value, why


@dataclass(frozen=True, slots=True)
class Machine:
    device: str
    bytes_each: int  # of a weight in the number format that suits the device
    free_gib: float
    rate: float  # operations a second


def machine() -> Machine:
    device, _ = choose_device()
    dtype, _ = choose_dtype(device)
    return Machine(device, torch.empty(0, dtype=dtype).element_size(), memory_gib(device), speed(device, dtype))


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the examples: guessed from characters, since no tokenizer is loaded yet."""

    num: int
    given: tuple[str, ...]  # splits that files give
    tokens: tuple[int, ...]  # of each example, the shortest first
    reply_tokens: float  # of an answer, or of all labels
    instruction_tokens: float  # of the list of labels
    epochs: int
    test_frac: float
    is_text: bool = False  # without prompts, cut into pieces, and nothing is written

    @classmethod
    def of(cls, read: Ingested, given: Iterable[str]) -> Sizes:
        num = len(read.examples)
        labels = label_counts(read.examples)
        replies, is_text = [reply_chars(e) for e in read.examples], read.columns.text is not None
        chars = 0 if is_text else sum(len(name) + 8 for name in labels) if labels else sum(replies) / num
        epochs = 5 if num < 300 else 3 if num < 1000 else 2 if num <= 20_000 else 1
        tokens = sorted(
            int((sum(len(m.content) for m in e.prompt) + r) / CHARS_PER_TOKEN) + 16
            for e, r in zip(read.examples, replies)
        )
        share = round(min(0.3, max(0.1, 200 / num)), 2)
        reply = chars / CHARS_PER_TOKEN
        return cls(num, tuple(given), tuple(tokens), reply, reply if labels else 0, epochs, share, is_text)

    @property
    def labels(self) -> bool:
        return self.instruction_tokens > 0

    @property
    def num_learned(self) -> int:
        held_out = (0 if "test" in self.given else self.test_frac) + (0 if "dev" in self.given else 0.1)
        return int(self.num * (1 - held_out))

    @property
    def mean_tokens(self) -> float:
        return sum(self.tokens) / len(self.tokens)

    def max_tokens(self, context: int | None) -> int:
        """The longest example that is learned from: room for 99 of 100, within the model's context."""
        if self.is_text:
            return min(DEFAULTS.data.max_tokens, context or DEFAULTS.data.max_tokens)
        wanted = 1.2 * self.tokens[int(0.99 * (self.num - 1))] + self.instruction_tokens + 64
        size = next((s for s in (512, 1024, 2048, 4096) if s >= wanted), 4096)
        return min(size, context or 1024)


def reply_chars(example: Example) -> int:
    """Of a pair both replies, which are learned together."""
    if isinstance(example.target, (Pair, Ranked)):
        return sum(len(reply.content) for reply in example.target.replies)
    if isinstance(example.target, Marked):  # beside it another row's is learned from
        return 2 * len(example.target.message.content)
    return len(example.target.text) if isinstance(example.target, (Reply, Label)) else 0


def sizes(data: Sizes, model: Here | None) -> Rows:
    """Shares that are held out, how often rows are seen, how long they may be."""
    rows: Rows = []
    if "test" not in data.given:
        cases = f"about {data.test_frac * data.num:.0f} of {data.num} examples"
        rows.append(("data.test_frac", data.test_frac, cases))
    if "dev" not in data.given:
        rows.append(("data.dev_frac", DEFAULTS.data.dev_frac, ""))
    context = model.context_tokens if model else None
    rows.append(("data.max_tokens", data.max_tokens(context), f"the longest has about {data.tokens[-1]} tokens"))
    rows.append(("train.epochs", data.epochs, f"there are about {data.num_learned} training examples"))
    return rows


def answers_s(where: Machine, model: Here, data: Sizes, cases: float) -> float:
    """Seconds for one model's answers to so many cases."""
    tokens = data.mean_tokens + (1 if data.labels else SLOWER) * data.reply_tokens  # labels are read, not written
    return ANSWER_OPERATIONS * model.num_weights * tokens * cases / where.rate


def train_s(where: Machine, model: Here, tokens: float) -> float:
    return TRAIN_OPERATIONS * model.num_weights * tokens / where.rate


def evaluation_s(where: Machine, model: Here, data: Sizes, cases: float, dev_cases: float) -> float:
    """Seconds for base and tuned on the held-out cases, and the base in each prompt form on dev."""
    return answers_s(where, model, data, 2 * cases + FORMS * dev_cases)


def guards_s(where: Machine, model: Here, level: str) -> float:
    """Seconds for the guard probes of base and tuned, at most what their budget allows."""
    if level == "off":
        return 0.0
    read, written = (n * LEVELS[level] / LEVELS["full"] for n in GUARD_TOKENS)
    one = ANSWER_OPERATIONS * model.num_weights * (read + SLOWER * written) / where.rate
    return 2 * min(one, DEFAULTS.evals.guard_budget_s)


def losses_s(where: Machine, model: Here, data: Sizes, dev_cases: float) -> float:
    """Seconds for the train-dev gap: as many training rows as dev rows, read by base and tuned."""
    return ANSWER_OPERATIONS * model.num_weights * data.mean_tokens * 4 * dev_cases / where.rate


def whole_s(where: Machine, model: Here, data: Sizes) -> float:
    """Seconds of a run with nothing cut."""
    cases = min(DEFAULTS.evals.max_cases, data.test_frac * data.num)
    learned = data.epochs * data.num_learned * data.mean_tokens
    return (
        EXTRA_S + train_s(where, model, learned)
        + evaluation_s(where, model, data, cases, DEFAULTS.evals.max_dev_cases)
        + losses_s(where, model, data, DEFAULTS.evals.max_dev_cases) + guards_s(where, model, DEFAULTS.evals.guards)
    )  # fmt: skip


def within(where: Machine, model: Here, data: Sizes, limit_s: float) -> Rows:
    """What is cut so that a run takes about `limit_s`: at most two fifths of it go to answers and one fifth to guard
    probes, the rest to training."""
    cut = whole_s(where, model, data) > limit_s
    most, most_dev = DEFAULTS.evals.max_cases, DEFAULTS.evals.max_dev_cases
    why = f"so that a run takes about {minutes(limit_s)} here, by a rough guess"
    rows: Rows = []
    guarded = DEFAULTS.evals.guards
    if cut and guards_s(where, model, guarded) > 0.2 * limit_s:
        guarded = "quick" if guards_s(where, model, "quick") <= 0.2 * limit_s else "off"
        rows.append(("evals.guards", guarded, why))
    if cut and evaluation_s(where, model, data, most, most_dev) > 0.4 * limit_s:
        one = answers_s(where, model, data, 1)
        affordable = int(0.4 * limit_s / one)
        fewest_dev = MIN_CASES if data.labels else 12
        most_dev = min(most_dev, max(fewest_dev, affordable // 12))
        most = min(most, max(FEWEST_CASES, (affordable - FORMS * most_dev) // 2))
        if most_dev < DEFAULTS.evals.max_dev_cases:
            rows.append(("evals.max_dev_cases", most_dev, why))
    rows.append(("evals.max_cases", most, why if most < DEFAULTS.evals.max_cases else ""))
    budget_s = 3 * answers_s(where, model, data, most)
    if budget_s > DEFAULTS.evals.budget_s:
        rows.append(("evals.budget_s", float(round(budget_s)), "three times as long as it should take"))
    if cut:
        answering = evaluation_s(where, model, data, most, most_dev) + losses_s(where, model, data, most_dev)
        left = limit_s - EXTRA_S - answering - guards_s(where, model, guarded)
        one = train_s(where, model, min(DEFAULTS.train.update_tokens, data.num_learned * data.mean_tokens))
        every = data.epochs * data.num_learned * data.mean_tokens / DEFAULTS.train.update_tokens
        updates = max(FEWEST_UPDATES, int(left / one))
        if updates < every:
            text = f"{why}; all epochs would be {every:.0f} updates in {minutes(train_s_of(where, model, data))}"
            rows.append(("train.max_updates", updates, text))
    return rows


def train_s_of(where: Machine, model: Here, data: Sizes) -> float:
    return train_s(where, model, data.epochs * data.num_learned * data.mean_tokens)


def minutes(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 36_000 else f"{seconds / 3600:.0f} hours"
