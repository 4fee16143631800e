"""What a reward is made of is in the lock: a resume with another grader is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tunesmith.measured import Means, brought
from tunesmith.recipe import Recipe


def test_a_changed_function_changes_what_is_locked(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    recipe = replace(Recipe(), reward=({"kind": "python", "file": f"{file}:score"},))
    found = []
    for value in ("1.0", "0.5"):
        file.write_text(f"def score(output):\n    return {value}\n")
        found.append(dict(brought(Means(), ["mean_reward"], recipe).digests))
    assert [set(digests) for digests in found] == [{f"reward {file}"}] * 2
    assert found[0] != found[1]
