"""Forest attention against a twin that goes one segment at a time by autograd, and the plan that it works from."""

from __future__ import annotations

import math

import pytest
import torch
from tests import tiny
from tests.laws.cases import forest
from torch import Tensor

from tunesmith.models import blocks
from tunesmith.models.attention import NAME, Layout, forest_attention
from tunesmith.models.calls import count_calls
from tunesmith.models.forward import attention, hidden_states

SIZES = (7, 5, 3, 5, 4, 300, 6, 6, 2, 1)
PARENT = (-1, 0, 1, 0, -1, -1, 5, 5, 6, 8)


def layout(sizes: tuple[int, ...] = SIZES, parent: tuple[int, ...] = PARENT) -> Layout:
    stop = torch.tensor(sizes).cumsum(0)
    return Layout(stop - torch.tensor(sizes), stop, torch.tensor(parent))


def twin(
    inputs: list[Tensor],
    where: Layout,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """[1, heads, N, d] -> [1, N, heads, dv]: each segment by itself, with a whole softmax over all it may see."""
    q, k, v = inputs
    g = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(g, 1), v.repeat_interleave(g, 1)
    outs = []
    for s in range(len(where.start)):
        path, above = [s], int(where.parent[s])
        while above >= 0:
            path, above = [above, *path], int(where.parent[above])
        seen = torch.cat([torch.arange(int(where.start[p]), int(where.stop[p])) for p in path])
        own = seen[-int(where.stop[s] - where.start[s]) :]
        scores = q[:, :, own] @ k[:, :, seen].transpose(2, 3) * scale
        if cap is not None:
            scores = cap * torch.tanh(scores / cap)
        row, column = torch.arange(len(seen) - len(own), len(seen))[:, None], torch.arange(len(seen))
        hidden = column > row
        if window is not None:
            hidden = hidden | (row - column >= window)
        scores = scores.masked_fill(hidden, -math.inf)
        if sinks is not None:
            scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], -1)
        outs.append((scores.softmax(-1)[..., : len(seen)] @ v[:, :, seen]).transpose(1, 2))
    return torch.cat(outs, 1)


def random(dtype: torch.dtype = torch.float64, num: int = sum(SIZES)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 6, num, 8), (1, 2, num, 8), (1, 2, num, 5))
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [x.to(dtype).requires_grad_() for x in made]


@pytest.mark.parametrize("window", [None, 1, 3, 9, 150])
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_equals_the_twin(window: int | None, cap: float | None, has_sinks: bool) -> None:
    """Values and gradients, float64. Segment 5 is cut into blocks; windows end in every kind of place."""
    inputs, where = random(), layout()
    sinks = torch.linspace(-1, 2, 6, dtype=torch.float64, requires_grad=True) if has_sinks else None
    wanted = twin(inputs, where, 0.7, window, cap, sinks)
    options = {"scaling": 0.7, "sliding_window": window, "softcap": cap, "s_aux": sinks}
    found, _ = forest_attention(torch.nn.Identity(), *inputs, None, forest_layout=where, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(wanted)
    leaves = inputs if sinks is None else [*inputs, sinks]
    grads, expected_grads = (torch.autograd.grad(out, leaves, cotangent) for out in (found, wanted))
    for got, expected in zip(grads, expected_grads):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


def test_dropout() -> None:
    """Means over many draws are the values without; each draw differs; the pattern follows the generator."""
    inputs, where = random(num=12), layout((5, 4, 3), (-1, 0, 0))
    sinks = torch.zeros(6, dtype=torch.float64)
    options = {"scaling": 0.7, "sliding_window": 4, "softcap": 2.0, "s_aux": sinks, "forest_layout": where}
    still, _ = forest_attention(torch.nn.Identity(), *inputs, None, **options)

    def drop() -> Tensor:
        return forest_attention(torch.nn.Identity(), *inputs, None, dropout=0.3, **options)[0].detach()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = torch.stack([drop() for _ in range(800)])
        torch.manual_seed(0)
        again = drop()
    torch.testing.assert_close(again, draws[0])
    error = (draws.mean(0) - still).abs() / (draws.std(0) / 800**0.5 + 1e-12)
    assert not torch.equal(draws[0], draws[1])
    assert float(error.quantile(0.99).detach()) < 4  # standard errors


def test_a_model_with_dropout_trains_by_the_forest() -> None:
    model, batch = tiny.build("gpt2", attn_pdrop=0.5, resid_pdrop=0.0, embd_pdrop=0.0).train(), forest()
    with count_calls() as calls:
        first, second = (hidden_states(model, batch, "forest") for _ in range(2))
    assert calls.num == 4
    assert not torch.equal(first, second)
    first.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_as_near_as_plain(dtype: torch.dtype) -> None:
    exact, low, where = random(), random(dtype), layout()
    wanted = twin(exact, where, 0.7)
    found, _ = forest_attention(torch.nn.Identity(), *low, None, forest_layout=where, scaling=0.7)
    assert found.dtype == dtype
    plain = twin(low, where, 0.7)
    cotangent = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad(found, low, cotangent.to(dtype))
    expected = torch.autograd.grad(wanted, exact, cotangent)
    plain_grads = torch.autograd.grad(plain, low, cotangent.to(dtype))
    for got, there, by_twin in zip((found, *grads), (wanted, *expected), (plain, *plain_grads)):
        ours, theirs = (float((x.double() - there).norm().detach()) for x in (got, by_twin))
        assert ours < 1.02 * theirs


def test_operator_rules() -> None:
    """torch's own checks: schema, fake tensors, autograd registration."""
    q, k, v = (x[0].detach().float().requires_grad_() for x in random(num=12))
    where = layout((5, 4, 3), (-1, 0, 0))
    arguments = (q, k, v, *where, 0.5, 4, 2.0, torch.zeros(6, requires_grad=True))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.tunesmith.forest_attention.default, arguments, test_utils=checks)


def test_compiles_once_for_every_layout() -> None:
    """Layers compiled with dynamic shapes: other lengths and numbers of segments compile nothing new."""
    model = tiny.build("qwen2")
    shapes = [
        ((9, 4, 5), (-1, 0, 0)),
        ((8, 3, 6, 2, 7), (-1, 0, 0, 1, -1)),
        ((5, 6), (-1, -1)),
        ((11, 5, 3, 7), (-1, 0, 0, 0)),
    ]
    with torch.no_grad():
        plain = [hidden_states(model, forest(*shape), "forest") for shape in shapes]
    for layer in model.model.layers:
        layer.compile(backend="aot_eager", dynamic=True)
    torch._dynamo.utils.counters.clear()
    graphs = []
    with torch.no_grad():
        for shape, wanted in zip(shapes, plain):
            torch.testing.assert_close(hidden_states(model, forest(*shape), "forest"), wanted, rtol=1e-5, atol=1e-5)
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert not torch._dynamo.utils.counters["graph_break"]
    assert graphs[-1] == graphs[1], graphs  # the second shape may still teach which sizes vary


def test_the_attention_is_given_back_after_an_error() -> None:
    model = tiny.build("llama")
    with pytest.raises(IndexError), attention(model, NAME):
        model(torch.full((1, 3), tiny.VOCABULARY))
    assert model.config._attn_implementation == "eager"


# The plan.


def plan(sizes: tuple[int, ...], parent: tuple[int, ...], window: int | None = None) -> blocks.Plan:
    return blocks.plan(*layout(sizes, parent), window, torch.device("cpu"))


def test_siblings_of_like_length_are_one_group() -> None:
    """By hand: root of 6; children 8, 7, 3 of it. 7 is padded to 8, 3 is not."""
    groups = plan((6, 8, 7, 3), (-1, 0, 0, 0)).groups
    assert [(group.num, group.length, group.chain.tolist()) for group in groups] == [
        (1, 6, []),
        (2, 8, [0, 1, 2, 3, 4, 5]),
        (1, 3, [0, 1, 2, 3, 4, 5]),
    ]
    assert groups[1].take.tolist() == [*range(6, 14), *range(14, 21), 20]
    assert groups[1].is_padding is not None
    assert groups[1].is_padding.tolist() == [False] * 15 + [True]
    assert groups[2].is_padding is None


def test_windows_by_true_position() -> None:
    """By hand: root of 6, child of 3, window 4. The child's first token (position 6) sees 3, 4, 5 and itself."""
    child = plan((6, 3), (-1, 0), window=4).groups[1]
    assert child.chain.tolist() == [3, 4, 5]
    assert child.chain_mask is not None
    assert child.chain_mask.eq(0).tolist() == [[True, True, True], [False, True, True], [False, False, True]]
    assert plan((6, 3), (-1, 0), window=1).groups[1].chain.tolist() == []


def test_long_segments_are_cut_and_chains_join() -> None:
    """A segment of 300 makes three equal blocks; a child's chain is one run where its ancestors touch."""
    found = plan((300, 5, 4), (-1, 0, 0)).groups
    assert [(g.num, g.length, g.ranges) for g in found] == [
        (1, 100, ()),
        (1, 100, ((0, 100),)),
        (1, 100, ((0, 200),)),
        (2, 5, ((0, 300),)),
    ]
    apart = plan((5, 9, 4), (-1, 0, 0)).groups
    assert {g.ranges for g in apart if g.chain.numel()} == {((0, 5),)}
    grandchild = plan((5, 9, 4, 2), (-1, 0, 0, 2)).groups[-1]
    assert grandchild.ranges == ((0, 5), (14, 18))


def test_a_plan_is_made_once() -> None:
    assert plan((6, 3), (-1, 0), window=4) is plan((6, 3), (-1, 0), window=4)
    assert plan((6, 3), (-1, 0), window=4) is not plan((6, 3), (-1, -1), window=4)


@pytest.mark.parametrize(
    "wrong",
    [
        Layout(torch.tensor([0, 4]), torch.tensor([3, 6]), torch.tensor([-1, -1])),  # a gap
        Layout(torch.tensor([0, 3]), torch.tensor([3, 6]), torch.tensor([1, -1])),  # a child before its parent
        Layout(torch.tensor([1, 3]), torch.tensor([3, 6]), torch.tensor([-1, -1])),  # a token before the first
    ],
)
def test_broken_layouts(wrong: Layout) -> None:
    with pytest.raises(AssertionError):
        blocks.plan(*wrong, None, torch.device("cpu"))
