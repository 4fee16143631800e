"""A user's own metric: what it returns, and every way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import InputError
from tunesmith.evals import own
from tunesmith.evals.compare import Cases, compare


def written(folder: Path, text: str) -> str:
    (folder / "my_metrics.py").write_text(text)
    return f"{folder / 'my_metrics.py'}:score"


def test_two_and_three_arguments(tmp_path: Path) -> None:
    found = own.load(written(tmp_path, "def score(output, reference):\n    return float(output == reference)\n"))
    assert found.score("a", "a", "p", "row 1") == 1
    assert (found.metric.low, found.metric.high, found.metric.matters) == (0, 1, 0.02)
    before = found.digest
    found = own.load(written(tmp_path, "def score(output, reference, prompt):\n    return output in prompt\n"))
    assert found.score("a", "", "has a", "row 1") == 1
    assert found.digest != before


def test_range_and_direction_are_declared(tmp_path: Path) -> None:
    text = "RANGE = (0, 10)\nLESS_IS_BETTER = True\ndef score(output, reference):\n    return abs(len(output) - 3)\n"
    found = own.load(written(tmp_path, text))
    base, tuned = (
        [(found.score(output, "", "", str(k)),) for k, output in enumerate(outputs)]
        for outputs in (["x" * (7 + k % 3) for k in range(20)], ["x" * (3 + k % 2) for k in range(20)])
    )
    verdict = compare(Cases([""] * 20, base, tuned), found.metric)
    assert (verdict.decision, verdict.less_is_better) == ("better", True)
    assert verdict.smallest_that_matters == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def score(output, reference):\n    x = 1\n    return x / 0\n", r"my_metrics.py:3: score failed on case "
         r"rows.csv:7: ZeroDivisionError"),
        ("def score(output, reference):\n    return 1.5\n", r"my_metrics.py:1: score returned 1.5 for case rows.csv:7; "
         r"wanted a number from 0 to 1"),
        ("def score(output, reference):\n    return None\n", "returned None"),
        ("def score(output, reference):\n    return float('nan')\n", "returned nan"),
        ("def score(output):\n    return 1\n", r"must take \(output, reference\)"),
        ("def scores(output, reference):\n    return 1\n", "has no function 'score'; it has: scores"),
        ("def score(output, reference)\n    return 1\n", r"my_metrics.py:1: cannot be run: SyntaxError"),
        ("import nothing_of_that_name\n", r"my_metrics.py:1: cannot be run: ModuleNotFoundError"),
        ("RANGE = 3\ndef score(output, reference):\n    return 1\n", "RANGE is 3; wanted the least and the most"),
    ],
)  # fmt: skip
def test_mistakes_name_file_line_and_case(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        own.load(written(tmp_path, text)).score("a", "b", "p", "rows.csv:7")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match="there is no file"):
        own.load("nowhere.py:score")
    assert own.is_own("my_metrics.py:score")
    assert not own.is_own("rouge_l")
