"""Any model on held-out cases: this machine's own and one behind an address; here our own endpoint, and a bad one."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import uvicorn
from tests.runs import served, tiny_runs
from tests.runs.mistakes import Said, typed
from tests.unit.evals.test_judge import completion, server

from tunesmith.answerers import named_label
from tunesmith.evals import endpoint
from tunesmith.files import read_json
from tunesmith.opened import open_run
from tunesmith.serve.app import Rules, make
from tunesmith.serve.server import bound


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.label_run(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def replies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.reply_run(tmp_path_factory.mktemp("replies"))


@pytest.fixture(scope="module")
def address(replies: Path) -> Iterator[str]:
    """Our own endpoint over the run, in a thread."""
    door = bound("127.0.0.1", 0)
    app = uvicorn.Server(uvicorn.Config(make(open_run(replies), Rules()), log_level="error"))
    thread = threading.Thread(target=app.run, kwargs={"sockets": [door]})
    thread.start()
    yield f"http://127.0.0.1:{door.getsockname()[1]}/v1"
    app.should_exit = True
    thread.join()


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(endpoint, "NUM_TRIES", 2)


def found(*words: str) -> dict[str, Any]:
    said = typed(["evaluate", *words, "--json"])
    assert said.code == 0, said.text
    facts: dict[str, Any] = json.loads(said.out)
    return facts


def refused(*words: str) -> Said:
    said = typed(["evaluate", *words])
    assert said.code == 2, said.text
    return said


@pytest.mark.parametrize("kind", ["labels", "replies"])
def test_a_run_scores_on_its_own_cases_what_its_verdict_says(kind: str, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(kind)
    facts, verdict = found(str(run)), read_json(run / "verdict.json")
    [model] = facts["models"]
    assert (model["score"], model["interval"]) == (verdict["tuned"], list(verdict["tuned_interval"]))
    assert facts["digests"]["test_cases"] == verdict["digests"]["test_cases"]
    mine = pq.read_table(Path(facts["folder"]) / "cases.parquet").to_pydict()
    its = pq.read_table(run / "scores" / "cases.parquet").to_pydict()
    assert (mine["example_id"], mine["output"], mine["score"]) == (
        its["example_id"], its["tuned_output"], its["tuned_score"],
    )  # fmt: skip
    assert not any("opened" in note for note in facts["notes"])  # its own look does not count against it


def test_a_run_and_its_own_endpoint_answer_alike(replies: Path, address: str, tmp_path: Path) -> None:
    facts = found(str(replies), "--against", f"{address}#tuned", "--matters", "0.9", "--out", "parity")
    rows = pq.read_table(tmp_path / "parity" / "cases.parquet").to_pydict()
    assert rows["output"] == rows["against_output"]
    assert (facts["effect"], facts["decision"]) == (0, "no relevant difference")
    assert "do not differ by as much as 0.900 on rouge_l" in facts["claim"]
    assert facts["models"][1]["host"] == address.split("/")[2]
    text = (tmp_path / "parity" / "report.md").read_text()
    assert f"| tuned at {address.split('/')[2]} | {facts['models'][1]['score']:.3f} |" in text
    other = found(str(replies), "--against", f"{address}#base", "--out", "other")
    assert any("on this machine, last by" in note and "parity" in note for note in other["notes"])
    rows = pq.read_table(tmp_path / "other" / "cases.parquet").to_pydict()
    its = pq.read_table(replies / "scores" / "cases.parquet").to_pydict()
    assert rows["output"] == its["tuned_output"]


def test_a_model_and_an_endpoint_on_a_file(replies: Path, labels: Path, address: str) -> None:
    data = str(replies.parent / "rows.jsonl")
    facts = found(f"{address}#base", "--data", data, "--cases", "5", "--metric", "chrf")
    assert (facts["num_cases"], facts["metric"], facts["task"]) == (5, "chrf", "generate")
    facts = found(str(labels.parent / "model"), "--data", str(labels.parent / "rows.jsonl"), "--cases", "7")
    assert (facts["num_cases"], facts["metric"]) == (7, "accuracy")
    assert "clips, dog, fox" in facts["instruction"]


def test_a_model_of_a_small_context_is_asked_what_fits(labels: Path, tmp_path: Path) -> None:
    shutil.copytree(labels.parent / "model", tmp_path / "small")
    config = read_json(tmp_path / "small" / "config.json")
    (tmp_path / "small" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 150}))
    rows = [{"text": text, "label": label} for text, label in (("a fox", "fox"), ("dog " * 99, "dog"), ("cat", "cat"))]
    facts = found("small", "--data", str(tiny_runs.written(tmp_path / "rows.jsonl", rows)), "--out", "out")
    assert any("1 of 3 cases could not be asked of small" in note for note in facts["notes"])
    assert pq.read_table(tmp_path / "out" / "cases.parquet")["output"].to_pylist()[1] == ""


def test_cases_that_a_run_learned_from_are_said(labels: Path) -> None:
    facts = found(str(labels), "--data", str(labels.parent / "rows.jsonl"))
    splits = list(read_json(labels / "ledger.json")["splits"].values())
    num = sum(place != "test" for place in splits)
    assert f"{num} of the 120 cases stand in the training or dev data" in facts["notes"][0]


def test_parity_is_counted_by_hand(labels: Path, tmp_path: Path) -> None:
    """A server that knows the answers, and writes them in its own way, against one that says fox."""
    its = pq.read_table(labels / "scores" / "cases.parquet").to_pydict()
    known = dict(zip(its["prompt"], its["reference"]))

    def knows(body: dict[str, Any], headers: dict[str, str]) -> Any:
        assert body["temperature"] == 0
        assert body["messages"][0]["role"] == "system"
        return completion(f"Label: **{known[body['messages'][-1]['content']].upper()}**.")

    def fox(body: dict[str, Any], headers: dict[str, str]) -> Any:
        return completion('"Fox"')

    with server(knows) as (good, _), server(fox) as (bad, seen):
        facts = found(f"{good}#good", "--against", f"{bad}#bad", "--like", str(labels), "--out", "out")
        assert len(seen) == len(known)
    num = sum(r == "fox" for r in its["reference"])
    assert [m["score"] for m in facts["models"]] == [1.0, num / len(known)]
    assert (facts["effect"], facts["decision"]) == (1 - num / len(known), "better")
    assert "good at 127.0.0.1" in facts["claim"]
    assert "0 of 20 answers name no single label" in " ".join(facts["notes"])


def test_an_answer_is_asked_once_whatever_happens(replies: Path, tmp_path: Path) -> None:
    """The key runs out after five answers; what was answered is kept, and the rest is asked when it is mended."""
    num = len(pq.read_table(replies / "scores" / "cases.parquet"))
    lock, answered = threading.Lock(), list[str]()
    limit = 5

    def reply(body: dict[str, Any], headers: dict[str, str]) -> Any:
        with lock:
            if len(answered) >= limit:
                return 401, {}, "no credit left"
            answered.append(body["messages"][-1]["content"])
        return completion("the fox")

    with server(reply) as (url, _):
        said = refused(f"{url}#m", "--like", str(replies), "--out", "out")
        assert "no credit left" in said.text
        assert "add --resume" in refused(f"{url}#m", "--like", str(replies), "--out", "out").text
        limit = 10**6
        facts = found(f"{url}#m", "--like", str(replies), "--out", "out", "--resume")
    assert facts["num_cases"] == num
    assert len(answered) - num <= 3  # those under way beside the one that failed are asked again
    assert "finished evaluation" in refused(f"{url}#m", "--like", str(replies), "--out", "out", "--resume").text


def test_an_endpoint_that_does_not_answer_is_no_mistake(replies: Path) -> None:
    with server(lambda body, headers: (503, {"Retry-After": "0"}, "busy")) as (url, seen):
        said = typed(["evaluate", f"{url}#m", "--like", str(replies), "--cases", "2", "--out", "out"])
        assert 2 <= len(seen) <= 4  # two tries a case; the other case may be dropped
    assert said.code == 1
    assert "gave no answer in 2 tries, the last time: 503: busy. The answers so far are kept" in said.text


def test_runs_and_evaluations_side_by_side(labels: Path, tmp_path: Path) -> None:
    """The leaderboard takes folders of both kinds, paired on the cases that all of them asked."""
    model = found(str(labels.parent / "model"), "--like", str(labels), "--cases", "15", "--out", "model")
    found(str(labels), "--against", str(labels.parent / "model"), "--out", "both")
    said = typed(["compare", str(labels), "model", "both", "--json"])
    assert said.code == 0, said.text
    facts = json.loads(said.out)
    its = pq.read_table(labels / "scores" / "cases.parquet", columns=["example_id", "tuned_score"]).to_pylist()
    ids = set(pq.read_table(tmp_path / "model" / "cases.parquet")["example_id"].to_pylist())
    tuned = sum(r["tuned_score"] for r in its if r["example_id"] in ids) / 15
    assert (facts["num_cases"], len(facts["pairs"])) == (15, 3)
    assert [s["tuned"] for s in facts["sides"]] == pytest.approx([tuned, model["models"][0]["score"], tuned])
    assert [s["base"] for s in facts["sides"]][1:] == [None, pytest.approx(model["models"][0]["score"])]
    assert [s["is_run"] for s in facts["sides"]] == [True, False, False]
    assert facts["pairs"][1]["effect"] == 0  # the run, and the evaluation of its tuned model
    shown = typed(["compare", str(labels), "model"]).text
    assert "15 held-out cases" in shown
    assert "the recipes" not in shown
    (tmp_path / "both" / "cases.parquet").unlink()
    assert "copy the whole folder" in typed(["compare", str(labels), "both"]).text


def test_an_evaluation_of_two_models_goes_on_a_blind_sheet(replies: Path, tmp_path: Path) -> None:
    found(str(replies), "--against", str(replies.parent / "model"), "--out", "both")
    said = typed(["judge", "both", "--sheet", "s.csv"])
    assert said.code == 0, said.text
    key = read_json(tmp_path / "s.key.json")
    assert key["models"] == [str(replies.parent / "model"), str(replies)]
    found(str(replies), "--out", "one")
    assert "about one model" in typed(["judge", "one", "--sheet", "t.csv"]).text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["http://127.0.0.1:1/v1"], "names no model"),
        (["https://api.example.org/v1#m"], "add --yes-send"),
        (["http://api.example.org/v1#m", "--key-env", "PATH"], "unencrypted"),
        (["https://api.example.org/v1#m", "--key-env", "NO_SUCH_KEY"], "which is empty"),
        (["MODEL", "--key-env", "PATH"], "takes no key"),
        (["MODEL", "--against-key-env", "PATH"], "there is none"),
        (["MODEL"], "there is nothing to ask"),
        (["MODEL", "--like", "elsewhere"], "no folder elsewhere"),
        (["modl"], "model modl is not known"),
        (["MODEL", "--resume"], "--resume needs --out"),
        (["MODEL", "--like", "RUN", "--metric", "judge"], "cannot be worked out"),
        (["MODEL", "--like", "RUN", "--metric", "nice"], "no metric 'nice'"),
        (["MODEL", "--like", "RUN", "--cases", "0"], "at least one case"),
        (["MODEL", "--like", "RUN", "--out", "taken"], "holds other files"),
    ],
)
def test_mistakes(words: list[str], message: str, labels: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    named = {"RUN": str(labels), "MODEL": str(labels.parent / "model")}
    assert message in refused(*[named.get(w, w) for w in words]).text
    assert not (tmp_path / "evaluations").exists()


def test_nothing_is_sent_where_the_network_is_off(labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = refused("https://api.example.org/v1#m", "--like", str(labels), "--yes-send")
    assert "HF_HUB_OFFLINE forbids the network" in said.text


def test_changed_data_is_refused(tmp_path: Path, labels: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(labels, run)
    other = tiny_runs.labelled_file(tmp_path / "other.jsonl", num=60)
    recipe = (run / "recipe.yaml").read_text().replace(str(labels.parent / "rows.jsonl"), str(other))
    (run / "recipe.yaml").write_text(recipe)
    assert "are not in its data any more" in refused(str(run)).text


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("good", "good"), (" Good.\n", "good"), ('"very good"', "very good"), ("**Bad**", "bad"),
        ("The label is: very good", "very good"), ("good or bad", "good or bad"), ("goodness", "goodness"), ("", ""),
        ("It is not C++", "C++"), ("bad, because it is bad", "bad"),
    ],
)  # fmt: skip
def test_a_label_is_read_from_a_text(text: str, label: str) -> None:
    assert named_label(text, ["good", "bad", "very good", "C++"]) == label
