"""Languages within one writing: shares, odd rows, replies that change the language; nobody is accused on a guess."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence

import pytest

from tunesmith.data import doubtful, languages
from tunesmith.data.doubtful import Doubts
from tunesmith.data.remedies import ROWS
from tunesmith.types import Example, Label, Message, Reply, Target

SENTENCES = {
    "en": "The parcel was sent on Monday and should be with you by the end of the week.",
    "fr": "Le colis a été envoyé lundi et devrait arriver chez vous avant la fin de la semaine.",
    "de": "Das Paket wurde am Montag verschickt und sollte bis Ende der Woche bei Ihnen sein.",
    "es": "El paquete se envió el lunes y debería llegar a su casa antes del fin de semana.",
    "sw": "Kifurushi kilitumwa siku ya Jumatatu na kinapaswa kufika kwako kabla ya mwisho wa wiki.",
    "is": "Pakkinn var sendur á mánudaginn og ætti að vera kominn til þín fyrir lok vikunnar.",
}  # fmt: skip


def row(asked: str, said: str | Target, line: int) -> Example:
    target = Reply(Message("assistant", said)) if isinstance(said, str) else said
    return Example(f"{line}-1", (Message("user", asked),), target, source=f"a:{line}")


def by_word(text: str) -> str | None:
    """`en hello` is English; `? hello` cannot be said."""
    word = text.partition(" ")[0]
    return word if word in ("en", "fr", "de", "pcm") else None


def odd(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Kind -> file:line of the rows whose prompt and reply begin so."""
    doubts = Doubts(reader=None, identify=by_word, drop=tuple(ROWS))
    rows = [row(f"{asked} what?", f"{said} that", line) for line, (asked, said) in enumerate(pairs, 1)]
    found = {one.kind: [r.source for r in one.rows] for one in doubts.findings(rows)}
    assert sorted(doubts.dropped) == sorted({source for some in found.values() for source in some})
    return found


def test_the_shares_of_each_side_add_up() -> None:
    rows = [row("en a?", "fr b", 1), row("en a?", "? b", 2), row("? a", Label("en"), 3), row("de a?", "de b", 4)]
    doubts = Doubts(reader=None, identify=by_word)
    doubts.findings(rows)
    assert doubts.shares == {
        "prompts": {"English": 2, "German": 1, "not known": 1}, "replies": {"French": 1, "German": 1, "not known": 1},
    }  # fmt: skip
    assert json.loads(json.dumps(doubts.facts()))["languages"] == doubts.shares  # no number of numpy's
    assert doubtful.lines(doubts.facts())[0] == (
        "languages  of prompts: English 50.0%, German 25.0%, too short or unclear to say 25.0%"
    )


def test_few_rows_in_another_language_are_told_and_a_mixture_is_not() -> None:
    many = [("en", "en")] * 97
    assert odd([*many, ("fr", "fr"), ("?", "?"), ("de", "de")]) == {"other_language": ["a:98", "a:100"]}
    assert odd([("en", "en")] * 40 + [("fr", "fr")] * 40 + [("de", "de")] * 3) == {}


def test_a_reply_that_changes_the_language_is_told_and_a_translation_is_not() -> None:
    assert odd([("en", "en")] * 97 + [("en", "fr")]) == {"reply_language": ["a:98"]}
    assert odd([("en", "fr")] * 97 + [("en", "en")]) == {"reply_language": ["a:98"]}  # was not translated
    assert odd([("en", "fr")] * 50 + [("en", "en")] * 50) == {}  # both are usual
    assert odd([("en", "en")] * 60 + [("fr", "fr")] * 60 + [("fr", "en")]) == {"reply_language": ["a:121"]}
    assert odd([("en", "en")] * 97 + [("en", "?"), ("?", "fr")]) == {}  # who cannot be told is not accused


def test_who_asks_for_a_language_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: requests are not read, and a row that does as it was told is accused."""
    rows = [row("en what?", "en that", line) for line in range(1, 99)]
    rows += [row("en say it in French", "fr voilà", 99), row("fr traduis ceci", "en this", 100)]
    assert Doubts(reader=None, identify=by_word).findings(rows) == []
    monkeypatch.setattr(languages, "ASKED_FOR", re.compile("(?!)"))
    assert {one.kind: one.count for one in Doubts(reader=None, identify=by_word).findings(rows)} == {
        "reply_language": 2
    }


def test_without_the_library_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    doubts = Doubts()
    assert doubts.findings([row("en a", "fr b", 1)]) == []
    assert [re.search(r"tunesmith\[(\w+)\]", said)[1] for said in doubts.not_looked_for] == ["toxicity", "languages"]  # type: ignore[index]


def test_real_sentences_of_one_writing_are_told_apart_and_scraps_are_not_named() -> None:
    """Planted: 2 of 100 rows each of five languages among English ones, and as many replies."""
    pytest.importorskip("py3langid")
    identify = languages.identifier()
    assert identify is not None
    assert {code: identify(text) for code, text in SENTENCES.items()} == {code: code for code in SENTENCES}
    scraps = ("ok", "42", "", "x = f(y) + 3", "SELECT a FROM b", "https://example.org/le/colis", "```\nle colis\n```",
              "thanks", "Das ist", "lol no")  # fmt: skip
    assert [text for text in scraps if identify(text) is not None] == []
    asked = [(SENTENCES["en"], SENTENCES["en"])] * 98 + [("ok?", "ok")] * 50
    others = [text for code, text in SENTENCES.items() if code != "en"]
    planted = [*asked, *((text, text) for text in others), *((SENTENCES["en"], text) for text in others)]
    doubts = Doubts(reader=None, identify=identify)
    found = doubts.findings([row(*texts, line) for line, texts in enumerate(planted, 1)])
    print({one.kind: f"{one.count} of 5 planted" for one in found})
    assert {one.kind: [r.source for r in one.rows] for one in found} == {
        "other_language": [f"a:{line}" for line in range(149, 154)],
        "reply_language": [f"a:{line}" for line in range(154, 159)],
    }
