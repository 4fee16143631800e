"""Base and tuned on the same cases: texts by generation, labels by likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.data.columns import NO_LABEL
from tunesmith.types import Completion, Forest


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to one case."""

    text: str
    stopped: bool  # False: it ran into the limit of tokens or time
    num_tokens: int
    probability: float | None = None  # of the label, among the labels; of several, of just this set
    label_logps: tuple[float, ...] = ()  # nats of each label, in their order
    measured: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # what metrics read beside the text
    turns: tuple[Answer, ...] = ()  # of a dialogue that was played through, of which the text is the transcript
    left_out: int = 0  # of a turn: exchanges at the beginning of the dialogue, for which the context had no room

    @property
    def each(self) -> tuple[Answer, ...]:
        """What was answered at a time: itself, or the turns."""
        return self.turns or (self,)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Answer:
        """From `asdict`, as it is kept."""
        return cls(**{**row, "turns": tuple(map(cls.of, row.get("turns", ())))})


def written(completions: Sequence[Completion]) -> list[Answer]:
    return [Answer(c.text, c.stopped, len(c.tokens)) for c in completions]


def chosen(
    forests: Sequence[Forest], logps: Sequence[Tensor], order: Sequence[str], labels: Sequence[str]
) -> list[Answer]:
    """The likeliest label of each case, from forests in which a case's learned segments are the labels, in their order.

    The score of a label is the summed log-probability of its tokens and of the end of turn: a restricted softmax over
    whole sequences. Longer labels are not favoured, nor divided by their length: the end of turn makes them comparable.
    """
    answers: dict[str, Answer] = {}
    for example_id, logp_C in label_logps(forests, logps, len(labels)).items():
        best = int(logp_C.argmax())
        share = float(1 / np.exp(logp_C - logp_C[best]).sum())
        answers[example_id] = Answer(labels[best], True, 0, share, tuple(map(float, logp_C)))
    return [answers[i] for i in order]


def fitting(
    forests: Sequence[Forest], logps: Sequence[Tensor], order: Sequence[str], labels: Sequence[str]
) -> list[Answer]:
    """All labels of each case that are likelier to fit than not; `logps` are of the yes of each, in their order."""
    found = label_logps(forests, logps, len(labels))
    return [all_that_fit(found[i], labels) for i in order]


def all_that_fit(logp_C: np.ndarray, labels: Sequence[str]) -> Answer:
    """The answer of labels that are each a question by itself. Its `probability` is that of just this set of them."""
    p_C = np.exp(logp_C)
    said = p_C > 0.5
    text = ", ".join(label for label, is_said in zip(labels, said, strict=True) if is_said) or NO_LABEL
    return Answer(text, True, 0, float(np.where(said, p_C, 1 - p_C).prod()), tuple(map(float, logp_C)))


def label_logps(forests: Sequence[Forest], logps: Sequence[Tensor], num_labels: int) -> dict[str, np.ndarray]:
    """Case -> [C] nats of each label's tokens, end of turn included, in the order of the case's learned segments."""
    found: dict[str, np.ndarray] = {}
    for forest, logp_L in zip(forests, logps):
        sums = segment_sums(forest, logp_L)
        for index, example_id in enumerate(forest.example_ids):
            scores = [sums[s] for s in torch.nonzero(forest.owner == index)[:, 0].tolist() if s in sums]
            assert len(scores) == num_labels, "a case must have one learned segment a label"
            found[example_id] = np.array(scores)
    return found


def segment_sums(forest: Forest, logp_L: Tensor) -> dict[int, float]:
    """Summed log-probability, in nats, of each segment that has learned tokens."""
    at_N = torch.nonzero(forest.weights != 0)[:, 0]
    segment_L = torch.searchsorted(forest.stop, at_N, right=True)
    sums = torch.zeros(forest.num_segments, dtype=torch.float64).index_add_(0, segment_L, logp_L.double())
    return {int(s): float(sums[s]) for s in segment_L.unique()}


def by_segment(forest: Forest, value_L: Tensor) -> Tensor:
    """[S], float64, of values that are the same at each learned token of a segment; 0 where nothing is learned."""
    at_N = torch.nonzero(forest.weights != 0)[:, 0]
    found = torch.zeros(forest.num_segments, dtype=torch.float64)
    found[torch.searchsorted(forest.stop, at_N, right=True)] = value_L.double()
    return found


def by_example(forest: Forest, value_L: Tensor) -> dict[str, list[float]]:
    """The same of each example's learned segments, in their order: of its replies, the best first."""
    value_S, found = by_segment(forest, value_L), dict[str, list[float]]()
    for segment in torch.nonzero(forest.weights[forest.start] != 0)[:, 0].tolist():
        found.setdefault(forest.example_ids[int(forest.owner[segment])], []).append(float(value_S[segment]))
    return found


def mean_nll(forests: Sequence[Forest], logps: Sequence[Tensor]) -> float:
    """Nats per learned token, weighted: the dev loss."""
    total = sum(float((logp * f.weights[f.weights != 0]).sum()) for f, logp in zip(forests, logps))
    return -total / max(1e-30, sum(float(f.weights.sum()) for f in forests))
