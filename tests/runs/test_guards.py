"""Guard probes in a run of a tiny model: asked of both, kept for the base, cut by the budget, left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.runs.mistakes import typed
from tests.runs.tiny_runs import labelled_file, model_folder, settings
from tests.unit.report.run_folders import VERDICT, make

from tunesmith import guards
from tunesmith.data.pack import pack
from tunesmith.evals import probes
from tunesmith.evals.score import segment_sums
from tunesmith.folder import Silent
from tunesmith.opened import Opened, open_model
from tunesmith.recipe import parse
from tunesmith.report import words
from tunesmith.report.facts import read
from tunesmith.run import run
from tunesmith.types import Record, Segment

NAMES = [p.name for p in (*probes.PROBES, probes.STOPPING)]


class Steps(Silent):
    """Keeps what was said of long steps."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def step(self, done: int, total: int, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(cache))
    monkeypatch.setattr(guards, "MAX_NEW_TOKENS", 4)  # a tiny random model never ends its answers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def guarded_run(model: Path, folder: Path, name: str, **evals: Any) -> tuple[dict[str, Any], list[str]]:
    chosen = settings(model, labelled_file(folder / "rows.jsonl"), max_updates=2)
    chosen["evals"] |= {"guards": "quick", **evals}
    chosen["export"] = ["adapter"]
    tell = Steps()
    return run(parse(chosen), yaml.safe_dump(chosen), folder / name, tell), tell.texts


def test_a_run_asks_both_keeps_the_base_and_tells(model: Path, tmp_path: Path, cache: Path) -> None:
    verdict, texts = guarded_run(model, tmp_path, "one")
    assert [g["name"] for g in verdict["guard"]] == NAMES
    assert all(g["num_items"] for g in verdict["guard"])
    assert {"base: multiple choice", "base: pairs of ends", "tuned: ordinary text"} <= set(texts)
    page, card = ((tmp_path / "one" / f).read_text() for f in ("report.html", "adapter/README.md"))
    assert all(name in page and name in card for name in NAMES)
    assert len(list((cache / "guards").iterdir())) == 1
    _, again = guarded_run(model, tmp_path, "two")
    assert "base: multiple choice" not in again
    assert "tuned: multiple choice" in again
    told = [json.loads((tmp_path / n / "scores" / "guard_base.json").read_text()) for n in ("one", "two")]
    assert told[0] == told[1]


def test_a_budget_that_is_over_says_not_asked(model: Path, tmp_path: Path) -> None:
    verdict, _ = guarded_run(model, tmp_path, "short", guard_budget_s=1e-9)
    assert {(g["passed"], g["num_items"]) for g in verdict["guard"]} == {(None, 0)}
    assert all("evals.guard_budget_s was over" in g["note"] for g in verdict["guard"])


def test_off_asks_nothing_and_the_report_says_so(model: Path, tmp_path: Path) -> None:
    verdict, texts = guarded_run(model, tmp_path, "off", guards="off")
    assert verdict["guard"] == []
    assert not [t for t in texts if "multiple choice" in t]
    assert "No guard probe was run" in (tmp_path / "off" / "report.html").read_text()


@pytest.fixture(scope="module")
def opened(model: Path) -> Opened:
    return open_model(str(model))


def quiet(done: int, of: int, text: str) -> None:
    return


def test_the_plan_says_how_long_and_for_whom(model: Path, opened: Opened, tmp_path: Path) -> None:
    data = labelled_file(tmp_path / "rows.jsonl")
    words = ["plan", "--model", str(model), "--data", str(data), "--set", "data.max_tokens=256"]
    said = typed([*words, "--set", "evals.guard_budget_s=0.001"])
    assert said.code == 0, said.err
    assert "guards: full  (about" in said.out
    assert "of which evals.guard_budget_s allows 0, for each of base and tuned" in said.out
    guards.ask_base(opened.session, opened.renderer, "quick", 1e9, quiet)
    said = typed([*words, "--set", "evals.guards=quick"])
    assert "for the tuned model; the base's answers are kept from before" in said.out


def ask(opened: Opened, chosen: Sequence[probes.Probe], budget_s: float = 1e9) -> guards.Asked:
    return guards.ask(opened.session, None, opened.renderer, "quick", budget_s, quiet, chosen)


def test_the_same_model_twice_gives_the_same_scores_and_loses_nothing(opened: Opened) -> None:
    one, two = (ask(opened, probes.PROBES) for _ in range(2))
    assert one.scores == two.scores
    assert one.written == two.written
    assert not [g for g in guards.results(one, two) if g.passed is False]


def test_an_option_is_not_chosen_for_its_place(opened: Opened) -> None:
    """The right answer stands first in the file. Each option put first in its turn: one of four is chosen once."""
    items = probes.PROBES[0].items()[:24]
    total = 0.0
    for turn in range(4):
        turned = [{**i, "a": [*i["a"][turn:], *i["a"][:turn]]} for i in items]
        found = guards.chosen(opened.session, None, opened.renderer, [(probes.PROBES[0], i) for i in turned])
        assert sum(found) < len(items) / 2, "a model without knowledge is near chance, wherever the answer stands"
        total += sum(found)
    assert total == len(items)


def test_options_are_scored_as_one_by_one(opened: Opened) -> None:
    """Packed in a tree with others, a choice is what plain likelihoods of separate texts give."""
    items = probes.PROBES[1].items()[:8]
    packed = guards.chosen(opened.session, None, opened.renderer, [(probes.PROBES[1], i) for i in items])
    for item, score in zip(items, packed):
        root, *children = guards.option_record(opened.renderer, "0", item).segments
        nats = []
        for child in children:
            whole = np.concatenate([root.tokens, child.tokens])
            alone = Record("0", (Segment(whole, np.concatenate([root.weights, child.weights])),))
            forests = pack([alone], 1024)
            nats.append(sum(segment_sums(forests[0], opened.session.logprobs(None, forests)[0]).values()))
        assert score == float(nats[0] > max(nats[1:]))


def test_a_pair_is_the_share_of_its_second_end(opened: Opened) -> None:
    """Both ends turned round: the shares add up to 1."""
    probe = next(p for p in probes.PROBES if p.how == "pair")
    items = probe.items()[:8]
    turned = [{**i, "a": i["a"][::-1]} for i in items]
    one, other = (
        guards.stereotyped(opened.session, None, opened.renderer, [(probe, i) for i in rows])
        for rows in (items, turned)
    )
    assert np.add(one, other) == pytest.approx(1)
    assert all(0 < share < 1 for share in one)


def test_losses_name_the_probe_and_what_would_help() -> None:
    lost = probes.result(probes.PROBES[0], [1.0] * 100, [1.0] * 60 + [0.0] * 40)
    said = guards.losses([lost, probes.result(probes.PROBES[0], [1.0] * 390, [1.0] * 390)])
    assert len(said) == 1
    assert said[0].startswith("lost: general knowledge, 1 → 0.6 (interval of the difference -0.5")
    assert "what helps: lower train.lr, train.epochs or adapt.rank" in said[0]


def test_held_out_answers_are_checked_where_the_task_has_a_source() -> None:
    sources = ["The ferry left Turku with 312 passengers and came back to the harbour."] * 60
    good, bad = "The ferry came back with its 312 passengers.", "The ferry came back with 213 passengers."
    (found,) = guards.held_out("summarise", sources, [good] * 60, [good] * 20 + [bad] * 40)
    assert found.passed is False
    assert guards.held_out("chat", sources, [good] * 60, [bad] * 60) == []


def test_a_yes_names_what_is_not_known(tmp_path: Path) -> None:
    """A budget that was over is no proof that nothing was lost."""
    nothing = asdict(probes.result(probes.PROBES[0], [], [], 390))
    make(tmp_path / "run", verdict={**VERDICT, "guard": [nothing]})
    facts = read(tmp_path / "run")
    assert facts.verdict is not None
    _, because = words.may_i_use_it(facts, facts.verdict)
    assert ("Whether it kept these is not known: general knowledge.",) in because
