"""Law: a recipe of three primary metrics is no likelier to be told "better" or "worse" by luck than one of one.

Ten thousand comparisons of two models that do not differ, on three right/wrong metrics of the same cases, whose wins
fall together in seven of ten cases. The mutant leaves Holm out.
"""

import numpy as np
import pytest

from tunesmith.evals import mcnemar
from tunesmith.evals.compare import BETTER, UNKNOWN, WORSE, together
from tunesmith.evals.stats import holm, holm_levels

ALPHA, NUM, CLAIMS = 0.05, 10_000, 3


def p_values(n: int, discordance: float, alike: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """[NUM, CLAIMS] p and sign of the effect. Swapping the two models of a case changes all its metrics together."""
    rng = np.random.default_rng(seed)
    won, lost = np.zeros((2, NUM, CLAIMS), dtype=int)
    for k in range(0, NUM, 1000):
        shared = rng.random((1000, n)) < discordance
        sign = rng.random((1000, n)) < 0.5
        for c in range(CLAIMS):
            own = rng.random((1000, n)) < alike
            differs = np.where(own, shared, rng.random((1000, n)) < discordance)
            wins = np.where(own, sign, rng.random((1000, n)) < 0.5)
            won[k : k + 1000, c] = (differs & wins).sum(1)
            lost[k : k + 1000, c] = (differs & ~wins).sum(1)
    return mcnemar.p_at(won, lost, n, 0.0), np.sign(won - lost)


def decided(p: np.ndarray, sign: np.ndarray, levels: list[float]) -> str:
    found = [UNKNOWN if p[c] >= levels[c] else BETTER if sign[c] > 0 else WORSE for c in range(CLAIMS)]
    return together(found)


@pytest.mark.parametrize("alike", [0.0, 0.7])
def test_three_claims_err_as_one(alike):
    p, sign = p_values(200, 0.25, alike, 21)
    with_holm = [holm_levels(list(row), ALPHA) for row in p]
    for row, levels in zip(p, with_holm):
        assert [x < level for x, level in zip(row, levels)] == [x < ALPHA for x in holm(list(row))]
    false = np.mean([decided(row, s, levels) != UNKNOWN for row, s, levels in zip(p, sign, with_holm)])
    assert false <= ALPHA + 0.01
    assert false > 0.025  # and it is not bought with a test that never says anything
    mutant = np.mean([decided(row, s, [ALPHA] * CLAIMS) != UNKNOWN for row, s in zip(p, sign)])
    assert mutant > ALPHA + 0.03
