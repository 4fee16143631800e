"""Which model to take: what is measured, against plain transformers; how it is chosen, by figures made up for it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests import encoders
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith import candidates, ranked
from tunesmith.data.render import Renderer
from tunesmith.engine.session import Session
from tunesmith.errors import DataError, InputError
from tunesmith.evals import bits
from tunesmith.evals.metrics import METRICS
from tunesmith.folder import Silent
from tunesmith.models.here import Here, all_here, models_here, named
from tunesmith.models.load import load
from tunesmith.recipe import parse

ASKED = candidates.Asked(shots=2, cases=14)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw/, a model of random weights; taught/, the same after it has seen the replies; two files."""
    folder = tmp_path_factory.mktemp("world")
    tiny_runs.model_folder(folder / "raw")
    tiny_runs.labelled_file(folder / "rows.jsonl")
    tiny_runs.reply_file(folder / "replies.jsonl")
    model, tokenizer = (kind.from_pretrained(folder / "raw") for kind in (AutoModelForCausalLM, AutoTokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    texts = [json.loads(line)["completion"] for line in (folder / "replies.jsonl").read_text().splitlines()]
    for step in range(40):
        ids = tokenizer(" ".join(texts[step % 30 : step % 30 + 20]), return_tensors="pt").input_ids
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "taught")
    tokenizer.save_pretrained(folder / "taught")
    return folder


def here(folder: Path) -> Here:
    found = named(str(folder))
    assert found is not None
    return found


def job_on(world: Path, file: str, asked: candidates.Asked = ASKED) -> candidates.Job:
    return candidates.job_of(parse(tiny_runs.settings(world / "raw", world / file)), asked)


def test_bits_per_byte_by_hand() -> None:
    assert bits.bits_per_byte([math.log(2), 3 * math.log(2)], [1, 7]) == pytest.approx(0.5)  # 4 bits, 8 bytes
    assert bits.bits_per_byte([math.log(2), 3 * math.log(2)], [1, 7]) != pytest.approx((1 + 3 / 7) / 2)  # mean of means
    assert math.isnan(bits.bits_per_byte([], []))
    low, high = bits.interval([5.0, 1.0, 3.0], [4, 4, 4])
    assert low < bits.bits_per_byte([5.0, 1.0, 3.0], [4, 4, 4]) < high
    assert bits.interval([5.0, 1.0], [4, 4], [5.0, 1.0]) == (0.0, 0.0)


def test_bits_are_those_of_plain_transformers(world: Path) -> None:
    """Prompt with its solved examples and reply through the model as it is, the end of turn left out."""
    job = job_on(world, "replies.jsonl")
    base = load(str(world / "raw"))
    session, renderer = Session(base), Renderer(base.tokenizer, 256)
    together = candidates.foretold(job, session, renderer, job.cases[:3])
    alone = [candidates.foretold(job, session, renderer, [case])[0] for case in job.cases[:3]]
    assert together == pytest.approx(alone, abs=1e-3)  # how cases share a forest is no matter
    model = AutoModelForCausalLM.from_pretrained(world / "raw").eval()
    context, reply = candidates.answer_tokens(job, session, renderer, job.cases[0])
    with torch.no_grad():
        logp_NV = model(torch.tensor([context + reply])).logits[0].log_softmax(-1)
    wanted = -sum(float(logp_NV[len(context) + n - 1, token]) for n, token in enumerate(reply))
    assert together[0] == pytest.approx(wanted, abs=1e-3)
    assert base.tokenizer.decode(reply).strip() == job.scored_text(job.cases[0])  # all its bytes, and nothing else


def test_labels_are_asked_by_text_and_by_likelihood(world: Path) -> None:
    job = job_on(world, "rows.jsonl")
    assert (job.task, job.metric.name, job.bits_of) == ("classify", "accuracy", "text")
    assert job.labels == ("clips", "dog", "fox")
    texts = {json.loads(line)["text"] for line in (world / "rows.jsonl").read_text().splitlines()}
    assert {job.scored_text(e) for e in job.cases} <= texts
    base = load(str(world / "raw"))
    said = candidates.answered(job, Session(base), Renderer(base.tokenizer, 256), job.cases)
    assert set(said) <= set(job.labels)


def test_the_one_that_was_taught_is_taken(world: Path) -> None:
    recipe = parse(tiny_runs.settings(world / "raw", world / "replies.jsonl"))
    broken = Here(str(world / "not-there"), 10, 128)
    found = candidates.rank(recipe, [here(world / "raw"), here(world / "taught"), broken], ASKED, Silent())
    assert found.choice == str(world / "taught")
    best, other, last = found.rows
    assert (best.name, other.name, last.name) == (str(world / "taught"), str(world / "raw"), broken.name)
    assert best.bits_interval[1] < other.bits_interval[0]
    assert best.tokens_per_word == other.tokens_per_word > 1  # one tokenizer
    assert "bits per byte more" in found.why or "better than" in found.why
    assert "not-there" in last.problem
    assert last.score is None
    assert (found.num_cases, found.num_dev) == (14, 18)
    json.dumps(found.facts(), allow_nan=False)


def test_who_has_no_time_is_not_ranked(world: Path) -> None:
    recipe = parse(tiny_runs.settings(world / "raw", world / "replies.jsonl"))
    found = candidates.rank(recipe, [here(world / "raw")], replace(ASKED, budget_s=1e-6), Silent())
    assert found.choice is None
    assert "raise --seconds" in found.rows[0].problem
    assert found.num_cases == 0


def test_who_does_not_fit_is_not_loaded(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = parse(tiny_runs.settings(world / "raw", world / "replies.jsonl"))
    monkeypatch.setattr(candidates, "memory_gib", lambda device: 0.5)
    monkeypatch.setattr(candidates, "load_base", lambda *a: pytest.fail("was loaded"))
    found = candidates.rank(recipe, [here(world / "raw")], ASKED, Silent())
    assert "GiB to answer at all, 0.5 GiB are free" in found.rows[0].problem


def test_who_gives_classes_by_a_head_is_not_ranked(world: Path) -> None:
    recipe = parse(tiny_runs.settings(world / "raw", world / "rows.jsonl"))
    reader = here(encoders.folder(world / "reader", "modernbert"))
    found = candidates.rank(recipe, [reader, here(world / "raw")], ASKED, Silent())
    problems = {row.name: row.problem for row in found.rows}
    assert "gives classes by a head" in problems[reader.name]
    assert not problems[str(world / "raw")]


def test_nothing_is_downloaded_to_be_ranked(world: Path) -> None:
    with pytest.raises(InputError, match="tunesmith models fetch owner/unknown"):
        candidates.candidates([str(world / "raw"), "owner/unknown"])
    with pytest.raises(InputError, match="no such folder"):
        candidates.candidates([], [world / "nothing"])


def test_without_a_dev_split_there_is_nothing_to_ask(world: Path) -> None:
    settings = tiny_runs.settings(world / "raw", world / "rows.jsonl")
    settings["data"]["dev_frac"] = 0.0
    with pytest.raises(DataError, match="dev_frac above 0"):
        candidates.job_of(parse(settings), ASKED)


# How one is chosen

WANTED = ["yes", "no"] * 20
BOARD = ranked.Board(METRICS["accuracy"], WANTED, [10] * 40)


def made_up(name: str, num_right: int, nats: float, size: int = 100) -> ranked.Found:
    """Right on the first `num_right` of 40; its nats differ a little from case to case."""
    answers = [w if n < num_right else "?" for n, w in enumerate(WANTED)]
    return ranked.Found(Here(name, size, 128), answers, [nats + n % 3 / 10 for n in range(40)])


@pytest.mark.parametrize(
    ("others", "taken", "says"),
    [
        ([made_up("a", 38, 9.0), made_up("b", 5, 2.0)], "a", "better than b"),  # the score is clear
        ([made_up("a", 20, 9.0), made_up("b", 19, 2.0)], "b", "bits per byte more"),  # it is not, the bits are
        ([made_up("a", 20, 5.0, 900), made_up("b", 20, 5.0, 100)], "b", "smaller"),  # neither is
        ([made_up("a", 1, 1.0)], "a", "the only one"),
    ],
    ids=["score", "bits", "size", "alone"],
)
def test_choice(others: list[ranked.Found], taken: str, says: str) -> None:
    for order in (others, others[::-1]):
        choice, why = ranked.choose(BOARD, order)
        assert choice is not None
        assert choice.here.name == taken
        assert says in why


def test_guessing_one_label_is_named(world: Path) -> None:
    said = ranked.notes_of(BOARD, [made_up("a", 10, 1.0)], ("yes", 0.5))
    assert any("always saying 'yes'" in note for note in said)
    assert ranked.notes_of(BOARD, [made_up("a", 30, 1.0)], ("yes", 0.5)) == []


def test_figures_that_disagree_are_named() -> None:
    high, low = made_up("a", 20, 9.0), made_up("b", 18, 2.0)
    choice, _ = ranked.choose(BOARD, [high, low])
    assert choice is low
    [note] = ranked.notes_of(BOARD, [high, low], None, choice)
    assert note.startswith("a has the higher accuracy, though not clearly so")
    assert ranked.notes_of(BOARD, [high, low], None, high) == []


# What is here


def test_the_hub_cache_is_part_of_what_is_here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--owner--small"
    snapshot = repo / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(world / "raw", snapshot)
    (snapshot / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Small\n")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    (repo / "blobs").mkdir()
    [found] = all_here()
    assert (found.name, found.licence, found.is_base) == ("owner/small", "mit", False)
    assert found.disk_gib * 2**30 == sum(f.stat().st_size for f in snapshot.iterdir())
    assert found.full_gib(4) > found.need_gib(4) > found.answer_gib(4) > 0
    (snapshot / "chat_template.jinja").unlink()
    [base] = all_here()
    assert base.is_base
    assert models_here() == []  # nobody who named no model is given a base model
    assert candidates.inventory()["here"][0]["fits"]["answers"]
    assert {m["name"] for m in candidates.inventory()["not_here"]} >= {"smollm2-135m-instruct", "gemma-3-270m"}
    assert candidates.inventory()["unusable"] == []
    weights = snapshot / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    [broken] = candidates.inventory()["unusable"]
    assert (broken["name"], all_here()) == ("owner/small", [])
    assert "is not a whole safetensors file" in broken["why"]
    shown = " ".join(typed(["models"]).out.split())
    assert "cannot be used: owner/small: the weights in" in shown
    weights.unlink()
    assert candidates.inventory()["unusable"][0]["why"].endswith("has a config.json and no weights in safetensors")
