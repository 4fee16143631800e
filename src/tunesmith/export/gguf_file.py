"""A transformers folder as one GGUF file, for llama.cpp and what is built on it.

Written for the families below, where every choice of the configuration is one that llama.cpp computes in the same way;
anything else is refused with the way out. Tensors are read, converted and written one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    GGML_QUANT_SIZES,
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    get_tensor_name_map,
    quant_shape_to_byte_shape,
    quantize,
)
from gguf.constants import GGML_QUANT_VERSION
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig

from tunesmith.errors import ModelError
from tunesmith.export.vocabulary import Vocabulary

QUANTS = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
FAMILIES = {
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
    "gemma3_text": MODEL_ARCH.GEMMA3,
}
LARGEST_F16 = 65504.0
GEMMA3_PATTERN = 6  # every sixth layer sees everything, the others a window
GEMMA3_LOCAL_THETA = 10000.0  # llama.cpp's base for the layers with a window


@dataclass(frozen=True, slots=True)
class About:
    """What a reader of the file's metadata learns of its origin."""

    name: str
    base_model: str
    licence: str


def config_of(folder: Path) -> Any:
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def refuse_family(config: Any) -> None:
    """Raise ModelError where llama.cpp would compute something else than transformers does."""
    kind = config.model_type
    reasons: list[str] = []
    if kind not in FAMILIES:
        reasons.append(f"family {kind} is not one of {', '.join(FAMILIES)}")
    else:
        rope = full_rope(config)
        scaled = ("default", "llama3") if FAMILIES[kind] == MODEL_ARCH.LLAMA else ("default",)
        if rope.get("rope_type", "default") not in scaled:
            reasons.append(f"rotary positions are of type {rope['rope_type']}; written here: {', '.join(scaled)}")
        if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
            reasons.append("its projections have biases")
        reasons += odd_gemma3(config) if kind == "gemma3_text" else odd_window(config)
    if reasons:
        raise ModelError(
            f"this model is not written as GGUF here: {'; '.join(reasons)}. Export `--to merged` and convert that "
            "folder with llama.cpp's convert_hf_to_gguf.py."
        )


def odd_window(config: Any) -> list[str]:
    """llama.cpp computes these families without a window."""
    said = config.to_dict()
    window = said.get("sliding_window")
    in_use = "sliding_attention" in (said.get("layer_types") or [])
    if config.model_type == "mistral":
        in_use = window is not None
    if in_use and window < config.max_position_embeddings:
        return [f"its attention has a window of {window} tokens, which llama.cpp does not compute for this family"]
    return []


def odd_gemma3(config: Any) -> list[str]:
    found = []
    if config.query_pre_attn_scalar != config.head_dim:
        found.append(f"query_pre_attn_scalar is {config.query_pre_attn_scalar}, not head_dim {config.head_dim}")
    if config.final_logit_softcapping or config.attn_logit_softcapping:
        found.append("it caps logits")
    if any((kind == "full_attention") != ((i + 1) % GEMMA3_PATTERN == 0) for i, kind in enumerate(config.layer_types)):
        found.append(f"its full attention is not in every {GEMMA3_PATTERN}th layer")
    local = config.rope_parameters["sliding_attention"]
    if local.get("rope_type", "default") != "default" or local["rope_theta"] != GEMMA3_LOCAL_THETA:
        found.append(f"the rotary base of its windowed layers is not {GEMMA3_LOCAL_THETA:g}")
    return found


def full_rope(config: Any) -> dict[str, Any]:
    rope: dict[str, Any] = config.rope_parameters
    return rope.get("full_attention", rope)


def head_dim(config: Any) -> int:
    said = config.to_dict().get("head_dim")
    return int(said) if said else config.hidden_size // config.num_attention_heads


def write_metadata(writer: GGUFWriter, config: Any, about: About, quant: str) -> None:
    kind, size = config.model_type, head_dim(config)
    writer.add_type("model")
    writer.add_name(about.name)
    writer.add_license(about.licence)
    writer.add_string("general.base_model.0.name", about.base_model)
    writer.add_uint32("general.base_model.count", 1)
    writer.add_file_type(int(QUANTS[quant][1]))
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(full_rope(config)["rope_theta"]))
    writer.add_vocab_size(config.vocab_size)
    if FAMILIES[kind] == MODEL_ARCH.LLAMA:
        writer.add_rope_dimension_count(size)
    if FAMILIES[kind] != MODEL_ARCH.LLAMA or size * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(size)
        writer.add_value_length(size)
    if kind == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)


def permute(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of a query or key projection from halves (transformers) to pairs (llama.cpp's rotary of this family)."""
    rows = weight.shape[0] // num_heads // 2
    return weight.reshape(num_heads, 2, rows, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def converted(name: str, weight: Tensor, config: Any) -> Tensor:
    """One tensor as llama.cpp's graph of the family wants it."""
    if FAMILIES[config.model_type] == MODEL_ARCH.LLAMA:
        if name.endswith("q_proj.weight"):
            return permute(weight, config.num_attention_heads)
        if name.endswith("k_proj.weight"):
            return permute(weight, config.num_key_value_heads)
    if config.model_type == "gemma3_text" and name.endswith("norm.weight"):
        return weight + 1.0  # transformers multiplies by 1 + weight, llama.cpp by what is stored
    return weight


def rope_factors(config: Any) -> np.ndarray:
    """[head_dim / 2] by which Llama 3's scaling divides the frequencies (Llama 3.1's `rope_freqs`)."""
    rope, size = full_rope(config), head_dim(config)
    frequency = 1.0 / (float(rope["rope_theta"]) ** (np.arange(0, size, 2, dtype=np.float64) / size))
    turns = rope["original_max_position_embeddings"] * frequency / (2 * np.pi)  # in the context of pre-training
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / rope["factor"] + smooth)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the file to be: `load` gives its values in float32."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    load: Callable[[], np.ndarray]


def stored_tensors(folder: Path, config: Any, quant: str) -> Iterator[Stored]:
    names = get_tensor_name_map(FAMILIES[config.model_type], config.num_hidden_layers)
    wanted = QUANTS[quant][0]
    if full_rope(config).get("rope_type") == "llama3":
        factors = rope_factors(config)
        yield Stored("rope_freqs.weight", factors.shape, GGMLQuantizationType.F32, lambda: factors)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as handle:
            for name in sorted(handle.keys()):
                if name == "lm_head.weight" and config.tie_word_embeddings:
                    continue
                found = names.get_name(name, try_suffixes=(".weight", ".bias"))
                if found is None:
                    raise ModelError(f"{path} holds a tensor {name} that a GGUF file of this family has no place for")
                shape = tuple(handle.get_slice(name).get_shape())
                kind = kind_of(shape, wanted)

                def load(path: Path = path, name: str = name) -> np.ndarray:
                    with safe_open(path, framework="pt") as again:
                        weight = again.get_tensor(name).to(torch.float32)
                    return np.ascontiguousarray(converted(name, weight, config).numpy())

                yield Stored(found, shape, kind, load)


def kind_of(shape: tuple[int, ...], wanted: GGMLQuantizationType) -> GGMLQuantizationType:
    """Vectors stay in float32; rows that do not divide into blocks are kept in float16."""
    if len(shape) < 2:
        return GGMLQuantizationType.F32
    block, _ = GGML_QUANT_SIZES[wanted]
    return wanted if shape[-1] % block == 0 else GGMLQuantizationType.F16


def as_kind(values: np.ndarray, kind: GGMLQuantizationType, name: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ModelError(f"tensor {name} is not finite: this model cannot be exported")
    if kind == GGMLQuantizationType.F16 and np.abs(values).max(initial=0.0) > LARGEST_F16:
        raise ModelError(f"tensor {name} holds values beyond float16 ({np.abs(values).max():.3g}); use --quant f32")
    return quantize(values, kind)


def write_gguf(folder: Path, vocabulary: Vocabulary, template: str, path: Path, quant: str, about: About) -> None:
    """The model in `folder`, as transformers saves one, as the GGUF file `path`."""
    config = config_of(folder)
    refuse_family(config)
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[FAMILIES[config.model_type]])
    write_metadata(writer, config, about, quant)
    vocabulary.write(writer, template)
    tensors = list(stored_tensors(folder, config, quant))
    for t in tensors:
        shape = t.shape
        width: np.dtype[Any] = np.dtype(np.uint8)
        if t.kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            width = np.dtype(np.float32 if t.kind == GGMLQuantizationType.F32 else np.float16)
        else:
            shape = quant_shape_to_byte_shape(shape, t.kind)
        num_bytes = int(np.prod(shape)) * width.itemsize
        writer.add_tensor_info(t.name, shape, width, num_bytes, raw_dtype=t.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for t in tensors:
        writer.write_tensor_data(as_kind(t.load(), t.kind, t.name))
    writer.close()
