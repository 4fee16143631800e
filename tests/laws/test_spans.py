"""Laws of span corruption: what is taken out can be put back, how much it is, and the loss is transformers' own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.data import pieces
from tests.laws.sessions import gradient, largest
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from tunesmith.data.denoised import SpanText
from tunesmith.data.pack import forest, pack, path_tokens
from tunesmith.data.spans import INFILL_FRAC, MOST_SENTINELS, NOISE_FRAC, Spans, sentinels_of
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import ModelError
from tunesmith.models.adapters import Adapt
from tunesmith.models.load import Base, load
from tunesmith.models.seq2seq import start_token
from tunesmith.objectives.sft import SFT
from tunesmith.types import Example, Message, Record, Reply, Segment

UNDROPPED: dict[str, dict[str, Any]] = {
    "t5": {"dropout_rate": 0.0},
    "mt5": {"dropout_rate": 0.0},
    "bart": {"dropout": 0.0},
}
FAMILIES = tuple(UNDROPPED)
SENTINELS, MASK = tuple(range(9000, 9100)), 9100
KINDS = {"t5": Spans(SENTINELS, -1, (), (1,), 0), "bart": Spans((), MASK, (2,), (1,), 0)}
LENGTHS = (2, 3, 5, 20, 21, 40, 96, 700)
TEXTS = (
    "the quick brown fox jumps",
    "order clips",
    " ".join(pieces.WORDS * 6),
    "what is it? the lazy dog sold 48/2 clips.",
)


def put_back(source: Sequence[int], target: Sequence[int], kind: str) -> tuple[list[int], list[int]]:
    """(the text, what was taken out), worked out from source and target alone, without their ends."""
    if kind == "bart":
        kept = [t for t in source if t != MASK]
        taken, rest = [], list(kept)
        for token in target:  # a kept token comes in its turn; all between is what a mask stands for
            if rest and token == rest[0]:
                rest.pop(0)
            else:
                taken.append(token)
        return list(target), taken
    spans: dict[int, list[int]] = {}
    for token in target:
        if token in SENTINELS:
            last = spans.setdefault(token, [])
        else:
            last.append(token)
    taken = [t for span in spans.values() for t in span]
    return [t for token in source for t in (spans.pop(token) if token in spans else [token])], taken


def is_lawful(make: Callable[[Spans, np.ndarray, int], Record], kind: str) -> bool:
    """What is taken out can be put back; it is as much as the paper says; source and target have their ends; all of
    the target is learned; another epoch takes out other tokens, and again the same."""
    spans, frac = KINDS[kind], NOISE_FRAC if kind == "t5" else INFILL_FRAC
    for length in LENGTHS:
        tokens = np.arange(3, 3 + length)  # all different
        found = [make(spans, tokens, epoch) for epoch in range(4)]
        for record in found:
            source, target = (s.tokens.tolist() for s in record.segments)
            bare = [side[len(spans.before) : -1] for side in (source, target)]
            whole, taken = put_back(*bare, kind)
            ends = all(side[-1] == 1 and side[: len(spans.before)] == list(spans.before) for side in (source, target))
            if whole != tokens.tolist() or not ends or not np.array_equal(spans.text(record), tokens):
                return False
            if abs(len(taken) - max(1, frac * length)) > 0.5 + (length < 4) or not set(taken) <= set(tokens.tolist()):
                return False
            marks = [t for t in source if t in (*SENTINELS, MASK)]
            if len(marks) > max(1, round(frac * length / 3)) or (
                kind == "t5" and marks != list(SENTINELS[: len(marks)])
            ):
                return False
            if record.segments[0].weights.any() or not record.segments[1].weights.all():
                return False
        again, other = make(spans, tokens, 2), found[1]
        if not np.array_equal(again.segments[0].tokens, found[2].segments[0].tokens):
            return False
        if length >= 20 and np.array_equal(other.segments[0].tokens, found[2].segments[0].tokens):
            return False
    return True


def plainly(spans: Spans, tokens: np.ndarray, epoch: int) -> Record:
    return spans.drawn("e", tokens, 1.0, epoch)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_taken_out_can_be_put_back(kind: str) -> None:
    assert is_lawful(plainly, kind)


def unlearned_target(spans: Spans, tokens: np.ndarray, epoch: int) -> Record:
    record = plainly(spans, tokens, epoch)
    return replace(record, segments=(record.segments[0], Segment(record.segments[1].tokens, record.segments[1].weights
        * (np.arange(len(record.segments[1].tokens)) > 0), 0)))  # fmt: skip


def endless(spans: Spans, tokens: np.ndarray, epoch: int) -> Record:
    record = plainly(spans, tokens, epoch)
    return replace(record, segments=tuple(replace(s, tokens=s.tokens[:-1], weights=s.weights[:-1])
                                          for s in record.segments))  # fmt: skip


MUTANTS: list[Callable[[Spans, np.ndarray, int], Record]] = [
    lambda spans, tokens, epoch: plainly(spans, tokens, 0),
    lambda spans, tokens, epoch: spans.folds("e", tokens)[0],
    lambda spans, tokens, epoch: spans._record("e", tokens, [(0, len(tokens))]),
    unlearned_target, endless,
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=["one draw", "folds", "all", "no first", "no end"])
@pytest.mark.parametrize("kind", KINDS)
def test_mutants_are_noticed(mutant: Callable[[Spans, np.ndarray, int], Record], kind: str) -> None:
    assert not is_lawful(mutant, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_score_each_token_weighs_once_and_fits(kind: str) -> None:
    spans = KINDS[kind]
    for most in (40, 64, 512, 4096):
        room = spans.room(most)
        tokens = np.arange(3, 3 + room)
        folds = spans.folds("e", tokens)
        weighs = [int(t) for r in folds for s in r.segments for t, w in zip(s.tokens, s.weights) if w]
        assert sorted(weighs) == tokens.tolist()
        assert all(np.array_equal(spans.text(r), tokens) for r in folds)
        assert max(path_tokens(r) for r in (*folds, *(plainly(spans, tokens, n) for n in range(3)))) <= most


# -- real tokenizers, and the loss ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    at = tmp_path_factory.mktemp("spans")
    for family in FAMILIES:
        words = tokenizer(family)
        tiny.build(family, **pieces.shape(words), **UNDROPPED[family]).save_pretrained(at / family)
        words.save_pretrained(at / family)
    return {family: at / family for family in FAMILIES}


def tokenizer(family: str) -> Any:
    if family != "bart":
        return pieces.tokenizer(family)
    words = pieces.framed("<s> $A </s>")
    words.add_special_tokens({"mask_token": "<mask>"})
    return words


def opened(folder: Path) -> tuple[Base, SpanText]:
    base = load(str(folder), door="masked")
    return base, SpanText(base.tokenizer, 64, "drop", 0)


def examples() -> list[Example]:
    return [Example(f"e-{n}", (), Reply(Message("assistant", t))) for n, t in enumerate(TEXTS)]


def own_loss(model: Any, records: Sequence[Record]) -> Tensor:
    """transformers' own loss of each record by itself, its labels -100 where nothing weighs; their sum in nats."""
    total = torch.zeros(())
    for record in records:
        source, target = (torch.tensor(s.tokens)[None] for s in record.segments)
        weighs = torch.tensor(record.segments[1].weights)[None] != 0
        first = torch.full((1, 1), start_token(model))
        found = model(input_ids=source, decoder_input_ids=torch.cat([first, target[:, :-1]], 1)).logits
        total = total - found.log_softmax(-1).gather(-1, target[..., None])[..., 0][weighs].sum()
    return total


@torch.no_grad()
def own_nats(model: Any, records: Sequence[Record]) -> float:
    return float(own_loss(model, records))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_transformers(folders: dict[str, Path], family: str) -> None:
    base, renderer = opened(folders[family])
    assert base.layout == "seq2seq"
    ids = [np.array(base.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in TEXTS]
    corruption = renderer.plain._corruption
    for one, wanted in zip(examples(), ids):
        for records in (renderer.plain.pieces(one), renderer.plain.scored(one)[::7]):
            assert np.concatenate([corruption.text(r) for r in records]).tolist() == wanted.tolist()
    learned = list(renderer.records(examples()).records)
    scored = [r for e in examples() for r in renderer.plain.scored(e)]
    for records in (learned, scored):
        said = -sum(float(logp.sum()) for logp in Session(base).logprobs(None, pack(records, 90)))
        assert said == pytest.approx(own_nats(base.model, records), rel=1e-5)
    with torch.no_grad():  # what is learned is what `labels=` is, ends included
        source, target = (torch.tensor(s.tokens)[None] for s in learned[0].segments)
        loss = float(base.model(input_ids=source, labels=target).loss) * target.numel()
    assert own_nats(base.model, learned[:1]) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_transformers_and_the_cut_free(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    """And what is learned of it is kept."""
    base, renderer = opened(folders[family])
    session, records = Session(base), list(renderer.records(examples()[:2]).records)
    session.create("t", Spec(Adapt("full")))
    at_once = gradient(session, "t", [forest(records)])
    cut = gradient(session, "t", [forest(records[:1]), forest(records[1:])])
    assert largest(at_once, cut) < 1e-5
    units = float(SFT().count(forest(records)))
    plain = AutoModelForSeq2SeqLM.from_pretrained(folders[family])
    (own_loss(plain, records) / units).backward()
    slope = {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}
    assert largest({n: at_once[n] for n in slope}, slope) < 1e-5
    session.forward_backward("t", [forest(records)], SFT(), 1 / units)
    session.optim_step("t", 1e-2)
    session.export("t", tmp_path / "model")
    wanted = -float(session.logprobs("t", [forest(records)])[0].sum())
    assert abs(wanted - own_nats(plain, records)) > 1
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").eval()
    assert own_nats(again, records) == pytest.approx(wanted, rel=1e-4)


def test_sentinels_are_found_by_their_names() -> None:
    words = pieces.tokenizer("t5")
    found = sentinels_of(words)
    assert words.convert_ids_to_tokens(list(found)) == [f"<extra_id_{n}>" for n in range(8)]
    assert sentinels_of(Named({f"▁<extra_id_{n}>": 500 - n for n in range(200)})) == tuple(range(500, 400, -1))
    assert len(sentinels_of(Named({f"<extra_id_{n}>": n for n in range(200)}))) == MOST_SENTINELS
    with pytest.raises(ModelError, match="neither sentinels"):
        SpanText(pieces.tokenizer("bart"), 64, "drop", 0)


class Named:
    """A tokenizer of which only names are known."""

    def __init__(self, known: dict[str, int]) -> None:
        self.known = known

    def get_vocab(self) -> dict[str, int]:
        return self.known
