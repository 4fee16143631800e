"""The model session: one base model, loaded once, and any number of tenants on it (DESIGN, idea 6).

Every surface works through these verbs; none reaches around them. A verb copies its tenant into the slot under a lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.engine.cuts import Cuts
from tunesmith.engine.learner import Holder, Learner, said
from tunesmith.engine.memory import KEPT, Freed
from tunesmith.engine.optim import global_norm, step
from tunesmith.engine.ranks import ALONE, Ranks
from tunesmith.engine.sharded import Sharded
from tunesmith.engine.tenant import Snapshot, Spec, Tenant, Who, begun_prompts
from tunesmith.errors import NotFinite, Overflow, PlanError, RunError
from tunesmith.generate.decode import Sampler
from tunesmith.generate.kept import Kept
from tunesmith.generate.limits import Limits
from tunesmith.generate.plain import generate_plain
from tunesmith.generate.stream import Ask, Piece, Reader, as_steps, unfold
from tunesmith.models import kernel
from tunesmith.models.adapters import Slot, activate_adapter, layers_of, open_slot, slot_key
from tunesmith.models.artifact import about_adapter, read_adapter, save_weights
from tunesmith.models.before import Prefixed
from tunesmith.models.depth import depths
from tunesmith.models.load import Base
from tunesmith.models.output import ForwardOutput
from tunesmith.models.peft_methods import take_out
from tunesmith.models.seq2seq import asking
from tunesmith.objectives.policy import tempered
from tunesmith.roles import Objective, Site
from tunesmith.types import Completion, Forest, Ratio


class Session:
    """Verbs over a base and its tenants. Layers are `compiled`, or (`checkpointing`) run again to save memory."""

    def __init__(self, base: Base, *, compiled: bool = False, checkpointing: bool = False, freed: Freed = KEPT) -> None:
        self.base, self.compiled, self.checkpointing = base, compiled, checkpointing
        self.learner = Learner(base, self._put, checkpointing=checkpointing)
        self._lent: Snapshot | None = None  # a sharded tenant's weights, whole, while it is asked
        self.tenants: dict[str, Tenant] = {}
        self.slots: dict[str, Slot] = {}
        self.cuts = Cuts()
        self.ranks: Ranks = ALONE
        self._active: Slot | None = None
        self._lock = threading.RLock()
        self.freed = freed
        freed.set_up()
        if compiled:
            kernel.compile_layers(layers_of(base.model))

    # -- tenants ------------------------------------------------------------------------------------------------

    def create(self, name: str, spec: Spec) -> None:
        """A new tenant at update 0. Its initial weights depend on its own seed alone."""
        with self._lock:
            if name in self.tenants:
                raise PlanError(f"there is a tenant {name} already; unload it or take another name")
            key = slot_key(spec.adapt, spec.heads)
            if key not in self.slots:
                if any(s.adapt.method != "lora" or spec.adapt.method != "lora" for s in self.slots.values()):
                    raise PlanError("several tenants on one base are for LoRA; other methods train in one tenant only")
                self.slots[key] = open_slot(self.base.model, spec.adapt, spec.heads, spec.seed)
            elif spec.adapt.method != "lora" and any(t.slot.key == key for t in self.tenants.values()):
                raise PlanError("several tenants on one base are for LoRA; other methods train in one tenant only")
            slot = self.slots[key]
            depth = depths(self.base.model, slot.live) if spec.by_depth != 1 else {}
            self.tenants[name] = Tenant.new(name, spec, slot, depth)

    def create_from(self, name: str, folder: Path, *, insist: bool = False) -> None:
        """A new tenant that goes on from an adapter folder. Refused on another base unless the user insists."""
        with self._lock, about_adapter(folder):
            adapt, values = read_adapter(folder, self.base.digest, insist=insist)
            self.create(name, Spec(adapt))
            self.tenants[name].start_from(values)

    def unload(self, name: str) -> None:
        with self._lock:
            self._tenant(name).slot.holder = None
            del self.tenants[name]

    def set_trainable(self, name: str, tensors: Sequence[str]) -> None:
        """Only these tensors of the tenant train from now on."""
        with self._lock, self.ranks.all("set_trainable", name, tensors):
            self._tenant(name).select(tensors)

    # -- learning -----------------------------------------------------------------------------------------------

    def forward_backward(
        self, name: str, batches: Sequence[Forest], objective: Objective, scale: float
    ) -> dict[str, Ratio]:
        """Add the gradient of `scale` times the summed loss of the micro-batches to the tenant's pending gradients."""
        with self._lock, self.ranks.all("forward_backward", name, (), objective, scale):
            mine = self.ranks.dealt(batches, self.base, pads=self.learner.is_sharded)
            tenant, self._lent, began = self._tenant(name), None, time.monotonic()

            def teach(cut: list[Forest]) -> dict[str, Ratio]:
                keys = self.ranks.keys(mine, len(cut))
                return self.learner.teach(tenant, replace(mine, batches=cut), keys, objective, scale, self.ranks)

            # what is pending could not be made again, and other ranks do not make again what they shared
            is_shared = self.learner.is_sharded or (self.ranks.size > 1 and "shared" in objective.needs)
            if tenant.pending or is_shared:
                stats = teach(mine.batches)
            else:
                stats = self.cuts.learned(mine.batches, tenant.num_updates + 1, teach)
            self.freed.tidy()
            return self.ranks.totals(stats, time.monotonic() - began)

    def forget_gradients(self, name: str) -> bool:
        """Drop what is pending. True where all of it was finite."""
        with self._lock, self.ranks.all("forget_gradients", name):
            pending = self._tenant(name).pending
            is_finite = not pending or bool(global_norm(pending).isfinite())
            self._tenant(name).forget_gradients()
            return self.ranks.each(is_finite)

    def skip_update(self, name: str) -> None:
        """Count an update in which nothing was learned, so that the noise of the next one is its own."""
        with self._lock, self.ranks.all("skip_update", name):
            self._tenant(name).num_updates += 1

    def optim_step(self, name: str, lr: float) -> float:
        """Clip, step, clear. Returns the gradient's norm before clipping; NotFinite, and no change, where it is not."""
        with self._lock, self.ranks.all("optim_step", name, lr):
            tenant = self._tenant(name)
            params = {n: tenant.masters[n] for n in tenant.trainable}
            tenant.pending = self.learner.summed(tenant.pending, params, self.ranks)
            if not tenant.pending:
                raise RunError(f"tenant {name} has no pending gradient: call forward_backward first")
            for n, master in params.items():
                master.grad = tenant.pending.get(n)
            ids = tuple(dict.fromkeys(tenant.pending_ids))
            limit = tenant.spec.optim.clip_norm
            try:
                for regulariser in tenant.spec.regularisers:
                    regulariser.before_clip(self._site(tenant))
                gradients = {n: p.grad for n, p in params.items() if p.grad is not None}
                norm = self.learner.norm(gradients)
                if not norm.isfinite():
                    raise NotFinite(ids)
                if limit and norm > limit:
                    torch._foreach_mul_(list(gradients.values()), float(limit / norm))
                step(tenant.optimizer, lr)
            finally:
                tenant.forget_gradients()
                for master in params.values():
                    master.grad = None
            tenant.num_updates += 1
            tenant.slot.holder = self._lent = None
            if not self.learner.norm(params).isfinite():
                raise Overflow(tenant.num_updates, lr)
            for regulariser in tenant.spec.regularisers:
                regulariser.on_update(self._site(tenant))
            return float(norm)

    # -- asking -------------------------------------------------------------------------------------------------

    def logprobs(self, who: Who, batches: Sequence[Forest], temperature: float = 1.0) -> list[Tensor]:
        """[L] nats of the learned tokens of each forest, on the CPU."""
        return self._asked(who, batches, lambda out: tempered(out, temperature))

    def scores(self, who: Who, batches: Sequence[Forest]) -> list[Tensor]:
        """[L] of a reward model, at each learned token the score of its segment, on the CPU."""
        return self._asked(who, batches, lambda out: out.scalars["score"][out.segment])

    def values(self, who: Who, batches: Sequence[Forest]) -> list[Tensor]:
        """[L] of a value head: what it expects before each learned token, on the CPU."""
        return self._asked(who, batches, lambda out: out.scalars["value"])

    @torch.no_grad()
    def _asked(self, who: Who, batches: Sequence[Forest], read: Callable[[ForwardOutput], Tensor]) -> list[Tensor]:
        with self._lock:
            holder = self._put(self._holder(who))
            work = lambda part: read(self._output(holder, part.to(self.base.model.device))).cpu()
            found = []
            for batch in batches:
                found.append(self.cuts.scored(batch, work))
                self.freed.tidy()
            return found

    def sample(
        self,
        who: Who,
        prompts: Sequence[Sequence[int]],
        limits: Limits,
        *,
        decode: Callable[[Sequence[int]], str],
        progress: Callable[[int], None] | None = None,
        kept: Kept | None = None,
    ) -> list[Completion]:
        """Completions with the log-probability of every token sampled. `decode` turns reply tokens into text."""
        with self._lock, self._eager():
            prompts = begun_prompts(self._put(self._holder(who)), prompts)
            if self.base.layout == "forest":
                call = Sampler(self.base.model, self.base.head, decode)
                answer = lambda most, k: call(prompts, most, progress, k)
            else:
                answer = lambda most, k: generate_plain(self.base.model, prompts, most, decode, progress, k)
            found = self.cuts.answered(limits, kept, answer)
            self.freed.tidy()
            return found

    def stream(self, who: Who, prompt: Sequence[int], limits: Limits, ask: Ask, reader: Reader) -> Generator[Piece]:
        """One prompt's answers, piece by piece. The session is held until the iterator is used up or closed, which must
        happen in the thread that asked. Models of other layouts than the forest's are shown when they are done."""
        with self._lock, self._eager():
            [prompt] = begun_prompts(self._put(self._holder(who)), [prompt])
            stopped: set[int] = set()
            if self.base.layout == "forest":
                sampler = Sampler(self.base.model, self.base.head, reader.text)
                steps = sampler.steps(prompt, ask.num, limits, stopped, ask.top)
            elif ask.top:
                raise PlanError(f"the layout is {self.base.layout}: it reports no other tokens than those it wrote")
            else:
                done = generate_plain(self.base.model, [prompt] * ask.num, limits, reader.text)
                steps = as_steps(done, stopped)
            yield from unfold(steps, stopped, limits, ask, reader)

    @torch.no_grad()
    def next_logits(self, who: Who, prompt: Sequence[int]) -> Tensor:
        """[V] float32 logits behind one prompt, on the CPU."""
        with self._lock, self._eager():
            [prompt] = begun_prompts(self._put(self._holder(who)), [prompt])
            if isinstance(self.base.model.get_input_embeddings(), Prefixed):  # its own attention has no place for it
                return Sampler(self.base.model, self.base.head, str).logits(prompt).float().cpu()
            return self.base.model(**asking(self.base.model, prompt)).logits[0, -1].float().cpu()

    @contextmanager
    def borrowed(self, who: Who) -> Iterator[PreTrainedModel]:
        """transformers' model itself, with the weights of whom was named, for a library that asks it its own way.
        Tokens of a tuned prompt are the caller's to put before what is asked (`begun_prompts`)."""
        with self._lock, self._eager():
            self._put(self._holder(who))
            yield self.base.model

    # -- keeping ------------------------------------------------------------------------------------------------

    def publish(self, name: str) -> Snapshot:
        """The tenant's weights as they are now, for samplers and evaluation."""
        with self._lock, self._everyone("publish", name):
            tenant = self._tenant(name)
            values = {n: t.clone() for n, t in self.learner.whole(tenant.masters).items()}
            return Snapshot(f"{name}@{tenant.num_updates}", self.slots[tenant.slot.key], values)

    def save_state(
        self, name: str, *, with_optimizer: bool = True, copies: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Where nothing `copies`, the tensors hold until something is learned or loaded."""
        return self.state_of(name, with_optimizer, copies)

    def state_of(self, name: str, with_optimizer: bool, copies: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
        with self._lock, self._everyone("state_of", name, with_optimizer, copies):
            tensors, facts = self._tenant(name).state(with_optimizer=with_optimizer, copies=copies)
            return self.learner.whole(tensors), {**facts, "base_digest": self.base.digest}

    def load_state(
        self, name: str, tensors: Mapping[str, Tensor], facts: dict[str, Any], *, insist: bool = False
    ) -> None:
        """Restore what `save_state` gave. Another base is refused unless the user insists."""
        with self._lock, self.ranks.all("load_state", name, {}, facts):
            tensors = self.ranks.given(tensors, self.learner.part)
            if facts["base_digest"] != self.base.digest and not insist:
                raise RunError(
                    f"the state was made on a base with digest {facts['base_digest'][:12]}, this one is "
                    f"{self.base.digest[:12]}: load it on the base it was made on, or insist"
                )
            tenant = self._tenant(name)
            tenant.load(tensors, facts)
            tenant.slot.holder = self._lent = None

    def spread(self, name: str) -> None:
        """Over the ranks, each of which does this: a part of every tensor on each, from here to `gather`."""
        with self._lock:
            self._put(None)
            learner = Sharded(self.base, self._tenant(name), self.ranks, checkpointing=self.checkpointing)
            self.learner, self.tenants[name] = learner, learner.tenant

    def gather(self, name: str) -> None:
        """The tenant whole in the leader again, without the optimizer's moments: nothing is learned any more."""
        with self._lock:
            tensors, facts = self.save_state(name, with_optimizer=False)
            self.learner, self.ranks = Learner(self.base, self._put, checkpointing=self.checkpointing), ALONE
            self.create(name, self.tenants.pop(name).spec)
            self.load_state(name, tensors, facts)

    def export(self, who: Who, folder: Path) -> dict[str, str]:
        """Write the weights in peft's layout (LoRA) or transformers' (weights of the model), with the base's digest.
        Gives {name: SHA-256} of the files that hold them."""
        with self._lock:
            holder = self._put(self._holder(who))
            if holder is None:
                raise RunError("the base itself is not exported; name a tenant or a snapshot")
            values = holder.masters if isinstance(holder, Tenant) else holder.values
            return save_weights(self.base.model, holder.slot, values, folder, self.base.digest)

    def close(self) -> None:
        """Leave the base as it was found: its own weights live, no adapter in it, no tenant."""
        with self._lock:
            for slot in self.slots.values():
                self._active = slot
                self._put(None)
            self.tenants, self.slots, self._active = {}, {}, None
            take_out(self.base.model)

    # -- inside -------------------------------------------------------------------------------------------------

    def _tenant(self, name: str) -> Tenant:
        if name not in self.tenants:
            raise RunError(f"no tenant {name}; there are: {', '.join(self.tenants) or 'none'}")
        return self.tenants[name]

    def _holder(self, who: Who) -> Holder:
        if not isinstance(who, str):
            return who
        if self.learner.is_sharded:
            self._lent = self._lent or self.publish(who)
            return self._lent
        return self._tenant(who)

    @torch.no_grad()
    def _put(self, holder: Holder) -> Holder:
        """Copy the weights of a tenant, a snapshot or the base (None) into their slot, unless they are there."""
        slot = self._active if holder is None else holder.slot
        if slot is None:
            return holder
        if slot is not self._active and slot.adapt.method == "lora":
            activate_adapter(self.base.model, slot.key)
        self._active = slot
        self.base.put(None if holder is None else slot.adapt.context)
        token = holder or self.base
        if slot.holder is token:
            return holder
        values = slot.neutral if holder is None else holder.masters if isinstance(holder, Tenant) else holder.values
        for name, parameter in slot.live.items():
            parameter.copy_(values[name])
        slot.holder = token
        return holder

    def _output(self, holder: Holder, batch: Forest) -> ForwardOutput:
        return said(self.base, holder, batch)

    def _site(self, tenant: Tenant) -> Site:
        return self.learner.site(tenant)

    def _everyone(self, verb: str, *words: Any) -> AbstractContextManager[None]:
        """Inside, every rank does this verb, where each holds a part of the weights."""
        return self.ranks.all(verb, *words) if self.learner.is_sharded else nullcontext()

    def _eager(self) -> AbstractContextManager[Any]:
        """Generation never runs the compiled layers: its shapes change at every token."""
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()
