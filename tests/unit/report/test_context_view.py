"""What the page says of scores/context.json."""

from __future__ import annotations

from typing import Any

from tunesmith.long_context import note
from tunesmith.report.context_view import context


def facts(**changes: Any) -> dict[str, Any]:
    loss = {"base": [3.0, 5.0, None], "stretched": [3.5, 3.5, None], "tuned": [2.0, 2.5, None]}
    found = {"base": [True, False], "stretched": [False, False], "tuned": [True, True]}
    return {
        "own_tokens": 1000, "tokens": 3000, "method": "ntk",
        "loss": {"ends": [0, 1000, 2000, 3000], "num_tokens": [10, 5, 0], "nats_per_token": loss, "num_texts": 1,
                 "longest": 1600},
        "passkey": {"lengths": [1000, 3000], "depths": [0.0, 0.5], "asked": [[1000, 0.0], [3000, 0.5]],
                    "num_planned": 4, "found": found},
        **changes,
    }  # fmt: skip


def test_the_tables() -> None:
    view = context(facts())
    assert "From 1,000 to 3,000 tokens by NTK-aware scaling." in view.said[0]
    assert "1,600 tokens at most" in view.said[1]
    assert "2 long texts had no time" in view.said[2]
    loss, keys = view.sheets
    assert loss.rows == (
        ("0 to 1,000", "10", "3.00", "3.50", "2.00"),
        ("1,000 to 2,000, beyond the base's own", "5", "5.00", "3.50", "2.50"),
    )
    assert keys.rows == (("1,000", "1 of 1", "0 of 1", "1 of 1"), ("3,000", "0 of 1", "0 of 1", "1 of 1"))


def test_where_keys_were_found() -> None:
    """Two of each depth: a depth is named where both were found."""
    asked = [[1000, d] for d in (0.0, 0.5, 1.0) for _ in range(2)]
    found = {"base": [True] * 6, "stretched": [True, True, True, False, False, False], "tuned": [False] * 6}
    passkey = {"lengths": [1000], "depths": [0.0, 0.5, 1.0], "asked": asked, "num_planned": 6, "found": found}
    assert context(facts(passkey=passkey)).sheets[1].rows == (("1,000", "6 of 6", "3 of 6, at 0%", "0 of 6"),)


def test_nothing_is_said_of_what_was_not_measured() -> None:
    none = {"ends": [0, 1000], "num_tokens": [], "nats_per_token": {}, "num_texts": 0, "longest": 0}
    view = context(facts(loss=none))
    assert [sheet.title for sheet in view.sheets] == ["Passkeys found"]


def test_the_note_of_the_verdict() -> None:
    """Means are of tokens, not of buckets."""
    assert note(facts()) == (
        "context 1,000 → 3,000 tokens by ntk (scores/context.json); loss within the base's own context 3.000 → 2.000 "
        "nats per token (3.500 with the new angles alone); loss beyond the base's own context 5.000 → 2.500 nats per "
        "token (3.500 with the new angles alone); passkeys found 1 → 2 of 2 (0 with the angles alone)."
    )
    assert note(None) == ""
