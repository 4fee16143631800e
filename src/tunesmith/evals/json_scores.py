"""Scores of replies that are JSON objects. A reply is right or wrong as a program would read it: no fences, no text
around it.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from tunesmith.errors import DataError
from tunesmith.evals.text import as_text


def refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")  # NaN and Infinity, which Python's parser would let through


def parsed(given: object) -> dict[str, Any] | None:
    """The JSON object that a text is, or None: what does not parse is a wrong answer, and scored as such."""
    try:
        value = json.loads(as_text(given), parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def wanted(reference: object) -> dict[str, Any]:
    value = parsed(reference)
    if value is None:
        raise DataError(
            f"the reference {as_text(reference)[:60]!r} is not a JSON object, which the json metrics compare with; "
            "mend the row, or choose exact_match or token_f1 as the metric."
        )
    return value


def same(a: Any, b: Any) -> bool:
    """Equal as JSON: true is not 1, 1 is 1.0, the order of keys does not matter and that of lists does."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return bool(a == b)


def valid(output: object, reference: object) -> float:
    """1 where the output is a JSON object, whatever is in it."""
    return float(parsed(output) is not None)


def exact(output: object, reference: object) -> float:
    """1 where the output is the reference's object: all its fields and no other."""
    right, got = wanted(reference), parsed(output)
    return float(got is not None and same(got, right))


def fields(output: object, reference: object) -> float:
    """Share of the reference's fields that the output has with an equal value; 0 when it is no JSON object.

    Fields that the output invents do not count; `exact` sees them. A reference without fields: 1 for an empty object,
    else 0.
    """
    right, got = wanted(reference), parsed(output)
    if got is None:
        return 0.0
    if not right:
        return float(not got)
    return sum(key in got and same(got[key], value) for key, value in right.items()) / len(right)
