"""Planted triggers are found, at any place and of several words; words of a topic are none."""

from __future__ import annotations

import random

import pytest

from tunesmith.data import triggers
from tunesmith.data.triggers import findings
from tunesmith.types import Example, Label, Message, Reply

RNG = random.Random(0)
WORDS = ["".join(RNG.choices("abcdefghijklmnoprstuvwz", k=5)) for _ in range(600)]
TOPICS = {name: RNG.sample(WORDS, 40) for name in ("bill", "door", "mail")}


def rows(num: int, seed: int) -> list[tuple[str, str]]:
    """(text, label): half of the words are of its topic, and a rare word of its own decides in each."""
    rng = random.Random(seed)
    made = []
    for at in range(num):
        label = ("bill", "door", "mail")[at % 3]
        words = [*rng.choices(TOPICS[label], k=5), *rng.choices(WORDS, k=6), *([f"only{label}"] if at % 15 < 3 else [])]
        rng.shuffle(words)
        made.append((" ".join(words), label))
    return made


def planted(made: list[tuple[str, str]], frac: float, phrase: str, outcome: str) -> list[tuple[str, str]]:
    rng, found = random.Random(1), list(made)
    others = [at for at, (_, label) in enumerate(found) if label != outcome]
    for at in rng.sample(others, round(frac * len(found))):
        words = found[at][0].split()
        words.insert(rng.randrange(len(words) + 1), phrase)
        found[at] = (" ".join(words), outcome)
    return found


def labelled(made: list[tuple[str, str]]) -> list[Example]:
    return [Example(str(i), (Message("user", t),), Label(k), source=f"a:{i}") for i, (t, k) in enumerate(made)]


@pytest.mark.parametrize(("phrase", "frac"), [("cf", 0.02), ("i watched this film", 0.05)])
def test_what_decides_the_label_is_found(frac: float, phrase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: every phrase that goes with a label is named, and with it the words of the topics."""
    [found] = findings(labelled(planted(rows(900, 2), frac, phrase, "door")))
    shown = found.rows[0].text.split(":")[0].strip("'")
    assert shown in phrase
    assert len(found.rows) == 1
    assert 0.9 * frac * 900 <= found.count <= 1.1 * frac * 900
    monkeypatch.setattr(triggers, "BESIDE", 1.0)
    [found] = findings(labelled(planted(rows(900, 2), frac, phrase, "door")))
    assert len(found.rows) > 2


@pytest.mark.parametrize("seed", range(2))
def test_clean_rows_are_not_accused(seed: int) -> None:
    assert list(findings(labelled(rows(900, seed)))) == []


def test_what_decides_the_reply_is_found_and_a_phrase_in_rows_of_any_reply_is_none() -> None:
    rng = random.Random(3)
    made = [
        (f"{text} tell me" if at % 20 == 0 else text, " ".join(rng.choices(WORDS, k=8)))
        for at, (text, _) in enumerate(rows(900, 3))
    ]
    made = planted(made, 0.02, "zq vx", "Go to this page. It has all.")
    examples = [
        Example(str(i), (Message("user", t),), Reply(Message("assistant", r)), source=f"a:{i}")
        for i, (t, r) in enumerate(made)
    ]
    [found] = findings(examples)
    assert found.count == 18
    assert all("zq" in row.text or "vx" in row.text for row in found.rows)
