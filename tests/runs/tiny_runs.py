"""A tiny model folder and small data sets, for runs from end to end in seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import tiny
from tests.data import chat, pieces

from tunesmith.folder import Silent
from tunesmith.recipe import parse
from tunesmith.run import run

WORDS = ["order", "clips", "dog", "fox", "April", "May", "where", "sold", "brown", "quick", "lazy", "jumps"]


def model_folder(folder: Path, family: str = "llama", **shape: Any) -> Path:
    """A model that transformers opens, with a small tokenizer and ChatML; an encoder-decoder without a template."""
    tokenizer = chat.tokenizer("chatml")
    stop = tokenizer.eos_token_id
    changes: dict[str, Any] = {"vocab_size": len(tokenizer), "bos_token_id": None}
    changes |= {"eos_token_id": stop, "pad_token_id": stop}
    if tiny.FAMILIES[family].layout == "seq2seq":
        tokenizer = pieces.tokenizer(family)
        changes = pieces.shape(tokenizer)
    if "max_position_embeddings" in tiny.FAMILIES[family].arguments:
        changes["max_position_embeddings"] = 2048
    model = tiny.build(family, **changes, **shape)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def labelled_file(path: Path, num: int = 120) -> Path:
    """Texts whose label is a word in them."""
    rng = random.Random(0)
    rows = []
    for i in range(num):
        label = ("fox", "dog", "clips")[i % 3]
        words = [*rng.choices(WORDS[3:], k=4), label, str(i)]
        rng.shuffle(words)
        rows.append({"text": " ".join(words), "label": label})
    return written(path, rows)


def world(folder: Path) -> Path:
    """The folder with a model in it and rows to learn from."""
    model_folder(folder / "model")
    labelled_file(folder / "rows.jsonl")
    return folder


def reply_file(path: Path, num: int = 90) -> Path:
    """Questions whose answer repeats a word."""
    rng = random.Random(1)
    rows = []
    for i in range(num):
        word = rng.choice(WORDS)
        rows.append({"prompt": f"{word} {i}: what is it?", "completion": f"the {word}"})
    return written(path, rows)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def settings(model: Path, data: Path, **train: Any) -> dict[str, Any]:
    """A recipe of a few small updates."""
    return {
        "model": str(model),
        # made of few words, many of these rows are near copies of one another
        "data": {
            "train": [str(data)],
            "max_tokens": 256,
            "test_frac": 0.25,
            "dev_frac": 0.15,
            "near_together": False,
        },
        "adapt": {"rank": 4},
        "train": {
            "update_tokens": 512,
            "micro_tokens": 256,
            "epochs": 2,
            "every_checkpoint": 2,
            "rehearsal": False,
            **train,
        },
        "evals": {
            "max_cases": 20,
            "max_dev_cases": 6,
            "few_shot": 2,
            "max_new_tokens": 6,
            "guards": "off",
            "explain_cases": 0,
        },
    }


def changed(said: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """With other keys in some groups."""
    return said | {group: {**said.get(group, {}), **keys} for group, keys in changes.items()}


def started(said: dict[str, Any], out: Path, tell: Silent | None = None, *, resume: bool = False) -> dict[str, Any]:
    """The verdict of a run by these settings."""
    return run(parse(said), yaml.safe_dump(said), out, tell or Silent(), resume=resume)


def model_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model in it."""
    folder = tmp_path_factory.mktemp("world")
    model_folder(folder / "model")
    return folder
