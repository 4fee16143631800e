"""Weights on disk, in the layouts that peft and transformers load, with the digest of the base they were made on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import LoraConfig, PeftConfig, get_peft_model_state_dict
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.errors import ModelError, PlanError
from tunesmith.files import BASE_CONFIG, read_json, save_tensors
from tunesmith.models.adapters import MAGNITUDE, Adapt, Slot, config_of, lora_config
from tunesmith.models.claims import read_facts
from tunesmith.models.class_head import head_modules
from tunesmith.models.context import Context, extended
from tunesmith.models.prompts import ROWS, rows_of
from tunesmith.models.whole import save_whole

PEFT_PREFIX = "base_model.model."
FACTS = "tunesmith.json"
CONTEXT = TypeAdapter(Context)


def save_weights(
    model: PreTrainedModel, slot: Slot, values: dict[str, Tensor], folder: Path, base_digest: str
) -> dict[str, str]:
    """An adapter as peft writes it (LoRA), or the whole model, where `values` are live; heads are left behind. Gives
    the SHA-256 of the files that hold the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    if slot.adapt.is_adapter:
        tensors, config = adapter_of(model, slot, values)
        name = "adapter_model.safetensors"
        digest = save_tensors(
            {n: t.detach().cpu().contiguous() for n, t in tensors.items()}, folder / name,
            metadata={"format": "pt", "base_digest": base_digest},
        )  # fmt: skip
        hashed = {name: digest}
        config.inference_mode = True
        config.save_pretrained(str(folder))
    else:
        hashed = save_whole(model, folder)
    facts: dict[str, Any] = {"base_digest": base_digest, "method": slot.adapt.method}
    context = slot.adapt.context
    if context.tokens is not None:
        facts["context"] = asdict(context)
        name = BASE_CONFIG if slot.adapt.is_adapter else "config.json"
        extended(model.config, context).to_json_file(str(folder / name))
    if slot.adapt.base_bits:
        facts["base_bits"] = slot.adapt.base_bits
    (folder / FACTS).write_text(json.dumps(facts, indent=1))
    return hashed


def adapter_of(model: PreTrainedModel, slot: Slot, values: dict[str, Tensor]) -> tuple[dict[str, Tensor], PeftConfig]:
    """(tensors by the names on disk, configuration) of an adapter, as peft writes them."""
    if slot.adapt.is_prompt:
        return {ROWS: rows_of(model), **values}, config_of(slot.adapt, model)
    if slot.adapt.is_pefts:  # its configuration with what it derived from the options
        held, pefts = get_peft_model_state_dict(model, adapter_name=slot.key), cast(Any, model.peft_config)
        return {PEFT_PREFIX + n: t for n, t in held.items()}, copy(pefts[slot.key])
    config = lora_config(slot.adapt, model)
    config.modules_to_save = head_modules(model) or None
    return {PEFT_PREFIX + on_disk(n): t for n, t in values.items() if not n.startswith("heads.")}, config


def on_disk(name: str) -> str:
    """peft leaves the last part of the name of DoRA's lengths away."""
    return name.removesuffix(".weight") if MAGNITUDE in name else name


def in_memory(name: str) -> str:
    bare = name.removeprefix(PEFT_PREFIX)
    return f"{bare}.weight" if bare.endswith(MAGNITUDE) else bare


@contextmanager
def about_adapter(folder: Path) -> Iterator[None]:
    """What a model says of an adapter that it cannot take names the adapter's folder."""
    try:
        yield
    except PlanError as error:
        raise PlanError(f"the adapter in {folder} does not fit this model: {error}") from error


def read_adapter(folder: Path, base_digest: str, *, insist: bool = False) -> tuple[Adapt, dict[str, Tensor]]:
    """(shape, values) of an adapter folder. Refused on a base with another digest unless the user insists."""
    path = folder / "adapter_model.safetensors"
    if not path.is_file() or not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} is no adapter: wanted adapter_model.safetensors and adapter_config.json in it "
            "(pickled adapters, .bin, are never loaded)"
        )
    try:
        with safe_open(path, framework="pt") as handle:
            made_on = (handle.metadata() or {}).get("base_digest", "not recorded")
            tensors = {in_memory(name): handle.get_tensor(name) for name in list(handle.keys())}
    except SafetensorError as error:
        raise ModelError(f"{path} is not a whole safetensors file ({error}); copy it again") from error
    refuse_other_base(folder, made_on, base_digest, insist=insist)
    adapt = replace(adapt_of(lora_in(folder), folder), context=context_in(folder), base_bits=bits_in(folder))
    odd = next((n for n, t in tensors.items() if "lora_A" in n and t.dim() and t.shape[0] != adapt.rank), None)
    if odd is not None:
        raise ModelError(
            f"adapter {folder}: adapter_config.json says rank {adapt.rank}, and {odd} has the shape "
            f"{tuple(tensors[odd].shape)}; copy it again"
        )
    return adapt, {n: t.to(torch.float32) for n, t in tensors.items()}


def context_in(folder: Path) -> Context:
    """The longer context that an adapter was trained for, which is no part of what peft writes."""
    kept = read_facts(folder / FACTS).get("context") if (folder / FACTS).is_file() else None
    if kept is None:
        return Context()
    try:
        return CONTEXT.validate_python(kept)
    except ValidationError as error:
        raise ModelError(
            f"{folder / FACTS} says of the adapter's context {kept!r}; wanted tokens and method. Copy it again"
        ) from error


def bits_in(folder: Path) -> Literal[4, 8] | None:
    """In how many bits the base was held when an adapter was trained and measured; None: it was as it is."""
    kept = read_facts(folder / FACTS).get("base_bits") if (folder / FACTS).is_file() else None
    if kept not in (None, 4, 8):
        raise ModelError(f"{folder / FACTS} says that the base was held in {kept!r} bits; wanted 4 or 8. Copy it again")
    return kept


def lora_in(folder: Path) -> LoraConfig:
    """peft's configuration of a LoRA adapter. Raises ModelError where it is another, or none."""
    facts = read_facts(folder / "adapter_config.json")
    if facts.get("peft_type") != "LORA":
        raise ModelError(f"adapter {folder} is a {facts.get('peft_type')!r} of peft; only LORA is read")
    try:
        config = LoraConfig.from_pretrained(str(folder))
        Adapt("lora", int(config.r), float(config.lora_alpha), float(config.lora_dropout))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"adapter {folder}: its adapter_config.json cannot be read by peft ({error})") from error
    if config.r < 1 or not 0 <= config.lora_dropout < 1:
        raise ModelError(f"adapter {folder} has rank {config.r} and dropout {config.lora_dropout}; copy it again")
    return config


def read_weights(folder: Path, names: Sequence[str], base_digest: str, *, insist: bool = False) -> dict[str, Tensor]:
    """float32 values of these tensors of a tuned model's folder. Refused on another base unless the user insists."""
    facts = read_json(folder / FACTS)
    refuse_other_base(folder, facts["base_digest"], base_digest, insist=insist)
    values: dict[str, Tensor] = {}
    for path in sorted((*folder.glob("model*.safetensors"), *folder.glob("adapter_model.safetensors"))):
        with safe_open(path, framework="pt") as handle:
            there = {in_memory(n): n for n in list(handle.keys())}
            values |= {n: handle.get_tensor(there[n]).to(torch.float32) for n in names if n in there}
    missing = sorted(set(names) - set(values))
    if missing:
        raise ModelError(f"{folder} lacks {len(missing)} tensors of the tuned model, {missing[0]} first; copy it again")
    return values


def refuse_other_base(folder: Path, made_on: str, base_digest: str, *, insist: bool) -> None:
    if made_on != base_digest and not insist:
        raise ModelError(
            f"{folder} was made on a base with digest {made_on[:12]}, this base has {base_digest[:12]}. "
            "Its answers would be others than those that were measured. Put back the base it was made on, or run again "
            "on this one."
        )


def adapt_of(config: LoraConfig, folder: Path) -> Adapt:
    """The shape of a peft LoRA configuration, where it is one that this engine computes."""
    odd = [k for k in ("modules_to_save", "rank_pattern", "alpha_pattern") if getattr(config, k)]
    if odd or config.bias != "none":
        raise ModelError(
            f"adapter {folder} uses {', '.join(odd) or 'bias'}, which is not read yet; merge it with peft first"
        )
    targets = config.target_modules
    if not isinstance(targets, (list, set)):
        raise ModelError(f"adapter {folder} names its modules by a pattern ({targets}); wanted a list of names")
    modules, rs, dora = tuple(sorted(targets)), config.use_rslora, config.use_dora
    return Adapt("lora", config.r, float(config.lora_alpha), config.lora_dropout, modules, rslora=rs, dora=dora)
