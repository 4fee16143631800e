"""Pickles that run code when they are read: each makes a folder, the canary."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


class Evil:
    """Unpickling it makes the folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.makedirs, (str(self.canary),)


def in_zip(canary: Path) -> bytes:
    """As torch.save writes since 1.6."""
    out = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "evil": Evil(canary)}, out)
    return out.getvalue()


def legacy(canary: Path) -> bytes:
    out = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "evil": Evil(canary)}, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def plain(canary: Path) -> bytes:
    return pickle.dumps(Evil(canary))


def array(canary: Path) -> bytes:
    """As numpy.save writes an array of objects."""
    out = io.BytesIO()
    np.save(out, np.array([Evil(canary)], dtype=object), allow_pickle=True)
    return out.getvalue()


def load_unsafely(raw: bytes) -> None:
    """What a careless loader does with the bytes."""
    if raw.startswith(b"\x93NUMPY"):
        np.load(io.BytesIO(raw), allow_pickle=True)
    elif raw.startswith(b"PK") or b"\x8a\nl\xfc\x9cF\xf9" in raw[:20]:
        torch.load(io.BytesIO(raw), weights_only=False)
    else:
        pickle.loads(raw)


def fires(raw: bytes, canary: Path) -> bool:
    """Whether an unsafe loader runs it; the canary is taken away again."""
    load_unsafely(raw)
    has_fired = canary.exists()
    if has_fired:
        canary.rmdir()
    return has_fired
