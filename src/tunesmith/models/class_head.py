"""The class head of a model: which tensors it is, its last layer, and one for other labels in its place.

transformers' heads differ (BERT a linear layer behind its pooler, RoBERTa two layers on the first token, ModernBERT a
norm on a mean); what they have in common is that a linear layer comes last, and what it reads is the pooled state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.errors import ModelError
from tunesmith.models.chunked import Projection
from tunesmith.models.heads import Head
from tunesmith.models.kinds import has_classes

POOLER = "pooler"  # in the body of BERT and its kin, but of no use to anything but a head
Problem = Literal["single_label_classification", "multi_label_classification"]
ONE: Problem = "single_label_classification"
SEVERAL: Problem = "multi_label_classification"
KEPT = "class_head.safetensors"  # in a run folder: the head of the base, and the other probe


def outside(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """What stands outside of the body, by name: a head."""
    body = f"{model.base_model_prefix}."
    return {name: parameter for name, parameter in model.named_parameters() if not name.startswith(body)}


def head_tensors(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """What belongs to the class head, by name: all outside of the body, and the body's pooler. {} without a head."""
    if not has_classes(model):
        return {}
    body = f"{model.base_model_prefix}."
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if not name.startswith(body) or name.startswith(f"{body}{POOLER}.")
    }


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules that hold those tensors, as peft's modules_to_save wants them: classifier, pooler …"""
    body = f"{model.base_model_prefix}."
    return sorted({name.removeprefix(body).split(".")[0] for name in head_tensors(model)})


def last_linear(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """The layer that gives the logits of the classes, and its name."""
    inside = {id(module) for module in model.base_model.modules()}
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and id(m) not in inside]
    if not found:
        raise ModelError(f"the class head of {type(model).__name__} has no linear layer. Use another model.")
    return found[-1]


@dataclass(frozen=True, slots=True)
class ClassHead(Head):
    """Pooled state -> logits of the classes. The layer is looked up at every use, for it may have been replaced."""

    scale: float = 1.0
    softcap: float | None = None

    @property
    def weight(self) -> Tensor:
        """[C, D]."""
        return last_linear(self.model)[1].weight

    @property
    def bias(self) -> Tensor | None:
        """[C], or None."""
        return last_linear(self.model)[1].bias

    @property
    def projection(self) -> Projection:
        return Projection(self.weight, self.bias, sigmoid=gives_several(self.model))


def labels_of(model: PreTrainedModel) -> tuple[str, ...]:
    """The names of the model's classes, by their numbers."""
    names = {int(number): str(name) for number, name in (model.config.id2label or {}).items()}
    return tuple(names[number] for number in sorted(names))


def pad_by(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Name the padding where the configuration names none, as of most decoders: the head looks for the last token that
    is not padding, and of several texts at once it would otherwise refuse to."""
    config = model.config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def gives_several(model: PreTrainedModel) -> bool:
    """Whether each class is a question by itself (a sigmoid), so that several may fit a text, or none."""
    return bool(model.config.problem_type == SEVERAL)


@torch.no_grad()
def open_classes(model: PreTrainedModel, labels: Sequence[str], *, several: bool = False) -> frozenset[str]:
    """Make the model's classes these labels, in their order: its own ones sorted anew, or zeros for others, whose names
    are returned. `several` of them may fit a text, or one does; a head of the other kind is another."""
    before, is_so, config = labels_of(model), gives_several(model) == several, model.config
    config.problem_type = SEVERAL if several else ONE
    if is_so and before == tuple(labels):
        return frozenset()
    name, old = last_linear(model)
    new = nn.Linear(old.in_features, len(labels), bias=old.bias is not None).to(old.weight)
    order = [before.index(label) for label in labels] if is_so and sorted(before) == sorted(labels) else None
    for key, parameter in new.named_parameters():
        parameter.copy_(torch.zeros_like(parameter) if order is None else old.get_parameter(key)[order])
    model.set_submodule(name, new.requires_grad_(False).train(old.training))
    config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    model.num_labels = len(labels)  # type: ignore[assignment]
    return frozenset(f"{name}.{key}" for key, _ in new.named_parameters() if order is None)


def offset(model: PreTrainedModel) -> int:
    """Positions that no token is given: RoBERTa and its kin count from behind the number of their padding token."""
    tables = (m for n, m in model.named_modules() if n.endswith("position_embeddings") and isinstance(m, nn.Embedding))
    return next((m.padding_idx + 1 for m in tables if m.padding_idx is not None), 0)
