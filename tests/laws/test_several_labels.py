"""Laws of labels of which several may fit: each is a question by itself, a sigmoid with binary cross-entropy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import encoders
from tests.laws.sessions import gradient, largest
from tests.runs import tiny_runs
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from transformers import AutoModelForSequenceClassification

from tunesmith.data.pack import forest
from tunesmith.data.whole_text import WholeText
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import DataError
from tunesmith.evals.score import fitting
from tunesmith.evals.sets import label_set
from tunesmith.evals.tasks import label_record
from tunesmith.generate.limits import Limits
from tunesmith.generate.stream import Ask
from tunesmith.models.adapters import Adapt
from tunesmith.models.class_head import ClassHead, last_linear, open_classes
from tunesmith.models.heads import Head
from tunesmith.models.load import Base, load
from tunesmith.objectives.focal import Focal
from tunesmith.objectives.sft import SFT
from tunesmith.objectives.smoothing import Smoothed
from tunesmith.regularisers.kl import KLToBase
from tunesmith.types import Example, Message, Record, Reply

TEXTS = ("order clips dog fox April May where sold", "dog", "quick brown fox jumps", "lazy")
ANSWERS = ("clips, dog, fox", "dog", "fox", "none")
WEIGHTS = (1.0, 3.0, 0.5, 1.0)  # unequal, so that a mean of means shows
FULL = Adapt("full")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoders.folder(tmp_path_factory.mktemp("encoder"), "bert")


def opened(folder: Path, door: Any = "auto") -> tuple[Base, WholeText]:
    base = load(str(folder), door=door)
    base.fresh |= open_classes(base.model, encoders.LABELS, several=True)
    with torch.no_grad():
        last_linear(base.model)[1].weight.normal_(generator=torch.Generator().manual_seed(1))
    return base, WholeText(base.tokenizer, encoders.LABELS, 64, told=label_set)


def learned(renderer: WholeText) -> list[Record]:
    rows = zip(TEXTS, ANSWERS, WEIGHTS)
    examples = [
        Example(str(i), (Message("user", text),), Reply(Message("assistant", answer)), weight=weight)
        for i, (text, answer, weight) in enumerate(rows)
    ]
    return list(renderer.records(examples).records)


def truth() -> Tensor:
    """[texts, C]"""
    return torch.tensor([[float(label in label_set(answer)) for label in encoders.LABELS] for answer in ANSWERS])


def logits(base: Base) -> Tensor:
    """[texts, C] by plain transformers, one text at a time."""
    return encoders.logits(base.model, base.tokenizer, TEXTS)


def scored(session: Session, renderer: WholeText) -> Tensor:
    """[texts, C] nats of each label's yes."""
    asked = [label_record(renderer, str(i), [Message("user", t)], renderer.labels) for i, t in enumerate(TEXTS)]
    return torch.stack([session.logprobs(None, [forest([record])])[0] for record in asked])


def test_the_loss_worked_out_by_hand(folder: Path) -> None:
    """Probabilities 3/4, 1/4 and 1/2 whatever the text; one text with the first label, one with none."""
    base, renderer = opened(folder)
    layer = last_linear(base.model)[1]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([math.log(3), -math.log(3), 0.0]))
    session = Session(base)
    session.create("t", Spec(FULL))
    made = [(Message("user", "dog"),), (Message("user", "quick fox"),)]
    rows = [Example(str(i), m, Reply(Message("assistant", a))) for i, (m, a) in enumerate(zip(made, ("clips", "none")))]
    batch = forest(list(renderer.records(rows).records))
    found = session.forward_backward("t", [batch], SFT(), 1 / 6)
    wanted = (-3 * math.log(3 / 4) - math.log(1 / 4) - 2 * math.log(1 / 2)) / 6
    assert found["loss"].mean == pytest.approx(wanted, rel=1e-6)
    assert float(SFT().count(batch)) == 6  # decisions: texts times labels
    bias = session.tenants["t"].pending["classifier.bias"]
    torch.testing.assert_close(bias, torch.tensor([0.75 - 1 + 0.75, 0.25 + 0.25, 0.5 + 0.5]) / 6)


def weighted(base: Base) -> Tensor:
    """Binary cross-entropy of transformers' logits, a mean over all decisions by the weights of their texts."""
    model = base.model
    each = []
    for text, wanted in zip(TEXTS, truth()):
        inputs = base.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        each.append(binary_cross_entropy_with_logits(model(**inputs).logits[0], wanted, reduction="sum"))
    weights = torch.tensor(WEIGHTS)
    return (torch.stack(each) * weights).sum() / (weights.sum() * len(encoders.LABELS))


def test_loss_and_gradient_are_those_of_transformers_and_the_cut_is_free(folder: Path) -> None:
    """Another cut, and all at once; a mean of means differs, for the weights do."""
    base, renderer = opened(folder)
    session = Session(base)
    session.create("t", Spec(FULL))
    records = learned(renderer)
    whole = gradient(session, "t", [forest(records)])
    assert largest(whole, gradient(session, "t", [forest(records[:1]), forest(records[1:])])) < 1e-5
    plain, _ = opened(folder)
    plain.model.requires_grad_(True)
    weighted(plain).backward()
    wanted = {n: p.grad for n, p in plain.model.named_parameters() if p.grad is not None}
    assert largest({n: whole[n] for n in wanted}, wanted) < 1e-5
    halves = [gradient(session, "t", [forest(rows)]) for rows in (records[:1], records[1:])]
    means = {n: (halves[0][n] + halves[1][n]) / 2 for n in whole}  # the mutant
    assert largest(whole, means) > 1e-2


def test_its_own_loss_in_transformers_is_the_same(folder: Path) -> None:
    """What `problem_type` makes of labels of ones and zeros: a mean over texts and labels."""
    base, renderer = opened(folder)
    session = Session(base)
    inputs = base.tokenizer(TEXTS[0], return_tensors="pt", return_token_type_ids=False)
    theirs = float(base.model(**inputs, labels=truth()[:1]).loss)
    [logp] = session.logprobs(None, [forest(learned(renderer)[:1])])
    assert float(-logp.mean()) == pytest.approx(theirs, rel=1e-5)


def test_a_mutant_that_lets_labels_compete_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A softmax instead of sigmoids: the numbers of the answers would be classes that are not there."""
    base, renderer = opened(folder)
    session, wanted = Session(base), logsigmoid(logits(base))
    torch.testing.assert_close(scored(session, renderer), wanted, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(renderer, "choice", lambda prompt, label: [renderer.labels.index(label)])
    monkeypatch.setattr(ClassHead, "projection", Head.projection)
    assert float((scored(session, renderer) - wanted).abs().max()) > 0.1


def test_with_all_weights_it_is_exported_as_what_it_is(folder: Path, tmp_path: Path) -> None:
    base, _ = opened(folder)
    session, wanted = Session(base), logits(base)
    session.create("t", Spec(FULL))
    session.export("t", tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert plain.config.problem_type == "multi_label_classification"
    assert tuple(plain.config.id2label.values()) == encoders.LABELS
    torch.testing.assert_close(encoders.logits(plain, base.tokenizer, TEXTS), wanted)


def test_a_decoder_answers_each_label_by_itself_too(tmp_path: Path) -> None:
    """Its head has no bias."""
    tiny_runs.model_folder(tmp_path, "llama")
    base, renderer = opened(tmp_path, "classes")
    torch.testing.assert_close(scored(Session(base), renderer), logsigmoid(logits(base)), rtol=1e-5, atol=1e-5)


def test_what_changes_a_tokens_loss_changes_each_decision(folder: Path) -> None:
    """Label smoothing is binary cross-entropy with y (1 - eps) + eps / 2, focal loss that of Lin et al."""
    base, renderer = opened(folder)
    session, z, y, batch = Session(base), logits(base).requires_grad_(), truth(), forest(learned(renderer))
    session.create("t", Spec(Adapt("last_k", last_k=1)))
    weights = torch.tensor(WEIGHTS)[:, None]
    nll = binary_cross_entropy_with_logits(z, y, reduction="none")
    of_focal = (1 - torch.exp(-nll)) ** 2 * nll
    soft = binary_cross_entropy_with_logits(z, 0.8 * y + 0.1, reduction="none")
    for goal, each in ((Smoothed(0.2), soft), (Focal(2.0), of_focal)):
        wanted = (each * weights).sum() / (weights.sum() * 3)
        [d_z] = torch.autograd.grad(wanted, z, retain_graph=True)
        units = float(goal.count(batch))
        assert session.forward_backward("t", [batch], goal, 1 / units)["loss"].mean == pytest.approx(wanted.item())
        found = session.tenants["t"].pending["classifier.bias"].clone()
        session.tenants["t"].forget_gradients()
        torch.testing.assert_close(found, d_z.sum(0), rtol=1e-4, atol=1e-6)


def test_kl_to_the_base_is_summed_over_the_labels(folder: Path) -> None:
    """Of two coins each: a mean over all decisions."""
    base, renderer = opened(folder)
    session, before = Session(base), logits(base)
    session.create("t", Spec(Adapt("lora", rank=4), regularisers=(KLToBase(1.0),)))
    session.tenants["t"].masters["classifier.bias"][0] += 2.0
    batch = forest([r for r, w in zip(learned(renderer), WEIGHTS) if w == 1])
    found = session.forward_backward("t", [batch], SFT(), 1.0)["kl_nats_per_token"].mean
    z, p = before[[0, 3]], (before + torch.tensor([2.0, 0, 0]))[[0, 3]].sigmoid()
    coins = p * (p.log() - logsigmoid(z)) + (1 - p) * ((1 - p).log() - logsigmoid(-z))
    assert found == pytest.approx(float(coins.mean()), rel=1e-4)


def test_all_labels_above_one_half_are_given(folder: Path) -> None:
    base, renderer = opened(folder)
    with torch.no_grad():
        last_linear(base.model)[1].bias.copy_(-logits(base).mean(0))
    session = Session(base)
    wanted = [", ".join(n for n, z in zip(renderer.labels, row) if z > 0) or "none" for row in logits(base).tolist()]
    assert len(set(wanted)) > 1
    prompts = [[Message("user", text)] for text in TEXTS]
    tokens = [renderer.prompt(p) for p in prompts]
    done = session.sample(None, tokens, Limits(3, ()), decode=renderer.text)
    assert [c.text for c in done] == wanted
    sure = [math.exp(sum(c.logp)) for c in done]
    records = [label_record(renderer, str(i), p, renderer.labels) for i, p in enumerate(prompts)]
    forests = [forest(records)]
    answers = fitting(forests, session.logprobs(None, forests), list("0123"), renderer.labels)
    assert [a.text for a in answers] == wanted
    assert [a.probability for a in answers] == pytest.approx(sure, rel=1e-4)
    for prompt, text in zip(tokens, wanted):
        pieces = list(session.stream(None, prompt, Limits(3, ()), Ask(), renderer))
        assert "".join(p.text for p in pieces) == text


def test_an_answer_is_a_no_or_yes_for_each_label() -> None:
    renderer = WholeText(encoders.tokenizer(), encoders.LABELS, 64, told=label_set)
    said = lambda text: renderer.reply([], Message("assistant", text))
    assert [said("fox, clips"), said("none"), said("dog | clips")] == [[1, 2, 5], [0, 2, 4], [1, 3, 4]]
    assert [renderer.text(t) for t in ([1, 2, 5], [0, 2, 4], [])] == ["clips, fox", "none", "none"]
    assert [renderer.settled(t) for t in ([0], [0, 3], [0, 3, 5])] == ["", "dog", "dog, fox"]
    assert renderer.choice([], "dog") == [3]
    with pytest.raises(DataError, match="'cat' is none of the labels"):
        said("cat, dog")


def test_a_head_of_the_other_kind_or_for_other_labels_is_new(folder: Path, tmp_path: Path) -> None:
    """Its numbers mean something else. One that was made for these labels, several of which may fit, is the base's."""
    names = {"id2label": dict(enumerate(("fox", "clips", "dog"))), "label2id": {"fox": 0, "clips": 1, "dog": 2}}
    kinds = {"one": "single_label_classification", "several": "multi_label_classification"}
    for kind, problem in kinds.items():
        plain = AutoModelForSequenceClassification.from_pretrained(folder, **names, problem_type=problem)
        plain.save_pretrained(tmp_path / kind)
        encoders.tokenizer().save_pretrained(tmp_path / kind)

    def owns(kind: str, labels: tuple[str, ...], *, several: bool) -> bool:
        base = load(str(tmp_path / kind))
        base.fresh |= open_classes(base.model, labels, several=several)
        is_zero = not bool(last_linear(base.model)[1].weight.any())
        assert is_zero is bool(base.fresh)
        return not is_zero

    assert owns("several", encoders.LABELS, several=True)
    assert not owns("one", encoders.LABELS, several=True)
    assert not owns("several", encoders.LABELS, several=False)
    assert owns("one", encoders.LABELS, several=False)
    assert not owns("one", ("cat", "dog"), several=False)
