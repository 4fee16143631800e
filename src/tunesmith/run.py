"""The whole job: audit, plan, baseline, train, evaluate, verdict, export, report.

Each stage leaves files behind it, and a resume goes on behind the last one."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from tunesmith import evaluate, plan
from tunesmith.build import TENANT, Compute, Material, compute, load_base, material, num_updates, start
from tunesmith.data.audit import summary_lines
from tunesmith.data.feed import FileFeed
from tunesmith.data.split import Ledger
from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State, train
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.errors import Interrupted, RunError
from tunesmith.evals.score import Answer
from tunesmith.export.verify import expect, verify
from tunesmith.export.write import Serving, open_adapter, open_model, write_merged, write_tuned
from tunesmith.folder import RunFolder, Teller, peak_gib
from tunesmith.generate.limits import Limits
from tunesmith.models.load import Base, weights_digest
from tunesmith.opened import Served
from tunesmith.recipe import Recipe
from tunesmith.report import card, html

NUM_CHECKED, NUM_CHECKED_TOKENS = 2, 32  # prompts, and tokens of each answer, on which an export is compared


def default_name(recipe: Recipe) -> Path:
    """runs/<date>-<model>-<data>, with a number where that is taken."""
    data = Path(recipe.data.train[0]).name.split(".")[0] if recipe.data.train else "data"
    stem = f"{date.today().isoformat()}-{Path(recipe.model).name}-{data}"
    names = [stem, *(f"{stem}-{n}" for n in range(2, 10_000))]
    return next(Path("runs") / n for n in names if not (Path("runs") / n).exists())


def run(
    recipe: Recipe, text: str, out: Path, tell: Teller, *, resume: bool = False, note: str = "",
    budgets: Mapping[str, float] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Does everything; returns verdict.json. `text`: the recipe as it is kept; `note`: what the report must say;
    `budgets`: seconds that stages should take."""
    folder = RunFolder.open(out, tell, resume=resume)
    folder.budgets = dict(budgets or {})
    folder.write_text("recipe.yaml", text)
    with folder.stage("prepare"):
        where, base, made, feed = prepare(recipe, folder)
    session = Session(base, compiled=recipe.train.compile)
    base_asked = baseline(recipe, folder, session, made)
    state = start(recipe, session, num_updates(recipe, feed))
    with folder.stage("train"):
        teach(recipe, folder, session, made, state, feed)
    snapshot = session.publish(TENANT)
    with folder.stage("evaluate", recipe.evals.budget_s):
        tuned = answers(recipe, folder, session, made, "scores/tuned.json", snapshot, made.forms[0])
    with folder.stage("export"):
        digests = export(recipe, folder, session, made, where, snapshot)
    verdict = evaluate.verdict_of(
        recipe, made, base_asked, tuned, folder.read("scores/forms.json"), [note, base.located.note]
    )
    verdict["run"] = out.name
    verdict["digests"] |= {"base": base.digest, "tuned": digests["tuned"]}
    pq.write_table(evaluate.case_table(made, base_asked, tuned), out / "scores" / "cases.parquet")
    folder.write("verdict.json", verdict)
    folder.write("cost.json", folder.cost())
    html.write(out)
    card.write_report(out)
    for name in folder.read("export.json"):
        card.write_model_card(out, out / name)
    return folder.read("verdict.json")


def prepare(recipe: Recipe, folder: RunFolder) -> tuple[Compute, Base, Material, FileFeed]:
    """Model and data, checked; audit, ledger, plan and lock are written. On a resume the lock must be the same."""
    where = compute(recipe)
    base = load_base(recipe, where)
    ledger_path = folder.path / "ledger.json"
    made = material(recipe, base, Ledger.load(ledger_path) if ledger_path.is_file() else None)
    made.split.ledger.save(ledger_path)
    folder.write("audit.json", made.audit)
    for line in summary_lines(made.audit):
        folder.tell.say(line)
    planned, feed = plan.make(recipe, base, made, where)
    folder.write("plan.json", planned)
    locked = plan.lock(recipe, base, made, where)
    before = folder.read("lock.json")
    if before is not None and before != locked:
        different = sorted(k for k in {*before, *locked} if before.get(k) != locked.get(k))
        raise RunError(
            f"this is not the run that was started: {', '.join(different)} differ from lock.json "
            f"(for one, {different[0]}: {before.get(different[0])} then, {locked.get(different[0])} now). "
            "Restore it, or start a new run with another --out."
        )
    folder.write("lock.json", locked)
    folder.write("serving.json", Served.of(made).facts())
    for row in planned["resolved"]:
        folder.tell.say(f"{row['key']}: {row['value']}  ({row['why']})")
    return where, base, made, feed


def baseline(recipe: Recipe, folder: RunFolder, session: Session, made: Material) -> evaluate.Asked:
    """The base in its best prompt form, chosen on dev, on the held-out cases; before anything is trained."""
    budget = plan.stage_budgets(recipe, made)["baseline"]
    kept = folder.read("scores/forms.json")
    with folder.stage("baseline", budget):
        if kept is None:
            form, rows = evaluate.choose_form(
                session, recipe, made, lambda n, total: folder.tell.step(n, total, "base on dev, form by form")
            )
            folder.write("scores/forms.json", rows)
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
        return evaluate.Asked(kept["form"], tuple(Answer(**a) for a in kept["answers"]))
    which = "base" if who is None else "tuned"
    asked = evaluate.ask(
        session, who, recipe, made, form, made.split.test,
        lambda n, total: folder.tell.step(n, total, f"{which} on the held-out cases"),
    )  # fmt: skip
    folder.write(name, {"form": asked.form, "answers": [asdict(a) for a in asked.answers]})
    return asked


class StopAtSignal:
    """The first Ctrl-C or SIGTERM lets the update finish; the second stops at once."""

    def __init__(self) -> None:
        self.stopped = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopAtSignal:
        self.before = {s: signal.signal(s, self.note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: Any) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True


def teach(recipe: Recipe, folder: RunFolder, session: Session, made: Material, state: State, feed: FileFeed) -> None:
    """The updates that are still to be made, with metrics, checkpoints and the dev loss before and after."""
    checkpoints = folder.path / "checkpoints"
    path, skipped = checkpoint.newest(checkpoints)
    for line in skipped:
        folder.tell.say(f"skipped a checkpoint: {line}")
    if path is not None:
        checkpoint.load(path, session, state, feed)
        folder.tell.say(f"going on from {path.name}")
    folder.forget_metrics_after(state.update)
    if state.update == 0:
        note_dev_loss(recipe, folder, session, made, 0)
    began, before = time.monotonic(), state.update

    def after_update(update: int, facts: dict[str, float]) -> None:
        elapsed = time.monotonic() - began
        folder.add_metrics({"update": update, **facts, "elapsed_s": elapsed, "peak_gib": peak_gib()})
        left = elapsed / (update - before) * (state.num_updates - update)
        rate = facts["tokens_per_s"]
        text = f"loss {facts['loss']:.3f}  {rate:.0f} tokens/s  {left:.0f} s left"
        folder.tell.step(update, state.num_updates, text)
        if update % recipe.train.every_checkpoint == 0 or update == state.num_updates or stop.stopped:
            checkpoint.save(checkpoints, session, state, feed)
            checkpoint.keep(checkpoints, 2)
        if stop.stopped and update < state.num_updates:
            raise Interrupted(f"stopped after update {update} of {state.num_updates}, which is saved: --resume goes on")

    with StopAtSignal() as stop:
        train(session, state, feed, state.num_updates, [after_update])
    if before < state.num_updates:
        note_dev_loss(recipe, folder, session, made, state.update)


def note_dev_loss(recipe: Recipe, folder: RunFolder, session: Session, made: Material, update: int) -> None:
    loss = evaluate.dev_loss(session, TENANT, recipe, made)
    if loss is not None:
        folder.add_metrics({"update": update, "dev_loss": loss})


def export(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, where: Compute, snapshot: Snapshot
) -> dict[str, str]:
    """Adapter and merged folder (or the whole model), each opened again by plain peft and transformers and compared."""
    stops = made.renderer.stop_ids
    serving = Serving(session.base.tokenizer, made.renderer.template, stops, made.max_new_tokens)
    prompts = [made.renderer.prompt(made.forms[0].prompt(e, made.instruction)) for e in made.split.test[:NUM_CHECKED]]
    expected = expect(session, snapshot, prompts, Limits(min(NUM_CHECKED_TOKENS, made.max_new_tokens), stops))
    origin = session.base.located.folder
    facts: dict[str, Any] = {}
    if recipe.adapt.method != "lora":
        tuned = write_tuned(session, snapshot, serving, folder.path / "model")
        facts["model"] = {"path": "model", **verify("model", open_model(tuned, where.dtype), expected)}
    else:
        tuned = write_tuned(session, snapshot, serving, folder.path / "adapter")
        opened = open_adapter(origin, tuned, where.dtype)
        facts["adapter"] = {"path": "adapter", **verify("adapter", opened, expected)}
        if "merged" in recipe.export:
            if where.dtype != torch.float32:
                opened = open_adapter(origin, tuned, torch.float32)
            merged = write_merged(opened, serving, folder.path / "merged")
            facts["merged"] = {"path": "merged", **verify("merged model", open_model(merged, where.dtype), expected)}
    folder.write("export.json", facts)
    return {"tuned": weights_digest(tuned)}
