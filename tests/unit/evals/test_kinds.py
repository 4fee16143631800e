"""Kinds of error: each is seen where it is planted and not in a right answer; cured is not called caused."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.evals.compare import Cases, Rules, measure
from tunesmith.evals.failing import HAS, Side, by_kind, fails, line
from tunesmith.evals.kinds import TABLES, Said, kinds, table_of
from tunesmith.evals.metrics import METRICS

PROMPT = "The parcel of order 4417 was sent on Monday from Leeds and should have come by Thursday at noon. What now?"
WANTED = "Please wait until Friday, and write to us again when order 4417 has not come by then."
LABELS = ("refund", "delivery")


def said(answer: str, reference: str = WANTED, *, stopped: bool = True, prompt: str = PROMPT) -> Said:
    return Said(prompt, reference, answer, stopped)


TEXTS = [
    ("empty", said(" \n")),
    ("cut off", said(WANTED, stopped=False)),
    ("runs in circles", said("It will come. " + "It is late. " * 6)),
    ("refuses", said("I'm sorry, but I cannot help with that.")),
    ("other script", said("Пожалуйста, подождите до пятницы.")),
    ("other language", said("Bitte warten Sie bis Freitag, und das ist nicht der erste Fall mit dem Auftrag 4417.")),
    ("other form", said(WANTED.upper().rstrip("."))),
    ("more around it", said(f"Sure! {WANTED} Have a nice day.")),
    ("too long", said(" ".join(f"word{k} and" for k in range(40)))),
    ("too short", said("Please wait.")),
    ("copied from the prompt", said("The parcel of order 4417 was sent on Monday from Leeds and should have come")),
    ("number from nowhere", said("Please wait for 23 days, and write to us then.")),
    ("name from nowhere", said("Please write to our office in Manchester about it.")),
]
NUMBERS = [
    ("no number", "none", "12"),
    ("right number elsewhere", "12 apples, of 30", "12"),
    ("other sign", "-12", "12"),
    ("times ten", "1.20", "12"),
    ("times ten", "12,000", "12"),
]
JSONS = [
    ("not JSON", "order 4417"),
    ("JSON with text around it", 'Here: {"order": "4417", "who": {"name": "Ann"}}'),
    ("order missing", '{"who": {"name": "Ann"}}'),
    ("who.name wrong", '{"order": "4417", "who": {"name": "Bob"}}'),
    ("a field is invented", '{"order": "4417", "who": {"name": "Ann", "age": 3}}'),
]


@pytest.mark.parametrize(("name", "case"), TEXTS)
def test_a_planted_kind_is_seen_in_a_text(name: str, case: Said) -> None:
    assert name in kinds(case, "text", ())


def test_every_kind_of_a_text_is_planted_here_and_a_right_answer_has_none() -> None:
    assert {name for name, _ in TEXTS} == {kind.name for kind in TABLES["text"]}
    for answer in ("Please wait until Friday, then write to us again about order 4417.", "Wait until Friday, please."):
        assert set(kinds(said(answer), "text", ())) <= {"too short"}
    assert kinds(said("ja", "nein"), "text", ()) == {}  # too little to tell a language or a length by
    assert "other form" not in kinds(said("-5", "5"), "text", ())
    assert "copied from the prompt" not in kinds(
        said(PROMPT, PROMPT), "text", ()
    )  # the reference is the same quotation
    assert "other script" not in kinds(said("東京です。", "これはペンです。"), "text", ())


@pytest.mark.parametrize(("name", "answer", "reference"), NUMBERS)
def test_a_planted_kind_is_seen_in_a_number(name: str, answer: str, reference: str) -> None:
    assert name in kinds(said(answer, reference), "number", ())
    assert kinds(said("13", reference), "number", ()) == {}


@pytest.mark.parametrize(("name", "answer"), JSONS)
def test_a_planted_kind_is_seen_in_json(name: str, answer: str) -> None:
    reference = '{"order": "4417", "who": {"name": "Ann"}}'
    assert list(kinds(said(answer, reference), "json", ())) == [name]


def test_labels_are_confused_or_none() -> None:
    assert list(kinds(said("refund", "delivery"), "label", LABELS)) == ["delivery taken for refund"]
    assert list(kinds(said("a refund?", "delivery"), "label", LABELS)) == ["no label"]


def test_of_several_labels_some_are_missing_or_given_wrongly() -> None:
    found = kinds(said("delivery, price", "refund, delivery"), "labels", ())
    assert list(found) == ["refund missing", "price given wrongly"]
    assert not kinds(said("refund, delivery", "delivery; refund"), "labels", ())


def test_which_table_and_when_a_case_fails() -> None:
    assert table_of("multilabel", "label_set_f1", ["refund"], LABELS) == "labels"
    assert table_of("classify", "accuracy", ["refund"], LABELS) == "label"
    assert table_of("extract", "json_fields", ['{"a": 1}', "{}"], ()) == "json"
    assert table_of("generate", "numeric", ["4"], ()) == "number"
    assert [table_of(task, "chrf", ["x"], ()) for task in ("translate", "chat")] == ["translate", "text"]
    assert line(METRICS["exact_match"], is_json=False) == 1
    assert line(METRICS["json_fields"], is_json=True) == 1
    assert line(METRICS["rouge_l"], is_json=False) == 0.5
    assert line(METRICS["chrf"], is_json=False) == 50
    assert fails([0.4, 0.5, None], 0.5) == [True, False, False]


def sides(base: list[str], tuned: list[str], references: list[str]) -> tuple[Side, Side]:
    made = [[said(a, r) for a, r in zip(answers, references)] for answers in (base, tuned)]
    return tuple(Side(rows, [r.answer != r.reference for r in rows]) for rows in made)  # type: ignore[return-value]


def test_cured_and_caused_are_paired_counts() -> None:
    """The base calls 20 deliveries refunds, and tuning mends 18 of them; it calls 8 refunds deliveries instead.
    A mutant that turns base and tuned round, or counts all cases of a kind as caused, fails here."""
    references = ["delivery"] * 30 + ["refund"] * 30
    base = ["refund"] * 20 + ["delivery"] * 10 + ["refund"] * 30
    tuned = ["refund"] * 2 + ["delivery"] * 28 + ["delivery"] * 8 + ["refund"] * 22
    ids = [f"c{k}" for k in range(60)]
    found = by_kind(ids, [None] * 60, sides(base, tuned, references), "label", LABELS, 0.05)
    assert (found["num_cases"], found["num_base"], found["num_tuned"], found["num_unnamed"]) == (60, 20, 10, 0)
    caused, cured = found["kinds"]  # the commonest of the tuned answers first
    assert (caused["name"], caused["num_caused"], caused["num_cured"]) == ("refund taken for delivery", 8, 0)
    assert caused["share"] == pytest.approx(0.8)
    assert caused["change"] == pytest.approx(8 / 60)
    assert caused["change_interval"][0] > 0
    assert caused["example_ids"] == tuple(ids[30:38])
    assert (cured["name"], cured["num_caused"], cured["num_cured"]) == ("delivery taken for refund", 0, 18)
    assert cured["change_interval"][1] < 0
    assert cured["example_ids"] == ("c0", "c1")
    assert cured["interval"][0] < 0.2 < cured["interval"][1]
    grouped = by_kind(ids, ["one"] * 30 + ["two"] * 30, sides(base, tuned, references), "label", LABELS, 0.05)
    assert grouped["kinds"][0]["change_interval"][0] <= 0  # two customers are no evidence


def test_intervals_are_those_of_all_kinds_together() -> None:
    """Six kinds are looked at, so each interval is at a sixth of the level. A mutant at the level itself fails here."""
    rng, labels = np.random.default_rng(0), ("a", "b", "c")
    references = [str(r) for r in rng.choice(labels, 90)]
    base, tuned = ([str(rng.choice(labels)) if rng.random() < 0.6 else r for r in references] for _ in range(2))
    found = by_kind([str(k) for k in range(90)], [None] * 90, sides(base, tuned, references), "label", labels, 0.06)
    assert len(found["kinds"]) == 6
    row = found["kinds"][0]
    has = [[f"{r} taken for {a}" == row["name"] for a, r in zip(said, references)] for said in (base, tuned)]
    alone = measure(Cases(references, *has), HAS, Rules(alpha=0.01))
    assert row["change_interval"] == alone.interval
    assert row["change"] == alone.effect


def test_what_no_kind_names_is_named_by_its_words() -> None:
    """Answers of like length in which "noon" became "dusk", or a colour is left out."""
    references = [f"come at noon w{k % 7}" for k in range(20)] + [f"a red door x{k % 7}" for k in range(20)]
    tuned = [r.replace("noon", "dusk").replace("red", "blue") for r in references]
    found = by_kind([str(k) for k in range(40)], [None] * 40, sides(references, tuned, references), "text", (), 0.05)
    named = {row["name"]: row for row in found["kinds"]}
    assert len(named) >= 2
    assert all("lacks" in name or "brings" in name for name in named)
    assert {w for name in named for w in name.replace(",", "").split()} >= {"noon", "dusk", "red", "blue"}
    assert found["num_unnamed"] == 0
    assert sum(row["num_caused"] for row in found["kinds"]) == 40
