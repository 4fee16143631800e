"""What of a model trains: the slot in the live model, and the values that a tenant puts into it.

A slot is the set of live parameters that a kind of tenant trains: one peft adapter per LoRA shape, or weights of the
model itself. Tenants own float32 masters; a slot is only where they sit while a verb runs (DESIGN, idea 6).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import PlanError, did_you_mean
from tunesmith.models.blockwise import bits_of
from tunesmith.models.class_head import head_tensors, outside
from tunesmith.models.context import Context, check_context
from tunesmith.models.kinds import has_classes, has_masked_head, task_type
from tunesmith.models.low_rank import in_one_piece
from tunesmith.models.noise import Draw, KeyedDropout
from tunesmith.models.peft_methods import OWN_TARGETS, peft_config, prove, put_in, read_otherwise, take_out
from tunesmith.models.probe import Probe
from tunesmith.models.prompts import NUM_TOKENS, OPTIONS, prompt_config, put_before, try_prompt
from tunesmith.roles import LowRank

MAGNITUDE = "lora_magnitude_vector"  # peft's name for the lengths of DoRA
LORA, PEFTS = ("lora",), ("ia3", "peft")
READ_BY = {  # key of adapt -> the methods that read it
    "rank": LORA, "alpha": LORA, "dropout": LORA, "rslora": LORA, "dora": LORA, "targets": (*LORA, *PEFTS),
    "last_k": ("last_k",), "names": ("named",), "peft": ("peft",), "options": PEFTS,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Adapt:
    """Which weights train."""

    # small added matrices, all weights, the last layers, weights by their names, a factor for each channel, or peft's
    method: Literal["lora", "full", "last_k", "named", "ia3", "peft"] = "lora"
    rank: int = 16  # LoRA: size of the added matrices; more can learn more from very many rows
    alpha: float = 32.0  # LoRA: the update is scaled by alpha / rank
    dropout: float = 0.0  # LoRA: share of its input (of A) that is left out in training; 0.05 to 0.1 for few rows
    targets: tuple[str, ...] = ()  # LoRA: suffixes of module names; empty: all linear layers but the head
    rslora: bool = False  # LoRA: scale by alpha / root of rank instead, so that a higher rank learns as fast
    dora: bool = False  # LoRA: length and direction of each weight's rows train apart; slower, a little more memory
    base_bits: Literal[4, 8] | None = None  # LoRA: the frozen base is held in 4 bits (QLoRA) or 8; null: as it is
    last_k: int = 2  # last_k: number of decoder layers; the final norm trains with them
    names: tuple[str, ...] = ()  # named: patterns of tensors, such as "*.mlp.*" or "*norm*"
    peft: str = ""  # peft: the name of one of its methods, such as loha, oft, vera, fourierft
    options: dict[str, Any] = field(default_factory=dict)  # ia3, peft: peft's own options of the method, by their names
    context: Context = field(default_factory=Context)  # more tokens than the base was made for, by other rotary angles

    def key(self) -> str:
        """Tenants with one key share a slot. peft does not allow dots in adapter names."""
        return "_".join(filter(None, (self._weights_key(), self.context.word)))

    def _weights_key(self) -> str:
        if self.method == "full":
            return "full"
        if self.method == "last_k":
            return f"last_{self.last_k}"
        shape = f"{self.rank}-{self.alpha}-{self.dropout}-{self.targets}"
        if self.method == "named":
            shape = repr(self.names)
        elif self.is_pefts:
            shape = repr((self.peft, sorted(self.options.items()), self.targets))
        elif self.rslora or self.dora:
            shape += f"-{self.rslora}-{self.dora}"
        if self.base_bits:
            shape += f"-{self.base_bits}"
        return f"{self.method}_{hashlib.sha256(shape.encode()).hexdigest()[:8]}"

    @property
    def unread(self) -> list[str]:
        """Keys that are said for another method than the one that is taken."""
        usual = Adapt()
        return [
            key
            for key, methods in READ_BY.items()
            if self.method not in methods and getattr(self, key) != getattr(usual, key)
        ]

    @property
    def is_pefts(self) -> bool:
        """Whether the layers that train are peft's own."""
        return self.method in PEFTS

    @property
    def is_prompt(self) -> bool:
        """Whether what trains stands before every sequence."""
        return self.method == "peft" and self.peft in OPTIONS

    @property
    def num_before(self) -> int:
        """Tokens of a tuned prompt or prefix; 0 without one, or where `prompt_config` refuses what is said of them."""
        num = self.options.get("num_virtual_tokens", NUM_TOKENS)
        return num if self.is_prompt and isinstance(num, int) else 0

    @property
    def is_adapter(self) -> bool:
        """Whether it leaves an adapter behind, and no weights of the model itself."""
        return self.method == "lora" or self.is_pefts

    @property
    def scale(self) -> float:
        """Of LoRA's B A."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


@dataclass(slots=True)
class Slot:
    """Live parameters by their tenant-side names, and the values at which they are the untouched base."""

    key: str
    adapt: Adapt
    live: dict[str, nn.Parameter]
    # LoRA: zeros, which add exact zeros, and DoRA's lengths as they are; weights: the base's own, kept aside
    neutral: dict[str, Tensor]
    holder: object = None  # whose values are live now
    heads: nn.ModuleDict | None = None
    draw: Draw = field(default_factory=Draw)  # what drawn noise is keyed by while the tenant trains
    before: tuple[int, ...] = ()  # ids of tokens that stand before every sequence of its tenants, and of nobody else

    @property
    def pairs(self) -> tuple[LowRank, ...]:
        """The layers that LoRA changes."""
        scale = self.adapt.scale
        found = [name.split(".lora_A")[0] for name in self.live if ".lora_A" in name]
        return tuple(LowRank(n, f"{n}.lora_A.weight", f"{n}.lora_B.weight", scale) for n in found)


def slot_key(adapt: Adapt, heads: tuple[str, ...]) -> str:
    return "_".join((adapt.key(), *sorted(heads)))


def stacks_of(model: PreTrainedModel) -> list[nn.Module]:
    """What holds layers and the norm behind them, bottom first: an encoder before its decoder."""
    return [model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else [model.base_model]


def layers_in(stack: nn.Module) -> nn.ModuleList:
    """The layers, bottom first: the longest module list that stands in no other (the parts of a layer of T5 are a list
    too, and the experts of a mixture)."""
    lists = {n: m for n, m in stack.named_modules() if isinstance(m, nn.ModuleList)}
    if not lists:
        raise PlanError(f"{type(stack).__name__} has no list of layers; adapt.method: last_k cannot be used on it")
    return max((m for n, m in lists.items() if not any(n.startswith(f"{outer}.") for outer in lists)), key=len)


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers."""
    return layers_in(stacks_of(model)[-1])


def peft_task(model: PreTrainedModel) -> str | None:
    """As adapter_config.json says it; peft has no word for masked language modelling."""
    if has_masked_head(model):
        return None
    return "SEQ_CLS" if has_classes(model) else task_type(model.config)


def lora_config(adapt: Adapt, model: PreTrainedModel) -> LoraConfig:
    """As peft writes it. All linear layers by default (Schulman et al. 2025, "LoRA without regret"), never the head."""
    return LoraConfig(
        r=adapt.rank,
        lora_alpha=adapt.alpha,  # type: ignore[arg-type]
        lora_dropout=adapt.dropout,
        target_modules=targets_of(adapt, model),
        task_type=peft_task(model),
        init_lora_weights=True,
        use_rslora=adapt.rslora,
        use_dora=adapt.dora,
        base_model_name_or_path=str(model.config.name_or_path),
    )


def config_of(adapt: Adapt, model: PreTrainedModel) -> PeftConfig:
    """As peft writes it, of an adapter of any kind."""
    if adapt.method == "lora":
        return lora_config(adapt, model)
    if adapt.is_prompt:
        return prompt_config(adapt.peft, dict(adapt.options), model)
    name = "ia3" if adapt.method == "ia3" else adapt.peft
    is_left = not adapt.targets and (name in OWN_TARGETS or "target_modules" in adapt.options)
    return peft_config(name, dict(adapt.options), None if is_left else targets_of(adapt, model), model)


def check_adapt(adapt: Adapt, model: PreTrainedModel, found: Probe) -> None:
    """PlanError where this model cannot be tuned so; nothing is changed. `found`: of the model as it is."""
    check_bits(adapt, model)
    check_context(model, model.config, adapt.context)
    if adapt.method == "lora":
        targets_of(adapt, model)
    elif adapt.is_prompt:
        try_prompt(model, prompt_config(adapt.peft, dict(adapt.options), model), found)
    elif adapt.is_pefts:
        prove(model, config_of(adapt, model), found)
    else:
        trained_weights(model, adapt)


def check_bits(adapt: Adapt, model: nn.Module | None = None) -> None:
    """PlanError where nothing could train so, or where this model is held otherwise than its tenant was made for."""
    if adapt.base_bits and adapt.method != "lora":
        raise PlanError(
            f"adapt.base_bits is {adapt.base_bits}: weights of the base that are held so cannot train, only LoRA was "
            f"tried on top of them, and adapt.method is {adapt.method}. Use adapt.method: lora, or leave base_bits out"
        )
    held = None if model is None else bits_of(model)
    if model is not None and held != adapt.base_bits:
        wanted, found = (f"in {bits} bits" if bits else "as it is" for bits in (adapt.base_bits, held))
        raise PlanError(
            f"the adapter is for a base that is held {wanted}, and this one is held {found}: its answers would be "
            f"others than those that were measured. Say adapt.base_bits: {adapt.base_bits or 'null'}"
        )


def targets_of(adapt: Adapt, model: PreTrainedModel) -> list[str]:
    """The layers that an adapter is put on, each of which the model has."""
    if not adapt.targets:
        found = linear_suffixes(model)
        return sorted(set(found) - read_otherwise(found, model)) if adapt.method == "lora" else found
    names = [name for name, _ in model.named_modules()]
    for target in adapt.targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = linear_suffixes(model)
            raise PlanError(
                f"adapt.targets names {target!r}, and this model has no such layer; it has: {', '.join(known)}."
                f"{did_you_mean(target, known)} An empty list means all of them."
            )
    if adapt.method == "lora" and (odd := read_otherwise(adapt.targets, model)):
        raise PlanError(
            f"adapt.targets names {', '.join(sorted(odd))}, which peft takes for weights of {type(model).__name__}'s "
            "experts: LoRA would not stand on these layers. Leave them out"
        )
    return list(adapt.targets)


def linear_suffixes(model: PreTrainedModel) -> list[str]:
    """Last names of the linear layers in the decoder layers: q_proj, up_proj …; GPT-2's Conv1D counts as one. Longer
    ones (output.dense) where a layer of a class head, or of a masked-language head, has that name too."""
    over = outside(model) if has_masked_head(model) else head_tensors(model)
    head = {name.rpartition(".")[0] for name in over}
    found = set()
    for name, module in layers_of(model).named_modules():
        if is_linear(module) and ".lora_" not in name and "base_layer" not in name:
            parts = name.split(".")
            ends = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
            found.add(next((e for e in ends if not any(f".{n}".endswith(f".{e}") for n in head)), ends[-1]))
    if not found:
        raise PlanError(f"{type(model).__name__} has no linear layer that LoRA could adapt; use adapt.method: full")
    return sorted(found)


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | LoraLayer) or type(module).__name__ == "Conv1D"


def open_slot(model: PreTrainedModel, adapt: Adapt, heads_wanted: tuple[str, ...] = (), seed: int = 0) -> Slot:
    """Make the live parameters of this kind of tenant; the model computes exactly what it did before. `seed`: of what
    peft draws for methods of its own. `heads_wanted`: scalar heads, "value" (a number per scored token)."""
    check_bits(adapt, model)
    check_context(model, model.config, adapt.context)
    key = slot_key(adapt, heads_wanted)
    heads = nn.ModuleDict({n: nn.Linear(model.config.get_text_config().hidden_size, 1) for n in heads_wanted})
    heads.to(device=model.device, dtype=model.dtype)
    draw = Draw()
    before: tuple[int, ...] = ()
    if adapt.method == "lora":
        inject(model, adapt, key)
        key_dropout(model, key, draw)
        in_one_piece(model)
        model.requires_grad_(False)
        live = {n.replace(f".{key}.", "."): p for n, p in model.named_parameters() if f".{key}." in n}
        for name, parameter in live.items():
            start = parameter.data if MAGNITUDE in name else torch.zeros_like(parameter.data)
            parameter.data = start.to(dtype=model.dtype, device=model.device)
        live |= head_tensors(model)
        neutral = {n: p.detach().clone() for n, p in live.items()}
    elif adapt.is_prompt:
        live, before = put_before(model, prompt_config(adapt.peft, dict(adapt.options), model), seed)
        neutral = {n: p.detach().clone() for n, p in live.items()}  # read by nobody but its tenants
    elif adapt.is_pefts:
        live = put_in(model, config_of(adapt, model), key, seed)
        neutral = {n: p.detach().clone() for n, p in live.items()}
    else:
        live = dict(trained_weights(model, adapt))
        neutral = {n: p.detach().clone() for n, p in live.items()}
    for name, parameter in heads.named_parameters():
        parameter.data.zero_()
        live[f"heads.{name}"] = parameter
        neutral[f"heads.{name}"] = torch.zeros_like(parameter)
    for parameter in live.values():
        parameter.requires_grad_(False)  # a verb switches on what the tenant trains
    return Slot(key, adapt, live, neutral, None, heads if heads_wanted else None, draw, before)


def inject(model: PreTrainedModel, adapt: Adapt, key: str) -> None:
    """LoRA's layers around the model's own. PlanError where peft knows that it would not work on one of them."""
    try:
        inject_adapter_in_model(lora_config(adapt, model), model, adapter_name=key)
    except ValueError as error:
        take_out(model)
        why = f"peft refuses LoRA on {type(model).__name__}: {error}. Name other layers in adapt.targets, of "
        raise PlanError(why + ", ".join(linear_suffixes(model))) from error


def key_dropout(model: PreTrainedModel, key: str, draw: Draw) -> None:
    """Give one adapter's dropout masks that do not depend on how an update is cut."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and isinstance(plain := module.lora_dropout[key], nn.Dropout):
            module.lora_dropout[key] = KeyedDropout(plain.p, name, draw)


def trained_weights(model: PreTrainedModel, adapt: Adapt) -> list[tuple[str, nn.Parameter]]:
    """Names and live parameters of the model's own weights that train."""
    if adapt.method == "full":
        return list(model.named_parameters())
    if adapt.method == "named":
        return named_weights(model, adapt.names)
    layers = layers_of(model)
    if not 0 < adapt.last_k <= len(layers):
        raise PlanError(f"adapt.last_k is {adapt.last_k}; this model has {len(layers)} layers: use 1 to {len(layers)}")
    chosen = {id(p) for layer in list(layers)[-adapt.last_k :] for p in layer.parameters()}
    embeddings = model.get_output_embeddings()  # None: a class head
    tied = set() if embeddings is None else {id(p) for p in embeddings.parameters()}
    after = {
        id(p)
        for name, m in stacks_of(model)[-1].named_children()
        if "norm" in type(m).__name__.lower() and "embed" not in name  # BART has one before its layers
        for p in m.parameters()
    }
    after |= {id(p) for p in head_tensors(model).values()}
    return [(n, p) for n, p in model.named_parameters() if id(p) in (chosen | after) - tied]


def named_weights(model: PreTrainedModel, patterns: tuple[str, ...]) -> list[tuple[str, nn.Parameter]]:
    """What the patterns fit, each of which must fit something."""
    every = list(model.named_parameters())
    shown = ", ".join(name for name, _ in every[:3])
    if not patterns:
        raise PlanError(f"adapt.method named wants adapt.names, patterns of this model's tensors ({shown} …)")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in every):
            near = did_you_mean(pattern, [name for name, _ in every])
            raise PlanError(f"adapt.names has {pattern!r}, which fits no tensor of this model ({shown} …).{near}")
    head = head_tensors(model)  # which may be new
    return [(n, p) for n, p in every if n in head or any(fnmatchcase(n, pattern) for pattern in patterns)]


def initial_values(slot: Slot, seed: int) -> dict[str, Tensor]:
    """Float32 masters at update 0: B zero and A uniform as in peft (Hu et al. 2021), weights as they are.

    Each tensor has a generator of its own, keyed by seed and name, so that nothing depends on which tenant came first.
    """
    masters = {}
    for name, neutral in slot.neutral.items():
        value = neutral.detach().float().clone()
        if ".lora_A" in name:
            bound = (1.0 / value.shape[1]) ** 0.5  # kaiming_uniform with a = sqrt(5), as peft's reset_lora_parameters
            value.uniform_(-bound, bound, generator=keyed_generator(seed, name))
        masters[name] = value
    return masters


def keyed_generator(seed: int, *key: object) -> torch.Generator:
    """A CPU generator that depends on the seed and the key alone."""
    text = ":".join(map(str, (seed, *key)))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") % 2**63
    return torch.Generator().manual_seed(number)


def activate_adapter(model: PreTrainedModel, key: str) -> None:
    """Make one slot's adapter the only active one."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            wanted = [key] if key in module.r else []
            if list(module.active_adapters) != wanted:
                module.set_adapter(wanted, inference_mode=True)
