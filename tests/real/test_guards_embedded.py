"""The guard probes on the embedded model: it is above chance, loses nothing by being itself, and noise is seen."""

from __future__ import annotations

import pytest
import torch

from tunesmith import guards
from tunesmith.engine.tenant import Spec, Who
from tunesmith.evals.probes import PROBES
from tunesmith.models.adapters import Adapt
from tunesmith.models.catalogue import fetch
from tunesmith.opened import Opened, open_model

NAME = "smollm2-135m-instruct"
ASKED = [p for p in PROBES if p.how != "answer" or p.is_short]


@pytest.fixture(scope="module")
def opened() -> Opened:
    fetch(NAME)
    return open_model(NAME)


def ask(opened: Opened, who: Who) -> guards.Asked:
    return guards.ask(opened.session, who, opened.renderer, "quick", 1e9, lambda done, of, text: None, ASKED)


@pytest.fixture(scope="module")
def base(opened: Opened) -> guards.Asked:
    return ask(opened, None)


def test_the_base_is_well_above_chance(base: guards.Asked) -> None:
    """A fair quarter of the items; all of them: docs/guards.md."""
    right = {name: sum(rows) / len(rows) for name, rows in base.scores.items()}
    assert right["general knowledge"] > 0.5
    assert right["common sense"] > 0.6
    assert right["general text"] > -1.4


def test_the_same_model_loses_nothing(opened: Opened, base: guards.Asked) -> None:
    again = ask(opened, None)
    assert again.scores == base.scores
    assert not [g.name for g in guards.results(base, again) if g.passed is False]


def test_a_wrecked_model_is_not_called_whole(opened: Opened, base: guards.Asked) -> None:
    opened.session.create("noise", Spec(Adapt(rank=8)))
    random = torch.Generator().manual_seed(0)
    for tensor in opened.session.tenants["noise"].masters.values():
        tensor.add_(0.3 * torch.randn(tensor.shape, generator=random))
    found = {g.name: g for g in guards.results(base, ask(opened, opened.session.publish("noise")))}
    assert {n for n, g in found.items() if g.passed} <= {"stereotypes"}, found
    lost = {n for n, g in found.items() if g.passed is False}
    assert {"general knowledge", "general text"} <= lost, found
    assert all(g.note for g in found.values())
