"""The switches with which a user forbids the network. Every place that could reach one asks here first."""

from __future__ import annotations

import os

SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # huggingface_hub reads both, and takes these words for yes
YES = ("1", "true", "yes", "on")


def forbidden_by() -> str | None:
    """The switch that is on; None where the network may be used."""
    return next((name for name in SWITCHES if os.environ.get(name, "").lower() in YES), None)
