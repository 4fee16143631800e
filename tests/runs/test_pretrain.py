"""A whole tiny run on plain text: scored as it stands, resumed, verified, and refused where answers would be wanted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith import heritage
from tunesmith.errors import InputError, Interrupted, PlanError
from tunesmith.folder import Silent
from tunesmith.predict_file import Asked, predict_file
from tunesmith.recipe import parse
from tunesmith.run import run
from tunesmith.verified import verify

MOST = 24  # tokens of a piece


def documents(path: Path, num: int = 40) -> Path:
    rng = random.Random(2)
    texts = [" ".join(rng.choices(tiny_runs.WORDS, k=6 + n % 17)) + f" {n}.\n" for n in range(num)]
    path.write_text("\n".join(texts))
    return path


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    found = tiny_runs.settings(folder / "model", folder / "book.txt", max_updates=3)
    found["precision"] = "float32"  # held against plain transformers to the last digits
    found["data"] |= {"max_tokens": MOST, "reading": {"separator": "\n\n"}}
    found["train"]["rehearsal"] = True
    found["evals"] |= {"explain_cases": 2, "robustness": "quick", "few_shot": 4}
    for key, value in changes.items():
        found[key] = {**found.get(key, {}), **value}
    return found


def start(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    said = settings(folder, **changes)
    return run(parse(said), yaml.safe_dump(said), folder / name, Silent())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    tiny_runs.model_folder(folder / "model")
    documents(folder / "book.txt")
    start(folder, "run", task={"name": "auto"})
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def own_bits(folder: Path, text: str) -> float:
    """Bits of a text under the base, by transformers alone: pieces of MOST tokens that overlap by one."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    ids = AutoTokenizer.from_pretrained(folder / "model")(text)["input_ids"]
    total = 0.0
    for at in range(0, len(ids) - 1, MOST - 1):
        piece = torch.tensor(ids[at : at + MOST])[None]
        with torch.no_grad():
            total += float(model(input_ids=piece, labels=piece).loss) * (piece.numel() - 1)
    return total / float(torch.log(torch.tensor(2.0)))


def test_the_verdict_is_about_bits_per_byte_of_whole_documents(world: Path) -> None:
    out = world / "run"
    verdict, audit = read(out / "verdict.json"), read(out / "audit.json")
    assert (verdict["task"], verdict["metric"], verdict["less_is_better"]) == ("pretrain", "bits_per_byte", True)
    assert audit["understood"]["task_why"].endswith("holds texts without prompts")
    assert audit["tokens"]["total"] - audit["tokens"]["learned"] >= audit["splits"]["train"]  # the first of each piece
    rows = pq.read_table(out / "scores" / "cases.parquet").to_pylist()
    assert verdict["num_cases"] == len(rows) == audit["splits"]["test"]
    assert all(r["base_output"] == r["tuned_output"] == r["prompt"] == "" for r in rows)
    bits = sum(own_bits(world, r["reference"]) for r in rows)
    assert verdict["base"] == pytest.approx(bits / sum(len(r["reference"].encode()) for r in rows), rel=1e-5)
    assert any(len(r["reference"].split()) > MOST for r in rows) or audit["tokens"]["length_quantiles"]["1"] == MOST
    assert verdict["baselines"] == {}
    assert any("no answer: whether it answers better is not known" in note for note in verdict["notes"])
    assert verdict["effect"] == pytest.approx(verdict["base"] - verdict["tuned"])


def test_what_asks_for_answers_is_left_out_and_said(world: Path) -> None:
    out = world / "run"
    plan = {row["key"]: row for row in read(out / "plan.json")["resolved"]}
    assert "no watched prompts" in plan["left out"]["why"]
    assert plan["pieces"]["value"] > read(out / "audit.json")["splits"]["train"]
    assert not {"instruction", "robustness", "evals.explain_cases"} & set(plan)
    assert read(out / "rehearsal.json")["total_s"] > 0
    assert set(read(out / "plan.json")["seconds"]["stages"]) >= {"baseline", "train", "evaluate"}
    assert not (out / "watched.jsonl").exists()
    assert not (out / "explained").exists()
    assert read(out / "understanding.json")["errors"] == {}
    assert [row["form"] for row in read(out / "scores" / "forms.json")] == ["plain"]
    page, card = ((out / name).read_text() for name in ("report.html", "report.md"))
    assert "scored as it stands, nothing is written" in page
    assert "bits per byte" in card
    assert "less is better" in card


def test_it_goes_on_where_it_was_stopped(world: Path) -> None:
    class Stops(Silent):
        def stage(self, name: str, budget_s: float | None) -> None:
            if name == "evaluate":
                raise Interrupted("stopped by the test")

    said = settings(world)
    with pytest.raises(Interrupted):
        run(parse(said), yaml.safe_dump(said), world / "stopped", Stops())
    again = run(parse(said), yaml.safe_dump(said), world / "stopped", Silent(), resume=True)
    first = read(world / "run" / "verdict.json")
    assert again["digests"] == first["digests"]
    assert (again["base"], again["tuned"]) == (first["base"], first["tuned"])


def test_verify_next_and_compare_know_such_a_run(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = verify(world / "run")
    assert [(c.name, c.found) for c in checks if c.passed is False] == []
    monkeypatch.chdir(tmp_path)
    for words in (["next", str(world / "run")], ["compare", str(world / "run"), str(world / "run")]):
        found = typed(words)
        assert found.code == 0, found.text
        assert "repl" not in found.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("predict {run} {book} {out}", "`tunesmith chat` shows what it writes, where it is no encoder"),
        ("evaluate {run} --out {out}", "measured in a run, with the documents as data.test"),
        ("evaluate {model} --data {book} --out {out}", "measured in a run, with the documents as data.test"),
        ("distil {model} --data {book} --out {out}.jsonl", "asks nothing and answers nothing"),
        ("explain {run} --case {case}", "its report shows each document"),
        ("models --for {rows} --folder {model}", "compare runs on it instead"),
    ],
)
def test_commands_that_ask_say_why_they_do_not(world: Path, tmp_path: Path, words: str, says: str) -> None:
    case = pq.read_table(world / "run" / "scores" / "cases.parquet").column("example_id")[0].as_py()
    places = {"run": world / "run", "book": world / "book.txt", "model": world / "model", "out": tmp_path / "out.csv"}
    rows = tiny_runs.written(
        tmp_path / "rows.jsonl", [{"text": t} for t in (world / "book.txt").read_text().split("\n\n")]
    )
    found = typed([w.format(**places, case=case, rows=rows) for w in words.split()])
    assert found.code == 2, found.text
    assert says in found.text


def test_it_can_be_talked_to(world: Path) -> None:
    found = typed(["chat", str(world / "run"), "--once", "Where is the dog?", "--max-tokens", "3"])
    assert found.code == 0, found.text
    with pytest.raises(InputError, match="answers nothing"):
        predict_file(world / "run", world / "book.txt", world / "x.csv", Asked(), Silent())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": {"metric": "rouge_l"}}, "task.metric rouge_l: task pretrain"),
        ({"gates": {"stopped": 0.5}}, "gates.stopped"),
        ({"evals": {"schema": {"type": "object"}}}, "evals.schema"),
        ({"task": {"instruction": "Write."}}, "task.instruction"),
        ({"train": {"watch_prompts": ["Why?"]}}, "train.watch_prompts"),
        ({"task": {"name": "chat"}}, "Say --set task.name=pretrain"),
        ({"data": {"reading": {}}}, "held out by whole documents"),
        ({"data": {"max_tokens": 1}}, "a piece of a text needs 2 or more"),
    ],
)
def test_what_a_text_does_not_have_is_refused(world: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        start(world, "refused", **changes)
    assert not (world / "refused").exists()


def test_answers_are_no_plain_text(world: Path, tmp_path: Path) -> None:
    said = settings(world, task={"name": "pretrain"})
    said["data"] |= {"train": [str(tiny_runs.reply_file(tmp_path / "rows.jsonl"))], "reading": {}}
    with pytest.raises(PlanError, match=r"data\.columns\.text=NAME"):
        run(parse(said), "", tmp_path / "run", Silent())


def test_init_proposes_it(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "recipe.yaml"
    found = typed(["init", str(world / "book.txt"), "--model", str(world / "model"), "--out", str(out), "--yes"])
    assert found.code == 0, found.text
    assert yaml.safe_load(out.read_text())["task"]["name"] == "pretrain"
    assert "plain text in 'text', learned as it is" in found.text


def test_it_goes_on_with_new_texts(world: Path, tmp_path: Path) -> None:
    """A step that moves nothing is its parent, on the documents that were held out then and on new ones."""
    new = documents(tmp_path / "new.txt", 30)
    new.write_text(new.read_text().replace("dog", "cat").replace(".", "!"))
    said = {"parent": {"run": str(world / "run")}, "data": {"train": [str(new)]}}
    recipe, text = heritage.settled(*both(said | {"train": {"lr": 1e-30, "max_updates": 1}}))
    verdict, before = run(recipe, text, tmp_path / "out", Silent()), read(world / "run" / "verdict.json")
    claims = {(c["cases"], c["against"]): c for c in verdict["lineage"]["claims"]}
    old = claims["old", "base"]
    assert (old["base"], old["tuned"], old["num_cases"]) == (before["base"], before["tuned"], before["num_cases"])
    assert (claims["new", "previous run"]["effect"], claims["new", "base"]["less_is_better"]) == (0, True)


def both(said: dict[str, Any]) -> tuple[Any, str]:
    return parse(said), yaml.safe_dump(said)
