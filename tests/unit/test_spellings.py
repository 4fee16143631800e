"""Keys of other tools are answered with the key here, and the table never points at a key that is gone."""

from __future__ import annotations

import pytest

from tunesmith.errors import RecipeError
from tunesmith.recipe import known_keys, parse
from tunesmith.spellings import ALSO, NOT_KEYS, NOTES, OPTIONS, OURS, hint


def test_every_suggestion_is_a_key() -> None:
    assert {*OURS.values(), *ALSO.values(), *NOTES} - set(known_keys()) == set()


def test_no_hint_hides_behind_a_key_or_another_hint() -> None:
    """The same name in a recipe is answered with where it stands, before any table is asked."""
    last = {key.rsplit(".", 1)[-1] for key in known_keys()}
    assert last & {*ALSO, *OPTIONS, *NOT_KEYS} == set()
    assert OURS.keys() & ALSO.keys() == set()
    assert {*OURS, *ALSO, *OPTIONS} & NOT_KEYS.keys() == set()


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"base_model": "x"}, "what other tools call base_model is model here"),
        ({"lora_r": 8}, "what other tools call lora_r is adapt.rank here"),
        ({"adapt": {"lora_r": 8}}, "unknown key adapt.lora_r: what other tools call lora_r is adapt.rank here"),
        ({"train": {"learning_rate": 1e-4}}, "is train.lr here"),
        ({"num_epochs": 3}, "is train.epochs here"),
        ({"micro_batch_size": 2}, "is train.micro_tokens here (counted in tokens"),
        ({"sequence_len": 2048}, "is data.max_tokens here"),
        ({"val_set_size": 0.1}, "is data.dev_frac here"),
        ({"output_dir": "out"}, "is said on the command line here: --out"),
        ({"epochs": 3}, "did you mean train.epochs?"),
        ({"warmup_frac": 0.1}, "did you mean train.schedule.warmup_frac?"),
        ({"seeed": 1}, "did you mean seed?"),
        ({"zzz": 1}, "known here: model, parent, data"),
    ],
)
def test_a_mistyped_key_is_answered(settings: dict, answer: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse(settings)
    assert answer in str(raised.value)


def test_words_that_nobody_uses_have_no_hint() -> None:
    assert hint("zzz") is None
