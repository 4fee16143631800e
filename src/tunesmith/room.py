"""Whether a run fits this machine, said before any work is lost: the least memory and disk that it will take."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from tunesmith.errors import NoRoom, PlanError
from tunesmith.models.adapters import Adapt, config_of, targets_of, trained_weights
from tunesmith.models.blockwise import num_bytes, num_weights, quantised
from tunesmith.models.class_head import head_tensors
from tunesmith.models.here import MEMORY
from tunesmith.models.peft_methods import tried
from tunesmith.models.prompts import num_weights as prompt_weights
from tunesmith.models.prompts import prompt_config

# Numbers that a layer keeps for its backward pass, per token and hidden unit. 17 in half precision with fused
# attention (Korthikanti et al. 2022, eq. 2); 24 to 45 were measured here on a CPU. The least is meant, so that what
# would have fitted is not refused.
KEPT_EACH = 20
STATE_BYTES = 16  # of a trained weight, in float32: its master, its gradient, Adam's two moments
SAVED_BYTES, NUM_SAVED = 12, 3  # of a trained weight in a checkpoint; two are kept while a third is written
REPORT_GIB = 0.05  # answers, tables, report
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Need:
    """The least that a run takes beside the loaded model, in GiB; for models whose operations cannot be traced."""

    layers_gib: float  # what the layers keep of a micro-batch while training
    state_gib: float
    export_gib: float  # memory of opening the exports, when the layers keep nothing any more

    @property
    def memory_gib(self) -> float:
        return self.state_gib + max(self.layers_gib, self.export_gib)


def need(model: PreTrainedModel, adapt: Adapt, tokens: int) -> Need:
    """`tokens`: of the largest micro-batch."""
    config, each = model.config.get_text_config(), model.dtype.itemsize
    return Need(
        KEPT_EACH * config.hidden_size * config.num_hidden_layers * each * tokens / GIB,
        num_trained(model, adapt) * STATE_BYTES / GIB,
        num_bytes(model) / GIB,
    )


def disk_need(model: PreTrainedModel, adapt: Adapt, exports: tuple[str, ...], trained: int) -> float:
    """GiB of the run folder. `trained`: weights."""
    whole = num_weights(model)
    merged = whole * 4 if "merged" in exports else 0
    out = trained * 4 + merged if adapt.is_adapter else whole * model.dtype.itemsize
    return (out + trained * SAVED_BYTES * NUM_SAVED) / GIB + REPORT_GIB


def num_trained(model: PreTrainedModel, adapt: Adapt, heads: tuple[str, ...] = ()) -> int:
    """Weights that train: of LoRA, rank times both sides of each adapted layer; of a scalar head, one a hidden unit."""
    if heads:
        return len(heads) * (model.config.get_text_config().hidden_size + 1) + num_trained(model, adapt)
    if adapt.is_prompt:
        return prompt_weights(prompt_config(adapt.peft, adapt.options, model))
    if adapt.is_pefts:
        with tried(model, config_of(adapt, model)) as live:
            return sum(p.numel() for p in live.values())
    if adapt.method != "lora":
        return sum(p.numel() for _, p in trained_weights(model, adapt))
    targets = targets_of(adapt, model)
    ends = tuple(f".{target}" for target in targets)
    layers = [name for name, _ in model.named_modules() if f".{name}".endswith(ends)]
    shapes = {name.removesuffix(".weight"): p.shape for name, p in model.named_parameters() if p.ndim == 2}
    shapes |= {name: layer.shape for name, layer in quantised(model).items()}
    head = sum(p.numel() for p in head_tensors(model).values())
    return head + sum(adapt.rank * sum(shapes[name]) for name in layers if name in shapes)


def check_memory(wanted: Need, device: str, free: float, micro_tokens: int, longest: int) -> str:
    """What the plan says of memory. NoRoom where the least does not fit in the GiB that are free, with what would."""
    if wanted.memory_gib <= free:
        return f"at least, beside the loaded model; {free:.1f} GiB are free"
    fitting = int((free - wanted.state_gib) / wanted.layers_gib * micro_tokens)
    rest = "adapt.method: lora, precision: bfloat16, or a smaller model (`tunesmith models` shows which fit)"
    if fitting >= longest and wanted.state_gib + wanted.export_gib <= free:
        rest = f"--set train.micro_tokens={fitting} would fit (it changes memory, never the result); or {rest}"
    raise NoRoom(
        f"too little memory: beside the loaded model the run takes at least {size(wanted.memory_gib)}, and "
        f"{size(free)} are free on {device}. {rest}. If more is free than it seems: {MEMORY}=GIB says how much"
    )


def check_disk(folder: Path, wanted_gib: float, way: str) -> None:
    """PlanError where the disk that this folder is or will be on has no room for this much."""
    there = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    free = shutil.disk_usage(there).free / GIB
    if wanted_gib > free:
        raise PlanError(
            f"too little disk: {folder} will take about {size(wanted_gib)}, and {size(free)} are free there. Make "
            f"room, or {way}"
        )


def size(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 0.1 else f"{gib * 1024:.1f} MiB"
