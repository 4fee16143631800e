"""Whole tiny runs whose verdict is about more than a text: a judge, programs, bits per byte, an own function, pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from tests.unit.evals.test_judge import completion, longer, server

from tunesmith.compared import compare_runs
from tunesmith.errors import InputError, TunesmithError
from tunesmith.evals import sandbox
from tunesmith.folder import Silent
from tunesmith.recipe import parse, read
from tunesmith.run import run


def programs(path: Path, num: int = 60) -> Path:
    rows = [
        {
            "prompt": f"write f, which gives {i}",
            "completion": f"def f():\n    return {i}",
            "check": f"assert f() == {i}",
        }
        for i in range(num)
    ]
    return tiny_runs.written(path, rows)


def settings(folder: Path, file: Path, **changes: Any) -> dict[str, Any]:
    found = tiny_runs.settings(tiny_runs.model_folder(folder / "model"), file, max_updates=2)
    found["export"] = ["adapter"]
    for key, value in changes.items():
        found[key] = {**found.get(key, {}), **value}
    return found


def finished(folder: Path, file: Path, name: str = "run", **changes: Any) -> tuple[Path, dict[str, Any]]:
    said = settings(folder, file, **changes)
    verdict = run(parse(said), yaml.safe_dump(said), folder / name, Silent())
    return folder / name, verdict


def test_bits_per_byte_with_preferences_and_a_judge_beside(tmp_path: Path) -> None:
    data = tiny_runs.reply_file(tmp_path / "rows.jsonl")
    pairs = [{"prompt": f"{w} {k}: what is it?", "chosen": f"the {w}", "rejected": "no idea at all, sorry"}
             for k, w in enumerate(tiny_runs.WORDS)]  # fmt: skip
    tiny_runs.written(tmp_path / "pairs.jsonl", pairs)
    with server(longer) as (address, seen):
        out, verdict = finished(
            tmp_path, data, task={"metric": "bits_per_byte"},
            evals={"preferences": [str(tmp_path / "pairs.jsonl")],
                   "judge": {"endpoint": address, "model": "j", "max_cases": 8}},
        )  # fmt: skip
    assert verdict["less_is_better"]
    assert 0 < verdict["tuned"] < 32
    assert verdict["effect"] == pytest.approx(verdict["base"] - verdict["tuned"])
    rows = pq.read_table(out / "scores" / "cases.parquet").to_pylist()
    assert all(r["scale"] == "less" and len(r["base_measured"]) == 1 for r in rows)
    sizes = [len(r["reference"].encode()) for r in rows]
    assert verdict["base"] == pytest.approx(sum(r["base_score"] * n for r, n in zip(rows, sizes)) / sum(sizes))
    # beside it: pairs with their own number, and a judge about fewer cases
    assert verdict["secondary"]["preference_accuracy"]["num_cases"] == len(pairs)
    assert len(json.loads((out / "scores" / "preferences.json").read_text())["tuned"]) == len(pairs)
    judged = json.loads((out / "scores" / "judged.json").read_text())
    assert judged["num_cases"] == 8
    assert len(seen) == 2 + 2 * judged["num_asked"]  # and a made-up question beforehand
    assert verdict["secondary"]["judge"]["base"] + verdict["secondary"]["judge"]["tuned"] == pytest.approx(1)
    assert any("the judge is j at 127.0.0.1" in note for note in verdict["notes"])
    plan = {row["key"]: row for row in json.loads((out / "plan.json").read_text())["resolved"]}
    assert "SENT there" in plan["judge"]["why"]
    lock = json.loads((out / "lock.json").read_text())
    assert lock["metric"] == {"name": "bits_per_byte"}
    text = (out / "report.md").read_text()
    assert "bits per byte" in text
    assert "less is better" in text
    # two runs are compared by what each measured
    found = compare_runs([out, out])
    assert found.pairs[0].effect == 0
    with pytest.raises(InputError, match="a judge compared each tuned model with its own base"):
        compare_runs([out, out], "judge")


def test_a_verdict_by_a_judge(tmp_path: Path) -> None:
    data = tiny_runs.reply_file(tmp_path / "rows.jsonl")
    votes = tmp_path / "votes.csv"
    votes.write_text("example_id,vote\nnobody-knows,tie\n")
    with server(longer) as (address, seen):
        by = {"endpoint": address, "model": "j", "max_cases": 6, "votes": str(votes)}
        out, verdict = finished(tmp_path, data, task={"metric": "judge"}, evals={"judge": by})
        asked = len(seen)
        said = yaml.safe_load((out / "recipe.yaml").read_text())
        for name in ("verdict.json", "scores/judged.json"):
            (out / name).unlink()
        again = run(parse(said), yaml.safe_dump(said), out, Silent(), resume=True)
    assert all("moon" in b["messages"][1]["content"] for b in seen[:2])
    assert asked == len(seen)  # what the judge said is kept
    assert again["effect"] == verdict["effect"]
    assert verdict["num_cases"] == 6
    assert verdict["base"] + verdict["tuned"] == pytest.approx(1)
    assert verdict["baselines"] == {}
    forms = json.loads((out / "scores" / "forms.json").read_text())
    assert all(f["dev_score"] is not None for f in forms)  # chosen by the task's own metric
    assert "judge" in (out / "report.md").read_text()
    with (
        server(lambda body, headers: completion("Both are nice.")) as (address, seen),
        pytest.raises(InputError, match=r"no JSON object .* it said 'Both are nice.'"),
    ):
        finished(tmp_path, data, "unreadable", task={"metric": "judge"}, evals={"judge": {**by, "endpoint": address}})
    assert len(seen) == 2  # nothing of the user's was sent
    assert not (tmp_path / "unreadable").exists()


@pytest.mark.skipif(bool(sandbox.available()), reason="no sandbox here")
def test_programs_are_sampled_and_run(tmp_path: Path) -> None:
    data = programs(tmp_path / "rows.jsonl")
    out, verdict = finished(
        tmp_path, data, data={"columns": {"tests": "check"}, "test_frac": 0.1}, task={"metric": "pass_at_k"},
        evals={"max_cases": 3, "max_dev_cases": 1, "few_shot": 0, "code": {"tries": 2, "k": 2, "timeout_s": 5}},
    )  # fmt: skip
    assert verdict["metric"] == "pass_at_k"
    assert (verdict["base"], verdict["tuned"]) == (0, 0)  # a tiny model writes no Python
    rows = pq.read_table(out / "scores" / "cases.parquet").to_pylist()
    assert all(r["tuned_measured"] == [2, 0, 2] for r in rows)
    assert verdict["baselines"]["nearest training example"] == 0  # another number each time
    plan = {row["key"]: row for row in json.loads((out / "plan.json").read_text())["resolved"]}
    assert plan["sandbox"]["value"] == "pass@2 from 2 programs a case"
    with pytest.raises(TunesmithError, match="has no tests, which pass_at_k runs"):
        finished(tmp_path, data, "no_tests", task={"metric": "pass_at_k"}, evals={"max_dev_cases": 1, "few_shot": 0})


def test_an_own_function_beside_the_recipe(tmp_path: Path) -> None:
    data = tiny_runs.reply_file(tmp_path / "rows.jsonl")
    (tmp_path / "my_metrics.py").write_text(
        "RANGE = (0, 6)\ndef score(output, reference, prompt):\n    assert prompt.endswith('?')\n"
        "    return min(len(output.split()), 6)\n"
    )
    said = settings(tmp_path, data, task={"metric": "my_metrics.py:score"}, evals={"schema": {"type": "object"}})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(said))
    recipe, text = read(tmp_path / "recipe.yaml", {})
    verdict = run(recipe, text, tmp_path / "run", Silent())
    assert verdict["metric"].endswith("my_metrics.py:score")
    assert verdict["secondary"]["json_schema"]["base"] == 0
    rows = pq.read_table(tmp_path / "run" / "scores" / "cases.parquet").to_pylist()
    assert [r["tuned_score"] for r in rows] == [min(len(r["tuned_output"].split()), 6) for r in rows]
    assert "own metric" in json.loads((tmp_path / "run" / "lock.json").read_text())["metric"]
    assert "nearest training example" in verdict["baselines"]


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["task.metric=judge"], "task.metric judge needs evals.judge.endpoint"),
        (["task.metric=json_schema"], "needs evals.schema"),
        (["task.metric=preference_accuracy", "data.dev_frac=0.2"], "name a file of them as evals.preferences"),
        (["task.metric=nowhere.py:score"], "there is no file"),
        (["evals.schema=nowhere.json"], "which cannot be read"),
        (["evals.judge.endpoint=http://127.0.0.1:1/v1"], "wants both endpoint"),
        (["evals.judge.endpoint=ftp://x", "evals.judge.model=j"], "no address of an API"),
        (["evals.code.k=9"], "pass@9 needs 9 or more"),
    ],
)
def test_mistakes_are_said_before_anything_runs(tmp_path: Path, sets: list[str], words: str) -> None:
    data = tiny_runs.reply_file(tmp_path / "rows.jsonl")
    model = tiny_runs.model_folder(tmp_path / "model")
    given = [arg for s in sets for arg in ("--set", s)]
    found = typed(["plan", "--data", str(data), "--model", str(model), *given])
    assert found.code == 2, found
    assert words in " ".join(found.err.split())


def test_two_primary_metrics(tmp_path: Path) -> None:
    data = tiny_runs.labelled_file(tmp_path / "rows.jsonl")
    out, verdict = finished(
        tmp_path, data, task={"metric": ["accuracy", "macro_f1"]}, gates={"effect": {"macro_f1": -1.0}}
    )
    assert [c["metric"] for c in verdict["claims"]] == ["accuracy", "macro_f1"]
    assert verdict["metric"] == "accuracy"
    assert not {"accuracy", "macro_f1"} & set(verdict["secondary"])
    assert json.loads((out / "lock.json").read_text())["metric"]["name"] == "accuracy, macro_f1"
    resolved = {row["key"]: row for row in json.loads((out / "plan.json").read_text())["resolved"]}
    assert "2 claims" in resolved["metric"]["why"]
    assert "the same, macro_f1" in resolved
    [gate] = json.loads((out / "gates.json").read_text())
    assert (gate["name"], gate["passed"]) == ("effect on macro_f1", True)
    page, card = ((out / n).read_text() for n in ("report.html", "report.md"))
    for text in (page, card, (out / "adapter" / "README.md").read_text()):
        assert "2 metrics were chosen before training" in text
        assert "macro-F1: from" in text
        assert "97.5% interval" in text


def test_several_metrics_are_named_once_each(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="each once"):
        parse({"task": {"metric": ["accuracy", "accuracy"]}})
    with pytest.raises(InputError, match="one metric or more"):
        parse({"task": {"metric": []}})
