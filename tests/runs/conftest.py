"""Runs of these tests time each thing once, and do not wait for the disk. tests/unit/test_pace.py and tests/faults hold
what is left out here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunesmith.speeds.MOST_TIMES", 1)
        patch.setattr("os.fsync", lambda handle: None)
        yield
