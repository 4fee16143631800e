"""May it ship? What a recipe demands of a run (`gates:`), checked from the run's files, for people and for CI."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tunesmith.build import Material
from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.errors import InputError
from tunesmith.evals.tasks import label_record
from tunesmith.files import read_json, write_json, write_text
from tunesmith.generate.limits import Limits
from tunesmith.recipe import Gates
from tunesmith.types import Message

NAME, LATENCY = "gates.json", "latency.json"
WRITTEN = (NAME, "gates.md", "gates.xml")
NUM_TIMED = 5  # answers, each asked alone


@dataclass(frozen=True, slots=True)
class Gate:
    """One demand. `passed` is False as well where what it asks for was never measured: silence ships nothing."""

    name: str
    wanted: str
    found: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What the files of a finished run say; None where there is no such file."""

    verdict: dict[str, Any]
    calibration: dict[str, Any] | None
    latency: dict[str, Any] | None
    stopped: tuple[int, int]  # answers of the tuned model that ended by themselves, of how many; (0, 0): no texts

    @classmethod
    def of(cls, folder: Path) -> Measured:
        if not (folder / "verdict.json").is_file():
            raise InputError(
                f"{folder} holds no verdict, which the gates are about; wanted the folder of a run that came to its "
                f"end: `tunesmith runs` lists them, `tunesmith run --resume --out {folder}` goes on with one"
            )
        answers = kept(folder / "scores" / "tuned.json") or {"answers": []}
        each = [turn for a in answers["answers"] for turn in a.get("turns") or (a,)]
        ended = [a["stopped"] for a in each if not a.get("label_logps")]
        return cls(
            read_json(folder / "verdict.json"), kept(folder / "calibration.json"), kept(folder / LATENCY),
            (sum(ended), len(ended)),
        )  # fmt: skip


def kept(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def check(gates: Gates, folder: Path) -> list[Gate]:
    """Every demand of the recipe against what the run measured."""
    measured = Measured.of(folder)
    wanted = asdict(gates)
    by_metric = wanted.pop("effect") if isinstance(gates.effect, dict) else {}
    found = [CHECKS[name](value, measured) for name, value in wanted.items() if value is not None]
    return [*found, *(effect(least, measured, name) for name, least in by_metric.items())]


def decision(wanted: str, measured: Measured) -> Gate:
    found = measured.verdict["decision"]
    good = ("better",) if wanted == "better" else ("better", "no relevant difference")
    return Gate("decision", " or ".join(good), found, found in good)


def effect(least: float, measured: Measured, name: str | None = None) -> Gate:
    """The lower end of the interval counts: an effect that may be nothing ships nothing. `name`: of the primary metric;
    None: the first."""
    claims = {c["metric"]: c for c in (measured.verdict, *measured.verdict.get("claims", ()))}
    claim = claims.get(name) if name else measured.verdict
    gate, wanted = f"effect on {name}" if name else "effect", f"the lower end of the interval at least {least:+.4g}"
    if claim is None:
        return Gate(gate, wanted, f"not measured: the verdict is about {', '.join(claims)}", False)
    low, high = claim["interval"]
    found = f"{claim['effect']:+.4g} on {claim['metric']}, interval {low:+.4g} to {high:+.4g}"
    return Gate(gate, wanted, found, low >= least)


def guards(wanted: str, measured: Measured) -> Gate:
    probes = measured.verdict["guard"]
    lost = [g["name"] for g in probes if g["passed"] is False]
    unknown = [g["name"] for g in probes if g["passed"] is None]
    found = f"{len(probes) - len(lost) - len(unknown)} of {len(probes)} probes kept"
    found += f"; lost: {', '.join(lost)}" if lost else ""
    found += f"; not known: {', '.join(unknown)}" if unknown else ""
    bad = lost + unknown if wanted == "all kept" else lost
    return Gate(
        "guards", wanted, found if probes else "no probe was asked (evals.guards is off)", bool(probes and not bad)
    )


def calibration(most: float, measured: Measured) -> Gate:
    after = (measured.calibration or {}).get("held_out", {}).get("after")
    limit = f"expected calibration error at most {most:.4g}"
    if after is None:
        return Gate("calibration", limit, "not measured: only tasks with one label a text are calibrated", False)
    return Gate("calibration", limit, f"{after['ece']:.4g} on the held-out cases", after["ece"] <= most)


def stopped(least: float, measured: Measured) -> Gate:
    ended, total = measured.stopped
    limit = f"at least {least:.4g} of the answers end by themselves"
    if not total:
        return Gate("stopped", limit, "not measured: labels are chosen, nothing is written", False)
    return Gate("stopped", limit, f"{ended} of {total}", ended >= least * total)


def latency_s(most: float, measured: Measured) -> Gate:
    limit = f"median of an answer asked alone at most {most:.4g} s"
    if measured.latency is None:
        return Gate("latency_s", limit, "not measured: a run times answers where its recipe has this gate", False)
    facts = measured.latency
    found = f"{facts['median_s']:.3g} s over {len(facts['seconds'])} answers on {facts['device']}"
    return Gate("latency_s", limit, found, facts["median_s"] <= most)


CHECKS: dict[str, Callable[[Any, Measured], Gate]] = {
    f.__name__: f for f in (decision, effect, guards, calibration, stopped, latency_s)
}


def time_answers(session: Session, snapshot: Snapshot, made: Material) -> dict[str, Any]:
    """Seconds that the tuned model takes for a held-out case asked alone, from its tokens to its last one; for labels,
    to the probability of each."""
    form, cases = made.forms[0], made.split.test[:NUM_TIMED]
    prompts = [form.prompt(e, made.instruction) for e in cases]
    limits = Limits(made.max_new_tokens, made.renderer.stop_ids)

    def answer(prompt: Sequence[Message]) -> float:
        start = time.perf_counter()
        if made.kind.scoring == "likelihood":
            session.logprobs(snapshot, [forest([label_record(made.renderer, "timed", prompt, made.labels)])])
        else:
            session.sample(snapshot, [made.renderer.prompt(prompt)], limits, decode=made.renderer.text)
        return time.perf_counter() - start

    answer(prompts[0])  # the first pays for what is built once
    seconds = [answer(prompt) for prompt in prompts]
    return {"seconds": seconds, "median_s": median(seconds), "device": str(session.base.model.device)}


def write(found: Sequence[Gate], folder: Path) -> None:
    """gates.json, gates.md and gates.xml (JUnit) in the run's folder; where nothing is demanded, none of them."""
    name = folder.resolve().name
    if found:
        write_json(folder / NAME, [asdict(g) for g in found])
        write_text(folder / "gates.md", markdown(found, name))
        write_text(folder / "gates.xml", junit(found, name))
    else:
        for stale in WRITTEN:
            (folder / stale).unlink(missing_ok=True)


def markdown(found: Sequence[Gate], name: str) -> str:
    """A table for a pull request or a job's summary."""
    return "\n".join([f"### {verdict(found)}: {name}", "", *table(found), ""])


def table(found: Sequence[Gate]) -> Iterator[str]:
    yield from ("| gate | wanted | found | |", "| --- | --- | --- | --- |")
    for gate in found:
        cells = (gate.name, gate.wanted, gate.found, "met" if gate.passed else "**not met**")
        yield f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |"


def verdict(found: Sequence[Gate]) -> str:
    failed = sum(not g.passed for g in found)
    return f"{failed} of {len(found)} gates not met" if failed else f"all {len(found)} gates met"


def junit(found: Sequence[Gate], name: str) -> str:
    """JUnit's XML, as CI systems read it: a test case for each gate."""
    failed = str(sum(not g.passed for g in found))
    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root, "testsuite", name=f"tunesmith gates: {name}", tests=str(len(found)), failures=failed, errors="0"
    )
    for gate in found:
        case = ET.SubElement(suite, "testcase", classname="tunesmith.gates", name=gate.name)
        text = f"wanted {gate.wanted}; found {gate.found}"
        if gate.passed:
            ET.SubElement(case, "system-out").text = text
        else:
            ET.SubElement(case, "failure", message=text).text = text
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
