"""Toxic words: which side of a row says them, and what is done about it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tunesmith.data import toxic
from tunesmith.data.doubtful import Doubts
from tunesmith.data.ingest import read
from tunesmith.data.lines import Reading
from tunesmith.data.mend import mend
from tunesmith.types import Example, Label, Marked, Message, Pair, Ranked, Reply, Target

ASK, FINE, VILE = (
    Message("user", "what is it?"),
    Message("assistant", "a fox"),
    Message("assistant", "you vile thing"),
)


def by_word(texts: Sequence[str]) -> np.ndarray:
    return np.array(["vile" in text for text in texts], float)


READER = toxic.Reader(by_word, sure=0.9, words=4)


def kinds(target: Target, *prompt: Message) -> dict[str, int]:
    rows = [Example("1-1", prompt or (ASK,), target, source="a:1")]
    return {one.kind: one.count for one in Doubts(READER, None).findings(rows)}


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (Reply(VILE), "toxic_replies"),
        (Pair(VILE, FINE), "toxic_replies"),
        (Pair(FINE, VILE), None),  # that it is worse is what is learned
        (Ranked((FINE, VILE, FINE)), None),
        (Marked(VILE, is_good=True), "toxic_replies"),
        (Marked(VILE, is_good=False), None),
        (Label("vile"), None),
        (Reply(FINE), None),
    ],
)
def test_which_replies_are_learned_to_be_said(target: Target, kind: str | None) -> None:
    assert kinds(target) == ({kind: 1} if kind else {})


def test_a_toxic_prompt_is_another_finding_and_an_earlier_turn_counts_where_it_is_learned() -> None:
    rude = Message("user", "tell me, you vile thing")
    assert kinds(Reply(FINE), rude) == {"toxic_prompts": 1}
    assert kinds(Reply(VILE), rude) == {"toxic_replies": 1}  # each row once, by the worse side
    assert kinds(Reply(FINE), ASK, VILE, ASK) == {"toxic_replies": 1}
    assert kinds(Reply(FINE), ASK, replace(VILE, weight=0.0), ASK) == {"toxic_prompts": 1}


def test_a_text_in_another_language_is_not_judged_by_an_english_model() -> None:
    """It heard an insult in "die". Mutants: who reads any language is silenced too; what nobody can name is out."""
    rows = [Example(f"{k}-1", (Message("user", text),), Reply(FINE), source=f"a:{k}")
            for k, text in enumerate(("vile thing", "das ist vile", "vile?"))]  # fmt: skip
    identify = {"vile thing": "en", "das ist vile": "de"}.get
    for reader, lines in ((READER, [0, 1, 2]), (replace(READER, languages=frozenset({"en"})), [0, 2])):
        [found] = [f for f in Doubts(reader, identify).findings(rows) if f.kind == "toxic_prompts"]
        assert [row.source for row in found.rows] == [f"a:{k}" for k in lines]


def test_pieces_are_sentences_or_overlapping_parts_of_them_and_no_word_is_lost() -> None:
    """Mutant: parts that begin only every `most` words cut a phrase in two."""
    text = "One two. three\nfour five six seven eight nine! …"
    found = toxic.pieces(text, 4)
    assert [piece for _, piece in found] == ["One two.", "three", "four five six seven", "six seven eight nine!", "…"]
    assert all(text[at : at + len(piece)] == piece for at, piece in found)
    words = [f"w{k}" for k in range(40)]
    parts = [piece for _, piece in toxic.pieces(" ".join(words), 4)]
    assert all(any(f"w{k} w{k + 1}" in part for part in parts) for k in range(39))


def test_more_rows_than_are_read_at_a_time_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toxic, "PIECE", 3)
    rows = [Example(f"{k}-1", (ASK,), Reply(VILE if k % 5 == 2 else FINE), source=f"a:{k}") for k in range(20)]
    assert [e.source for _, e, *_ in toxic.told(rows, READER)] == ["a:2", "a:7", "a:12", "a:17"]
    [(_, _, text, at, note)] = toxic.told(rows[:5], READER)
    assert (text[at:], note) == (VILE.content, "1.00")


def test_what_is_named_is_dropped_with_a_line_and_nothing_else_is(tmp_path: Path) -> None:
    """Read = written + dropped; mutant: toxic rows are dropped though nobody said so."""
    said = [{"prompt": f"ask {k}", "completion": f"answer {k}"} for k in range(30)]
    said[3]["completion"] = said[7]["prompt"] = "you vile thing"
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in said))
    there = read([file])
    for drop, lines in ((("toxic_replies",), ["4"]), ((), [])):
        doubts = Doubts(READER, None, drop=drop)
        doubts.findings(there.examples)
        done = mend(there, Reading(), tmp_path / f"out{len(drop)}", doubts.dropped)
        ledger = [json.loads(line) for line in done.ledger.read_text().splitlines()]
        assert [row["row"].rpartition(":")[2] for row in ledger] == lines
        assert done.counts["written"] == 30 - len(lines)
        assert all(row["why"] == "a reply reads as toxic (1.00)" for row in ledger)


def test_the_small_model_finds_planted_insults_in_long_replies() -> None:
    """Recall and false alarms are printed. Mutant: a reply that is read whole, where the insult drowns."""
    pytest.importorskip("profanity_check")
    reader = toxic.reader()
    assert reader is not None
    draw = random.Random(0)
    plain = ["The parcel was sent on Monday morning.", "Please keep the receipt, since you may need it later.",
             "We open at nine and close at six in the evening.", "The water is warm enough to swim in summer.",
             "Add the two numbers, and divide the sum by three.", "The doctor will see you after lunch."]  # fmt: skip
    insults = ["You are a stupid idiot.", "Shut up, you dumb bitch.", "Go fuck yourself.",
               "What a pathetic moron you are.", "I hate you, you piece of shit."]  # fmt: skip
    reply = lambda k: [*draw.choices(plain, k=12), *([insults[k % 5]] if k < 100 else []), *draw.choices(plain, k=12)]
    rows = [Example(f"{k}-1", (ASK,), Reply(Message("assistant", " ".join(reply(k)))), source=f"a:{k}")
            for k in range(300)]  # fmt: skip
    found = [int(e.source[2:]) for _, e, *_ in toxic.told(rows, reader)]
    hits, alarms = sum(k < 100 for k in found), sum(k >= 100 for k in found)
    print(f"planted insults: {hits} of 100 found, {alarms} of 200 clean replies told")
    assert hits >= 95
    assert alarms == 0
    whole = replace(reader, words=10_000)
    blurred = [Example(e.id, e.prompt, Reply(Message("assistant", e.target.text.replace(".", ","))), source=e.source)  # type: ignore[union-attr]
               for e in rows[:100]]  # fmt: skip
    assert len(list(toxic.told(blurred, reader))) >= 95 > len(list(toxic.told(blurred, whole))) + 50
