"""What is wrong or slow on this machine, each finding with what to type. Nothing is changed, nothing leaves it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.version import Version

from tunesmith.engine.precision import choose_dtype
from tunesmith.files import broken_files, cache_dir
from tunesmith.models.catalogue import EMBEDDED, Embedded, converted_folder
from tunesmith.offline import forbidden_by
from tunesmith.places import free_memory_gib

PYTHON = (Version("3.11"), Version("3.14"))  # from, and below
# what the tests ran on, as in constraints.txt; more than this may work and was not tried
TESTED = {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "huggingface-hub": "2.4.0", "gguf": "0.19.0"}
LEAST_MEMORY_GIB = 5.0  # tuning the embedded model took 4.5 on two cores
LEAST_DISK_GIB = 2.0  # for the embedded model (0.5), a download beside it, and a run with its exports
CPU_BUILD = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
CUDA_BUILD = (
    "pip install torch, with the --index-url that https://pytorch.org/get-started/locally names for your driver"
)


@dataclass(frozen=True, slots=True)
class Finding:
    topic: str
    state: str  # "broken": a run will fail; "slow": it works, slower or with less than it could; "ok"
    found: str
    advice: str = ""  # what to type, or to do

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    """Everything, in the order in which it matters."""
    return [finding for check in CHECKS for finding in check()]


def python_version() -> Iterator[Finding]:
    here = Version(platform.python_version())
    low, high = PYTHON
    if here < low:
        yield Finding(
            "Python", "broken", f"{here}; wanted {low} or newer", "install a newer Python and make a new venv"
        )
    elif here >= high:
        yield Finding(
            "Python", "slow", f"{here} is newer than what was tried (below {high})", "python3.13 -m venv .venv"
        )
    else:
        yield Finding("Python", "ok", f"{here}")


def packages() -> Iterator[Finding]:
    """Against what pyproject.toml allows, and against what the tests ran on."""
    for wanted in map(Requirement, importlib.metadata.requires("tunesmith") or ()):
        if wanted.marker is None:
            yield from package(wanted)


def package(wanted: Requirement) -> Iterator[Finding]:
    """Nothing is said of packages that are as wanted, but for the few that matter most."""
    try:
        here = Version(importlib.metadata.version(wanted.name))
    except importlib.metadata.PackageNotFoundError:
        yield Finding(wanted.name, "broken", f"not installed; wanted {wanted.specifier}", f"pip install '{wanted}'")
        return
    if not wanted.specifier.contains(here, prereleases=True):
        yield Finding(wanted.name, "broken", f"{here}; wanted {wanted.specifier}", f"pip install -U '{wanted}'")
    elif wanted.name in TESTED:
        tested = Version(TESTED[wanted.name])
        if here.release[:2] > tested.release[:2]:
            back = f"if something fails: pip install {wanted.name}=={tested}"
            yield Finding(wanted.name, "slow", f"{here} is newer than the tested {tested}", back)
        else:
            yield Finding(wanted.name, "ok", f"{here} (tested with {tested})")


def extras() -> Iterator[Finding]:
    """Which extras are whole here; what is not there is no fault."""
    by_extra: dict[str, list[str]] = {}
    for wanted in map(Requirement, importlib.metadata.requires("tunesmith") or ()):
        for extra in importlib.metadata.metadata("tunesmith").get_all("Provides-Extra") or ():
            if wanted.marker is not None and extra != "dev" and wanted.marker.evaluate({"extra": extra}):
                by_extra.setdefault(extra, []).append(wanted.name)
    here = [extra for extra, names in by_extra.items() if all(map(is_installed, names))]
    absent = [extra for extra in by_extra if extra not in here]
    advice = f"if you want one: pip install 'tunesmith[{absent[0]}]'" if absent else ""
    yield Finding("extras", "ok", f"here: {', '.join(here) or 'none'}; not here: {', '.join(absent) or 'none'}", advice)


def is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def processor() -> Iterator[Finding]:
    capability = torch.backends.cpu.get_cpu_capability()
    has_amx = platform.machine() in ("x86_64", "AMD64") and torch.cpu._is_amx_tile_supported()
    units = f"{capability}{', AMX' if has_amx else ''}"
    if capability == "DEFAULT" and platform.machine() in ("x86_64", "AMD64"):
        yield Finding("CPU", "slow", "no AVX2: every product of matrices is several times slower", "another machine")
    else:
        yield Finding("CPU", "ok", f"{units}; {choose_dtype('cpu')[1]}")
    threads, cores = torch.get_num_threads(), allowed_cores()
    said = os.environ.get("OMP_NUM_THREADS")
    if threads > cores:
        yield Finding("threads", "slow", f"{threads} threads on {cores} cores get in each other's way",
                      f"export OMP_NUM_THREADS={cores}")  # fmt: skip
    elif said and threads < cores:
        yield Finding("threads", "slow", f"OMP_NUM_THREADS={said} leaves {cores - threads} of {cores} cores idle",
                      "unset OMP_NUM_THREADS")  # fmt: skip
    else:
        yield Finding("threads", "ok", f"{threads} on {cores} cores")


def allowed_cores() -> int:
    """Cores that this process may use: by affinity, and by the quota of a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        share, _, period = quota.read_text().strip().partition(" ")
        if share.isdigit() and period.isdigit():
            cores = min(cores, max(1, round(int(share) / int(period))))
    return cores


def memory() -> Iterator[Finding]:
    """What is free now, in the container if there is one."""
    free_gib, total_gib = free_memory_gib()
    found = f"{free_gib:.1f} of {total_gib:.1f} GiB free"
    if total_gib < LEAST_MEMORY_GIB:
        yield Finding("memory", "broken", f"{found}; even the embedded model takes 4.5 GiB", "a machine with 8 GiB")
    elif free_gib < LEAST_MEMORY_GIB:
        yield Finding("memory", "slow", f"{found}; the embedded model takes 4.5 GiB", "close other programs")
    else:
        yield Finding("memory", "ok", found)


def graphics() -> Iterator[Finding]:
    """A GPU that this build of torch cannot use is the commonest reason for a slow run."""
    build = f"torch {torch.__version__}, " + (
        f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    )
    has_driver = shutil.which("nvidia-smi") is not None
    if torch.cuda.is_available():
        total_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        yield Finding("GPU", "ok", f"{torch.cuda.get_device_name(0)}, {total_gib:.0f} GiB; {build}")
    elif has_driver and torch.version.cuda is None:
        yield Finding("GPU", "slow", f"an NVIDIA driver is here, and {build}", CUDA_BUILD)
    elif has_driver:
        yield Finding("GPU", "slow", f"{build} cannot use the GPU: its driver may be older than that", CUDA_BUILD)
    elif torch.version.cuda is not None:
        advice = f"to save several gigabytes: {CPU_BUILD}"
        yield Finding("GPU", "ok", f"none; {build}, which is larger than needed", advice)
    else:
        yield Finding("GPU", "ok", f"none; {build}")


def models() -> Iterator[Finding]:
    """The embedded models by their digests; downloads of the hub that were cut off."""
    for name, entry in EMBEDDED.items():
        yield embedded(name, entry)
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub")
    half = sorted(hub.expanduser().glob("*/blobs/*.incomplete"))
    if half:
        names = ", ".join(sorted({p.parents[1].name.split("--", 1)[-1].replace("--", "/") for p in half}))
        again = f"tunesmith models fetch {names.split(', ')[0]}"
        yield Finding("hub cache", "slow", f"{len(half)} downloads were cut off: {names}", again)


def embedded(name: str, entry: Embedded) -> Finding:
    folder = converted_folder(entry)
    if not folder.is_dir():
        size = f"{entry.download_mb} MB down, {4 * entry.num_weights / 1e6:.0f} MB on disk"
        return Finding(name, "ok", f"not here yet ({size})", f"tunesmith models fetch {name}")
    wrong = broken_files(folder)
    if wrong:
        found = f"{folder}: {', '.join(wrong)} {'are' if len(wrong) > 1 else 'is'} missing or not as it was made"
        return Finding(name, "broken", found, f"tunesmith models fetch {name}")
    return Finding(name, "ok", f"whole, in {folder}")


def places() -> Iterator[Finding]:
    """Where files are written: the cache and this folder."""
    for topic, folder, way_out in (
        ("cache", cache_dir(), "export TUNESMITH_CACHE=FOLDER, one that you may write"),
        ("this folder", Path.cwd(), "cd to a folder that you may write, or name one with --out"),
    ):
        there = next(p for p in (folder, *folder.parents) if p.exists())
        free_gib = shutil.disk_usage(there).free / 2**30
        if not is_writable(there):
            yield Finding(topic, "broken", f"{folder} cannot be written", way_out)
        elif free_gib < LEAST_DISK_GIB:
            found = f"{folder}: {free_gib:.1f} GiB free; a model and a run take {LEAST_DISK_GIB:g}"
            yield Finding(topic, "broken" if free_gib < 0.5 else "slow", found, "make room, or name another folder")
        else:
            yield Finding(topic, "ok", f"{folder}: can be written, {free_gib:.0f} GiB free")


def is_writable(folder: Path) -> bool:
    """By writing: permissions alone do not tell of a read-only mount."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def switches() -> Iterator[Finding]:
    """What keeps the hub away, or opens it. A token is never shown."""
    offline = forbidden_by()
    if offline:
        yield Finding("network", "ok", f"{offline} set: the hub is never asked", f"unset {offline}, to fetch")
    else:
        yield Finding("network", "ok", "the hub is asked for hub names only; export HF_HUB_OFFLINE=1 keeps it away")
    token = "set" if os.environ.get("HF_TOKEN") else "not set: gated models cannot be fetched"
    yield Finding("HF_TOKEN", "ok", token, "" if token == "set" else "if you need one: export HF_TOKEN=…")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python_version, packages, extras, processor, memory, graphics, models, places, switches,
)  # fmt: skip
