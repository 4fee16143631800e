"""Times as files write them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any


def stamp(value: Any) -> float:
    """A number, a year, a date, or ISO 8601. Times without a zone count as UTC: only their order matters."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"\d{9,13}(\.\d+)?", text):
            return float(text)
        if re.fullmatch(r"\d{4}", text):
            text += "-01-01"
        value = datetime.fromisoformat(text)
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is no time")
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
