"""docs/glossary.md has the words that reports, plans and the screen print as ours."""

from __future__ import annotations

import re
import typing

from tests.house.source import ROOT, package

from tunesmith.evals.probes import PROBES, STOPPING
from tunesmith.evals.tasks import KINDS
from tunesmith.models.adapters import Adapt
from tunesmith.recipe import parts_of
from tunesmith.report.words import HEADLINES

GLOSSARY = ROOT / "docs" / "glossary.md"
STAGE = re.compile(r'\.stage\(\s*"([a-z]+)"')
# What else stands on the screen, in the report or in messages without being explained there.
PRINTED = (
    "base", "tuned", "dev", "test", "train", "held-out", "case", "effect", "interval", "level", "p", "forest",
    "padded", "layout", "guard probe", "kept, lost, not known", "rejected", "dropped", "taken out", "learned",
    "token", "loss", "nat", "learning rate", "gradient norm", "watched prompt", "unsure", "calibrated", "adapter",
    "merged", "checkpoint", "majority answer", "TF-IDF + logistic regression", "nearest training example",
    "input unchanged", "prompt form", "smallest detectable effect", "gate", "seed",
)  # fmt: skip


def words(text: str) -> set[str]:
    """First column of every table, as written and, where it lists several words, each of them."""
    firsts = re.findall(r"^\| ([^|]+?) \|", text, re.M)
    return {word for first in firsts for word in (first, *first.split(", "))}


def wanted() -> set[str]:
    stages = {name for source in package() for name in STAGE.findall(source.text)}
    assert {"prepare", "baseline", "train", "evaluate", "guards", "export"} <= stages
    methods = set(typing.get_args(parts_of(Adapt)["method"])) - {"lora"}  # which stands there as LoRA
    return {*HEADLINES, *PRINTED, *stages, *methods, *(probe.name for probe in (*PROBES, STOPPING))}


def test_every_word_of_ours_is_explained() -> None:
    found = words(GLOSSARY.read_text(encoding="utf-8"))
    assert sorted(wanted() - found) == []


def test_each_word_stands_there_once_and_in_one_sentence() -> None:
    rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", GLOSSARY.read_text(encoding="utf-8"), re.M)
    firsts = [first for first, _ in rows if first not in ("word", "---")]
    assert sorted({first for first in firsts if firsts.count(first) > 1}) == []
    assert [first for first, meaning in rows if re.search(r"\.\s+[A-Z]", meaning)] == []


def test_tasks_are_named_in_the_glossary_or_the_guide_to_recipes() -> None:
    text = GLOSSARY.read_text(encoding="utf-8") + (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert [name for name in KINDS if name not in text] == []


def test_mutant_word_that_is_missing_is_found() -> None:
    text = GLOSSARY.read_text(encoding="utf-8")
    assert "too few cases" in wanted() - words(text.replace("| too few cases |", "| to few cases |"))
