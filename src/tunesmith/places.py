"""Where things are kept on this machine, for whoever must not import much to know it."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Where downloaded and converted models live: $TUNESMITH_CACHE, or tunesmith under the user's cache folder."""
    named = os.environ.get("TUNESMITH_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tunesmith"
