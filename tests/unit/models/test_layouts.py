"""Rows of the padded layout by hand, and what the probe says of windows too long to run past."""

from __future__ import annotations

import pytest
import torch
from tests import tiny
from transformers import AttentionInterface, PretrainedConfig

from tunesmith.errors import DataError
from tunesmith.models.attention import NAME, forest_attention
from tunesmith.models.forward import RopeLimit, probe, rope_limit
from tunesmith.models.padded import leaf_paths, padded_rows
from tunesmith.models.rotary import check_lengths


def test_leaf_paths() -> None:
    """Root 0 with children 1 and 3, a grandchild 2 under 1; root 4 alone."""
    assert leaf_paths([-1, 0, 1, 0, -1]) == [(0, 1, 2), (0, 3), (4,)]


def test_padded_rows() -> None:
    """Tokens 0-2 are a prompt, 3 and 4-5 its children. A token's place is in the first row that holds it."""
    rows = padded_rows([[(0, 3), (3, 4)], [(0, 3), (4, 6)]], 7)
    assert rows.token.tolist() == [[0, 1, 2, 3, 0], [0, 1, 2, 4, 5]]
    assert rows.mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert rows.position.tolist() == [[0, 1, 2, 3, 3], [0, 1, 2, 3, 4]]
    assert rows.where.tolist() == [0, 1, 2, 3, 8, 9, -1]


def test_rope_limit_of_parameters_by_layer() -> None:
    kinds = {"full_attention": {"rope_type": "dynamic", "factor": 2.0}, "sliding_attention": {"rope_type": "default"}}
    config = PretrainedConfig()
    config.rope_parameters, config.max_position_embeddings = kinds, 32
    assert rope_limit(config) == RopeLimit(32, alone=True)


def test_lengths() -> None:
    for limit in (None, RopeLimit(8, alone=True), RopeLimit(8, alone=False)):
        check_lengths(limit, [8, 3])
        check_lengths(limit, [9])
    check_lengths(RopeLimit(8, alone=False), [9, 30])
    for limit, lengths in ((RopeLimit(8, alone=False), [9, 8]), (RopeLimit(8, alone=True), [9, 30])):
        with pytest.raises(DataError, match="8 tokens"):
            check_lengths(limit, lengths)


def test_a_long_window_must_reach_the_attention() -> None:
    """4096 tokens are not run; a model that keeps its window from the attention is sent to the padded layout."""
    model = tiny.build("mistral", sliding_window=4096, max_position_embeddings=8192)
    assert probe(model).layout == "forest"

    def forgetful(*args, sliding_window=None, **kwargs):  # type: ignore[no-untyped-def]
        return forest_attention(*args, **kwargs)

    AttentionInterface.register(NAME, forgetful)
    try:
        found = probe(model)
    finally:
        AttentionInterface.register(NAME, forest_attention)
    assert found.layout == "padded"
    assert "0 of 2 layers" in found.reason


def test_a_window_by_layer_is_counted_by_layer() -> None:
    assert probe(tiny.build("qwen2", sliding_window=4096)).layout == "forest"
    assert probe(tiny.build("qwen2", use_sliding_window=False, layer_types=None)).layout == "forest"


def test_the_probe_leaves_no_trace() -> None:
    model = tiny.build("llama").train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    probe(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
