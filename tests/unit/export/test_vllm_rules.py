"""vLLM's rules for an adapter's folder: ours keep them, and each broken one is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tunesmith.export.vllm_rules import vllm_facts

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


def folder(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
    config = {"r": 4, "lora_alpha": 8.0, "target_modules": ["q_proj"], "bias": "none", "modules_to_save": None}
    (path / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    rank = int(changes.get("r") or 4)
    good = {f"{LAYER}.lora_A.weight": torch.zeros(rank, 8), f"{LAYER}.lora_B.weight": torch.zeros(8, rank)}
    save_file(good if tensors is None else tensors, path / "adapter_model.safetensors")
    return path


def test_a_good_folder_and_the_flag_it_needs(tmp_path: Path) -> None:
    assert vllm_facts(folder(tmp_path)) == {"breaches": [], "max_lora_rank": 16}
    assert vllm_facts(folder(tmp_path, r=100)) == {"breaches": [], "max_lora_rank": 128}


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "dora": ({"use_dora": True}, "DoRA"),
    "bias": ({"bias": "all"}, "bias is 'all'"),
    "rank": ({"r": 1024}, "at most 512"),
    "patterns": ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is set"),
    "no targets": ({"target_modules": []}, "lacks target_modules"),
    "no tensor": ({"tensors": {}}, "holds no tensor"),
    "half a pair": ({"tensors": {f"{LAYER}.lora_A.weight": torch.zeros(4, 8)}}, "has no lora_B"),
    "another rank": ({"tensors": {f"{LAYER}.lora_A.weight": torch.zeros(3, 8)}}, "has rank 3"),
    "a name": ({"tensors": {"q_proj.lora_A.default.weight": torch.zeros(4, 8)}}, "is not named"),
    "head": ({"tensors": {"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 8)}}, "lm_head is adapted"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_each_broken_rule_is_named(what: str, tmp_path: Path) -> None:
    changes, message = BROKEN[what]
    found = vllm_facts(folder(tmp_path, **changes))["breaches"]
    assert any(message in line for line in found), found
