"""What candidates did on the same cases, side by side: figures with their intervals, and which one to take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tunesmith.evals import bits
from tunesmith.evals.compare import Cases, Rules, measure
from tunesmith.evals.metrics import Metric
from tunesmith.models.here import Here

FEW_CASES = 24  # fewer tell only large differences apart


@dataclass(frozen=True, slots=True)
class Room:
    """Of this machine."""

    bytes_each: int  # of a weight, in the number format that suits the device
    free_gib: float

    def holds(self, model: Here) -> bool:
        """To be tuned with an adapter."""
        return model.need_gib(self.bytes_each) <= self.free_gib


@dataclass(slots=True)
class Found:
    """What one candidate did, case by case."""

    here: Here
    answers: list[str] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    tokens_per_word: float = math.nan
    seconds: float = 0.0
    problem: str = ""  # why it is not ranked


@dataclass(frozen=True, slots=True)
class Row:
    """A candidate as it is shown."""

    name: str
    licence: str | None
    num_weights: int
    is_base: bool
    need_gib: float  # to tune it with an adapter, by a rough guess
    fits: bool
    tokens_per_word: float | None = None
    score: float | None = None
    score_interval: tuple[float, float] | None = None
    bits_per_byte: float | None = None
    bits_interval: tuple[float, float] | None = None
    seconds: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    task: str
    metric: str
    unit: str
    bits_of: str  # "text" | "answer"
    num_cases: int  # that all ranked candidates were asked
    num_dev: int
    shots: int
    budget_s: float
    free_gib: float
    rows: tuple[Row, ...]  # the best first, those that could not be ranked last
    usual: tuple[str, float] | None  # the commonest label and what always saying it would score; None for texts
    choice: str | None
    why: str
    notes: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Board:
    """The shared cases, on which any two candidates are compared case by case."""

    metric: Metric
    wanted: Sequence[str]
    num_bytes: Sequence[int]

    def score(self, one: Found) -> float:
        return float(self.metric.corpus(one.answers, self.wanted))

    def gain(self, one: Found) -> float:
        return -self.score(one) if self.metric.less_is_better else self.score(one)

    def bits(self, one: Found) -> float:
        return bits.bits_per_byte(one.nats, self.num_bytes)

    def better_by(self, one: Found, other: Found) -> tuple[float, tuple[float, float]]:
        """(how much `one` is better, its 95% interval), in the metric's unit."""
        effect = measure(Cases(self.wanted, other.answers, one.answers), self.metric, Rules())
        return effect.effect, effect.interval

    def more_bits(self, one: Found, other: Found) -> tuple[float, float]:
        """95% interval of how many bits per byte `one` takes more."""
        return bits.interval(one.nats, self.num_bytes, other.nats)


def choose(board: Board, fitting: Sequence[Found]) -> tuple[Found | None, str]:
    """Out goes what is clearly worse than the best in score; of the rest, what clearly takes more bits than the one
    with fewest; of the rest, the smallest is taken. Clearly: the 95% interval of the paired difference leaves out 0."""
    if not fitting:
        return None, "no candidate could be ranked that also fits into memory to be tuned"
    if len(fitting) == 1:
        return fitting[0], "the only one that could be ranked and fits into memory to be tuned"
    best = max(fitting, key=board.gain)
    level = [f for f in fitting if f is best or board.better_by(best, f)[1][0] <= 0]
    fewest = min(level, key=board.bits)
    close = [f for f in level if f is fewest or board.more_bits(f, fewest)[0] <= 0]
    choice = min(close, key=lambda f: f.here.num_weights)
    return choice, reason(board, choice, (fitting, level, close))


def reason(board: Board, choice: Found, steps: tuple[Sequence[Found], Sequence[Found], Sequence[Found]]) -> str:
    """Why it was taken, against the others in turn."""
    fitting, level, close = steps
    said = []
    for other in fitting:
        if other is choice:
            continue
        name = other.here.name
        if other not in level:
            gain, (low, high) = board.better_by(choice, other)
            said.append(f"{board.metric.name} {gain:+.3f} better than {name} (95% interval {low:+.3f} to {high:+.3f})")
        elif other not in close:
            low, high = board.more_bits(other, choice)
            text = f"no clear difference in {board.metric.name} to {name}, which foretells these texts worse"
            said.append(f"{text} (95% interval {low:.3f} to {high:.3f} bits per byte more)")
        else:
            said.append(f"no clear difference to {name}, and smaller than that")
    return f"{'; '.join(said)}; {len(board.wanted)} cases"


def notes_of(
    board: Board, able: Sequence[Found], usual: tuple[str, float] | None, choice: Found | None = None
) -> list[str]:
    """What a reader must know, in sentences."""
    notes = []
    first = max(able, key=board.gain, default=None)
    if choice is not None and first is not None and board.gain(first) > board.gain(choice):
        notes.append(
            f"{first.here.name} has the higher {board.metric.name}, though not clearly so: more --cases may settle it, "
            "and a run of each would"
        )
    if able and usual is not None and max(map(board.score, able)) <= usual[1]:
        notes.append(
            f"no candidate does better, untuned, than always saying {usual[0]!r}: look at the bits per byte rather "
            "than at the score"
        )
    if 0 < len(board.wanted) < FEW_CASES:
        notes.append(f"{len(board.wanted)} cases tell only large differences apart")
    if any(f.here.is_base for f in able):
        notes.append("a base model was not taught to follow instructions: tuning changes more about it than this shows")
    return notes


def row_of(one: Found, board: Board, room: Room) -> Row:
    model, need = one.here, one.here.need_gib(room.bytes_each)
    row = Row(model.name, model.licence, model.num_weights, model.is_base, need, room.holds(model), seconds=one.seconds)
    if one.problem:
        return replace(row, problem=one.problem)
    alone = measure(Cases(board.wanted, one.answers, one.answers), board.metric, Rules(num_flips=99))
    return replace(
        row,
        tokens_per_word=one.tokens_per_word,
        score=board.score(one),
        score_interval=alone.base_interval,
        bits_per_byte=board.bits(one),
        bits_interval=bits.interval(one.nats, board.num_bytes),
    )
