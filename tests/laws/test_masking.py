"""Laws of masked language modelling: what is hidden, how often, and that the loss is transformers' own of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tests import encoders
from tests.laws.sessions import gradient, largest
from torch import Tensor
from transformers import AutoModelForMaskedLM

from tunesmith.answered import Sitting
from tunesmith.data.denoised import MaskedText
from tunesmith.data.feed import FileFeed, Laying
from tunesmith.data.masking import HIDDEN_FRAC, NUM_FOLDS, Masks, taken_apart
from tunesmith.data.pack import forest, pack
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import ModelError, PlanError
from tunesmith.generate.limits import Limits
from tunesmith.measured import Asking, reference_nats
from tunesmith.models import masked
from tunesmith.models.adapters import Adapt, linear_suffixes
from tunesmith.models.load import Base, load
from tunesmith.models.probe_rows import probe_masked
from tunesmith.objectives.sft import SFT
from tunesmith.regularisers.rdrop import RDrop
from tunesmith.types import Example, Forest, Message, Record, Reply, Segment

WORDS = encoders.WORDS
TEXTS = (
    "order clips dog fox April May where sold brown quick lazy jumps dog fox order clips where sold",
    "quick brown fox jumps",
    "dog zebra May sold clips where zebra fox brown lazy quick April",  # a word that the tokenizer does not know
    " ".join(WORDS * 3),
)
MOST = 32  # tokens of a piece, so that the last text has two


def example(text: str, name: str = "e-1") -> Example:
    return Example(name, (), Reply(Message("assistant", text)))


def examples(texts: Sequence[str] = TEXTS) -> list[Example]:
    return [example(text, f"e-{n}") for n, text in enumerate(texts)]


def renderer(seed: int = 0, most: int = MOST) -> MaskedText:
    words = encoders.tokenizer()
    return MaskedText(words, most, len(words), seed)


def drawn(texts: Sequence[str] = TEXTS) -> list[Record]:
    return list(renderer().records(examples(texts)).records)


# -- what is hidden ---------------------------------------------------------------------------------------------------


def whole(record: Record) -> np.ndarray:
    shown, hidden, wanted = taken_apart(record)
    shown[hidden] = wanted
    return shown


def is_lawful(make: Callable[[Masks, str, np.ndarray, int], Record]) -> bool:
    """15% of the ordinary tokens are hidden and learned, of which 80% are a mask, 10% another token and 10% as they
    are; no other token is changed or learned, no special one hidden; each epoch hides others, each time the same."""
    words = encoders.tokenizer()
    masks: Masks = renderer().plain._corruption  # type: ignore[assignment]
    said = " ".join([TEXTS[2]] * 120)
    text, true = (np.array(words(said, add_special_tokens=on)["input_ids"]) for on in (False, True))
    special, mask = np.array(words.all_special_ids), words.mask_token_id
    records = [make(masks, "e", text, epoch) for epoch in range(8)]
    as_mask = as_other = as_is = 0
    for record in records:
        shown, hidden, wanted = taken_apart(record)
        rest = np.setdiff1d(np.arange(len(shown)), hidden)
        if not (np.array_equal(whole(record), true) and np.array_equal(shown[rest], true[rest])):
            return False
        if np.isin(wanted, special).any() or len(hidden) != round(HIDDEN_FRAC * (~np.isin(text, special)).sum()):
            return False
        if np.isin(shown[hidden][shown[hidden] != mask], special).any() or record.num_learned != len(hidden):
            return False
        as_mask += int((shown[hidden] == mask).sum())
        as_is += int((shown[hidden] == wanted).sum())
        as_other += int(((shown[hidden] != mask) & (shown[hidden] != wanted)).sum())
    total = as_mask + as_other + as_is
    others = 0.1 * (1 - 1 / len(masks.ordinary))  # one in so many is the token itself
    shares = np.array([as_mask, as_other, as_is]) / total - [0.8, others, 0.2 - others]
    again = np.array_equal(taken_apart(make(masks, "e", text, 3))[0], taken_apart(records[3])[0])
    same = [np.array_equal(taken_apart(records[0])[1], taken_apart(r)[1]) for r in records[1:]]
    return bool((np.abs(shares) < 0.03).all()) and again and not any(same) and total > 1000


def test_a_share_is_hidden_as_in_the_paper() -> None:
    assert is_lawful(lambda masks, *said: masks.drawn(said[0], said[1], 1.0, said[2]))


def all_masks(masks: Masks, name: str, text: np.ndarray, epoch: int) -> Record:
    record = masks.drawn(name, text, 1.0, epoch)
    place = np.cumsum([0 if s.weights.any() else len(s.tokens) for s in record.segments])
    _, hidden, _ = taken_apart(record)
    return replace(record, segments=tuple(
        s if s.weights.any() or end - 1 not in hidden else replace(s, tokens=np.r_[s.tokens[:-1], masks.mask])
        for s, end in zip(record.segments, place)
    ))  # fmt: skip


def with_marks(masks: Masks, name: str, text: np.ndarray, epoch: int) -> Record:
    """Marks and unknown words may be hidden too."""
    controls = copy.copy(masks.controls)
    controls._is_control = np.zeros_like(controls._is_control)
    return replace(masks, controls=controls).drawn(name, text, 1.0, epoch)


def shown_learned(masks: Masks, name: str, text: np.ndarray, epoch: int) -> Record:
    """Tokens that are shown are learned too."""
    record = masks.drawn(name, text, 1.0, epoch)
    last = record.segments[-1]
    more = Segment(last.tokens[-2:-1], np.ones(1, np.float32), len(record.segments) - 1)
    return replace(record, segments=(*record.segments, more))


def everything(masks: Masks, name: str, text: np.ndarray, epoch: int) -> Record:
    return masks._record(name, np.full_like(text, masks.mask), np.arange(len(text)), text, 1.0)


MUTANTS: list[Callable[[Masks, str, np.ndarray, int], Record]] = [
    all_masks, with_marks, shown_learned, everything,
    lambda masks, name, text, epoch: masks.drawn(name, text, 1.0, 0),
    lambda masks, name, text, epoch: masks.folds(name, text)[epoch % NUM_FOLDS],
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=["only masks", "marks too", "shown too", "all", "one draw", "folds"])
def test_mutants_of_the_draw_are_noticed(mutant: Callable[[Masks, str, np.ndarray, int], Record]) -> None:
    assert not is_lawful(mutant)


def test_in_a_score_each_token_is_hidden_once() -> None:
    words, made = encoders.tokenizer(), renderer()
    for one in examples():
        found = made.plain.scored(one)
        places = sorted((whole(r).tobytes(), int(at)) for r in found for at in taken_apart(r)[1])
        assert len(places) == len(set(places))
        assert all((r.num_learned, (taken_apart(r)[0][taken_apart(r)[1]] == words.mask_token_id).all()) for r in found)
        ids = np.array(words(text_of(one), add_special_tokens=False)["input_ids"])
        assert len(places) == int((ids != words.unk_token_id).sum())
        assert {float(s.weights.max()) for r in found for s in r.segments} == {0.0, 1.0}


def text_of(one: Example) -> str:
    assert isinstance(one.target, Reply)
    return one.target.text


def test_pieces_hold_every_token_once_between_the_marks() -> None:
    words, made = encoders.tokenizer(), renderer()
    for one in examples():
        pieces = [whole(r) for r in made.plain.pieces(one)]
        assert all(len(p) <= MOST and p[0] == words.cls_token_id and p[-1] == words.sep_token_id for p in pieces)
        assert (
            np.concatenate([p[1:-1] for p in pieces]).tolist()
            == words(text_of(one), add_special_tokens=False)["input_ids"]
        )
    assert list(made.records([*examples(), example("zebra", "none")]).dropped) == [
        ("none", "it has no token that could be taken out")
    ]
    with pytest.raises(PlanError, match="leaves a piece of a text 1 tokens"):
        renderer(most=3).records(examples())
    words.mask_token = None
    with pytest.raises(ModelError, match="no mask token"):
        MaskedText(words, MOST, len(words), 0)


def test_a_text_is_shown_to_people_as_it_is() -> None:
    [record] = drawn(TEXTS[:1])
    pieces = renderer().pieces(record)
    assert "".join("".join(text.split()) for text, _ in pieces).replace("[CLS]", "").replace("[SEP]", "") == TEXTS[
        0
    ].replace(" ", "")
    assert sum(len(text.split()) for text, learned in pieces if learned) == record.num_learned
    with pytest.raises(PlanError, match="answers nothing"):
        renderer().prompt([Message("user", "x")])


# -- the feed ---------------------------------------------------------------------------------------------------------


def feed() -> FileFeed:
    made = renderer()
    every = [example(f"{text} {n}", f"e-{n}-{k}") for n in range(3) for k, text in enumerate(TEXTS)]
    records = made.records(every).records
    return FileFeed(records, 100, 64, 3, 0, Laying(redrawn=made.redrawn))


def test_each_epoch_hides_others_and_a_resume_the_same() -> None:
    straight, resumed = feed(), feed()
    updates = [straight.update() for _ in range(straight.num_updates)]
    resumed.load({**feed().state(), "position": straight.updates_per_epoch + 1})
    for batch, other in zip(updates[straight.updates_per_epoch + 1], resumed.update(), strict=True):
        assert torch.equal(batch.tokens, other.tokens)
    seen: dict[str, set[bytes]] = {}
    for batch in (b for update in updates for b in update):
        for name, hidden in hidden_of(batch).items():
            seen.setdefault(name, set()).add(hidden)
    assert len(seen) == 12
    assert sum(len(found) >= 3 for found in seen.values()) >= 8  # three epochs; short texts may have the same by chance
    first = [b for update in updates[: straight.updates_per_epoch] for b in update]
    assert straight.shape()["learned_tokens"] == sum(int((b.weights != 0).sum()) for b in first)


def hidden_of(batch: Forest) -> dict[str, bytes]:
    """What is learned of each example, with the places."""
    found: dict[str, bytes] = {}
    owner = batch.owner[torch.searchsorted(batch.stop, torch.arange(batch.num_tokens), right=True)]
    for number, name in enumerate(batch.example_ids):
        mine = (owner == number) & (batch.weights != 0)
        said = torch.stack([batch.tokens[mine], batch.positions[mine]]).numpy().tobytes()
        found[name] = found.get(name, b"") + said
    return found


# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    at = tmp_path_factory.mktemp("masked")
    return {family: encoders.masked(at / family, family) for family in encoders.FAMILIES}


def own_loss(model: Any, records: Sequence[Record]) -> Tensor:
    """transformers' own loss of each text by itself, its labels -100 but where tokens are hidden; their sum in nats."""
    total = torch.zeros(())
    for record in records:
        shown, hidden, wanted = taken_apart(record)
        labels = torch.full((1, len(shown)), -100)
        labels[0, hidden] = torch.tensor(wanted)
        total = total + model(input_ids=torch.tensor(shown)[None], labels=labels).loss * len(hidden)
    return total


@torch.no_grad()
def own_nats(model: Any, records: Sequence[Record]) -> float:
    return float(own_loss(model, records))


def our_nats(base: Base, records: Sequence[Record], micro: int = 4096) -> float:
    return -sum(float(logp.sum()) for logp in Session(base).logprobs(None, pack(records, micro)))


@pytest.mark.parametrize("family", encoders.FAMILIES)
def test_loss_and_gradient_are_those_of_transformers(folders: dict[str, Path], family: str) -> None:
    base = load(str(folders[family]), door="masked")
    assert (base.layout, base.is_masked, base.writes, base.by_head) == ("masked", True, False, False)
    assert base.context_tokens == 64
    wanted = own_nats(base.model, drawn())
    for micro in (40, 4096):
        assert our_nats(base, drawn(), micro) == pytest.approx(wanted, rel=1e-5)
    limits = Limits(4, ())
    sitting = Sitting(lambda *_: None, None)
    asked = Asking(Session(base), None, renderer(), examples(), [()] * len(TEXTS), limits, 64, sitting)
    scored = [own_nats(base.model, renderer().plain.scored(e)) for e in examples()]
    assert reference_nats(asked) == pytest.approx(scored, rel=1e-5)
    plain, session, batch = AutoModelForMaskedLM.from_pretrained(folders[family]), Session(base), forest(drawn())
    (own_loss(plain, drawn()) / float(SFT().count(batch))).backward()
    slope = {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}
    session.create("t", Spec(Adapt("full")))
    found = gradient(session, "t", [batch])
    assert largest({n: found[n] for n in slope}, slope) < 1e-5


@pytest.mark.parametrize("mutant", ["padding is read", "truth in the text", "bias dropped", "place before"])
def test_mutants_of_the_layout_are_noticed(
    folders: dict[str, Path], mutant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load(str(folders["bert"]), door="masked")
    wanted, plain, texts_of = own_nats(base.model, drawn()), masked.inputs_of, masked.texts_of
    if mutant == "padding is read":
        ones = lambda found: found | {"attention_mask": torch.ones_like(found["attention_mask"])}
        monkeypatch.setattr(masked, "inputs_of", lambda *a: ones(plain(*a)))
        monkeypatch.setattr("tunesmith.models.rows.LEAST_FILLED", 0.0)  # texts of all lengths side by side
    elif mutant == "truth in the text":
        longer = lambda runs: [(a, b + 1) if k + 1 < len(runs) else (a, b) for k, (a, b) in enumerate(runs)]
        monkeypatch.setattr(masked, "texts_of", lambda f: {at: longer(runs) for at, runs in texts_of(f).items()})
    elif mutant == "bias dropped":
        monkeypatch.setattr(type(base.head), "bias", None)
    else:
        rolled = lambda found: {k: v.roll(1, 1) for k, v in found.items()}
        monkeypatch.setattr(masked, "inputs_of", lambda *a: rolled(plain(*a)))
    assert our_nats(base, drawn()) != pytest.approx(wanted, rel=1e-5)


def test_states_that_are_no_numbers_are_noticed(folders: dict[str, Path]) -> None:
    base = load(str(folders["bert"]), door="masked")
    with torch.no_grad():
        for parameter in masked.vocabulary_layer(base.model).parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(ModelError, match="difference nan"):
        probe_masked(base.model)


def test_no_logits_are_made_of_shown_tokens(folders: dict[str, Path]) -> None:
    base = load(str(folders["bert"]), door="masked")
    rows: list[int] = []
    handle = masked.vocabulary_layer(base.model).register_forward_hook(lambda _, __, out: rows.append(out.numel()))
    our_nats(base, drawn())
    handle.remove()
    assert rows
    assert not any(rows)


@pytest.mark.parametrize("adapt", [Adapt("lora", rank=4), Adapt("full"), Adapt("last_k", last_k=1)], ids=str)
def test_the_cut_is_free_and_the_base_is_where_it_starts(folders: dict[str, Path], adapt: Adapt) -> None:
    base = load(str(folders["bert"]), door="masked")
    session, records = Session(base), drawn()
    light = [replace(r, segments=tuple(replace(s, weights=s.weights * (1 + n)) for s in r.segments))
             for n, r in enumerate(records)]  # fmt: skip
    before = session.logprobs(None, [forest(records)])[0]
    session.create("t", Spec(adapt))
    assert torch.equal(session.logprobs("t", [forest(records)])[0], before)
    at_once = gradient(session, "t", [forest(light)])
    cut = gradient(session, "t", [forest(light[:1]), forest(light[1:3]), forest(light[3:])])
    assert largest(at_once, cut) < 1e-5
    even = gradient(session, "t", [forest(records)])
    assert largest(at_once, even) > 1e-3  # mutant: weights dropped
    session.close()


def test_adapters_leave_the_head_alone(folders: dict[str, Path]) -> None:
    for family, wanted in (("bert", "output.dense"), ("roberta", "output.dense"), ("distilbert", "out_lin")):
        found = linear_suffixes(load(str(folders[family]), door="masked").model)
        assert wanted in found
        assert "dense" not in found


@pytest.mark.parametrize("family", encoders.FAMILIES)
def test_each_family_opens_elsewhere(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    records = drawn(TEXTS[:3])
    base = load(str(folders[family]), door="masked")
    before = our_nats(base, records)
    for name, adapt in (("adapter", Adapt("lora", rank=4)), ("model", Adapt("full"))):
        session = Session(base)
        session.create("t", Spec(adapt))
        units = float(SFT().count(forest(records)))
        for _ in range(3):
            session.forward_backward("t", [forest(records)], SFT(), 1 / units)
            session.optim_step("t", 2e-2)
        session.export("t", tmp_path / name)
        wanted = -float(session.logprobs("t", [forest(records)])[0].sum())
        assert abs(wanted - before) > 1
        if name == "model":
            opened: Any = AutoModelForMaskedLM.from_pretrained(tmp_path / name)
        else:
            plain = AutoModelForMaskedLM.from_pretrained(folders[family])
            opened = PeftModel.from_pretrained(plain, str(tmp_path / name))
        assert own_nats(opened.eval(), records) == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        if name == "adapter":
            opened.merge_and_unload().save_pretrained(tmp_path / "merged")
            merged = AutoModelForMaskedLM.from_pretrained(tmp_path / "merged").eval()
            assert own_nats(merged, records) == pytest.approx(wanted, rel=1e-4)
        session.close()


def test_regularisers_of_replies_are_those_of_hidden_tokens(folders: dict[str, Path]) -> None:
    """R-Drop: each text twice, with one draw: only dropout makes the two differ."""
    base = load(str(folders["mpnet"]), door="masked")
    laid = FileFeed(drawn(), 500, 500, 1, 0, Laying(twice=True, redrawn=renderer().redrawn)).update()
    for dropout in (0.0, 0.3):
        session = Session(base)
        session.create("t", Spec(Adapt("lora", rank=4, dropout=dropout), regularisers=(RDrop(1.0),)))
        for tensor in session.tenants["t"].masters.values():
            tensor.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
        stats = session.forward_backward("t", laid, SFT(), 1.0)
        assert (stats["rdrop_nats_per_token"].mean > 1e-4) == bool(dropout)
        session.close()


def test_a_model_without_the_head_is_refused(tmp_path: Path) -> None:
    encoders.folder(tmp_path, "bert")
    with pytest.raises(ModelError, match=r"without its masked-language head \(cls\.predictions.* Take the encoder"):
        load(str(tmp_path), door="masked")
