"""GGUF files of tiny models, read by transformers and by llama.cpp; files that are wrong on purpose are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from tests import tiny
from tests.data import chat
from transformers import PreTrainedTokenizerBase

from tunesmith.data.render import Renderer
from tunesmith.data.template import ChatTemplate
from tunesmith.engine.session import Session
from tunesmith.errors import ModelError, RunError
from tunesmith.export import gguf_file, llamacpp
from tunesmith.export.gguf_check import Asked, Transformers, check_gguf, check_llamacpp, compare
from tunesmith.export.gguf_file import About, permute, rope_factors, write_gguf
from tunesmith.export.verify import expect
from tunesmith.export.vocabulary import Vocabulary, vocabulary
from tunesmith.generate.limits import Limits
from tunesmith.models.load import Base, load
from tunesmith.types import Message

ABOUT = About("tiny", "nobody/tiny", "apache-2.0")
NO_WINDOW: dict[str, Any] = {"use_sliding_window": False, "layer_types": None, "sliding_window": None}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
GEMMA3 = {"head_dim": 256, "query_pre_attn_scalar": 256, "num_hidden_layers": 6, "layer_types": None}
# transformers reads a Qwen3 file as if its heads had 128 dimensions, and a Gemma 3 file as if they had 256.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama untied": ("llama", {"tie_word_embeddings": False}),
    "llama 3.1": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", NO_WINDOW),
    "qwen3": ("qwen3", {**NO_WINDOW, "head_dim": 128}),
    "gemma3": ("gemma3", GEMMA3),
}
needs_llamacpp = pytest.mark.skipif(not llamacpp.is_here(), reason="llama-cpp-python is not installed")


def save(folder: Path, family: str, tokenizer: PreTrainedTokenizerBase, **changes: Any) -> Path:
    stop = tokenizer.eos_token_id
    ids = {"vocab_size": len(tokenizer) + 3, "eos_token_id": stop, "bos_token_id": None, "pad_token_id": stop}
    model = tiny.build(family, **{**ids, "max_position_embeddings": 256, "hidden_size": 32, **changes})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Case:
    """A tiny model that is loaded, asked, and ready to be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base: Base = load(str(folder))
        self.renderer = Renderer(self.base.tokenizer, 256, "drop")
        template = ChatTemplate(self.base.tokenizer)
        turns = [[Message("user", t)] for t in ("Where is my order 48?", "fox\n\n 12 dogs, it's late")]
        tokens = [self.renderer.prompt(t) for t in turns]
        expected = expect(Session(self.base), None, tokens, Limits(8, self.renderer.stop_ids))
        self.asked = Asked(
            expected,
            tuple([m.as_dict() for m in t] for t in turns),
            tuple(template.render(t, is_prompt=True) for t in turns),
            tuple(self.renderer.text(c.tokens) for c in expected.completions),
        )
        self.words: Vocabulary = vocabulary(
            self.base.tokenizer, self.renderer.stop_ids, self.base.model.config.vocab_size
        )

    def write(self, path: Path, quant: str = "f32", words: Vocabulary | None = None, template: str = "") -> Path:
        write_gguf(self.folder, words or self.words, template or self.renderer.template, path, quant, ABOUT)
        return path

    def check(self, path: Path, quant: str = "f32") -> dict[str, Any]:
        return check_gguf(path, self.words, self.renderer.template, self.asked, quant)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(save(tmp_path_factory.mktemp("model"), "llama", chat.tokenizer("chatml")))


@pytest.mark.parametrize("shape", SHAPES)
def test_each_family_is_read_as_it_was_written(shape: str, tmp_path: Path) -> None:
    family, changes = SHAPES[shape]
    if shape == "llama 3.1" and not llamacpp.is_here():
        pytest.skip("transformers does not read scaled rotary positions, and llama-cpp-python is not installed")
    made = Case(save(tmp_path / "model", family, chat.tokenizer("chatml"), **changes))
    facts = made.check(made.write(tmp_path / "tiny.gguf"))
    for who in {"transformers", "llama.cpp"} & set(facts):
        if isinstance(facts[who], dict):
            assert facts[who]["num_same"] == 2, (who, facts)
            assert facts[who]["logit_diff"] < 1e-3  # llama.cpp looks GELU up in a table of 16 bits


@pytest.mark.parametrize("quant", ["f16", "q8_0"])
def test_rounded_weights_are_close(case: Case, tmp_path: Path, quant: str) -> None:
    path = case.write(tmp_path / "tiny.gguf", quant)
    facts = case.check(path, quant)
    assert facts["transformers"]["logit_diff"] > 1e-6
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(path).tensors}
    assert kinds["blk.0.attn_q.weight"] == quant.upper()
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.0.ffn_down.weight"] == quant.upper()


def test_rows_that_do_not_divide_into_blocks_stay_in_16_bits(tmp_path: Path) -> None:
    made = Case(save(tmp_path / "model", "llama", chat.tokenizer("chatml"), hidden_size=24, intermediate_size=64))
    path = made.write(tmp_path / "tiny.gguf", "q8_0")
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(path).tensors}
    assert (kinds["blk.0.ffn_up.weight"], kinds["blk.0.ffn_down.weight"]) == ("F16", "Q8_0")


@needs_llamacpp
@pytest.mark.parametrize(("family", "kind"), [("gemma", "metaspace"), ("llama2", "metaspace"), ("llama3_1", "bytes")])
def test_other_tokenizers_cut_as_in_training(family: str, kind: str, tmp_path: Path) -> None:
    made = Case(save(tmp_path / "model", "llama", chat.tokenizer(family, kind)))
    facts = made.check(made.write(tmp_path / "tiny.gguf"))
    assert facts["llama.cpp"]["num_same"] == 2


# Files that are wrong on purpose


def unpermuted(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    return weight


def swapped(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    if name.endswith("k_proj.weight"):
        return permute(weight, config.num_attention_heads)  # grouped heads taken for as many as the queries'
    return permute(weight, config.num_attention_heads) if name.endswith("q_proj.weight") else weight


@pytest.mark.parametrize("mutant", [unpermuted, swapped])
@pytest.mark.parametrize("quant", ["f32", "f16", "q8_0"])
def test_a_wrong_permutation_is_noticed(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., Any], quant: str
) -> None:
    monkeypatch.setattr(gguf_file, "converted", mutant)
    path = case.write(tmp_path / "tiny.gguf", quant)
    with pytest.raises(RunError, match="read by transformers, logits differ"):
        compare("transformers", Transformers(path), case.asked.expected, quant)
    if llamacpp.is_here():
        with pytest.raises(RunError, match=r"read by llama\.cpp, logits differ"):
            check_llamacpp(path, case.asked, quant)


def replaced(words: Vocabulary, **changes: Any) -> Vocabulary:
    return Vocabulary(**{**{f: getattr(words, f) for f in Vocabulary.__slots__}, **changes})


def test_a_wrong_vocabulary_or_template_is_noticed(case: Case, tmp_path: Path) -> None:
    words = case.words
    other = next(i for i, k in enumerate(words.kinds) if k == 1)
    mutants = {
        "stops": replaced(words, special={**words.special, "eos": other}),
        "tokens": replaced(words, tokens=words.tokens[::-1]),
        "token_type": replaced(words, kinds=(1,) * len(words.kinds)),
        "merges": replaced(words, merges=words.merges[:-1]),
        "ggml.pre": replaced(words, pre="smollm"),
    }
    for said, mutant in mutants.items():
        path = case.write(tmp_path / "tiny.gguf", words=mutant)
        with pytest.raises(RunError, match=said):
            case.check(path)
    path = case.write(tmp_path / "tiny.gguf", template=case.renderer.template.replace("assistant", "bot"))
    with pytest.raises(RunError, match="template"):
        case.check(path)


@needs_llamacpp
def test_llamacpp_itself_notices_them_too(case: Case, tmp_path: Path) -> None:
    words = case.words
    other = next(i for i, k in enumerate(words.kinds) if k == 1)
    plain = replaced(words, special={**words.special, "eos": other})
    # llama.cpp knows <|im_end|> by its text, so the mutant also takes that name away
    stop = case.renderer.stop_ids[0]
    renamed = replaced(plain, tokens=tuple("<|odd|>" if i == stop else t for i, t in enumerate(plain.tokens)))
    for mutant, said in (
        (renamed, "does not stop"),
        (replaced(words, merges=words.merges[:3]), "other tokens"),
        (replaced(words, pre="llama-bpe"), "other tokens"),
    ):
        path = case.write(tmp_path / "tiny.gguf", words=mutant)
        with pytest.raises(RunError, match=said):
            check_llamacpp(path, case.asked, "f32")
    path = case.write(tmp_path / "tiny.gguf", template=case.renderer.template.replace("assistant", "bot"))
    with pytest.raises(RunError, match="another text"):
        check_llamacpp(path, case.asked, "f32")


# What is refused

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "family": ("phi3", {"sliding_window": None}, "family phi3 is not one of llama"),
    "window": ("mistral", {"sliding_window": 6}, "a window of 6 tokens"),
    "windows of qwen2": ("qwen2", {}, "a window of 6 tokens"),
    "biases": ("llama", {"attention_bias": True}, "biases"),
    "positions": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "linear"),
    "gemma3's scale": ("gemma3", {**GEMMA3, "query_pre_attn_scalar": 4}, "query_pre_attn_scalar is 4"),
    "gemma3's layers": ("gemma3", {**GEMMA3, "layer_types": ["full_attention"] * 6}, "every 6th layer"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_llamacpp_computes_otherwise_is_refused(what: str) -> None:
    family, changes, message = REFUSED[what]
    with pytest.raises(ModelError, match=message) as caught:
        gguf_file.refuse_family(tiny.build(family, **changes).config)
    assert "convert_hf_to_gguf.py" in str(caught.value)


def test_values_beyond_16_bits_are_refused(case: Case, tmp_path: Path) -> None:
    big = np.full((2, 32), 1e5, dtype=np.float32)
    with pytest.raises(ModelError, match="beyond float16"):
        gguf_file.as_kind(big, gguf_file.QUANTS["f16"][0], "x")
    with pytest.raises(ModelError, match="not finite"):
        gguf_file.as_kind(big * np.nan, gguf_file.QUANTS["f32"][0], "x")


# Laws of the parts


def test_permutation_by_hand() -> None:
    rows = torch.arange(8)[:, None]  # two heads of four rows: halves (0 1 | 2 3) become pairs (0 2, 1 3)
    assert permute(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_scaled_positions_are_those_of_transformers() -> None:
    model = tiny.build("llama", rope_parameters=LLAMA3, head_dim=32)
    plain = 1.0 / (10000.0 ** (np.arange(0, 32, 2) / 32))
    found = plain / rope_factors(model.config)
    np.testing.assert_allclose(found, model.model.rotary_emb.inv_freq.numpy(), rtol=1e-5)
    assert len(set(np.round(rope_factors(model.config), 3))) > 2


def test_the_embedding_comes_back(case: Case, tmp_path: Path) -> None:
    tensors = {t.name: t for t in GGUFReader(case.write(tmp_path / "tiny.gguf")).tensors}
    found = tensors["token_embd.weight"]
    weight = case.base.model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(dequantize(found.data, found.tensor_type), weight)
