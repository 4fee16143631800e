"""Gates: every demand met and not met, silence is not met, and what CI reads."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tunesmith import gates
from tunesmith.errors import InputError
from tunesmith.recipe import Gates

VERDICT = {"decision": "better", "metric": "accuracy", "effect": 0.1, "interval": [0.04, 0.16], "guard": []}
KEPT, LOST, UNKNOWN = ({"name": n, "passed": p} for n, p in (("facts", True), ("refusals", False), ("prose", None)))
TEXTS = {"answers": [{"stopped": True, "label_logps": None}] * 97 + [{"stopped": False, "label_logps": None}] * 3}
TURNS = [{"stopped": at > 0, "label_logps": None} for at in range(10)]
DIALOGUES = {"answers": [{"stopped": False, "label_logps": None, "turns": TURNS}] * 5}
LABELS = {"answers": [{"stopped": True, "label_logps": [0.0, -1.0]}] * 9}
ECE = {"held_out": {"after": {"ece": 0.05}}}
TIMED = {"median_s": 0.5, "seconds": [0.5], "device": "cpu"}


def folder(path: Path, verdict: dict[str, Any] | None = None, **files: Any) -> Path:
    (path / "scores").mkdir()
    (path / "verdict.json").write_text(json.dumps(VERDICT | (verdict or {})))
    for name, facts in files.items():
        where = path / "scores" / "tuned.json" if name == "tuned" else path / f"{name}.json"
        where.write_text(json.dumps(facts))
    return path


CASES = [  # gate, value, what the run left behind, met
    ("decision", "better", {}, True),
    ("decision", "better", {"verdict": {"decision": "no relevant difference"}}, False),
    ("decision", "not worse", {"verdict": {"decision": "no relevant difference"}}, True),
    ("decision", "not worse", {"verdict": {"decision": "too few cases"}}, False),
    ("decision", "not worse", {"verdict": {"decision": "worse"}}, False),
    ("effect", 0.04, {}, True),
    ("effect", 0.05, {}, False),  # the effect is above it, the lower end of its interval is not
    ("effect", -0.1, {"verdict": {"interval": [-0.2, 0.3]}}, False),
    ("guards", "none lost", {"verdict": {"guard": [KEPT, UNKNOWN]}}, True),
    ("guards", "all kept", {"verdict": {"guard": [KEPT, UNKNOWN]}}, False),
    ("guards", "none lost", {"verdict": {"guard": [KEPT, LOST]}}, False),
    ("guards", "all kept", {"verdict": {"guard": [KEPT]}}, True),
    ("guards", "none lost", {}, False),  # no probe was asked
    ("calibration", 0.05, {"calibration": ECE}, True),
    ("calibration", 0.04, {"calibration": ECE}, False),
    ("calibration", 1.0, {}, False),  # never measured
    ("stopped", 0.97, {"tuned": TEXTS}, True),
    ("stopped", 0.98, {"tuned": TEXTS}, False),
    ("stopped", 0.9, {"tuned": DIALOGUES}, True),  # nine of ten answers, and no dialogue as a whole
    ("stopped", 0.91, {"tuned": DIALOGUES}, False),
    ("stopped", 0.0, {"tuned": LABELS}, False),  # labels are chosen, nothing is written
    ("latency_s", 0.5, {"latency": TIMED}, True),
    ("latency_s", 0.49, {"latency": TIMED}, False),
    ("latency_s", 99.0, {}, False),  # never measured
]


@pytest.mark.parametrize(("name", "value", "left", "met"), CASES)
def test_each_demand(tmp_path: Path, name: str, value: Any, left: dict[str, Any], met: bool) -> None:
    [found] = gates.check(Gates(**{name: value}), folder(tmp_path, **left))
    assert (found.name, found.passed) == (name, met), found


def test_every_gate_of_a_recipe_is_checked(tmp_path: Path) -> None:
    assert {name for name, *_ in CASES} == set(gates.CHECKS) == set(Gates.__dataclass_fields__)
    assert gates.check(Gates(), folder(tmp_path)) == []


def test_without_a_verdict_there_is_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no verdict"):
        gates.check(Gates(effect=0.0), tmp_path)


def test_what_people_and_ci_read(tmp_path: Path) -> None:
    run = folder(tmp_path, {"metric": "a|b <&>"})
    found = gates.check(Gates(decision="better", effect=0.5), run)
    gates.write(found, run)
    suite = ET.parse(run / "gates.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    by_name = {case.get("name"): case for case in suite}
    assert by_name["decision"].find("failure") is None
    failure = by_name["effect"].find("failure")
    assert failure is not None
    assert "a|b <&>" in failure.get("message", "")
    text = (run / "gates.md").read_text()
    assert text.startswith("### 1 of 2 gates not met")
    assert all(line.replace("\\|", "").count("|") == 5 for line in text.splitlines()[2:])
    assert [g["passed"] for g in json.loads((run / "gates.json").read_text())] == [True, False]
    gates.write([], run)  # a resume of a recipe that demands nothing any more
    assert not list(run.glob("gates.*"))


def test_an_effect_of_one_primary_metric_by_name(tmp_path: Path) -> None:
    claims = [{"metric": "accuracy", "effect": 0.1, "interval": [0.04, 0.16]},
              {"metric": "macro_f1", "effect": 0.0, "interval": [-0.1, 0.1]}]  # fmt: skip
    run = folder(tmp_path, {"claims": claims})
    found = gates.check(Gates(effect={"accuracy": 0.04, "macro_f1": 0.0, "bleu": 0.0}, decision="better"), run)
    assert [(g.name, g.passed) for g in found] == [
        ("decision", True), ("effect on accuracy", True), ("effect on macro_f1", False), ("effect on bleu", False),
    ]  # fmt: skip
    assert "the verdict is about accuracy, macro_f1" in found[-1].found
