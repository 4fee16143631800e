"""R10: where memory runs out, smaller pieces give the same gradient, and a resume makes the same pieces."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.faults.conftest import Counted
from tests.faults.jobs import Job
from tests.laws.sessions import ADAPTS, base_of, gradient, gradient_step, largest, moved, records

from tunesmith.data.feed import FileFeed
from tunesmith.data.halves import halves
from tunesmith.data.pack import forest, pack
from tunesmith.deaths import WORKING, memory_kills
from tunesmith.engine import checkpoint
from tunesmith.engine.cuts import Cuts, give_back
from tunesmith.engine.loop import State, train
from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.folder import RunFolder, Silent
from tunesmith.generate.limits import Limits
from tunesmith.objectives.sft import SFT
from tunesmith.recipe import parse
from tunesmith.regularisers.l2sp import L2SP
from tunesmith.roles import Site
from tunesmith.sizes import NAME, kept_sizes


def starve() -> None:
    """The allocator's own refusal."""
    torch.empty(2**60)


@contextmanager
def small_memory(session: Session, most: int, where: str) -> Iterator[None]:
    """The model refuses more than `most` tokens at once, in its forward or its backward pass."""

    def check(module: Any, args: Any, kwargs: Any, out: Any) -> None:
        hidden = out[0]
        if hidden.shape[0] * hidden.shape[1] <= most:
            return
        if where == "forward":
            starve()
        elif hidden.requires_grad:
            hidden.register_hook(lambda gradient: starve())

    hook = session.base.model.base_model.register_forward_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def fresh(adapt: str = "lora") -> Session:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS[adapt], seed=5))
    return session


def test_halves_are_the_whole() -> None:
    """Every example once, each learned token from the same context: the gradients add up."""
    session = fresh()
    moved(session, "t")
    batch = forest(records())
    both = halves(batch)
    assert both is not None
    parts = [half.forest for half in both]
    assert [e for p in parts for e in p.example_ids] == list(batch.example_ids)
    assert sum(p.num_tokens for p in parts) > batch.num_tokens  # the shared prefix stands in both
    assert largest(gradient(session, "t", [batch]), gradient(session, "t", parts)) < 1e-6
    for half in both:
        assert torch.equal(half.forest.tokens, batch.tokens[half.tokens])
    assert halves(forest(records(1))) is None


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_out_of_memory_in_a_pass(where: str, adapt: str, counted: Counted) -> None:
    session = fresh(adapt)
    moved(session, "t")
    batches = pack(records(), 90)
    whole = gradient(session, "t", batches)
    with small_memory(session, 40, where):
        cut = gradient(session, "t", batches)
    difference = largest(whole, cut)
    assert difference < 1e-6
    assert session.cuts.tokens
    assert session.cuts.tokens[-1][1] <= 45
    counted("R10", f"out of memory in {where} ({adapt}): split {len(session.cuts.tokens)} times, gradient within 1e-6")


def test_one_example_too_large_is_said() -> None:
    session = fresh()
    with small_memory(session, 3, "forward"), pytest.raises(RuntimeError, match="memory"):
        gradient(session, "t", [forest(records(2))])
    assert not session.tenants["t"].pending
    gradient_step(session, "t", [forest(records(2))])  # and the tenant goes on


def a_run(folder: Path, cuts: Cuts, hunger: int | None, first: int = 0) -> dict[str, torch.Tensor]:
    """Memory is short in the fourth update and later; `hunger` None: it is not."""
    session = fresh()
    session.cuts = cuts
    feed = FileFeed(records(), update_tokens=64, micro_tokens=64, epochs=3, seed=3)
    state = State("t", SFT(), Schedule("cosine", 0.2), 1e-2, feed.num_updates)
    if first:
        checkpoint.load(folder / checkpoint.checkpoint_name(first), session, state, feed)
    else:
        train(session, state, feed, 3)
        checkpoint.save(folder, session, state, feed)
    if hunger:
        with small_memory(session, hunger, "backward"):
            train(session, state, feed, state.num_updates)
    else:
        train(session, state, feed, state.num_updates)
    return checkpoint.taken(session, state, feed).tensors


def test_a_resume_makes_the_same_pieces(tmp_path: Path, counted: Counted) -> None:
    """Even where memory is not short any more: other pieces would have other last bits."""
    cuts = Cuts()
    starved = a_run(tmp_path, cuts, 40)
    assert cuts.tokens
    assert cuts.tokens[0][0] >= 4
    resumed = a_run(tmp_path, Cuts(list(cuts.tokens)), None, first=3)
    assert all(torch.equal(t, resumed[n]) for n, t in starved.items())
    free = a_run(tmp_path, Cuts(), None, first=3)
    assert any(not torch.equal(t, free[n]) for n, t in starved.items())  # the mutant: forgetting them would show
    counted("R10", "a resume after a split makes the same pieces: identical weights and optimizer")


def one_update(session: Session) -> float:
    """The gradient's norm."""
    feed = FileFeed(records(), 10_000, 90, 1, 0)
    norms: list[float] = []
    train(session, State("t", SFT(), Schedule(), 1e-2, feed.num_updates), feed, 1,
          [lambda _, facts: norms.append(facts["grad_norm"])])  # fmt: skip
    return norms[0]


def test_out_of_memory_in_the_optimizer(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    session, plain = fresh(), fresh()
    before = session.publish("t").values
    zeros, calls = torch.zeros_like, []

    def scarce(*args: Any, **options: Any) -> Any:
        calls.append(all(torch.equal(before[n], t) for n, t in session.tenants["t"].masters.items()))
        if len(calls) == 5:  # the moments of the third tensor
            starve()
        return zeros(*args, **options)

    monkeypatch.setattr("tunesmith.engine.optim.torch.zeros_like", scarce)
    norm = one_update(session)
    monkeypatch.undo()
    assert all(calls)  # nothing had moved while memory was taken
    assert len(session.cuts.tokens) == 1
    assert norm == pytest.approx(one_update(plain), rel=1e-5)
    assert largest(session.tenants["t"].masters, plain.tenants["t"].masters) < 1e-4
    counted("R10", "out of memory in the optimizer's first step: nothing had moved, the update is made again")


class Starved(L2SP):
    """Memory runs out, once, when the gradient is changed already, or when the step is made."""

    def __init__(self, where: str) -> None:
        super().__init__(0.5)
        self.where = where

    def starve(self, where: str) -> None:
        if self.where == where:
            self.where = ""
            starve()

    def before_clip(self, site: Site) -> None:
        super().before_clip(site)
        self.starve("before")

    def on_update(self, site: Site) -> None:
        self.starve("behind")


def test_out_of_memory_in_a_regulariser(counted: Counted) -> None:
    """The gradient that was computed before it counts once."""
    norms = []
    for where in ("", "before"):
        session = Session(base_of())
        session.create("t", Spec(ADAPTS["full"], seed=5, regularisers=(Starved(where),)))
        with torch.no_grad():
            for master in session.tenants["t"].masters.values():
                master.add_(0.01)
        norms.append(one_update(session))
        assert len(session.cuts.tokens) == bool(where)
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    counted("R10", "out of memory in a regulariser that had changed the gradient: the update's gradient counts once")


def test_a_step_that_was_made_is_not_made_again() -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"], seed=5, regularisers=(Starved("behind"),)))
    with pytest.raises(RuntimeError, match="memory"):
        one_update(session)
    assert session.tenants["t"].num_updates == 1


def test_out_of_memory_while_answering_and_scoring(counted: Counted) -> None:
    session = fresh()
    moved(session, "t")
    prompts = [list(range(3, 8 + k % 4)) for k in range(12)]
    limits = Limits(5, (1,), rows=12)
    expected = session.sample("t", prompts, limits, decode=str)
    batch = forest(records())
    [scores] = session.logprobs("t", [batch])
    layers = session.base.model.base_model

    def crowded(module: Any, args: Any, kwargs: Any) -> None:
        tokens = kwargs.get("input_ids", args[0] if args else None)
        if tokens is not None and tokens.shape[0] > 4:
            starve()

    hook = layers.register_forward_pre_hook(crowded, with_kwargs=True)
    found = session.sample("t", prompts, limits, decode=str)
    hook.remove()
    assert session.cuts.rows in (3, 1)
    assert [c.tokens for c in found] == [c.tokens for c in expected]
    with small_memory(session, 60, "forward"):
        [halved] = session.logprobs("t", [batch])
    assert session.cuts.scored_tokens is not None
    torch.testing.assert_close(halved, scores, rtol=1e-5, atol=1e-6)
    counted("R10", f"out of memory while answering (12 rows, then {session.cuts.rows}) and scoring: the same answers")


def under_a_limit(out: str, answer: Connection, events: Connection | None, options: dict[str, Any]) -> None:
    """A true limit of address space, from which the allocator's refusal comes."""
    session = fresh("full")
    rows = [r for k in range(options["num"]) for r in records(12, seed=k)]
    batch = forest(rows)
    give_back()  # what can be given back of the allocator's stock
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + options["room_mib"] * 2**20, hard))
    cut = gradient(session, "t", [batch])
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    cuts, session.cuts = session.cuts.tokens, Cuts()
    answer.send((cuts, largest(gradient(session, "t", [batch]), cut), len(rows)))


def test_a_true_limit_of_memory(tmp_path: Path, counted: Counted) -> None:
    """The job is larger than what the allocator has in stock, which no limit takes away and which differs from process
    to process: with the first of these that leaves room for the cutting there is none for all."""
    for room_mib in (4, 16, 64, 128, 180):
        found = Job(tmp_path / str(room_mib), under_a_limit, num=480, room_mib=room_mib).end()
        if found is not None:
            break
    assert found is not None, "no room was enough"
    cuts, difference, num = found
    assert cuts, "the limit was too wide to be met"
    assert difference < 1e-6
    counted("R10", f"a limit of address space: {num} examples at once, split {len(cuts)} times, gradient within 1e-6")


def died_in(folder: Path, stage: str, **facts: Any) -> RunFolder:
    """A run folder whose last process was killed in this stage."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text("{}")
    run = RunFolder.open(folder, Silent(), resume=True)
    run.write("plan.json", {"feed": {"update_tokens_max": 1500}})
    run.add_lines("metrics.jsonl", [{"update": 6, "loss": 1.0}] if not run.metrics() else [])
    run.close()
    run.write(WORKING, {"stage": stage, **facts})
    return RunFolder.open(folder, Silent(), resume=True)


def test_killed_for_its_memory(tmp_path: Path, counted: Counted) -> None:
    now = memory_kills()
    assert now["boot"]
    recipe = parse({})
    plain = died_in(tmp_path / "plain", "train", **now)
    cuts = kept_sizes(recipe, plain)
    assert (cuts.tokens, cuts.rows) == ([], None)  # kill -9, a loss of power: the same run goes on
    plain.close()
    again = died_in(tmp_path / "plain", "train", **now)
    assert kept_sizes(recipe, again).tokens == [(7, 750)]  # twice at the same place
    assert "two processes in a row ended (train, update 7)" in again.read(NAME)["said"][-1]
    again.close()
    if now["kills"] is None:
        pytest.skip("this system counts no kills for memory")
    earlier = {**now, "kills": now["kills"] - 1}
    for stage, tokens in (("train", [(7, 750)]), ("baseline", []), ("rehearsal", [(0, 750)])):
        run = died_in(tmp_path / stage, stage, **earlier)
        cuts = kept_sizes(recipe, run)
        assert (cuts.tokens, cuts.rows, cuts.scored_tokens) == (tokens, 24, 1024)
        assert "killed the last process for its memory" in run.read(NAME)["said"][-1]
        run.close()
        assert not (run.path / WORKING).exists()
        reopened = RunFolder.open(run.path, Silent(), resume=True)
        kept = kept_sizes(recipe, reopened)
        assert (kept.tokens, kept.rows, kept.scored_tokens) == (tokens, 24, 1024)  # and not halved again
        reopened.close()
    counted("R10", "killed by the system in 3 stages, and twice at one place: halved, written down, kept; a plain kill "
            "changes nothing")  # fmt: skip


def test_what_the_kernel_counts(tmp_path: Path) -> None:
    assert memory_kills(tmp_path) == {"boot": "", "kills": None}
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("b\n")
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 5\noom_kill 7\n")
    assert memory_kills(tmp_path) == {"boot": "b", "kills": 7}
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    assert memory_kills(tmp_path) == {"boot": "b", "kills": 1}
