"""Forest attention: a token attends to its own segment up to itself and to all ancestors of it, to nothing else.

It is registered with transformers' AttentionInterface under `NAME`, so that models stay unmodified. The layout travels
as a `Layout` of three int64 tensors in the one keyword argument `LAYOUT`; no mask is built. The work is one custom
operator with its own backward, which `torch.compile` does not look into: it saves queries, keys, values, output and
log-sum-exp, and computes the probabilities again (Dao et al. 2022, arXiv:2205.14135, section 3.1).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from tunesmith.errors import ModelError
from tunesmith.models import kernel
from tunesmith.models.before import PREFIX
from tunesmith.models.blocks import Group, plan
from tunesmith.models.calls import count

NAME = "tunesmith_forest"
LAYOUT = "forest_layout"
KERNEL = "forest_kernel"  # true: by the compiled kernel, where it knows how
LOG2_E = 1 / math.log(2)

# What transformers hands to every attention function and what changes nothing here. `position_ids` and the like have
# done their work when queries and keys arrive.
HARMLESS = frozenset({"position_ids", "position_embeddings", "cache_position", "use_cache", "logits_to_keep"})
FALSE_ONLY = frozenset({"output_attentions", "output_hidden_states", "output_router_logits", "return_dict"})


class Layout(NamedTuple):
    """Segments of a forest, parents first: token runs [start, stop) that follow each other, and parents (-1 = root)."""

    start: Tensor  # [S] int64, on the CPU: it is read by Python
    stop: Tensor  # [S] int64
    parent: Tensor  # [S] int64


def forest_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention function. query [1, heads, N, d], key and value [1, kv_heads, N, d or dv] ->
    ([1, N, heads, dv], None)."""
    layout, by_kernel, prefix = kwargs.pop(LAYOUT, None), kwargs.pop(KERNEL, False), kwargs.pop(PREFIX, None)
    if layout is None:
        raise ModelError(
            f"attention {NAME!r} was called without a layout, and would mix the examples of a batch. "
            f"Run the model through tunesmith.models.forward, or set its own attention (`set_attn_implementation`)."
        )
    if attention_mask is not None:
        raise ModelError(
            f"attention {NAME!r} was given an attention mask; it knows layouts only. Use the padded layout."
        )
    scaling = kwargs.pop("scaling", None)
    dropout = kwargs.pop("dropout", None) or 0.0
    window = kwargs.pop("sliding_window", None)
    softcap = kwargs.pop("softcap", None)
    sinks = kwargs.pop("s_aux", None)
    is_causal = kwargs.pop("is_causal", None)
    _refuse_unknown(kwargs)
    if is_causal is None and hasattr(module, "is_causal"):
        is_causal = module.is_causal
    if is_causal is False:
        raise ModelError(f"{type(module).__name__} attends in both directions; use the padded layout.")
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise ModelError(
            f"forest attention takes one flat run of tokens and no cache; found queries {tuple(query.shape)} and keys "
            f"{tuple(key.shape)}. Call the model with a batch of one and use_cache=False."
        )
    if prefix is not None:
        key, value = prefix.into(int(module.layer_idx), key, value)  # type: ignore[arg-type]
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    window = None if window is None else int(window)
    softcap = None if softcap is None else float(softcap)
    if dropout > 0.0:
        out = _with_dropout(query, key, value, layout, (scale, window, softcap, sinks, float(dropout)))
    elif by_kernel and kernel.knows((query, key, value), scale, softcap, sinks):
        out, _ = kernel.attention(query[0], key[0], value[0], list(layout), scale, window)
    else:
        out, _ = _forest_attention(
            query[0], key[0], value[0], layout.start, layout.stop, layout.parent, scale, window, softcap, sinks
        )
    return out[None], None


def _refuse_unknown(kwargs: dict[str, Any]) -> None:
    for name, argument in kwargs.items():
        harmless = name in HARMLESS or (name in FALSE_ONLY and argument is not True)
        if argument is not None and not harmless:
            raise ModelError(
                f"attention {NAME!r} does not know the argument {name!r} (a {type(argument).__name__}) that the model "
                "passes; leaving it out would give other numbers in silence. Use the padded layout."
            )


def no_mask(**_: Any) -> None:
    """transformers' mask function for forest attention: the layout says it all."""
    return


AttentionInterface.register(NAME, forest_attention)
AttentionMaskInterface.register(NAME, no_mask)


# Axes of one group below: h key/value heads, g queries per key/value head, b blocks, n rows of a block, P chain tokens.
# Rows are (n, g), so that the queries of one key/value head are one matrix and keys are never repeated. Scores and
# log-sum-exp are in base 2: exp2 is twice as fast as exp on a CPU, and six times on rows with masked scores.


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _grouped(x: Tensor, num_kv: int) -> Tensor:
    """[heads, N, d] -> [h, N, g, d], contiguous."""
    return x.unflatten(0, (num_kv, -1)).transpose(1, 2).contiguous()


def _rows(x_hNgd: Tensor, group: Group) -> Tensor:
    """[h, N, g, d] -> the group's rows [h * b, n * g, d]; a view where one block is all."""
    if group.num == 1:
        return x_hNgd[:, group.start : group.start + group.length].flatten(1, 2)
    h, _, g, d = x_hNgd.shape
    return x_hNgd.index_select(1, group.take).view(h * group.num, group.length * g, d)


def _chain(x_hN1d: Tensor, group: Group) -> Tensor:
    """[h, N, 1, d] -> the keys or values of the chain [h, P, d]; a view where it is one run."""
    if len(group.ranges) == 1:
        first, stop = group.ranges[0]
        return x_hN1d[:, first:stop, 0]
    return x_hN1d.index_select(1, group.chain).squeeze(2)


def _together(x: Tensor, group: Group) -> Tensor:
    """[h * b, n * g, ...] -> [h, b * n * g, ...], as the chain meets them."""
    return x.reshape(x.shape[0] // group.num, group.num * x.shape[1], *x.shape[2:])


def _by_token(rows: list[Tensor], where: Tensor, h: int, g: int) -> Tensor:
    """Rows [h * b, n * g, d] of all groups -> [h, N, g, d]. Rows of padding fall away."""
    return torch.cat([x.reshape(h, -1, g, x.shape[-1]) for x in rows], 1).index_select(1, where)


def _heads_last(x_hNgd: Tensor) -> Tensor:
    """[h, N, g, d] -> [N, heads, d], contiguous."""
    return x_hNgd.transpose(0, 1).flatten(1, 2).contiguous()  # with g = 1, flatten alone would be a view


def _product(a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """scale * a b for probabilities or their gradients a [B, m, c], in the precision of b [B, c, d]."""
    if scale == 1.0:
        return torch.bmm(a.to(b.dtype), b)
    return b.new_empty(a.shape[0], a.shape[1], b.shape[2]).baddbmm_(a.to(b.dtype), b, beta=0, alpha=scale)


def _scores(q: Tensor, k: Tensor, scale: float, softcap: float | None) -> Tensor:
    """q k^T * scale, soft-capped, in units of log2, float32 or more. q [B, m, d], k [B, c, d] -> [B, m, c]."""
    alpha = scale * LOG2_E if softcap is None else scale / softcap
    if q.dtype == _wide(q.dtype):
        scores = _product(q, k.transpose(1, 2), alpha)
    else:
        scores = torch.bmm(q, k.transpose(1, 2)).float().mul_(alpha)
    return scores if softcap is None else scores.tanh_().mul_(softcap * LOG2_E)


def _mask_rows(mask: Tensor, g: int) -> Tensor:
    """[n, c] -> [n * g, c], as it is added to scores."""
    return mask.repeat_interleave(g, 0)


def _forward_group(
    q: Tensor, own: tuple[Tensor, Tensor], chain: tuple[Tensor, Tensor], group: Group, settings: tuple
) -> tuple[Tensor, Tensor]:
    """q [h * b, n * g, d], own keys and values [h * b, n, d], the chain's [h, P, d]; settings: scale, soft-cap, sinks
    [h * b, n * g, 1] in log2 or None. -> out [h * b, n * g, dv], log-sum-exp [h * b, n * g, 1]."""
    scale, softcap, sinks = settings
    g = q.shape[1] // group.length
    near = _scores(q, own[0], scale, softcap).add_(_mask_rows(group.own_mask, g))
    top = near.amax(-1, keepdim=True)
    far = None
    if group.chain.numel():
        far = _scores(_together(q, group), chain[0], scale, softcap).view(*q.shape[:2], -1)
        if group.chain_mask is not None:
            far.add_(_mask_rows(group.chain_mask, g))
        top = torch.maximum(top, far.amax(-1, keepdim=True))
    if sinks is not None:
        top = torch.maximum(top, sinks)
    near.sub_(top).exp2_()
    total = near.sum(-1, keepdim=True)
    out = _product(near, own[1])
    if far is not None:
        far.sub_(top).exp2_()
        total += far.sum(-1, keepdim=True)
        out += _product(_together(far, group), chain[1]).view(out.shape)
    if sinks is not None:
        total += (sinks - top).exp2_()
    return out.div_(total), total.log2_().add_(top)


def _part_backward(
    q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, shift: Tensor, delta: Tensor, settings: tuple
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by one part (own keys, or the chain's) -> (d_q, d_k, d_v), all [B, rows, .]. shift: mask minus
    log-sum-exp; delta: sum(out d_out)."""
    scale, softcap = settings
    scores = _scores(q, k, scale, softcap)
    slope = None if softcap is None else 1 - (scores / (softcap * LOG2_E)).square_()  # of the soft-cap
    weight = scores.add_(shift).exp2_()
    d_v = _product(weight.transpose(1, 2), d_out)
    d_scores = torch.bmm(d_out, v.transpose(1, 2)).to(weight.dtype).sub_(delta).mul_(weight)
    if slope is not None:
        d_scores.mul_(slope)
    return _product(d_scores, k, scale), _product(d_scores.transpose(1, 2), q, scale), d_v


def _sink_rows(sinks: Tensor, h: int, group: Group) -> Tensor:
    """[heads] -> [h * b, n * g, 1], float32 or more."""
    rows = sinks.to(_wide(sinks.dtype)).view(h, 1, 1, -1).expand(h, group.num, group.length, -1)
    return rows.reshape(h * group.num, -1, 1)


@torch.library.custom_op("tunesmith::forest_attention", mutates_args=())
def _forest_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    start: Tensor,
    stop: Tensor,
    parent: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """q [heads, N, d], k [h, N, d], v [h, N, dv] -> out [N, heads, dv], log-sum-exp [h, N, g] in log2."""
    count(window)
    h = k.shape[0]
    g = q.shape[0] // h
    q_g, k_g, v_g = (_grouped(x, h) for x in (q, k, v))
    the = plan(start, stop, parent, window, q.device)
    outs, tops = [], []
    for group in the.groups:
        sink_rows = None if sinks is None else _sink_rows(sinks, h, group) * LOG2_E
        own = (_rows(k_g, group), _rows(v_g, group))
        chain = (_chain(k_g, group), _chain(v_g, group))
        out, top = _forward_group(_rows(q_g, group), own, chain, group, (scale, softcap, sink_rows))
        outs.append(out)
        tops.append(top)
    return _heads_last(_by_token(outs, the.where, h, g)), _by_token(tops, the.where, h, g).squeeze(-1)


@_forest_attention.register_fake
def _(q, k, v, start, stop, parent, scale, window, softcap, sinks):  # type: ignore[no-untyped-def]
    heads, num_tokens, _ = q.shape
    out = v.new_empty(num_tokens, heads, v.shape[-1])
    lse = q.new_empty(k.shape[0], num_tokens, heads // k.shape[0], dtype=_wide(q.dtype))
    return out, lse


@torch.library.custom_op("tunesmith::forest_attention_backward", mutates_args=())
def _forest_attention_backward(
    d_out: Tensor,
    saved: list[Tensor],
    layout: list[Tensor],
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v (shaped as these) and delta [N, heads]. saved: q, k, v, out, lse of the forward."""
    q, k, v, out, lse = saved
    h = k.shape[0]
    g = q.shape[0] // h
    delta = (out.to(lse.dtype) * d_out).sum(-1)
    q_g, k_g, v_g, d_g, delta_g = (_grouped(x, h) for x in (q, k, v, d_out.transpose(0, 1), delta.t().unsqueeze(-1)))
    the = plan(layout[0], layout[1], layout[2], window, q.device)
    rows: tuple[list[Tensor], ...] = ([], [], [])
    far: list[tuple[Group, Tensor, Tensor]] = []
    for group in the.groups:
        q_r, d_r, delta_r, lse_r = (_rows(x, group) for x in (q_g, d_g, delta_g, lse.unsqueeze(-1)))
        if group.is_padding is not None:  # probabilities of padding rows become 0
            lse_r.view(h, -1, g).masked_fill_(group.is_padding[:, None], float("inf"))
        shift = _mask_rows(group.own_mask, g) - lse_r
        d_q, d_k, d_v = _part_backward(q_r, _rows(k_g, group), _rows(v_g, group), d_r, shift, delta_r, (scale, softcap))
        if group.chain.numel():
            shift = -lse_r if group.chain_mask is None else _mask_rows(group.chain_mask, g) - lse_r
            q_r, d_r, shift, delta_r = (_together(x, group) for x in (q_r, d_r, shift, delta_r))
            more, *chain = _part_backward(
                q_r, _chain(k_g, group), _chain(v_g, group), d_r, shift, delta_r, (scale, softcap)
            )
            d_q += more.view(d_q.shape)
            far.append((group, chain[0], chain[1]))
        for kept, x in zip(rows, (d_q, d_k, d_v)):
            kept.append(x)
    d_q, d_k, d_v = (_by_token(kept, the.where, h, n) for kept, n in zip(rows, (g, 1, 1)))
    for group, more_k, more_v in far:
        _add_to_chain(d_k, more_k, group)
        _add_to_chain(d_v, more_v, group)
    d_q, d_k, d_v = (_heads_last(x).transpose(0, 1) for x in (d_q, d_k, d_v))
    return d_q, d_k, d_v, delta


def _add_to_chain(whole_hN1d: Tensor, x: Tensor, group: Group) -> None:
    """Adds x [h, P, d] to the rows of the chain, in place."""
    done = 0
    for first, stop in group.ranges:
        whole_hN1d[:, first:stop, 0] += x[:, done : done + stop - first]
        done += stop - first


@_forest_attention_backward.register_fake
def _(d_out, saved, layout, scale, window, softcap):  # type: ignore[no-untyped-def]
    q, k, v, _, lse = saved
    d_q, d_k, d_v = (x.new_empty(x.shape[1], x.shape[0], x.shape[2]).transpose(0, 1) for x in (q, k, v))
    return d_q, d_k, d_v, d_out.new_empty(d_out.shape[:2], dtype=lse.dtype)


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    q, k, v, start, stop, parent, ctx.scale, ctx.window, ctx.softcap, sinks = inputs
    ctx.save_for_backward(q, k, v, *output, start, stop, parent, sinks)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, d_out: Tensor, _: Tensor | None) -> tuple:
    *saved, start, stop, parent, sinks = ctx.saved_tensors
    d_q, d_k, d_v, delta = _forest_attention_backward(
        d_out, list(saved), [start, stop, parent], ctx.scale, ctx.window, ctx.softcap
    )
    d_sinks = None
    if sinks is not None:  # a sink is one more key whose value is 0: its gradient is p (0 - delta)
        lse = saved[4].transpose(0, 1).flatten(1, 2)  # [N, heads]
        d_sinks = -((sinks.to(lse.dtype) * LOG2_E - lse).exp2() * delta).sum(0).to(sinks.dtype)
    return d_q, d_k, d_v, None, None, None, None, None, None, d_sinks


_forest_attention.register_autograd(_backward, setup_context=_setup)


def _with_dropout(query: Tensor, key: Tensor, value: Tensor, layout: Layout, settings: tuple) -> Tensor:
    """The same by autograd, with dropout of probabilities. -> [N, heads, dv]. Noise follows torch's generator."""
    scale, window, softcap, sinks, dropout = settings
    count(window)
    h = value.shape[1]
    g = query.shape[1] // h
    q_g, k_g, v_g = (_grouped(x[0], h) for x in (query, key, value))
    the = plan(*layout, window, query.device)
    outs = []
    for group in the.groups:
        q, k, v = (_rows(x, group) for x in (q_g, k_g, v_g))
        far_scores = torch.bmm(_together(q, group), _chain(k_g, group).transpose(1, 2)).view(*q.shape[:2], -1)
        scores = torch.cat([torch.bmm(q, k.transpose(1, 2)), far_scores], -1).to(_wide(q.dtype)) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        far_mask = group.chain_mask
        if far_mask is None:
            far_mask = group.own_mask.new_zeros(group.length, group.chain.numel())
        scores = scores + _mask_rows(torch.cat([group.own_mask, far_mask], -1), g)
        if sinks is not None:
            scores = torch.cat([scores, _sink_rows(sinks, h, group)], -1)
        weight = F.dropout(scores.softmax(-1).to(v.dtype), dropout)
        near, far = weight.split([group.length, weight.shape[-1] - group.length], -1)
        far = far[..., : group.chain.numel()]
        outs.append(torch.bmm(near, v) + torch.bmm(_together(far, group), _chain(v_g, group)).view(*q.shape[:2], -1))
    return _heads_last(_by_token(outs, the.where, h, g))
