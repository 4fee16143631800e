"""S2: malformed weights, GGUF files, configurations, tokenizers and adapters are refused in words, within a bounded
memory and time (`malformed.py` holds them, and opens each with a GiB of address space to spare)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.faults import malformed

HARMLESS = (  # what tokenizers itself puts right
    "tokenizer: a token at 2^31",
    "tokenizer: a word at 4 * 10^9",
)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("malformed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.malformed", str(folder)], capture_output=True, text=True, check=False,
        env={**os.environ, "TUNESMITH_CACHE": str(folder / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def test_each_is_refused_in_words(said: dict[str, dict[str, Any]]) -> None:
    wrong = {
        name: one
        for name, one in said.items()
        if "refused" not in one and name not in HARMLESS and not name.startswith("mutant")
    }
    assert wrong == {}
    counts = Counter(name.split(":")[0] for name in said)
    print("S2, files refused:", dict(counts))
    assert counts["safetensors"] == len(malformed.SAFETENSORS) >= 25
    assert counts["gguf"] == len(malformed.GGUF) >= 35
    assert counts["config"] == len(malformed.CONFIGS) >= 20


def test_each_message_names_the_file(said: dict[str, dict[str, Any]]) -> None:
    mute = {n: one["says"] for n, one in said.items() if "says" in one and "/malformed" not in one["says"]}
    assert mute == {}


def test_none_takes_long(said: dict[str, dict[str, Any]]) -> None:
    """Of processor time: a header of 100,000 tensors took 5.07 on a slow day of a small machine. Without the bounds the
    mutant below has no end."""
    assert {n: one["seconds"] for n, one in said.items() if one["seconds"] > 10} == {}


def test_mutant_a_reader_that_believes_the_header_does_not_end(said: dict[str, dict[str, Any]]) -> None:
    assert "raised" in said["mutant: the reader alone"]
    assert any(word in said["mutant: the reader alone"]["raised"] for word in ("TimeoutError", "MemoryError"))


def test_a_whole_file_is_opened(tmp_path: Path) -> None:
    """The look at the header refuses nothing that is right: the GGUF tests open what tunesmith itself writes."""
    whole = malformed.gguf(malformed.ARCH, malformed.number("x", 1), infos=(malformed.tensor(dims=(4, 2)),))
    (tmp_path / "m.gguf").write_bytes(whole)
    malformed.check_bounds(tmp_path / "m.gguf")
