"""Run folders made by hand, small enough that every number on a page can be counted here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

VERDICT: dict[str, Any] = {
    "claim": "the tuned model answers more cases right",
    "task": "classify",
    "metric": "accuracy",
    "base": 0.4,
    "tuned": 0.7,
    "effect": 0.3,
    "interval": [0.0625, 0.5125],
    "num_cases": 10,
    "test": "mid-p McNemar",
    "p": 0.0312,
    "alpha": 0.05,
    "smallest_detectable": 0.27,
    "smallest_that_matters": 0.02,
    "decision": "better",
    "guard": [],
    "baselines": {"majority": 0.3},
    "base_interval": [0.17, 0.69],
    "tuned_interval": [0.39, 0.89],
    "notes": [],
    "run": "tiny",
    "digests": {"cases": "c0ffee", "base": "ba5e", "tuned": "70ed"},
    "secondary": {"macro_f1": {"base": 0.381, "tuned": 0.655, "effect": 0.274, "interval": [0.01, 0.5]}},
}
# 2 both right, 4 ... : 3 both right, 1 broken, 4 fixed, 2 both wrong = base 4 of 10, tuned 7 of 10
SCORES = [(1, 1)] * 3 + [(1, 0)] + [(0, 1)] * 4 + [(0, 0)] * 2


def case(number: int, base: float | None, tuned: float | None, **others: Any) -> dict[str, Any]:
    wrong = {0: "refund", 1: "delivery"}
    row = {
        "example_id": f"id{number:04d}",
        "source": f"inbox.csv:{number + 2}",
        "group": None,
        "prompt": f"Where does message {number} belong?",
        "reference": "delivery",
        "base_output": wrong.get(base, "refund") if base is not None else "refund",
        "tuned_output": wrong.get(tuned, "refund") if tuned is not None else None,
        "base_score": base,
        "tuned_score": tuned,
        "base_stopped": True,
        "tuned_stopped": True,
        "changed": base != tuned,
    }
    return {**row, **others}


def binary_cases() -> list[dict[str, Any]]:
    return [case(i, float(b), float(t)) for i, (b, t) in enumerate(SCORES)]


AUDIT = {
    "rows": 105,
    "accepted": 101,
    "rejected": [{"file": "inbox.csv", "line": 17, "reason": "no label"}],
    "dropped": [["id9001", "1,204 tokens, more than 1,024"]],
    "learned_frac": 0.0825,
    "understood": {
        "columns": {"prompt": ["text"], "label": "label"},
        "example": {"id": "id0007", "pieces": [["<user>Where is it?</user>", False], ["delivery", True]]},
    },
}
PLAN = {
    "model": {
        "name": "smollm2-135m-instruct",
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "licence": "apache-2.0",
        "note": "the weights are a dequantised Q4_1, not the original bf16 ones",
    },
    "task": "classify",
    "layout": {"layout": "forest", "largest_diff": 1.2e-06, "reason": "probe agreed"},
    "resolved": [{"key": "train.lr", "value": 0.0004, "why": "auto: LoRA on 135 M weights"}],
    "updates": 3,
    "train_tokens": 12345,
}
LOCK = {
    "data": {"inbox.csv": "ab" * 32},
    "model": {"name": "smollm2-135m-instruct", "digest": "cd" * 32},
    "code": "ef" * 20,
    "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
    "seed": 17,
    "device": "cpu",
}
METRICS = [
    {
        "update": 1,
        "loss": 2.5,
        "lr": 0.0001,
        "grad_norm": 3.0,
        "units": 40,
        "tokens": 400,
        "tokens_per_s": 800.0,
        "elapsed_s": 0.5,
    },
    {
        "update": 2,
        "loss": 1.25,
        "lr": 0.0004,
        "grad_norm": 2.0,
        "units": 40,
        "tokens": 800,
        "tokens_per_s": 820.0,
        "elapsed_s": 1.0,
    },
    {"update": 2, "dev_loss": 1.5},
    {
        "update": 3,
        "loss": 0.75,
        "lr": 0.0002,
        "grad_norm": 1.0,
        "units": 40,
        "tokens": 1200,
        "tokens_per_s": 810.0,
        "elapsed_s": 1.5,
    },
]
COST = {
    "stages": [
        {"name": "baseline", "seconds": 12.0, "budget_s": 60},
        {"name": "train", "seconds": 130.0, "budget_s": 90},
    ],
    "train_tokens": 12345,
    "tokens_per_s": 811.5,
    "peak_gib": 1.625,
    "total_s": 142.0,
}
EXPORT = {
    "adapter": {"path": "adapter", "logit_diff": 2e-06, "same_text": True, "num_prompts": 8},
    "merged": {"path": "model", "logit_diff": 3e-05, "same_text": True, "num_prompts": 8},
}
BASELINE_ONLY = (
    "export.json",
    "cost.json",
    "metrics.jsonl",
    "scores/forms.json",
)  # not there when a run stops after the baseline
FORMS = [
    {"form": "instruction", "dev_score": 0.31, "num_cases": 16},
    {"form": "few-shot", "dev_score": 0.44, "num_cases": 16, "chosen": True},
]
JSON_FILES = {
    "plan.json": PLAN,
    "lock.json": LOCK,
    "audit.json": AUDIT,
    "cost.json": COST,
    "export.json": EXPORT,
    "scores/forms.json": FORMS,
}


def make(
    folder: Path,
    *,
    verdict: dict[str, Any] | None = VERDICT,
    cases: list[dict[str, Any]] | None = None,
    without: tuple[str, ...] = (),
    **others: Any,
) -> Path:
    """A whole run folder; `others` replace a file's content by its stem, `without` leaves files out."""
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    files = {name: others.get(Path(name).stem, content) for name, content in JSON_FILES.items()}
    if verdict is not None:
        files["verdict.json"] = verdict
    if "gates" in others:
        files["gates.json"] = others["gates"]
    for name, content in files.items():
        if name not in without:
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
    if "metrics.jsonl" not in without:
        rows = others.get("metrics", METRICS)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if "recipe.yaml" not in without:
        (folder / "recipe.yaml").write_text("model: smollm2-135m-instruct\ntrain:\n  lr: auto\n", encoding="utf-8")
    if "scores/cases.parquet" not in without:
        write_cases(folder / "scores" / "cases.parquet", binary_cases() if cases is None else cases)
    return folder


def write_cases(path: Path, rows: list[dict[str, Any]]) -> None:
    texts = ("example_id", "source", "group", "prompt", "reference", "base_output", "tuned_output", "scale")
    flags = ("base_stopped", "tuned_stopped", "changed")
    kinds = {**dict.fromkeys(texts, pa.string()), **dict.fromkeys(flags, pa.bool_())}
    kinds["turns"] = pa.list_(pa.struct(list(kinds.items())))
    names = list(rows[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([(n, kinds.get(n, pa.float64())) for n in names])), path)
