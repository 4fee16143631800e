"""The head of a language model: hidden states after the final norm -> logits, with the model's scale and soft-cap.

`find_head` reads it off the model's configuration and then proves it against the model's own logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import ModelError
from tunesmith.models.chunked import Projection

NUM_PROVED = 5  # positions whose logits are compared


def inner(model: Any) -> Any:
    """Below peft's wrapper, whatever the adapter is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The transformers model, with its adapters, below peft's wrapper."""
    if isinstance(model, PeftModel):
        if model.active_peft_config.is_prompt_learning:
            raise ModelError(
                f"the adapter is a {model.active_peft_config.peft_type.value}, which adds tokens to every sequence; "
                "hidden states by forest or padded layout know LoRA and its kin only. Use one of these."
            )
        model = model.get_base_model()
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"a {type(model).__name__} is not a transformers model; load one with AutoModelForCausalLM.")
    return model


def whole_rows(model: PreTrainedModel) -> PreTrainedModel:
    """The same, with a head that is handed its states in one piece. transformers' `generate` hands it a slice, the last
    position of each row, and torch 2.13 multiplies a slice in bfloat16 on a CPU 40 times slower."""
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_in_one_piece)
    return model


def _in_one_piece(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    [states] = given
    return (states.clone(memory_format=torch.contiguous_format),)


@dataclass(frozen=True, slots=True)
class Head:
    """The weight is looked up at every use: adapters may have been injected, and what is tied stays tied."""

    model: PreTrainedModel
    scale: float
    softcap: float | None

    @property
    def weight(self) -> Tensor:
        """[V, D], with what an adapter adds; gradients reach the parameters behind it."""
        return _weight(self.model.get_output_embeddings())

    @property
    def bias(self) -> Tensor | None:
        """[V], or None."""
        module = self.model.get_output_embeddings()
        while isinstance(module, LoraLayer | ModulesToSaveWrapper):
            module = module.base_layer if isinstance(module, LoraLayer) else _active(module)
        if "final_logits_bias" in dict(self.model.named_buffers(recurse=False)):  # BART
            return dict(self.model.named_buffers(recurse=False))["final_logits_bias"][0]
        return module.bias if isinstance(module, nn.Linear) else None

    @property
    def projection(self) -> Projection:
        return Projection(self.weight, self.bias, self.scale, self.softcap)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> [..., V] float32."""
        return self.projection.logits(hidden)


@dataclass(frozen=True, slots=True)
class KeptHead:
    """A head with weights of its own: of a reference whose model has moved on."""

    projection: Projection

    @property
    def weight(self) -> Tensor:
        return self.projection.weight


def _active(module: ModulesToSaveWrapper) -> nn.Module:
    if module.disable_adapters or not module.active_adapters:
        return module.original_module
    return module.modules_to_save[module.active_adapters[0]]


def _weight(module: nn.Module | None) -> Tensor:
    if isinstance(module, ModulesToSaveWrapper):
        return _weight(_active(module))
    if isinstance(module, LoraLayer) and isinstance(module, nn.Module):
        weight = _weight(module.get_base_layer())
        if module.disable_adapters or module.merged:
            return weight
        for name in module.active_adapters:
            if name not in module.lora_A:
                continue
            if module.use_dora.get(name) or not isinstance(module.lora_dropout[name], nn.Identity):
                raise ModelError(
                    f"adapter {name!r} on the head uses DoRA or dropout, which the chunked head does not compute. "
                    "Take the head out of the adapter's target modules."
                )
            weight = weight + module.get_delta_weight(name)
        return weight
    if isinstance(module, nn.Linear | nn.Embedding):
        return module.weight
    raise ModelError(
        f"the model's head is a {type(module).__name__}; tunesmith computes linear heads (tied or not, LoRA on them or "
        "not). Load a model for causal or sequence-to-sequence language modelling."
    )


def find_head(model: nn.Module) -> Head:
    """The head of a loaded model, proved on random hidden states against the model's own logits."""
    causal = unwrapped(model)
    if causal.get_output_embeddings() is None:
        raise ModelError(
            f"{type(causal).__name__} has no language-modelling head. Load it with AutoModelForCausalLM or "
            "AutoModelForSeq2SeqLM."
        )
    tried = []
    for scale in _scales(causal):
        head = Head(causal, scale, _softcap(causal))
        difference = _difference(head)
        if difference <= _tolerance(causal.dtype):
            return head
        tried.append(f"scale {scale:g}: {difference:.1e}")
    raise ModelError(
        f"the logits of {type(causal).__name__} are not hidden states times its output embedding with the scale and "
        f"soft-cap of its configuration (largest difference, relative: {'; '.join(tried)}). Use another model."
    )


def _setting(model: PreTrainedModel, name: str) -> float | None:
    value = model.config.to_dict().get(name)
    return None if value is None else float(value)


def _scales(model: PreTrainedModel) -> list[float]:
    """Candidates, the likeliest first. A name in the configuration is not always used by the model."""
    found = []
    if (scale := _setting(model, "logit_scale")) is not None:  # Cohere
        found.append(scale)
    if (divisor := _setting(model, "logits_scaling")) is not None:  # Granite
        found.append(1.0 / divisor)
    if model.config.is_encoder_decoder and (width := _setting(model, "d_model")) is not None:  # T5 with tied embeddings
        found.append(width**-0.5)
    return [*found, 1.0]


def _softcap(model: PreTrainedModel) -> float | None:
    return _setting(model, "final_logit_softcapping")  # Gemma 2


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-4 if dtype in (torch.float32, torch.float64) else 3e-2


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; every module's own mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _difference(head: Head) -> float:
    """Largest difference to the model's own logits, relative to the largest of these.

    Hooks put random hidden states in the place of the body's, small and large ones, so that a soft-cap shows.
    """
    model = head.model
    device, width = model.device, head.weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    bodies = [body for body in {model.base_model, model.get_decoder()} if body is not model]  # OPT skips its own body
    ids = torch.arange(1, NUM_PROVED + 1, device=device)[None] % head.weight.shape[0]
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = NUM_PROVED
    worst = 0.0
    with evaluating(model):
        for size in (1.0, 30.0):
            hidden = (size * torch.randn(1, NUM_PROVED, width, generator=generator)).to(device, model.dtype)

            def replace(_: nn.Module, __: Any, output: Any, hidden: Tensor = hidden) -> Any:
                output.last_hidden_state = hidden
                return output

            handles = [body.register_forward_hook(replace) for body in bodies]
            try:
                own = model(**inputs).logits.float()
            finally:
                for handle in handles:
                    handle.remove()
            found = head.logits(hidden)
            if own.shape != found.shape:
                return float("inf")
            worst = max(worst, float((own - found).abs().max() / own.abs().max().clamp_min(1e-30)))
    return worst
