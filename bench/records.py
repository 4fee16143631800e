"""Dated lines of what was compared, one file a script in results/: appended, never edited.

A line says the job, the machine, versions and settings, and `ratios`: of each thing that was compared our figure, the
other side's (or a budget), and the ratio, where more is better for us. A ratio that fell by a tenth or more against the
last line of the same job on the same kind of machine is printed in red. docs/benchmarks.md is made again after each.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FELL = 0.9  # of the ratio before
RED, PLAIN = "\033[31m", "\033[0m"
UNITS = (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16"), ("avx512f", "AVX512"), ("avx2", "AVX2"))
PACKAGES = ("tunesmith", "torch", "transformers", "tokenizers", "peft")
Line = Mapping[str, Any]


def machine(device: str = "") -> dict[str, Any]:
    """`device`: the GPU that was measured, by its name."""
    said = _cpu()
    flags = set(said.get("flags", said.get("Features", "")).split())
    return {
        "processor": said.get("model name") or platform.processor() or platform.machine(),
        "units": next((name for flag, name in UNITS if flag in flags), "none"),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **({"device": device} if device else {}),
    }


def _cpu() -> dict[str, str]:
    """What Linux says of the first processor."""
    path = Path("/proc/cpuinfo")
    rows = path.read_text().split("\n\n", 1)[0].splitlines() if path.is_file() else []
    return {key.strip(): value.strip() for key, _, value in (row.partition(":") for row in rows)}


def kind(line: Line) -> str:
    """Of the machine: figures of one kind may be compared."""
    said = line["machine"]
    return ", ".join(
        (said["processor"], said["units"], f"{said['threads']} threads", *filter(None, [said.get("device")]))
    )


def versions(*more: str) -> dict[str, str]:
    return {name: metadata.version(name) for name in (*PACKAGES, *more)}


def compared(
    ours: Sequence[float], theirs: Sequence[float], unit: str, *, less_is_better: bool = False
) -> dict[str, Any]:
    """Medians of both sides, and of the ratios of the pairs, with their range."""
    ratios = [b / a if less_is_better else a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "unit": unit, "ours": statistics.median(ours), "theirs": statistics.median(theirs),
        "ratio": statistics.median(ratios), "range": [min(ratios), max(ratios)], "pairs": len(ratios),
    }  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in path.read_text().splitlines()] if path.is_file() else []


def fallen(line: Line, before: Sequence[Line]) -> Iterator[tuple[str, float, float]]:
    """(what was compared, its last ratio, its ratio now) of those that fell by a tenth or more."""
    for name, found in line["ratios"].items():
        same = (b for b in reversed(before) if "ratios" in b and b["job"] == line["job"] and kind(b) == kind(line))
        last = next((b["ratios"][name]["ratio"] for b in same if name in b["ratios"]), None)
        if last is not None and found["ratio"] <= FELL * last:
            yield name, last, found["ratio"]


def told(line: Line, before: Sequence[Line]) -> str:
    """What is printed of a line."""
    rows = [f"{line['job']} ({kind(line)})"]
    for name, r in line["ratios"].items():
        low, high = r["range"]
        rows.append(
            f"  {name}: {r['ours']:.4g} to {r['theirs']:.4g} {r['unit']}, "
            f"ratio {r['ratio']:.2f} ({low:.2f} to {high:.2f})"
        )
    for name, last, now in fallen(line, before):
        rows.append(f"{RED}  {name} FELL: ratio {last:.2f} -> {now:.2f} on this kind of machine{PLAIN}")
    return "\n".join(rows)


def keep(
    script: str, job: str, settings: Mapping[str, Any], ratios: Mapping[str, Any], *, device: str = "",
    packages: Mapping[str, str] | None = None, **figures: Any,
) -> None:  # fmt: skip
    """Appends a line, prints it, and makes docs/benchmarks.md again. `packages`: versions of the other side; `figures`:
    what else was measured."""
    line = {
        "date": date.today().isoformat(), "job": job, "machine": machine(device),
        "versions": versions() | dict(packages or {}), "settings": dict(settings), "ratios": dict(ratios), **figures,
    }  # fmt: skip
    path = RESULTS / f"{Path(script).stem}.jsonl"
    before = lines(path)
    print(told(line, before), flush=True)
    with path.open("a") as out:
        out.write(json.dumps(line) + "\n")
    subprocess.run([sys.executable, str(Path(__file__).with_name("pages.py"))], check=True)
