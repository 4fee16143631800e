"""What was sampled, graded and compared: as a table in the run's folder, and as forests to learn from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tunesmith.data.pack import pack
from tunesmith.files import PARTIAL, sync
from tunesmith.objectives.advantage import LEAST, moments
from tunesmith.types import Attempt, Forest, Record, Rollouts, RopeLimit, Segment


@dataclass(frozen=True, slots=True)
class Rollout:
    """A completion and all that is known of it. `group` numbers the samplings of a prompt, so that one that is drawn
    twice has two."""

    group: int
    example_id: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logp: tuple[float, ...]  # nats, as the sampler said
    text: str
    stopped: bool
    weight: float  # of the row
    reward: float
    parts: Mapping[str, float]
    why: str
    advantage: float | None  # within its group; None: each token has its own, returns - value
    is_flat: bool  # all that it is compared with got the same: nothing is learned from it
    ref_logp: tuple[float, ...] = ()  # nats, under the model as it was before update 0; not asked of a flat group
    value: tuple[float, ...] = ()  # what a value head expected before each token
    returns: tuple[float, ...] = ()  # what it should have expected, by what came and by the values behind
    spans: tuple[int, ...] = ()  # of an episode: lengths of what it wrote, of what was answered, …; (): it wrote all
    turns: str = ""  # of an episode, as JSON
    staleness: int = 0  # updates that were made between the weights that sampled it and the first that learned from it

    @property
    def is_own(self) -> np.ndarray:
        """[tokens] which of them the model wrote. Log-probabilities and values are of these alone."""
        spans = self.spans or (len(self.tokens),)
        return np.repeat(np.arange(len(spans)) % 2 == 0, spans)


def learned(rollouts: Sequence[Rollout], *, by_pairs: bool) -> list[Rollout]:
    """Those that teach something: of groups that tell them apart all, or the best and the worst, in this order."""
    live = [r for r in rollouts if not r.is_flat]
    return sorted((r for r in live if r.advantage), key=lambda r: (r.group, -(r.advantage or 0))) if by_pairs else live


def laid(
    rollouts: Sequence[Rollout], micro_tokens: int, rope: RopeLimit | None, age: int = 0, *, by_pairs: bool = False
) -> list[Forest]:
    """The micro-batches of an update, which is learned from all of these."""
    scale = scale_of(rollouts)
    return [
        filled(forest, parts, scale, age) for forest, parts in bare(rollouts, micro_tokens, rope, by_pairs=by_pairs)
    ]


def bare(
    rollouts: Sequence[Rollout], micro_tokens: int, rope: RopeLimit | None, *, by_pairs: bool = False
) -> list[tuple[Forest, list[list[Rollout]]]]:
    """Forests in which the completions of a prompt stand under it, with those of each prompt; a group that is too large
    for one is cut, but for a pair."""
    groups = (list(group) for _, group in groupby(rollouts, lambda r: r.group))
    parts = [part for group in groups for part in ([group] if by_pairs else cut(group, micro_tokens))]
    forests = pack([tree(str(n), part) for n, part in enumerate(parts)], micro_tokens, rope)
    return [(forest, [parts[int(name)] for name in forest.example_ids]) for forest in forests]


def cut(group: Sequence[Rollout], most: int) -> list[list[Rollout]]:
    """Runs of a group's completions, of at most so many tokens with their prompt where one alone fits."""
    parts: list[list[Rollout]] = []
    room = 0
    for rollout in group:
        if not parts or len(rollout.tokens) > room:
            parts.append([])
            room = most - len(rollout.prompt)
        parts[-1].append(rollout)
        room -= len(rollout.tokens)
    return parts


def tree(name: str, part: Sequence[Rollout]) -> Record:
    prompt = np.array(part[0].prompt, np.int64)
    children = [Segment(np.array(r.tokens, np.int64), (r.weight * r.is_own).astype(np.float32), 0) for r in part]
    return Record(name, (Segment(prompt, np.zeros(len(prompt), np.float32)), *children))


def scale_of(rollouts: Sequence[Rollout]) -> tuple[float, float]:
    """(mean, standard deviation) of the advantages of all tokens, by which they are whitened, each by the weight of its
    row; (0, 1) where advantages are of a group, and stay as they are."""
    if not rollouts[0].returns:
        return 0.0, 1.0
    each = [(a - v, r.weight) for r in rollouts for a, v in zip(r.returns, r.value, strict=True)]
    mean, deviation = moments(*zip(*each))
    return mean, deviation + LEAST


def advantages(rollout: Rollout, scale: tuple[float, float]) -> list[float]:
    """Of each token that the model wrote."""
    if rollout.advantage is not None:
        return [rollout.advantage] * len(rollout.logp)
    return [(a - v - scale[0]) / scale[1] for a, v in zip(rollout.returns, rollout.value, strict=True)]


def filled(forest: Forest, parts: Sequence[Sequence[Rollout]], scale: tuple[float, float], age: int) -> Forest:
    """With what is known of each learned token, in the order of the forest's segments."""
    left = [iter(part) for part in parts]
    learned = torch.nonzero(forest.weights[forest.start] != 0)[:, 0]
    rows = [next(left[owner]) for owner in forest.owner[learned].tolist()]
    float64 = lambda values: torch.tensor([v for row in values for v in row], dtype=torch.float64)
    known = lambda values: float64(values) if all(values) else None
    extra = Rollouts(
        old_logp=float64(r.logp for r in rows),
        advantage=float64(advantages(r, scale) for r in rows),
        ref_logp=known([r.ref_logp for r in rows]),
        value=known([r.value for r in rows]),
        returns=known([r.returns for r in rows]),
        age=age,
    )
    return replace(forest, example_ids=tuple(part[0].example_id for part in parts), extra=extra)


def by_token(
    forests: Sequence[Forest], values: Sequence[torch.Tensor], rollouts: Sequence[Rollout]
) -> list[tuple[float, ...]]:
    """Of each rollout its part of `values` [L] of the forests."""
    found: dict[tuple[int, ...], list[float]] = {}
    for forest, value in zip(forests, values, strict=True):
        learned = torch.nonzero(forest.weights[forest.start] != 0)[:, 0]
        sizes = forest.num_learned_S[learned].tolist()
        for segment, part in zip(learned.tolist(), value.split(sizes)):
            found[path_of(forest, segment)] = part.tolist()
    return [tuple(found[(*r.prompt, *r.tokens)]) for r in rollouts]


def path_of(forest: Forest, segment: int) -> tuple[int, ...]:
    """The tokens from the root to the end of a segment."""
    tokens: tuple[int, ...] = ()
    while segment >= 0:
        own = forest.tokens[int(forest.start[segment]) : int(forest.stop[segment])].tolist()
        tokens, segment = (*own, *tokens), int(forest.parent[segment])
    return tokens


def save(rollouts: Sequence[Rollout], attempts: Sequence[Attempt], path: Path) -> None:
    """A table with a row for each, whole or absent."""
    rows = [asdict(r) | {"parts": json.dumps(dict(r.parts)), "source": a.example.source, "asked": asked_of(a)}
            for r, a in zip(rollouts, attempts, strict=True)]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL}{path.name}")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial)
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


def opened(path: Path) -> list[Rollout]:
    names = [name for name in SCHEMA.names if name not in ("source", "asked")]
    rows: list[dict[str, Any]] = pq.read_table(path, columns=names, schema=SCHEMA).to_pylist()
    lists = ("prompt", "tokens", "logp", "ref_logp", "value", "returns", "spans")
    return [
        Rollout(**{**row, "parts": json.loads(row["parts"]), **{name: tuple(row[name]) for name in lists}})
        for row in rows
    ]


def asked_of(attempt: Attempt) -> str:
    """The prompt as a person reads it."""
    turns = [m for m in attempt.example.prompt if m.role != "system"]
    return turns[0].content if len(turns) == 1 else "\n\n".join(f"{m.role}: {m.content}" for m in turns)


SCHEMA = pa.schema(
    {
        "group": pa.int32(), "example_id": pa.string(), "source": pa.string(), "asked": pa.string(),
        "prompt": pa.list_(pa.int32()), "tokens": pa.list_(pa.int32()), "logp": pa.list_(pa.float64()),
        "text": pa.string(), "stopped": pa.bool_(), "weight": pa.float64(), "reward": pa.float64(),
        "parts": pa.string(), "why": pa.string(), "advantage": pa.float64(), "is_flat": pa.bool_(),
        "ref_logp": pa.list_(pa.float64()), "value": pa.list_(pa.float64()), "returns": pa.list_(pa.float64()),
        "spans": pa.list_(pa.int32()), "turns": pa.string(), "staleness": pa.int32(),
    }
)  # fmt: skip
