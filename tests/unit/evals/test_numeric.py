"""The number that an answer comes to."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tunesmith.errors import DataError
from tunesmith.evals.metrics import METRICS
from tunesmith.evals.numeric import last_number, right


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"),
        ("The total is $1,250.50.", "1250.50"),
        ("3 apples and 4 pears make 7.", "7"),
        ("It is -3 degrees", "-3"),
        ("It is \u22123 degrees", "-3"),
        ("so 2 + 2 = 4\n#### 18", "18"),
        ("#### 1,000 (see page 3)", "3"),  # the marked line as it stands
        (r"thus \boxed{5} and not 6", "5"),
        ("about 1/2 of it", "0.5"),
        ("10%", "10"),
        ("in 2,024 of 12,345,678", "12345678"),
        ("v2.0 of model7", None),  # parts of words are no numbers
        ("none at all", None),
        ("", None),
    ],
)
def test_the_last_or_the_marked_number(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


def test_right_or_wrong() -> None:
    assert right("That makes 1,250.5 dollars.", "#### 1250.50") == 1
    assert right("First 18, then 20", "#### 18") == 0  # the last number counts, not any
    assert right("no idea", "3") == 0
    assert right("0.333333333", "1/3") == 1
    assert right("0", "0.0") == 1
    assert METRICS["numeric"].kind == "binary"


def test_a_reference_without_a_number_is_an_error() -> None:
    with pytest.raises(DataError, match="holds no number"):
        right("3", "three")
