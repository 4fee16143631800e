"""Answers of an export may differ in nothing; in 16 bits where two tokens are as good as each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests import tiny

from tunesmith.errors import RunError
from tunesmith.export.verify import Expected, logits_behind, verify
from tunesmith.generate.plain import greedy
from tunesmith.models.seq2seq import asking
from tunesmith.types import Completion

PROMPT, LONG = (5, 9, 3, 14), 6


def expected_of(model: torch.nn.Module) -> Expected:
    with torch.no_grad():
        [tokens] = greedy(model, [PROMPT], LONG, ())[0].tolist()  # type: ignore[arg-type]
        logits_V = logits_behind(model, PROMPT)  # type: ignore[arg-type]
    return Expected((PROMPT,), (Completion(tuple(tokens), (0.0,) * LONG, "", False),), (logits_V,), (), LONG,
                    torch.float32)  # fmt: skip


def parted(expected: Expected, at: int, token: int, dtype: torch.dtype) -> Expected:
    """The session wrote another token there."""
    [before] = expected.completions
    tokens = (*before.tokens[:at], token, *before.tokens[at + 1 :])
    return replace(expected, completions=(replace(before, tokens=tokens),), dtype=dtype)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_answers_may_part_at_a_near_tie_only_and_in_16_bits_only(family: str) -> None:
    model = tiny.build(family, tie_word_embeddings=False)
    expected = expected_of(model)
    best, head = expected.completions[0].tokens[2], model.get_output_embeddings().weight
    other = next(t for t in range(3, tiny.VOCABULARY) if t not in expected.completions[0].tokens)
    assert verify("model", model, expected)["num_same"] == 1
    with pytest.raises(RunError, match="0 of 1 greedy answers"):  # the mutant that judges no answer in 16 bits
        verify("model", model, parted(expected, 2, other, torch.bfloat16))
    head.data[other] = (1 - 1e-5) * head.data[best]  # now it is as good, but for a little
    twin = expected_of(model)
    assert twin.completions[0].tokens[2] == best
    facts = verify("model", model, parted(twin, 2, other, torch.bfloat16))
    assert (facts["num_same"], facts["num_ties"], facts["same_text"]) == (0, 1, False)
    with pytest.raises(RunError, match="0 of 1 greedy answers"):
        verify("model", model, parted(twin, 2, other, torch.float32))


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_logits_behind_what_was_begun_are_those_of_writing_on(family: str) -> None:
    model = tiny.build(family)
    [tokens] = greedy(model, [PROMPT], LONG, ())[0].tolist()
    with torch.no_grad():
        for at in range(LONG):
            logits_V = model(**asking(model, PROMPT, tokens[:at])).logits[0, -1]
            assert int(logits_V.argmax()) == tokens[at]
