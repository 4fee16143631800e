"""A run that goes on from another one: its model against that run's and against the base, on the old cases and the new.

Four comparisons for each primary metric, paired case by case, with Holm's correction over all of them. The old cases
are those that the parent was judged on, and those of the runs before it: its answers and the base's are taken as they
were kept when they were given, so what its verdict said stays said. The new cases are this run's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tunesmith import evaluate, openings
from tunesmith.build import TENANT, Material, parents_split
from tunesmith.data import alike
from tunesmith.data.examples import of_row, to_row
from tunesmith.data.split import OLD, PLACES
from tunesmith.data.traits import column
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.errors import DataError
from tunesmith.evals import dialogues
from tunesmith.evals.compare import BETTER, SAME, UNKNOWN, WORSE, Cases, Rules, at_holm_levels, claimed, plain, signed
from tunesmith.evals.metrics import Metric
from tunesmith.evals.score import Answer
from tunesmith.evals.tasks import Form
from tunesmith.files import read_json
from tunesmith.folder import RunFolder
from tunesmith.heritage import Before
from tunesmith.recipe import Recipe
from tunesmith.report.facts import read_cases
from tunesmith.types import Claim, Example

NAME = "lineage.json"
OLD_CASES = "scores/old_cases.json"
LISTED = 20  # cases that were forgotten, and rows that were taken out, of which each has a line
ASKED = {"old_tuned": "tuned on the old cases", "new_previous": "the previous run on the new cases"}
COMPARISONS = (("new", "previous run"), ("new", "base"), ("old", "previous run"), ("old", "base"))


@dataclass(frozen=True, slots=True)
class Side:
    """Cases with what the models answered: "base", "previous run" and "tuned", each in their order."""

    cases: Sequence[Example]
    answers: Mapping[str, Sequence[Answer]]
    made: Material

    def outputs(self, whom: str, metric: Metric) -> list[Any]:
        return evaluate.as_asked(metric, self.answers[whom], self.made.references(self.cases))

    def against(self, whom: str, metric: Metric) -> Cases:
        return evaluate.paired(metric, self.made, self.cases, self.answers[whom], self.answers["tuned"])


def prepare(folder: RunFolder, made: Material) -> None:
    """Before anything is trained: the old cases are found and kept, and every row that was taken out has its line."""
    if made.before is None:
        return
    taken = [m for m in made.split.moved if m.stands_in == PLACES[OLD]]
    for row in taken[:LISTED]:
        folder.tell.say(f"taken out   {row.source}: it is a held-out case of {made.before.folder.name} or before")
    if len(taken) > LISTED:
        folder.tell.say(f"taken out   {len(taken) - LISTED} more such rows, in audit.json")
    if folder.read(OLD_CASES) is None:
        folder.write(OLD_CASES, [to_row(e) for e in old_cases(made.before)])
    like = in_new_rows(old_of(folder), made)
    if like:
        folder.tell.say(f"note       {twins(like)}")


def old_cases(before: Before) -> list[Example]:
    """What the parent was judged on, in the order of its answers, then what the runs before it were."""
    kept = read_cases(before.folder / "scores" / "cases.parquet") or ()
    split_then, _ = parents_split(before)
    found = {e.id: e for e in split_then.test}
    gone = [case for case in kept if case.example_id not in found]
    if gone:
        raise DataError(
            f"{len(gone)} of the {len(kept)} held-out cases of {before.folder} are not in its data any more (the first "
            f"stood at {gone[0].source}): the file changed since. Put the rows back"
        )
    return [*(found[case.example_id] for case in kept), *map(of_row, before.read(OLD_CASES) or ())]


def old_of(folder: RunFolder) -> list[Example]:
    return [of_row(row) for row in folder.read(OLD_CASES)]


def in_new_rows(old: Sequence[Example], made: Material) -> int:
    """Old cases whose prompt stands in the new training rows once digits are masked."""
    known = np.unique(column(made.split.train, "masked"))
    return int((alike.places(known, column(old, "masked")) >= 0).sum())


def twins(num: int) -> str:
    return (
        f"{num} of the old cases stand in the new training rows but for case, white space or digits: on these it was "
        "shown the answer."
    )


def ask(recipe: Recipe, folder: RunFolder, session: Session, made: Material, snapshot: Snapshot) -> None:
    """What nobody has asked yet: this run's model on the old cases, and the parent on the new ones."""
    before = made.before
    if before is None or all(folder.read(f"scores/{name}.json") for name in ASKED):
        return
    old = old_of(folder)
    slot = session.tenants[TENANT].slot
    device = session.base.model.device
    values = before.values(list(slot.live), session.base.digest)
    parent = Snapshot(before.folder.name, slot, {n: t.to(device) for n, t in values.items()})
    asked(recipe, folder, session, (made, old), "old_tuned", snapshot)
    asked(recipe, folder, session, (as_served(made, before), made.split.test), "new_previous", parent)


def as_served(made: Material, before: Before) -> Material:
    """The parent is asked as it was trained: with its own instruction, among its own labels."""
    form = Form(made.forms[0].name, "system" if before.instruction else "none")
    return replace(made, instruction=before.instruction, labels=before.labels, forms=(form,))


def asked(
    recipe: Recipe, folder: RunFolder, session: Session, what: tuple[Material, Sequence[Example]], name: str,
    who: Snapshot,
) -> None:  # fmt: skip
    """`what`: how the cases are put, and which. Kept under scores/, so that a resume does not ask again."""
    if folder.read(f"scores/{name}.json") is not None:
        return
    made, cases = what
    sitting = folder.sitting(name, ASKED[name])
    found = evaluate.ask(session, who, recipe, made, made.forms[0], cases, sitting)
    folder.write(f"scores/{name}.json", {"form": found.form, "answers": [asdict(a) for a in found.answers]})
    sitting.forget()


def answers_in(kept: Mapping[str, Any] | None) -> list[Answer]:
    return [Answer.of(a) for a in (kept or {"answers": ()})["answers"]]


def sides(folder: RunFolder, made: Material, base: evaluate.Asked, tuned: evaluate.Asked) -> dict[str, Side]:
    before = made.before
    assert before is not None
    new = {"base": base.answers, "previous run": answers_in(folder.read("scores/new_previous.json")),
           "tuned": tuned.answers}  # fmt: skip
    old = {
        "base": [a for name in ("base", "old_base") for a in answers_in(before.read(f"scores/{name}.json"))],
        "previous run": [a for name in ("tuned", "old_tuned") for a in answers_in(before.read(f"scores/{name}.json"))],
        "tuned": answers_in(folder.read("scores/old_tuned.json")),
    }
    folder.write("scores/old_base.json", {"form": "as then", "answers": [asdict(a) for a in old["base"]]})
    return {"new": Side(made.split.test, new, made), "old": Side(old_of(folder), old, made)}


def compare(
    recipe: Recipe, folder: RunFolder, made: Material, base: evaluate.Asked, tuned: evaluate.Asked
) -> dict[str, Any] | None:
    """lineage.json; None where the run goes on from no other."""
    if made.before is None:
        return None
    kept: dict[str, Any] | None = folder.read(NAME)
    if kept is not None:
        return kept
    found = of_sides(recipe, made, made.before, sides(folder, made, base, tuned))
    old = old_of(folder)
    like, earlier = in_new_rows(old, made), openings.open_cases([e.id for e in old], folder.path)
    looked = f"of the old cases, {openings.note(earlier, len(old))}" if earlier else ""
    notes = [looked, twins(like) if like else "", *other_then(folder, made.before)]
    found["notes"] += [n for n in notes if n]
    folder.write(NAME, found)
    return found


def other_then(folder: RunFolder, before: Before) -> Iterator[str]:
    """What of the old answers was made otherwise than the new ones."""
    now = read_json(folder.path / "lock.json")
    other = [k for k in ("template", "code", "device", "precision") if now.get(k) != before.lock.get(k)]
    packages = before.lock.get("packages") or {}
    other += [name for name, version in now["packages"].items() if packages.get(name) != version]
    if other:
        yield (
            f"the answers of base and previous run to the old cases were given with another {', '.join(other)}: "
            "rounding may differ from that of the answers beside them."
        )


def of_sides(recipe: Recipe, made: Material, before: Before, found: Mapping[str, Side]) -> dict[str, Any]:
    """All claims with Holm's correction, what was forgotten, and both in sentences."""
    rules = Rules(alpha=recipe.evals.alpha, smallest_that_matters=recipe.task.smallest_that_matters, seed=recipe.seed)
    judged = [m for m in made.primary if m.needs != "judge"]
    tested = [(which, whom, m, found[which].against(whom, m)) for m in judged for which, whom in COMPARISONS]
    unmeasured = [f"{m.name} of {whom} and tuned on the {w} cases" for w, whom, m, there in tested if not there.base]
    tested = [row for row in tested if row[3].base]
    effects = at_holm_levels([(there, m) for *_, m, there in tested], rules)
    rows = []
    for (which, whom, metric, there), (effect, level, p_holm) in zip(tested, effects):
        own = rules if metric is made.primary[0] else replace(rules, smallest_that_matters=None)
        claim = claimed(effect, metric, own, len(there.references), (level, p_holm))
        named = "the base" if whom == "base" else f"the previous run ({before.folder.name})"
        said = sentence(claim, metric, which, named)
        rows.append({"cases": which, "against": whom, "said": said, **asdict(claim)})
    notes = [f"not compared, as it was not measured then: {'; '.join(unmeasured)}."] if unmeasured else []
    notes += [f"{m.name} compares two answers by a judge, who was asked about base and tuned only."
              for m in made.primary if m not in judged]  # fmt: skip
    notes += [*new_labels(made, before), *in_another_way(found["old"])]
    lost = forgotten(found["old"], judged[0], rows) if judged else {}
    return {
        "parent": {"run": before.folder.name, "id": before.id, "weights": before.tuned},
        "runs": runs_before(before), "alpha": rules.alpha, "claims": rows, "forgotten": lost, "notes": notes,
        "num_old": len(found["old"].cases), "num_new": len(found["new"].cases), "num_again": len(made.again.records),
    }  # fmt: skip


def runs_before(before: Before) -> list[dict[str, Any]]:
    """The runs that led here, the first one first, with what each verdict said."""
    earlier = list((before.read(NAME) or {}).get("runs", ()))
    verdict = before.read("verdict.json")
    data = [str(path) for path in before.recipe.data.named]
    return [*earlier, {"run": before.folder.name, "id": before.id, "data": data, "decision": verdict["decision"],
                       "claim": verdict["claim"]}]  # fmt: skip


def new_labels(made: Material, before: Before) -> list[str]:
    more = [label for label in made.labels if label not in before.labels]
    return [
        f"{len(more)} labels are new ({', '.join(more[:5])}): the previous run was asked with its own instruction and "
        "never answers with them."
    ] * bool(more and before.labels)


def in_another_way(old: Side) -> list[str]:
    """Of old cases that cannot be compared, since evals.history was another one then."""
    rows = zip(old.made.references(old.cases), *old.answers.values(), strict=True)
    num = sum(not all(evaluate.is_as_wanted(answer, wanted) for answer in answers) for wanted, *answers in rows)
    return [
        f"{num} of the {len(old.cases)} old cases are dialogues, whose answers then and now are not to the same turns "
        "(evals.history): they are left out of what is compared on the old cases."
    ] * bool(num)


def sentence(claim: Claim, metric: Metric, which: str, whom: str) -> str:
    num, low, high = claim.num_cases, *(signed(end, metric) for end in claim.interval)
    start = {
        BETTER: f"On the {num} {which} cases it is better than {whom} on {metric.name}",
        WORSE: f"On the {num} {which} cases it is worse than {whom} on {metric.name}",
        SAME: f"On the {num} {which} cases it does not differ from {whom} by as much as "
        f"{plain(claim.smallest_that_matters, metric)} on {metric.name}",
        UNKNOWN: f"The {num} {which} cases are too few to tell it from {whom} on {metric.name}",
    }[claim.decision]
    direction = ", less is better" if metric.less_is_better else ""
    return (
        f"{start}: {plain(claim.base, metric)} → {plain(claim.tuned, metric)}{direction}, "
        f"{signed(claim.effect, metric)} (interval {low} to {high})."
    )


def forgotten(old: Side, metric: Metric, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Old cases that score lower than in the previous run, the worst first, and whether that is more than chance."""
    then, now = (old.outputs(who, metric) for who in ("previous run", "tuned"))
    wanted = old.made.references(old.cases)
    sign = -1 if metric.less_is_better else 1
    there = [k for k in range(len(wanted)) if then[k] is not None and now[k] is not None]
    change = {k: sign * (metric.case(now[k], wanted[k]) - metric.case(then[k], wanted[k])) for k in there}
    worse = sorted((k for k in there if change[k] < 0), key=lambda k: (change[k], old.cases[k].id))
    num_lost, num_won = len(worse), sum(c > 0 for c in change.values())
    about = next((r for r in rows if (r["cases"], r["against"]) == ("old", "previous run")), None)
    decision = about["decision"] if about else UNKNOWN
    counts = f"of {len(there)} old cases {num_lost} score lower than in the previous run and {num_won} higher"
    said = {
        WORSE: f"Something was forgotten: {counts}, and on {metric.name} it is worse there than before.",
        SAME: f"Nothing that matters was forgotten: {counts}.",
        BETTER: f"Nothing was forgotten, it got better on the old cases too: {counts}.",
        UNKNOWN: f"Whether something was forgotten is not known from so few cases: {counts}.",
    }[decision]
    cases = [
        {"example_id": old.cases[k].id, "source": old.cases[k].source, "prompt": old.made.shown(old.cases[k]),
         "reference": dialogues.transcript(wanted[k]),
         "before": old.answers["previous run"][k].text, "now": old.answers["tuned"][k].text}
        for k in worse[:LISTED]
    ]  # fmt: skip
    return {"decision": decision, "said": said, "num_lower": num_lost, "num_higher": num_won, "cases": cases}


def into(verdict: dict[str, Any], found: dict[str, Any] | None) -> None:
    """The claims beside the verdict's own, and their sentences among its notes."""
    if found is None:
        return
    verdict["lineage"] = {key: found[key] for key in ("parent", "claims", "forgotten")}
    lost = found["forgotten"].get("said", "")
    num = len(found["claims"])
    said = [lost, *(row["said"] for row in found["claims"])]
    said.append(
        f"these {num} comparisons with base and previous run are corrected for their number (Holm); the verdict is the "
        "one claim against the base on the new cases that was locked before training."
    )
    verdict["notes"] = [*filter(None, said), *found["notes"], *verdict["notes"]]
