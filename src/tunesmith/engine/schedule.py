"""Learning rate by update, as a factor of the peak."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

SLANTED_RATIO = 32  # of the peak to the lowest rate, in ULMFiT


@dataclass(frozen=True, slots=True)
class Schedule:
    """Warm-up over the first `warmup_frac` of the updates, then by `kind` to `end_frac` of the peak.

    slanted: ULMFiT's triangle (Howard and Ruder 2018, eq. 3), from 1/32 of the peak up to it at `warmup_frac` (0.1
    there) and down again; `end_frac` is not used. wsd: warm-up, stable, and a line over the last `decay_frac` (Hu et
    al. 2024, arXiv:2404.06395).
    """

    # how the rate goes from the peak to its end; wsd stays at the peak for most of the run
    kind: Literal["constant", "linear", "cosine", "slanted", "wsd"] = "cosine"
    warmup_frac: float = 0.05  # share of the updates over which the rate rises to its peak
    end_frac: float = 0.0  # of the peak, at the last update
    decay_frac: float = 0.2  # wsd: share of the updates, at the end, over which the rate falls

    def factor(self, update: int, num_updates: int) -> float:
        """Of the peak, at `update` (0-based). The first update of a warm-up is above 0, so that no update is lost."""
        if self.kind == "slanted":
            return self._slanted(update, num_updates)
        num_warmup = round(self.warmup_frac * num_updates)
        if update < num_warmup:
            return (update + 1) / (num_warmup + 1)
        if self.kind == "constant":
            return 1.0
        begin = num_warmup
        if self.kind == "wsd":
            begin = max(num_warmup, num_updates - round(self.decay_frac * num_updates))
            if update < begin:
                return 1.0
        done = (update - begin) / max(1, num_updates - begin)
        left = 1 - done if self.kind in ("linear", "wsd") else (1 + math.cos(math.pi * done)) / 2
        return self.end_frac + (1 - self.end_frac) * left

    def _slanted(self, update: int, num_updates: int) -> float:
        cut = math.floor(self.warmup_frac * num_updates)
        p = update / cut if update < cut else 1 - (update - cut) / max(1, num_updates - cut)
        return (1 + p * (SLANTED_RATIO - 1)) / SLANTED_RATIO


ADDED = ("lora", "ia3", "peft")  # methods that add weights, beside those of the model


def auto_lr(method: str, num_parameters: int, num_updates: int) -> tuple[float, str]:
    """(peak rate, why). Rules of thumb, for AdamW and updates of some thousand tokens.

    Full tuning: 2e-5 at 1B weights, larger for smaller models with the square root of the size, at most 1e-4. LoRA:
    ten times that of full tuning, whatever the rank (Schulman et al. 2025, "LoRA without regret"); for other adapters
    that is a first guess. A run of under 100 updates may go up to twice as high, since it has no time to recover from
    going too slowly.
    """
    full = min(1e-4, 2e-5 * (1e9 / num_parameters) ** 0.5)
    short = 1 + max(0.0, 1 - num_updates / 100)
    rate = full * short * (10 if method in ADDED else 1)
    why = f"{full:.1e} for all of {num_parameters / 1e6:.0f}M weights" + (
        ", x10 for LoRA and its kin" if method in ADDED else ""
    )
    return float(f"{rate:.2g}"), why + (f", x{short:.2f} for a run of {num_updates} updates" if short > 1 else "")
