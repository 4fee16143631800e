"""What is shown while an answer is written, put together, is the finished answer; a stop text never shows in part."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests import tiny
from tests.data import chat
from tests.runs import tiny_runs

from tunesmith.data.render import Renderer
from tunesmith.engine.session import Session
from tunesmith.errors import PlanError, RunError
from tunesmith.generate.decode import Sampler
from tunesmith.generate.limits import Limits
from tunesmith.generate.spelling import token_bytes
from tunesmith.generate.stream import Ask, Piece, Token, Writing
from tunesmith.models.heads import find_head
from tunesmith.models.load import load
from tunesmith.types import Message

TEXTS = ("Where is my order?", "  Grüße, 你好 – naïve 🧑‍🚀👍🏽!\n\n", "\n\n", "a\ufffdb ", "final", "日本語", "")
LONG = 10_000
QUESTION = Message("user", "where is my order?")
KINDS = [(name, kind) for name in chat.FAMILIES for kind in ("bytes", "metaspace")]


def renderers() -> list[Any]:
    return [pytest.param(name, kind, id=f"{name}-{kind}") for name, kind in KINDS]


def replies(renderer: Renderer, tokenizer: Any, rng: random.Random) -> list[list[int]]:
    """Proper replies, ones that go wrong in the middle, and nonsense: single bytes, halves of characters, markers."""
    found = []
    for _ in range(12):
        ids = [i for text in rng.choices(TEXTS, k=4) for i in tokenizer.encode(text, add_special_tokens=False)]
        for _ in range(rng.randrange(4)):
            ids.insert(rng.randrange(len(ids) + 1), rng.randrange(len(tokenizer)))
        if rng.random() < 0.5 and ids:
            del ids[rng.randrange(len(ids))]
        header = tokenizer.encode(renderer._frame.prefix, add_special_tokens=False) if rng.random() < 0.7 else []
        found.append([*header, *ids, *([renderer.stop_ids[0]] if rng.random() < 0.6 else [])])
    return found


def written(reader: Any, limits: Limits, ids: Sequence[int], stop: tuple[str, ...] = ()) -> list[Piece]:
    writing, pieces = Writing(0, limits, stop, reader), []
    for token in ids:
        pieces.append(writing.add(Token(token, 0.0)))
        if pieces[-1].finish:
            break
    return pieces


def whole(pieces: Sequence[Piece]) -> str:
    return "".join(p.text for p in pieces)


def check(reader: Any, renderer: Renderer, ids: list[int]) -> None:
    end = next((n + 1 for n, i in enumerate(ids) if i in renderer.stop_ids), len(ids))
    pieces = written(reader, Limits(len(ids), renderer.stop_ids), ids)
    text = renderer.text(ids[:end])
    assert whole(pieces) == text
    assert [p.finish for p in pieces[:-1]] == [None] * (end - 1)
    assert pieces[-1].finish == ("stop" if ids[end - 1] in renderer.stop_ids else "length")
    told = [t.id for p in pieces for t in p.tokens]
    assert told == [i for i in ids[:end] if i not in renderer.stop_ids]


@pytest.mark.parametrize(("name", "kind"), renderers())
def test_pieces_make_the_text(name: str, kind: str) -> None:
    tokenizer = chat.tokenizer(name, kind)
    renderer, rng = Renderer(tokenizer, LONG), random.Random(f"{name}{kind}")
    for ids in replies(renderer, tokenizer, rng):
        if ids:
            check(renderer, renderer, ids)


@pytest.mark.parametrize(("name", "kind"), renderers())
def test_a_stop_text_cuts_the_answer_before_it_and_never_shows(name: str, kind: str) -> None:
    tokenizer = chat.tokenizer(name, kind)
    renderer, rng = Renderer(tokenizer, LONG), random.Random(f"stop {name}{kind}")
    num_cut = 0
    for ids in filter(None, replies(renderer, tokenizer, rng)):
        end = next((n + 1 for n, i in enumerate(ids) if i in renderer.stop_ids), len(ids))
        text = renderer.text(ids[:end])
        at = rng.randrange(len(text)) if text else 0
        stop = text[at : at + rng.randrange(1, 6)] or "never"
        pieces = written(renderer, Limits(len(ids), renderer.stop_ids), ids, ("no such text", stop))
        shown = whole(pieces)
        if "\ufffd" not in text:  # half a character is not known to be one until the end
            assert shown == text.partition(stop)[0]
        assert stop not in shown
        assert text.startswith(shown)
        num_cut += shown != text
    assert num_cut


class Hasty:
    """Mutant: takes all that it can read for settled."""

    def __init__(self, renderer: Renderer) -> None:
        self.text = self.settled = renderer.text


def test_mutant_hasty_reader_is_found() -> None:
    for name, kind in (("chatml", "bytes"), ("chatml", "metaspace"), ("alpaca", "bytes"), ("qwen3", "bytes")):
        tokenizer = chat.tokenizer(name, kind)
        renderer, rng = Renderer(tokenizer, LONG), random.Random(0)
        found = list(filter(None, replies(renderer, tokenizer, rng)))
        with pytest.raises((RunError, AssertionError)):
            deque((check(Hasty(renderer), renderer, ids) for ids in found), 0)


def test_mutant_stop_that_is_not_held_back_shows_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = chat.tokenizer("chatml")
    renderer = Renderer(tokenizer, LONG)
    ids = tokenizer.encode("one two END three", add_special_tokens=False)
    limits = Limits(LONG, renderer.stop_ids)
    assert whole(written(renderer, limits, ids, ("END",))) == "one two "
    monkeypatch.setattr("tunesmith.generate.stream.begun", lambda text, endings: 0)
    with pytest.raises(RunError, match="cannot be shown"):
        written(renderer, limits, ids, ("END",))


def test_thoughts_are_not_shown_and_the_content_behind_them_is_at_once() -> None:
    tokenizer = chat.tokenizer("gpt_oss")
    renderer = Renderer(tokenizer, LONG)
    thought = "<|channel|>analysis<|message|>Hm, an order.<|end|><|start|>assistant"
    ids = tokenizer.encode(f"{thought}<|channel|>final<|message|>It is here.", add_special_tokens=False)
    pieces = written(renderer, Limits(LONG, renderer.stop_ids), [*ids, renderer.stop_ids[0]])
    assert whole(pieces) == "It is here."
    assert sum(bool(p.text) for p in pieces) > 3


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_bytes_of_tokens_are_the_bytes_of_the_text(kind: str) -> None:
    tokenizer = chat.tokenizer("chatml", kind)
    for text in ("Where is it?", "你好 🧑‍🚀 naïve", "a  b"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert b"".join(token_bytes(tokenizer, i) for i in ids).decode().removeprefix(" ") == text
    assert token_bytes(tokenizer, tokenizer.convert_tokens_to_ids("<|im_end|>")) == b"<|im_end|>"


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_steps_are_what_a_call_writes(family: str, temperature: float) -> None:
    """Side by side or alone, token by token or whole: the same tokens from the same seed."""
    model = tiny.build(family)
    sampler = Sampler(model, find_head(model), lambda tokens: "")
    prompt, limits = [5, 9, 30, 4, 8], Limits(12, (7, 11), temperature=temperature, seed=5)
    wanted = sampler([prompt] * 3, limits)
    tokens: list[list[int]] = [[], [], []]
    logps: list[list[float]] = [[], [], []]
    stopped: set[int] = set()
    for step in sampler.steps(prompt, 3, limits, stopped, top=2):
        for row, token, logp, best in zip(step.rows, step.tokens, step.logps, step.best):
            tokens[row].append(token)
            logps[row].append(logp)
            assert len(best) == 2
            assert best[0][1] >= best[1][1] >= -30
            assert logp <= best[0][1]
            if token in limits.stop_ids:
                stopped.add(row)
    assert [tuple(t) for t in tokens] == [c.tokens for c in wanted]
    for found, completion in zip(logps, wanted):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(completion.logp), atol=1e-5, rtol=0)
    alone = [step.tokens[0] for step in sampler.steps(prompt, 1, limits, set())]
    assert alone[: len(tokens[0])] == tokens[0]


def test_a_session_streams_what_it_samples_and_is_free_again(tmp_path) -> None:
    base = load(str(tiny_runs.model_folder(tmp_path / "model")))
    session, renderer = Session(base), Renderer(base.tokenizer, 256)
    prompt = renderer.prompt([QUESTION])
    for limits in (Limits(30, renderer.stop_ids), Limits(30, renderer.stop_ids, temperature=1.5, seed=2)):
        whole_answer = session.sample(None, [prompt], limits, decode=renderer.text)[0]
        assert whole(list(session.stream(None, prompt, limits, Ask(), renderer))) == whole_answer.text
    unfinished = session.stream(None, prompt, Limits(30, ()), Ask(), renderer)
    next(unfinished)
    unfinished.close()
    before = base.model.config._attn_implementation
    assert before != "tunesmith_decode"
    assert session.sample(None, [prompt], limits, decode=renderer.text)[0] == whole_answer


def test_a_padded_model_is_shown_when_it_is_done(tmp_path) -> None:
    base = load(str(tiny_runs.model_folder(tmp_path / "model", "falcon")))
    session, renderer = Session(base), Renderer(base.tokenizer, 256)
    prompt, limits = renderer.prompt([QUESTION]), Limits(9, renderer.stop_ids)
    pieces = list(session.stream(None, prompt, limits, Ask(num=2), renderer))
    wanted = session.sample(None, [prompt], limits, decode=renderer.text)[0]
    assert [whole([p for p in pieces if p.answer == i]) for i in range(2)] == [wanted.text] * 2
    with pytest.raises(PlanError, match="padded"):
        next(session.stream(None, prompt, limits, Ask(top=1), renderer))
