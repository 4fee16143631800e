"""Weights spread over the ranks (FSDP2): each holds a part of every tensor, and a layer is whole while it runs.

What learns is a twin of the base's model that shares nothing with it but the code. Its root is called once for each
micro-batch, from the forest to the loss: embeddings, the last norm and the head are whole inside of that call alone.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from tunesmith.engine.dealing import Share
from tunesmith.engine.learner import Holder, Learner, said
from tunesmith.engine.optim import build, global_norm
from tunesmith.engine.ranks import Group, Ranks, buckets
from tunesmith.engine.tenant import Tenant, drawing
from tunesmith.models.adapters import layers_in, stacks_of
from tunesmith.models.depth import depths, factors
from tunesmith.models.load import Base
from tunesmith.models.output import ForwardOutput
from tunesmith.roles import Objective
from tunesmith.types import Forest, Ratio

STATE = re.compile(r"(masters|optimizer\.\w+?)\.")  # what stands before a tensor's name in a tenant's state


class Root(nn.Module):
    """The model and its tenant's own heads. Whatever is done with them is done in here."""

    def __init__(self, model: PreTrainedModel, heads: nn.ModuleDict | None) -> None:
        super().__init__()
        self.model, self.heads = model, heads

    def forward(self, work: Callable[[], Tensor]) -> Tensor:
        return work()

    def behind(self) -> list[nn.Parameter]:
        """What no hidden state comes through, and a loss need not: heads."""
        inside = {id(p) for p in self.model.base_model.parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in inside]


class Sharded(Learner):
    """`tenant` holds a part of masters and moments, the same part of each tensor as the model's."""

    is_sharded = True

    def __init__(self, base: Base, tenant: Tenant, ranks: Ranks, *, checkpointing: bool) -> None:
        """The base's own weights have to be live in `base`. Adapters are in it already: what comes later would not be
        shared between the ranks, and nobody would say so."""
        assert isinstance(ranks, Group)
        slot, model = tenant.slot, base.model
        heads = slot.heads
        own = [*model.parameters(), *(heads.parameters() if heads is not None else ())]
        memo: dict[int, object] = {id(p): p for p in own}  # parts are cut from them
        memo[id(slot.draw)] = slot.draw
        twin, mine = cast(tuple[PreTrainedModel, nn.ModuleDict | None], copy.deepcopy((model, heads), memo))
        super().__init__(
            replace(base, model=twin, head=replace(base.head, model=twin)), self.live, checkpointing=checkpointing
        )
        self.root, self.ranks = Root(twin, mine), ranks
        self.mesh = DeviceMesh.from_group(ranks.group, model.device.type)
        names = {id(p): name for name, p in slot.live.items()}
        paths = {path: names[id(p)] for path, p in self.root.named_parameters() if id(p) in names}
        self.shapes = {name: p.shape for name, p in slot.live.items()}
        for p in slot.live.values():  # what FSDP finds so stays so
            p.requires_grad_(True)
        spread(self.root, self.mesh)
        for p in slot.live.values():
            p.requires_grad_(False)
        there = dict(self.root.named_parameters())
        live = {name: there[path] for path, name in paths.items()}
        assert live.keys() == slot.live.keys(), "what trains is in the model before it is spread"
        self.base.put(slot.adapt.context)
        own_slot = replace(slot, live={name: live[name] for name in slot.live}, neutral={}, holder=None, heads=mine)
        spec = tenant.spec
        depth = depths(model, slot.live) if spec.by_depth != 1 else {}
        masters = {n: self.part(f"masters.{n}", t) for n, t in tenant.masters.items()}
        optimizer = build(masters, spec.optim, factors(depth, spec.by_depth))
        self.tenant = Tenant(tenant.name, spec, own_slot, masters, optimizer, tenant.trainable, tenant.num_updates)

    @torch.no_grad()
    def live(self, holder: Holder) -> Holder:
        """The tenant's parts; nobody else learns here."""
        assert holder is self.tenant
        slot = self.tenant.slot
        if slot.holder is not self.tenant:
            for name, parameter in slot.live.items():
                self.mine(parameter).copy_(self.tenant.masters[name])
            slot.holder = self.tenant
        return holder

    def teach(
        self, tenant: Tenant, share: Share, keys: Sequence[object], objective: Objective, scale: float, ranks: Ranks
    ) -> dict[str, Ratio]:
        with self.ranks.computing():
            return super().teach(tenant, share, keys, objective, scale, ranks)

    def switch(self, tenant: Tenant, *, on: bool) -> None:
        """Nothing: FSDP has noted what trains."""

    def run(self, work: Callable[[], Tensor]) -> Tensor:
        found: Tensor = self.root(work)
        return found

    def touched(self, total: Tensor, out: ForwardOutput) -> Tensor:
        """With nothing times what trains: ranks add up the gradients that they have, and have to have the same."""
        ends = [out.hidden, *self.root.behind()]
        return torch.stack([total, *(end.sum().to(total) * 0 for end in ends)]).sum()

    def idle(self, tenant: Tenant, share: Share, *, learns: bool) -> None:
        for forest in share.idle:
            self.passed(tenant, forest.to(self.base.model.device), learns=learns)

    def passed(self, tenant: Tenant, forest: Forest, *, learns: bool) -> None:
        """A pass of which nothing is learned."""

        def nothing() -> Tensor:
            out = said(self.base, tenant, forest)
            return self.touched(out.hidden.new_zeros((), dtype=torch.float32), out)

        with torch.set_grad_enabled(learns), drawing(tenant, "idle", forest):
            total = self.run(nothing)
            if learns:
                total.backward()
                tenant.take_gradients(self.mine)

    def noisy(self, tenant: Tenant, key: object, batch: Forest) -> ForwardOutput:
        kept: list[ForwardOutput] = []

        def work() -> Tensor:
            kept.append(super(Sharded, self).noisy(tenant, key, batch))
            return kept[0].hidden

        self.run(work)
        return kept[0]

    def mine(self, tensor: Tensor) -> Tensor:
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    @torch.no_grad()
    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In few pieces, and on the CPU. Of each tensor the ranks' rows follow each other, and what is padded comes
        last."""
        shapes = {key: shape for key, t in tensors.items() if t.dim() and (shape := self.shape(key)) is not None}
        sizes = {key: self.rows(shape) * shape[1:].numel() for key, shape in shapes.items()}
        found = {key: t for key, t in tensors.items() if key not in shapes}
        for keys in buckets(sizes):
            flat = torch.cat([pad(tensors[key].reshape(-1), (0, sizes[key] - tensors[key].numel())) for key in keys])
            every = self.ranks.gathered(flat)
            if every is not None:
                for key, piece in zip(keys, every.split([sizes[key] for key in keys], 1)):
                    found[key] = piece.reshape(-1)[: shapes[key].numel()].view(shapes[key]).cpu()
        return {key: found[key] for key in tensors} if self.ranks.rank == 0 else {}

    def shape(self, key: str) -> torch.Size | None:
        """Of the whole tensor that a key of a tenant's state is about; None: it is no part of one."""
        return self.shapes.get(STATE.sub("", key, 1))

    def rows(self, shape: torch.Size) -> int:
        """Of each rank but the last ones that have any."""
        return -(-shape[0] // self.ranks.size)

    def part(self, key: str, tensor: Tensor) -> Tensor:
        """The rows of this rank, as torch.chunk cuts them; the last ranks may have none."""
        if self.shape(key) != tensor.shape:
            return tensor
        rows = self.rows(tensor.shape)
        return tensor[rows * self.ranks.rank : rows * (self.ranks.rank + 1)].clone()

    def summed(self, gradients: dict[str, Tensor], like: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
        """Each backward pass has summed them."""
        return gradients

    def norm(self, tensors: dict[str, Tensor]) -> Tensor:
        return self.ranks.sum_(global_norm(tensors).double().square()).sqrt()


def spread(root: Root, mesh: DeviceMesh) -> None:
    """Layer by layer; the rest goes with the root. Gradients are added up in float32, and not divided. Nothing is cast
    by FSDP: weights are in the precision of the run already, and a batch's weights and advantages stay as they are."""
    wide = torch.promote_types(root.model.dtype, torch.float32)
    policy = MixedPrecisionPolicy(reduce_dtype=wide, cast_forward_inputs=False)
    for stack in stacks_of(root.model):
        for layer in layers_in(stack):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(root, mesh=mesh, mp_policy=policy)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
