"""What becomes of freed memory."""

from __future__ import annotations

import platform
import sys
from typing import Any

import psutil
import pytest
import torch
from tests.laws.sessions import ADAPTS, base_of, records

from tunesmith.data.pack import forest
from tunesmith.engine import memory
from tunesmith.engine.memory import KEPT, RETURNED, Freed
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.generate.limits import Limits
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
    batch = forest(records())
    session.forward_backward("t", [batch], SFT(), 1.0)
    session.forward_backward("t", [batch], SFT(), 1.0)
    assert len(told) == (2 if freed is ALWAYS else 0)
    session.logprobs("t", [batch, batch])
    assert len(told) == (4 if freed is ALWAYS else 0)  # behind each batch
    session.sample("t", [[3, 4, 5]], Limits(2, ()), decode=str)
    assert len(told) == (5 if freed is ALWAYS else 0)


@pytest.mark.parametrize("changes", [{"platform": "win32"}, {"libc": None}])
def test_other_systems_and_allocators_are_left_alone(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No symbol of glibc is looked up on another system, and none that a C library lacks is called."""
    if "platform" in changes:
        monkeypatch.setattr(sys, "platform", changes["platform"])
        monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("a C library was opened"))
    else:
        monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed_memory()
    assert not memory.give_back_freed_memory()
    memory.trim_freed_memory()


def test_words() -> None:
    assert [f.word for f in (KEPT, NEVER, RETURNED)] == ["kept", "trimmed", "returned"]
    assert [f.is_short for f in (KEPT, NEVER, RETURNED)] == [False, True, True]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its allocator")
def test_holes_go_back() -> None:
    memory.keep_freed_memory()
    mine = [torch.ones(2**18) for _ in range(256)]  # a MiB each
    mine = mine[::8]
    before = psutil.Process().memory_info().rss
    memory.trim_freed_memory()
    assert before - psutil.Process().memory_info().rss > 150 * 2**20
    assert len(mine) == 32
