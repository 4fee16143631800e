"""A classifier of one's own that tells toxic texts: a folder or hub name of a sequence classification, or a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tunesmith.api import Run
from tunesmith.data.toxic import Reader
from tunesmith.errors import InputError
from tunesmith.models.bars import no_bars, no_reports
from tunesmith.models.catalogue import locate
from tunesmith.models.class_head import SEVERAL
from tunesmith.models.load import opening

SURE = 0.5  # what the model itself would say
WORDS = 128  # of a piece
ROWS = 32
TOKENS = 512
TOXIC = re.compile(r"(?!no)\w*?(?:toxic|hate|offens|insult|threat|obscen|abus|profan)")  # and not non-toxic, not_hate


def reader(name: str) -> Reader:
    """`name`: MODEL, or MODEL:LABEL where the labels do not say which of them are toxic."""
    model, _, label = (name, "", "") if Path(name).exists() or ":" not in name else name.rpartition(":")
    if (Path(model) / "recipe.yaml").is_file():
        return Reader(of_run(Run(model), model, label), SURE, WORDS)
    return Reader(of_classifier(model, label), SURE, WORDS)


def of_run(run: Run, name: str, label: str) -> Callable[[Sequence[str]], np.ndarray]:
    bad = toxic_labels(name, run.labels, label, may_be_all=False)

    def score(texts: Sequence[str]) -> np.ndarray:
        said = [found.probabilities or {} for found in run.predict(texts)]
        return np.array([sum(shares.get(one, 0.0) for one in bad) for shares in said])

    return score


@no_bars()
@no_reports()
def of_classifier(name: str, label: str) -> Callable[[Sequence[str]], np.ndarray]:
    folder = locate(name).folder
    with opening(name, folder, "model"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    if report["missing_keys"]:
        lacks = ", ".join(sorted(report["missing_keys"])[:3])
        raise InputError(f"--toxicity {name}: is no classifier, since it has no weights for {lacks}. Name one that is")
    names: Mapping[int, str] = model.config.id2label
    is_several = model.config.problem_type == SEVERAL
    toxic = toxic_labels(name, list(names.values()), label, may_be_all=is_several)
    bad = [number for number, one in names.items() if one in toxic]
    model.eval()

    @torch.inference_mode()
    def score(texts: Sequence[str]) -> np.ndarray:
        found = []
        for begin in range(0, len(texts), ROWS):
            some = list(texts[begin : begin + ROWS])
            asked = tokenizer(some, truncation=True, max_length=TOKENS, padding=True, return_tensors="pt")
            logits = model(input_ids=asked["input_ids"], attention_mask=asked["attention_mask"]).logits.float()
            each = logits[:, bad].sigmoid().amax(1) if is_several else logits.softmax(1)[:, bad].sum(1)
            found += each.tolist()
        return np.array(found)

    return score


def toxic_labels(name: str, labels: Sequence[str], said: str, *, may_be_all: bool) -> list[str]:
    """The one that was said, or those whose names say it."""
    bad = [one for one in labels if (one == said if said else TOXIC.match(one.lower()))]
    if not bad or (len(bad) == len(labels) and not may_be_all):
        raise InputError(
            f"--toxicity {name}: its labels are {', '.join(labels) or 'none'}. Say which of them is toxic: "
            f"--toxicity {name}:LABEL"
        )
    return bad
