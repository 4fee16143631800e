"""Laws of several processes, on gloo: what is learned does not depend on how many there are."""

from __future__ import annotations

from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.laws import cases, ranked
from tests.laws.ranked import CASES, MUTANTS, SPREAD_MUTANTS
from tests.laws.sessions import base_of

from tunesmith.engine.dealing import cost_of, deal, share_of_longest
from tunesmith.engine.ranks import ALONE
from tunesmith.objectives.distil import Distil, Distilled
from tunesmith.objectives.goal import Goal, objective
from tunesmith.objectives.online import Online
from tunesmith.objectives.policy import METHODS, Policy, Reinforcing
from tunesmith.objectives.preference import LOSSES, Preference, Preferring
from tunesmith.objectives.reward import Reward, Rewarding
from tunesmith.objectives.sft import SFT

NEAR = 1e-6  # of clipped gradients of norm 0.3, weights and moments
NEAR_LARGEST = 5e-6  # the same, of the largest of its kind; float32 has 1.2e-7, and 20 updates follow each other

NEAR_16_BITS = (
    0.05  # of the largest; what FSDP adds up it rounds to 16 bits, and weights that differ so go on to differ
)

Found = dict[tuple[str, str, str], Any]
ASKED = {  # each on several ranks, the dearest on as few as show the law
    4: [("supervised", "Group", "save four"), ("pairs", "Group", ""), ("marks", "Group", ""), ("noise", "Group", ""),
        ("replies", "Group", "")],
    3: [("supervised", "Group", "resume four"), ("supervised", "Group", ""), ("contrast", "Group", ""),
        ("all weights, a library's dropout", "Group", ""), ("noise", "Group", ""),
        ("supervised", "Group", "fsdp save parts"), ("all weights, a library's dropout", "Group", "fsdp"),
        ("contrast", "Group", "fsdp"), ("keyed noise", "Group", "fsdp again"), ("values", "Group", "fsdp"),
        *((name, mutant.__name__, "fsdp") for name, mutants in SPREAD_MUTANTS.items() for mutant in mutants)],
    1: [("supervised", "Group", "resume four"), ("supervised", "Group", "resume parts")],
    2: [("supervised", "Group", "resume four"), ("supervised", "Group", ""), ("replies", "Group", ""),
        ("supervised", "Group", "fsdp resume parts"), ("supervised", "Group", "fsdp"), ("pairs", "Group", "fsdp"),
        ("replies", "Group", "fsdp"), ("16 bits", "Group", ""), ("16 bits", "Group", "fsdp"),
        ("a base in 4 bits", "Group", ""),
        *((name, mutant.__name__, "") for name, mutants in MUTANTS.items() for mutant in mutants)],
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def one(home: Path) -> dict[str, Any]:
    """Each case in this process alone."""
    return {name: ranked.alone(name, home) for name in CASES}


@pytest.fixture(scope="module")
def found(home: Path) -> dict[int, Found]:
    """4 and 3 first: they write the checkpoints from which the others go on."""
    return {size: ranked.together(size, home, asked) for size, asked in ASKED.items()}


def far(mine: dict[str, Any], wanted: dict[str, Any]) -> tuple[float, float]:
    """Largest difference of a clipped gradient, a weight or a moment; and relative to the largest of its kind."""
    last = wanted["clipped"][-len(mine["clipped"]) :]
    apart = [distance(a, b) for a, b in zip(mine["clipped"], last, strict=True)]
    for kind in ("masters.", "optimizer.exp_avg.", "optimizer.exp_avg_sq."):
        a, b = ({n: t for n, t in run["state"].items() if n.startswith(kind)} for run in (mine, wanted))
        apart.append(distance(a, b))
    return max(d for d, _ in apart), max(r for _, r in apart)


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> tuple[float, float]:
    assert a.keys() == b.keys()
    most = max(float(np.abs(a[n] - b[n]).max()) for n in b)
    return most, most / max(float(np.abs(t).max()) for t in b.values())


def assert_near(mine: dict[str, Any], wanted: dict[str, Any], *, is_rounded: bool = False) -> None:
    apart, of_largest = far(mine, wanted)
    assert apart < NEAR or is_rounded
    assert of_largest < (NEAR_16_BITS if is_rounded else NEAR_LARGEST)


@pytest.mark.parametrize(
    ("size", "name", "how"),
    [(n, name, h) for n, asked in ASKED.items() for name, k, h in asked if k == "Group" and "resume" not in h],
)
def test_the_number_of_ranks_changes_nothing(
    size: int, name: str, how: str, one: dict[str, Any], found: dict[int, Found]
) -> None:
    """Gradients as they were clipped, weights and moments; updates have 2 or 3 micro-batches of unequal counts, so that
    of 3 and 4 ranks some have none. The examples of each micro-batch are the same ones. Nor does it change anything
    whether each rank has all weights or (fsdp) a part of them."""
    mine = found[size][name, "Group", how]
    norms = [np.sqrt(sum(float((g**2).sum()) for g in update.values())) for update in mine["clipped"]]
    clip = CASES[name].spec.optim.clip_norm
    assert max(norms) < clip * 1.0001
    assert np.median(norms) > clip * 0.9999
    assert len(norms) == CASES[name].updates
    assert_near(mine, one[name], is_rounded=name == "16 bits" and how == "fsdp")
    assert mine["seen"] == one[name]["seen"]
    assert min(len(update) for update in mine["seen"]) < max(len(update) for update in mine["seen"])


@pytest.mark.parametrize(
    ("size", "how"),
    [(1, "resume four"), (2, "resume four"), (3, "resume four"), (1, "resume parts"), (2, "fsdp resume parts")],
)
def test_a_checkpoint_goes_on_with_fewer_ranks(
    size: int, how: str, one: dict[str, Any], found: dict[int, Found]
) -> None:
    """Of four that held all weights, and of three that held a third of each tensor: it is one kind of file."""
    mine = found[size]["supervised", "Group", how]
    assert len(mine["clipped"]) == CASES["supervised"].updates - ranked.SAVED
    assert_near(mine, one["supervised"])
    assert mine["seen"] == one["supervised"]["seen"][ranked.SAVED :]


@pytest.mark.parametrize(("name", "mutant"), [(name, m.__name__) for name, kinds in MUTANTS.items() for m in kinds])
def test_mutants_are_seen(name: str, mutant: str, one: dict[str, Any], found: dict[int, Found]) -> None:
    """A mean of the ranks' means; clipping each rank; noise by the place on the rank."""
    apart, of_largest = far(found[2][name, mutant, ""], one[name])
    assert apart > 1000 * NEAR
    assert of_largest > 4 * NEAR_16_BITS or name != "16 bits"


@pytest.mark.parametrize(("name", "mutant"), [(n, m.__name__) for n, kinds in SPREAD_MUTANTS.items() for m in kinds])
def test_mutants_of_spread_weights_are_seen(
    name: str, mutant: str, one: dict[str, Any], found: dict[int, Found]
) -> None:
    """Padding that counts; the norm of a part; a forward pass that casts its batch."""
    assert far(found[3][name, mutant, "fsdp"], one[name])[0] > 100 * NEAR


def test_one_rank_is_one_process_to_the_last_bit(home: Path, found: dict[int, Found]) -> None:
    mine = found[1]["supervised", "Group", "resume four"]
    wanted = ranked.learned(CASES["supervised"], ALONE, home / "four", "resume four")
    assert wanted is not None
    assert far(mine, wanted) == (0, 0)


def test_dealing_by_hand() -> None:
    """5 | 4; then 3 to the second (7), 2 to the first (7), 1 to the first (8)."""
    assert deal([5, 1, 4, 2, 3], 2) == [[0, 1, 3], [2, 4]]
    assert share_of_longest([5, 1, 4, 2, 3], 2) == 8 / 15
    assert deal([2.0], 3) == [[0], [], []]
    assert deal([1, 1, 1], 3) == [[0], [1], [2]]


def test_the_cost_of_a_forest_by_hand() -> None:
    """Two sequences of 3 tokens see 6 pairs each; of 6 tokens in a row 21."""
    base = base_of()
    cost, config = cost_of(base), base.model.config
    body = sum(p.numel() for n, p in base.model.named_parameters() if "embed" not in n and "lm_head" not in n)
    head, pair = config.vocab_size * config.hidden_size, 2 * config.hidden_size * config.num_hidden_layers
    apart, row = cases.forest((3, 3), (-1, -1)), cases.forest((6,), (-1,))
    assert cost(apart) == 6 * body + 12 * pair
    assert cost(row) == 6 * body + 21 * pair
    assert cost(replace(row, weights=torch.ones(6))) == cost(row) + 6 * head


def test_every_objective_can_be_sent() -> None:
    """To other processes, which unpickle it by the names of its parts."""
    made: list[Any] = [case.objective() for case in CASES.values()]
    made += [Preferring(Preference(loss=loss), None) for loss in LOSSES]  # type: ignore[arg-type]
    made += [Reinforcing(Policy(method=method)) for method in METHODS]  # type: ignore[arg-type]
    made += [Online(Preference()), Rewarding(Reward()), Distilled(SFT(), Distil(0.5, "model"))]
    made += [objective(Goal(**{key: 0.1}), {"e": 0}) for key in ("contrastive", "smoothing")]
    made.append(objective(Goal(focal=2.0), {}))
    for each in made:
        again = ForkingPickler.loads(ForkingPickler.dumps(each))
        assert vars(again).keys() == vars(each).keys()
