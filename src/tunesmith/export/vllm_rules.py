"""vLLM's rules for an adapter folder, checked without vLLM.

Source: vLLM's `vllm/lora/peft_helper.py` (which keys of adapter_config.json it accepts), `vllm/lora/utils.py`
(`parse_fine_tuned_lora_name`: tensor names), `vllm/config/lora.py` (ranks it allocates) and its page "LoRA Adapters".
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open

from tunesmith.files import BASE_CONFIG

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank may be
DEFAULT_RANK = 16  # vLLM's own, where the flag is not given
TENSOR = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
IGNORED = ("rank_pattern", "alpha_pattern", "layer_replication", "layers_to_transform", "trainable_token_indices")


def config_breaches(config: dict[str, Any]) -> list[str]:
    """Rules of adapter_config.json."""
    found = [f"adapter_config.json lacks {k}" for k in ("r", "lora_alpha", "target_modules") if not config.get(k)]
    if config.get("modules_to_save"):
        found.append(f"modules_to_save is {config['modules_to_save']}; vLLM wants null")
    if config.get("task_type") == "SEQ_2_SEQ_LM":
        found.append("the base is an encoder-decoder; vLLM adapts decoders only")
    if config.get("use_dora"):
        found.append("use_dora is true; vLLM has no DoRA")
    if config.get("bias", "none") != "none":
        found.append(f"bias is {config['bias']!r}; vLLM wants none")
    if int(config.get("r") or 1) > RANKS[-1]:
        found.append(f"the rank is {config['r']}; vLLM allocates at most {RANKS[-1]}")
    found += [f"{k} is set; vLLM does not read it and would compute another model" for k in IGNORED if config.get(k)]
    return found


def tensor_breaches(path: Path, rank: int) -> list[str]:
    """Rules of adapter_model.safetensors: names, an A and a B for each module, one rank."""
    found: list[str] = []
    sides: dict[str, set[str]] = {}
    with safe_open(path, framework="pt") as handle:
        for name in sorted(handle.keys()):
            match = TENSOR.match(name)
            if match is None:
                found.append(f"tensor {name} is not named base_model.model.<module>.lora_A|lora_B.weight")
                continue
            module, side = match["module"], match["side"]
            if module.rsplit(".", 1)[-1] in ("embed_tokens", "lm_head"):
                found.append(f"{module} is adapted; not every model of vLLM adapts embeddings or the head")
            sides.setdefault(module, set()).add(side)
            shape = handle.get_slice(name).get_shape()
            here = shape[0] if side == "A" else shape[1]
            if here != rank:
                found.append(f"tensor {name} has rank {here}, adapter_config.json says {rank}")
    found += [f"{module} has no lora_{'B' if 'A' in s else 'A'}" for module, s in sides.items() if len(s) < 2]
    return found or ([] if sides else ["adapter_model.safetensors holds no tensor"])


def vllm_facts(folder: Path) -> dict[str, Any]:
    """`breaches`: rules that the folder breaks, as sentences; `max_lora_rank`: the flag that vLLM needs for it."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    breaches = config_breaches(config)
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        breaches.append("there is no adapter_model.safetensors")
    elif config.get("r"):
        breaches += tensor_breaches(weights, int(config["r"]))
    if (folder / BASE_CONFIG).is_file():
        breaches.append(
            "it was trained with a longer context; vLLM reads the base's own config.json, and would compute another "
            "model unless the base is served (--hf-overrides) with rope_parameters and max_position_embeddings of "
            f"{BASE_CONFIG}"
        )
    fitting = [r for r in RANKS if r >= max(DEFAULT_RANK, int(config.get("r") or 1))]
    return {"breaches": breaches, "max_lora_rank": fitting[0] if fitting else None}
