"""What an update is made of, how many there are, and how the learning rate moves."""

from __future__ import annotations

import math
from typing import Any

from tunesmith.importing.reading import Reading, number, shown
from tunesmith.importing.tools import Tool

SCHEDULES = {
    "constant": "constant", "constant_with_warmup": "constant", "linear": "linear", "cosine": "cosine",
    "cosine_with_min_lr": "cosine",
}  # fmt: skip
PACKINGS = ("sample_packing", "packing", "neat_packing", "padding_free")


def whole(value: Any) -> int | None:
    """A whole number above 0, rounded up; None for anything else."""
    found = number(value)
    return None if found is None or not found > 0 or math.isinf(found) else math.ceil(found)


def batches(reading: Reading, tool: Tool) -> None:
    """Rows x accumulation x length there; tokens here. Epochs, and where training ends."""
    length = int(reading.settings.get("data.max_tokens") or tool.defaults["data.max_tokens"])
    micro, accumulation = reading.names("train.micro_tokens"), reading.names("train.update_tokens")
    rows = whole(reading.said[micro[0]]) if micro else tool.rows
    times = 1
    if "gradient_accumulation_steps" in accumulation:
        times = whole(reading.said["gradient_accumulation_steps"]) or 1
    for name in accumulation:
        total = whole(reading.said[name])
        if name != "gradient_accumulation_steps" and total and rows:
            times = max(1, round(total / rows))
    rows = rows or tool.rows
    is_packed = any(reading.said.get(name) is True for name in PACKINGS)
    said = f"{rows} rows x {times} x {length} tokens"
    full = ""
    if not is_packed:
        full = (
            f"; not packed there: for as many rows in an update, {rows * times} x the median length in `tunesmith plan`"
        )
    both = [*micro, *accumulation]
    if both:
        meant = f"updates are counted in tokens here: {said} of one GPU{full}"
        reading.put("train.update_tokens", rows * times * length, *both, meant=meant)
    else:
        reading.settings["train.update_tokens"] = rows * times * length
    reading.comments["train.update_tokens"] = f"{said}, of one GPU{full}"
    reading.settings["train.micro_tokens"] = rows * length
    reading.comments["train.micro_tokens"] = f"{rows} rows x {length} tokens; changes memory and speed only"
    epochs(reading)
    for name in reading.names("train.every_checkpoint"):
        every = whole(reading.said[name])
        if name == "save_steps" and every and number(reading.said[name]) == every:
            reading.put("train.every_checkpoint", every, name)
        elif name == "saves_per_epoch":
            reading.leave("needless", "a checkpoint is made every train.every_checkpoint updates", name)
        else:
            reading.leave(
                "value", "wanted here: a number of updates between checkpoints", name, ours="train.every_checkpoint"
            )
    for name in reading.names("train.compile"):
        reading.put("train.compile", reading.said[name] is True, name)


def epochs(reading: Reading) -> None:
    for name in reading.names("train.epochs"):
        value, most = number(reading.said[name]), whole(reading.said[name])
        if most is None:
            reading.leave("value", "wanted: a number of epochs above 0", name, ours="train.epochs")
        elif most == value:
            reading.put("train.epochs", most, name)
        else:
            reading.put(
                "train.epochs", most, name,
                meant=f"whole epochs only; end earlier with train.max_updates ({value:g} epochs there)",
            )  # fmt: skip
    for name in reading.names("train.max_updates"):
        most = whole(reading.said[name])
        if most is None:
            reading.leave("off", "no limit in the file", name, ours="train.max_updates")
        else:
            reading.put("train.max_updates", most, name, meant="ends training early, and never goes on past the epochs")


def schedule(reading: Reading) -> None:
    for name in reading.names("train.lr"):
        value = number(reading.said[name])
        if "train.lr" in reading.settings or value is None or name == "learning_rate_multiplier":
            reading.leave("value", "wanted: one peak rate; auto picks one by size and method", name, ours="train.lr")
        else:
            reading.put("train.lr", value, name)
    for name in reading.names("train.schedule.kind"):
        kind = str(reading.said[name])
        if kind in SCHEDULES:
            reading.put("train.schedule.kind", SCHEDULES[kind], name)
        else:
            reading.leave(
                "value", "schedules here: constant, linear, cosine; cosine is taken", name, ours="train.schedule.kind"
            )
    for name in reading.names("train.schedule.end_frac"):
        value = number(reading.said[name])
        if value is not None and 0 <= value < 1:
            reading.put("train.schedule.end_frac", value, name)
        else:
            reading.leave("value", "wanted: a share of the peak, 0 up to 1", name, ours="train.schedule.end_frac")
    for name in reversed(reading.names("train.schedule.warmup_frac")):  # warmup_steps wins over warmup_ratio there
        warm_up(reading, name)


def warm_up(reading: Reading, name: str) -> None:
    """A share of the updates. A number of updates becomes one where the file also says how many there are."""
    ours, value = "train.schedule.warmup_frac", number(reading.said[name])
    updates = reading.settings.get("train.max_updates")
    if ours in reading.settings:
        reading.leave("value", "warmup_steps is what counts", name, ours=ours)
    elif value is None or value < 0 or (name == "warmup_ratio" and value >= 1):
        reading.leave("value", "wanted: a share of the updates, 0 up to 1", name, ours=ours)
    elif value < 1:
        reading.put(ours, value, name)
    elif updates and value < updates:
        reading.put(ours, round(value / updates, 4), name, meant=f"a share of the {updates} updates")
    else:
        reading.leave(
            "value",
            f"a share of the updates is wanted: {shown(reading.said[name])} / the `updates` that `tunesmith plan` says",
            name,
            ours=ours,
        )


def optimizer(reading: Reading) -> None:
    for name in ("optimizer", "optim", "optim_config.name"):
        value = reading.said.get(name)
        if value is None:
            continue
        kind = str(value).lower()
        if "adamw" not in kind:
            reading.leave("value", "the optimizer here is AdamW; learning rates of others do not carry over", name)
        elif "8bit" in kind or "4bit" in kind or "paged" in kind:
            reading.leave("meant", "AdamW, with its state in 32 bit and in memory", name, ours="train.optim")
        else:
            reading.leave("same", "", name, ours="train.optim")
    for ours in ("beta1", "beta2", "eps", "weight_decay", "clip_norm"):
        for name in reading.names(f"train.optim.{ours}"):
            value = number(reading.said[name])
            if value is None:
                reading.leave("value", "wanted: a number", name, ours=f"train.optim.{ours}")
                continue
            meant = "acts on matrices only, never on norms and biases" if ours == "weight_decay" and value else ""
            reading.put(f"train.optim.{ours}", value, name, meant=meant)
