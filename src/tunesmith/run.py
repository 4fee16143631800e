"""The whole job: audit, plan, baseline, train, evaluate, verdict, export, report.

Each stage leaves files behind it, and a resume goes on behind the last one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tunesmith import (
    against_parent,
    evaluate,
    explained,
    gates,
    guards,
    harness,
    lineage,
    long_context,
    openings,
    plan,
    played,
    probing,
    recorded,
    reference,
    robustness,
    sealed,
    understanding,
)
from tunesmith.answered import Sitting
from tunesmith.build import Compute, Material, compute, load_base, material
from tunesmith.calibrate import calibrate
from tunesmith.crew import at_work, learning, logged
from tunesmith.data.audit import list_rejected, summary_lines, too_long
from tunesmith.data.split import Ledger
from tunesmith.engine.cuts import Cuts
from tunesmith.engine.memory import trim_freed_memory
from tunesmith.engine.ranks import ALONE, Ranks
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.errors import InputError, Interrupted
from tunesmith.evals.score import Answer
from tunesmith.export.verify import export_notes
from tunesmith.exported import export, keep_asked
from tunesmith.fitted import Fitted, fit_or_halve
from tunesmith.folder import RunFolder, Teller
from tunesmith.judged import check_judge, judged
from tunesmith.models.load import Base
from tunesmith.opened import Opened, Served
from tunesmith.preferences import preferences
from tunesmith.recipe import Recipe
from tunesmith.rehearse import NAME as REHEARSED
from tunesmith.rehearse import rehearse
from tunesmith.reports import cost_of, finish_reports, report_base, write_reports
from tunesmith.resumed import refuse_other_lock, refuse_other_recipe
from tunesmith.rewarded import JUDGED, endpoint_of, rolling
from tunesmith.room import check_disk, disk_need
from tunesmith.settled import settle
from tunesmith.sizes import NAME as SIZES
from tunesmith.sizes import kept_sizes
from tunesmith.sources import check_files
from tunesmith.space import chosen_note
from tunesmith.speeds import Speeds, Tried, session_of, try_out
from tunesmith.teach import skipped_updates, teach
from tunesmith.trackers import energy
from tunesmith.trackers.tracked import Tracked
from tunesmith.types import GuardResult

TRAINED = ("prepare", "rehearsal", "reference", "train", "export")  # stages that make a model


def default_name(recipe: Recipe, what: str = "") -> Path:
    """runs/<date>-<what, else the model>-<data>, with a number where that is taken."""
    data = Path(recipe.data.train[0]).name.split(".")[0] if recipe.data.train else "data"
    stem = f"{date.today().isoformat()}-{what or Path(recipe.model).name}-{data}"
    names = [stem, *(f"{stem}-{n}" for n in range(2, 10_000))]
    return next(Path("runs") / n for n in names if not (Path("runs") / n).exists())


@dataclass(frozen=True, slots=True)
class Occasion:
    """Of the quickstart, say."""

    note: str = ""  # what the report must say
    budgets: Mapping[str, float] = field(default_factory=dict)  # seconds that stages should take


def run(
    recipe: Recipe, text: str, out: Path, tell: Teller, *, resume: bool = False, occasion: Occasion = Occasion(),
    ranks: Ranks = ALONE,
) -> dict[str, Any]:  # fmt: skip
    """Does everything; returns verdict.json. `text`: the recipe as it is kept; `ranks`: who trains."""
    work = lambda *run: whole(recipe, occasion, *run)
    return in_folder(recipe, text, out, tell, work, resume=resume, ranks=ranks)


def train(
    recipe: Recipe, text: str, out: Path, tell: Teller, *, resume: bool = False, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Training and export alone; `run` with `resume` measures and compares later. Returns export.json."""
    return in_folder(recipe, text, out, tell, lambda *run: trained(recipe, *run), resume=resume, ranks=ranks)


def in_folder(
    recipe: Recipe, text: str, out: Path, tell: Teller,
    work: Callable[[RunFolder, Tracked, energy.Meter], dict[str, Any]], *, resume: bool, ranks: Ranks,
) -> dict[str, Any]:  # fmt: skip
    """`work` in a run folder that is held, can be stopped, and is sealed and recorded behind it."""
    with logged(tell, ranks, out) as told:
        return held(recipe, text, out, told, work, resume=resume, ranks=ranks)


def held(
    recipe: Recipe, text: str, out: Path, tell: Teller,
    work: Callable[[RunFolder, Tracked, energy.Meter], dict[str, Any]], *, resume: bool, ranks: Ranks,
) -> dict[str, Any]:  # fmt: skip
    check_files(recipe)
    openings.check_writable()
    openings.rows()  # a record that cannot be read is said now, not hours in
    folder = RunFolder.open(out, tell, resume=resume)
    folder.ranks = ranks
    try:
        if resume:
            refuse_other_recipe(recipe, out)
        folder.write_text("recipe.yaml", text)
        with (
            folder.stop,
            energy.Meter(recipe.energy, out) as meter,
            Tracked.of(recipe.trackers, out, tell.say) as tracked,
        ):
            try:
                found = work(folder, tracked, meter)
            except Interrupted:
                write_reports(out)  # what there is to see so far
                raise
        sealed.seal(out)
        return found
    except InputError:
        if not resume:
            folder.take_back()
        raise
    finally:
        folder.close()
        recorded.record(out, tell)


def trained(recipe: Recipe, folder: RunFolder, tracked: Tracked, meter: energy.Meter) -> dict[str, Any]:
    """The stages that make a model, and none that measures one."""
    fitted, where, session, made = begun(recipe, folder, tracked, TRAINED)
    made, snapshot = learned(fitted, folder, session, made, tracked)
    with folder.stage("export"):
        export(fitted.recipe, folder, session, made, where, snapshot)
        keep_asked(folder, made)
    tracked.end({})
    meter.stop()
    folder.write("cost.json", folder.cost() | energy.summed(folder.path))
    finish_reports(folder)
    return folder.read("export.json")


def begun(
    recipe: Recipe, folder: RunFolder, tracked: Tracked, only: tuple[str, ...] = ()
) -> tuple[Fitted, Compute, Session, Material]:
    """Prepared and rehearsed. `only`: the stages that will be; none: all."""
    with folder.stage("prepare"):
        fitted, where, base, made, tried = prepare(recipe, folder, only)
        endpoint_of(fitted.recipe)  # a server that is not there is told before anything takes long
    lineage.note_parent(folder.path, made.before.weights if made.before else base.located.folder)
    recorded.record(folder.path, folder.tell)
    said = {"recipe": asdict(fitted.recipe), "plan": folder.read("plan.json")["resolved"]}
    tracked.start(folder.path.name, said)
    return fitted, where, rehearsed(folder, fitted, base, made, where, tried), made


def learned(
    fitted: Fitted, folder: RunFolder, session: Session, made: Material, tracked: Tracked
) -> tuple[Material, Snapshot]:
    state, made = reference.begin(fitted.recipe, folder, session, made, fitted.feed)
    feed = rolling(fitted.recipe, folder, session, made, fitted.feed, state)
    with folder.stage("train"):
        with at_work(folder.ranks, folder, fitted.recipe, session):
            teach(fitted.recipe, folder, session, made, state, feed, tracked)
        snapshot = settle(fitted.recipe, folder, session, made)
        trim_freed_memory()
    return made, snapshot


def whole(
    recipe: Recipe, occasion: Occasion, folder: RunFolder, tracked: Tracked, meter: energy.Meter
) -> dict[str, Any]:  # fmt: skip
    """Stage after stage; each leaves files behind that a resume finds."""
    out, folder.budgets = folder.path, occasion.budgets
    fitted, where, session, made = begun(recipe, folder, tracked)
    recipe, base = fitted.recipe, session.base
    base_asked = baseline(recipe, folder, session, made)
    report_base(folder, made, base_asked)
    made, snapshot = learned(fitted, folder, session, made, tracked)
    with folder.stage("evaluate", recipe.evals.budget_s), folder.stop.gently("this batch of answers"):
        tuned = answers(recipe, folder, session, made, "scores/tuned.json", snapshot, made.forms[0])
        calibrate(recipe, folder, session, made, snapshot, tuned)
        against_parent.ask(recipe, folder, session, made, snapshot)
    base_asked, tuned, said = judged(recipe, folder, made, base_asked, tuned)
    preferred = preferences(recipe, folder, session, made, snapshot)
    earlier = opened_before(folder, made)
    guard = guarded(recipe, folder, session, made, snapshot, (base_asked, tuned))
    guard += harness.measure(recipe, folder, session, snapshot)
    robust = robustness.measure(robustness.Trial(recipe, folder, session, made, snapshot, base_asked, tuned))
    reach = long_context.measure(recipe, folder, session, made, snapshot)
    time_answers(recipe, folder, session, made, snapshot)
    with folder.stage("export"):
        digests = export(recipe, folder, session, made, where, snapshot)
    of_data = [chosen_note(recipe.sweep.tried), plan.seen_note(folder.read("plan.json")), *too_long(made.audit)]
    verdict = evaluate.verdict_of(
        recipe,
        made,
        base_asked,
        tuned,
        folder.read("scores/forms.json"),
        [occasion.note, *of_data, base.located.note, *said],
    )
    verdict["secondary"] |= preferred
    verdict |= {"run": out.name, "guard": [asdict(g) for g in guard], "openings": [asdict(o) for o in earlier]}
    kept = [openings.note(earlier, len(made.split.test)), long_context.note(reach), *skipped_updates(folder),
            *export_notes(folder.read("export.json")), *(folder.read(SIZES) or {}).get("said", [])]  # fmt: skip
    verdict["notes"] = [*filter(None, kept), *verdict["notes"], *guards.losses(guard)]
    robustness.into(verdict, robust)
    against_parent.into(verdict, against_parent.compare(recipe, folder, made, base_asked, tuned))
    verdict["digests"] |= {"base": base.digest, "tuned": digests["tuned"]}
    table = evaluate.case_table(made, base_asked, tuned)
    pq.write_table(table, out / "scores" / "cases.parquet")
    folder.write(understanding.NAME, understanding.understand(session, snapshot, made, table, recipe.evals.alpha))
    opened = Opened(str(out), recipe, session, made.renderer, Served.of(made), snapshot)
    explained.explain_worst(opened, made, folder, table.to_pylist(), tuned.answers)
    folder.write("verdict.json", verdict)
    gates.write(gates.check(recipe.gates, out), out)
    tracked.end({k: verdict[k] for k in ("decision", "metric", "base", "tuned", "effect", "p", "num_cases")})
    meter.stop()
    folder.write("cost.json", cost_of(folder, verdict, made.metric.span))
    finish_reports(folder)
    return folder.read("verdict.json")


def time_answers(recipe: Recipe, folder: RunFolder, session: Session, made: Material, snapshot: Snapshot) -> None:
    """Where a gate asks for it, once a run."""
    if recipe.gates.latency_s is not None and folder.read(gates.LATENCY) is None:
        with folder.doing("answers timed one by one"):
            folder.write(gates.LATENCY, gates.time_answers(session, snapshot, made))


def rehearsed(
    folder: RunFolder, fitted: Fitted, base: Base, made: Material, where: Compute, tried: Tried | Cuts
) -> Session:
    """The run's session, after the rehearsal in the one that was tried; both cut as this run's memory has shown."""
    is_due = "rehearsal" in folder.read("plan.json")["seconds"]["stages"] and folder.read(REHEARSED) is None
    if is_due and isinstance(tried, Cuts):
        tried = try_out(fitted, base, made, tried, together=learning(folder, fitted.recipe))
    cuts = tried if isinstance(tried, Cuts) else tried.session.cuts
    if not isinstance(tried, Cuts):
        if is_due:
            rehearse(fitted, folder, made, where, tried)
        tried.session.close()
    return session_of(fitted, base, cuts)


def opened_before(folder: RunFolder, made: Material) -> list[openings.Opening]:
    """Earlier looks of other runs at these held-out cases; counted once a run, however often it is resumed."""
    kept = folder.read("openings.json")
    if kept is None:
        kept = [asdict(o) for o in openings.open_cases([e.id for e in made.split.test], folder.path)]
        folder.write("openings.json", kept)
    return [openings.Opening(**o) for o in kept]


def prepare(
    recipe: Recipe, folder: RunFolder, only: tuple[str, ...]
) -> tuple[Fitted, Compute, Base, Material, Tried | Cuts]:
    """Model and data, checked and tried; audit, ledger, plan and lock are written. On a resume the lock must be the
    same, and the speeds of its plan stay: nothing is tried again, and the cuts alone are given."""
    began, before = time.monotonic(), folder.read("lock.json")
    where = replace(compute(recipe, before), processes=folder.ranks.size, beside=folder.ranks.beside)
    with folder.doing("model loaded and probed"):
        base = load_base(recipe, where, learns=True)
    ledger_path = folder.path / "ledger.json"
    ledger = Ledger.load(ledger_path) if ledger_path.is_file() else None
    made = material(recipe, base, ledger, folder.tell.step, folder.path / JUDGED)
    made.split.ledger.save(ledger_path)
    folder.write("audit.json", made.audit)
    folder.tell.understood(made.audit["understood"])
    for line in summary_lines(made.audit):
        folder.tell.say(line)
    if list_rejected(made.rejected, made.audit, folder.path / "rejected.txt"):
        folder.tell.say(f"rejected   all {len(made.rejected)} rows with their reasons are in rejected.txt")
    against_parent.prepare(folder, made)
    probing.start_head(recipe, folder, base, made)
    with folder.doing("memory predicted"):
        where, base, fitted = fit_or_halve(recipe, base, made, where, (before or {}).get("fitted"), measures=not only)
    recipe = fitted.recipe
    if before is None:
        disk_gib = disk_need(base.model, recipe.adapt, recipe.export, fitted.num_trained)
        check_disk(folder.path, disk_gib, "name another --out, or say --set export=[adapter]")
    locked = plan.lock(recipe, base, made, where)
    refuse_other_lock(before, locked, folder.tell.say)
    check_judge(recipe, folder)
    kept = (folder.read("plan.json") or {}).get("speeds") if before else None
    cuts = kept_sizes(recipe, folder)
    tried: Tried | Cuts = cuts
    if kept is None:
        with folder.doing("speed measured"):
            tried = try_out(fitted, base, made, cuts, measures=not only, together=learning(folder, recipe))
    speeds = tried.speeds if isinstance(tried, Tried) else Speeds.of(kept or {})
    planned = plan.make(fitted, base, made, where, speeds, began, only)
    folder.write("plan.json", planned)
    folder.write("lock.json", locked)
    folder.write("serving.json", Served.of(made).facts())
    for row in planned["resolved"]:
        folder.tell.say(f"{row['key']}: {row['value']}  ({row['why']})")
    return fitted, where, base, made, tried


def baseline(recipe: Recipe, folder: RunFolder, session: Session, made: Material) -> evaluate.Asked:
    """The base in its best prompt form, chosen on dev, on the held-out cases; before anything is trained."""
    budget = plan.stage_budgets(recipe, made)["baseline"]
    kept = folder.read("scores/forms.json")
    with folder.stage("baseline", budget), folder.stop.gently("this batch of answers"):
        if kept is None:
            num = played.num_answers(made, made.split.dev)

            def sitting(index: int) -> Sitting:
                return folder.sitting(f"dev_{index}", "base on dev, form by form", index * num, len(made.forms) * num)

            form, rows = evaluate.choose_form(session, recipe, made, sitting)
            folder.write("scores/forms.json", rows)
            for index in range(len(made.forms)):
                sitting(index).forget()
        else:
            best = next(r["form"] for r in kept if r["chosen"])
            form = next(f for f in made.forms if f.name == best)
        return answers(recipe, folder, session, made, "scores/base.json", None, form)


def answers(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, name: str, who: Snapshot | None, form: Any
) -> evaluate.Asked:
    """The answers to the held-out cases, kept under `name` so that a resume does not ask again."""
    kept = folder.read(name)
    if kept is not None:
        return evaluate.Asked(kept["form"], tuple(Answer.of(a) for a in kept["answers"]))
    which = "base" if who is None else "tuned"
    sitting = folder.sitting(which, f"{which} on the held-out cases")
    asked = evaluate.ask(session, who, recipe, made, form, made.split.test, sitting)
    folder.write(name, {"form": asked.form, "answers": [asdict(a) for a in asked.answers]})
    sitting.forget()
    return asked


def guarded(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, snapshot: Snapshot,
    said: tuple[evaluate.Asked, evaluate.Asked],
) -> list[GuardResult]:  # fmt: skip
    """What the tuned model still can do beside its task, against the base; an empty list where nobody asked."""
    level, budget = recipe.evals.guards, recipe.evals.guard_budget_s
    if level == "off":
        return []
    asked = []
    with folder.stage("guards", 2 * budget), folder.stop.gently("this guard probe"):
        for which, who in (("base", None), ("tuned", snapshot)):
            name = f"scores/guard_{which}.json"

            def progress(done: int, of: int, probe: str, which: str = which) -> None:
                folder.tell.step(done, of, f"{which}: {probe}")
                folder.stop.check("stopped between guard probes, which are asked again")

            if folder.read(name) is None:
                found = (
                    guards.ask_base(session, made.renderer, level, budget, progress)
                    if who is None
                    else guards.ask(session, who, made.renderer, level, budget, progress)
                )
                folder.write(name, found.facts())
            asked.append(guards.Asked.of(folder.read(name)))
        base, tuned = asked
        sources = ["\n".join(m.content for m in e.prompt) for e in made.split.test]
        return [
            *guards.results(base, tuned),
            *guards.held_out(made.task, sources, said[0].texts(), said[1].texts()),
        ]
