"""Files that learn from pairs or marked replies: which loss, and its keys. Learning by rewards is refused elsewhere."""

from __future__ import annotations

from tunesmith.importing.reading import Reading, is_off, number, shown
from tunesmith.importing.tools import Tool

LOSSES = {"dpo": "dpo", "sigmoid": "dpo", "ipo": "ipo", "simpo": "simpo", "orpo": "orpo", "cpo": "cpo"}
WHERE = {"Axolotl": "rl", "LLaMA-Factory": "pref_loss", "TRL": "loss_type"}  # tool -> the key that names the loss
KEYS = {  # ours -> theirs; the units are the same
    "beta": ("rl_beta", "dpo_beta", "orpo_alpha", "pref_beta", "beta"),
    "gamma": ("simpo_gamma",),
    "label_smoothing": ("dpo_label_smoothing", "label_smoothing"),
    "nll": ("rpo_alpha", "cpo_alpha", "pref_ftx"),
}
STEM = "objective.preference"
BESIDE: dict[str, dict[str, tuple[str, object]]] = {  # task -> tool -> (the key that asks for it, what it says)
    "feedback": {"Axolotl": ("rl", "kto"), "LLaMA-Factory": ("stage", "kto"), "TRL": ("loss_type", "kto")},
    "reward": {"Axolotl": ("reward_model", True), "LLaMA-Factory": ("stage", "rm")},
}
BESIDE_KEYS: dict[str, dict[str, tuple[str, ...]]] = {  # task -> ours -> theirs
    "feedback": {
        "objective.kto.beta": ("rl_beta", "pref_beta", "beta"),
        "objective.kto.desirable": ("kto_desirable_weight", "kto_chosen_weight", "desirable_weight"),
        "objective.kto.undesirable": ("kto_undesirable_weight", "kto_rejected_weight", "undesirable_weight"),
    },
    "reward": {"objective.reward.centre": ("center_rewards_coefficient",)},
}
SIMPO = {"beta": 0.1, "gamma": 0.5}  # of all three tools; ours are nearer the paper


def pairs(reading: Reading, tool: Tool) -> bool:
    """Whether the file learns from pairs by a loss that is here; its keys have their fates then."""
    said, key = reading.said, WHERE[tool.shown]
    if tool.shown == "LLaMA-Factory" and said.get("stage") != "dpo":
        return False
    found = said.get(key, "sigmoid" if tool.shown == "LLaMA-Factory" else None)
    loss = LOSSES.get(str(found))
    if loss is None:
        return False
    if "stage" in said:
        reading.put("task.name", "preferences", "stage")
    reading.settings["task.name"] = "preferences"
    for ours, theirs in KEYS.items():
        for name in theirs:
            value = number(said.get(name))
            if value is None or (is_off(said[name]) and ours != "gamma"):
                continue
            loss = "cdpo" if (ours, loss) == ("label_smoothing", "dpo") else loss
            if f"{STEM}.{ours}" in reading.settings:
                reading.leave("value", "said by another key of the file", name, ours=f"{STEM}.{ours}")
            else:
                reading.put(f"{STEM}.{ours}", value, name)
    if key in said:
        reading.put(f"{STEM}.loss", loss, key)
    else:
        reading.settings[f"{STEM}.loss"] = loss
        reading.comments[f"{STEM}.loss"] = f"not said in the file; what {tool.shown} does then"
    if loss == "simpo":
        usual = SIMPO if tool.shown == "LLaMA-Factory" else SIMPO | {"nll": 1.0}  # TRL's cpo_alpha, Axolotl's too
        for ours, value in usual.items():
            if f"{STEM}.{ours}" not in reading.settings and not any(name in said for name in KEYS[ours]):
                reading.settings[f"{STEM}.{ours}"] = value
                reading.comments[f"{STEM}.{ours}"] = f"not said in the file; what {tool.shown} does then"
    if loss == "ipo":
        reading.settings[f"{STEM}.per_token"] = True
        reading.comments[f"{STEM}.per_token"] = f"{tool.shown} divides by the tokens of a reply; the paper does not"
    for name in ("max_prompt_length", "rl_adapter_ref_model"):
        if name in said:
            reading.leave(
                "needless", "whole examples count (data.max_tokens), and the reference is kept as numbers", name
            )
    return True


def beside_pairs(reading: Reading, tool: Tool) -> str | None:
    """The task of a file that learns from marked replies (KTO), or learns a reward model; its keys have their fates
    then. None: it does neither."""
    for task, tools in BESIDE.items():
        key, value = tools.get(tool.shown, ("", None))
        if key not in reading.said or reading.said[key] != value:
            continue
        reading.put("task.name", task, key)
        for ours, theirs in BESIDE_KEYS[task].items():
            for name in theirs:
                found = number(reading.said.get(name))
                if found is not None:
                    reading.put(ours, found, name)
        if "max_prompt_length" in reading.said:
            reading.leave("needless", "whole examples count (data.max_tokens)", "max_prompt_length")
        return task
    return None


def without_dropout(reading: Reading) -> None:
    """What is drawn would move the model against its reference."""
    if reading.settings.pop("adapt.dropout", 0):
        [name] = [key for key, fate in reading.fates.items() if fate.ours == "adapt.dropout"][:1]
        why = f"{shown(reading.said[name])}: nothing is dropped while pairs are learned"
        reading.leave("absent", why, name)
        reading.comments.pop("adapt.dropout", None)
