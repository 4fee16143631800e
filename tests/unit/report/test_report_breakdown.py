"""Right answers by label and by field, counted by hand; each count opens the cases it counted."""

from __future__ import annotations

from pathlib import Path

from tests.unit.report.page_reader import read_page
from tests.unit.report.run_folders import case, make

from tunesmith.report import cases, html
from tunesmith.report.breakdown import breakdown


def test_fields_by_hand() -> None:
    rows = [
        case(0, 0.5, 1.0, reference='{"a": 1, "b": "x"}', base_output='{"a": 1}', tuned_output='{"b": "x", "a": 1}'),
        case(1, 0.0, 0.5, reference='{"a": 2, "b": null}', base_output="no JSON", tuned_output='{"a": 1, "b": null}'),
        case(2, 0.0, 0.0, reference='{"a": true}', base_output='{"a": "true"}', tuned_output='{"c": true}'),
    ]
    found = breakdown([cases.read_case(r) for r in rows])
    assert found.title == "Field"
    assert [(p.name, p.num, p.base_right, p.tuned_right) for p in found.parts] == [("a", 3, 1, 1), ("b", 2, 0, 2)]
    assert found.tags["id0000"] == ["p0", "p0b", "p0t", "p1", "p1t"]
    assert found.tags["id0002"] == ["p0", "p0x"]


def test_labels_by_hand() -> None:
    rows = [case(i, float(i % 2), 1.0, reference="bad" if i < 4 else "good") for i in range(9)]
    found = breakdown([cases.read_case(r) for r in rows])
    assert [(p.name, p.num, p.base_right, p.tuned_right) for p in found.parts] == [("bad", 4, 2, 4), ("good", 5, 2, 5)]


def test_free_texts_have_no_parts() -> None:
    rows = [case(i, 0.0, 1.0, reference=f"a text of its own, {i}") for i in range(9)]
    assert breakdown([cases.read_case(r) for r in rows]).title == ""
    assert breakdown([]).parts == ()
    graded = [case(i, 0.25, 0.5, reference="ab"[i % 2]) for i in range(9)]
    assert breakdown([cases.read_case(r) for r in graded]).parts == ()


def test_each_count_opens_as_many_cases(tmp_path: Path) -> None:
    rows = [case(i, float(i % 2), float(i % 3 > 0), reference="bad" if i < 4 else "good") for i in range(9)]
    page = read_page(html.write(make(tmp_path, cases=rows)).read_text(encoding="utf-8"))
    tags = [a["data-tags"].split() for a in page.having("article", class_="case")]
    for row, number in (("bad", 0), ("good", 1)):
        shown = page.row(row)[1:4]
        assert [int(n) for n in shown] == [sum(f"p{number}{end}" in t for t in tags) for end in ("", "b", "t")]
    assert page.row("bad") == ["bad", "4", "2", "2", "+0"]
