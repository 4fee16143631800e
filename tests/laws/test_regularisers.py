"""Laws over the product of regulariser, what trains, cut, packing and resume. A fault planted in each shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from tests.laws.sessions import ADAPTS, base_of, largest, moved, records
from torch import Tensor
from torch.func import functional_call

from tunesmith.data.feed import FileFeed
from tunesmith.data.pack import forest
from tunesmith.data.twins import doubled
from tunesmith.engine import checkpoint
from tunesmith.engine.fisher import fisher
from tunesmith.engine.loop import State, train
from tunesmith.engine.optim import AdamW
from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec, drawing
from tunesmith.models.adapters import Adapt
from tunesmith.objectives.sft import SFT
from tunesmith.regularisers.average import Ema, Mean, Tail
from tunesmith.regularisers.ewc import EWC
from tunesmith.regularisers.kl import KLToBase
from tunesmith.regularisers.l2sp import L2SP
from tunesmith.regularisers.mixout import Mixout
from tunesmith.regularisers.neftune import NEFTune
from tunesmith.regularisers.rdrop import RDrop
from tunesmith.roles import Regulariser, Site
from tunesmith.types import Forest, Record


@cache
def measured() -> dict[str, Tensor]:
    """The Fisher information of all weights of the base, on rows that are not learned."""
    return fisher(base_of(), ADAPTS["full"], records(4, seed=9), seed=1)


MAKE: dict[str, tuple[Callable[[float], Regulariser], float]] = {
    "mixout": (Mixout, 0.4),
    "l2sp": (L2SP, 0.5),
    "ewc": (lambda strength: EWC(strength, measured()), 300.0),
    "kl": (KLToBase, 0.5),
    "neftune": (NEFTune, 20.0),
    "rdrop": (RDrop, 2.0),
}
DROPPING = {**ADAPTS, "lora": replace(ADAPTS["lora"], dropout=0.3)}


def session_with(adapt: Adapt, *regularisers: Regulariser, seed: int = 0) -> Session:
    session = Session(base_of())
    session.create("t", Spec(adapt, seed=seed))
    moved(session, "t")
    session.tenants["t"].spec = replace(session.tenants["t"].spec, regularisers=regularisers)
    return session


def gradient(session: Session, batches: Sequence[Forest]) -> dict[str, Tensor]:
    """Of one update, with what regularisers add to it."""
    tenant = session.tenants["t"]
    units = float(sum(SFT().count(b) for b in batches))
    session.forward_backward("t", batches, SFT(), 1 / units)
    for name in tenant.trainable:
        tenant.masters[name].grad = tenant.pending.get(name)
    for regulariser in tenant.spec.regularisers:
        regulariser.before_clip(session._site(tenant))
    found = {n: m.grad.clone() for n, m in tenant.masters.items() if m.grad is not None}
    for master in tenant.masters.values():
        master.grad = None
    tenant.forget_gradients()
    return found


def rows_for(kind: str) -> list[Record]:
    return [doubled(r) for r in records()] if kind == "rdrop" else records()


@pytest.mark.parametrize(("kind", "adapt"), [*((k, a) for k in MAKE for a in ("lora", "full")), ("mixout", "last_k")])
def test_an_update_is_the_same_however_it_is_cut_and_packed(kind: str, adapt: str) -> None:
    make, strength = MAKE[kind]
    session, rows = session_with(DROPPING[adapt], make(strength)), rows_for(kind)
    whole = gradient(session, [forest(rows, share_prefix=False)])
    cut = gradient(session, [forest(part, share_prefix=False) for part in (rows[:1], rows[1:8], rows[8:])])
    assert largest(whole, cut) < 1e-5
    back = gradient(session, [forest(rows[::-1], share_prefix=False)])
    assert largest(whole, back) < 1e-5
    plain = gradient(session_with(DROPPING[adapt]), [forest(rows, share_prefix=False)])
    if kind != "rdrop" or adapt == "lora":  # without dropout the twins are one, which the plan refuses
        assert largest(whole, plain) > 1e-3
    if kind != "neftune":  # whose noise depends on the example's length: the feed shares no prefix under it
        assert largest(whole, gradient(session, [forest(rows)])) < 1e-5


class Drawn(Mixout):
    """Mutant: masks drawn anew for each micro-batch."""

    def kept(self, site: Site, name: str, shape: tuple[int, ...], update: int) -> Tensor:
        return torch.rand(shape) >= self.p


class Unkeyed(NEFTune):
    """Mutant: noise from the random state of the call."""

    def attach(self, site: Site) -> Callable[[], None]:
        def noisy(_: Any, __: Any, embedded: Tensor) -> Tensor:
            return embedded + (torch.rand_like(embedded) * 2 - 1) * self.alpha / (30 * embedded.shape[-1]) ** 0.5

        return site.model.get_input_embeddings().register_forward_hook(noisy).remove  # type: ignore[operator]


@pytest.mark.parametrize("mutant", [Drawn(0.4), Unkeyed(20.0)])
def test_mutant_noise_of_the_call_makes_the_cut_show(mutant: Regulariser) -> None:
    session, rows = session_with(DROPPING["lora"], mutant), records()
    whole = gradient(session, [forest(rows, share_prefix=False)])
    cut = gradient(session, [forest(part, share_prefix=False) for part in (rows[:1], rows[1:8], rows[8:])])
    assert largest(whole, cut) > 1e-3


def tuned(adapt: Adapt, *regularisers: Regulariser) -> dict[str, Tensor]:
    session = Session(base_of())
    session.create("t", Spec(adapt, regularisers=regularisers))
    moved(session, "t")
    return session.tenants["t"].masters


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_at_strength_0_all_of_them_together_are_the_identity(adapt: str) -> None:
    plain = tuned(ADAPTS[adapt])
    none = tuned(ADAPTS[adapt], *(make(0.0) for make, _ in MAKE.values()), Ema(0.5), Tail(1))
    assert all(torch.equal(plain[n], none[n]) for n in plain)


def a_run(
    adapt: Adapt, regularisers: Sequence[Regulariser], stop_at: int | None = None, folder: Any = None
) -> dict[str, Tensor]:
    """Six updates, optionally stopped, saved and gone on with by another session; masters and means."""
    rows = [doubled(r) for r in records()] if any(isinstance(r, RDrop) for r in regularisers) else records()
    for first, last in ((0, 6),) if stop_at is None else ((0, stop_at), (stop_at, 6)):
        session = Session(base_of())
        feed = FileFeed(rows, update_tokens=64 * len(rows) // 12, micro_tokens=96, epochs=3, seed=3)
        session.create("t", Spec(adapt, AdamW(weight_decay=0.01), seed=5, regularisers=tuple(regularisers)))
        state = State("t", SFT(), Schedule("cosine", 0.2), 1e-2, 6)
        if first:
            path, _ = checkpoint.newest(folder)
            assert path is not None
            for regulariser in regularisers:
                if isinstance(regulariser, Mean):
                    regulariser.values = {}
            checkpoint.load(path, session, state, feed)
        train(session, state, feed, last)
        if last == stop_at:
            checkpoint.save(folder, session, state, feed)
    found = {n: t.clone() for n, t in session.tenants["t"].masters.items()}
    means = [r for r in regularisers if isinstance(r, Mean)]
    return found | {f"{i}.{n}": t.clone() for i, r in enumerate(means) for n, t in r.values.items()}


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_a_resume_goes_on_with_all_of_them_to_the_same_bits(adapt: str, tmp_path: Any) -> None:
    def all_of_them() -> list[Regulariser]:
        return [*(make(strength) for make, strength in MAKE.values()), Ema(0.6), Tail(2)]

    whole = a_run(DROPPING[adapt], all_of_them())
    resumed = a_run(DROPPING[adapt], all_of_them(), 3, tmp_path)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)
    assert any(not torch.equal(whole[n], t) for n, t in a_run(DROPPING[adapt], []).items())


def test_mixout_of_weights_is_what_autograd_says() -> None:
    """Session and autograd agree on the gradient of the loss at the mixed weights with respect to the weights."""
    drop = Mixout(0.4)
    session = session_with(ADAPTS["full"], drop)
    tenant, batch = session.tenants["t"], forest(records(), share_prefix=False)
    found = gradient(session, [batch])
    site = session._site(tenant)
    leaves = {n: m.clone().requires_grad_() for n, m in tenant.masters.items()}
    mixed = {}
    for n, w in leaves.items():
        if w.dim() < 2:
            mixed[n] = w
            continue
        kept = drop.kept(site, n, tuple(w.shape), site.update).float()
        u = site.neutral[n]
        mixed[n] = ((1 - kept) * u + kept * w - 0.4 * u) / 0.6
    total = torch.zeros(())
    for row in records():
        tokens = torch.from_numpy(row.segments[0].tokens)
        logits = functional_call(session.base.model, mixed, (), {"input_ids": tokens[None]}).logits[0, :-1]
        learned = torch.from_numpy(row.segments[0].weights[1:])
        total = total - (logits.log_softmax(-1).gather(1, tokens[1:, None])[:, 0] * learned).sum()
    (total / batch.weights.sum()).backward()
    wanted = {n: leaves[n].grad for n in found}
    assert largest(found, wanted) < 1e-5  # type: ignore[arg-type]
    authors = {n: g * 0.6 if g.dim() == 2 else g for n, g in found.items()}
    assert largest(authors, wanted) > 0.1  # type: ignore[arg-type]


def test_mixout_under_lora_drops_entries_of_the_change_and_nothing_of_the_base() -> None:
    drop = Mixout(0.4)
    session = session_with(ADAPTS["lora"], drop)
    tenant, batch = session.tenants["t"], forest(records(3), share_prefix=False)
    plain = session.logprobs("t", [batch])[0]
    session._put(tenant)
    undo, site = drop.attach(session._site(tenant)), session._site(tenant)
    with torch.no_grad(), drawing(tenant, 0, batch):
        found = session._output(tenant, batch).logp()
    undo()
    assert torch.equal(session.logprobs("t", [batch])[0], plain)
    twin = base_of().model
    for pair in site.pairs:
        change = pair.scale * site.masters[pair.b] @ site.masters[pair.a]
        kept = drop.kept(site, pair.module, tuple(change.shape), site.update)
        twin.get_submodule(pair.module).weight.data += change * kept / 0.6
    wanted = Session(replace(base_of(), model=twin))  # the base whose weights are the mixed ones
    wanted.base.head = replace(wanted.base.head, model=twin)  # type: ignore[type-var]
    assert float((found - wanted.logprobs(None, [batch])[0]).abs().max()) < 1e-5
    assert float((found - plain).abs().max()) > 1e-2


def test_the_mean_of_the_weights_is_the_mean() -> None:
    ema, tail, seen = Ema(0.6), Tail(2), []

    class Keep(Regulariser):
        def on_update(self, site: Any) -> None:
            seen.append({n: m.clone() for n, m in site.masters.items()})

    a_run(ADAPTS["lora"], [ema, tail, Keep()])
    assert len(seen) == 6
    for name in seen[0]:
        by_hand = seen[0][name]
        for t, w in enumerate(seen[1:], 2):
            d = min(0.6, 1 - 1 / t)
            by_hand = d * by_hand + (1 - d) * w[name]
        assert torch.allclose(ema.values[name], by_hand, atol=1e-6)
        assert torch.allclose(tail.values[name], sum(w[name] for w in seen[2:]) / 4, atol=1e-6)
    last = Ema(0.0)
    whole = a_run(ADAPTS["lora"], [last])
    assert all(torch.equal(whole[n], last.values[n]) for n in last.values)


def test_kl_to_the_base_is_the_plain_sum_over_the_vocabulary() -> None:
    session = session_with(ADAPTS["lora"], KLToBase(0.7))
    row = records()[5]
    tokens, learned = torch.from_numpy(row.segments[0].tokens)[None], torch.from_numpy(row.segments[0].weights[1:]) > 0
    found = session.forward_backward("t", [forest([row])], SFT(), 1.0)["kl_nats_per_token"]
    sides = []
    for who in ("t", None):
        session._put(session._holder(who))
        with torch.no_grad():
            sides.append(session.base.model(input_ids=tokens).logits[0, :-1][learned].double().log_softmax(-1))
    wanted = float((sides[0].exp() * (sides[0] - sides[1])).sum())
    assert float(found.num) == pytest.approx(wanted, rel=1e-4)
    assert wanted > 1e-3
    fresh = Session(base_of())
    fresh.create("t", Spec(ADAPTS["lora"], regularisers=(KLToBase(0.7),)))
    assert abs(fresh.forward_backward("t", [forest([row])], SFT(), 1.0)["kl_nats_per_token"].mean) < 1e-6
