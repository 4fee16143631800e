"""Runs as a tree, and a ledger that is handed on to a run with new data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tunesmith.data.split import Ledger, split
from tunesmith.errors import DataError
from tunesmith.lineage import tree
from tunesmith.types import Example, Message, Reply


@dataclass(frozen=True)
class Row:
    id: str
    parent_id: str = ""


def lines(*rows: Row) -> list[str]:
    return [lead + row.id for lead, row in tree(rows)]


def test_children_stand_behind_their_parent() -> None:
    rows = [Row("d", "b"), Row("c", "a"), Row("b", "a"), Row("a"), Row("z", "gone"), Row("")]
    assert lines(*rows) == ["a", "├─ c", "└─ b", "   └─ d", "z", ""]
    assert lines(Row("b", "a"), Row("c", "b"), Row("a"), Row("e", "a")) == ["a", "├─ b", "│  └─ c", "└─ e"]


def test_no_run_is_lost_or_told_twice() -> None:
    """In a ring, of a copied folder, and of runs that know nothing of themselves."""
    assert lines(Row("a", "b"), Row("b", "a")) == ["a", "└─ b"]
    assert lines(Row("a"), Row("a"), Row("b", "a")) == ["a", "└─ b", "a"]
    assert lines(Row(""), Row(""), Row("a", "")) == ["", "", "a"]
    assert lines(Row("a", "a")) == ["a"]


def examples(*prompts: str) -> list[Example]:
    return [
        Example(f"{p}-1", (Message("user", p),), Reply(Message("assistant", "x")), source=f"f:{p}") for p in prompts
    ]


def test_what_was_held_out_is_learned_from_nowhere(tmp_path: Path) -> None:
    old = split(examples(*map(str, range(40))), 0.2, 0.3, "s")
    old.ledger.save(tmp_path / "ledger.json")
    handed = Ledger.load(tmp_path / "ledger.json").handed_on()
    tests = {e.id for e in old.test}
    mixed = examples(*map(str, range(20, 80)))
    new = split(mixed, 0.2, 0.3, "s", ledger=handed)
    held = tests & {e.id for e in mixed}
    assert held
    assert {m.example_id for m in new.moved} == held
    assert {m.stands_in for m in new.moved} == {"old"}
    assert not tests & {e.id for part in (new.train, new.dev, new.test) for e in part}
    trained = {e.id for e in old.train}
    assert not trained & {e.id for part in (new.dev, new.test) for e in part}
    new.ledger.save(tmp_path / "ledger.json")
    again = split(mixed, 0.2, 0.3, "s", ledger=Ledger.load(tmp_path / "ledger.json"))  # a resume
    assert [[e.id for e in p] for p in (again.train, again.dev, again.test)] == [
        [e.id for e in p] for p in (new.train, new.dev, new.test)
    ]
    more = [*mixed, *examples(*map(str, range(100, 140)))]
    third = split(more, 0.2, 0.3, "s", ledger=new.ledger.handed_on())
    assert not {e.id for p in (third.train, third.dev, third.test) for e in p} & {*tests, *(e.id for e in new.test)}
    mutant = split(mixed, 0.2, 0.3, "s", ledger=old.ledger)
    assert tests & {e.id for e in mutant.test}


def test_old_cases_of_an_explicit_file_are_taken_out_too() -> None:
    old = split(examples(*map(str, range(40))), 0.2, 0.3, "s")
    handed, held = old.ledger.handed_on(), list(old.test)
    new = split(examples("a", "b", "c"), 0.0, 0.0, "s", ledger=handed, given={"test": [*held[:2], *examples("d", "e")]})
    assert [e.id for e in new.test] == ["d-1", "e-1"]
    assert [(m.out_of, m.stands_in) for m in new.moved] == [("test", "old")] * 2
    with pytest.raises(DataError, match="are asked anyway"):
        split(examples("a"), 0.0, 0.0, "s", ledger=handed, given={"test": held})
    with pytest.raises(DataError, match="stand in train in the split ledger"):
        split(examples("a"), 0.0, 0.0, "s", ledger=handed, given={"test": [*examples("d"), old.train[0]]})
