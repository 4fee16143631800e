"""Schedules at hand-worked points, the rate rule, AdamW's groups."""

from __future__ import annotations

import pytest
import torch

from tunesmith.engine import precision
from tunesmith.engine.optim import AdamW, build, global_norm
from tunesmith.engine.schedule import Schedule, auto_lr


def test_linear_and_cosine_by_hand() -> None:
    linear = Schedule("linear", warmup_frac=0.2, end_frac=0.1)
    assert [round(linear.factor(u, 10), 4) for u in (0, 1, 2, 6, 9)] == [0.3333, 0.6667, 1.0, 0.55, 0.2125]
    cosine = Schedule("cosine", warmup_frac=0.0)
    assert cosine.factor(0, 8) == 1.0
    assert cosine.factor(4, 8) == pytest.approx(0.5)
    assert cosine.factor(2, 8) == pytest.approx((1 + 2**-0.5) / 2)
    assert Schedule("constant", 0.0).factor(7, 8) == 1.0


def test_no_update_of_a_warm_up_is_lost() -> None:
    assert all(Schedule(k, 0.5).factor(u, 7) > 0 for k in ("constant", "linear", "cosine") for u in range(7))


def test_auto_lr_follows_its_rule() -> None:
    full, _ = auto_lr("full", 1_000_000_000, 1000)
    lora, why = auto_lr("lora", 1_000_000_000, 1000)
    assert full == pytest.approx(2e-5)
    assert lora == pytest.approx(10 * full)
    assert "LoRA" in why
    assert auto_lr("full", 1_000_000, 1000)[0] == pytest.approx(1e-4)
    assert auto_lr("full", 1_000_000_000, 10)[0] == pytest.approx(2e-5 * 1.9)


def test_decay_acts_on_matrices_only() -> None:
    masters = {"w": torch.ones(2, 2), "norm": torch.ones(2)}
    optimizer = build(masters, AdamW(weight_decay=0.5))
    for tensor in masters.values():
        tensor.grad = torch.zeros_like(tensor)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    assert torch.allclose(masters["w"], torch.full((2, 2), 0.95))
    assert torch.equal(masters["norm"], torch.ones(2))


def test_global_norm() -> None:
    assert float(global_norm({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])})) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("units", "wanted", "said"),
    [
        ("AMX", torch.bfloat16, "this CPU has AMX"), ("AVX512-BF16", torch.float32, "AVX512-BF16 bfloat16 may be"),
        (None, torch.float32, "not fast on this device (cpu)"),
    ],
)  # fmt: skip
def test_precision_says_why(units: str | None, wanted: torch.dtype, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bf16_units", lambda: units)
    dtype, why = precision.choose_dtype("cpu")
    assert dtype == wanted
    assert said in why


def test_the_slanted_triangle_of_ulmfit_by_hand() -> None:
    slanted = Schedule("slanted", warmup_frac=0.1)
    assert slanted.factor(10, 100) == 1.0  # the peak is at the cut
    assert slanted.factor(0, 100) == pytest.approx(1 / 32)
    assert slanted.factor(5, 100) == pytest.approx((1 + 0.5 * 31) / 32)
    assert slanted.factor(55, 100) == pytest.approx((1 + 0.5 * 31) / 32)
    assert max(slanted.factor(u, 100) for u in range(100)) == 1.0
    assert Schedule("slanted", warmup_frac=0.1).factor(0, 5) == 1.0  # too short to rise


def test_warm_up_stable_decay_by_hand() -> None:
    wsd = Schedule("wsd", warmup_frac=0.1, decay_frac=0.2)
    assert wsd.factor(0, 20) == pytest.approx(1 / 3)
    assert all(wsd.factor(u, 20) == 1.0 for u in range(2, 17))
    assert [wsd.factor(u, 20) for u in (17, 18, 19)] == pytest.approx([0.75, 0.5, 0.25])
