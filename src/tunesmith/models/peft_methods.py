"""IA3, and any other method of peft by its name: its layers in the model, and the proof that forests suit them.

The engine's own LoRA is in `adapters`. What is here is peft's code, unchanged: its layers are put around the model's
own, and whether that may be done is not looked up but tried (`prove`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftType, get_peft_model_state_dict, inject_adapter_in_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import ModelError, PlanError, did_you_mean
from tunesmith.models.hidden import hidden_states
from tunesmith.models.kinds import task_type
from tunesmith.models.probe import Probe, probe, small_forest
from tunesmith.models.prompts import OPTIONS, take_away

OWN_TARGETS = ("ia3", "ln_tuning", "trainable_tokens")  # peft knows better which layers than "all that are linear"
BESIDE = ("modules_to_save", "inference_mode", "bias")  # options of peft that are no part of a method
NOTHING: tuple[object, ...] = (None, False, "none", [])
PROVED = "proved"  # the name of an adapter that is there for as long as the proof takes
SPREAD = 0.05  # of the noise that is put into it
SHARED = "its layers share tensors that peft keeps outside of the model's layers. Use adapt.method: lora"
NEEDS_MORE = {
    "lora": "it is the engine's own: say adapt.method: lora",
    "adalora": "it moves ranks between layers by calls in a loop of its own. Use adapt.method: lora",
    "trainable_tokens": "it wants the numbers of new tokens. Rows of an embedding train with adapt.method: named",
    "xlora": "it mixes adapters that are trained already, and there are none",
    "poly": "it wants the number of a task beside each example",
}
TOKENS = (
    "it puts something before every sequence in a way of its own, or it is no method of layers. Use adapt.peft: "
    "prompt_tuning, p_tuning or prefix_tuning, or a method that changes layers (adapt.method: lora, ia3)"
)


def known_methods() -> list[str]:
    """Names that are tried."""
    return sorted(
        kind.value.lower()
        for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()
        if kind in PEFT_TYPE_TO_CONFIG_MAPPING
        and isinstance(tuner, type)
        and issubclass(tuner, BaseTuner)
        and kind.value.lower() not in NEEDS_MORE
    )


def peft_config(name: str, options: dict[str, Any], targets: list[str] | None, model: PreTrainedModel) -> PeftConfig:
    """peft's configuration of this method. `targets`: names of layers; None leaves them to peft."""
    by_name = {kind.value.lower(): found for kind, found in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if name in NEEDS_MORE:
        raise PlanError(f"adapt.peft {name}: {NEEDS_MORE[name]}")
    if name not in by_name:
        known = [*known_methods(), *OPTIONS]
        raise PlanError(f"adapt.peft is {name!r}; peft has {', '.join(known)}.{did_you_mean(name, known)}")
    if name not in known_methods():
        raise PlanError(f"adapt.peft {name}: {TOKENS}")
    names = {f.name for f in fields(by_name[name])}
    odd = next((option for option in options if option not in names), None)
    if odd is not None:
        raise PlanError(f"adapt.options has {odd!r}, which {name} of peft has not.{did_you_mean(odd, sorted(names))}")
    drops = next((option for option, value in options.items() if "dropout" in option and value), None)
    if drops is not None:
        raise PlanError(
            f"adapt.options.{drops}: peft draws it anew in each micro-batch, so how an update is cut would change what "
            "is learned. Leave it out, or use adapt.method: lora with adapt.dropout"
        )
    beside = next((option for option, value in options.items() if option in BESIDE and value not in NOTHING), None)
    if beside is not None:
        raise PlanError(
            f"adapt.options.{beside} is {options[beside]!r}: only the method's own layers train here. Leave it out, or "
            "train weights of the model by adapt.method: named"
        )
    if targets is not None and "target_modules" in options:
        raise PlanError(
            f"adapt.targets names {', '.join(targets)}, and adapt.options.target_modules {options['target_modules']}: "
            "both say which layers. Use one of the two"
        )
    given = {} if targets is None or "target_modules" not in names else {"target_modules": targets}
    if name == "ia3" and targets is not None:
        given["feedforward_modules"] = []
    about = {"task_type": task_type(model.config), "base_model_name_or_path": str(model.config.name_or_path)}
    try:
        return by_name[name](**{**about, **given, **options})
    except (TypeError, ValueError) as error:
        raise PlanError(f"peft refuses adapt.options for {name}: {error}") from error


def put_in(model: PreTrainedModel, config: PeftConfig, key: str, seed: int) -> dict[str, nn.Parameter]:
    """Live parameters, without the adapter's name in theirs. What is drawn at the start depends on the seed alone."""
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model, adapter_name=key)
    except (ValueError, TypeError, NotImplementedError) as error:
        take_out(model)
        if "shared state" in str(error):
            raise PlanError(f"adapt.peft {name_of(config)}: {SHARED}") from error
        raise PlanError(
            f"peft cannot put {name_of(config)} on {type(model).__name__}: {' '.join(str(error).split())}. "
            "adapt.options takes peft's own options"
        ) from error
    model.requires_grad_(False)
    live = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if key in parts:
            parameter.data = parameter.data.to(dtype=model.dtype, device=model.device)
            live[".".join(p for p in parts if p != key)] = parameter
    if not live:
        take_out(model)
        raise PlanError(f"peft put nothing that trains on {type(model).__name__}: say adapt.targets")
    return live


def take_out(model: PreTrainedModel) -> None:
    """Put the plain layers back where adapters were injected."""
    take_away(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            model.set_submodule(name, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


@contextmanager
def tried(model: PreTrainedModel, config: PeftConfig) -> Iterator[dict[str, nn.Parameter]]:
    """The live parameters, for as long as it takes to look at them."""
    live = put_in(model, config, PROVED, 0)
    try:
        yield live
    finally:
        take_out(model)


@torch.no_grad()
def prove(model: PreTrainedModel, config: PeftConfig, before: Probe) -> None:
    """PlanError where the method does not begin at the base, or, moved away from it, mixes the tokens of a forest."""
    name = name_of(config)
    forest = small_forest(model)
    wanted = hidden_states(model, forest, before.layout)
    with tried(model, config) as live:
        apart = distance(hidden_states(model, forest, before.layout), wanted)
        if not apart <= (1e-5 if model.dtype == torch.float32 else 1e-2):
            raise PlanError(
                f"adapt.peft {name} with these options does not begin at the base (hidden states differ by {apart:.1g})"
                ", so nothing could be said against it. Options that start it at zero mend that"
            )
        noise = torch.Generator().manual_seed(0)
        for parameter in live.values():
            parameter.add_(torch.randn(parameter.shape, generator=noise).to(parameter), alpha=SPREAD)
        if not distance(hidden_states(model, forest, before.layout), wanted) > 0:
            raise PlanError(f"adapt.peft {name}: what it trains changes nothing in {type(model).__name__}")
        try:
            found, why = probe(model).layout, ""
        except ModelError as error:
            found, why = "", f": {error}"
        if found != before.layout:
            raise PlanError(f"adapt.peft {name} mixes the tokens of a batch{why}. Use adapt.method: lora")
        places = [t.data_ptr() for t in get_peft_model_state_dict(model, adapter_name=PROVED).values()]
        if len({*places}) < len(places):  # which safetensors would not write
            raise PlanError(f"adapt.peft {name}: {SHARED}")


def unmergeable(model: PreTrainedModel, config: PeftConfig) -> str:
    """Why peft cannot make one model of base and adapter; "" where it can. Tried on a copy of each layer."""
    if config.is_prompt_learning:
        return "its rows stand before every sequence, and are no weights of the model"
    with tried(model, config):
        for name, module in model.named_modules():
            if isinstance(module, BaseTunerLayer):
                try:
                    deepcopy(module).merge()
                except (ValueError, NotImplementedError, AttributeError, TypeError) as error:
                    return f"{name}: {error}"
    return ""


def read_otherwise(targets: Iterable[str], model: PreTrainedModel) -> set[str]:
    """Those that peft takes for weights of a mixture's experts, as files of transformers 4 name them (in DeepSeek-V3
    dense layers and shared experts have the same names): LoRA would stand elsewhere, and no export be opened."""
    config = LoraConfig(target_modules=list(targets))
    convert_peft_config_for_transformers(config, model, None)
    return set(targets) - set(config.target_modules or ())


def name_of(config: PeftConfig) -> str:
    return PeftType(config.peft_type).value.lower()


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).float().norm() / b.float().norm())
