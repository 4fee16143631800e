"""`tunesmith quickstart`: the main job on the embedded model and the inbox of a made-up shop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tunesmith.data import shop
from tunesmith.errors import InputError
from tunesmith.folder import Teller
from tunesmith.models.catalogue import fetch
from tunesmith.recipe import parse
from tunesmith.run import Occasion, run

MODEL = "smollm2-135m-instruct"
DATA = "quickstart_data"
BUDGETS_S = {
    "prepare": 30,  # most of it: memory counted, speed measured
    "baseline": 110,
    "train": 65,
    "evaluate": 85,
    "robustness": 1,
    "export": 25,
}  # two AVX2 cores; 316 s in all, of which idle ones take 270
MADE = "the data is made by a program: the inbox of a shop that does not exist. It says nothing about yours."


def settings(data: Path) -> dict[str, Any]:
    """Sized for two slow cores and about five minutes: ten updates, 300 held-out cases."""
    return {
        "model": MODEL,
        "data": {"train": [str(data)], "max_tokens": 512},
        "task": {"name": "extract", "instruction": shop.INSTRUCTION},
        "train": {
            "lr": 2e-3,
            "epochs": 1,
            "max_updates": 10,
            "update_tokens": 2048,
            "every_checkpoint": 10,
            "rehearsal": False,  # half a minute; all of it takes about five anyway
            "watch": 0,  # seven seconds each time
        },
        "evals": {
            "max_cases": 300,
            "max_dev_cases": 8,
            "few_shot": 4,
            "max_new_tokens": 40,
            "rows": 150,
            "guards": "off",  # a minute and more on two cores
            "explain_cases": 0,  # `tunesmith explain` looks into a case afterwards
        },
        "export": ["adapter"],  # `tunesmith export` makes the others
    }


def quickstart(out: Path, tell: Teller, *, resume: bool) -> tuple[dict[str, Any], Path]:
    """(verdict, run folder). The data is made, and says so."""
    if out.exists() and not resume and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already: add --resume to go on with it, or name a new folder with --out")
    tell.say(MADE)
    tell.step(0, 1, f"{MODEL} fetched, where it is not here yet")
    fetch(MODEL)
    tell.step(1, 1, f"{MODEL} fetched, where it is not here yet")
    data = out.parent / DATA
    shop.write(data)
    chosen = settings(data)
    text, occasion = yaml.safe_dump(chosen, sort_keys=False), Occasion(MADE, BUDGETS_S)
    return run(parse(chosen), text, out, tell, resume=resume, occasion=occasion), out
