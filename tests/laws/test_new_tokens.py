"""New tokens begin as the mean of all others, move nothing else, and are trained, saved and opened elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests import encoders, tiny
from tests.runs import tiny_runs
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.errors import InputError, PlanError
from tunesmith.folder import Silent
from tunesmith.method import refuse_idle_tokens
from tunesmith.models.catalogue import locate
from tunesmith.models.load import load, weights_digest
from tunesmith.models.new_tokens import add_tokens, by_token, grow
from tunesmith.recipe import parse
from tunesmith.run import run

NEW = ("<sql>", "</sql>")
TEXT = torch.tensor([[5, 9, 31, 7]])


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_neox", "gpt2"])
def test_rows_begin_as_the_mean(name: str) -> None:
    """Tied and untied. Old rows keep every bit, and so do the logits of old tokens; a new one's is their mean. The
    mutant: rows as transformers draws them."""
    model: Any = tiny.build(name)
    before = [t.clone() for t in by_token(model)]
    with torch.no_grad():
        wanted = model(input_ids=TEXT).logits[0, -1]
    num = tiny.VOCABULARY - 3  # as if the last rows had no token
    grow(model, (num, num + 1, tiny.VOCABULARY), num)
    assert model.config.get_text_config().vocab_size == tiny.VOCABULARY + 1
    assert len(before) == (1 if name in ("gemma3", "gpt2") else 2)
    for old, new in zip(before, by_token(model), strict=True):
        assert torch.equal(new[:num], old[:num])
        for row in (num, num + 1, tiny.VOCABULARY):
            assert torch.allclose(new[row], old[:num].mean(0), atol=1e-6)
    with torch.no_grad():
        found = model(input_ids=TEXT).logits[0, -1]
    assert torch.allclose(found[:num], wanted[:num], atol=1e-5)
    assert float(found[-1]) == pytest.approx(float(wanted[:num].mean()), abs=1e-4)
    mutant: Any = tiny.build(name)
    mutant.resize_token_embeddings(tiny.VOCABULARY + 1, mean_resizing=False)
    assert not torch.allclose(by_token(mutant)[0][-1], before[0][:num].mean(0), atol=1e-3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    tiny_runs.model_folder(folder / "model")
    add_tokens(str(folder / "model"), NEW, folder / "grown")
    return folder


def test_the_folder_opens_in_plain_transformers(world: Path) -> None:
    grown = add_tokens(str(world / "model"), NEW, world / "again")
    assert grown.digest == weights_digest(world / "grown")  # nothing is drawn
    tokenizer, before = (AutoTokenizer.from_pretrained(world / name) for name in ("grown", "model"))
    assert tokenizer("the <sql>x</sql>")["input_ids"].count(grown.ids[0]) == 1
    assert len(before("<sql>")["input_ids"]) > 1
    assert tokenizer.decode(grown.ids) == "<sql></sql>"
    assert tokenizer.chat_template == before.chat_template
    for text in ("the lazy dog", "sql > <", "where is my order?"):
        assert tokenizer(text)["input_ids"] == before(text)["input_ids"]
    models: list[Any] = [AutoModelForCausalLM.from_pretrained(world / name) for name in ("grown", "model")]
    with torch.no_grad():
        new, old = (model(input_ids=TEXT).logits for model in models)
    assert torch.equal(new[..., : old.shape[-1]], old)
    located = locate(str(world / "grown"))
    assert located.new_tokens == NEW
    assert located.base_model == "model"
    assert "2 tokens were added to model (<sql>, </sql>)" in located.note


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["a"], "one token of .* already"), ([" <x>"], "without blanks"), ([""], "without blanks"),
        ([], "one token or"), (["<x>", "<x>"], "each once"),
    ],
)  # fmt: skip
def test_what_is_no_new_token_is_refused(world: Path, tokens: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_tokens(str(world / "model"), tokens, world / "none")
    assert not (world / "none").exists()
    with pytest.raises(InputError, match="there already"):
        add_tokens(str(world / "model"), NEW, world / "grown")


def test_what_no_token_writes_is_new(tmp_path: Path) -> None:
    """A word that the tokenizer writes as the unknown one. Added to what was grown, both wait to be trained."""
    tiny_runs.model_folder(tmp_path / "model")
    encoders.tokenizer().save_pretrained(tmp_path / "model")
    first = add_tokens(str(tmp_path / "model"), ["unheard"], tmp_path / "first")
    add_tokens(str(tmp_path / "first"), ["unseen"], tmp_path / "second")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "second")
    assert tokenizer("unheard", add_special_tokens=False)["input_ids"] == list(first.ids)
    assert locate(str(tmp_path / "second")).new_tokens == ("unheard", "unseen")


def test_an_encoder_decoder_gets_them_too(tmp_path: Path) -> None:
    tiny_runs.model_folder(tmp_path / "model", "t5")
    grown = add_tokens(str(tmp_path / "model"), NEW, tmp_path / "grown")
    base = load(str(tmp_path / "grown"))
    assert base.layout == "seq2seq"
    for rows in by_token(base.model):
        assert torch.allclose(rows[list(grown.ids)], rows[: grown.ids[0]].mean(0), atol=1e-6)


def test_models_that_give_classes(world: Path, tmp_path: Path) -> None:
    """An encoder is refused; a grown model with a class head, whose embeddings do not train, as any other."""
    with pytest.raises(InputError, match="writes none"):
        add_tokens(str(encoders.folder(tmp_path / "bert", "bert")), NEW, tmp_path / "none")
    base = load(str(world / "grown"), door="classes")
    assert len(by_token(base.model)) == 1
    with pytest.raises(PlanError, match=r"does not train them.*model\.embed_tokens\.weight$"):
        refuse_idle_tokens(parse({"model": str(world / "grown")}), base)


def settings_of(world: Path, **adapt: Any) -> dict[str, Any]:
    rows = [{"prompt": f"dog {i}: what is it?", "completion": f"<sql>fox {i % 4}</sql>"} for i in range(40)]
    data = tiny_runs.written(world / "rows.jsonl", rows)
    settings = tiny_runs.settings(world / "grown", data, max_updates=3, lr=0.01, watch=0)
    settings["adapt"] = adapt
    settings["evals"] |= {"max_cases": 4, "few_shot": 0}
    return settings


def test_a_run_trains_them(world: Path, tmp_path: Path) -> None:
    """The run itself opens what it leaves in plain transformers and compares it."""
    settings = settings_of(world, method="named", names=["*embed_tokens*", "*lm_head*"])
    verdict = run(parse(settings), yaml.safe_dump(settings), tmp_path / "out", Silent())
    assert any("2 tokens were added" in note for note in verdict["notes"])
    assert json.loads((tmp_path / "out" / "export.json").read_text())["model"]["same_text"]
    assert not (tmp_path / "out" / "scores" / "context.json").exists()  # nothing is asked of a context that stays
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    base: Any = AutoModelForCausalLM.from_pretrained(world / "grown")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    ids = tokenizer.convert_tokens_to_ids(list(NEW))
    for now, then in zip(by_token(model), by_token(base), strict=True):
        assert torch.equal(then[ids[0]], then[ids[1]])
        assert not torch.equal(now[ids[0]], now[ids[1]])
    assert locate(str(tmp_path / "out" / "model")).new_tokens == ()


@pytest.mark.parametrize(
    "adapt",
    [{"method": "lora"}, {"method": "ia3"}, {"method": "last_k"}, {"method": "named", "names": ["*embed_tokens*"]}],
    ids=lambda adapt: "-".join(map(str, adapt.values())),
)
def test_tokens_that_would_stay_alike_are_refused(world: Path, tmp_path: Path, adapt: dict[str, Any]) -> None:
    settings = settings_of(world, **adapt)
    with pytest.raises(PlanError, match=r"does not train them.*model\.embed_tokens\.weight, lm_head\.weight"):
        run(parse(settings), yaml.safe_dump(settings), tmp_path / "out", Silent())
