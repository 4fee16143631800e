"""The YAML at the head of a model card, as the hub reads it (https://huggingface.co/docs/hub/model-cards).

Only what the files of the run say: a licence that is no identifier, or a language that nobody named, is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tunesmith.report import words
from tunesmith.report.facts import Facts, StartingModel

TASKS = {"classify": "text-classification", "summarise": "summarization", "translate": "translation"}
PIPELINES = {"rows": "text-classification", "masked": "fill-mask", "scores": "text-classification"}
METRICS = {"macro_f1": "f1", "mcc": "matthews_correlation", "rouge_1": "rouge", "rouge_l": "rouge"}  # the hub's names
IN_CACHE = re.compile(r"datasets--([\w.-]+?)--([\w.-]+)")  # a folder of the hub's cache, in the path of a data file


def front_matter(facts: Facts, base: StartingModel, peft_type: str | None) -> str:
    task = task_of(facts)
    meta: dict[str, Any] = {"base_model": base.base_model or base.name or None}
    if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", base.licence):  # an identifier, not "see the model's page"
        meta["license"] = base.licence
    if language := (facts.plan or {}).get("language"):
        meta["language"] = language
    meta["library_name"] = "transformers" if peft_type is None else "peft"
    meta["base_model_relation"] = "finetune" if peft_type is None else "adapter"
    # all else is answered by a model that writes text
    meta["pipeline_tag"] = PIPELINES.get(facts.opened_as, "text-generation")
    meta["tags"] = ["tunesmith", "fine-tuned", *(["lora"] if peft_type == "LORA" else []), *([task] if task else [])]
    meta["datasets"] = hub_data_sets(facts)
    meta["model-index"] = model_index(facts)
    return yaml.safe_dump({k: v for k, v in meta.items() if v}, sort_keys=False, allow_unicode=True)


def task_of(facts: Facts) -> str:
    return words.clean(str((facts.plan or {}).get("task") or (facts.verdict or {}).get("task") or ""))


def data_files(facts: Facts) -> list[str]:
    found = (facts.lock or {}).get("data")
    return [str(path) for path in found] if isinstance(found, Mapping) else []


def hub_data_sets(facts: Facts) -> list[str]:
    """owner/name of the data files that came from the hub; files of one's own have no name there."""
    found = (IN_CACHE.search(path) for path in data_files(facts))
    return list(dict.fromkeys(f"{match[1]}/{match[2]}" for match in found if match))


def model_index(facts: Facts) -> list[dict[str, Any]]:
    """The tuned model's scores on the held-out cases; nothing where it was never compared."""
    verdict = facts.verdict
    if verdict is None:
        return []
    scores = {claim["metric"]: claim["tuned"] for claim in words.claims(verdict)}
    scores |= {name: row.get("tuned") for name, row in (verdict.get("secondary") or {}).items()}
    metrics = [
        {"type": METRICS.get(name, words.clean(str(name))), "name": words.clean(words.metric(name)), "value": value}
        for name, value in scores.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    ]
    hub = hub_data_sets(facts)
    names = hub or [words.clean(Path(path).name) for path in data_files(facts)] or ["not named"]
    data = {"type": hub[0] if hub else "private", "name": ", ".join(names), "split": "test"}
    task = task_of(facts)
    asked: dict[str, Any] = {"type": TASKS.get(task, "text-generation"), **({"name": task} if task else {})}
    return [{"name": words.clean(facts.name), "results": [{"task": asked, "dataset": data, "metrics": metrics}]}]
