"""The main ways through in bfloat16, said outright, so that they are held on processors of every kind."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import openai
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tests import encoders
from tests.runs import served, tiny_runs
from tests.runs.test_preference_runs import pair_file
from tests.runs.test_pretrain import documents

from tunesmith import candidates, explain
from tunesmith.api import Run
from tunesmith.deliver import deliver
from tunesmith.engine import precision
from tunesmith.errors import RunError
from tunesmith.folder import Silent
from tunesmith.models.here import named
from tunesmith.opened import as_measured, open_run
from tunesmith.recipe import parse
from tunesmith.run import run
from tunesmith.types import Message

LEARNS = {"max_updates": 30, "epochs": 30, "lr": 0.01, "every_checkpoint": 100}


def said(model: Path, data: Path) -> dict[str, Any]:
    found = tiny_runs.settings(model, data, **LEARNS) | {"precision": "bfloat16", "export": ["adapter", "merged"]}
    found["evals"]["explain_cases"] = 1
    return found


def do(settings: dict[str, Any], out: Path) -> Path:
    run(parse(settings), yaml.safe_dump(settings), out, Silent())
    return out


def of_texts(model: Path, data: Path) -> dict[str, Any]:
    found = said(model, data)
    found["data"]["reading"] = {"separator": "\n\n"}
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.world(tmp_path_factory.mktemp("bfloat16"))


@pytest.fixture(scope="module")
def labels(world: Path) -> Path:
    return do(said(world / "model", world / "rows.jsonl"), world / "labels")


@pytest.fixture(scope="module")
def replies(world: Path) -> Path:
    return do(said(world / "model", tiny_runs.reply_file(world / "replies.jsonl")), world / "replies")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    settings = said(encoders.folder(folder / "model", "bert"), tiny_runs.labelled_file(folder / "rows.jsonl"))
    del settings["evals"]["max_new_tokens"]  # nothing is written
    return do(settings, folder / "out")


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that learned to tell hidden tokens."""
    folder = tmp_path_factory.mktemp("masked")
    encoders.masked(folder / "model", "roberta")
    documents(folder / "book.txt")
    settings = of_texts(folder / "model", folder / "book.txt") | {"task": {"name": "pretrain"}}
    del settings["evals"]["max_new_tokens"]
    return do(settings, folder / "out")


@pytest.fixture(scope="module")
def texts(world: Path) -> Path:
    documents(world / "book.txt")
    return do(of_texts(world / "model", world / "book.txt"), world / "texts")


@pytest.fixture(scope="module")
def pairs(world: Path) -> Path:
    pair_file(world / "pairs.jsonl")
    return do(said(world / "model", world / "pairs.jsonl"), world / "pairs")


def facts(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / name).read_text())
    return found


@pytest.mark.parametrize("kind", ["labels", "replies", "texts", "pairs", "classes", "masked"])
def test_what_leaves_is_held_sharply(kind: str, request: pytest.FixtureRequest) -> None:
    """Rounding of the forward pass is no part of the comparison of merged weights; what it does is told in numbers."""
    out: Path = request.getfixturevalue(kind)
    assert facts(out, "lock.json")["precision"] == "bfloat16"
    exported = facts(out, "export.json")
    assert exported["adapter"]["logit_diff"] < 0.02
    assert exported["merged"]["logit_diff"] < 1e-4
    assert exported["merged"]["measured_in"] == "bfloat16"
    assert 1e-4 < exported["merged"]["measured_diff"] < 1
    [told] = [note for note in facts(out, "verdict.json")["notes"] if "measured in bfloat16" in note]
    assert f"{exported['merged']['measured_diff']:.2g} of its spread, which is rounding" in told
    for name in ("adapter", "merged"):
        given = deliver(out, name, out.parent / f"{kind}_{name}", "f16", Silent())  # type: ignore[arg-type]
        assert ("measured_in" in given) == (name == "merged")


@pytest.mark.parametrize("kind", ["labels", "replies", "classes"])
def test_what_was_measured_answers(kind: str, request: pytest.FixtureRequest) -> None:
    out: Path = request.getfixturevalue(kind)
    rows = pq.read_table(out / "scores" / "cases.parquet").to_pylist()
    assert [p.answer for p in Run(out).predict([r["prompt"] for r in rows])] == [r["tuned_output"] for r in rows]


@pytest.mark.parametrize(("kind", "where"), [("labels", "exported"), ("classes", "class_export")])
def test_a_merged_model_that_lost_a_little_is_refused(
    kind: str, where: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: a fiftieth of what was learned is gone, which 16 bits would hide."""
    settings = yaml.safe_load((request.getfixturevalue(kind) / "recipe.yaml").read_text())
    module = importlib.import_module(f"tunesmith.{where}")
    whole = module.write_merged

    def lossy(opened: Any, *how: Any) -> Any:
        for name, parameter in opened.named_parameters():
            if "lora_B" in name:
                parameter.data *= 0.98
        return whole(opened, *how)

    monkeypatch.setattr(module, "write_merged", lossy)
    with pytest.raises(RunError, match=r"the merged( model)?, loaded by plain transformers, is not the model"):
        do(settings, tmp_path / "out")


def test_a_gguf_file_is_held_against_its_weights_in_float32(replies: Path, tmp_path: Path) -> None:
    given = deliver(replies, "gguf", tmp_path / "gguf", "f32", Silent())
    assert given["transformers"]["logit_diff"] < 2e-3 < given["measured_diff"]
    assert given["transformers"]["num_same"] == given["prompts"]


def test_it_answers_in_the_precision_in_which_it_was_measured(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever this machine would pick for a new run; but not in 16 bits where they are slow and nobody asked."""
    outright = parse(yaml.safe_load((labels / "recipe.yaml").read_text()))
    free = parse(yaml.safe_load((labels / "recipe.yaml").read_text()) | {"precision": "auto"})
    (tmp_path / "lock.json").write_text('{"precision": "float32"}')
    half, full = torch.bfloat16, torch.float32
    for units, wanted in ((None, (full, half, full)), ("AVX512-BF16", (half, half, full)), ("AMX", (half, half, full))):
        monkeypatch.setattr(precision, "bf16_units", lambda units=units: units)
        found = as_measured(free, labels), as_measured(outright, labels), as_measured(free, tmp_path)
        assert tuple(where.dtype for where in found) == wanted, units


def test_serve_gives_what_the_run_gives(replies: Path) -> None:
    opened, turns = open_run(replies), [Message("user", "fox 7: what is it?")]
    with served.server(replies) as server:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=120)
        for who in ("tuned", "base"):
            given = client.chat.completions.create(model=who, messages=[{"role": "user", "content": turns[0].content}])
            assert given.choices[0].message.content == opened.complete(who, [turns])[0].text


def test_an_explanation_is_that_of_float32_but_for_rounding(labels: Path, tmp_path: Path) -> None:
    """Cosines of gradients, and what the answer loses without each word."""
    assert len(list((labels / "explained").glob("*.json"))) == 1
    shutil.copytree(labels, tmp_path / "full")
    lock = facts(labels, "lock.json") | {"precision": "float32"}
    (tmp_path / "full" / "lock.json").write_text(json.dumps(lock))
    cases = pq.read_table(labels / "scores" / "cases.parquet").to_pylist()[:6]
    cosines, drops = [], []
    for folder, dtype in ((labels, torch.bfloat16), (tmp_path / "full", torch.float32)):
        opened = open_run(folder)
        assert opened.session.base.model.dtype == dtype
        prompts = [opened.messages((Message("user", case["prompt"]),)) for case in cases]
        records = [explain.answer_record(opened, c["example_id"], p, c["reference"]) for c, p in zip(cases, prompts)]
        cosines.append(list(explain.similarities(opened, records[:2], records)))
        given = prompts[0], cases[0]["reference"], 0, lambda *_: None, explain.Effort()
        drops.append([span.drop for span in explain.words(opened, *given)[0]])
    for row, (found, wanted) in enumerate(zip(*cosines)):
        assert found == pytest.approx(wanted, abs=0.15)
        assert row > 1 or found[row] == pytest.approx(1, abs=1e-5)
    assert drops[0] == pytest.approx(drops[1], abs=0.1 * max(map(abs, drops[1])))


def test_candidates_are_those_of_float32_but_for_rounding(world: Path) -> None:
    model, found = named(str(world / "model")), []
    assert model is not None
    for precise in ("bfloat16", "float32"):
        recipe = parse(said(world / "model", world / "rows.jsonl") | {"precision": precise})
        found.append(candidates.rank(recipe, [model], candidates.Asked(shots=2, cases=12), Silent()).rows[0])
    assert found[0].bits_per_byte == pytest.approx(found[1].bits_per_byte, rel=0.02)
    assert found[0].bits_per_byte != found[1].bits_per_byte
