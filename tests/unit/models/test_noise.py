"""Dropout whose masks belong to tokens: of the right size, the same however a forest is packed."""

from __future__ import annotations

import pytest
import torch
from tests.laws.sessions import records

from tunesmith.data.pack import forest
from tunesmith.data.twins import doubled
from tunesmith.models.noise import Draw, KeyedDropout, path_lengths, token_keys, uniform


def masks(rows: list, *, share: bool, seed: int = 1, name: str = "layer") -> tuple[torch.Tensor, list[int]]:
    batch, draw = forest(rows, share_prefix=share), Draw()
    draw.set(batch, seed)
    kept = KeyedDropout(0.4, name, draw)(torch.ones(1, batch.num_tokens, 16))[0] != 0
    ends = [int(batch.stop[int((batch.owner == i).nonzero()[-1])]) - 1 for i in range(len(rows))]
    return kept, ends


def test_a_tokens_mask_does_not_depend_on_what_stands_beside_it() -> None:
    rows = records()
    shared, at = masks(rows, share=True)
    alone = [masks([r], share=False) for r in rows]
    apart, place = masks(rows, share=False)
    assert all(torch.equal(shared[a], one[e[0]]) for a, (one, e) in zip(at, alone))
    assert torch.equal(shared[at], apart[place])
    assert len(shared) < len(apart)
    for other in (masks(rows, share=True, seed=2), masks(rows, share=True, name="other")):
        assert 0.35 < float((other[0] != shared).float().mean()) < 0.6  # 2 * 0.4 * 0.6 would be unrelated


def test_masks_are_as_likely_as_asked_and_unrelated() -> None:
    kept = uniform(torch.arange(20_000) * 31, 16, salt=5) >= int(0.4 * 2**24)
    assert float(kept.float().mean()) == pytest.approx(0.6, abs=0.005)
    related = torch.corrcoef(kept.float().T).fill_diagonal_(0).abs().max()
    assert float(related) < 0.04
    rowwise = torch.corrcoef(uniform(torch.arange(200) * 31, 4000, salt=5).float()).fill_diagonal_(0).abs().max()
    assert float(rowwise) < 0.1


def test_twins_have_masks_of_their_own() -> None:
    keys = token_keys(forest([doubled(records()[0])])).reshape(2, -1)
    assert not (keys[0] == keys[1]).any()
    assert len(set(keys.flatten().tolist())) == keys.numel()


def test_lengths_are_those_of_whole_sequences() -> None:
    rows = records(4)
    batch = forest(rows, share_prefix=False)
    wanted = torch.cat([torch.full((r.num_tokens,), r.num_tokens) for r in rows])
    assert torch.equal(path_lengths(batch), wanted)
    shared = forest(rows)
    assert int(path_lengths(shared)[0]) == max(r.num_tokens for r in rows)  # why NEFTune shares no prefix


def test_without_keys_and_in_evaluation_it_is_the_ordinary_one() -> None:
    module = KeyedDropout(0.5, "x", Draw())
    x = torch.ones(1, 4, 64)
    assert 20 < int((module(x) == 0).sum()) < 236
    assert torch.equal(module.eval()(x), x)
