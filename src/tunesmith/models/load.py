"""A base model in memory: weights, tokenizer, digest, layout and head, each checked once when it is loaded."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.errors import ModelError, PlanError, TunesmithError, is_memory
from tunesmith.files import sha256_text, tensors_digest
from tunesmith.models.bars import no_bars, no_reports
from tunesmith.models.blockwise import OwnWeights, num_weights
from tunesmith.models.catalogue import Located, locate
from tunesmith.models.claims import check_claims, weights_in
from tunesmith.models.class_head import ClassHead, head_tensors, offset, outside, pad_by
from tunesmith.models.context import Context, Rotary, check_context, own_tokens
from tunesmith.models.heads import Head, find_head, whole_rows
from tunesmith.models.here import MEMORY, memory_gib
from tunesmith.models.kinds import Door, has_classes, has_masked_head, opener
from tunesmith.models.probe import Probe, probe
from tunesmith.models.probe_rows import probe_masked, probe_rows
from tunesmith.models.quantised import hold, opening_dtype
from tunesmith.models.rotary import rope_limit
from tunesmith.models.score_head import ScoreHead, make_scoring
from tunesmith.types import RopeLimit

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


@dataclass(slots=True)
class Base:
    """A loaded model. `digest` is over the stored tensors; adapters record it and are refused on another base."""

    located: Located
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    digest: str
    probe: Probe
    head: Head
    rope: RopeLimit | None
    teacher: Base | None = None  # frozen, loaded beside it to learn from
    load_s: float = 0.0  # seconds that transformers took to open the weights
    mean_probe: tuple[Tensor, Tensor] | None = None  # weight [C, D] and bias [C], beside a class head that is a probe
    fresh: frozenset[str] = frozenset()  # tensors of a class head that the base does not bring for its labels
    context: Context = field(default_factory=Context)  # that a recipe gives its tenants; the base itself keeps its own
    num_before: int = 0  # tokens of it that stand before every sequence of its tenants (a tuned prompt)
    own: OwnWeights | None = None  # where its layers are held in fewer bits: its weights as they are
    rotary: Rotary = field(init=False)

    def __post_init__(self) -> None:
        self.rotary = Rotary(self.model)

    @property
    def num_weights(self) -> int:
        return num_weights(self.model)

    @property
    def layout(self) -> str:
        return self.probe.layout

    @property
    def own_tokens(self) -> int | None:
        """The context of the base as it is, whatever a recipe gives its tenants."""
        return own_tokens(self.model.config)

    def put(self, context: Context | None) -> None:
        """Be asked with the context of a tenant; None: as the base itself, with its own context and weights."""
        self.rotary.put(context)
        if self.own is not None:
            self.own.is_asked = context is None

    def extend(self, context: Context, num_before: int = 0) -> None:
        """From now on texts may be as long as this, less what stands before them. PlanError where the model cannot be
        given the context."""
        check_context(self.model, self.model.config, context)
        self.context, self.num_before = context, num_before

    def refuse_longer(self, most: int) -> None:
        """PlanError where there is no room for an example of so many tokens; of a model that reads it is cut."""
        room = self.context_tokens
        if room is None or most <= room or not (self.writes or self.scores):
            return
        beside, way = "", "give it a longer context (adapt.context.tokens)"
        if self.num_before:
            beside, way = f" beside the {self.num_before} of its tuned prompt", "fewer adapt.options.num_virtual_tokens"
        raise PlanError(
            f"data.max_tokens is {most}; {self.located.name} was made for {room} tokens{beside}: use at most that, or "
            f"{way}"
        )

    @property
    def by_head(self) -> bool:
        """Whether it gives a class by a head, and writes nothing."""
        return has_classes(self.model) and not self.scores

    @property
    def scores(self) -> bool:
        """Whether it gives a reply a score by a head, and writes nothing: a reward model."""
        return isinstance(self.head, ScoreHead)

    @property
    def is_masked(self) -> bool:
        """Whether it tells hidden tokens from the text around them, and writes nothing."""
        return has_masked_head(self.model)

    @property
    def writes(self) -> bool:
        return not has_classes(self.model) and not self.is_masked

    @property
    def context_tokens(self) -> int | None:
        """Room for a text in the context that the model was made for, or is being made for (`extend`); None where its
        configuration names none (ALiBi, Mamba)."""
        said = self.model.config.get_text_config()
        names = ("max_position_embeddings", "max_seq_len", "seq_length")
        found = self.context.tokens or next((int(getattr(said, n)) for n in names if hasattr(said, n)), None)
        return found and found - self.num_before - (0 if self.writes else offset(self.model))


def weights_digest(folder: Path) -> str:
    """SHA-256 over the tensors of a folder's safetensors files, whatever their sharding."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"no .safetensors file in {folder}. Pickled weights (.bin, .pt) are never loaded: they can run code. "
            "Convert them with transformers' save_pretrained on a machine that trusts them."
        )

    def tensors() -> list[tuple[str, str]]:
        rows = []
        for file in files:
            with safe_open(file, framework="pt") as handle:
                rows += [(name, tensors_digest([(name, handle.get_tensor(name))])) for name in list(handle.keys())]
        return sorted(rows)

    return sha256_text("\n".join(f"{name} {digest}" for name, digest in tensors()))


@contextmanager
def opening(name: str, folder: Path, what: str) -> Iterator[None]:
    """ModelError where transformers cannot read a part of a model's folder."""
    try:
        yield
    except TunesmithError:
        raise
    except Exception as error:  # tokenizers and configurations have a type of error for nearly everything
        if is_memory(error):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(":.")
        raise ModelError(
            f"model {name}: the {what} in {folder} cannot be loaded by transformers: {first}. A file may be missing, "
            "cut off, or not belong together with the others; copy the folder again from where the model is from"
        ) from error


def refuse_half(name: str, folder: Path, found: Mapping[str, Any], head: Collection[str] = ()) -> frozenset[str]:
    """transformers fills what the files lack with random numbers, and says so in a log only. Of a class `head` that is
    expected of a model that was never given one: these names are returned."""
    missing = sorted(set(found["missing_keys"]) - {*head})
    other = sorted(str(k[0]) for k in found["mismatched_keys"])
    if missing or other:
        lacks = f"{len(missing)} tensors are missing, {missing[0]} first" if missing else ""
        differs = f"{len(other)} have another shape than config.json says, {other[0]} first" if other else ""
        raise ModelError(
            f"model {name}: the weights in {folder} are not those of its config.json: "
            f"{'; '.join(filter(None, (lacks, differs)))}. Copy the folder again from where the model is from"
        )
    return frozenset(found["missing_keys"]) & {*head}


def refuse_headless(name: str, missing: Collection[str], head: Collection[str]) -> None:
    """A new masked-language head would be random, and beside it any training would look good."""
    lacking = sorted(set(missing) & {*head})
    if lacking:
        raise ModelError(
            f"model {name} came without its masked-language head ({lacking[0]} is not in its files), as models for "
            "sentence embeddings and classification do: nothing in it tells hidden tokens. Take the encoder that it "
            "was made from, as that was pre-trained, or tune this one on labels"
        )


def refuse_too_large(name: str, folder: Path, dtype: torch.dtype, device: str, bits: int | None) -> None:
    """Before a process is killed for the memory it asks for, which nobody could explain."""
    num = sum(weights_in(file) for file in folder.glob("*.safetensors"))
    each, take = float(dtype.itemsize), f"as {str(dtype).removeprefix('torch.')} take"
    if bits:  # embeddings and head are whole
        each, take = bits / 8, f"in {bits} bits take at least"
    fewer = "" if bits == 4 else "hold the base in 4 bits under LoRA (--set adapt.base_bits=4), "
    wanted, free = num * each / 2**30, memory_gib(device)
    if wanted > free:
        raise PlanError(
            f"too little memory: the {num / 1e6:.4g} million weights of {name} {take} {wanted:.2g} GiB, and "
            f"{free:.2g} GiB are free on {device}. Close other programs, say --set precision=bfloat16, {fewer}"
            "or take a smaller model (`tunesmith models` shows which fit). If more is free than it seems: "
            f"{MEMORY}=GIB says how much"
        )


def proved(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, door: Door) -> tuple[Head, Probe]:
    """Its head, and its layout."""
    if door == "scores":
        probe_rows(model)  # the head is a linear layer on the last state
        return ScoreHead(model), probe(model)
    if has_classes(model):
        pad_by(model, tokenizer)
        return ClassHead(model), probe_rows(model)
    if has_masked_head(model):
        return Head(model, 1.0, None), probe_masked(model)
    return find_head(model), probe(model)


@no_bars()
def load(
    name: str, dtype: torch.dtype = torch.float32, device: str = "cpu", door: Door = "auto", bits: int | None = None
) -> Base:  # fmt: skip
    """Load and probe a model: causal, an encoder-decoder, or an encoder with a class head or its masked-language head.
    Code of the model's repository is never run. `bits`: in how many the weights of its layers are held under what is
    tuned; None: as they are."""
    located = locate(name)
    folder = located.folder
    plain: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    with opening(name, folder, "configuration"):
        config = AutoConfig.from_pretrained(folder, **plain)
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise ModelError(
            f"model {name}: there is no tokenizer in {folder} (looked for {', '.join(TOKENIZERS)}). Copy it from where "
            "the model is from"
        )
    with opening(name, folder, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, **plain)
    with opening(name, folder, "weights"):
        refuse_too_large(name, folder, dtype, device, bits)
        check_claims(name, folder, config)
        began = time.monotonic()
        if door == "scores":
            make_scoring(name, config)
        with torch.random.fork_rng(), no_reports():
            torch.manual_seed(0)  # a class head that the files lack is drawn, and always the same one
            loaded: Any = opener(config, door).from_pretrained(
                folder, config=config, dtype=opening_dtype(folder, dtype) if bits else dtype, use_safetensors=True,
                ignore_mismatched_sizes=True, output_loading_info=True, **plain,
            )  # fmt: skip
    model, found = loaded
    if has_masked_head(model):
        refuse_headless(name, found["missing_keys"], outside(model))
    fresh = refuse_half(name, folder, found, head_tensors(model))
    own = hold(model, folder, bits, dtype) if bits else None
    load_s = time.monotonic() - began
    torch.nn.Module.to(model, torch.device(device)).eval()
    whole_rows(model).requires_grad_(False)
    digest, rope = weights_digest(folder), rope_limit(config)
    head, tried = proved(model, tokenizer, door)
    if isinstance(head, ScoreHead):
        head.begin(fresh)
        fresh = frozenset()
    return Base(located, model, tokenizer, digest, tried, head, rope, own=own, load_s=load_s, fresh=fresh)
