"""bench/gpu.py runs whole where there is no GPU, and measures nothing that is not what transformers computes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from bench import gpu

from tunesmith.data.pack import forest
from tunesmith.types import Forest, Record


@pytest.mark.parametrize(("job", "adapt"), [("sft", "lora"), ("dpo", "full")])
def test_a_case_is_measured(job: str, adapt: str) -> None:
    found = gpu.measure("tiny", job, adapt, 200, "cpu", updates=1)
    assert found["tokens_per_s"] > 0
    assert found["loss_gap"] < 1e-6
    assert found["gradient_gap"] < 1e-6


def test_another_gradient_than_transformers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a row is left out."""

    def short(rows: Sequence[Record]) -> Forest:
        return forest(list(rows)[:-1])

    monkeypatch.setattr(gpu, "forest", short)
    with pytest.raises(SystemExit, match="from transformers' own"):
        gpu.measure("tiny", "sft", "full", 200, "cpu", updates=1)


def test_operations_are_counted_by_hand() -> None:
    """Of 2 layers, width 64: a pair's prompt of 6 tokens and two replies of one, which see it."""
    base = gpu.base_of("tiny", "cpu", gpu.torch.float32)
    [row] = gpu.rows_of("dpo", 8, 512, 0)
    assert [len(segment.tokens) for segment in row.segments] == [6, 1, 1]
    seen = 6 * 6 / 2 + 2 * (1 / 2 + 6)
    assert gpu.operations(base, [row], is_frozen=False) == 6 * base.num_weights * 8 + 12 * 2 * 64 * seen
