"""Which weights train: LoRA and its shape, all weights, or the last layers."""

from __future__ import annotations

import math
from typing import Any

from tunesmith.importing.reading import Reading, is_off, number
from tunesmith.importing.tools import Tool

METHODS = {"lora": "lora", "qlora": "lora", "full": "full", "freeze": "last_k"}
EVERYTHING = ("all", "all-linear")
HEADS = ("lm_head", "embed_tokens")


def method(reading: Reading, tool: Tool) -> None:
    names = reading.names("adapt.method")
    chosen = "full"
    for name in names:
        value = reading.said[name]
        kind = ("lora" if value else "full") if isinstance(value, bool) else str(value).lower()
        if kind not in METHODS:
            reading.leave("value", "here: lora, full, last_k; LoRA is taken", name, ours="adapt.method")
            chosen = "lora"
            continue
        chosen = METHODS[kind]
        meant = "on a base in 4 bits: adapt.base_bits" if kind == "qlora" else ""
        reading.put("adapt.method", chosen, name, meant=meant)
    if not names:
        chosen = "lora" if tool.shown == "LLaMA-Factory" else "full"
        reading.settings["adapt.method"] = chosen
        reading.comments["adapt.method"] = f"not said in the file; what {tool.shown} does then"
    if chosen == "lora":
        shape(reading, tool)
        targets(reading)
    else:
        for ours in ("adapt.rank", "adapt.alpha", "adapt.dropout", "adapt.targets"):
            reading.leave("off", f"LoRA is not used ({chosen})", *reading.names(ours), ours=ours)
    held(reading, chosen)
    layers(reading, chosen)


def shape(reading: Reading, tool: Tool) -> None:
    """Rank, alpha and dropout; rank-stabilised LoRA is the same as a larger alpha."""
    for ours in ("adapt.rank", "adapt.alpha", "adapt.dropout"):
        for name in reading.names(ours):
            value = number(reading.said[name])
            if value is None or value < 0 or (ours != "adapt.dropout" and value == 0):
                reading.leave("value", "wanted: a number above 0", name, ours=ours)
            else:
                reading.put(ours, int(value) if ours == "adapt.rank" else value, name)
    rank = reading.settings.setdefault("adapt.rank", tool.lora_rank)
    reading.comments.setdefault("adapt.rank", f"not said in the file; what {tool.shown} does then")
    if "adapt.alpha" not in reading.settings:
        reading.settings["adapt.alpha"] = 32.0 if tool.shown == "TRL" else 2.0 * rank
        reading.comments["adapt.alpha"] = f"not said in the file; what {tool.shown} does then"
    for name in ("peft_use_rslora", "use_rslora", "peft.use_rslora"):
        if reading.said.get(name) is True:
            scaled = round(reading.settings["adapt.alpha"] * math.sqrt(rank), 4)
            meant = "rank-stabilised LoRA is plain LoRA with alpha x sqrt(rank)"
            reading.put("adapt.alpha", scaled, name, meant=meant)


def targets(reading: Reading) -> None:
    """Names of modules. All linear layers but the head is what an empty list means here."""
    for name in reading.names("adapt.targets"):
        value = reading.said[name]
        if value is True or value in EVERYTHING or value == list(EVERYTHING[1:]):
            reading.put("adapt.targets", [], name)
            reading.comments["adapt.targets"] += "; an empty list is all linear layers but the head"
        elif value is False:
            reading.leave("off", "empty or off in the file", name, ours="adapt.targets")
        elif (listed := names_of(value)) is None:
            reading.leave("value", "wanted: names of modules, no pattern; all linear layers are taken", name,
                          ours="adapt.targets")  # fmt: skip
        elif reading.settings.get("adapt.targets") == []:
            reading.leave("value", "all linear layers are asked for too, and that is what counts", name)
        else:
            kept = [m for m in listed if m not in HEADS]
            meant = "" if kept == listed else "head and embeddings stay as they are under LoRA"
            reading.put("adapt.targets", kept, name, meant=meant)


def names_of(value: Any) -> list[str] | None:
    """Module names from a list or a text with commas; None for a pattern."""
    listed = [str(v).strip() for v in (value if isinstance(value, list) else str(value).split(","))]
    return listed if all(v.replace("_", "").replace(".", "").isalnum() for v in listed) else None


def held(reading: Reading, chosen: str) -> None:
    """In how many bits the base's layers are, under LoRA."""
    ours = "adapt.base_bits"
    for name in reading.names(ours):
        value = reading.said[name]
        bits = {"load_in_4bit": 4, "load_in_8bit": 8}.get(name) if value is True else number(value)
        if is_off(value):
            reading.leave("off", "empty or off in the file", name, ours=ours)
        elif chosen != "lora":
            reading.leave("off", f"only under LoRA, and here it is {chosen}", name, ours=ours)
        elif bits not in (4, 8):
            reading.leave("value", "wanted: 4 or 8", name, ours=ours)
        elif ours in reading.settings:
            reading.leave("value", f"{reading.settings[ours]} bits are asked for too, and that is what counts", name)
        else:
            way = "NF4, without double quantisation" if bits == 4 else "whole numbers, a magnitude for each 64 of them"
            reading.put(ours, int(bits), name, meant=way)
    if "qlora" in [str(reading.said[name]).lower() for name in reading.names("adapt.method")]:
        reading.settings.setdefault(ours, 4)
        reading.comments.setdefault(ours, "what qlora means")


def layers(reading: Reading, chosen: str) -> None:
    """LLaMA-Factory's `freeze` trains the last layers; with a negative number, the first ones."""
    for name in reading.names("adapt.last_k"):
        value = number(reading.said[name])
        if chosen != "last_k":
            reading.leave("off", f"only with freeze, and the file says {chosen}", name, ours="adapt.last_k")
        elif value is None or value < 1:
            reading.leave("value", "the last layers train here, never the first ones", name, ours="adapt.last_k")
        else:
            reading.put("adapt.last_k", int(value), name)
    if chosen == "last_k" and not reading.names("adapt.last_k"):
        reading.settings["adapt.last_k"] = 2
        reading.comments["adapt.last_k"] = "not said in the file; what LLaMA-Factory does then"
