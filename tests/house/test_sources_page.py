"""docs/sources.md claims nothing that is not there: each row names a key or a command that exists, or says "not"."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.house.source import ROOT
from tests.house.test_docs import command_tree, unknown

from tunesmith.recipe import known_keys

PAGE = ROOT / "docs" / "sources.md"
HEAD = ["technique", "source and promise", "here", "result"]
WANTED = (  # what the literature of fine-tuning is asked about; a row that goes missing is a silent gap
    "LoRA", "all weights", "last layers", "Mixout", "gradual unfreezing", "L2-SP", "replay", "DPO", "GRPO", "PPO",
    "contrastive", "prompt tuning", "InstructGPT", "FLAN", "T0", "domain-adaptive", "few-shot", "distillation",
    "NEFTune", "QLoRA", "chain of thought", "calibrated", "self-instruct", "early stopping", "encoder-decoders",
    "active learning",
)  # fmt: skip


def rows(text: str) -> list[list[str]]:
    found = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]
    return [row for row in found if row != HEAD and not set("".join(row)) <= set("- |")]


def untrue(row: list[str], tree: Any) -> str | None:
    """What a row claims that is not there."""
    technique, here, result = row[0], row[2], row[3].rstrip("|").strip()
    if here.startswith("not "):
        return f"{technique}: it is not here, but has a result" if result else None
    named = re.findall(r"`([^`]+)`", here.split("(")[0])
    if not named:
        return f"{technique}: names no key and no command, and does not say not"
    for name in named:
        wrong = (
            unknown(tree, name) if name.startswith("tunesmith ") else None if name in known_keys() else "no such key"
        )
        if wrong:
            return f"{technique}: {name}: {wrong}"
    return None if result else f"{technique}: here, but without a word on its result"


def test_every_row_is_true() -> None:
    tree, found = command_tree(), rows(PAGE.read_text(encoding="utf-8"))
    assert [row for row in found if len(row) != len(HEAD)] == []
    assert [wrong for row in found if (wrong := untrue(row, tree))] == []


def test_no_technique_is_passed_over() -> None:
    text = "\n".join(" ".join(row[:2]) for row in rows(PAGE.read_text(encoding="utf-8"))).casefold()
    assert [name for name in WANTED if name.casefold() not in text] == []


@pytest.mark.parametrize(
    "line",
    [
        "| Mixout | a | `adapt.mixout` | tested |",
        "| merging | a | `tunesmith merge` | tested |",
        "| packing | a | always | tested |",
        "| LoRA | a | `adapt.rank` | |",
        "| DPO | a | not yet | 0.9 accuracy |",
    ],
)
def test_mutant_row_is_found(line: str) -> None:
    [row] = rows(line)
    assert untrue(row, command_tree())
