"""The number that an answer comes to: "The total is $1,250.50." and "1250.5" are the same answer."""

from __future__ import annotations

import re
from decimal import Decimal

from tunesmith.errors import DataError
from tunesmith.evals.text import as_text

# Thousands in groups of three, or plain digits; a fraction of digits, or one by a stroke (3/4).
NUMBER = re.compile(r"(?<![\w.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/[1-9]\d*)?")
MARKED = re.compile(r"####\s*(.+)|\\boxed\{([^{}]*)\}")  # where a data set marks the answer (GSM8K, MATH)


def last_number(given: object) -> Decimal | None:
    """The marked number, else the last one of the text; None where there is none. English separators."""
    text = as_text(given)
    marked = [a or b for a, b in MARKED.findall(text)]
    found = numbers_of(marked[-1] if marked else text)
    return found[-1] if found else None


def numbers_of(text: str) -> list[Decimal]:
    """All numbers of a text, in their order. English separators."""
    parts = [found.replace(",", "").replace("−", "-").partition("/") for found in NUMBER.findall(text)]
    return [Decimal(whole) / Decimal(under) if under else Decimal(whole) for whole, _, under in parts]


def right(output: object, reference: object) -> float:
    """1 where both come to the same number, to one part in a million. A reference without a number is an error."""
    wanted, got = last_number(reference), last_number(output)
    if wanted is None:
        raise DataError(
            f"the reference {as_text(reference)[-60:]!r} holds no number, which the metric numeric compares with; "
            "mend the row, or choose exact_match or token_f1 as the metric."
        )
    return float(got is not None and abs(got - wanted) <= abs(wanted) * Decimal("1e-6"))
