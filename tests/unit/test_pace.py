"""The plan's time: each stage has its own counts, at speeds that are made up here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests import tiny
from tests.runs import tiny_runs

from tunesmith import guards, pace, robustness
from tunesmith.build import compute, feed_of, learning_rate, load_base, material
from tunesmith.data.pack import forest
from tunesmith.engine.dealing import FAR, windows_of
from tunesmith.errors import NotFinite
from tunesmith.fitted import fit
from tunesmith.objectives.sft import SFT
from tunesmith.pace import Job
from tunesmith.recipe import parse
from tunesmith.room import num_trained
from tunesmith.speeds import Answering, Line, Speeds, learning, longest_of, read_tokens, steady
from tunesmith.types import Forest, Record, Segment

LONG = "Read the message of a customer and say with one word what it is about, and nothing else."
KIND = {"referred": False, "rewards": False, "scoring": "pairs"}
AT_ONCE, A_TOKEN = Line(0.0, 0.0), Line(0.0, 1.0)
NOTHING = Answering(AT_ONCE, ((1.0, 0.0),), (3,), 5)
STOPPED = Speeds(AT_ONCE, 0.0, 0.0, AT_ONCE, 0.0, NOTHING, NOTHING, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, True, 1.0)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("pace")
    settings = tiny_runs.settings(
        tiny_runs.model_folder(folder / "model"), tiny_runs.reply_file(folder / "rows.jsonl"), rehearsal=True
    )
    settings["evals"] |= {
        "guards": "quick",
        "robustness": "quick",
        "explain_cases": 2,
        "guard_budget_s": 1e9,
        "explain_budget_s": 1e9,
    }
    recipe = parse({**settings, "task": {"instruction": LONG}})
    base = load_base(recipe, compute(recipe))
    made = material(recipe, base)
    feed = feed_of(recipe, base, made)
    return Job(recipe, base, made, feed, feed.num_updates, STOPPED, num_trained(base.model, recipe.adapt), waits=False)


@pytest.fixture(autouse=True)
def only_speeds(monkeypatch: pytest.MonkeyPatch) -> float:
    """What takes as long whatever the speeds is looked at by itself."""
    compared_s = robustness.COMPARED_S
    monkeypatch.setattr(robustness, "COMPARED_S", 0.0)
    return compared_s


def test_changed_prompts_take_their_time_beside_the_models(
    job: Job, monkeypatch: pytest.MonkeyPatch, only_speeds: float
) -> None:
    assert seconds(job) == {}
    monkeypatch.setattr(robustness, "COMPARED_S", only_speeds)
    changes = seconds(job)["robustness"] / only_speeds
    assert changes == pytest.approx(round(changes))
    assert 1 < changes <= len(robustness.CHANGES["quick"])


def seconds(job: Job, **speeds: object) -> dict[str, float]:
    """Of the stages, where only these speeds are not nothing."""
    there = replace(job, speeds=replace(STOPPED, **speeds))  # type: ignore[arg-type]
    return {name: s for name, s in pace.stages(there, 0.0).items() if name != "prepare" and s > 0}


def test_a_rehearsal_is_left_out_where_it_would_take_more_than_a_tenth_of_the_run(job: Job) -> None:
    """Mutants: done always; measured against the preparing, too."""

    def said(rehearsal: object, load_s: float, step_s: float) -> bool:
        recipe = replace(job.recipe, train=replace(job.recipe.train, rehearsal=rehearsal))  # type: ignore[arg-type]
        there = replace(job, recipe=recipe, speeds=replace(STOPPED, load_s=load_s, step_s=step_s))
        return "rehearsal" in pace.stages(there, -1e9)

    assert [said(r, 1.0, 0.0) for r in (True, False, "auto")] == [True, False, False]
    assert said("auto", 1.0, 100.0)


def test_training_counts_every_token_and_not_the_learned_ones(job: Job) -> None:
    """A mutant that counts learned tokens is a tenth of this."""
    train = seconds(job, learn=A_TOKEN)["train"]
    stored = sum(b.num_tokens for b in job.feed.heaviest()) / job.feed.shape()["update_tokens_max"]
    assert stored < 0.9  # the instruction is learned from once a micro-batch
    assert train == pytest.approx(job.feed.shape()["tokens"] * 2 * stored)
    assert train > 5 * 2 * job.feed.shape()["learned_tokens"]
    assert seconds(job, step_s=1.0) == {"train": job.updates}


def test_what_is_done_again_is_counted_again(job: Job) -> None:
    """Mutants: the rehearsal's micro-batch left out where only a part was timed; as many looks as updates."""
    longest = longest_of(job.feed).num_tokens
    assert "rehearsal" not in seconds(job, learn=A_TOKEN)
    assert seconds(job, learn=A_TOKEN, is_done=False)["rehearsal"] == longest
    saved_s = seconds(job, disk_s=1.0)["train"]
    often = replace(job.recipe.train, every_checkpoint=1)
    waiting = replace(job, waits=True, updates=19, recipe=replace(job.recipe, train=often))
    assert seconds(waiting, disk_s=1.0)["train"] == pytest.approx(19 * saved_s)
    stop = replace(often, early_stop=replace(often.early_stop, patience=1))
    looking = replace(waiting, recipe=replace(job.recipe, train=stop))
    once = replace(job, updates=19, speeds=replace(STOPPED, score=A_TOKEN)).dev_loss_s
    with_looks, without = (seconds(j, score=A_TOKEN)["train"] for j in (looking, waiting))
    assert with_looks - without == pytest.approx(10 * once)


def test_each_speed_is_of_its_stages(job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mutant that leaves the guards out has no seconds there."""
    monkeypatch.setattr(guards, "kept_at", lambda *_: tmp_path / "none")
    read = replace(NOTHING, read=A_TOKEN)
    of_base, of_tuned = seconds(job, base=read), seconds(job, tuned=read)
    assert set(of_base) == {"baseline"}  # from then on an adapter sits in it
    assert set(of_tuned) == {"rehearsal", "train", "evaluate", "guards", "robustness", "export"}
    assert of_base["baseline"] > of_tuned["evaluate"]  # dev, and forms with examples
    assert set(seconds(job, score=A_TOKEN)) == {"train", "guards", "explain"}  # too few dev rows for the train-dev gap
    assert set(seconds(job, disk_s=1.0)) == {"rehearsal", "train", "export"}
    alone, merged = (replace(job, recipe=replace(job.recipe, export=e)) for e in (("adapter",), ("adapter", "merged")))
    half = replace(merged, base=replace(job.base, model=copy.deepcopy(job.base.model).bfloat16()))
    times = [seconds(one, tuned=read)["export"] for one in (alone, merged, half)]
    assert np.divide(times, times[0]) == pytest.approx([1, 3 / 2, 4 / 2])  # of 16 bits one more, in float32
    (tmp_path / "none").touch()  # the base's answers are kept
    assert seconds(job, tuned=read)["guards"] == pytest.approx(of_tuned["guards"] / 2)


def test_answers_are_as_long_as_they_are(job: Job) -> None:
    """A step of one second, whatever rows: the longest answer of a batch says how many there are."""
    how = replace(NOTHING, steps=((1.0, 1.0), (50.0, 1.0)))
    assert job.answers(how, [4], [10] * 20, 0, 9) == 3  # the first token comes with the reading
    assert job.answers(how, [4], [10] * 20, 0, 9, rows=5) == 4 * 3
    assert job.answers(how, [99], [10] * 20, 0, 9) == 8
    by_row = replace(NOTHING, steps=((1.0, 1.0), (2.0, 2.0)))
    assert job.answers(by_row, [2, 3], [10] * 20, 0, 9) == 20 + 10


def test_answers_that_were_not_seen_to_end_go_on_as_the_others_do() -> None:
    seen = replace(NOTHING, lengths=(2, 6, 6, 6), looked=5)
    lengths = pace.stretched(seen, 1000)
    assert lengths[0] == 2
    assert min(lengths[1:]) > 5
    assert np.mean(lengths[1:]) == pytest.approx(5 + 20, rel=0.25)  # one of 20 steps ended one
    assert pace.stretched(replace(seen, lengths=(6, 6)), 40) == [40]
    assert max(pace.stretched(seen, 8)) == 8


def test_a_shared_beginning_is_read_once_and_short_rows_are_filled_up() -> None:
    assert read_tokens([12, 14, 15], rows=8, shared=10) == (10 + 3 * 5, 2)
    assert read_tokens([12, 14, 15], rows=1, shared=10) == (10 + 2 + 4 + 5, 4)
    assert read_tokens([12, 14, 15], rows=1) == (12 + 14 + 15, 3)


def test_a_short_pass_takes_more_a_token_than_a_long_one() -> None:
    """A mutant that divides seconds by tokens says 5 seconds of 2,000 tokens."""
    line = Line.through(100, 0.4, 400, 1.0)
    assert line.of(2000) == pytest.approx(0.2 + 2000 * 0.002)
    assert line.of(2000, passes=4) == pytest.approx(4 * 0.2 + 2000 * 0.002)
    assert Line.through(100, 1.4, 400, 1.0).of(400) == pytest.approx(1.0)  # a disturbed clock
    assert Line.through(100, 1.4, 400, 1.0).token_s == pytest.approx(0.00025)
    assert Line.through(100, 0.01, 400, 1.0).token_s == pytest.approx(0.0025)  # a pass takes no less than nothing
    assert Line.through(64, 1.0, 64, 1.0) == Line(0.0, 1 / 64)
    assert Line.through(60, 3.0, 180, 3.3).of(300) == pytest.approx(3.6)  # Mixout draws once a pass; half of it: 4.4


def test_what_is_over_soon_is_timed_again_and_one_slow_time_counts_for_nothing() -> None:
    """Mutants: the first time, which has to find its memory; the mean."""
    times = iter([0.9, 0.1, 0.1, 0.1])
    assert steady(lambda: next(times)) == 0.1
    assert len(list(times)) == 2  # together they took long enough
    times = iter([0.01, 0.4, 0.01, 0.01, 0.01, 0.01])
    assert steady(lambda: next(times)) == 0.01
    assert len(list(times)) == 1
    times = iter([7.0, 0.1])
    assert steady(lambda: next(times)) == 7.0  # long enough, and too long to wait for again
    assert len(list(times)) == 1


def row_of(num: int) -> Forest:
    return forest([Record("a", (Segment(np.arange(num) % 50, np.ones(num, np.float32)),))])


def test_one_long_row_is_timed_shortened_and_its_attention_counted(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes 10 ms a token, and as much again where a token attends to 1,000. Mutants: the whole row
    timed; what it attends to left out."""
    sizes, clock = list[int](), [0.0]

    class Machine:
        base = job.base

        def forward_backward(self, who: str, batches: list[Forest], *rest: object) -> None:
            sizes.append(batches[0].num_tokens)
            clock[0] += 0.01 * (batches[0].num_tokens + float(batches[0].positions.sum()) / 1000)

        def optim_step(self, who: str, lr: float) -> None:
            clock[0] += 0.5

        def forget_gradients(self, who: str) -> None:
            return

    def cost_of(base: object, slower: float) -> Callable[[Forest], float]:
        return lambda batch: batch.num_tokens + float(batch.positions.sum()) / 1000

    monkeypatch.setattr("tunesmith.speeds.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("tunesmith.speeds.cost_of", cost_of)
    state, whole = SimpleNamespace(objective=SFT(), lr=1.0), row_of(4000)
    line, step_s, found_s, is_done = learning(Machine(), state, whole)  # type: ignore[arg-type]
    assert (step_s, found_s, is_done) == (0.5, 0.0, False)
    assert max(sizes) < 250
    assert line.of(4000) == pytest.approx(0.01 * (4000 + 8000), rel=0.1)
    sizes.clear()
    assert learning(Machine(), state, row_of(40))[3]  # type: ignore[arg-type]
    assert max(sizes) == 40


@pytest.mark.parametrize("bad", [1, 2])
def test_a_step_that_is_not_finite_is_not_taken_for_a_try(job: Job, bad: int) -> None:
    """The first, of a small piece, or the last, of the longest. Mutant: one of them alone is looked at."""
    steps = list[int]()

    class Machine:
        base = job.base

        def forward_backward(self, who: str, batches: list[Forest], *rest: object) -> None:
            return

        def optim_step(self, who: str, lr: float) -> None:
            steps.append(len(steps) + 1)
            if steps[-1] == bad:
                raise NotFinite(("e1",))

        def forget_gradients(self, who: str) -> None:
            return

    state = SimpleNamespace(objective=SFT(), lr=1.0)
    assert not learning(Machine(), state, row_of(40))[3]  # type: ignore[arg-type]
    assert steps == [1, 2]


@pytest.mark.parametrize(("grows_gib", "wanted"), [(2.0, 1.5), (0.01, 0.0)])
def test_memory_that_is_found_anew_takes_its_time(
    job: Job, monkeypatch: pytest.MonkeyPatch, grows_gib: float, wanted: float
) -> None:
    """A step takes half a second, and the first one, which finds the moments' 2 GiB, three more; of a few MiB a clock
    says nothing. Mutant: the first step's whole time."""
    clock, held, num = [0.0], [1.0], [0]

    class Machine:
        base = job.base

        def forward_backward(self, who: str, batches: list[Forest], *rest: object) -> None:
            clock[0] += 1.0

        def optim_step(self, who: str, lr: float) -> None:
            num[0] += 1
            clock[0] += 3.5 if num[0] == 1 else 0.5
            held[0] += grows_gib if num[0] == 1 else 0.0

        def forget_gradients(self, who: str) -> None:
            return

    monkeypatch.setattr("tunesmith.speeds.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("tunesmith.speeds.held_gib", lambda: held[0])
    state = SimpleNamespace(objective=SFT(), lr=1.0)
    assert learning(Machine(), state, row_of(40))[2] == pytest.approx(wanted)  # type: ignore[arg-type]


def test_training_waits_for_memory_that_is_not_held_yet(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: what the process holds already is counted too."""
    finds = replace(job, speeds=replace(STOPPED, found_s=2.0), anew_gib=1.5)
    assert finds.train() == pytest.approx(3.0)
    found = fit(job.recipe, job.base, job.made, compute(job.recipe))
    assert found.footprint is not None
    whole = found.footprint.there_gib + found.footprint.stages["train"]
    for held, wanted in ((whole - 0.5, 0.5), (whole + 1.0, 0.0)):
        monkeypatch.setattr("tunesmith.fitted.held_gib", lambda held=held: held)
        assert found.anew_gib("train") == pytest.approx(wanted)


def test_an_export_in_16_bits_is_compared_in_float32_too(job: Job) -> None:
    """The merged model is opened once more than in float32, and each opening reads and writes all tokens. Mutants: the
    products left out; the second opening left out."""
    alone, merged = (replace(job, recipe=replace(job.recipe, export=e)) for e in (("adapter",), ("adapter", "merged")))
    half = replace(merged, base=replace(job.base, model=copy.deepcopy(job.base.model).bfloat16()))
    tokens = 2 + min(pace.EXPORT_TOKENS, job.made.max_new_tokens, max(job.reply_lengths))
    assert "export" not in seconds(alone, exact_s=1.0)
    for one, openings in ((merged, 1), (half, 2)):
        found = seconds(one, exact_s=1.0)["export"]
        assert found == pytest.approx(openings * pace.EXPORTED * tokens * job.base.num_weights)


def test_pairs_and_rewards_learn_at_three_tenths_of_the_rate(job: Job) -> None:
    """Mutant: one of the two goes as fast as replies."""
    plain, pairs, rewards = (
        learning_rate(job.recipe, job.base, SimpleNamespace(**{**KIND, **more}), 100)[0]  # type: ignore[arg-type]
        for more in ({}, {"referred": True}, {"rewards": True})
    )
    assert pairs == rewards == pytest.approx(0.3 * plain, rel=0.02)


def test_windows_bound_what_a_token_attends_to() -> None:
    """Mutant: every layer sees all."""
    window = tiny.WINDOW
    wanted = {
        "gemma3": [window, FAR], "llama": [FAR, FAR], "mistral": [window, window], "qwen3_next": [0, FAR],
        "mamba": [0, 0],
    }  # fmt: skip
    for name, windows in wanted.items():
        family = tiny.FAMILIES[name]
        assert windows_of(family.config(**family.arguments)) == windows


def test_speeds_come_back_from_the_plan() -> None:
    assert Speeds.of(asdict(STOPPED)) == STOPPED
