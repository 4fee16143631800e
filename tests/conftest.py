"""Tests leave nothing in the user's cache: theirs holds the models of the true one, and records of its own."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunesmith.files import cache_dir
from tunesmith.openings import record_path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bf16-units", choices=("none", "AVX512-BF16", "AMX"),
                     help="what `precision: auto` finds, whatever this processor has (else none, so that a test is the "
                          "same everywhere); processes that tests start look for themselves")  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def processor_of_the_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    said = request.config.getoption("--bf16-units")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunesmith.engine.precision.bf16_units", lambda: None if said in (None, "none") else said)
        if said is not None:  # else memory is what it is here
            patch.setattr("tunesmith.footprint.bf16_units", lambda: None if said == "none" else said)
        yield


@pytest.fixture(scope="session", autouse=True)
def imported_once() -> None:
    """All that was imported stays: collections need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests() -> Iterator[None]:
    models = cache_dir() / "models"
    models.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="tunesmith_tests_"))
    (own / "models").symlink_to(models.resolve())
    before = os.environ.get("TUNESMITH_CACHE")
    os.environ["TUNESMITH_CACHE"] = str(own)  # processes that tests start inherit it
    yield
    if before is None:
        del os.environ["TUNESMITH_CACHE"]
    else:
        os.environ["TUNESMITH_CACHE"] = before
    (own / "models").unlink()
    shutil.rmtree(own)


@pytest.fixture(scope="module", autouse=True)
def nobody_looked(cache_of_the_tests: None) -> None:
    """Modules make the same small data sets, and a look of one would stand in the verdicts of the next."""
    record_path().unlink(missing_ok=True)
