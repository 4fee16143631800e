"""A GGUF file is a model by its path: the one it was made of, to the bit where nothing was rounded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests import tiny
from tests.data import chat

from tunesmith.data.render import Renderer
from tunesmith.errors import ModelError
from tunesmith.export.gguf_file import About, write_gguf
from tunesmith.export.vocabulary import vocabulary
from tunesmith.models import dequantised
from tunesmith.models.load import load
from tunesmith.opened import open_any
from tunesmith.types import Message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with model.gguf in it."""
    path = tmp_path_factory.mktemp("tiny")
    tokenizer = chat.tokenizer("chatml")
    stop = tokenizer.eos_token_id
    model = tiny.build(
        "llama", vocab_size=len(tokenizer), eos_token_id=stop, bos_token_id=None, pad_token_id=stop,
        max_position_embeddings=2048, hidden_size=32,
    )  # fmt: skip
    model.save_pretrained(path / "model")
    tokenizer.save_pretrained(path / "model")
    base = load(str(path / "model"))
    renderer = Renderer(base.tokenizer, 256, "drop")
    words = vocabulary(base.tokenizer, renderer.stop_ids, base.model.config.vocab_size)
    for quant in ("f32", "q8_0"):
        about = About("tiny", "nobody/tiny", "apache-2.0")
        write_gguf(path / "model", words, renderer.template, path / f"tiny {quant}.gguf", quant, about)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))


def test_the_same_weights_and_the_same_prompts(folder: Path) -> None:
    there, opened = load(str(folder / "model")), open_any(str(folder / "tiny f32.gguf"))
    base = opened.session.base
    for name, weight in there.model.state_dict().items():
        assert torch.equal(base.model.state_dict()[name], weight), name
    turns = [Message("user", "Where is my order 48?")]
    assert opened.renderer.prompt(turns) == Renderer(there.tokenizer, 256, "drop").prompt(turns)
    assert opened.renderer.stop_ids == Renderer(there.tokenizer, 256, "drop").stop_ids
    assert (base.located.base_model, base.located.licence) == ("nobody/tiny", "apache-2.0")
    assert "dequantised from ALL_F32" in base.located.note
    assert isinstance(opened.complete("base", [turns])[0].text, str)


def test_it_is_converted_once_and_again_when_the_copy_is_broken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "tiny q8_0.gguf"
    made = dequantised.converted(path)
    assert made.name.startswith("tiny-q8_0-")
    with monkeypatch.context() as patch:
        patch.setattr(dequantised, "dequantise", None)  # would fail if it were called
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        assert dequantised.converted(copy) == made  # by what it holds, not by where it lies
    (made / "model.safetensors").write_bytes(b"")
    assert dequantised.converted(path) == made
    rounded, exact = load(str(made)).model.state_dict(), load(str(folder / "model")).model.state_dict()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert 0 < (rounded[name] - exact[name]).abs().max() < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[: len(raw) // 2], "no whole GGUF file"),
        (lambda raw: b"GIF89a" + raw[6:], "no whole GGUF file"),
        (lambda raw: raw.replace(b"llama", b"xlama"), "cannot read this GGUF file: GGUF model with architecture xlama"),
        (
            lambda raw: raw.replace(b"blk.1.ffn_up.weight", b"blk.1.fff_up.weight"),
            "are not in the file, model.layers.1",
        ),
    ],
    ids=["cut off", "another format", "an unknown architecture", "a tensor is missing"],
)
def test_what_is_no_model_is_said(change, message: str, folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(change((folder / "tiny f32.gguf").read_bytes()))
    with pytest.raises(ModelError, match=message):
        load(str(bad))
    assert not list((tmp_path / "cache" / "models").glob("bad-*"))


def test_a_split_file_and_a_full_disk_are_said(tmp_path: Path) -> None:
    head = dequantised.Header("a/b", "", "MOSTLY_Q4_0", 10**18, 1)
    with pytest.raises(ModelError, match="make room"):
        dequantised.check(tmp_path / "x.gguf", head, tmp_path / "cache" / "x")
    with pytest.raises(ModelError, match="one of 3 files"):
        dequantised.check(tmp_path / "x.gguf", dequantised.Header("a/b", "", "", 1, 3), tmp_path)


def test_a_file_that_is_not_there_names_what_is(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"There is: tiny f32\.gguf, tiny q8_0\.gguf"):
        load(str(folder / "tiny.gguf"))
