"""The page of an audit: counts, rows and plots as in audit.json, and nothing in a row acts on it."""

from __future__ import annotations

import re

from tunesmith.report.audit_page import bars, histogram, page, share

EVIL = "<script>alert(1)</script>"


def found(num_findings: int = 1) -> dict:
    one = {"kind": "email", "what": "rows hold e-mail addresses", "count": 1234, "of": 5000, "share": 0.2468,
           "why": "why so", "mend": "do that", "command": "tunesmith audit --fix <new>",
           "rows": [{"source": "a.jsonl:7", "text": EVIL, "note": "like b"}]}  # fmt: skip
    return {
        "rows": 5000, "accepted": 5000, "rejected": {"count": 0, "rows": []},
        "splits": {"train": 4000, "dev": 500, "test": 500},
        "tokens": {"total": 9, "learned": 3, "learned_frac": 0.333, "max_tokens": 1024, "context_tokens": 8192,
                   "histogram": {"edges": [1, 2, 3], "counts": [1, 4]}},
        "classes": {"yes": {"train": 30, "dev": 0, "test": 1}, EVIL: {"train": 10, "dev": 0, "test": 1}},
        "understood": {"notices": ["look here"]}, "findings": [one] * num_findings,
        "languages": {"prompts": {"English": 40, "not known": 2}},
        "not_looked_for": ["toxic words were not looked for"],
    }  # fmt: skip


def test_findings_stand_on_the_page_with_their_rows() -> None:
    html = page(found(), "rows.jsonl")
    assert "1 kinds of findings in 5,000 rows" in html
    for words in (
        "1,234 of 5,000 (24.7%) rows hold e-mail addresses",
        "Why so.",
        "do that: <code>tunesmith audit --fix &lt;new&gt;</code>",
        "a.jsonl:7",
        "like b",
        "look here",
        "up to 1,024 are let in, and the model reads 8,192",
        "Languages of prompts",
        "Toxic words were not looked for.",
    ):
        assert words in html
    assert EVIL not in html
    assert html.count("&lt;script&gt;") == 2


def test_a_clean_file_says_so() -> None:
    assert "Nothing was found in 5,000 rows" in page(found(0), "rows.jsonl")


def test_bars_are_as_long_as_their_values() -> None:
    drawn = str(bars([("a", 4.0, "4"), ("b", 1.0, "1")], "label"))
    wide = [float(x) for x in re.findall(r'width="([\d.]+)"', drawn)]
    assert wide[0] == 4 * wide[1]
    assert bars([], "label") is None
    assert "5 more in audit.json" in str(bars([(f"l{k}", 1.0, "1") for k in range(35)], "label"))


def test_columns_are_as_high_as_their_counts() -> None:
    drawn = str(histogram({"edges": [1, 2, 3], "counts": [1, 4]}))
    high = [float(x) for x in re.findall(r'height="([\d.]+)"', drawn)]
    assert high[1] == 4 * high[0]
    assert histogram({"edges": [0, 1], "counts": [0]}) is None


def test_small_shares_keep_a_digit() -> None:
    assert [share(v) for v in (0.5, 0.0123, 0.0001)] == ["50.0%", "1.2%", "0.010%"]
