"""What becomes of freed memory."""

from __future__ import annotations

import sys

import psutil
import pytest
import torch
from tests.laws.sessions import ADAPTS, base_of, records

from tunesmith.data.pack import forest
from tunesmith.engine import memory
from tunesmith.engine.memory import KEPT, RETURNED, Freed
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.objectives.sft import SFT

ALWAYS, NEVER = Freed(most_gib=0.0), Freed(most_gib=1e6)


@pytest.mark.parametrize("freed", [KEPT, NEVER, ALWAYS])
def test_what_lies_free_goes_back_when_the_process_has_more_than_was_said(
    freed: Freed, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(memory, "trim_freed_memory", lambda: told.append(1))
    session = Session(base_of(), freed=freed)
    session.create("t", Spec(ADAPTS["lora"]))
    for _ in range(2):
        session.forward_backward("t", [forest(records())], SFT(), 1.0)
    assert len(told) == (2 if freed is ALWAYS else 0)


def test_words() -> None:
    assert [f.word for f in (KEPT, NEVER, RETURNED)] == ["kept", "trimmed", "returned"]
    assert [f.is_short for f in (KEPT, NEVER, RETURNED)] == [False, True, True]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_holes_go_back() -> None:
    memory.keep_freed_memory()
    mine = [torch.ones(2**18) for _ in range(256)]  # a MiB each
    mine = mine[::8]
    before = psutil.Process().memory_info().rss
    memory.trim_freed_memory()
    assert before - psutil.Process().memory_info().rss > 150 * 2**20
    assert len(mine) == 32
