"""The embedded model: fetched, converted, probed, tuned, resumed, exported. A true pre-trained model, on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tunesmith.data import shop
from tunesmith.data.render import Renderer
from tunesmith.engine.session import Session
from tunesmith.folder import Silent
from tunesmith.generate.limits import Limits
from tunesmith.generate.plain import generate_plain
from tunesmith.models.catalogue import EMBEDDED, fetch
from tunesmith.models.load import Base, load
from tunesmith.quickstart import settings
from tunesmith.recipe import parse
from tunesmith.run import run
from tunesmith.types import Message

NAME = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def base() -> Base:
    fetch(NAME)
    return load(NAME)


def test_it_takes_the_forest_layout_and_knows_its_digest(base: Base) -> None:
    assert base.layout == "forest"
    assert base.probe.largest_diff < 1e-5
    assert base.located.note == EMBEDDED[NAME].note
    assert len(base.digest) == 64
    assert sum(p.numel() for p in base.model.parameters()) == 134_515_008


def test_it_answers_and_stops_as_in_plain_transformers(base: Base) -> None:
    renderer = Renderer(base.tokenizer, 512)
    questions = ("What is the capital of France?", "Name three colours.", "What is 2 + 2?")
    prompts = [renderer.prompt([Message("user", q)]) for q in questions]
    limits = Limits(24, renderer.stop_ids)
    ours = Session(base).sample(None, prompts, limits, decode=renderer.text)
    assert "Paris" in ours[0].text
    assert ours[0].stopped
    plain = generate_plain(
        AutoModelForCausalLM.from_pretrained(base.located.folder, dtype=torch.float32), prompts, limits, renderer.text
    )
    assert [c.tokens for c in ours] == [c.tokens for c in plain]


def test_the_main_job_learns_and_resumes(tmp_path: Path) -> None:
    """A short quickstart: 8 updates on the shop's inbox beat the base on 30 cases; the run checks its exports."""
    shop.write(tmp_path / "data")
    chosen = settings(tmp_path / "data")
    chosen["train"] |= {"max_updates": 8, "every_checkpoint": 4}
    chosen["export"] = ["adapter", "merged"]
    chosen["evals"] |= {"max_cases": 30, "max_dev_cases": 4, "few_shot": 2, "budget_s": 300}
    verdict = run(parse(chosen), yaml.safe_dump(chosen), tmp_path / "out", Silent())
    assert verdict["decision"] == "better", verdict["claim"]
    rows = [json.loads(x) for x in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    dev = [r["dev_loss"] for r in rows if "dev_loss" in r]
    assert dev[-1] < 0.6 * dev[0]
    exported = json.loads((tmp_path / "out" / "export.json").read_text())
    assert exported["adapter"]["same_text"]
    assert exported["merged"]["same_text"]
