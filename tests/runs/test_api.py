"""`import tunesmith as ts`: light to import, typed, and the same answers as the command line."""

from __future__ import annotations

import csv
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runs import tiny_runs

import tunesmith as ts
from tunesmith.data.columns import Columns
from tunesmith.predict import Unusable


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> ts.Run:
    folder = tmp_path_factory.mktemp("api")
    return ts.run(
        data=tiny_runs.labelled_file(folder / "rows.jsonl", 400),
        model=tiny_runs.model_folder(folder / "model"),
        out=folder / "out",
        tell=ts.Silent(),
        train={"max_updates": 2, "update_tokens": 512, "micro_tokens": 256},
        evals={"max_cases": 40, "max_dev_cases": 6},
        export=["adapter"],
    )


def test_importing_is_light_and_the_names_are_there() -> None:
    code = "import sys, tunesmith as ts; print('torch' in sys.modules, 'numpy' in sys.modules, dir(ts) == ts.__all__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == (
        "False False True\n"
    )
    assert all(getattr(ts, name) for name in ts.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ts.trian  # noqa: B018


def test_run_stays_the_function_whoever_imports_the_module() -> None:
    code = "import tunesmith as ts, tunesmith.quickstart; print(type(ts.run).__name__, ts.run.__module__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "function tunesmith.api\n"
    assert importlib.import_module("tunesmith.run").__name__ == "tunesmith.run"


def test_a_run_has_its_verdict_and_answers(done: ts.Run) -> None:
    assert done.decision == done.verdict["decision"]
    assert done.report.is_file()
    assert done.labels == ("clips", "dog", "fox")
    found = done.predict(["a dog", {"text": "a dog"}, [{"role": "user", "content": "a dog"}], "", {"title": "x"}])
    assert [p.answer in done.labels for p in found] == [True, True, True, False, False]
    assert found[0] == found[1] == found[2]
    assert found[0].probability == max((found[0].probabilities or {}).values())
    assert found[0].unsure in (True, False)
    assert found[3].problem == "the prompt (column 'prompt') is empty"
    assert found[4].problem == "has no column 'text'"
    base = done.answer("a dog", model="base")
    assert base.probability is None
    assert base.confidence is not None


def test_load_gives_the_same_and_a_file_has_the_same_answers(done: ts.Run, tmp_path: Path) -> None:
    again = ts.load(str(done.folder))
    assert again.verdict == done.verdict
    texts = ["a dog", "quick clips", "fox jumps"]
    source = tmp_path / "in.csv"
    source.write_text("text\n" + "\n".join(texts) + "\n")
    again.predict_file(source, tmp_path / "out.csv", tell=ts.Silent())
    with (tmp_path / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["answer"], float(r["probability"])) for r in rows] == [
        (p.answer, p.probability) for p in done.predict(texts)
    ]


def test_mistakes_are_tunesmith_errors(done: ts.Run, tmp_path: Path) -> None:
    with pytest.raises(ts.InputError, match=r"did you mean train\.epochs"):
        ts.run(data="x.csv", train={"epoch": 1})
    with pytest.raises(ts.InputError, match="unknown key trian"):
        ts.run(data="x.csv", trian={"epochs": 1})
    with pytest.raises(ts.InputError, match="resume=True needs out"):
        ts.run(data="x.csv", resume=True)
    with pytest.raises(ts.InputError, match="holds no run"):
        ts.load(tmp_path)
    with pytest.raises(ts.InputError, match="wants a list"):
        done.predict("a dog")
    with pytest.raises(ts.TunesmithError, match="has no model 'best'"):
        done.predict(["a dog"], model="best")


def test_a_text_goes_where_the_template_has_its_column() -> None:
    as_messages = importlib.import_module("tunesmith.api").as_messages
    one = as_messages("hello", Columns(prompt=("Review: {text}\nMood:",), label="mood"))
    assert one[0].content == "Review: hello\nMood:"
    several = Columns(prompt=("Subject: {subject}\n{body}",), reply="answer")
    with pytest.raises(ts.InputError, match="'subject', 'body': give a dict"):
        as_messages("hello", several)
    assert as_messages({"subject": "a", "body": "b"}, several)[0].content == "Subject: a\nb"
    assert isinstance(as_messages([{"role": "robot", "content": "x"}], several), Unusable)
