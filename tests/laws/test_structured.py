"""Answers of a given form: what stops is of the form, what may come next is exact, and nats are of what is left."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from tests import tiny
from tests.data import chat, pieces
from transformers import PreTrainedModel

from tunesmith.errors import InputError
from tunesmith.generate import structured
from tunesmith.generate.decode import Sampler
from tunesmith.generate.limits import Limits
from tunesmith.generate.plain import generate_plain
from tunesmith.models.heads import find_head
from tunesmith.types import Completion

TOKENIZER = chat.tokenizer("chatml")
STOP = (int(TOKENIZER.eos_token_id),)
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["who", "num"],
    "properties": {"who": {"enum": ["fox", "dog"]}, "num": {"type": "integer", "minimum": 0, "maximum": 99}},
}  # fmt: skip
PATTERN = r"(yes|no|nope) [0-3]"
ALL = [f"{word} {digit}" for word in ("yes", "no", "nope") for digit in range(4)]


@pytest.fixture(scope="module", autouse=True)
def there() -> None:
    pytest.importorskip("llguidance")


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny.build("llama", vocab_size=len(TOKENIZER), eos_token_id=STOP[0], pad_token_id=STOP[0], bos_token_id=None)


def read(tokens: Any) -> str:
    return str(TOKENIZER.decode([t for t in tokens if t not in STOP]))


def answers(
    model: PreTrainedModel, form: structured.Form | None, temperature: float = 1.0, *, by_transformers: bool = False
) -> list[Completion]:
    prompts = [
        TOKENIZER.encode(text) for text in ("Who is it? ", "Is it so?", "How many clips, then?") for _ in range(4)
    ]
    limits = Limits(40, STOP, temperature, seed=3, rows=5, form=form, tempered=True)
    if by_transformers:
        return generate_plain(model, prompts, limits, read)
    return Sampler(model, find_head(model), read)(prompts, limits)


def fits(text: str) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return set(found) == {"who", "num"} and found["who"] in ("fox", "dog") and found["num"] in range(100)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_what_stops_is_of_the_form(model: PreTrainedModel, temperature: float) -> None:
    done = answers(model, structured.form(TOKENIZER, STOP, schema=SCHEMA), temperature)
    assert all(c.stopped and fits(c.text) for c in done)
    done = answers(model, structured.form(TOKENIZER, STOP, pattern=PATTERN), temperature)
    assert all(c.stopped and re.fullmatch(PATTERN, c.text) for c in done)
    assert len({c.text for c in done}) > (1 if temperature else 0)
    assert not any(re.fullmatch(PATTERN, c.text) for c in answers(model, None, temperature))  # the mutant: no mask


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_transformers_writes_the_same_answers_of_a_form(model: PreTrainedModel, temperature: float) -> None:
    """Rows stop at different steps. Mutant: the form is not asked."""
    form = structured.form(TOKENIZER, STOP, schema=SCHEMA)
    ours, plain = (answers(model, form, temperature, by_transformers=by) for by in (False, True))
    assert [c.tokens for c in ours] == [c.tokens for c in plain]
    assert [c.logp for c in ours] == [pytest.approx(c.logp, abs=2e-5) for c in plain]
    without = answers(model, None, temperature, by_transformers=True)
    assert not any(fits(c.text) for c in without)


def test_what_may_come_next_is_exact() -> None:
    """Against all answers of a pattern that has few: a token may come where one of them goes on so, and no other."""
    begun = ["", "n", "no", "nope", "yes ", "yes 2"]
    form = structured.form(TOKENIZER, STOP, pattern=PATTERN)
    texts = [TOKENIZER.decode([i]) for i in range(len(TOKENIZER))]
    for text in begun:
        guides = form.start(1)
        for token in TOKENIZER.encode(text):
            guides.add([0], [token])
        allowed = guides.masked(torch.zeros(1, len(TOKENIZER)), [0])[0] == 0
        for token, piece in enumerate(texts):
            wanted = text in ALL if token in STOP else bool(piece) and any(a.startswith(text + piece) for a in ALL)
            assert bool(allowed[token]) == wanted, (text, piece)


def test_nats_are_of_what_was_left(model: PreTrainedModel) -> None:
    """log p of each token over the sum of those allowed, by transformers alone; the mutant's are of all tokens."""
    form = structured.form(TOKENIZER, STOP, pattern=PATTERN)
    prompt = TOKENIZER.encode("Is it so?")
    limits = Limits(40, STOP, 1.0, seed=8, form=form)
    [done] = Sampler(model, find_head(model), read)([prompt], limits)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *done.tokens]])).logits[0, len(prompt) - 1 : -1]
    guides, free = form.start(1), logits.log_softmax(-1)
    for k, (token, logp) in enumerate(zip(done.tokens, done.logp, strict=True)):
        left = guides.masked(logits[k : k + 1], [0]).log_softmax(-1)[0]
        assert logp == pytest.approx(float(left[token]), abs=1e-5)
        guides.add([0], [token])
    assert sum(done.logp) > sum(float(free[k, t]) for k, t in enumerate(done.tokens)) + 1


def test_what_cannot_be_followed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="the JSON schema cannot be followed: Invalid type: nope"):
        structured.form(TOKENIZER, STOP, schema={"type": "nope"})
    with pytest.raises(InputError, match="the pattern '\\(a' cannot be followed"):
        structured.form(TOKENIZER, STOP, pattern="(a")
    monkeypatch.setattr(structured.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'tunesmith\[structured\]'"):
        structured.form(TOKENIZER, STOP, pattern="a")


def test_a_tokenizer_that_llguidance_cannot_read_is_named() -> None:
    with pytest.raises(InputError, match="cannot read this model's tokenizer"):
        structured.form(pieces.tokenizer("t5"), (1,), pattern=PATTERN)
