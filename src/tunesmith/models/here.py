"""Which models are on this machine, how large they are and what tuning one of them takes. Nothing is downloaded."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from tunesmith.errors import ModelError, PlanError
from tunesmith.models.catalogue import EMBEDDED, converted_folder, licence_in
from tunesmith.models.claims import read_facts, weights_in
from tunesmith.places import free_memory_gib

MEMORY = "TUNESMITH_MEMORY_GIB"


@dataclass(frozen=True, slots=True)
class Here:
    """A model as it lies on this machine."""

    name: str  # as a recipe names it
    num_weights: int
    context_tokens: int | None
    licence: str | None = None  # None: nothing here says it
    disk_gib: float = 0.0
    is_base: bool = False  # without a chat template of its own: it was not taught to follow instructions

    def need_gib(self, bytes_each: int) -> float:
        """Memory to tune it with an adapter: three copies at most (training, and opening the exports), and 3 GiB.

        Measured with 135M weights in float32: 4.5 GiB.
        """
        return 3 * self.num_weights * bytes_each / 2**30 + 3

    def full_gib(self, bytes_each: int) -> float:
        """Memory to tune all weights: base and trained copy, and in float32 the masters, gradient and Adam's two.

        Measured with 135M weights in float32, up to a saved checkpoint: 6.95 GiB.
        """
        return self.num_weights * (2 * bytes_each + 16) / 2**30 + 4

    def answer_gib(self, bytes_each: int) -> float:
        """Memory to answer only: the weights, and what goes through them."""
        return self.num_weights * bytes_each / 2**30 + 1.5


@dataclass(frozen=True, slots=True)
class Unusable:
    """A folder that looks like a model and is none that could be tuned."""

    name: str
    why: str


def looked_at(more: Iterable[Path] = ()) -> tuple[list[Here], list[Unusable]]:
    """Catalogue, hub cache and the folders `more`: what can be used, the smallest first, and what cannot."""
    found: list[Here] = []
    unusable: list[Unusable] = []
    for name, folder in (*folders(), *((str(path), path.expanduser()) for path in more)):
        try:
            model = measured(name, folder)
        except ModelError as error:
            unusable.append(Unusable(name, str(error)))
            continue
        if model is not None:
            found.append(model)
        elif (folder / "config.json").is_file():
            unusable.append(Unusable(name, f"{folder} has a config.json and no weights in safetensors"))
    return sorted(found, key=lambda m: (m.num_weights, m.name)), sorted(unusable, key=lambda m: m.name)


def all_here(more: Iterable[Path] = ()) -> list[Here]:
    """What can be used; what is broken is not offered to anybody."""
    return looked_at(more)[0]


def models_here() -> list[Here]:
    """Those that were taught to follow instructions: what may be proposed to somebody who named none."""
    return [model for model in all_here() if not model.is_base]


def folders() -> Iterator[tuple[str, Path]]:
    for name, entry in EMBEDDED.items():
        yield name, converted_folder(entry)
    try:
        cached = scan_cache_dir()
    except CacheNotFound:
        return
    for repo in cached.repos:
        if repo.repo_type == "model" and repo.revisions:
            yield repo.repo_id, max(repo.revisions, key=lambda r: r.last_modified).snapshot_path


def measured(name: str, folder: Path) -> Here | None:
    """None where it is no model that could be tuned. Raises ModelError where a file of it is broken."""
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        return None
    config = read_facts(folder / "config.json")
    context = config.get("max_position_embeddings") or config.get("n_positions")
    context = context if isinstance(context, int) else None
    licence = EMBEDDED[name].licence if name in EMBEDDED else licence_in(folder)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 2**30
    return Here(name, sum(weights_in(file) for file in files), context, licence, size, not has_template(folder))


def named(name: str) -> Here | None:
    """The model that a recipe means by this name, where it is here."""
    path = Path(name).expanduser()
    if name not in EMBEDDED and path.is_dir():
        found = measured(name, path)
        if found is None:
            raise ModelError(f"{path} holds no model with safetensors and config.json")
        return found
    return next((m for m in all_here() if m.name == name), None)


def has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and "chat_template" in read_facts(settings)


def memory_gib(device: str) -> float:
    """Memory that is free now, of the GPU or of the machine, or what the user says of it. Weights of loaded models, a
    reward's among them, are mapped from their files on the CPU, and not free."""
    said = os.environ.get(MEMORY)
    if said:
        try:
            return float(said)
        except ValueError:
            raise PlanError(f"{MEMORY} is {said!r}; wanted a number of GiB, such as 12") from None
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / 2**30
    return free_memory_gib(getattr(psutil.Process().memory_info(), "shared", 0))[0]  # said on Linux alone


def speed(device: str, dtype: torch.dtype) -> float:
    """Multiply-adds, counted as two operations, a second: the best of four products of matrices of a model's size."""
    size = 1024 if device == "cpu" else 4096
    one = torch.ones(size, size, device=device, dtype=dtype)
    float((one @ one)[0, 0])
    spent = []
    for _ in range(4):
        began = time.perf_counter()
        float((one @ one)[0, 0])
        spent.append(time.perf_counter() - began)
    return 2 * size**3 / min(spent)
