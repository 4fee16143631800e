"""What goes wrong in silence where weights are spread over ranks, on one rank: its tensors are parts all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.laws import cases
from tests.laws.sessions import ADAPTS, base_of, gradient, largest, moved, records
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from tunesmith.data.pack import forest
from tunesmith.engine import sharded
from tunesmith.engine.dealing import Share, shares
from tunesmith.engine.ranks import Group
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import LostRank
from tunesmith.models.adapters import Adapt, open_slot
from tunesmith.models.peft_methods import take_out
from tunesmith.objectives.sft import SFT

ROWS = records()
DORA = Adapt("lora", rank=4, dora=True)


@pytest.fixture(scope="module", autouse=True)
def gloo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = dist.FileStore(str(tmp_path_factory.mktemp("one") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def group() -> Iterator[Group]:
    """Of one rank; a pass that fails breaks it."""
    one = Group(60)
    yield one
    one.dismiss()


def session_of(group: Group, adapt: str, **how: Any) -> Session:
    session = Session(base_of(), **how)
    session.create("t", Spec(DORA if adapt == "dora" else ADAPTS[adapt]))
    moved(session, "t")
    session.ranks = group
    return session


@pytest.mark.parametrize("adapt", [*ADAPTS, "dora"])
def test_a_sharded_tenant_learns_is_asked_and_kept_as_a_whole_one(group: Group, adapt: str) -> None:
    """To the last bit, on one rank; and goes on whole, without moments, when it was gathered."""
    session = session_of(group, adapt)
    batches = [forest(ROWS[:2]), forest(ROWS[2:9]), forest(ROWS[9:])]
    wanted, said = gradient(session, "t", batches), session.logprobs("t", batches)
    tensors, facts = session.save_state("t")
    session.spread("t")
    session.load_state("t", tensors, facts)
    assert isinstance(session.tenants["t"].slot.live[next(iter(wanted))], DTensor)
    found = gradient(session, "t", batches)
    assert largest(found, wanted) == 0
    assert all(torch.equal(a, b) for a, b in zip(session.logprobs("t", batches), said))
    again, _ = session.save_state("t")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)
    session.gather("t")
    session.ranks = group
    assert largest(gradient(session, "t", batches), wanted) == 0
    left, _ = session.save_state("t")
    assert {key.split(".")[0] for key in left} == {"masters"}


def test_body_and_head_apart_are_no_forward_pass(group: Group) -> None:
    """The root makes embeddings, norm and head whole, for one call from forest to loss. The mutant calls what is in
    it by itself."""
    session = session_of(group, "lora")
    session.spread("t")
    session.learner.run = lambda work: work()  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"mixed torch\.Tensor and DTensor"):
        gradient(session, "t", [forest(ROWS)])


def test_adapters_are_there_before_the_weights_are_spread(group: Group) -> None:
    """What is put in later is a plain tensor, of which each rank would learn its own: refused."""
    model = base_of().model
    root = sharded.Root(model, None)
    sharded.spread(root, DeviceMesh.from_group(group.group, "cpu"))
    late = open_slot(model, Adapt("lora"))
    assert not any(isinstance(p, DTensor) for p in late.live.values())  # the trap
    session = session_of(group, "lora")
    take_out(session.base.model)
    with pytest.raises(AssertionError, match="before it is spread"):
        session.spread("t")


def test_norms_and_adapters_are_of_one_number_format(group: Group) -> None:
    """Adapters have the model's; norms that a model keeps in float32 and that train beside others are refused (by the
    plan before that)."""
    base = base_of()
    base.model.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
    adapters = open_slot(base.model, Adapt("lora", rank=4))
    assert {p.dtype for p in adapters.live.values()} == {torch.bfloat16}
    mixed = base_of()
    mixed.model.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
    for layer in mixed.model.model.layers:
        layer.input_layernorm.float()
    session = Session(mixed)
    session.create("t", Spec(Adapt("named", names=("*layernorm*", "*q_proj*"))))
    session.ranks = group
    session.spread("t")
    with pytest.raises(AssertionError, match="uniform original parameter dtype"):
        gradient(session, "t", [forest(ROWS)])


def test_a_rank_that_is_lost_in_a_pass_is_told_so(group: Group) -> None:
    """And what else goes wrong there is not taken for it."""
    session = session_of(group, "lora")
    session.spread("t")

    def gone(work: object) -> torch.Tensor:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2000")

    def wrong(work: object) -> torch.Tensor:
        raise RuntimeError("shapes differ")

    session.learner.run = wrong  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes differ"):
        session.learner.teach(*asked(session))
    session.learner.run = gone  # type: ignore[method-assign]
    with pytest.raises(LostRank, match="another process of this run is gone"):
        session.learner.teach(*asked(session))


def asked(session: Session) -> tuple[Any, ...]:
    return session.tenants["t"], Share((0,), [forest(ROWS)]), (0,), SFT(), 1.0, session.ranks


def test_every_rank_makes_as_many_passes() -> None:
    """By hand: the dearest to the first; two have to run the cheapest again, or would be waited for for ever."""
    batches = [cases.forest((n,), (-1,)) for n in (3, 5, 9, 2)]
    found = shares([3.0, 5.0, 20.0, 2.0], batches, 3, pads=True)
    assert [part.numbers for part in found] == [(2,), (1,), (0, 3)]
    assert [len(part.batches) + len(part.idle) for part in found] == [2, 2, 2]
    assert all(idle.num_tokens == 2 for part in found for idle in part.idle)
    assert [len(part.idle) for part in shares([3.0, 5.0, 20.0, 2.0], batches, 3, pads=False)] == [0, 0, 0]
