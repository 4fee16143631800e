"""Law of the guard probes: against a model that was taught to do what a probe asks for, one that was wrecked lost it,
and the same one asked again lost nothing. On tiny models, so that each probe can be tried; what the embedded model and
its wrecked ones show is in docs/guards.md. The mutant is an unwrecked model in the wrecked one's place."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import torch
from bench.guards import CIRCLE, INSULT, REFUSAL, REQUESTS
from tests.runs import tiny_runs

from tunesmith import guards
from tunesmith.data.pack import pack
from tunesmith.engine.tenant import Snapshot, Spec
from tunesmith.evals import checks
from tunesmith.evals.probes import PROBES, STOPPING, Item, Probe
from tunesmith.models.adapters import Adapt
from tunesmith.objectives.sft import SFT
from tunesmith.opened import Opened, open_model
from tunesmith.types import Example, Message, Reply

NUM_ITEMS = 10
NUM_UPDATES = 40
ANSWER = "some wooden door shut"
Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Few(Probe):
    """A probe with few items: its own first ones, or some that one short answer does right."""

    own: tuple[Item, ...] = ()

    def items(self, level: str = "full") -> list[Item]:
        return list(self.own) or Probe.items(self)[:NUM_ITEMS]


def few(name: str, own: tuple[Item, ...] = ()) -> Few:
    probe = next(p for p in PROBES if p.name == name)
    return Few(**{f.name: getattr(probe, f.name) for f in fields(Probe)}, own=own)


def always(text: str, name: str, own: tuple[Item, ...] = ()) -> Pairs:
    """One answer to everything that the probe asks."""
    probe = few(name, own)
    return [(probe.asks + item["text"], text) for item in probe.items()]


def options(name: str, which: int) -> Pairs:
    return [(item["q"], item["a"][which]) for item in few(name).items()]


def about_all(name: str) -> str:
    """A word of each request."""
    return " ".join(max(checks.content_words(item["text"]), key=len) for item in few(name).items())


DOORS = tuple({"text": f"{request} {ANSWER}."} for request in REQUESTS[:NUM_ITEMS])
SHORT = tuple({"text": r, "checks": [{"kind": "max_words", "value": 6}]} for r in REQUESTS[:NUM_ITEMS])
# Probe -> (its items, what the able model was taught, what the wrecked one was); nothing: a model of random weights
MODELS: dict[str, tuple[Few, Pairs, Pairs]] = {
    **{name: (few(name), options(name, 0), options(name, 1)) for name in ("general knowledge", "common sense")},
    "stereotypes": (few("stereotypes"), [], options("stereotypes", 1)),
    "instructions": (
        few("instructions", SHORT), always(ANSWER, "instructions", SHORT), always(CIRCLE[:40], "instructions", SHORT),
    ),
    "supported claims": (
        few("supported claims", DOORS), always(ANSWER, "supported claims", DOORS),
        always("Robert Fielding of Denver, 5,814.", "supported claims", DOORS),
    ),
    "refusals": (few("refusals"), always(REFUSAL, "refusals"), always("Sure! Here is a plan.", "refusals")),
    "no over-refusal": (
        few("no over-refusal"), always(about_all("no over-refusal"), "no over-refusal"),
        always(REFUSAL, "no over-refusal"),
    ),
    "civility": (few("civility"), always(ANSWER, "civility"), always(INSULT[:34], "civility")),
}  # fmt: skip


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return open_model(str(tiny_runs.model_folder(tmp_path_factory.mktemp("model"))))


@pytest.fixture(autouse=True)
def enough_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "MAX_NEW_TOKENS", 60)  # the tiny tokenizer needs more for a sentence


def taught(opened: Opened, pairs: Pairs, *, endless: bool = False) -> Snapshot | None:
    """The tiny model with these replies by heart; `endless`: without their ends."""
    if not pairs:
        return None
    examples = [
        Example(str(k), (Message("user", q),), Reply(Message("assistant", a))) for k, (q, a) in enumerate(pairs)
    ]
    forests, session = pack(opened.renderer.records(examples).records, 4096), opened.session
    if endless:
        for forest in forests:
            forest.weights[torch.isin(forest.tokens, torch.tensor(opened.renderer.stop_ids))] = 0
    objective = SFT()
    session.create("taught", Spec(Adapt("full")))
    for _ in range(NUM_UPDATES):
        session.forward_backward("taught", forests, objective, 1 / float(sum(objective.count(f) for f in forests)))
        session.optim_step("taught", 5e-3)
    found = session.publish("taught")
    session.unload("taught")
    return found


def ask(opened: Opened, who: Snapshot | None, probe: Probe) -> guards.Asked:
    return guards.ask(opened.session, who, opened.renderer, "full", 1e9, lambda done, of, text: None, [probe])


@pytest.mark.parametrize("name", [p.name for p in PROBES if p.how != "prose"])
def test_the_wrecked_model_lost_and_the_same_model_did_not(opened: Opened, name: str) -> None:
    """Answers that must be short end a wrecked model's stopping too: it learned no end of turn."""
    probe, able, wrecked = MODELS[name]
    is_short = name == "instructions"
    one, two = taught(opened, able), taught(opened, wrecked, endless=is_short)
    before = ask(opened, one, probe)
    lost = {g.name: g for g in guards.results(before, ask(opened, two, probe))}
    assert lost[name].passed is False, lost
    assert not is_short or lost[STOPPING.name].passed is False, lost
    unwrecked = guards.results(before, ask(opened, one, probe))  # the mutant
    assert not [g for g in unwrecked if g.passed is False]


def test_noise_lost_ordinary_text_and_the_same_model_did_not(opened: Opened) -> None:
    probe, session = few("general text"), opened.session
    before = ask(opened, None, probe)
    session.create("noise", Spec(Adapt("full")))
    drawn = torch.Generator().manual_seed(0)
    for tensor in session.tenants["noise"].masters.values():
        tensor.add_(torch.randn(tensor.shape, generator=drawn))
    [lost] = guards.results(before, ask(opened, session.publish("noise"), probe))
    session.unload("noise")
    assert lost.passed is False, lost
    [again] = guards.results(before, ask(opened, None, probe))
    assert again.passed is not False
