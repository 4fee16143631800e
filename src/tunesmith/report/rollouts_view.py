"""Replies that a run sampled and learned from: the best and the worst of the last sampling, and what became of reward,
length and variety.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from tunesmith.report.watch_view import short

SHOWN = 3  # best and worst replies
PART = 0.2  # of the samplings, at each end, that are compared
LONGER, FEWER = 1.5, 0.5  # from which on a change of length or variety is told
NUMBERS = (  # key of a row of metrics.jsonl, what it is, decimals
    ("reward", "reward, mean over replies", 3),
    ("reward_spread", "spread of the reward within a prompt's replies", 3),
    ("flat_frac", "share of the prompts whose replies all got the same, which teach nothing", 3),
    ("reply_tokens", "tokens of a reply", 1),
    ("stopped_frac", "share of the replies that ended by themselves", 3),
    ("distinct_frac", "share of the replies that no other one to their prompt repeats", 3),
    ("kl_nats", "distance to the model as it was before, nats per token", 4),
    ("margin_nats", "what the better reply of a pair gained on the worse one, nats", 3),
    ("entropy_nats", "entropy, nats per token", 3),
    ("explained_variance", "share of what replies brought that the value head foretold", 3),
    ("value_loss", "loss of the values", 4),
    ("mismatch_nats", "sampler against trainer, nats per token: rounding alone", 7),
)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One reply."""

    asked: str
    text: str
    reward: str
    parts: str
    why: str
    stopped: bool


@dataclass(frozen=True, slots=True)
class Rolled:
    file: str  # the last sampling
    num: int  # its replies
    numbers: tuple[tuple[str, str, str], ...]  # what it is, over the first samplings and over the last
    signs: tuple[str, ...]  # that the reward may be pleased without the task being done
    best: tuple[Sampled, ...]
    worst: tuple[Sampled, ...]


def read_last(folder: Path) -> tuple[str, tuple[Mapping[str, Any], ...]] | None:
    """The table that was sampled last, by its name in the run's folder; None where nothing was sampled."""
    tables = sorted((folder / "rollouts").glob("update_*.parquet"))
    if not tables:
        return None
    columns = ["asked", "text", "reward", "parts", "why", "stopped"]
    return f"rollouts/{tables[-1].name}", tuple(pq.read_table(tables[-1], columns=columns).to_pylist())


def rolled(last: tuple[str, Sequence[Mapping[str, Any]]] | None, metrics: Sequence[Mapping[str, Any]]) -> Rolled | None:
    if last is None:
        return None
    file, rows = last
    order = sorted(rows, key=lambda row: -row["reward"])
    each = [row for row in metrics if "reward" in row]
    num = max(1, round(PART * len(each)))
    ends = [mean_of(each[:num]), mean_of(each[-num:])]
    told = lambda end, key, decimals: f"{end[key]:.{decimals}f}" if key in end else ""
    numbers = tuple(
        (what, told(ends[0], key, decimals), told(ends[1], key, decimals))
        for key, what, decimals in NUMBERS
        if any(key in end for end in ends)
    )
    best, worst = (tuple(map(sampled, part)) for part in (order[:SHOWN], order[: -SHOWN - 1 : -1]))
    is_one = len({row["rollout_s"] for row in each}) < 2  # a sampling, which tells of each of its updates the same
    return Rolled(file, len(rows), numbers, () if is_one else signs(*ends), best, worst)


def mean_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of each number over the rows that have it."""
    found = {key: [float(row[key]) for row in rows if row.get(key) is not None] for key, _, _ in NUMBERS}
    return {key: fmean(values) for key, values in found.items() if values}


def sampled(row: Mapping[str, Any]) -> Sampled:
    parts = ", ".join(f"{name} {value:.3g}" for name, value in json.loads(row["parts"]).items())
    return Sampled(short(row["asked"]), short(row["text"]), f"{row['reward']:.3f}", parts, row["why"], row["stopped"])


def signs(first: Mapping[str, float], last: Mapping[str, float]) -> tuple[str, ...]:
    """What changed that no reward may have been meant for."""
    found = []
    length, before = last["reply_tokens"], first["reply_tokens"]
    if length > LONGER * before or length * LONGER < before:
        found.append(
            f"replies have {length:.0f} tokens at the end and had {before:.0f} at the beginning: does the reward mean "
            "length?"
        )
    if last["distinct_frac"] < FEWER * first["distinct_frac"]:
        found.append("most replies to a prompt are copies of each other at the end, and were not at the beginning")
    if last["stopped_frac"] < FEWER * first["stopped_frac"]:
        found.append("fewer replies than before end by themselves; the others are cut off at max_new_tokens")
    if last["reward"] <= first["reward"]:
        found.append("the reward of what was sampled did not rise")
    return tuple(found)
