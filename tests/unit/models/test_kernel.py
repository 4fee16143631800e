"""The compiled attention against the plain one: values and gradients, in both types, by any number of threads."""

from __future__ import annotations

import ctypes

import pytest
import torch
from tests import tiny
from tests.laws.cases import forest
from torch import Tensor

from tunesmith.errors import ModelError
from tunesmith.models import kernel
from tunesmith.models.attention import _forest_attention
from tunesmith.models.forward import hidden_states

# Trees of any depth, a segment that is cut into pieces and has a child, tiles that do not come out even.
SIZES = (7, 5, 3, 5, 4, 600, 66, 6, 2, 1)
PARENT = (-1, 0, 1, 0, -1, -1, 5, 5, 6, 8)
SHAPES = {"small": (6, 2, 8, 5), "odd": (4, 4, 7, 7), "usual": (6, 3, 64, 64), "wide": (2, 1, 144, 80)}


def layout() -> tuple[Tensor, Tensor, Tensor]:
    stop = torch.tensor(SIZES).cumsum(0)
    return stop - torch.tensor(SIZES), stop, torch.tensor(PARENT)


def drawn(shape: str, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """q, k, v and a cotangent; what is not laid out token by token, too."""
    heads, h, d, dv = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    sizes = ((sum(SIZES), heads, d), (sum(SIZES), h, d), (sum(SIZES), h, dv), (sum(SIZES), heads, dv))
    q, k, v, d_out = (torch.randn(s, generator=generator).to(dtype) for s in sizes)
    return [q.transpose(0, 1), k.transpose(0, 1).contiguous(), v.transpose(0, 1)], d_out


def outcome(qkv: list[Tensor], d_out: Tensor, window: int | None, *, by_kernel: bool) -> list[Tensor]:
    """Output, log-sum-exp, and gradients of q, k, v."""
    leaves = [x.detach().requires_grad_() for x in qkv]
    if by_kernel:
        out, lse = kernel.attention(*leaves, list(layout()), 0.3, window)
    else:
        out, lse, *_ = _forest_attention(*leaves, *layout(), 0.3, window, None, None)
    return [out.detach(), lse, *torch.autograd.grad(out, leaves, d_out)]


def errors(found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("window", [None, 3, 9, 150])
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_the_plain_attention(shape: str, window: int | None) -> None:
    qkv, d_out = drawn(shape, torch.float32)
    exact = outcome([x.double() for x in qkv], d_out.double(), window, by_kernel=False)
    assert max(errors(outcome(qkv, d_out, window, by_kernel=True), exact)) < 3e-6


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_nearer_than_the_plain_attention(shape: str, window: int | None) -> None:
    qkv, d_out = drawn(shape, torch.bfloat16)
    exact = outcome([x.double() for x in qkv], d_out.double(), window, by_kernel=False)
    ours = errors(outcome(qkv, d_out, window, by_kernel=True), exact)
    plain = errors(outcome(qkv, d_out, window, by_kernel=False), exact)
    assert all(a <= 1.02 * b or a < 1e-5 for a, b in zip(ours, plain, strict=True))


def test_a_piece_that_forgets_its_parent_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: long segments are cut, and the pieces stand alone."""
    qkv, d_out = drawn("usual", torch.float32)
    wanted = [x.double() for x in outcome(qkv, d_out, None, by_kernel=True)]
    plain = kernel.pieces

    def alone(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        start, stop, parent = plain(*given)
        return start, stop, torch.where(start == given[0].max() - 600, -1, parent - (parent == 5).int() * 6)

    monkeypatch.setattr(kernel, "pieces", alone)
    assert min(errors(outcome(qkv, d_out, None, by_kernel=True), wanted)) > 1e-3


def test_the_number_of_threads_moves_no_bit() -> None:
    qkv, d_out = drawn("usual", torch.bfloat16)
    before, found = torch.get_num_threads(), []
    for num in (1, 2, 3):
        torch.set_num_threads(num)
        found.append(outcome(qkv, d_out, None, by_kernel=True))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_operator_rules() -> None:
    qkv, _ = drawn("small", torch.float32)
    given = (*(x.detach().requires_grad_() for x in qkv), list(layout()), 0.5, 4)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.tunesmith.kernel_attention.default, given, test_utils=checks)


def test_only_compiled_layers_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    plain = kernel.knows
    monkeypatch.setattr(kernel, "knows", lambda *given: calls.append(plain(*given)) or calls[-1])
    for family, is_known in (("llama", True), ("gemma2", False)):  # which caps its scores
        model, batch = tiny.build(family), forest()
        with torch.no_grad():
            wanted = hidden_states(model, batch, "forest")
            assert not calls
            for layer in model.model.layers:
                layer.compile(backend="eager", dynamic=True)
            torch.testing.assert_close(hidden_states(model, batch, "forest"), wanted, rtol=1e-5, atol=1e-5)
        assert set(calls) == {is_known}
        calls.clear()


def test_a_machine_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for compiler, said in (("no-such-compiler", "cannot be run"), ("false", "cannot build")):
        monkeypatch.setenv("CXX", compiler)
        kernel.built.cache_clear()
        with pytest.raises(ModelError, match=said):
            kernel.built()
    kernel.built.cache_clear()


def test_a_compiler_of_c_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "gcc")
    kernel.built.cache_clear()
    assert kernel.built()
    kernel.built.cache_clear()


def test_a_long_segment_is_cut_into_few_pieces() -> None:
    """What is kept aside grows with the tokens, and not with their square."""
    start, stop, parent = kernel.pieces(
        torch.tensor([0, 10_000]), torch.tensor([10_000, 10_300]), torch.tensor([-1, 0])
    )
    assert len(start) == 8 + 2
    assert parent.tolist() == [-1, *range(9)]
    assert int((stop - start).sum()) == 10_300


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_number_that_is_none_is_seen_by_all_that_attend_to_it(which: int, dtype: torch.dtype) -> None:
    qkv, d_out = drawn("usual", dtype)
    qkv[which][0, 0, 0] = float("nan")
    ours, plain = (outcome(qkv, d_out, None, by_kernel=by_kernel) for by_kernel in (True, False))
    assert ours[0].isnan().any()
    for found, wanted in zip(ours, plain, strict=True):
        assert torch.equal(found.isfinite().all(-1), wanted.isfinite().all(-1))


def test_memory_that_runs_out_is_an_error_that_an_update_is_cut_for(monkeypatch: pytest.MonkeyPatch) -> None:
    job = kernel.Job(heads=1, kv=1, num=2**50, d=8, dv=8, threads=1)
    assert kernel.built()(ctypes.byref(job), 0, 1) == 1
    monkeypatch.setattr(kernel, "built", lambda: lambda *_: 1)
    qkv, _ = drawn("small", torch.float32)
    with pytest.raises(MemoryError, match="not enough memory for forest attention over 699 tokens"):
        kernel.attention(*qkv, list(layout()), 0.3, None)
