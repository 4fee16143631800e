"""What a model says of each row that could be learned from: where it lies, how hard it is, which way it pulls.

Embeddings: the mean of the last hidden states. Difficulty: IFD, how much likelier a reply is behind its prompt than
alone (Li et al. 2024, arXiv:2308.12032, in the ratio of perplexities of arXiv:2402.00530). Influence: the cosine of the
row's gradient with those of dev rows, in LoRA's parameters at their start (LESS: Xia et al. 2024, arXiv:2402.04333,
here without warm-up and without Adam's moments). docs/design/data.md says what was rejected.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tunesmith.data import kept_tokens
from tunesmith.data.pack import pack
from tunesmith.data.render import Renderer
from tunesmith.data.stored import Chosen
from tunesmith.data.tree import common_length
from tunesmith.engine.gradients import dot, gradient, norm
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec, Who
from tunesmith.evals.score import segment_sums
from tunesmith.evals.tasks import answer_message, replies_record
from tunesmith.files import cache_dir, code_digest
from tunesmith.models.adapters import Adapt
from tunesmith.models.hidden import hidden_states
from tunesmith.types import Example, Forest, Message, Record

Row = TypeVar("Row", Example, Record)
DOING = "rows scored"
PIECE = 32  # rows that are scored before they are kept
TENANT = "influence"
ALONE = (Message("user", ""),)  # what a reply stands behind where it has no prompt: the template's own words


@dataclass(frozen=True, slots=True)
class Desk:
    """Who is asked, how much at once, and who is told. `between` is called when a piece is kept, and may raise."""

    session: Session
    micro_tokens: int
    step: Callable[[int, int, str], None]  # done, of, what
    between: Callable[[], None]
    who: Who = None  # None: the base

    def packed(self, records: Sequence[Record]) -> list[Forest]:
        return pack(records, self.micro_tokens, self.session.base.rope, share_prefix=False)


def embeddings(desk: Desk, records: Sequence[Record], said: str) -> np.ndarray:
    """[n, D] float32: of each record the mean of the hidden states behind the final norm, over all of its tokens but
    those with which every record begins (the template's, the task's instruction)."""
    first = records[0].segments[0].tokens
    common = reduce(lambda least, r: min(least, common_length(first, r.segments[0].tokens)), records, len(first))
    common = min(common, min(len(r.segments[0].tokens) for r in records) - 1)
    width = int(desk.session.base.model.config.get_text_config().hidden_size)

    def make(some: Sequence[Record]) -> np.ndarray:
        with torch.no_grad(), desk.session.borrowed(desk.who):
            found = {name: row for batch in desk.packed(some) for name, row in means(desk.session, batch, common)}
        return torch.stack([found[r.example_id] for r in some]).numpy()

    return kept(desk, records, width, f"embeddings {common} {said}", make)


def means(session: Session, batch: Forest, common: int) -> list[tuple[str, Tensor]]:
    """Of each example of a forest, by its id, the mean state of its tokens from position `common` on."""
    size = batch.stop - batch.start
    owner_N = batch.owner.repeat_interleave(size)
    hidden = hidden_states(session.base.model, batch.to(session.base.model.device), session.base.layout).float().cpu()
    is_own = batch.positions >= common
    total = torch.zeros(len(batch.example_ids), hidden.shape[1]).index_add_(0, owner_N[is_own], hidden[is_own])
    return list(zip(batch.example_ids, total / owner_N[is_own].bincount(minlength=len(total))[:, None]))


def difficulty(desk: Desk, renderer: Renderer, examples: Sequence[Example], said: str) -> np.ndarray:
    """[n] float32, IFD: perplexity of the reply behind its prompt, over that of the reply alone."""

    def make(some: Sequence[Example]) -> np.ndarray:
        behind, alone = (
            nats(desk, [replies_record(renderer, e.id, prompt or e.prompt, [answer_message(e)]) for e in some])
            for prompt in ((), ALONE)
        )
        return np.exp(behind - alone)[:, None]

    return kept(desk, examples, 1, f"difficulty {said}", make)[:, 0]


def nats(desk: Desk, records: Sequence[Record]) -> np.ndarray:
    """[n] float64, a token of the learned ones, end of turn included."""
    total: dict[str, float] = dict.fromkeys((r.example_id for r in records), 0.0)
    for batch in desk.packed(records):
        [logp_L] = desk.session.logprobs(desk.who, [batch])
        for segment, value in segment_sums(batch, logp_L).items():
            total[batch.example_ids[int(batch.owner[segment])]] -= value
    return np.array([total[r.example_id] / r.num_learned for r in records])


def influence(
    desk: Desk, adapt: Adapt, records: Sequence[Record], dev: Sequence[Record], seed: int, said: str
) -> np.ndarray:
    """[n] float32: the mean, over the dev rows, of the cosine of a record's gradient with theirs. As the directions of
    the dev rows are added up first, one product with each record gives it, and nothing has to be projected."""

    @cache  # where all rows are known nobody asks
    def towards() -> dict[str, Tensor]:
        desk.session.create(TENANT, Spec(replace(adapt, dropout=0.0), seed=seed))
        total: dict[str, Tensor] = {}
        for num, record in enumerate(dev):
            desk.step(num, len(dev), "gradients of dev rows")
            found = gradient(desk.session, TENANT, record)
            size = max(norm(found), 1e-30) * len(dev)
            total = {name: g / size + total[name] if total else g / size for name, g in found.items()}
        desk.step(len(dev), len(dev), "gradients of dev rows")
        return total

    digest = hashlib.sha256("".join(r.example_id for r in dev).encode()).hexdigest()

    def make(some: Sequence[Record]) -> np.ndarray:
        wanted, rows = towards(), []
        for record in some:
            found = gradient(desk.session, TENANT, record)
            rows.append([dot(wanted, found) / max(norm(found), 1e-30)])
        return np.array(rows)

    return kept(desk, records, 1, f"influence {adapt.key()} {seed} {digest} {said}", make)[:, 0]


def kept(
    desk: Desk, rows: Sequence[Row], width: int, said: str, make: Callable[[Sequence[Row]], np.ndarray]
) -> np.ndarray:
    """[n, width] float32 of `make`, piece by piece, in the user's cache: what is there is not made again, whether the
    command was stopped or asks for another number of rows. `said`: all that decides the numbers beside the base, this
    program's code and the rows."""
    base = desk.session.base
    key = "\0".join([code_digest(), base.digest, str(base.model.dtype), said, *map(name_of, rows)])
    folder = place() / hashlib.sha256(key.encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "rows.bin"
    with path.open("ab") as out:
        done = out.tell() // (4 * width)
        out.truncate(done * 4 * width)  # half a row, of a write that was cut off
        desk.step(done, len(rows), DOING)
        while done < len(rows):
            some = list(Chosen(rows, np.arange(done, min(done + PIECE, len(rows)))))
            out.write(make(some).astype(np.float32).tobytes())
            out.flush()
            os.fsync(out.fileno())
            done += len(some)
            desk.step(done, len(rows), DOING)
            desk.between()
    os.utime(folder)
    kept_tokens.forget(place())
    return np.memmap(path, np.float32, "r", shape=(len(rows), width))


def name_of(row: Example | Record) -> str:
    return row.id if isinstance(row, Example) else row.example_id


def place() -> Path:
    return cache_dir() / "scores"
