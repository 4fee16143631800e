"""Learning from marked replies: values by hand, a forest against its sequences, the reference point over the update."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests import tiny
from tests.laws.cases import apart, assert_alike, gradients_of
from tests.laws.sessions import gradient, largest, session_on
from tests.laws.test_preference import pairs, sequence_logp
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.data.marks import Matched
from tunesmith.data.pack import forest
from tunesmith.engine import sharing
from tunesmith.models.heads import find_head
from tunesmith.models.output import output
from tunesmith.objectives import kto
from tunesmith.objectives.kto import Kto, Marking, reference_point
from tunesmith.types import Example, Marked, Message, Pair, Record, Segment, Shared

MARKS = {f"e{i}": i % 3 != 1 for i in range(40)}
# Replies to other prompts were less likely than they are now, so that z0 is above 0
REFERENCE = {f"e{i}": (-12.0 - i, -40.0 - 3 * i) for i in range(40)}
ASKED = Kto(beta=0.05, desirable=1.5, undesirable=0.75)


def test_values_by_hand() -> None:
    """Gains 2 and -1 against z0 0.5, beta 0.1: 1 - sigmoid(0.15), 1 - sigmoid(-0.15), and of the other 0.15 away."""
    gain, good = torch.tensor([2.0, 2.0, -1.0], dtype=torch.float64), torch.tensor([True, False, False])
    found = kto.kto(gain, torch.tensor(0.5, dtype=torch.float64), good, 0.1)
    assert found.tolist() == pytest.approx([0.462570, 0.537430, 0.462570], abs=1e-6)
    still = kto.kto(0 * gain, torch.tensor(0.0), good, 0.1)
    assert still.tolist() == pytest.approx([0.5] * 3)


def test_a_good_reply_is_pulled_up_and_a_bad_one_down_alike() -> None:
    gain = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    loss = kto.kto(gain, torch.tensor(0.0), torch.tensor([True, False]), 0.2)
    [slope] = torch.autograd.grad(loss.sum(), [gain])
    assert slope.tolist() == pytest.approx([-0.05, 0.05])  # beta / 4


def test_the_reference_point_by_hand() -> None:
    gain = torch.tensor([4.0, 1.0], requires_grad=True)
    found = reference_point(gain, torch.tensor([1.0, 2.0]))
    assert float(found) == 2
    assert not found.requires_grad
    assert float(reference_point(torch.tensor([1.0, -3.0]), torch.ones(2))) == 0


def plain(model: PreTrainedModel, rows: list[Record], asked: Kto) -> Tensor:
    """The mean loss through plain transformers, with the formula written out again."""
    own, other, weight = [], [], []
    for row in rows:
        root, *replies = row.segments
        begins = len(root.tokens)
        nats = [sequence_logp(model, np.concatenate([root.tokens, s.tokens]), begins) for s in replies]
        before = REFERENCE[row.example_id]
        own.append(nats[0] - before[0])
        other.append(float(nats[1].detach()) - before[1])
        weight.append(float(replies[0].weights[0]))
    z0 = max(0.0, sum(w * g for w, g in zip(weight, other)) / sum(weight))
    assert z0 > 1
    total = torch.zeros((), dtype=torch.float64)
    for row, gain, w in zip(rows, own, weight):
        good = MARKS[row.example_id]
        value = 1 / (1 + torch.exp(-asked.beta * (gain - z0 if good else z0 - gain)))
        total = total + w * (asked.desirable if good else asked.undesirable) * (1 - value)
    return total / sum(weight)


def in_a_forest(model: PreTrainedModel, rows: list[Record], asked: Kto) -> Tensor:
    batch, objective = forest(rows), Marking(asked, REFERENCE, MARKS)
    out = output(model, find_head(model), batch, "forest")
    shared = Shared(objective.share(out, batch), slice(0, len(rows)))
    return objective(out, batch, shared, {}).total / objective.count(batch)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny.build("llama", dtype=torch.float64)


def test_a_forest_equals_its_sequences(model: PreTrainedModel) -> None:
    mine, theirs = in_a_forest(model, pairs(), ASKED), plain(model, pairs(), ASKED)
    assert_alike(model, mine, theirs)


@pytest.mark.parametrize("mutant", ["no reference point", "it is learned through", "marks the other way", "one weight"])
def test_mutant_another_loss_is_seen(model: PreTrainedModel, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = plain(model, pairs(), ASKED)
    slopes = gradients_of(model, wanted)
    asked = ASKED
    if mutant == "no reference point":
        monkeypatch.setattr(kto, "reference_point", lambda gain, weight: torch.zeros(()))
    elif mutant == "it is learned through":
        monkeypatch.setattr(kto, "reference_point", lambda gain, weight: (gain * weight).sum() / weight.sum())
    elif mutant == "marks the other way":
        monkeypatch.setattr(Marking, "marks", {k: not v for k, v in MARKS.items()}, raising=False)
        monkeypatch.setattr(Marking, "__init__", lambda self, asked, reference, marks: vars(self).update(
            asked=asked, reference=reference))  # fmt: skip
    else:
        asked = Kto(beta=ASKED.beta)
    found = in_a_forest(model, pairs(), asked)
    assert apart(gradients_of(model, found), slopes) > 1e-3
    if mutant != "it is learned through":
        assert abs(found.item() - wanted.item()) > 1e-4


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_the_reference_point_is_of_the_whole_update(adapt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is cut; the mutant takes each micro-batch's own."""
    session, rows = session_on(adapt), pairs()
    cuts = [forest(rows[:1]), forest(rows[1:5]), forest(rows[5:])]
    made = Marking(ASKED, REFERENCE, MARKS)
    whole = gradient(session, "t", [forest(rows)], made)
    assert largest(whole, gradient(session, "t", cuts, made)) < 1e-5
    each = sharing.exchange

    def alone(objective, outs, batches, rows, others, ranks):  # type: ignore[no-untyped-def]
        return [each(objective, [o], [b], [r], [x], ranks)[0] for o, b, r, x in zip(outs, batches, rows, others)]

    monkeypatch.setattr(sharing, "exchange", alone)
    assert largest(whole, gradient(session, "t", cuts, made)) > 1e-3


def test_a_row_of_weight_2_is_two_rows() -> None:
    session, [row, other] = session_on("lora"), pairs(2)
    twice = Record("e0", tuple(Segment(s.tokens, 2 * s.weights, s.parent) for s in row.segments))
    one = gradient(session, "t", [forest([twice, other])], Marking(ASKED, REFERENCE, MARKS))
    again = Marking(ASKED, {**REFERENCE, "again": REFERENCE["e0"]}, {**MARKS, "again": MARKS["e0"]})
    two = gradient(session, "t", [forest([row, Record("again", row.segments), other])], again)
    assert largest(one, two) < 1e-5


def test_told_numbers_are_of_each_mark() -> None:
    session, rows = session_on("lora"), pairs()
    made = Marking(ASKED, REFERENCE, MARKS)
    told = session.forward_backward("t", [forest(rows[:3]), forest(rows[3:])], made, 1.0)
    gains = {}
    for row in rows:
        batch = forest([row])
        own = session.logprobs("t", [batch])[0].split([len(s.tokens) for s in row.segments[1:]])[0]
        gains[row.example_id] = (float(own.sum()) - REFERENCE[row.example_id][0], float(row.segments[1].weights[0]))
    for name, mark in (("good_change_nats", True), ("bad_change_nats", False)):
        mine = [(g, w) for e, (g, w) in gains.items() if MARKS[e] == mark]
        assert told[name].mean == pytest.approx(sum(g * w for g, w in mine) / sum(w for _, w in mine), rel=1e-4)
    assert told["other_change_nats"].mean > 1
    assert math.isfinite(told["loss"].mean)


def test_each_is_matched_with_another_prompts_reply() -> None:
    """Rows of one prompt stand together, and replies repeat."""
    rows = [
        Example(f"{i}", (Message("user", f"q{i // 3}"),), Marked(Message("assistant", f"a{i % 4}"), i % 2 == 0))
        for i in range(24)
    ]
    for example, made in zip(rows, Matched(rows, rows), strict=True):
        assert isinstance(made.target, Pair)
        assert made.target.chosen == example.target.message  # type: ignore[union-attr]
        assert made.target.rejected.content != made.target.chosen.content
        asked = [e.prompt for e in rows if e.target.message == made.target.rejected]  # type: ignore[union-attr]
        assert any(prompt != example.prompt for prompt in asked)
    apart_by = {made.target.rejected.content for made in Matched(rows, rows)}  # type: ignore[union-attr]
    assert len(apart_by) == 4  # the mutant would take one reply for all
