"""docs/methods/tried.md says what bench/results/tried.jsonl says, and leaves no method out."""

from __future__ import annotations

from typing import Any

from bench import records, tried, tried_page
from bench.tried_cells import CELLS
from tests.unit.test_combinations import methods

METHODS = [m.name for m in methods(tried_page.INDEX.read_text(encoding="utf-8"))]


def line(cell: str, effect: float, **more: Any) -> dict[str, Any]:
    own = {"metric": "accuracy", "base": 0.5, "tuned": 0.5 + effect, "effect": effect, "interval": [-0.1, 0.2]}
    beside = {"effect": effect, "interval": [effect - 0.1, effect + 0.1], "decision": "too few cases"}
    return {
        "date": "2026-11-23", "cell": cell, "method": CELLS[cell].method, "against": CELLS[cell].against,
        "settings": list(CELLS[cell].settings), "machine": {"processor": "A"}, "threads": 1, "updates": 9,
        "seconds": 61.0, "peak_gib": 1.25, "own": own, "beside": {**beside, "num_better": 3, "num_worse": 1}, **more,
    }  # fmt: skip


def rows_of(page: str, method: str) -> list[str]:
    return [row for row in page.splitlines() if row.startswith(f"| [{method}](")]


def test_the_page_is_made_from_the_records() -> None:
    made = tried_page.page(records.lines(tried.RESULTS))
    assert tried_page.PAGE.read_text(encoding="utf-8") == made, "python bench/tried.py --page makes it again"


def test_every_method_is_tried_here_or_elsewhere() -> None:
    """A cell names a method of the index, and a method has a cell or a link."""
    named = {cell.method for cell in CELLS.values()} - {""}
    assert named <= set(METHODS)
    assert [m for m in METHODS if m not in named | tried_page.ELSEWHERE.keys()] == []
    assert all(not cell.against or cell.against in CELLS for cell in CELLS.values())
    order = list(CELLS)
    assert [c.name for c in CELLS.values() if c.against and order.index(c.against) > order.index(c.name)] == []


def test_a_row_has_its_effect_its_laws_and_the_newest_line_of_its_settings() -> None:
    older, other = line("decoder, IA3", 0.3), {**line("decoder, IA3", 0.4), "settings": ["another"]}
    page = tried_page.page([older, line("decoder, IA3", -0.05), other])
    [row] = rows_of(page, "IA3")
    assert "-0.050 [-0.150, +0.050], too few cases" in row
    assert "accuracy 0.500 → 0.450" in row
    assert "`laws/test_peft_methods.py`" in row
    assert "61 s, 1.2 GiB" in row
    assert "not tried" in rows_of(page, "EWC")[0]


def test_the_same_scores_are_no_effect() -> None:
    same = line("decoder, IA3", 0.0)
    same["beside"] |= {"num_better": 0, "num_worse": 0}
    assert "no case comes out otherwise" in rows_of(tried_page.page([same]), "IA3")[0]
