"""What was timed for a plan, kept for the next plan of the same recipe, data, code and machine. A run times it anew."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from tunesmith.build import Material
from tunesmith.files import cache_dir, read_json, sha256_text, write_json
from tunesmith.fitted import Fitted
from tunesmith.models.load import Base
from tunesmith.sealed import code_digest
from tunesmith.speeds import Speeds, try_out

MOST_AGE_S = 24 * 3600.0  # by tomorrow the machine may be as slow as it likes


def speeds_of(fitted: Fitted, base: Base, made: Material) -> Speeds:
    """From the cache where they are new enough, else timed and kept."""
    path = kept_at(fitted, base, made)
    if path.is_file() and 0 <= time.time() - path.stat().st_mtime < MOST_AGE_S:
        return replace(Speeds.of(read_json(path)), is_kept=True)
    tried = try_out(fitted, base, made)
    tried.session.close()
    write_json(path, asdict(tried.speeds))
    return tried.speeds


def kept_at(fitted: Fitted, base: Base, made: Material) -> Path:
    """The file of the speeds, named after all that they depend on, but for what else runs here."""
    parts = [
        asdict(fitted.recipe), fitted.gives_back, base.digest, str(base.model.dtype), str(base.model.device),
        made.renderer.digest, sorted(made.files.values()), code_digest(), torch.__version__, torch.get_num_threads(),
        platform.node(), platform.processor(),
    ]  # fmt: skip
    return cache_dir() / "speeds" / f"{sha256_text(json.dumps(parts, sort_keys=True, default=str))[:24]}.json"
