"""The made-up inbox: the same for a seed, split by phrasing, and every reply can be read off its message."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations

import pytest

from tunesmith.data import shop

ROWS = shop.inbox()
REPLIES = [json.loads(row.completion) for row in ROWS]
# Of seed 0. A change of shop.py or shop.json changes it, and with it the quickstart's figures in README.
DIGEST = "9e2dc9710c8cfe0df4d8b7b8fc100db4d1b1298d81a602e5259b6a880c7906a1"


def digest(rows: list[shop.Row]) -> str:
    return hashlib.sha256(
        "\n".join(f"{r.split}|{r.group}|{r.prompt}|{r.completion}" for r in rows).encode()
    ).hexdigest()


def core_words(phrasing: str) -> str:
    """The longest run of a phrasing without slots, options and case: what can be looked for in other texts."""
    return max(re.split(r"\{\w+\}|\[[^]]*\]", phrasing.lower()), key=len).strip(" .,?!;:")


def test_the_same_seed_gives_the_same_inbox_and_another_seed_another() -> None:
    assert digest(ROWS) == DIGEST
    assert digest(shop.inbox(seed=1)) != DIGEST


def test_string_hashing_does_not_matter() -> None:
    code = "import sys; sys.path[:0] = ['.']; from tests.unit import test_shop as t; print(t.digest(t.ROWS))"
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == DIGEST


def test_sizes_of_the_splits() -> None:
    assert Counter(row.split for row in ROWS) == {"train": 1480, "dev": 160, "test": 360}
    assert len(shop.inbox(num_messages=301)) == 301


def test_no_phrasing_and_no_remark_on_urgency_stands_in_two_splits() -> None:
    groups = {split: {row.group for row in ROWS if row.split == split} for split in shop.SPLITS}
    assert all(groups.values())
    for one, other in combinations(shop.SPLITS, 2):
        assert not groups[one] & groups[other]
    for level, lines in shop.texts()["urgency"].items():
        by_split = [shop.urgency_remarks(level, split) for split in shop.SPLITS]
        assert sorted(line for part in by_split for line in part) == sorted(lines)
        assert all(by_split)


def test_the_split_of_a_phrasing_does_not_depend_on_the_seed() -> None:
    split = {row.group: row.split for row in ROWS}
    assert {row.group: row.split for row in shop.inbox(seed=7)} == split


def test_words_of_a_test_phrasing_are_in_no_training_message() -> None:
    """Looks for the texts themselves, so that a phrasing written down twice under two ids would be found too."""
    trained = "\n".join(row.prompt.lower() for row in ROWS if row.split != "test")
    held_out = [core_words(p.text) for p in shop.phrasings() if p.split == "test"]
    held_out += [line.lower().strip(".!") for level in ("high", "low") for line in shop.urgency_remarks(level, "test")]
    assert [words for words in held_out if words in trained] == []
    own = [core_words(p.text) for p in shop.phrasings() if p.split == "train"]
    assert sum(words in trained for words in own) == len(own)  # the same search does find what is there


def test_remarks_on_urgency_in_a_message_are_those_of_its_split() -> None:
    for split in shop.SPLITS:
        text = "\n".join(row.prompt.lower() for row in ROWS if row.split == split)
        for level in ("high", "low"):
            used = {
                s for s in shop.SPLITS for line in shop.urgency_remarks(level, s) if line.lower().strip(".!") in text
            }
            assert used == {split}


def runs_of(text: str, num_words: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\{?[a-z']+\}?", text.lower())
    return {tuple(words[i : i + num_words]) for i in range(len(words) - num_words + 1)}


def test_no_six_words_in_a_row_are_shared_with_a_held_out_phrasing() -> None:
    parts = {split: [p.text for p in shop.phrasings() if p.split == split] for split in shop.SPLITS}
    for one, other in combinations(shop.SPLITS, 2):
        known = set().union(*(runs_of(text, 6) for text in parts[one]))
        assert [text for text in parts[other] if runs_of(text, 6) & known] == []
    assert runs_of("The {item} is too small for me.", 6) & runs_of("so the {item} is too small for you", 6)


def test_phrasings_differ_by_more_than_a_few_words() -> None:
    words = {p.id: set(re.findall(r"[a-z']{3,}", p.text.lower())) for p in shop.phrasings()}
    alike = [
        (one, other)
        for one, other in combinations(words, 2)
        if len(words[one] & words[other]) > 0.6 * len(words[one] | words[other])
    ]
    assert alike == []


def test_every_intent_has_many_phrasings_and_every_pair_is_in_every_split() -> None:
    by_intent = Counter(p.intent for p in shop.phrasings())
    assert len(by_intent) >= 12
    assert min(by_intent.values()) >= 10
    pairs = {(p.intent, p.asked) for p in shop.phrasings()}
    for split in shop.SPLITS:
        assert {(p.intent, p.asked) for p in shop.phrasings() if p.split == split} == pairs


def test_replies_are_compact_json_with_fixed_keys_and_closed_sets() -> None:
    for row, reply in zip(ROWS, REPLIES, strict=True):
        assert tuple(reply) == shop.KEYS
        assert json.dumps(reply, separators=(",", ":")) == row.completion
        intent, asked, _ = row.group.split("/")
        assert (reply["intent"], reply["asked"].replace(" ", "_")) == (intent, asked)
        assert reply["asked"] in shop.texts()["phrasings"][intent]
        assert reply["urgency"] in ("high", "normal", "low")
        assert all(f" {reply[key]}" in shop.INSTRUCTION for key in ("intent", "urgency", "asked"))


def test_order_and_product_are_copied_from_the_message_and_null_only_where_it_has_none() -> None:
    products = [name for names in shop.texts()["products"].values() for name in names]
    shapes = [re.escape(shape).replace(r"\#", r"\d") for shape in shop.texts()["order_formats"]]
    number = re.compile(r"(?<![\w-])(" + "|".join(shapes) + r")(?![\w-])")
    for row, reply in zip(ROWS, REPLIES, strict=True):
        without_phone = re.sub(r"0151 22409|555 0192", "", row.prompt)
        assert number.findall(without_phone) == ([reply["order"]] if reply["order"] else []), row
        named = [name for name in products if re.search(rf"\b{name}\b", row.prompt)]
        assert (reply["product"] in named) if reply["product"] else not named or "like a tent" in row.prompt, row


def test_urgency_follows_from_the_remark_alone() -> None:
    plain = [p for p in shop.phrasings() if p.split == "train"]
    for level in ("high", "low"):
        lines = [line for split in shop.SPLITS for line in shop.urgency_remarks(level, split)]
        kept = re.compile("|".join(re.escape(line.rstrip(".!").lower()) for line in lines))
        messages = [row.prompt.lower() for row, reply in zip(ROWS, REPLIES) if reply["urgency"] == level]
        others = [row.prompt.lower() for row, reply in zip(ROWS, REPLIES) if reply["urgency"] != level]
        assert not any(kept.search(text) for text in others)
        assert sum(bool(kept.search(text)) for text in messages) > 0.75 * len(messages)  # the rest is misspelt
    cues = re.compile(
        r"urgen|asap|immediately|hurry|no rush|today|tomorrow|tonight|priority|right away|no stress", re.I
    )
    assert [p.id for p in plain if cues.search(p.text)] == []


def test_messages_are_different_and_of_moderate_length() -> None:
    assert len({row.prompt for row in ROWS}) == len(ROWS)
    lengths = [len(row.prompt.split()) for row in ROWS]
    assert min(lengths) >= 10
    assert max(lengths) <= 60
    assert 20 < sum(lengths) / len(lengths) < 32
    assert not [row.prompt for row in ROWS if re.search(r"[{}]|\[\w*\|", row.prompt)]  # no open slot


def test_no_intent_urgency_or_null_dominates() -> None:
    for split in shop.SPLITS:
        replies = [reply for row, reply in zip(ROWS, REPLIES) if row.split == split]
        intents = Counter(reply["intent"] for reply in replies)
        assert max(intents.values()) < 1.5 * min(intents.values())
        urgency = Counter(reply["urgency"] for reply in replies)
        assert max(urgency.values()) < 0.6 * len(replies)
        for key in ("order", "product"):
            assert 0.05 < sum(reply[key] is None for reply in replies) / len(replies) < 0.4


def test_misspelling_leaves_slots_alone() -> None:
    text = "please send {order} and the {item} because nothing arrived yesterday evening"
    garbled = shop.garble(text, random.Random(3), 1.0)
    assert garbled.startswith("pls ")
    assert "{order}" in garbled
    assert "{item}" in garbled
    assert garbled != text
    assert shop.garble(text, random.Random(3), 0.0) == text


def test_an_unknown_slot_is_an_error() -> None:
    with pytest.raises(KeyError):
        shop.fill("the {nonsense}", None, None, random.Random(0))


def test_files_hold_the_rows(tmp_path) -> None:
    paths = shop.write(tmp_path / "inbox", seed=0)
    for split, path in paths.items():
        read = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert read == [
            {"prompt": r.prompt, "completion": r.completion, "group": r.group} for r in ROWS if r.split == split
        ]
