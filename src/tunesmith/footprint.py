"""The peak memory of each stage of a run, said before it starts: from what the model's own operations take.

Tensors are counted exactly, by running the engine's computations on a twin without numbers (`models/traced.py`); what
lives through a stage is added up below. Two figures are measured: what libraries take when they are first used, and
how much more than its tensors an allocator takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tunesmith import by_heart, guards, robustness
from tunesmith.build import Material, drawn, num_updates
from tunesmith.data.pack import forest, pack
from tunesmith.data.records import sizes_of
from tunesmith.engine.fisher import watched
from tunesmith.engine.memory import held_gib
from tunesmith.engine.precision import bf16_units
from tunesmith.engine.tenant import Spec
from tunesmith.engine.traced_update import trace_clip, trace_update
from tunesmith.evals.dialogues import behind, rounds
from tunesmith.evals.perturb import applies, changed, instruction_of
from tunesmith.evals.tasks import Form, given_record, label_record
from tunesmith.explain import MOST_BYTES
from tunesmith.folder import peak_gib
from tunesmith.generate.buffers import NAME as DECODE
from tunesmith.generate.decode import PREFILL_ROWS, Sampler, common_prefix, laid
from tunesmith.method import heads_of, objective_of, regularisers_of
from tunesmith.models.adapters import layers_in, stacks_of
from tunesmith.models.blockwise import num_bytes
from tunesmith.models.forward import attention
from tunesmith.models.load import Base
from tunesmith.models.traced import META, Living, trace_scoring, traced, twin_of
from tunesmith.objectives.sft import SFT
from tunesmith.recipe import Recipe
from tunesmith.roles import Foretold
from tunesmith.room import GIB, num_trained
from tunesmith.types import Example, Message, Record

LIBRARIES_GIB = 0.03  # code and buffers that are first used in a run: 0.01 to 0.05 with tiny models on a CPU
HALF_GIB = 0.2  # on top where bf16 has units: code for each shape, weights in its layout; 0.06 to 0.25 seen
ROUNDING = 1.03  # of tensors: pages that are not full, and holes between small blocks, where memory is given back
MOST_SCORED = 200  # records, of which the largest micro-batch is taken
MOMENTS = 8  # bytes of a trained weight, of Adam
STAGES = ("baseline", "train", "evaluate", "guards", "robustness", "export", "explain")


@dataclass(frozen=True, slots=True)
class Footprint:
    """GiB beside the loaded model, by stage; and what the process has already. Training that waits for its
    checkpoints."""

    stages: dict[str, float]
    there_gib: float  # the loaded model and the rest of the process
    before_gib: float  # most that the process had so far
    activations_gib: float  # of the stages: what tensors of a micro-batch take, which fewer tokens make less
    copied_gib: float  # on top while training, where it goes on while a checkpoint is written
    passing: dict[str, float]  # of the stages: tensors that come and go, between which holes are left

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


@dataclass(frozen=True, slots=True)
class Asking:
    """Bytes of answering, by stage, and of what else does not depend on what is picked."""

    baseline: int
    evaluate: int
    guards: int
    robustness: int
    labelled: tuple[Record, ...]  # the longest of those that are scored instead of an answer


def footprint(
    recipe: Recipe, base: Base, made: Material, feed: Foretold, asking: Asking | None, processes: int = 1
) -> Footprint:
    """`asking` None: of training and export alone. Of several processes the first, which takes most."""
    model, is_lora = base.model, recipe.adapt.method == "lora"
    objective = objective_of(recipe, made.kind, made.split.train)
    heads = heads_of(objective)
    each, trained = model.dtype.itemsize, num_trained(model, recipe.adapt, heads)
    batches = feed.heaviest()
    updates = num_updates(recipe, feed)
    fisher = {n: torch.empty_like(p, dtype=torch.float32, device=META) for n, p in weighed(recipe, base).items()}
    regularisers = regularisers_of(recipe, updates, fisher)
    spec = Spec(recipe.adapt, heads=heads, regularisers=regularisers, teacher=base.teacher)
    checkpointing = recipe.train.checkpointing == "on"
    activations = trace_update(base, spec, batches, objective, checkpointing=checkpointing).peak
    average, four = recipe.train.average, 4 * trained  # bytes of one float32 of all that trains
    slot = trained * each * (2 if is_lora else 1)  # live and neutral values, or the base's own kept aside
    mean = four if average.ema or average.last else 0
    state = slot + four + MOMENTS * trained + mean + 4 * sum(f.numel() for f in fisher.values())
    pending = four if len(batches) > 1 or each < 4 else 0
    copied, gathered = 3 * four + mean, 0  # for a checkpoint that is written while training goes on; while it waits
    clip = four + (trace_clip(base, spec) if spec.regularisers else 0)
    learning, published = state + max(pending + activations, clip), state + four
    if processes > 1 and recipe.train.parallel == "fsdp":
        learning, state = sharded_bytes(base, spec, trained, activations, processes)
        published = slot + 2 * four
        copied = gathered = copied + four if model.device.type == "cpu" else 0  # and what is whole to be asked
    scored = scored_bytes(base, made.train.records, recipe.train.micro)  # dev's loss, the train-dev gap
    told = scored if any(m.needs == "likelihood" for m in made.means.metrics) else 0  # references, whole
    towards_base = state + 2 * four + scored if average.base_share else 0  # two points of the line at once
    stages = {
        "train": max(learning, towards_base, state + gathered, state + scored),
        "export": published + opened_bytes(recipe, base),
    }
    passing = {"train": activations - trained * each}
    if asking is not None:
        labels = max(told, scored_bytes(base, asking.labelled, recipe.train.micro))
        explained = explained_bytes(recipe, base, made, four, checkpointing=checkpointing)
        passing |= {
            "baseline": max(asking.baseline, labels),
            "evaluate": max(asking.evaluate, labels),
            "guards": asking.guards,
            "robustness": max(asking.robustness, scored, labels),
        }
        stages |= {
            "baseline": passing["baseline"],
            "evaluate": published + four * (made.before is not None) + passing["evaluate"],  # its weights too
            "guards": published + asking.guards if asking.guards else 0,
            "robustness": published + passing["robustness"],
            "explain": published + explained if explained else 0,
        }
    device = model.device.type
    rounding, libraries = (ROUNDING, libraries_gib(model.dtype)) if device == "cpu" else (1.0, 0.0)
    there, before = had(device)
    by_stage = {name: rounding * stages[name] / GIB + libraries for name in STAGES if stages.get(name)}
    beside = rounding * (max(learning + copied, towards_base) - max(learning, towards_base, state + gathered)) / GIB
    some = {name: num / GIB for name, num in passing.items() if name in by_stage}
    return Footprint(by_stage, there, before, rounding * activations / GIB, beside, some)


def sharded_bytes(base: Base, spec: Spec, trained: int, activations: int, processes: int) -> tuple[int, int]:
    """(while it learns, of what stays) of the first process: the model and its slot whole, to be asked; a part of
    weights, masters, gradient and moments; and of the model in parts what is whole at once, with its gradient: the
    layer that runs, the next, which is fetched already, and what stands outside of the layers."""
    model, each = base.model, base.model.dtype.itemsize
    whole = num_bytes(model)
    layers = [sum(p.numel() for p in layer.parameters()) for s in stacks_of(model) for layer in layers_in(s)]
    at_once = each * (model.num_parameters() - sum(layers) + 2 * max(layers))
    is_full = not spec.adapt.is_adapter
    slot = trained * each * (1 if is_full else 2)
    held = slot + (whole + each * trained * (not is_full) + (4 + MOMENTS) * trained) // processes
    passing = max(0, activations - each * trained) + at_once * (2 if is_full else 1)
    return held + 4 * trained // processes + passing, held


def libraries_gib(dtype: torch.dtype) -> float:
    return LIBRARIES_GIB + (HALF_GIB if dtype == torch.bfloat16 and bf16_units() else 0.0)


def opened_bytes(recipe: Recipe, base: Base) -> int:
    """What exports take while they are opened and compared: on the CPU, whatever the run's device. An adapter alone is
    opened on a base that is held in as few bits."""
    each, is_merged = base.model.dtype.itemsize, recipe.adapt.is_adapter and "merged" in recipe.export
    if recipe.adapt.base_bits and not is_merged:
        return num_bytes(base.model)
    is_merged_half = is_merged and each < 4
    return base.num_weights * (each + 4 * is_merged_half)  # float32 weights are merged, written, then opened


def weighed(recipe: Recipe, base: Base) -> dict[str, Tensor]:
    """Weights whose Fisher information EWC keeps."""
    return dict(watched(base, recipe.adapt)) if recipe.regularise.ewc else {}


def explained_bytes(recipe: Recipe, base: Base, made: Material, gradient: int, *, checkpointing: bool) -> int:
    """Gradients of the explained cases, and of a training example, the longest, that is compared with them."""
    num = recipe.evals.explain_cases
    if not num:
        return 0
    longest = forest([made.train.records[int(sizes_of(made.train.records).tokens.argmax())]])
    alone = trace_update(base, Spec(recipe.adapt), [longest], SFT(), checkpointing=checkpointing).peak
    return alone + ((num + 1) * gradient if num * gradient <= MOST_BYTES else 0)


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts that are read together, the longest of a stage, and as many answers."""

    shared: int  # tokens that all prompts begin with
    own: tuple[int, ...]  # tokens of each behind those
    most: int  # of an answer

    @property
    def size(self) -> int:
        return self.shared + len(self.own) * (max(self.own) + self.most)

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], rows: int, most: int) -> Batch:
        shared = common_prefix(prompts) if len(prompts) > 1 else 0
        return cls(shared, tuple(sorted(len(p) - shared for p in prompts)[-rows:]), most)


def asking_bytes(recipe: Recipe, base: Base, made: Material) -> Asking:
    """Of reading in the largest batch of prompts of each stage, their keys and values, and the logits of a step."""
    level, rows = recipe.evals.robustness, recipe.evals.rows
    labelled: list[Record] = []

    def asked(form: Form, examples: Sequence[Example], instruction: str) -> list[Batch]:
        if made.kind.scoring == "text":
            return []
        if made.kind.prefers:
            labelled.extend(given_record(made.renderer, e, form.prompt(e, instruction)) for e in examples)
            return []
        if made.kind.scoring == "likelihood":
            prompts = [form.prompt(e, instruction) for e in examples]
            labelled.extend(label_record(made.renderer, e.id, p, made.labels) for e, p in zip(examples, prompts))
            return []
        turns = enumerate(rounds(examples, plays=made.plays))
        tokens = [[grown(form.prompt(behind(e, ["x"] * n), instruction), n) for e in part] for n, part in turns]
        return [Batch.of(part, rows, made.max_new_tokens) for part in tokens if part]

    def grown(prompt: Sequence[Message], num_before: int) -> list[int]:
        """Behind so many answers of its own, each as long as it can be, as far as the context goes."""
        tokens, most = made.renderer.prompt(prompt), made.max_new_tokens
        room = base.context_tokens - most if num_before and base.context_tokens else None
        return [*tokens, *[0] * (num_before * most)][:room]

    tuned = asked(made.forms[0], made.split.test, made.instruction)
    parts = [(form, part) for form in made.forms for part in (made.split.test, made.split.dev)]
    of_base = [b for form, part in parts for b in asked(form, part, made.instruction)]
    again = asked(made.forms[0], made.ood, made.instruction)
    some = drawn(made.split.test, robustness.NUM_CASES[level])
    for change in robustness.CHANGES[level]:
        if applies(change, some, made.instruction, made.labels, recipe.seed):
            said = [instruction_of(made.instruction, change, made.labels, recipe.seed, e.id) for e in some]
            rows_of = [changed(e, change, made.labels, recipe.seed) for e in some]
            again += asked(made.forms[0], rows_of, max(said, key=len, default=""))
    for part in (made.split.train, made.split.dev):
        given = [g for g, _ in by_heart.begun(recipe, made, part, by_heart.NUM_BEGUN[level])]
        again += [Batch.of(given, rows, by_heart.MOST_COMPLETED)] if given else []
    work = guards.Work([], [])
    if recipe.evals.guards != "off":
        work = guards.work(base, made.renderer, recipe.evals.guards)
    probes = [Batch.of([[k] * n for k, n in enumerate(work.prompts)], guards.ROWS, guards.MAX_NEW_TOKENS)]
    first, second, third, fourth = largest_answered(base, of_base, tuned, probes if work.prompts else [], again)
    third = max(third, scored_bytes(base, work.records, guards.MICRO_TOKENS))
    longest_first = sorted(labelled, key=lambda r: -r.num_tokens)[:MOST_SCORED]
    return Asking(first, second, third, fourth, tuple(longest_first))


def largest_answered(base: Base, *stages: Sequence[Batch]) -> list[int]:
    """Bytes of each stage's largest batch."""
    twin = twin_of(base.model)
    sampler = Sampler(twin, replace(base.head, model=twin), lambda tokens: "")
    largest = [max(batches, key=lambda b: b.size) if batches else None for batches in stages]
    found = {batch: batch_bytes(sampler, batch) for batch in set(largest) if batch is not None}
    return [0 if batch is None else found[batch] for batch in largest]


def scored_bytes(base: Base, records: Sequence[Record], micro: int) -> int:
    """Of the micro-batch with most tokens, and of the one of which most are asked about."""
    if not records:
        return 0
    forests = pack(records[:MOST_SCORED], micro, base.rope)
    worst = [max(forests, key=lambda f: f.num_tokens), max(forests, key=lambda f: int((f.weights != 0).sum()))]
    return max(trace_scoring(base.model, base.head, f).peak for f in worst)


def batch_bytes(sampler: Sampler, batch: Batch) -> int:
    """Of reading and of a step. Only the last two groups of rows, the longest, are run: for those before them there is
    room."""
    tails = [[n] * length for n, length in enumerate(batch.own)]  # equal ones would be read once
    num_before = max(0, (len(tails) - 1) // PREFILL_ROWS - 1) * PREFILL_ROWS

    def ask(living: Living) -> int:
        buffers = laid(batch.own, sampler.shared([0] * batch.shared), batch.most)
        hidden = sampler.prefill(tails, buffers, num_before)
        hidden = torch.cat([hidden.new_empty(num_before, hidden.shape[1]), hidden])
        logp_V = sampler.head.logits(hidden).float().log_softmax(-1)
        if len(tails) > 1:
            buffers.keep(range(len(tails) - 1))  # the last row leaves
        return logp_V.numel()

    with torch.no_grad(), attention(sampler.model, DECODE):
        return traced(sampler.model, ask).peak


def had(device: str) -> tuple[float, float]:
    """(now, at most so far), in GiB: of the process, or of torch on a GPU."""
    if device == "cuda":
        return torch.cuda.memory_allocated() / GIB, torch.cuda.max_memory_allocated() / GIB
    return held_gib(), peak_gib()
