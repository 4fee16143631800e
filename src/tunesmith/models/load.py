"""A base model in memory: weights, tokenizer, digest, layout and head, each checked once when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.errors import ModelError
from tunesmith.files import sha256_text, tensors_digest
from tunesmith.models.catalogue import Located, locate
from tunesmith.models.heads import Head, find_head
from tunesmith.models.probe import Probe, probe
from tunesmith.models.rotary import rope_limit
from tunesmith.types import RopeLimit


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

    @property
    def layout(self) -> str:
        return self.probe.layout

    @property
    def context_tokens(self) -> int | None:
        """The longest context that the model was made for; None where its configuration names none (ALiBi, Mamba)."""
        said = self.model.config.get_text_config()
        names = ("max_position_embeddings", "max_seq_len", "seq_length")
        return next((int(getattr(said, n)) for n in names if hasattr(said, n)), None)


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


def load(name: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Base:
    """Load and probe a causal language model. Code of the model's repository is never run."""
    located = locate(name)
    folder = located.folder
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    except (ValueError, OSError, KeyError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"model {name} ({folder}) cannot be loaded by transformers: {first}") from error
    torch.nn.Module.to(model, torch.device(device)).eval()
    model.requires_grad_(False)
    return Base(located, model, tokenizer, weights_digest(folder), probe(model), find_head(model), rope_limit(config))
