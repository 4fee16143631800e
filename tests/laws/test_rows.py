"""Laws of the row layout: a forest of texts and classes is what transformers says of each text alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tests import encoders
from tests.laws.sessions import gradient, largest
from tests.runs import tiny_runs
from transformers import AutoModelForSequenceClassification

from tunesmith.class_export import Classes, ReadServing, merge, verify
from tunesmith.classes import MEAN, OWN, POOLED, forms_of, renderer_of
from tunesmith.data.pack import forest
from tunesmith.data.whole_text import WholeText
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import DataError, ModelError, PlanError
from tunesmith.evals.tasks import label_record
from tunesmith.generate.limits import Limits
from tunesmith.models import rows
from tunesmith.models.adapters import Adapt, linear_suffixes
from tunesmith.models.class_head import head_tensors, last_linear, open_classes
from tunesmith.models.load import Base, load
from tunesmith.models.probe_rows import probe_rows
from tunesmith.objectives.contrastive import Contrastive, contrastive
from tunesmith.objectives.sft import SFT
from tunesmith.recipe import parse
from tunesmith.regularisers.kl import KLToBase
from tunesmith.types import Example, Label, Message, Record

TEXTS = (
    "order clips dog fox April May where sold",
    "dog",
    "quick brown fox jumps",
    "order clips dog fox April May where sold brown quick lazy",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    at = tmp_path_factory.mktemp("encoders")
    return {family: encoders.folder(at / family, family) for family in encoders.FAMILIES}


def opened(folder: Path) -> tuple[Base, WholeText]:
    base = load(str(folder))
    open_classes(base.model, encoders.LABELS)
    with torch.no_grad():
        last_linear(base.model)[1].weight.normal_(generator=torch.Generator().manual_seed(1))
    return base, WholeText(base.tokenizer, encoders.LABELS, 64)


def prompts(texts: Sequence[str] = TEXTS) -> list[tuple[Message, ...]]:
    return [(Message("user", text),) for text in texts]


def asked(renderer: WholeText) -> list[Record]:
    return [label_record(renderer, str(i), p, renderer.labels) for i, p in enumerate(prompts())]


def learned(renderer: WholeText) -> list[Record]:
    examples = [Example(str(i), p, Label(encoders.LABELS[i % 3])) for i, p in enumerate(prompts())]
    return list(renderer.records(examples).records)


def by_transformers(base: Base) -> torch.Tensor:
    """[texts, C] nats, one text at a time."""
    return encoders.logits(base.model, base.tokenizer, TEXTS).log_softmax(-1)


def by_session(base: Base, renderer: WholeText) -> torch.Tensor:
    whole = forest(asked(renderer))
    [logp] = Session(base).logprobs(None, [whole])
    order = [whole.example_ids.index(str(i)) for i in range(len(TEXTS))]
    return logp.view(len(TEXTS), -1)[order]


@pytest.mark.parametrize("family", encoders.FAMILIES)
def test_a_forest_of_texts_is_each_text_alone(folders: dict[str, Path], family: str) -> None:
    base, renderer = opened(folders[family])
    assert (base.layout, base.by_head) == ("rows", True)
    torch.testing.assert_close(by_session(base, renderer), by_transformers(base), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mutant", ["mask", "class in the text", "padding"])
def test_mutants_of_the_layout_are_noticed(
    folders: dict[str, Path], mutant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, renderer = opened(folders["roberta"])
    right, plain = by_transformers(base), rows.inputs_of
    if mutant == "class in the text":
        texts_of, longer = rows.texts_of, lambda runs: [*runs, (runs[-1][1], runs[-1][1] + 1)]
        monkeypatch.setattr(rows, "texts_of", lambda f: {at: longer(runs) for at, runs in texts_of(f).items()})
    elif mutant == "mask":
        ones = lambda found: found | {"attention_mask": torch.ones_like(found["attention_mask"])}
        monkeypatch.setattr(rows, "inputs_of", lambda *a: ones(plain(*a)))
    else:  # RoBERTa counts positions by what is no padding
        monkeypatch.setattr(rows, "inputs_of", lambda *a: {k: v.flip(1) for k, v in plain(*a).items()})
    assert float((by_session(base, renderer) - right).abs().max()) > 1e-3


def test_answers_are_the_likeliest_classes(folders: dict[str, Path]) -> None:
    base, renderer = opened(folders["bert"])
    tokens = [renderer.prompt(p) for p in prompts()]
    found = Session(base).sample(None, tokens, Limits(1, (), rows=3), decode=renderer.text)
    best = by_transformers(base).max(-1)
    assert [c.text for c in found] == [encoders.LABELS[i] for i in best.indices.tolist()]
    assert [c.logp[0] for c in found] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_states_that_are_no_numbers_are_noticed(folders: dict[str, Path]) -> None:
    base, _ = opened(folders["bert"])
    with torch.no_grad():
        last_linear(base.model)[1].weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="difference nan"):
        probe_rows(base.model)


def test_an_export_may_say_two_labels_alike(folders: dict[str, Path]) -> None:
    base, renderer = opened(folders["bert"])
    with torch.no_grad():
        for parameter in last_linear(base.model)[1].parameters():
            parameter.zero_()
    expected = Classes(TEXTS, tuple(by_session(base, renderer)), renderer.labels, torch.float32)
    assert verify("model", base.model, folders["bert"], expected)["logit_diff"] < 1e-6


def test_a_shared_beginning_is_read_with_its_own_end(folders: dict[str, Path]) -> None:
    base, renderer = opened(folders["bert"])
    records = asked(renderer)
    together, apart = forest(records), forest(records, share_prefix=False)
    assert together.num_tokens < apart.num_tokens  # the first and the last text begin alike
    session = Session(base)
    found = [dict(zip(f.example_ids, session.logprobs(None, [f])[0].view(4, -1))) for f in (together, apart)]
    for name, logp in found[0].items():
        torch.testing.assert_close(logp, found[1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("adapt", [Adapt("lora", rank=4), Adapt("full"), Adapt("last_k", last_k=1)], ids=str)
def test_the_cut_is_free_and_the_base_is_where_it_starts(folders: dict[str, Path], adapt: Adapt) -> None:
    base, renderer = opened(folders["bert"])
    session = Session(base)
    before = by_session(base, renderer)
    session.create("t", Spec(adapt))
    assert set(head_tensors(base.model)) <= set(session.tenants["t"].masters)
    whole = forest(asked(renderer))
    order = [int(i) for i in whole.example_ids]
    assert torch.equal(session.logprobs("t", [whole])[0].view(4, -1), before[order])
    records = learned(renderer)
    at_once = gradient(session, "t", [forest(records)])
    cut = gradient(session, "t", [forest(records[:1]), forest(records[1:])])
    assert largest(at_once, cut) < 1e-5
    session.close()
    torch.testing.assert_close(by_session(base, renderer), before, rtol=0, atol=0)


@pytest.mark.parametrize("family", encoders.FAMILIES)
def test_each_family_learns_its_examples_and_opens_elsewhere(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    base, renderer = opened(folders[family])
    session = Session(base)
    session.create("t", Spec(Adapt("lora", rank=4)))
    batch = forest(learned(renderer))
    for _ in range(80):
        stats = session.forward_backward("t", [batch], SFT(), 1 / 4)
        session.optim_step("t", 4e-3)
    assert stats["loss"].mean < 0.05
    wanted = session.logprobs("t", [forest([r]) for r in asked(renderer)])
    session.export("t", tmp_path / "adapter")
    names = dict(enumerate(renderer.labels))
    plain = AutoModelForSequenceClassification.from_pretrained(folders[family], id2label=names)
    adapter = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    found = encoders.logits(adapter, base.tokenizer, TEXTS).log_softmax(-1)
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-5, atol=1e-5)
    merged = adapter.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    found = encoders.logits(again, base.tokenizer, TEXTS).log_softmax(-1)
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-4)
    assert tuple(again.config.id2label.values()) == renderer.labels


def test_adapters_leave_the_class_head_alone(folders: dict[str, Path]) -> None:
    """RoBERTa's head has a layer called dense, as its layers have."""
    wanted = ["intermediate.dense", "key", "output.dense", "query", "value"]
    assert linear_suffixes(load(str(folders["roberta"])).model) == wanted


def test_a_reference_keeps_its_whole_head(folders: dict[str, Path]) -> None:
    """Also the bias: with the weight alone, KL to the base would not see a bias that moved."""
    base, renderer = opened(folders["bert"])
    session = Session(base)
    session.create("t", Spec(Adapt("lora", rank=4), regularisers=(KLToBase(1.0),)))
    bias = session.tenants["t"].masters["classifier.bias"]
    bias[0] += 3.0
    batch = forest(learned(renderer))
    [base_logits] = [by_transformers(base)]
    found = session.forward_backward("t", [batch], SFT(), 1.0)["kl_nats_per_token"].mean
    moved = (base_logits + torch.tensor([3.0, 0, 0])).log_softmax(-1)
    assert found == pytest.approx(float((moved.exp() * (moved - base_logits)).sum(-1).mean()), rel=1e-4)


def test_contrastive_compares_what_the_head_reads(folders: dict[str, Path]) -> None:
    base, renderer = opened(folders["distilbert"])
    session = Session(base)
    session.create("t", Spec(Adapt("lora", rank=4)))
    batch = forest(learned(renderer))
    classes = {str(i): i % 3 for i in range(4)}
    found = session.forward_backward("t", [batch], Contrastive(SFT(), classes, 0.5, 0.3), 1 / 4)["contrastive_nats"]
    pooled: list[Any] = []
    handle = last_linear(base.model)[1].register_forward_pre_hook(lambda _, given: pooled.append(given[0]))
    by_transformers(base)
    handle.remove()
    z = torch.nn.functional.normalize(torch.cat(pooled), dim=-1)
    wanted = contrastive(z, torch.tensor([classes[str(i)] for i in range(4)]), 0.3).mean()
    assert found.mean == pytest.approx(float(wanted), rel=1e-5)


def test_a_head_of_its_own_is_sorted_and_another_is_new(folders: dict[str, Path], tmp_path: Path) -> None:
    config = {"id2label": {0: "fox", 1: "clips", 2: "dog"}, "label2id": {"fox": 0, "clips": 1, "dog": 2}}
    plain = AutoModelForSequenceClassification.from_pretrained(folders["bert"], **config)
    plain.save_pretrained(tmp_path)
    encoders.tokenizer().save_pretrained(tmp_path)
    before, base = load(str(tmp_path)), load(str(tmp_path))
    recipe = parse({"model": str(tmp_path)})
    renderer_of(base, recipe, encoders.LABELS, "classify")
    assert [f.name for f in forms_of(base)] == [OWN]
    mine, theirs = by_transformers(base), by_transformers(before)
    torch.testing.assert_close(mine, theirs[:, [1, 2, 0]])
    assert base.model.config.id2label == dict(enumerate(encoders.LABELS))
    renderer_of(before, recipe, ("dog", "fox", "owl"), "classify")  # as many, of other names
    assert [f.name for f in forms_of(before)] == [POOLED, MEAN]
    assert not last_linear(before.model)[1].weight.any()
    untold = load(str(folders["bert"]))
    renderer_of(untold, recipe, ("LABEL_0", "LABEL_1"), "classify")  # as transformers calls what nobody named
    assert [f.name for f in forms_of(untold)] == [POOLED, MEAN]


# -- texts ------------------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_plain_tokenizer() -> None:
    tokenizer = encoders.tokenizer()
    renderer = WholeText(tokenizer, encoders.LABELS, 12)
    assert renderer.prompt(prompts()[0]) == tokenizer(TEXTS[0])["input_ids"]
    long = " ".join(["fox"] * 30)
    assert renderer.prompt(prompts([long])[0]) == tokenizer(long, truncation=True, max_length=11)["input_ids"]


def test_marks_in_a_text_are_text() -> None:
    renderer = WholeText(encoders.tokenizer(), encoders.LABELS, 64)
    ids = renderer.prompt([Message("user", "dog [SEP] fox")])
    assert ids.count(encoders.MARKS.index("[SEP]")) == 1


def test_what_is_too_long_is_dropped_or_cut_and_no_label_is_refused() -> None:
    long = Example("long", prompts(["fox " * 30])[0], Label("fox"))
    short = Example("short", prompts(["dog"])[0], Label("dog"))
    dropping = WholeText(encoders.tokenizer(), encoders.LABELS, 12).records([long, short])
    assert [r.example_id for r in dropping.records] == ["short"]
    assert list(dropping.dropped) == [("long", "33 tokens, more than 12")]
    cutting = WholeText(encoders.tokenizer(), encoders.LABELS, 12, "cut").records([long, short])
    assert list(cutting.cut) == ["long"]
    assert [r.num_tokens for r in cutting.records] == [12, 4]
    with pytest.raises(DataError, match="none of the labels"):
        WholeText(encoders.tokenizer(), ("cat",), 12).record(short)
    with pytest.raises(PlanError, match="leaves a text no token"):
        WholeText(encoders.tokenizer(), encoders.LABELS, 3)
    np.testing.assert_array_equal(cutting.records[1].segments[1].tokens, [1])


def test_a_decoder_gives_classes_by_a_head_too(tmp_path: Path) -> None:
    """transformers reads the last token that is no padding, of which most decoders' configurations say nothing; texts
    side by side are padded behind it."""
    tiny_runs.model_folder(tmp_path / "model", "llama")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    del config["pad_token_id"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    base = load(str(tmp_path / "model"), door="classes")
    open_classes(base.model, encoders.LABELS)
    with torch.no_grad():
        last_linear(base.model)[1].weight.normal_(generator=torch.Generator().manual_seed(1))
    renderer = WholeText(base.tokenizer, encoders.LABELS, 64)
    assert (base.layout, list(head_tensors(base.model))) == ("rows", ["score.weight"])
    torch.testing.assert_close(by_session(base, renderer), by_transformers(base), rtol=1e-5, atol=1e-5)
    session = Session(base)
    session.create("t", Spec(Adapt("lora", rank=4)))
    batch, losses = forest(learned(renderer)), []
    for _ in range(30):
        losses.append(session.forward_backward("t", [batch], SFT(), 1 / 4)["loss"].mean)
        session.optim_step("t", 4e-3)
    assert losses[-1] < 0.1 * losses[0]
    session.export("t", tmp_path / "adapter")
    serving = ReadServing(base.tokenizer, "", (), renderer.longest)
    expected = Classes((), (), encoders.LABELS, torch.float32)
    merged = merge(session, tmp_path / "adapter", serving, expected, tmp_path / "merged")
    plain = AutoModelForSequenceClassification.from_pretrained(merged).eval()
    base.tokenizer.pad_token = base.tokenizer.eos_token
    texts = base.tokenizer(list(TEXTS), padding=True, return_tensors="pt", return_token_type_ids=False)
    found = plain(**texts).logits.log_softmax(-1).detach()
    wanted = torch.stack(session.logprobs("t", [forest([r]) for r in asked(renderer)]))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_what_does_not_read_texts_so_is_refused_with_the_reason(tmp_path: Path) -> None:
    tiny_runs.model_folder(tmp_path, "t5")  # its class head wants an end token in each text
    with pytest.raises(ModelError, match=r"T5ForSequenceClassification .*Error.*Use another model"):
        load(str(tmp_path), door="classes")
