"""`tunesmith next` names what was planted: 24 run folders, each with one failure, and a healthy one with none."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.laws.sessions import base_of
from tests.runs.mistakes import typed
from tests.unit.report import run_folders

from tunesmith import method
from tunesmith.causes import causes
from tunesmith.recipe import read


def curve(*points: float, num: int = 40) -> list[dict[str, float]]:
    """Rows of metrics.jsonl whose loss goes through these points, evenly."""
    rows = []
    for k in range(num):
        at = k / (num - 1) * (len(points) - 1)
        low = min(int(at), len(points) - 2)
        loss = points[low] + (at - low) * (points[low + 1] - points[low])
        rows.append({"update": k + 1, "loss": loss, "lr": 4e-4, "grad_norm": 1.0, "tokens": 400, "tokens_per_s": 800.0})
    return rows


def dev(*values: float, num: int = 40) -> list[dict[str, float]]:
    step = num / (len(values) - 1)
    return [{"update": round(k * step), "dev_loss": v} for k, v in enumerate(values)]


HEALTHY: dict[str, Any] = {
    "recipe": {"train": {"epochs": 3}},
    "plan": {**run_folders.PLAN, "lr": 4e-4, "feed": {"num_examples": 800, "num_seen": 800}},
    "audit": {
        "rows": 1000, "accepted": 1000, "rejected": {"count": 0, "rows": []}, "dropped": {"count": 0, "examples": []},
        "cut": {"count": 0, "examples": []}, "moved": {"count": 3, "examples": []},
        "splits": {"train": 800, "dev": 100, "test": 100}, "twins": {"count": 1, "examples": []},
        "tokens": {"learned_frac": 0.1, "reply_quantiles": {"0.95": 40}},
        "duplicates": {"exact": {"count": 4}, "normalised": {"count": 3}}, "contradictions": {"prompts": 1, "rows": 2},
        "classes": {"a": {"train": 400, "dev": 50, "test": 50}, "b": {"train": 400, "dev": 50, "test": 50}},
    },
    "metrics": [*curve(2.5, 0.9, 0.62, 0.6), *dev(2.4, 0.9, 0.8, 0.79)],
    "verdict": {**run_folders.VERDICT, "num_cases": 100},
    "cost": run_folders.COST,
}  # fmt: skip
SKEWED = {"a": {"train": 760, "dev": 90, "test": 95}, "b": {"train": 40, "dev": 10, "test": 5}}
UNSEEN = {**HEALTHY["audit"]["classes"], "c": {"train": 0, "dev": 0, "test": 9}}
NONE_FOUND = {"decision": "no relevant difference", "effect": 0.0, "interval": [-0.01, 0.01]}
STOPPED = {"stages": [{"name": "train", "seconds": 9.0, "stopped_by": "NotFinite: loss of update 7 is not finite. x"}]}
FORGOT = [{"name": "arithmetic", "passed": False}, {"name": "general text", "passed": True}]
OVERFIT = {"overfitting": {"train_loss": [2.4, 0.2], "dev_loss": [2.4, 2.1]}}
FLAT = curve(2.5, 2.47)
LONG = {"tokens": {"learned_frac": 0.1, "reply_quantiles": {"0.95": 90}}}

# cause -> what is planted: changes of the healthy run's files; None of the others is touched.
PLANTED: list[tuple[str, str, dict[str, Any]]] = [
    ("rate too high", "the learning rate is too high", {"metrics": curve(2.5, 1.6, 4.0, 6.5), "plan": {"lr": 0.02}}),
    ("rate too high, dev alone stays", "the learning rate is too high", {"metrics": curve(2.5, 0.7, 2.2, 2.3)}),
    ("rate too low", "the learning rate is too low", {"metrics": FLAT, "plan": {"lr": 2e-6}}),
    ("too few epochs", "too few epochs", {"metrics": curve(2.5, 2.1, 1.7, 1.3)}),
    ("ended before all rows", "too few epochs", {
        "recipe": {"train": {"max_updates": 40}}, "plan": {"feed": {"num_examples": 800, "num_seen": 120}}}),
    ("too many epochs", "too many epochs", {"metrics": [*curve(2.5, 0.5, 0.1, 0.09), *dev(2.4, 0.8, 1.0, 1.3)]}),
    ("leak", "the test leaks into training", {"audit": {"twins": {"count": 60, "examples": []}}}),
    ("wrong template", "the template is not the model's", {"ends": False}),
    ("noisy labels", "labels are noisy", {"audit": {"contradictions": {"prompts": 60, "rows": 130}}}),
    ("truncated rows", "rows are too long", {"audit": {"cut": {"count": 300, "examples": []}}}),
    ("tiny test set", "too few test cases", {"verdict": {
        "decision": "too few cases", "num_cases": 12, "interval": [-0.1, 0.4], "smallest_detectable": 0.4}}),
    ("masks that learn nothing", "almost nothing is learned from", {"audit": {"tokens": {"learned_frac": 0.0004}}}),
    ("class imbalance", "one label outweighs the others", {
        "audit": {"classes": SKEWED}, "verdict": {"tuned": 0.95, "secondary": {"macro_f1": {"tuned": 0.49}}}}),
    ("duplicates", "rows repeat each other", {
        "audit": {"duplicates": {"exact": {"count": 250}, "normalised": {"count": 90}}}}),
    ("rank too small", "too few weights train", {
        "metrics": FLAT, "recipe": {"adapt": {"rank": 1, "targets": ["q_proj"]}}}),
    ("last_k too small", "too few weights train", {
        "metrics": FLAT, "plan": {"lr": 4e-5}, "recipe": {"adapt": {"method": "last_k", "last_k": 1}}}),
    ("forgetting", "it forgot what it could do", {"verdict": {"guard": FORGOT}}),
    ("forgot the old cases", "it forgot the old cases", {
        "recipe": {"parent": {"run": "runs/first"}}, "lineage": {"forgotten": {
            "decision": "worse", "said": "Something was forgotten: of 80 old cases 21 score lower than before"}}}),
    ("over-fitting", "it over-fits", {"robustness": OVERFIT, "metrics": [*curve(2.4, 0.3, 0.2), *dev(2.4, 2.1)]}),
    ("base already perfect", "the base can do it already", {"verdict": {**NONE_FOUND, "base": 0.99, "tuned": 0.99}}),
    ("wrong metric", "the metric does not see it", {"verdict": {
        **NONE_FOUND, "secondary": {"rouge_l": {"base": 0.2, "tuned": 0.5, "effect": 0.3, "interval": [0.2, 0.4]}}}}),
    ("NaN", "loss is no number", {"cost": STOPPED, "metrics": curve(2.5, 2.0, num=6), "without": ("verdict.json",)}),
    ("answers cut short", "answers are cut short", {
        "audit": LONG, "recipe": {"evals": {"max_new_tokens": 16}}, "ends": False}),
    ("label not in training", "labels that training never shows", {"audit": {"classes": UNSEEN}}),
]  # fmt: skip


def planted(folder: Path, changes: dict[str, Any]) -> Path:
    files = copy.deepcopy(HEALTHY)
    for name, change in changes.items():
        if name in ("recipe", "plan", "audit", "verdict"):
            files[name] |= change
        elif name in ("metrics", "cost"):
            files[name] = change
    recipe = files.pop("recipe")
    cases = [run_folders.case(i, float(b), float(t), tuned_stopped=changes.get("ends", True), **changes.get("case", {}))
             for i, (b, t) in enumerate(run_folders.SCORES)]  # fmt: skip
    run_folders.make(folder, cases=cases, without=changes.get("without", ()), **files)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for name in ("robustness", "lineage"):
        if name in changes:
            (folder / f"{name}.json").write_text(json.dumps(changes[name]))
    return folder


def test_the_planted_cause_is_named_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        (what, wanted, [c.name for c in causes(planted(tmp_path / str(k), changes))])
        for k, (what, wanted, changes) in enumerate(PLANTED)
    ]
    first = [what for what, wanted, names in found if names[:1] == [wanted]]
    named = [what for what, wanted, names in found if wanted in names]
    with capsys.disabled():
        print(f"\n{len(first)} of {len(PLANTED)} planted causes are named first, {len(named)} are named")
    assert len(PLANTED) >= 20
    assert [(what, names) for what, wanted, names in found if names[:1] != [wanted]] == []


def test_a_healthy_run_has_no_cause(tmp_path: Path) -> None:
    assert causes(planted(tmp_path / "healthy", {})) == []


def test_a_dialogue_with_one_answer_that_broke_off_is_not_wholly_so(tmp_path: Path) -> None:
    turns = [{"base_stopped": True, "tuned_stopped": at > 0} for at in range(5)]
    assert causes(planted(tmp_path / "chat", {"ends": False, "case": {"turns": turns}})) == []


def test_each_cause_has_figures_and_its_keys_are_a_recipe(tmp_path: Path) -> None:
    for k, (_, _, changes) in enumerate(PLANTED):
        folder = planted(tmp_path / str(k), changes)
        said = typed(["next", str(folder), "--out", str(tmp_path / f"{k}.yaml"), "--json"])
        assert said.code == 0, said.text
        facts = json.loads(said.out)
        without = ("labels that training never shows", "it forgot what it could do")  # these name names
        assert all(c["name"] in without or any(x.isdigit() for x in c["evidence"]) for c in facts["causes"])
        if facts["recipe"]:
            before, now = read(folder / "recipe.yaml", {})[0], read(Path(facts["recipe"]), {})[0]
            assert before != now
            assert now.train.lr == "auto" or math.isfinite(now.train.lr)


LATE = [*curve(2.5, 0.5, 0.1, 0.09), *dev(2.4, *[1.0] * 8, 0.8, 0.9)]  # the least at update 36 of 40
OVER = {"robustness": OVERFIT, "metrics": [*curve(2.4, 0.3, 0.2), *dev(2.4, 2.1)]}
NOISY = {"audit": {"contradictions": {"prompts": 60, "rows": 130}}}
FEW = {"verdict": {"decision": "too few cases", "num_cases": 12, "interval": [-0.1, 0.4], "smallest_detectable": 0.4}}
LAST, STOPS = {"average": {"last": 3}}, {"early_stop": {"patience": 5}}
IA3, DORA = {"method": "ia3"}, {"dora": True, "dropout": 0.2}
NAMED, LAST_1 = {"method": "named", "names": ["*norm*"]}, {"method": "last_k", "last_k": 1}

# what is planted, what the recipe says already -> the first cause and its keys; none where the cause is no cause here
SAID: list[tuple[dict[str, Any], dict[str, Any], tuple[str, dict[str, Any]] | None]] = [
    ({"metrics": FLAT, "plan": {"lr": 2e-6}}, {"adapt": IA3}, ("the learning rate is too low", {"train.lr": 4e-4})),
    ({"metrics": FLAT}, {"adapt": {"method": "peft", "peft": "loha"}}, None),
    ({"metrics": FLAT, "plan": {"lr": 4e-5}}, {"adapt": NAMED}, ("too few weights train", {
        "adapt.method": "lora", "adapt.names": []})),
    ({"metrics": FLAT, "plan": {"lr": 4e-5}}, {"adapt": LAST_1}, ("too few weights train", {
        "adapt.method": "lora", "adapt.last_k": 2})),
    ({"metrics": LATE}, {"train": {"epochs": 3}}, ("too many epochs", {"train.early_stop.patience": 3})),
    ({"metrics": LATE}, {"train": {"epochs": 3, **STOPS}}, None),
    ({"metrics": curve(2.5, 2.1, 1.7, 1.3)}, {"train": {"epochs": 3, **STOPS}}, None),
    ({"metrics": LATE}, {"train": {"epochs": 9, "unfreeze_groups": 9, **LAST}}, ("too many epochs", {})),
    ({"audit": {"duplicates": {"exact": {"count": 250}}}}, {"train": {"epochs": 4, "unfreeze_groups": 3}}, (
        "rows repeat each other", {"train.epochs": 3})),
    (OVER, {"adapt": DORA, "train": LAST}, ("it over-fits", {})),
    (OVER, {"adapt": IA3, "train": STOPS}, ("it over-fits", {})),
    (OVER, {"train": {"compile": True, **STOPS}}, ("it over-fits", {"adapt.dropout": 0.1})),
    (OVER, {"regularise": {"mixout": 0.5}}, ("it over-fits", {
        "train.early_stop.patience": 3, "adapt.dropout": 0.1})),
    (NOISY, {"objective": {"focal": 2.0}}, ("labels are noisy", {})),
    (NOISY, {"objective": {"smoothing": 0.3}}, ("labels are noisy", {})),
    ({"audit": {"classes": SKEWED}, "verdict": {"tuned": 0.95, "secondary": {"macro_f1": {"tuned": 0.49}}}},
     {"objective": {"smoothing": 0.1}}, ("one label outweighs the others", {"task.metric": ["macro_f1"]})),
    ({"verdict": {"guard": FORGOT}, "plan": {"lr": 2e-4}}, {"regularise": {"kl": 1.0}}, (
        "it forgot what it could do", {"train.lr": 1e-4})),
    ({"cost": STOPPED, "metrics": [], "plan": {"lr": 0.0}}, {}, ("loss is no number", {"precision": "float32"})),
    (FEW, {"data": {"test_frac": 0.4}, "evals": {"max_cases": 3000}}, ("too few test cases", {})),
    (FEW, {"data": {"test": ["test.csv"]}}, ("too few test cases", {"evals.max_cases": 800})),
]  # fmt: skip


def test_what_the_recipe_says_already_is_neither_undone_nor_made_impossible(tmp_path: Path) -> None:
    """Each recipe that comes out is one that a run takes."""
    base = base_of()
    for k, (changes, said, wanted) in enumerate(SAID):
        folder = planted(tmp_path / str(k), {**changes, "recipe": said})
        found = causes(folder)
        assert [(c.name, c.keys) for c in found[:1]] == ([wanted] if wanted else []), (changes, said)
        out = tmp_path / f"{k}.yaml"
        assert typed(["next", str(folder), "--out", str(out)]).code == 0
        assert out.is_file() == any(c.keys for c in found)
        for file in (folder / "recipe.yaml", *([out] if out.is_file() else [])):
            method.refuse(read(file, {})[0], base, is_labelled=True, has_dev=True)


def test_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planted(tmp_path / "run", PLANTED[0][2])
    said = typed(["next", "run"])
    assert "the learning rate is too high the training loss went from" in said.text
    assert "next.yaml changes train.lr" in said.text
    assert read(Path("next.yaml"), {})[0].train.lr == 0.004
    assert typed(["next", "run"]).code == 2  # next.yaml is there
    planted(tmp_path / "well", {})
    assert "nothing stands out" in typed(["next", "well"]).out
    assert typed(["next", "nothing"]).code == 2
