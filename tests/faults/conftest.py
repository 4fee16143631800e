"""The counts of each letter, printed under the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults import jobs

Counted = Callable[[str, str], None]


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> Counted:
    """Say what was counted for a letter of R1 to R20."""
    return lambda letter, text: record_property("counted", f"{letter}: {text}")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a job ends as that nothing happened to."""
    return jobs.whole(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]
    lines = {text for r in reports if r.when == "call" for name, text in r.user_properties if name == "counted"}
    if lines:
        terminalreporter.section("faults that were caused, and what came of them")
        for line in sorted(lines, key=lambda text: (int("".join(filter(str.isdigit, text.split(":")[0])) or 0), text)):
            terminalreporter.write_line(line)
