"""General examples among the training rows, so that less is forgotten: which ones, and what share they came to."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.alike import places
from tunesmith.data.ingest import Ingested, Rejected
from tunesmith.data.located import files_named
from tunesmith.data.records import sizes_of
from tunesmith.data.render import Renderer
from tunesmith.data.split import Split, keys_of
from tunesmith.data.stored import Chosen
from tunesmith.errors import DataError
from tunesmith.evals.probes import PROBES
from tunesmith.guards import text_record
from tunesmith.recipe import Recipe
from tunesmith.types import Label, Record, Reply

MOST_GENERAL = 32  # rows on which EWC measures what matters


@dataclass(frozen=True, slots=True)
class Replayed:
    """`records` stand in every epoch; one may stand there twice where there are few."""

    records: Sequence[Record] = ()
    num_rows: int = 0  # that could be learned from
    rejected: Sequence[Rejected] = ()  # rows that could not be read
    learned_frac: float = 0.0  # of all learned tokens of an epoch
    token_frac: float = 0.0  # of all tokens
    files: Mapping[str, str] = field(default_factory=dict)  # path -> SHA-256
    general: tuple[Record, ...] = ()  # some of the rows, each once: what matters for general text is measured on them
    what: str = "general"

    @property
    def words(self) -> str:
        times = len(self.records) / max(1, self.num_rows)
        again = f", each {times:.1f} times an epoch" if times > 1 else ""
        unread = f"; {len(self.rejected)} rows could not be read" if self.rejected else ""
        return (
            f"{len(self.records)} of {self.num_rows} {self.what} rows{again}: {self.learned_frac:.1%} of the learned "
            f"tokens, {self.token_frac:.1%} of all{unread}"
        )


def replay_files(recipe: Recipe) -> list[Path]:
    return [file for name in recipe.data.replay.files for file in files_named(name)]


def replayed(
    recipe: Recipe,
    renderer: Renderer,
    parts: Split,
    train: Sequence[Record],
    read_rows: Callable[[list[Path]], Ingested],
) -> Replayed:
    """Rows drawn by hash of seed and id until their learned tokens have the share that was asked for. None of them
    stands in dev or test. They carry no instruction of the task."""
    asked = recipe.data.replay
    if not asked.files or not (asked.share or recipe.regularise.ewc):
        return Replayed()
    read = read_rows(replay_files(recipe))
    held_out = np.unique(np.concatenate([keys_of(parts.dev), keys_of(parts.test)]))
    is_fresh = places(held_out, keys_of(read.examples)) < 0
    fresh = (e for e, is_so in zip(read.examples, is_fresh) if is_so and isinstance(e.target, (Reply, Label)))
    found = renderer.records(fresh).records
    if not found:
        raise DataError(
            f"none of the {len(read.examples)} rows of data.replay can be learned from: wanted prompts with replies, "
            "that stand neither in dev nor in test"
        )
    some = in_share(found, train, asked.share, recipe.seed)
    return replace(some, rejected=read.rejected, files=read.files)


def in_share(found: Sequence[Record], train: Sequence[Record], share: float, seed: int) -> Replayed:
    """Records drawn by hash of seed and id, until their learned tokens have this share of all."""
    drawn = b"".join(hashlib.sha256(f"{seed}:{r.example_id}".encode()).digest() for r in found)
    sizes, of_train = sizes_of(found), sizes_of(train)
    own = int(of_train.learned.sum())
    wanted, chosen, learned = own * share / (1 - share), array("I"), 0
    order = np.argsort(np.frombuffer(drawn, "S32"), kind="stable")
    for n in count():
        at = int(order[n % len(order)])
        if learned + sizes.learned[at] / 2 > wanted:  # nearer without it
            break
        chosen.append(at)
        learned += int(sizes.learned[at])
    tokens = int(sizes.tokens[np.array(chosen, np.uint32)].sum())
    return Replayed(
        Chosen(found, np.array(chosen, np.uint32)),
        num_rows=len(found),
        learned_frac=learned / (own + learned),
        token_frac=tokens / (tokens + int(of_train.tokens.sum())),
        general=tuple(Chosen(found, order[:MOST_GENERAL])),
    )


def general(recipe: Recipe, tokenizer: Any, found: Replayed) -> tuple[Record, ...]:
    """What stands for general text: rows of data.replay.files, or the guard's own text, of which those first that its
    probe does not ask."""
    if found.general:
        return found.general
    [probe] = [p for p in PROBES if p.how == "prose"]
    asked = {"off": 0, "quick": len(probe.items("quick")), "full": 0}[recipe.evals.guards]
    texts = [item["text"] for item in probe.items("full")[asked:]]
    return tuple(text_record(tokenizer, f"general {n}", text) for n, text in enumerate(texts[:MOST_GENERAL]))
