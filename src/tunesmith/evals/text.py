"""How an output or a reference is read as text, the same way by every metric."""

from __future__ import annotations


def as_text(given: object) -> str:
    """None and NaN (a table's missing value) are the empty text; what is no string is str() of it."""
    if isinstance(given, str):
        return given
    if given is None or (isinstance(given, float) and given != given):
        return ""
    return str(given)


def folded(given: object) -> str:
    """Stripped, with each run of white space as one space."""
    return " ".join(as_text(given).split())


def numbers(measured: object) -> tuple[float, ...]:
    """What was measured of an answer, where a metric does not read its text."""
    assert isinstance(measured, (tuple, list)), f"this metric needs numbers, and got {measured!r:.60}"
    return tuple(map(float, measured))
