"""A whole model as transformers' save_pretrained writes it, byte for byte, by our own writer: it hashes what it writes
and brings the file out of the page cache (figures: docs/design/speed.md)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, modeling_utils

from tunesmith.files import save_tensors
from tunesmith.models.bars import no_bars

NAME = "safe_save_file"  # what save_pretrained calls for each shard
ONE = threading.Lock()


def save_whole(model: PreTrainedModel, folder: Path) -> dict[str, str]:
    """Weights and configuration; gives the SHA-256 of each file that it hashed."""
    with written_here() as hashed, no_bars():
        model.save_pretrained(folder)
    return hashed


@contextmanager
def written_here() -> Iterator[dict[str, str]]:
    """Inside, transformers' shards are written by `save_tensors`; their digests are in what is given, by file name.
    Another transformers, which calls its writer by another name, writes by itself."""
    hashed: dict[str, str] = {}

    def write(tensors: dict[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        hashed[Path(path).name] = save_tensors(tensors, Path(path), metadata)

    with ONE:
        if NAME not in vars(modeling_utils):
            yield hashed
            return
        plain: Any = vars(modeling_utils)[NAME]
        setattr(modeling_utils, NAME, write)
        try:
            yield hashed
        finally:
            setattr(modeling_utils, NAME, plain)
