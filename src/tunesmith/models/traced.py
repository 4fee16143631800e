"""Memory that tensors of a computation take at most, from running it on a twin of the model that holds no numbers.

The twin is made of meta tensors: every operation gives the shapes that it would give, and takes no memory and hardly
any time. What is alive at each moment is counted by storage, as an allocator would. What the kernels take inside is not
seen, but for forest attention, whose copies are known.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoModelForCausalLM, PreTrainedModel

from tunesmith.models import chunked
from tunesmith.models.blockwise import hold_alike
from tunesmith.models.forward import hidden_states, scored
from tunesmith.models.heads import Head
from tunesmith.models.score_head import ScoreHead
from tunesmith.types import Forest

META = torch.device("meta")
OWN = "tunesmith::forest_attention"
GIVEN: dict[Any, tuple[torch.Size, tuple[int, ...], torch.dtype]] = {}  # by function and kind of its arguments
MOST_GIVEN = 10_000


class Untraceable(Exception):
    """An operation that needs numbers (experts that are chosen, say), in torch's words."""


class Living(TorchDispatchMode):
    """Bytes of the meta tensors that are alive, now and at most, above what was there when it was entered."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, Any] = {}

    def note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return

        def gone(_: Any) -> None:
            del self._seen[key]
            self.now -= size

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def known(self, tensors: Iterable[Tensor]) -> None:
        """These count as there before."""
        before = self.now
        for tensor in tensors:
            self.note(tensor)
        self.peak -= self.now - before
        self.now = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return False  # a question about numbers: models ask whether a mask is empty
        if func is torch.ops.aten.equal.default and args[0].is_meta:
            return True
        if func.name().startswith(OWN):
            self.peak = max(self.peak, self.now + copies(func.name(), args))
        out = given(func, args, kwargs or {})
        for found in tree_iter(out):
            if isinstance(found, Tensor) and found.is_meta:
                self.note(found)
        return out


def given(func: Any, args: Any, kwargs: Any) -> Any:
    """`func(*args, **kwargs)`, asked of torch once for each kind of arguments: on meta tensors it runs many operations
    in Python, and the layers of a model are alike. Only where all tensors are meta and none is changed or seen through
    another."""
    key = kind_of(func, args, kwargs) if is_pure(func) else None
    if key is None:
        return func(*args, **kwargs)
    if key not in GIVEN:
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor) or not out.is_meta or is_seen_through(out, (args, kwargs)):
            return out
        if len(GIVEN) >= MOST_GIVEN:
            GIVEN.clear()
        GIVEN[key] = (out.shape, out.stride(), out.dtype)
        return out
    shape, stride, dtype = GIVEN[key]
    return torch.empty_strided(shape, stride, dtype=dtype, device=META)


@cache
def is_pure(func: Any) -> bool:
    return not any(value.alias_info for value in (*func._schema.arguments, *func._schema.returns))


def is_seen_through(out: Tensor, values: Any) -> bool:
    """Whether an argument's storage is the result's: `_unsafe_view` does not say so of itself."""
    mine = out.untyped_storage()._cdata
    return any(v.untyped_storage()._cdata == mine for v in tree_iter(values) if isinstance(v, Tensor))


def kind_of(*values: Any) -> tuple[Any, ...] | None:
    """What tells the shapes of a result apart; None: more than shapes may decide."""
    kind: list[Any] = []
    for value in values:
        if isinstance(value, Tensor):
            if not value.is_meta:
                return None
            kind += [value.shape, value.stride(), value.dtype]
        elif isinstance(value, (list, tuple, dict)):
            inner = kind_of(*value.items() if isinstance(value, dict) else value)
            if inner is None:
                return None
            kind.append(inner)
        else:
            kind += [type(value), value]  # 1, 1.0 and True are equal, and give other dtypes
    return tuple(kind)


def copies(name: str, args: Any) -> int:
    """Bytes that forest attention takes inside at most: its inputs grouped by heads, and what it makes by rows and by
    tokens, each once."""
    if name.startswith(f"{OWN}_backward"):
        d_out, (q, k, v, out, _) = args[0], args[1]
        return sum(x.numel() * x.element_size() for x in (q, k, v, d_out, out, q, k, v, q, k, v))
    q, k, v = args[:3]
    return sum(x.numel() * x.element_size() for x in (q, k, v, q))


@dataclass(frozen=True, slots=True)
class Traced:
    """Bytes beside weights and optimizer: kept by the layers until the backward, and at most."""

    kept: int
    peak: int


def twin_of(model: PreTrainedModel) -> PreTrainedModel:
    """The same architecture without numbers and without adapters, its layers held in as many bits."""
    with META:
        twin: PreTrainedModel = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    hold_alike(twin, model)
    twin.requires_grad_(False)
    return twin


@torch.no_grad()
def trace_scoring(model: PreTrainedModel, head: Head, forest: Forest) -> Traced:
    """Of the log-probabilities of a forest's learned tokens, or of a reward model's scores, without gradients."""
    twin = twin_of(model)
    asked = scored(forest)
    there = replace(forest, tokens=forest.tokens.to(META), positions=forest.positions.to(META))
    head = replace(head, model=twin)

    def score(living: Living) -> int:
        hidden = hidden_states(twin, there, "forest")
        if isinstance(head, ScoreHead):
            return head.scores(hidden, forest).numel()
        return chunked.logp(hidden[asked.at.to(META)], head.projection, asked.target.to(META)).numel()

    return traced(twin, score)


def traced(twin: PreTrainedModel, work: Callable[[Living], int]) -> Traced:
    """`work` says what is kept at its end or before its backward. Raises Untraceable."""
    with Living() as living:
        living.known((*twin.parameters(), *twin.buffers()))
        try:
            kept = work(living)
        except RuntimeError as error:
            raise Untraceable(str(error).strip().splitlines()[0]) from error
        return Traced(kept, living.peak)
