"""Learning rate by update, as a factor of the peak."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Schedule:
    """Warm-up over the first `warmup_frac` of the updates, then a constant, a line or half a cosine to `end_frac`."""

    kind: Literal["constant", "linear", "cosine"] = "cosine"  # how the rate goes from the peak to its end
    warmup_frac: float = 0.05  # share of the updates over which the rate rises to its peak
    end_frac: float = 0.0  # of the peak, at the last update

    def factor(self, update: int, num_updates: int) -> float:
        """Of the peak, at `update` (0-based). The first update of a warm-up is above 0, so that no update is lost."""
        num_warmup = round(self.warmup_frac * num_updates)
        if update < num_warmup:
            return (update + 1) / (num_warmup + 1)
        if self.kind == "constant":
            return 1.0
        done = (update - num_warmup) / max(1, num_updates - num_warmup)
        left = 1 - done if self.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.end_frac + (1 - self.end_frac) * left


def auto_lr(method: str, num_parameters: int, num_updates: int) -> tuple[float, str]:
    """(peak rate, why). Rules of thumb, for AdamW and updates of some thousand tokens.

    Full tuning: 2e-5 at 1B weights, larger for smaller models with the square root of the size, at most 1e-4. LoRA:
    ten times that of full tuning, whatever the rank (Schulman et al. 2025, "LoRA without regret"). A run of under 100
    updates may go up to twice as high, since it has no time to recover from going too slowly.
    """
    full = min(1e-4, 2e-5 * (1e9 / num_parameters) ** 0.5)
    short = 1 + max(0.0, 1 - num_updates / 100)
    rate = full * short * (10 if method == "lora" else 1)
    why = f"{full:.1e} for all of {num_parameters / 1e6:.0f}M weights" + (", x10 for LoRA" if method == "lora" else "")
    return float(f"{rate:.2g}"), why + (f", x{short:.2f} for a run of {num_updates} updates" if short > 1 else "")
