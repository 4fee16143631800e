"""Memory of answering, counted from a part of the prompts, is that of all of them."""

from __future__ import annotations

import random

import pytest
import torch
from tests.laws.sessions import base_of

from tunesmith.footprint import Batch, batch_bytes
from tunesmith.generate.buffers import NAME
from tunesmith.generate.decode import Sampler
from tunesmith.models.forward import attention
from tunesmith.models.heads import Head
from tunesmith.models.traced import GIVEN, Living, traced, twin_of


def run_whole(sampler: Sampler, batch: Batch) -> int:
    def ask(living: Living) -> int:
        tails = [[n] * length for n, length in enumerate(batch.own)]
        hidden, buffers = sampler.read_in(tails, sampler.shared([0] * batch.shared), batch.most)
        logp_V = sampler.head.logits(hidden).float().log_softmax(-1)
        buffers.keep(range(len(tails) - 1))
        return logp_V.numel()

    with torch.no_grad(), attention(sampler.model, NAME):
        return traced(sampler.model, ask).peak


@pytest.mark.parametrize(
    ("shared", "num", "longest", "most"), [(30, 16, 50, 8), (100, 33, 200, 40), (0, 150, 100, 2), (7, 64, 65, 3)]
)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_two_groups_of_rows_stand_for_all(family: str, shared: int, num: int, longest: int, most: int) -> None:
    """A mutant without the keys and values of the rows before is a tenth and more below."""
    twin = twin_of(base_of(family).model)
    sampler = Sampler(twin, Head(twin, 1.0, None), lambda tokens: "")
    rng = random.Random(0)
    batch = Batch(shared, tuple(sorted(rng.randrange(longest // 4, longest) for _ in range(num))), most)
    assert batch_bytes(sampler, batch) == pytest.approx(run_whole(sampler, batch), rel=2e-3, abs=2**14)


def test_what_torch_is_asked_once_for_alike_operations_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that takes a result seen through its argument for one of its own counts more."""
    twin = twin_of(base_of("llama").model)
    batch = Batch(30, tuple(range(10, 60)), 8)

    def counted() -> int:
        GIVEN.clear()
        return run_whole(Sampler(twin, Head(twin, 1.0, None), lambda tokens: ""), batch)

    once = counted()
    assert len(GIVEN) > 10
    with monkeypatch.context() as patch:
        patch.setattr("tunesmith.models.traced.is_pure", lambda func: False)
        assert counted() == once
        assert not GIVEN
    monkeypatch.setattr("tunesmith.models.traced.is_seen_through", lambda out, values: False)
    assert counted() > once
