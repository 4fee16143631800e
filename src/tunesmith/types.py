"""The records that every layer speaks in, and the legend of their axes.

Axes, as capital suffixes of tensor names (a shard of N is still N):

    N tokens of a forest   L learned tokens   S segments   P pairs   G completions of a prompt
    V vocabulary           D features         C classes    U units   K columns of a share
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `weight` matters on assistant turns only: 0 is context, 1 is learned, any float is allowed."""

    role: str
    content: str
    weight: float = 1.0
    extra: Mapping[str, Any] = field(
        default_factory=dict
    )  # tool_calls, name …, handed to the chat template as they are

    def as_dict(self) -> dict[str, Any]:
        """As chat templates want it."""
        return {"role": self.role, "content": self.content, **self.extra}


@dataclass(frozen=True, slots=True)
class Reply:
    """The last assistant turn is learned. Earlier assistant turns of the prompt are learned by their own weight."""

    message: Message

    @property
    def text(self) -> str:
        return self.message.content


@dataclass(frozen=True, slots=True)
class Label:
    """One of a closed set; the reply that is learned is its name."""

    name: str

    @property
    def text(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Pair:
    """A preferred and a dispreferred reply to the same prompt."""

    chosen: Message
    rejected: Message

    @property
    def replies(self) -> tuple[Message, ...]:
        return (self.chosen, self.rejected)


@dataclass(frozen=True, slots=True)
class Ranked:
    """Three or more replies to the same prompt, the best first, no two of them alike."""

    replies: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Marked:
    """A reply that somebody marked as good or bad."""

    message: Message
    is_good: bool

    @property
    def replies(self) -> tuple[Message, ...]:
        return (self.message,)


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt that is answered by sampling and scored by a reward; `facts` go to the reward."""

    facts: Mapping[str, Any]


Target = Reply | Label | Pair | Ranked | Marked | Task


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to learn from, before tokens.

    `id` is the hash of the content plus an occurrence number, so that identical rows stay two.
    """

    id: str
    prompt: tuple[Message, ...]
    target: Target
    group: str | None = None
    weight: float = 1.0
    source: str = ""  # file:line
    tests: str = ""  # Python that a program given as the answer must pass, for pass@k
    slices: Mapping[str, str] = field(default_factory=dict)  # column -> value, by which results are shown apart
    when: float | None = None  # it came about, in seconds since 1970 where the file has dates
    is_synthetic: bool = False  # a model wrote it: learned from, and never a case to be measured on

    @property
    def is_text(self) -> bool:
        """A text without a prompt, which is learned as it is: continued pre-training."""
        return not self.prompt and isinstance(self.target, Reply)


@dataclass(frozen=True, slots=True)
class RopeLimit:
    """Sequences (root to leaf) of more than `boundary` tokens must not share a forest with shorter ones, and with no
    other at all where `alone`: their rotary angles depend on the longest position of the batch."""

    boundary: int  # tokens
    alone: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens; `parent` indexes the segments of the same record (-1 = root). Parents stand before children."""

    tokens: np.ndarray  # [n] int64
    weights: np.ndarray  # [n] float32; 0 = not learned
    parent: int = -1


@dataclass(frozen=True, slots=True)
class Record:
    """A rendered example: a tree of segments. A single-turn example is one root."""

    example_id: str
    segments: tuple[Segment, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(s.tokens) for s in self.segments)

    @property
    def num_learned(self) -> int:
        return int(sum((s.weights != 0).sum() for s in self.segments))


@dataclass(frozen=True, slots=True)
class Labels:
    """Classes of the segments that stand for examples."""

    segment: Tensor  # [U] int64
    label: Tensor  # [U] int64


@dataclass(frozen=True, slots=True)
class Pairs:
    index: Tensor  # [P, 2] int64, segments of (chosen, rejected)
    ref_logp: Tensor | None = None  # [S] nats, under the reference


@dataclass(frozen=True, slots=True)
class Rollouts:
    old_logp: Tensor  # [L] nats, under the sampler
    advantage: Tensor  # [L]
    ref_logp: Tensor | None = None  # [L] nats, under the model as it was before update 0
    value: Tensor | None = None  # [L] what a value head expected before each token when it was sampled
    returns: Tensor | None = None  # [L] what it should have expected
    age: int = 0  # updates made since they were sampled


Extra = Labels | Pairs | Rollouts | None


@dataclass(frozen=True, slots=True)
class Forest:
    """One micro-batch: a flat run of tokens, cut into segments. A token attends to its own segment up to itself and to
    all of its ancestors. Segments stand parents first; positions of a child go on from its parent's end."""

    tokens: Tensor  # [N] int64
    positions: Tensor  # [N] int64
    weights: Tensor  # [N] float32; 0 = not learned
    start: Tensor  # [S] int64, first token of the segment
    stop: Tensor  # [S] int64, one past its last token
    parent: Tensor  # [S] int64; -1 = root
    owner: Tensor  # [S] int64, index into example_ids; -1 = a prefix that several examples share
    example_ids: tuple[str, ...] = ()
    extra: Extra = None

    @property
    def num_tokens(self) -> int:
        return int(self.tokens.numel())

    @property
    def num_segments(self) -> int:
        return int(self.start.numel())

    @property
    def num_learned_S(self) -> Tensor:
        """[S] int64, learned tokens of each segment."""
        upto_N = torch.cat([self.start.new_zeros(1), (self.weights != 0).cumsum(0)])
        return upto_N[self.stop] - upto_N[self.start]

    def to(self, device: torch.device | str) -> Forest:
        """The same forest with its tensors on `device`."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("tokens", "positions", "weights", "start", "stop", "parent", "owner")
        }
        extra = self.extra
        if extra is not None:
            each = ((f.name, getattr(extra, f.name)) for f in fields(extra))
            there: dict[str, Any] = {name: t.to(device) for name, t in each if isinstance(t, Tensor)}
            extra = replace(extra, **there)
        return Forest(**moved, example_ids=self.example_ids, extra=extra)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A metric that can be added across micro-batches and ranks without bias."""

    num: Tensor
    den: Tensor

    def __add__(self, other: Ratio) -> Ratio:
        return Ratio(self.num + other.num, self.den + other.den)

    @property
    def mean(self) -> float:
        return float(self.num) / max(float(self.den), 1e-30)


@dataclass(frozen=True, slots=True)
class Loss:
    total: Tensor  # [] sum over units; never a mean
    stats: dict[str, Ratio] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shared:
    """What an objective's `share` gave for every micro-batch and rank of an update, and which rows are this one's."""

    rows: Tensor  # [U, K]
    mine: slice


@dataclass(frozen=True, slots=True)
class Completion:
    """What a generator wrote after one prompt."""

    tokens: tuple[int, ...]  # the stop token, when one was sampled, is the last
    logp: tuple[float, ...]  # nats, of each token, as it was sampled
    text: str  # without stop tokens
    stopped: bool  # False: it ran into the limit


@dataclass(frozen=True, slots=True)
class Attempt:
    """A reply that was sampled for an example, as a reward reads it."""

    example: Example
    text: str  # without stop tokens
    stopped: bool  # False: it ran into the limit
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Grade:
    """What a reward gave an attempt."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)  # of a sum, before they are weighed
    why: str = ""  # for a reader: what was wrong, or how it was come by
    is_graded: bool = True  # False: it, or a part of it, could not be graded and has the least value


@dataclass(frozen=True, slots=True)
class GuardResult:
    name: str
    base: float
    tuned: float
    effect: float
    interval: tuple[float, float]
    margin: float
    passed: bool | None  # None: not known
    num_items: int = 0
    note: str = ""  # why it failed or is not known, in words


@dataclass(frozen=True, slots=True)
class Claim:
    """What a verdict says of one of its primary metrics. `effect` as in Verdict."""

    metric: str
    base: float
    tuned: float
    effect: float
    interval: tuple[float, float]  # at `level`, so that 0 is outside if and only if p_holm < the verdict's alpha
    num_cases: int
    test: str
    p: float
    p_holm: float  # adjusted for the number of primary metrics; p itself where there is one
    level: float  # at which Holm's step-down tests this claim
    smallest_detectable: float
    smallest_that_matters: float
    decision: str
    less_is_better: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a run. `decision` and `claim` are about all primary metrics; metric, scores, effect, interval, p
    and the rest about the first. `effect` is the gain in the metric's own unit: tuned minus base, or base minus tuned
    where less is better; above 0 is better, whatever the metric."""

    claim: str
    task: str
    metric: str
    base: float
    tuned: float
    effect: float
    interval: tuple[float, float]
    num_cases: int
    test: str
    p: float
    alpha: float
    smallest_detectable: float
    smallest_that_matters: float
    decision: str  # "better" | "worse" | "no relevant difference" | "too few cases"
    guard: tuple[GuardResult, ...] = ()
    baselines: Mapping[str, float] = field(default_factory=dict)
    base_interval: tuple[float, float] | None = None
    tuned_interval: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()  # what a reader must know, in sentences
    less_is_better: bool = False
    claims: tuple[Claim, ...] = ()  # one for each primary metric, the first included
    run: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)  # of the test cases, base and tuned model
