"""Law: a key stands in one split; adding, relabelling and reordering rows moves none; test is never in train."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest

from tunesmith.data.ingest import example_id
from tunesmith.data.split import Ledger, Split, key, split
from tunesmith.errors import DataError
from tunesmith.types import Example, Label, Message


def example(prompt: str, label: str = "a", group: str | None = None, number: int = 1) -> Example:
    messages = (Message("user", prompt),)
    target = Label(label)
    return Example(f"{example_id(messages, target)}-{number}", messages, target, group, source=f"data.jsonl:{number}")


def made(num: int, seed: int = 0) -> list[Example]:
    rng = random.Random(seed)
    return [
        example(f"question {rng.randrange(num)}", rng.choice("abc"), rng.choice([None, f"g{rng.randrange(9)}"]), i)
        for i in range(num)
    ]


def place_of(found: Split) -> dict[str, set[str]]:
    places: dict[str, set[str]] = defaultdict(set)
    for name in ("train", "dev", "test"):
        for e in getattr(found, name):
            places[key(e)].add(name)
    return places


@pytest.mark.parametrize("seed", range(10))
def test_a_key_stands_in_one_split_and_none_is_lost(seed: int) -> None:
    examples = made(400, seed)
    found = split(examples, 0.15, 0.2, "salt")
    assert all(len(places) == 1 for places in place_of(found).values())
    assert sorted(e.id for part in (found.train, found.dev, found.test) for e in part) == sorted(e.id for e in examples)
    assert found.moved == ()


def test_fractions_are_kept_and_the_salt_draws_anew() -> None:
    examples = [example(f"q {i}", number=i) for i in range(4000)]
    found = split(examples, 0.1, 0.2, "salt")
    assert len(found.test) / 4000 == pytest.approx(0.2, abs=0.02)
    assert len(found.dev) / 4000 == pytest.approx(0.1, abs=0.02)
    other = split(examples, 0.1, 0.2, "other")
    both = {e.id for e in found.test} & {e.id for e in other.test}
    assert len(both) / 4000 == pytest.approx(0.04, abs=0.015)  # independent draws


@pytest.mark.parametrize("seed", range(10))
def test_relabelling_reordering_and_adding_rows_move_none(seed: int) -> None:
    rng = random.Random(seed)
    examples = made(300, seed)
    before = split(examples, 0.15, 0.2, "salt")
    changed = [example(e.prompt[0].content, "other label", e.group, i) for i, e in enumerate(examples)]
    added = made(200, seed + 1000)
    mixed = changed + added
    rng.shuffle(mixed)
    for ledger in (None, before.ledger):
        after = place_of(split(mixed, 0.15, 0.2, "salt", ledger=ledger))
        assert all(after[k] == places for k, places in place_of(before).items())


def test_the_ledger_holds_where_fractions_and_salt_change(tmp_path: Path) -> None:
    examples = made(300)
    before = split(examples, 0.15, 0.2, "salt")
    before.ledger.save(tmp_path / "ledger.json")
    after = split(examples, 0.3, 0.4, "other salt", ledger=Ledger.load(tmp_path / "ledger.json"))
    assert place_of(after) == place_of(before)
    assert place_of(split(examples, 0.3, 0.4, "other salt")) != place_of(before), "without it they would move"
    assert "question" not in (tmp_path / "ledger.json").read_text(), "no text of the user stands in it"


def test_case_width_and_white_space_make_no_other_prompt() -> None:
    assert key(example("Where is  my ORDER?\n")) == key(example("ｗhere is my order?"))
    assert key(example("Where is my order?")) != key(example("Where was my order?"))
    assert key(example("a", group="g")) == key(example("b", group="g"))
    assert key(example("g")) != key(example("x", group="g"))


def test_rows_that_stand_in_a_test_file_are_taken_out_of_train() -> None:
    test = [example("leaked", "a", number=1), example("only test", number=2)]
    dev = [example("LEAKED ", number=3), example("only dev", number=4)]
    train = [
        example("Leaked", "b", number=5),
        example("only dev", number=6),
        example("train", number=7),
        example("train 2", number=8),
    ]
    found = split(train, 0.1, 0.1, "salt", given={"test": test, "dev": dev})
    assert list(found.test) == test
    assert [e.prompt[0].content for e in found.dev] == ["only dev"]
    assert [e.prompt[0].content for e in found.train] == ["train", "train 2"]
    assert [(m.source, m.out_of, m.stands_in) for m in found.moved] == [
        ("data.jsonl:3", "dev", "test"),
        ("data.jsonl:5", "train", "test"),
        ("data.jsonl:6", "train", "dev"),
    ]


def test_dev_is_drawn_from_train_where_only_test_is_given() -> None:
    train = [example(f"q {i}", number=i) for i in range(300)]
    found = split(train, 0.2, 0.1, "salt", given={"test": [example("test")]})
    assert [e.prompt[0].content for e in found.test] == ["test"]
    assert 30 < len(found.dev) < 90
    assert len(found.train) + len(found.dev) == 300


def test_a_test_file_that_contradicts_the_ledger_is_refused() -> None:
    train = [example(f"q {i}", number=i) for i in range(50)]
    before = split(train, 0.1, 0.2, "salt")
    with pytest.raises(DataError, match="never changes its split"):
        split(train, 0.1, 0.1, "salt", ledger=before.ledger, given={"test": [before.train[0]]})


def test_empty_splits_are_refused_with_the_way_out(tmp_path: Path) -> None:
    few = [example(f"q {i}", number=i) for i in range(3)]
    with pytest.raises(DataError, match=r"test split is empty .*3 examples.*Give a test file"):
        split(few, 0.0, 0.0, "salt")
    with pytest.raises(DataError, match="together below 1"):
        split(few, 0.5, 0.5, "salt")
    with pytest.raises(DataError, match="training split is empty"):
        split([few[0]], 0.0, 0.0, "salt", given={"test": [few[0]]})
    with pytest.raises(DataError, match="dev split is empty"):
        split(few, 0.0, 0.0, "salt", given={"test": [example("t")], "dev": [example("t")]})
    (tmp_path / "broken.json").write_text('{"format": 1, "splits": {"a": "nowhere"}}')
    with pytest.raises(DataError, match="no split ledger"):
        Ledger.load(tmp_path / "broken.json")
