"""The compiled twin of forest attention (kernel.cpp), built by the C++ compiler that `torch.compile` needs on a CPU.

It is built anew in each process that asks for it, for the processor that it runs on: a few seconds, and nothing that
could be stale or of another machine. What it does not know (soft-caps, sinks, other types, GPUs) stays attention.py's.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import ModelError

SOURCE = Path(__file__).with_name("kernel.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
LIBRARIES = ("-lstdc++",)  # which gcc or cc in CXX do not bring
# A longer segment is done in pieces, so that there is work for every thread: few, since each keeps aside what it adds
# to those before it, and many would take memory with the square of the tokens
MOST_TOKENS, MOST_PIECES = 256, 8
POINTERS = ("q", "k", "v", "out", "d_out", "to", "d_q", "d_k", "d_v", "lse", "start", "stop", "parent")
STRIDES = ("q_head", "q_token", "k_head", "k_token", "v_head", "v_token", "g_token", "g_head")
SIZES = ("heads", "kv", "num", "segments", "d", "dv", "window", "threads")


class Job(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_int64) for name in (*STRIDES, *SIZES)),
        ("scale", ctypes.c_float),
    ]


@lru_cache(maxsize=1)
def built() -> Any:
    """The kernel as a function of (job, is it bfloat16, is it the backward)."""
    compiler = os.environ.get("CXX", "g++")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.so"
        try:
            done = subprocess.run(
                [compiler, *FLAGS, "-o", str(path), str(SOURCE), *LIBRARIES], capture_output=True, text=True
            )
        except OSError as error:
            raise ModelError(f"train.compile needs a C++ compiler, and {compiler} cannot be run: {error}") from error
        if done.returncode:
            raise ModelError(
                f"{compiler} cannot build {SOURCE.name}: {done.stderr.strip()[-500:]}. Name another compiler in CXX, "
                "or say train.compile: false"
            )
        try:
            return ctypes.CDLL(str(path)).forest_attention
        except OSError as error:
            raise ModelError(
                f"{SOURCE.name} was built and cannot be loaded: {error}. Say train.compile: false"
            ) from error


def compile_layers(layers: nn.ModuleList) -> None:
    """By torch, when they first run; their attention by the kernel, at once: it says what it lacks before anything is
    learned."""
    if sys.platform == "linux" and next(layers.parameters()).device.type == "cpu":
        built()
    for layer in layers:
        layer.compile(dynamic=True)


def knows(qkv: tuple[Tensor, Tensor, Tensor], scale: float, softcap: float | None, sinks: Tensor | None) -> bool:
    is_plain = softcap is None and sinks is None and scale > 0
    is_here = sys.platform == "linux" and qkv[0].device.type == "cpu"
    return is_plain and is_here and {x.dtype for x in qkv} in ({torch.float32}, {torch.bfloat16})


@lru_cache(maxsize=16)
def _pieces(start: tuple[int, ...], stop: tuple[int, ...], parent: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    firsts: list[int] = []
    stops: list[int] = []
    parents: list[int] = []
    last: list[int] = []  # piece of each segment
    for first, end, above in zip(start, stop, parent):
        before = last[above] if above >= 0 else -1
        num = min(MOST_PIECES, -(-(end - first) // MOST_TOKENS))
        size = -(-(end - first) // num)
        for at in range(first, end, size):
            firsts.append(at)
            stops.append(min(at + size, end))
            parents.append(before)
            before = len(firsts) - 1
        last.append(before)
    return torch.tensor(firsts), torch.tensor(stops), torch.tensor(parents)


def pieces(start: Tensor, stop: Tensor, parent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The layout with long segments cut: each piece is the child of the one before it."""
    return _pieces(tuple(start.tolist()), tuple(stop.tolist()), tuple(parent.tolist()))


def _run(
    tensors: dict[str, Tensor], strides: dict[str, int], scale: float, window: int | None, *, is_backward: bool
) -> None:
    q, v = tensors["q"], tensors["v"]
    sizes = {"heads": q.shape[0], "kv": v.shape[0], "num": q.shape[1], "segments": len(tensors["start"])}
    sizes |= {"d": q.shape[2], "dv": v.shape[2], "window": -1 if window is None else window}
    pointers = {name: t.data_ptr() for name, t in tensors.items()}
    job = Job(**pointers, **strides, **sizes, threads=torch.get_num_threads(), scale=scale)
    if built()(ctypes.byref(job), int(q.dtype == torch.bfloat16), int(is_backward)):
        raise MemoryError(f"not enough memory for forest attention over {q.shape[1]} tokens")


def _rows(x: Tensor) -> Tensor:
    """With the numbers of a row side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(q: Tensor, k: Tensor, v: Tensor) -> dict[str, int]:
    return dict(zip(STRIDES, (*q.stride()[:2], *k.stride()[:2], *v.stride()[:2])))


@torch.library.custom_op("tunesmith::kernel_attention", mutates_args=())
def attention(
    q: Tensor, k: Tensor, v: Tensor, layout: list[Tensor], scale: float, window: int | None
) -> tuple[Tensor, Tensor]:
    """q [heads, N, d], k [h, N, d], v [h, N, dv] -> out [N, heads, dv], log-sum-exp [h, N, g] in log2."""
    q, k, v = _rows(q), _rows(k), _rows(v)
    (heads, num, _), h = q.shape, k.shape[0]
    out, lse = v.new_empty(num, heads, v.shape[2]), q.new_empty(h, num, heads // h, dtype=torch.float32)
    start, stop, parent = pieces(*layout)
    tensors = {"q": q, "k": k, "v": v, "to": out, "lse": lse, "start": start, "stop": stop, "parent": parent}
    _run(tensors, _strides(q, k, v), scale, window, is_backward=False)
    return out, lse


@attention.register_fake
def _(q, k, v, layout, scale, window):  # type: ignore[no-untyped-def]
    heads, num, _ = q.shape
    out = v.new_empty(num, heads, v.shape[-1])
    return out, q.new_empty(k.shape[0], num, heads // k.shape[0], dtype=torch.float32)


@torch.library.custom_op("tunesmith::kernel_attention_backward", mutates_args=())
def attention_backward(
    d_out: Tensor, saved: list[Tensor], layout: list[Tensor], scale: float, window: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, shaped as these. saved: q, k, v, out, log-sum-exp of the forward."""
    q, k, v, out, lse = (_rows(x) for x in saved)
    d_out = _rows(d_out)
    d_q, d_k, d_v = (x.new_empty(x.shape[1], x.shape[0], x.shape[2]) for x in (q, k, v))
    start, stop, parent = pieces(*layout)
    tensors = {"q": q, "k": k, "v": v, "out": out.contiguous(), "lse": lse.contiguous(), "d_out": d_out, "d_q": d_q}
    tensors |= {"d_k": d_k, "d_v": d_v, "start": start, "stop": stop, "parent": parent}
    strides = _strides(q, k, v) | {"g_token": d_out.stride(0), "g_head": d_out.stride(1)}
    _run(tensors, strides, scale, window, is_backward=True)
    return d_q.transpose(0, 1), d_k.transpose(0, 1), d_v.transpose(0, 1)


@attention_backward.register_fake
def _(d_out, saved, layout, scale, window):  # type: ignore[no-untyped-def]
    d_q, d_k, d_v = (x.new_empty(x.shape[1], x.shape[0], x.shape[2]).transpose(0, 1) for x in saved[:3])
    return d_q, d_k, d_v


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    q, k, v, layout, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(q, k, v, *output, *layout)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, d_out: Tensor, _: Tensor | None) -> tuple:
    saved, layout = list(ctx.saved_tensors[:5]), list(ctx.saved_tensors[5:])
    d_q, d_k, d_v = attention_backward(d_out, saved, layout, ctx.scale, ctx.window)
    return d_q, d_k, d_v, [None] * 3, None, None


attention.register_autograd(_backward, setup_context=_setup)
