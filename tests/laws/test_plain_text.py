"""Laws of plain text: no token is lost or learned twice, and the loss is transformers' own of the same pieces."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.data import chat
from tests.laws.sessions import base_of
from tokenizers.processors import TemplateProcessing

from tunesmith.answered import Sitting
from tunesmith.data.pack import pack
from tunesmith.data.plain_text import PlainText
from tunesmith.data.render import Renderer
from tunesmith.engine.session import Session
from tunesmith.generate.limits import Limits
from tunesmith.measured import Asking, reference_nats
from tunesmith.types import Example, Message, Record, Reply, Segment

TEXT = "The quick brown fox jumps over the lazy dog.\n\nWhere is my order? She sold 48/2 = 24 clips, in all.\n" * 3
OTHERS = ("Hello there!", "In April and May the dog asks: why?")
FAMILIES = ("chatml", "llama2", "llama3_1", "gemma", "command_r")
Pieces = Callable[[PlainText, Example], tuple[Record, ...]]


def example(text: str, name: str = "e-1") -> Example:
    return Example(name, (), Reply(Message("assistant", text)))


def learned(records: Sequence[Record]) -> list[int]:
    """The learned tokens of all pieces, in their order."""
    return [int(t) for r in records for s in r.segments for t, w in zip(s.tokens, s.weights) if w]


def is_lawful(pieces: Pieces, num: int, most: int) -> bool:
    """A text of `num` different tokens: each but the first is learned once, and none where it stands first."""
    renderer = SimpleNamespace(tokens=lambda text: np.arange(num), _max_tokens=most)
    renderer._record = lambda e, piece: PlainText._record(renderer, e, piece)  # type: ignore[arg-type]
    found = pieces(renderer, example(TEXT))  # type: ignore[arg-type]
    fits = all(len(r.segments[0].tokens) <= most and r.segments[0].weights[0] == 0 for r in found)
    return fits and learned(found) == list(range(1, num))


def test_no_token_is_lost_or_learned_twice() -> None:
    assert all(is_lawful(PlainText.pieces, num, most) for num, most in product(range(1, 40), range(2, 9)))


def stepping(step: int) -> Pieces:
    """Pieces that begin so many tokens further on than they should."""

    def pieces(plain: PlainText, one: Example) -> tuple[Record, ...]:
        tokens, most = plain.tokens(""), plain._max_tokens
        begins = range(0, len(tokens) - 1, most - 1 + step)
        return tuple(plain._record(one, tokens[at : at + most]) for at in begins)

    return pieces


@pytest.mark.parametrize("step", [1, -1], ids=["a token lost at each border", "one learned twice"])
def test_mutant_cut_is_seen(step: int) -> None:
    assert is_lawful(stepping(0), 23, 5)
    assert not is_lawful(stepping(step), 23, 5)


def with_ends(name: str, kind: str) -> Any:
    """The tokenizer as one that puts a token before and behind a text."""
    made = copy.deepcopy(chat.tokenizer(name, kind))
    first, last = made.bos_token or made.eos_token, made.eos_token
    ids = [(token, made.convert_tokens_to_ids(token)) for token in dict.fromkeys((first, last))]
    made.backend_tokenizer.post_processor = TemplateProcessing(single=f"{first} $A {last}", special_tokens=ids)
    return made


@pytest.mark.parametrize(("name", "kind"), list(product(FAMILIES, ("bytes", "metaspace"))))
def test_a_text_stands_between_what_the_tokenizer_puts_around_one(name: str, kind: str) -> None:
    for tokenizer in (chat.tokenizer(name, kind), with_ends(name, kind)):
        plain = Renderer(tokenizer, 16).plain
        for text in (TEXT, *OTHERS, " a", "é", "x\n"):
            assert plain.tokens(text).tolist() == tokenizer(text)["input_ids"]
    assert plain.tokens("a")[-1] == tokenizer.eos_token_id
    assert plain.beginning(example(TEXT))[-1] != tokenizer.eos_token_id  # from where a model goes on


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_control_tokens_in_a_text_are_text(kind: str) -> None:
    tokenizer = chat.tokenizer("chatml", kind)
    plain = Renderer(tokenizer, 64).plain
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    text = "one<|im_end|>\n<|im_start|>system"
    assert end in tokenizer(text)["input_ids"]  # as a tokenizer that is asked plainly would have it
    found = plain.tokens(text).tolist()
    assert end not in found
    assert tokenizer.decode(found) == text


# -- the loss ---------------------------------------------------------------------------------------------------------


def world() -> tuple[Renderer, Session, Any]:
    tokenizer = chat.tokenizer("chatml")
    base = base_of("llama", vocab_size=len(tokenizer))
    base.tokenizer = tokenizer
    return Renderer(tokenizer, 24), Session(base), base.model


def own_nats(model: Any, records: Sequence[Record]) -> float:
    """transformers' own loss with the labels being the input, of each piece by itself."""
    total = 0.0
    for record in records:
        ids = torch.tensor(record.segments[0].tokens)[None]
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.numel() - 1)
    return total


def our_nats(session: Session, records: Sequence[Record], micro: int = 64) -> float:
    return -sum(float(logp.sum()) for logp in session.logprobs(None, pack(records, micro)))


def test_the_loss_is_that_of_transformers() -> None:
    renderer, session, model = world()
    rendered = renderer.records([example(TEXT), example(OTHERS[1], "e-2")])
    records = list(rendered.records)
    assert [r.example_id for r in records] == ["e-1"] * (len(records) - 1) + ["e-2"]
    assert len(records) > 4
    wanted = own_nats(model, records)
    for micro in (24, 64, 4096):  # packed otherwise, and never seeing each other
        assert our_nats(session, records, micro) == pytest.approx(wanted, rel=1e-5)
    joined = Record("e-1", (Segment(*(np.concatenate([getattr(r.segments[0], part) for r in records[:2]])
                                      for part in ("tokens", "weights"))),))  # fmt: skip
    assert our_nats(session, [joined]) != pytest.approx(own_nats(model, records[:2]), rel=1e-5)  # mutant: one attends
    heavier = [Record(r.example_id, tuple(Segment(s.tokens, np.roll(s.weights, 1)) for s in r.segments))
               for r in records]  # fmt: skip
    with pytest.raises(AssertionError):  # mutant: the wrong token is left out
        assert our_nats(session, heavier) == pytest.approx(wanted, rel=1e-5)


def test_a_document_is_scored_by_all_of_its_pieces_and_goes_on_where_it_was_stopped(tmp_path: Any) -> None:
    renderer, session, model = world()
    cases = [example(TEXT), example(OTHERS[1], "e-2"), example("x", "e-3")]
    seen: list[tuple[int, int]] = []

    def asked(between: Callable[[], None] | None = None) -> list[float]:
        sitting = Sitting(lambda done, of: seen.append((done, of)), tmp_path / "base.jsonl", between)
        limits = Limits(4, renderer.stop_ids)
        return reference_nats(Asking(session, None, renderer, cases, [()] * 3, limits, 32, sitting))

    wanted = [own_nats(model, renderer.plain.pieces(e)) for e in cases]
    assert wanted[2] == 0.0  # one token, which nothing foretells
    assert asked() == pytest.approx(wanted, rel=1e-5)
    whole = asked()

    def stop() -> None:
        if len(seen) > 1:
            raise KeyboardInterrupt

    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        asked(stop)
    assert (tmp_path / "base_nats.jsonl").is_file()
    calls = session.logprobs
    num = 0

    def counted(*args: Any, **more: Any) -> Any:
        nonlocal num
        num += 1
        return calls(*args, **more)

    session.logprobs = counted  # type: ignore[method-assign]
    assert asked() == whole
    assert num < len(pack([r for e in cases for r in renderer.plain.pieces(e)], 32))
    assert not (tmp_path / "base_nats.jsonl").exists()


def test_texts_stand_beside_conversations() -> None:
    renderer, _, _ = world()
    asked = Example("c-1", (Message("user", "Why?"),), Reply(Message("assistant", "So.")), weight=0.5)
    light = Example("t-1", (), Reply(Message("assistant", OTHERS[0])), weight=0.5)
    found = renderer.records([asked, light, example("x", "t-2")])
    assert [r.example_id for r in found.records] == ["c-1", "t-1"]
    assert set(found.records[1].segments[0].weights[1:].tolist()) == {0.5}
    assert list(found.dropped) == [("t-2", "it is one token long, and nothing before it foretells that one")]
