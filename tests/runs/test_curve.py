"""`tunesmith curve` on a tiny model: sizes are nested, no test case is seen, a kill loses nothing, the time is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.runs import tiny_runs
from tests.runs.mistakes import typed

from tunesmith import curve, nested, rungs
from tunesmith.build import Material, compute, load_base, material
from tunesmith.errors import InputError, PlanError
from tunesmith.folder import Silent
from tunesmith.recipe import parse
from tunesmith.report import curve_page


class Killed(Silent):
    """Kills the process, as it were, in the third rung."""

    rung = ""

    def stage(self, name: str, budget_s: float | None) -> None:
        self.rung = name

    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None:
        if self.rung == "37 rows" and update == 3:
            raise KeyboardInterrupt


def settings(place: Path) -> dict[str, Any]:
    return tiny_runs.settings(place / "model", place / "rows.jsonl", epochs=1, update_tokens=1024)


def climb(place: Path, out: Path, tell: Silent | None = None, *, resume: bool = False) -> dict[str, Any]:
    made = settings(place)
    return curve.curve(parse(made), yaml.safe_dump(made), out, tell or Silent(), curve.Climb(300.0), resume=resume)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.world(tmp_path_factory.mktemp("curve"))


@pytest.fixture(scope="module")
def whole(place: Path) -> Iterator[tuple[dict[str, Any], list[Material]]]:
    """(curve.json, what each rung was given)."""
    seen: list[Material] = []
    learned = rungs.learned

    def watched(fitted: Any, inner: Any, base: Any, made: Material, *rest: Any) -> Any:
        seen.append(made)
        return learned(fitted, inner, base, made, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rungs, "learned", watched)
        yield climb(place, place / "whole"), seen


def ids(made: Material) -> list[str]:
    return [r.example_id for r in made.train.records]


def test_each_size_is_contained_in_the_next_and_none_holds_a_test_case(
    whole: tuple[dict[str, Any], list[Material]],
) -> None:
    found, seen = whole
    assert [len(ids(m)) for m in seen] == found["sizes"] == [r["rows"] for r in found["rungs"]]
    assert all(set(ids(a)) < set(ids(b)) for a, b in pairwise(seen))
    assert all(ids(m) == [e.id for e in m.split.train] for m in seen)  # in the order of the file
    assert [m.split.test for m in seen] == [()] * 4
    assert all(m.dev is seen[0].dev for m in seen)


def test_groups_come_together(whole: tuple[dict[str, Any], list[Material]]) -> None:
    made = whole[1][-1]
    train = [replace(e, group="one" if i % 2 else "two") for i, e in enumerate(made.split.train)]
    order = nested.nested_order(replace(made, split=replace(made.split, train=train)))
    assert len(set((order[: len(train) // 2] % 2).tolist())) == 1


def test_a_killed_curve_goes_on_to_the_same_figures(place: Path, whole: tuple[dict[str, Any], list[Material]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        climb(place, place / "killed", Killed())
    assert len(list((place / "killed").glob("rungs/*/rung.json"))) == 2
    again = climb(place, place / "killed", resume=True)

    def timeless(found: Mapping[str, Any]) -> dict[str, Any]:
        rungs = [{k: v for k, v in r.items() if k != "seconds"} for r in found["rungs"]]
        return {k: v for k, v in found.items() if k not in ("seconds", "foretold_s")} | {"rungs": rungs}

    assert timeless(again) == timeless(whole[0])
    assert not list((place / "killed").rglob("checkpoints"))
    made = tiny_runs.settings(place / "model", place / "rows.jsonl", epochs=3, update_tokens=1024)
    with pytest.raises(InputError, match=r"this is not the curve that was started: train\.epochs changed"):
        curve.curve(parse(made), yaml.safe_dump(made), place / "killed", Silent(), curve.Climb(300.0), resume=True)


def test_what_is_kept_says_the_same_everywhere(place: Path, whole: tuple[dict[str, Any], list[Material]]) -> None:
    found, _ = whole
    assert found == json.loads((place / "whole" / "curve.json").read_text())
    for name in ("curve.md", "curve.html"):
        assert curve_page.answer(found) in (place / "whole" / name).read_text()
    row = found["rungs"][-1]
    sums = np.array(json.loads((place / "whole/rungs" / f"rows_{row['rows']:09d}" / "rung.json").read_text())["sums"])
    assert row["value"] == sums[:, 0].mean()  # accuracy
    assert row["interval"][0] <= row["value"] <= row["interval"][1]


def test_a_time_that_is_too_short_is_refused_before_anything_is_trained(place: Path) -> None:
    (place / "recipe.yaml").write_text(yaml.safe_dump(settings(place)))
    said = typed(["curve", str(place / "recipe.yaml"), "--budget", "0.1s", "--out", str(place / "short")])
    assert said.code == 2
    assert "the shortest ladder (" in said.text
    assert not (place / "short" / "rungs").exists()


def test_sizes_and_times_by_hand() -> None:
    assert curve.ladder(1000) == [31, 62, 125, 250, 500, 1000]
    assert curve.ladder(64) == [8, 16, 32, 64]
    assert curve.ladder(63) == []
    assert [curve.seconds_of(t) for t in ("30m", "2h", "1h30m", "90s", "1.5m")] == [1800, 7200, 5400, 90, 90]
    for text in ("", "30", "m", "0m", "-5m"):
        with pytest.raises(InputError, match="--budget"):
            curve.seconds_of(text)


@pytest.mark.parametrize(
    ("low", "high", "matters", "said"),
    [
        (0.01, 0.05, 0.02, "more"), (-0.05, -0.01, 0.02, "less"), (-0.01, 0.05, 0.02, "not known"),
        (-0.01, 0.01, 0.02, "little"), (0.001, 0.01, 0.02, "little"), (0.001, 0.01, None, "more"),
        (0.0, 0.0, None, "not known"), (-0.03, 0.01, 0.02, "not known"),
    ],
)  # fmt: skip
def test_nothing_is_claimed_that_the_interval_does_not_say(
    low: float, high: float, matters: float | None, said: str
) -> None:
    assert curve.decided(low, high, matters) == said


@pytest.mark.parametrize(
    ("decision", "interval", "less", "sentence"),
    [
        ("more", [0.01, 0.05], False,
         "Twice the data (200 rows in place of 100) would bring accuracy from 0.800 to 0.830: 0.030 higher (interval "
         "0.010 to 0.050)."),
        ("not known", [-0.01, 0.05], False,
         "What twice the data (200 rows in place of 100) would bring is not known: accuracy from 0.010 worse to 0.050 "
         "better fits what was measured."),
    ],
)  # fmt: skip
def test_the_answer_in_a_sentence(decision: str, interval: list[float], less: bool, sentence: str) -> None:
    twice = {"rows": 200, "from": 0.8, "to": 0.83, "gain": 0.03, "interval": interval, "matters": 0.02}
    facts = {"metric": "accuracy", "num_rows": 100, "less_is_better": less, "twice": {**twice, "decision": decision}}
    assert curve_page.answer(facts) == sentence


def test_sizes_of_a_mixture_have_its_shares_and_are_nested(place: Path) -> None:
    """90 rows of one source, 30 of another that counts for as much: of each size a quarter of the rows are the other's
    and half of an epoch. A mutant that takes rows by hash alone, or leaves an epoch as it is, is off by more."""
    few = tiny_runs.reply_file(place / "few.jsonl", 30)
    many = tiny_runs.labelled_file(place / "many.jsonl", 90)
    said = tiny_runs.settings(place / "model", few, epochs=1)
    del said["data"]["train"]
    said["data"] |= {"sources": [{"files": [str(p)], "weight": 1} for p in (few, many)], "mixing": {"rows": 60}}
    recipe = parse(said)
    made = material(recipe, load_base(recipe, compute(recipe)))
    curve.refuse(recipe, made, None)
    order = nested.nested_order(made)
    assert sorted(order.tolist()) == list(range(len(made.split.train)))
    sizes = {part.name: part.stop - part.begin for part in made.mixture.parts} if made.mixture else {}
    found = {n: nested.smaller(made, order, n) for n in (8, 16, 32, len(order))}
    for num, one in found.items():
        assert one.mixture is not None
        assert len(one.train.records) == len(one.split.train) == num == one.mixture.parts[-1].stop
        for part in one.mixture.parts:
            assert part.stop - part.begin == pytest.approx(sizes[part.name] * num / len(order), abs=1)
            assert part.quota == pytest.approx(30 * num / len(order), abs=0.5)
            own = {one.train.records[k].example_id for k in range(part.begin, part.stop)}
            whole = next(p for p in made.mixture.parts if p.name == part.name)  # type: ignore[union-attr]
            assert own <= {made.train.records[k].example_id for k in range(whole.begin, whole.stop)}
    assert all(set(ids(a)) < set(ids(b)) for a, b in pairwise(found.values()))
    with pytest.raises(PlanError, match="shots"):
        curve.refuse(
            parse(
                tiny_runs.changed(
                    said, {"data": {"sources": [{"files": [str(few)], "shots": 1}, {"files": [str(many)]}]}}
                )
            ),
            made,
            None,
        )
    with pytest.raises(PlanError, match="no row of source few"):
        nested.of_fewer(made.mixture, np.arange(40, 60))  # type: ignore[arg-type]
