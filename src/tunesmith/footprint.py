"""The peak memory of each stage of a run, said before it starts: from what the model's own operations take.

Tensors are counted exactly, by running the engine's computations on a twin without numbers (`models/traced.py`); what
lives through a stage is added up below. Two figures are measured: what libraries take when they are first used, and
how much more than its tensors an allocator takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch

from tunesmith.build import Material
from tunesmith.data.feed import FileFeed
from tunesmith.data.pack import pack
from tunesmith.folder import peak_gib
from tunesmith.generate.decode import NAME as DECODE
from tunesmith.generate.decode import Sampler, common_prefix
from tunesmith.models.forward import attention
from tunesmith.models.heads import Head
from tunesmith.models.load import Base
from tunesmith.models.traced import Living, trace_learning, trace_scoring, traced, twin_of
from tunesmith.recipe import Recipe
from tunesmith.room import GIB, num_trained

LIBRARIES_GIB = 0.06  # code and buffers that are first used in training; measured on a CPU with tiny models
ROUNDING = 1.03  # of tensors: pages that are not full, and holes between small blocks, where memory is given back
MOST_SCORED = 200  # records, of which the largest micro-batch is taken
MASTERS, MOMENTS, PENDING, COPIED, PUBLISHED = 4, 8, 4, 12, 4  # bytes of a trained weight, all float32


@dataclass(frozen=True, slots=True)
class Footprint:
    """GiB beside the loaded model, by stage; and what the process has already."""

    stages: dict[str, float]
    there_gib: float  # the loaded model and the rest of the process
    before_gib: float  # most that the process had so far
    activations_gib: float  # of the stages: what tensors of a micro-batch take, which fewer tokens make less
    trained: int  # weights

    @property
    def above_gib(self) -> float:
        return max(self.stages.values())

    @property
    def peak_gib(self) -> float:
        """Of the whole process; on a GPU of what torch has allocated."""
        return max(self.before_gib, self.there_gib + self.above_gib)

    @property
    def largest(self) -> str:
        return max(self.stages, key=lambda name: self.stages[name])


def footprint(recipe: Recipe, base: Base, feed: FileFeed, answering: int) -> Footprint:
    """`answering`: bytes of `answering_bytes`, which hardly depend on what is picked."""
    model, is_lora = base.model, recipe.adapt.method == "lora"
    each, whole, trained = model.dtype.itemsize, model.num_parameters(), num_trained(model, recipe.adapt)
    batches = feed.heaviest()
    largest = max(batches, key=lambda forest: forest.num_tokens)
    checkpointing = recipe.train.checkpointing == "on"
    activations = trace_learning(model, base.head, recipe.adapt, largest, checkpointing=checkpointing).peak
    slot = trained * each * (2 if is_lora else 1)  # live and neutral values, or the base's own kept aside
    state = slot + trained * (MASTERS + MOMENTS)
    pending = trained * PENDING if len(batches) > 1 or each < 4 else 0
    copied = trained * COPIED  # for a checkpoint that is written while training goes on
    stages = {
        "baseline": answering,
        "train": state + copied + max(pending + activations, trained * PENDING),
        "evaluate": state + trained * PUBLISHED + answering,
        "export": state + trained * PUBLISHED + opened_bytes(recipe, whole, each),
    }
    device = model.device.type
    rounding, libraries = (ROUNDING, LIBRARIES_GIB) if device == "cpu" else (1.0, 0.0)
    there, before = had(device)
    by_stage = {name: rounding * size / GIB + libraries for name, size in stages.items()}
    return Footprint(by_stage, there, before, rounding * activations / GIB, trained)


def opened_bytes(recipe: Recipe, whole: int, each: int) -> int:
    """What exports take while they are opened and compared: on the CPU, whatever the run's device."""
    if recipe.adapt.method != "lora" or "merged" not in recipe.export:
        return whole * each
    return whole * (4 + each)  # the merged one, in float32, and the one read back; before it, the adapter's base and it


def answering_bytes(recipe: Recipe, base: Base, made: Material) -> int:
    """Of reading in the longest batch of prompts, their keys and values, and the logits of a step; of labels, of a
    micro-batch that is scored."""
    if made.kind.scoring == "likelihood":
        forests = pack(made.train.records[:MOST_SCORED], recipe.train.micro, base.rope)
        return trace_scoring(base.model, base.head, max(forests, key=lambda f: f.num_tokens)).peak
    twin = twin_of(base.model)
    sampler = Sampler(twin, Head(twin, base.head.scale, base.head.softcap), lambda tokens: "")
    rows = min(recipe.evals.rows, max(len(made.split.test), len(made.split.dev)))
    worst = 0
    for form in made.forms:
        cases = made.split.test if form is made.forms[0] else made.split.dev
        prompts = [made.renderer.prompt(form.prompt(e, made.instruction)) for e in cases]
        if prompts:
            worst = max(worst, batch_bytes(sampler, prompts, rows, made.max_new_tokens))
    return worst


def batch_bytes(sampler: Sampler, prompts: Sequence[Sequence[int]], rows: int, max_new_tokens: int) -> int:
    num_shared = common_prefix(prompts) if len(prompts) > 1 else 0
    longest = sorted(prompts, key=len)[-rows:]
    tails = [[0] * (len(p) - num_shared) for p in longest]

    def ask(living: Living) -> int:
        prefix = sampler.shared([0] * num_shared)
        hidden, buffers = sampler.read_in(tails, prefix, max_new_tokens)
        logp_V = sampler.head.logits(hidden).float().log_softmax(-1)
        buffers.keep(torch.arange(len(tails) - 1, device="meta"))  # the first row leaves
        return logp_V.numel()

    with torch.no_grad(), attention(sampler.model, DECODE):
        return traced(sampler.model, ask).peak


def had(device: str) -> tuple[float, float]:
    """(now, at most so far), in GiB: of the process, or of torch on a GPU."""
    if device == "cuda":
        return torch.cuda.memory_allocated() / GIB, torch.cuda.max_memory_allocated() / GIB
    return psutil.Process().memory_info().rss / GIB, peak_gib()
