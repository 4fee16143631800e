"""`--seeds` with several primary metrics: Holm over what the seeds say of each, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.seeds import claims_of, in_words


def verdicts(**effects: list[float]) -> list[dict[str, Any]]:
    return [
        {"claims": [{"metric": m, "effect": e, "smallest_that_matters": 0.02} for m, e in zip(effects, row)]}
        for row in zip(*effects.values())
    ]


def test_six_seeds_show_one_claim_and_not_two() -> None:
    """Six seeds all one way have p = 2/64, which is above 0.05/2; seven have 2/128. A mutant without Holm says "better"
    of six, and one that looks at the first metric only does not see the loss."""
    gains = [0.1, 0.12, 0.15, 0.2, 0.22, 0.3, 0.31]
    losses = [-0.2, -0.21, -0.3, -0.32, -0.4, -0.5, -0.6]
    [alone] = claims_of(verdicts(accuracy=gains[:6]), 0.05)
    assert (alone["decision"], alone["p"], alone["level"]) == ("better", pytest.approx(2 / 64), 0.05)
    six = claims_of(verdicts(accuracy=gains[:6], macro_f1=losses[:6]), 0.05)
    assert [c["decision"] for c in six] == ["too few seeds"] * 2
    assert [c["p_holm"] for c in six] == pytest.approx([4 / 64] * 2)
    assert six[0]["interval"] == [None, None]
    seven = claims_of(verdicts(accuracy=gains, macro_f1=losses), 0.05)
    assert [c["decision"] for c in seven] == ["better", "worse"]
    assert [c["level"] for c in seven] == [0.025, 0.05]


def test_words_name_each_metric() -> None:
    claims = claims_of(verdicts(accuracy=[0.1, 0.2, 0.3], macro_f1=[-0.1, -0.2, -0.25]), 0.05)
    runs = [f"out/seed_{k}" for k in range(3)]
    found = {**claims[0], "claims": claims, "fewest": 7, "alpha": 0.05, "num_seeds": 3, "num_cases": 40, "runs": runs}
    text = in_words({**found, "spread": None})
    assert "accuracy, too few seeds: mean effect +0.2" in text
    assert "macro_f1, too few seeds: mean effect -0.18" in text
    assert "at least 7 seeds: fewer cannot reach a level of 0.025" in text
    assert "| seed_2 | +0.3 | -0.25 |" in text
    assert "came out alike" not in text
    alike = claims_of(verdicts(accuracy=[0.1] * 6), 0.05)
    said = in_words({**found, **alike[0], "claims": alike, "num_seeds": 6, "spread": None})
    assert "All seeds came out alike on accuracy" in said
