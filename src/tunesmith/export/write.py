"""A tuned model as folders that plain peft and transformers open, with the template and stops of its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.engine.memory import trim_freed_memory
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.files import BASE_CONFIG, publish_folder
from tunesmith.models.artifact import bits_in
from tunesmith.models.bars import no_bars
from tunesmith.models.heads import whole_rows
from tunesmith.models.kinds import opener
from tunesmith.models.quantised import hold, opening_dtype, round_weights
from tunesmith.models.whole import save_whole


@dataclass(frozen=True, slots=True)
class Serving:
    """What has to go along with the weights so that serving is what training was."""

    tokenizer: PreTrainedTokenizerBase
    template: str
    stop_ids: tuple[int, ...]
    max_new_tokens: int

    def save(self, folder: Path, model: PreTrainedModel) -> None:
        """Tokenizer, frozen chat template and generation_config.json."""
        self.tokenizer.chat_template = self.template
        self.tokenizer.save_pretrained(folder)
        pad, said = self.tokenizer.pad_token_id, model.config.get_text_config().to_dict()
        GenerationConfig(
            bos_token_id=said.get("bos_token_id"),
            decoder_start_token_id=said.get("decoder_start_token_id"),  # with which an encoder-decoder's replies begin
            eos_token_id=list(self.stop_ids),
            pad_token_id=self.stop_ids[0] if pad is None else pad,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
        ).save_pretrained(folder)


def write_tuned(session: Session, snapshot: Snapshot, serving: Serving, final: Path) -> Path:
    """The adapter (LoRA) or the whole model, whole or absent."""

    def write(folder: Path) -> dict[str, str]:
        hashed = session.export(snapshot, folder)
        serving.save(folder, session.base.model)
        return hashed

    return publish_folder(write, final)


@no_bars()
def open_adapter(base_folder: Path, adapter: Path, dtype: torch.dtype, *, to_merge: bool = False) -> PeftModel:
    """Plain transformers, plain peft; the base with the configuration that an adapter for a longer context has beside
    it. The adapter computes in the precision in which it was trained and measured, where peft by itself would compute
    it in float32. A base that was held in fewer bits under it is held so again, or (`to_merge`) rounded as it was."""
    longer, bits = adapter / BASE_CONFIG, bits_in(adapter)
    opened_as = opening_dtype(base_folder, dtype) if bits and not to_merge else dtype
    base = opened(base_folder, opened_as, longer if longer.is_file() else None)
    if bits and to_merge:
        round_weights(base, base_folder, bits)
    elif bits:
        hold(base, base_folder, bits, dtype).is_asked = False
    return PeftModel.from_pretrained(base, str(adapter), autocast_adapter_dtype=False).eval()


@no_bars()
def open_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """As anyone would load it: plain transformers."""
    return opened(folder, dtype).eval()


def opened(folder: Path, dtype: torch.dtype, other: Path | None = None) -> PreTrainedModel:
    """`other`: the file of another configuration than the folder's. What is free by then makes room."""
    trim_freed_memory()
    config = AutoConfig.from_pretrained(other or folder, local_files_only=True, trust_remote_code=False)
    plain = {"local_files_only": True, "use_safetensors": True}
    return whole_rows(opener(config).from_pretrained(folder, config=config, dtype=dtype, **plain))


@no_bars()
def write_merged(opened: PeftModel, serving: Serving, final: Path) -> Path:
    """Base and adapter, opened in float32, as one model: merged in 4 or 8 bit, the tune would be rounded away."""
    assert opened.dtype == torch.float32, "an adapter is merged in float32"
    model = opened.merge_and_unload()

    def write(folder: Path) -> dict[str, str]:
        hashed = save_whole(model, folder)
        serving.save(folder, model)
        return hashed

    return publish_folder(write, final)
