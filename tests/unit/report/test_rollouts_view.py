"""What a report says of the replies that a run sampled."""

from __future__ import annotations

from typing import Any

from tunesmith.report.rollouts_view import rolled

REPLIES = [
    {"asked": "2 + 2?", "text": f"reply {k}", "reward": float(k), "parts": "{}", "why": "", "stopped": True}
    for k in range(8)
]


def told(sampling: int, reward: float, **changes: float) -> dict[str, Any]:
    """A row of metrics.jsonl."""
    found = {"reply_tokens": 10.0, "stopped_frac": 1.0, "distinct_frac": 1.0} | changes
    return {"reward": reward, "rollout_s": 1.5 + sampling, **found}


def signs(*rows: dict[str, Any]) -> tuple[str, ...]:
    found = rolled(("rollouts/update_0000001.parquet", REPLIES), rows)
    assert found is not None
    return found.signs


def test_the_best_and_the_worst_are_shown() -> None:
    found = rolled(("rollouts/update_0000001.parquet", REPLIES), [told(0, 0.1), told(1, 0.3)])
    assert found is not None
    assert [s.text for s in found.best] == ["reply 7", "reply 6", "reply 5"]
    assert [s.text for s in found.worst] == ["reply 0", "reply 1", "reply 2"]
    assert ("reward, mean over replies", "0.100", "0.300") in found.numbers


def test_a_reward_that_did_not_rise_is_told() -> None:
    assert signs(told(0, 0.1), told(1, 0.3)) == ()
    assert signs(told(0, 0.3), told(1, 0.3)) == ("the reward of what was sampled did not rise",)
    [longer] = signs(told(0, 0.1), told(1, 0.3, reply_tokens=20.0))
    assert "does the reward mean length" in longer


def test_one_sampling_cannot_rise() -> None:
    """However many updates were made of it."""
    assert signs(told(0, 0.3), told(0, 0.3)) == ()
