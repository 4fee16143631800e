"""`tunesmith predict`: no row is lost, nothing is answered twice, and a resumed file is the uninterrupted one."""

from __future__ import annotations

import csv
import json
import random
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tests.runs import tiny_runs
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.errors import DataError, InputError, Interrupted
from tunesmith.evals.calibration import MIN_CASES, Calibration
from tunesmith.folder import Silent
from tunesmith.graded import Asked as Tried
from tunesmith.graded import grade_file
from tunesmith.predict import LABEL_ROWS
from tunesmith.predict_file import Asked, Done, predict_file
from tunesmith.recipe import parse
from tunesmith.run import run

SILENT = Silent()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs: labels (calibrated) and texts."""
    folder = tmp_path_factory.mktemp("predict")
    model = tiny_runs.model_folder(folder / "model")
    for name, data in (
        ("labels", tiny_runs.labelled_file(folder / "labels.jsonl", 400)),
        ("texts", tiny_runs.reply_file(folder / "texts.jsonl")),
    ):
        settings = tiny_runs.settings(model, data, max_updates=3)
        settings["evals"]["max_cases"] = 60 if name == "labels" else 8
        settings["export"] = ["adapter"]
        run(parse(settings), yaml.safe_dump(settings), folder / name, SILENT)
    return folder


def csv_file(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def messages(num: int) -> list[dict[str, Any]]:
    rng = random.Random(7)
    return [{"number": i, "text": " ".join(rng.choices(tiny_runs.WORDS, k=5)), "note": ""} for i in range(num)]


def read_csv(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def do(here: Path, name: str, source: Path, out: Path, tell: Any = SILENT, **asked: Any) -> Done:
    return predict_file(here / name, source, out, Asked(**asked), tell)


class StopAt(Silent):
    """Ctrl-C once so many rows are done."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.said: list[str] = []

    def step(self, done: int, total: int, text: str) -> None:
        if done == self.rows:
            signal.raise_signal(signal.SIGINT)

    def say(self, text: str) -> None:
        self.said.append(text)


def test_calibration_is_kept_and_read(here: Path) -> None:
    facts = json.loads((here / "labels" / "calibration.json").read_text())
    assert facts["calibrated"]
    assert facts["num_dev"] >= MIN_CASES
    assert facts["labels"] == ["clips", "dog", "fox"]
    assert facts["held_out"]["num_cases"] == 60
    assert facts["held_out"]["after"]["nll"] < facts["held_out"]["before"]["nll"]  # random weights are far too sure
    assert not (here / "texts" / "calibration.json").exists()


def test_every_row_comes_back_with_its_columns_in_order(here: Path, tmp_path: Path) -> None:
    rows = messages(5)
    rows[2]["text"] = "  "
    source = csv_file(tmp_path / "in.csv", rows, ";")
    with source.open("a", encoding="utf-8") as out:
        out.write("5;too;many;fields\n6;quick fox;last\n")
    done = do(here, "labels", source, tmp_path / "out.csv")
    found = read_csv(tmp_path / "out.csv", ";")
    assert list(found[0]) == ["number", "text", "note", "answer", "probability", "unsure", "problem"]
    assert [r["number"] for r in found] == ["0", "1", "2", "3", "4", "", "6"]
    assert [bool(r["answer"]) for r in found] == [True, True, False, True, True, False, True]
    assert found[2]["problem"] == "the prompt (column 'text') is empty"
    assert found[5]["problem"].startswith("line 7: has 4 fields")
    assert (done.num_rows, done.num_problems) == (7, 2)
    kept = Calibration.of(json.loads((here / "labels" / "calibration.json").read_text()))
    for row in found:
        if row["answer"]:
            assert row["answer"] in ("clips", "dog", "fox")
            assert row["unsure"] == ("yes" if kept.is_unsure(float(row["probability"])) else "no")
    assert done.num_unsure == sum(r["unsure"] == "yes" for r in found)


def test_a_resumed_file_is_the_uninterrupted_one(here: Path, tmp_path: Path) -> None:
    source = csv_file(tmp_path / "in.csv", messages(LABEL_ROWS * 2 + 9))
    do(here, "labels", source, tmp_path / "whole.csv", each_label=True)
    out = tmp_path / "out.csv"
    tell = StopAt(LABEL_ROWS)
    with pytest.raises(Interrupted, match=rf"{LABEL_ROWS} of 137 rows are answered and kept"):
        do(here, "labels", source, out, tell, each_label=True)
    assert not out.exists()
    with pytest.raises(InputError, match="add --resume"):
        do(here, "labels", source, out, each_label=True)
    journal = out.with_name("out.csv.partial")
    kept = journal.read_bytes()
    journal.write_bytes(kept + b'[{"answer": "fo')  # a write that the power cut in half
    tell.rows = -1
    do(here, "labels", source, out, tell, each_label=True, resume=True)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert any(f"going on behind row {LABEL_ROWS}" in line for line in tell.said)
    assert not journal.exists()
    with pytest.raises(InputError, match="nothing is left to resume"):
        do(here, "labels", source, out, resume=True)


def test_a_resumed_file_of_texts_is_the_uninterrupted_one(here: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{word} {i}?"} for i in range(8) for word in tiny_runs.WORDS]
    source = tiny_runs.written(tmp_path / "in.jsonl", rows)
    do(here, "texts", source, tmp_path / "whole.jsonl")
    with pytest.raises(Interrupted):
        do(here, "texts", source, tmp_path / "out.jsonl", StopAt(48))
    do(here, "texts", source, tmp_path / "out.jsonl", resume=True)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [r["prompt"] for r in found] == [r["prompt"] for r in rows]
    assert set(found[0]) == {"prompt", "answer", "confidence", "cut", "problem"}
    assert {r["cut"] for r in found} <= {"yes", "no"}
    assert all(0 < r["confidence"] <= 1 for r in found)


def test_a_resume_with_something_else_is_refused(here: Path, tmp_path: Path) -> None:
    source = csv_file(tmp_path / "in.csv", messages(LABEL_ROWS + 1))
    with pytest.raises(Interrupted):
        do(here, "labels", source, tmp_path / "out.csv", StopAt(LABEL_ROWS))
    with pytest.raises(InputError, match="begun with another model"):
        do(here, "labels", source, tmp_path / "out.csv", resume=True, model="base")
    csv_file(source, messages(LABEL_ROWS + 2))
    with pytest.raises(InputError, match="begun with another source"):
        do(here, "labels", source, tmp_path / "out.csv", resume=True)


def test_columns_of_the_same_name_are_kept_and_said(here: Path, tmp_path: Path) -> None:
    source = tiny_runs.written(tmp_path / "in.jsonl", [{"answer": "mine", "predicted answer": 1, "text": "a dog"}])
    tell = StopAt(-1)
    done = do(here, "labels", source, tmp_path / "out.jsonl", tell)
    [row] = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert (row["answer"], row["predicted answer"]) == ("mine", 1)
    assert row["predicted answer 2"] in ("clips", "dog", "fox")
    assert done.columns["answer"] == "predicted answer 2"
    assert any("'answer' of its own" in line for line in tell.said)


def test_answers_of_a_form(here: Path, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    source = csv_file(tmp_path / "in.csv", [{"prompt": f"fox {i}: what is it?"} for i in range(5)])
    asked = Asked(pattern="(a|b)c")
    done = predict_file(here / "texts", source, tmp_path / "out.csv", asked, SILENT)
    rows = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")))
    assert done.num_rows == 5
    assert all(row["answer"] in ("ac", "bc") and row["cut"] == "no" for row in rows)
    with pytest.raises(InputError, match="--schema and --pattern are two ways"):
        predict_file(here / "texts", source, tmp_path / "no.csv", Asked(pattern="a", schema=tmp_path), SILENT)


def test_a_file_of_predictions_can_be_graded(here: Path, tmp_path: Path) -> None:
    """Its answers are the outputs, the file's own columns the facts; a row without an answer is left out."""
    rows = [{**row, "answer": "fox"} for row in messages(5)]
    rows[2]["text"] = ""
    out = tmp_path / "predicted.csv"
    do(here, "texts", csv_file(tmp_path / "m.csv", rows), out, prompt=("text",))
    recipe = parse({"reward": [{"kind": "exact", "reference": "answer"}, {"kind": "length", "most": 1, "buffer": 1}]})
    tried, said = grade_file(recipe, out, Tried(), SILENT)
    assert (said["num_rows"], said["num_left_out"]) == (4, 1)
    assert [one.attempt.text for one in tried] == [row["predicted answer"] for row in read_csv(out) if row["text"]]
    assert set(tried[0].attempt.example.target.facts) == {"number", "text", "note", "answer"}  # type: ignore[union-attr]


def test_the_base_is_not_called_calibrated(here: Path, tmp_path: Path) -> None:
    source = csv_file(tmp_path / "in.csv", messages(3))
    do(here, "labels", source, tmp_path / "base.csv", model="base")
    found = read_csv(tmp_path / "base.csv")
    assert list(found[0])[-3:] == ["answer", "confidence", "problem"]
    do(here, "labels", source, tmp_path / "tuned.csv", each_label=True)
    row = read_csv(tmp_path / "tuned.csv")[0]
    shares = {name: float(row[f"probability: {name}"]) for name in ("clips", "dog", "fox")}
    assert sum(shares.values()) == pytest.approx(1, abs=2e-4)
    assert row["answer"] == max(shares, key=lambda name: shares[name])
    assert float(row["probability"]) == max(shares.values())


def test_parquet_keeps_types_and_a_template_may_be_said(here: Path, tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2], "subject": ["a dog", "clips"], "score": [0.5, None], "tags": [["x"], []]})
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(DataError, match=r"no column 'text'.*--prompt COLUMN"):
        do(here, "labels", tmp_path / "in.parquet", tmp_path / "out.parquet")
    done = do(here, "labels", tmp_path / "in.parquet", tmp_path / "out.parquet", prompt=("{subject} sold",))
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.field("id").type == pa.int64()
    assert found.schema.field("probability").type == pa.float64()
    assert found["score"].to_pylist() == [0.5, None]
    assert found["tags"].to_pylist() == ['["x"]', "[]"]
    assert done.num_problems == 0


def test_what_is_too_long_says_so_and_the_rest_is_answered(here: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "fox " * 3000}, {"prompt": "fox " * 150}, {"prompt": "dog?"}]
    do(here, "texts", tiny_runs.written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert "the model's context is 2048" in found[0]["problem"]
    assert found[0]["answer"] == ""
    assert [r["problem"] for r in found[1:]] == [None, None]


MISTAKES = {
    "no run": (["none", "in.csv", "out.csv"], "there is no folder none"),
    "no file": (["labels", "none.csv", "out.csv"], "no such file"),
    "no ending": (["labels", "in.csv", "out.txt"], "must end in .csv"),
    "no such model": (["labels", "in.csv", "out.csv", "--model", "other"], "has no model 'other'"),
    "labels of texts": (["texts", "in.csv", "out.csv", "--prompt", "text", "--each-label"], "not tuned on labels"),
    "over itself": (["labels", "in.csv", "in.csv"], "is there already"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_an_input_error(mistake: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    csv_file(here / "in.csv", messages(2))
    words, message = MISTAKES[mistake]
    found = CliRunner().invoke(app, ["predict", *words])
    assert isinstance(found.exception, InputError)
    assert message in str(found.exception)
    assert not (here / "out.csv").exists()


def test_the_command(here: Path, tmp_path: Path) -> None:
    source = csv_file(tmp_path / "in.csv", messages(3))
    words = ["predict", str(here / "labels"), str(source)]
    found = CliRunner().invoke(app, [*words, str(tmp_path / "a.csv")])
    assert found.exit_code == 0, found.output
    assert "3 rows" in found.stdout
    told = CliRunner().invoke(app, [*words, str(tmp_path / "b.tsv"), "--json"])
    assert json.loads(told.stdout)["num_rows"] == 3
    assert read_csv(tmp_path / "b.tsv", "\t") == read_csv(tmp_path / "a.csv")
