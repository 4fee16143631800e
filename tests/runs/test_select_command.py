"""Rows chosen out of a pool: exact beside slow references on a tiny model, better than chance where that is planted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.laws import sessions
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from torch.nn import functional as F

from tunesmith import row_scores, selection
from tunesmith.data.render import Renderer
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.evals.tasks import instructed
from tunesmith.models.adapters import Adapt
from tunesmith.models.load import load
from tunesmith.objectives.sft import SFT
from tunesmith.row_scores import Desk
from tunesmith.types import Example, Message, Record, Reply, Segment

NUM = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("select")
    tiny_runs.model_folder(folder / "model")
    rows = [{"prompt": f"{w} {i}: what?", "completion": f"the {w} " * (1 + i % 5), "note": [i, None]}
            for i, w in enumerate(tiny_runs.WORDS * 2)]  # fmt: skip
    tiny_runs.written(folder / "pool.jsonl", [*rows, {"prompt": "no reply", "completion": "", "note": []}])
    tiny_runs.written(folder / "dev.jsonl", [rows[3], {"prompt": "dog: what?", "completion": "the dog"}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield folder


def read(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize("by", selection.METHODS)
def test_rows_are_written_as_they_stood_with_a_line_for_each(world: Path, by: str) -> None:
    more = "" if by in selection.UNASKED else " --model model"
    more += " --dev dev.jsonl" if by == "influence" else ""
    for keep in (8, 5):
        said = typed(f"select pool.jsonl --keep {keep} --by {by} --out {by}{keep}.jsonl{more}".split())
        assert said.code == 0, said.text
    pool, kept, ledger = read("pool.jsonl"), read(f"{by}8.jsonl"), read(f"{by}8.jsonl.ledger.jsonl")
    assert [pool[i] for i, entry in enumerate(ledger) if entry["kept"]] == kept
    assert (len(ledger), len(kept)) == (NUM + 1, 8)
    assert "could not be used" in ledger[-1]["why"]
    ranks = [entry["rank"] for entry in ledger if entry["kept"]]
    assert sorted(ranks) == list(range(1, 9))
    smaller = [e["row"] for e in read(f"{by}5.jsonl.ledger.jsonl") if e["kept"]]
    assert smaller == [e["row"] for e in ledger if e["kept"] and e["rank"] <= 5]
    if by == "influence":
        assert ledger[3]["why"] == selection.HELD_OUT  # it would have pulled most of all, as itself
    assert "a test set drawn from chosen rows is chosen too" in said.text
    again = typed(f"select pool.jsonl --keep 5 --by {by} --out {by}5.jsonl{more}".split())
    assert (again.code, "is there already" in again.text) == (2, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--keep 5 --by randm", "Did you mean random?"),
        ("--keep 0 --by random", "wanted a number above 0"),
        ("--keep 25 --by random", "24 of 25 rows can be chosen; 1 could not be used"),
        ("--keep 5 --by random --model model", "--model is not read with --by random"),
        ("--keep 5 --by diversity --dev dev.jsonl", "--dev is not read with --by diversity"),
        ("--keep 5 --by length --set data.max_tokens=9", "--set data.max_tokens is not read with --by length"),
        ("--keep 5 --by diversity --set adapt.rank=4", "--set adapt.rank is not read with --by diversity"),
        ("--keep 5 --by influence --model model", "name a file of them with --dev"),
        ("--keep 5 --by difficulty --model model --set data.columns.text=prompt", "has no prompt with one reply"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(world: Path, words: str, says: str) -> None:
    said = typed(f"select pool.jsonl {words} --out none.jsonl".split())
    assert (said.code, says in said.text) == (2, True), said.text
    assert list(world.glob("none*")) == []


# -- exact -----------------------------------------------------------------------------------------------------------


def desk_of(session: Session, tokens: int = 64) -> Desk:
    return Desk(session, tokens, lambda done, of, what: None, lambda: None)


@pytest.fixture(scope="module")
def asked(world: Path) -> tuple[Session, Renderer, list[Example]]:
    base = load("model")
    rows = [(f"{w} {i}: what?", f"the {w} " * (1 + i % 4)) for i, w in enumerate(tiny_runs.WORDS)]
    found = [Example(f"e{i}-1", (Message("user", p),), Reply(Message("assistant", r))) for i, (p, r) in enumerate(rows)]
    return Session(base), Renderer(base.tokenizer, 256), [instructed(e, "Say what it is.") for e in found]


def alone(session: Session, record: Record) -> tuple[torch.Tensor, torch.Tensor]:
    """(last hidden states [n, D], logits [n, V]) of transformers itself, one record at a time."""
    [tokens] = (s.tokens for s in record.segments)
    with torch.no_grad(), session.borrowed(None) as model:
        out = model(torch.from_numpy(tokens)[None], output_hidden_states=True)
    return out.hidden_states[-1][0].double(), out.logits[0].double()


def test_embeddings_are_means_over_what_the_rows_do_not_begin_with(asked: Any) -> None:
    session, renderer, examples = asked
    records = list(renderer.records(examples).records)
    common = next(n for n in range(99) if len({tuple(r.segments[0].tokens[: n + 1]) for r in records}) > 1)
    assert common > 5
    found = row_scores.embeddings(desk_of(session), records, "exact")
    states = [alone(session, r)[0] for r in records]
    np.testing.assert_allclose(found, [s[common:].mean(0).numpy() for s in states], atol=1e-5)
    whole = [s.mean(0).numpy() for s in states]
    assert float(np.abs(found - whole).max()) > 0.01  # mutant: the instruction counts


def test_ifd_is_the_ratio_of_two_perplexities(asked: Any) -> None:
    session, renderer, examples = asked
    found = row_scores.difficulty(desk_of(session), renderer, examples, "exact")

    def nll(example: Example, prompt: tuple[Message, ...]) -> torch.Tensor:
        before, reply = renderer.prompt(prompt), renderer.reply(prompt, example.target.message)
        tokens = np.array([*before, *reply], np.int64)
        logits = alone(session, Record("x", (Segment(tokens, np.ones(len(tokens), np.float32)),)))[1]
        return F.cross_entropy(logits[len(before) - 1 : -1], torch.tensor(reply))

    wanted = [float((nll(e, e.prompt) - nll(e, row_scores.ALONE)).exp()) for e in examples]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    swapped = [float((nll(e, row_scores.ALONE) - nll(e, e.prompt)).exp()) for e in examples]
    assert float(np.abs(found - swapped).max()) > 0.01


def test_influence_is_the_mean_cosine_with_each_dev_row(asked: Any) -> None:
    _, renderer, examples = asked
    records = list(renderer.records(examples).records)
    adapt = Adapt(rank=2, alpha=4, dropout=0.5)
    found = row_scores.influence(desk_of(Session(load("model"))), adapt, records[3:], records[:3], 5, "exact")
    session = Session(load("model"))
    session.create("t", Spec(Adapt(rank=2, alpha=4), seed=5))
    flat = [torch.cat([g.double().flatten() for _, g in sorted(sessions.gradient(session, "t", [b], SFT()).items())])
            for r in records for b in desk_of(session).packed([r])]  # fmt: skip
    cosine = np.array([[float(F.cosine_similarity(a, b, 0)) for b in flat[:3]] for a in flat[3:]])
    np.testing.assert_allclose(found, cosine.mean(1), atol=1e-5)
    summed = [float(F.cosine_similarity(a, sum(flat[:3]), 0)) for a in flat[3:]]
    assert float(np.abs(found - summed).max()) > 1e-4  # mutant: long dev rows would count more


def test_a_stopped_scoring_goes_on_and_gives_the_same(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session, renderer, examples = asked
    records = list(renderer.records(examples).records)
    monkeypatch.setattr(row_scores, "PIECE", 4)
    made: list[int] = []

    def make(some: Any) -> np.ndarray:
        made.append(len(some))
        if len(made) == 3:
            raise KeyboardInterrupt
        return np.array([[r.num_tokens, hash(r.example_id) % 97] for r in some])

    desk = desk_of(session)
    with pytest.raises(KeyboardInterrupt):
        row_scores.kept(desk, records, 2, "stopped", make)
    [path] = [p for p in row_scores.place().rglob("rows.bin") if p.stat().st_size == 8 * 8]
    path.write_bytes(path.read_bytes()[:-5])  # the last row was cut off
    found = np.array(row_scores.kept(desk, records, 2, "stopped", make))
    assert made == [4, 4, 4, 4, 1]
    assert found.tolist() == [[r.num_tokens, hash(r.example_id) % 97] for r in records]
    row_scores.kept(desk, records, 2, "stopped", make)
    assert len(made) == 5  # nothing is scored twice
    row_scores.kept(desk, records[:4], 2, "stopped", make)
    assert made[5:] == [4]  # another pool is another file


# -- planted ---------------------------------------------------------------------------------------------------------


def planted(low: int, high: int, num: int, seed: int, *, right: bool = True) -> list[Record]:
    """Three tokens, and behind them the same three; or three wrong ones."""
    draw, made = np.random.default_rng(seed), []
    for i in range(num):
        said = draw.integers(low, high, 3)
        reply = said if right else low + (said - low + 1) % (high - low)
        weights = np.array([0, 0, 0, 0, 1, 1, 1], np.float32)
        made.append(Record(f"{low} {seed} {right} {i}", (Segment(np.array([3, *said, *reply], np.int64), weights),)))
    return made


def bare(record: Record) -> Record:
    """Its reply alone."""
    [whole] = record.segments
    return Record(f"{record.example_id} bare", (Segment(whole.tokens[[0, 4, 5, 6]], whole.weights[[0, 4, 5, 6]]),))


def test_influence_finds_the_half_that_is_of_the_task(world: Path) -> None:
    desk = desk_of(Session(sessions.base_of()))
    pool = [*planted(5, 9, 30, 0), *planted(40, 44, 30, 1)]
    found = row_scores.influence(desk, Adapt(rank=8, alpha=16), pool, planted(5, 9, 8, 2), 0, "planted")
    best = np.argsort(-found)[:30]
    assert (best < 30).mean() >= 0.9  # half by chance


def test_difficulty_tells_what_is_easy_and_what_belongs_to_another_prompt(world: Path) -> None:
    session = Session(sessions.base_of())
    session.create("t", Spec(Adapt("full")))
    desk = replace(desk_of(session, 4096), who="t")
    for step in range(60):
        rows = planted(5, 12, 24, 100 + step)
        sessions.gradient_step(session, "t", desk.packed([*rows, *map(bare, rows)]), 1e-2)
    rows = [*planted(5, 12, 40, 7), *planted(5, 12, 40, 8, right=False)]
    behind, alone_ = row_scores.nats(desk, rows), row_scores.nats(desk, list(map(bare, rows)))
    ifd = np.exp(behind - alone_)
    assert (ifd[:40] < 0.5).mean() > 0.9
    assert (ifd[40:] > 1).mean() > 0.9
