"""The commands around one run: quickstart, run, train, plan, report."""

from __future__ import annotations

import json
import shlex
import time
import webbrowser
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import show
from tunesmith.cli.going_on import going_on
from tunesmith.cli.options import (
    DataFiles,
    GoOn,
    Json,
    Model,
    Out,
    RecipeFile,
    Resume,
    Set,
    Strict,
    TestFiles,
    finish,
    part,
    recipe_of,
)
from tunesmith.cli.several import AtOnce, On, Processes, RayAddress, Workers, asked, goes_on, several, together
from tunesmith.errors import InputError


def quickstart(
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/quickstart"),
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """The whole job on the embedded model and a made-up shop's inbox: on a CPU, in minutes.

    Example: tunesmith quickstart
    """
    with going_on("quickstart", out, ["--json"] if as_json else [], quiet=as_json) as tell:
        done = part("quickstart").quickstart(out, tell, resume=resume)
    finish(*done, as_json=as_json, require_better=False)


def run(
    file: RecipeFile = None,
    model: Model = None,
    data: DataFiles = None,
    test: TestFiles = None,
    sets: Set = None,
    parent: GoOn = None,
    strict: Strict = False,
    out: Out = None,
    resume: Resume = False,
    as_json: Json = False,
    require_better: Annotated[
        bool, typer.Option("--require-better", help='Exit with 3 unless the verdict is "better".')
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Stop before anything is trained or written: show the plan.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="Run with so many seeds, and say what holds for the method.")
    ] = None,
    processes: Processes = None,
    on: On = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    at_once: AtOnce = None,
) -> None:
    """Audit, plan, baseline, train, evaluate, verdict, export and report.

    Example: tunesmith run --model smollm2-135m-instruct --data tickets.csv
    """
    with together() as ranks:
        resume = resume or goes_on(out)
        if resume and out is not None and file is None and not data:
            file = part("opened").kept_recipe(part("seeds").first(out) if seeds else out)
        recipe, text = recipe_of(file, model, data, test, sets, strict=strict, parent=parent)
        refuse_nameless(out, resume=resume)
        if dry_run:
            show_plan(recipe, as_json=as_json)
            return
        job = part("run")
        folder = out or job.default_name(recipe)
        if at_once is not None and seeds is None:
            raise InputError("--at-once is how many of the --seeds run side by side: say how many there are, too")
        where = asked(processes, on, workers, ray_address, at_once)
        several(processes, ranks, out, folder)
        said = (("--json", as_json), ("--require-better", require_better))
        flags = [*(name for name, is_said in said if is_said), *where.flags]
        if seeds is not None:
            with going_on("run", folder, [*flags, f"--seeds={seeds}"], quiet=as_json) as tell:
                found = where.seeds(seeds, ranks)(recipe, text, folder, tell, resume=resume)
        else:
            with going_on("run", folder, flags, quiet=as_json) as tell:
                verdict = where.job(job.run, ranks)(recipe, text, folder, tell, resume=resume)
    if seeds is None:
        finish(verdict, folder, as_json=as_json, require_better=require_better)
        return
    show.out(json.dumps(found, ensure_ascii=False) if as_json else part("seeds").in_words(found))
    if (require_better and found["decision"] != "better") or not found["gates_met"]:
        raise typer.Exit(3)


def train(
    file: RecipeFile = None,
    model: Model = None,
    data: DataFiles = None,
    test: TestFiles = None,
    sets: Set = None,
    parent: GoOn = None,
    strict: Strict = False,
    out: Out = None,
    resume: Resume = False,
    as_json: Json = False,
    processes: Processes = None,
    on: On = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
) -> None:
    """Train and export, and measure nothing. `tunesmith run --resume` compares it with its base later.

    Example: tunesmith train --model smollm2-135m-instruct --data tickets.csv
    """
    with together() as ranks:
        resume = resume or goes_on(out)
        if resume and out is not None and file is None and not data:
            file = part("opened").kept_recipe(out)
        recipe, text = recipe_of(file, model, data, test, sets, strict=strict, parent=parent)
        refuse_nameless(out, resume=resume)
        job = part("run")
        folder = out or job.default_name(recipe)
        where = asked(processes, on, workers, ray_address)
        several(processes, ranks, out, folder)
        flags = ["--json"] * as_json + where.flags
        with going_on("train", folder, flags, quiet=as_json) as tell:
            exported = where.job(job.train, ranks)(recipe, text, folder, tell, resume=resume)
    if as_json:
        show.out(json.dumps({"folder": str(folder), "exports": exported}, ensure_ascii=False))
        return
    for name in exported:
        show.out(f"{name}: {folder / name}")
    show.out(f"Not measured: is it better than its base?  tunesmith run --resume --out {shlex.quote(str(folder))}")


def refuse_nameless(out: Path | None, *, resume: bool) -> None:
    if resume and out is None:
        raise InputError("--resume needs --out: the folder of the run that is to go on")


def plan(
    file: RecipeFile = None,
    model: Model = None,
    data: DataFiles = None,
    test: TestFiles = None,
    sets: Set = None,
    parent: GoOn = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """What a run would do, every value resolved, with the reasons. Nothing is trained or written.

    Example: tunesmith plan --data tickets.csv --set train.epochs=3
    """
    words = {"file": file, "model": model, "data": data, "test": test, "sets": sets, "strict": strict}
    kept = part("cli.kept_plan").find(words) if parent is None else None
    if kept is not None:
        show_facts(kept, as_json=as_json)
        return
    recipe, _ = recipe_of(file, model, data, test, sets, strict=strict, parent=parent)
    show_plan(recipe, as_json=as_json, words=words if recipe.parent.run is None else None)


def show_plan(recipe: Any, *, as_json: bool, words: Mapping[str, Any] | None = None) -> None:
    """All that comes before training, shown: audit and plan. The model is loaded and tried out; nothing is written but
    what `plan` shows the next time, where `words` were typed."""
    began, build = time.monotonic(), part("build")
    part("sources").check_files(recipe)
    where = build.compute(recipe)
    base = build.load_base(recipe, where, learns=True)
    made = build.material(recipe, base)
    where, base, fitted = part("fitted").fit_or_halve(recipe, base, made, where)
    tried = part("speeds").try_out(fitted, base, made)
    tried.session.close()
    planned = part("plan").make(fitted, base, made, where, tried.speeds, began)
    lines = part("data.audit").summary_lines(made.audit)
    shown = {"planned": planned, "understood": made.audit["understood"], "lines": lines}
    show_facts(shown, as_json=as_json)
    data, kept = recipe.data, part("cli.kept_plan")
    is_here = all(Path(name).exists() for name in (*data.named, *data.dev, *data.test, *data.ood, *data.replay.files))
    if words is not None and where.device == "cpu" and is_here:
        kept.keep(words, shown, [*map(Path, made.files), base.located.folder, *kept.paths_in(asdict(recipe))])


def show_facts(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """`at`: when they were found, where that was not now."""
    kept = {"kept_from": facts["at"]} if "at" in facts else {}
    if as_json:
        show.out(json.dumps({**facts["planned"], **kept}, ensure_ascii=False))
        return
    show.Screen().understood(facts["understood"])
    for line in facts["lines"]:
        show.out(line)
    for row in facts["planned"]["resolved"]:
        show.out(f"{row['key']}: {row['value']}  ({row['why']})")
    if kept:
        show.out(f"(kept from {facts['at']}: nothing that it depends on has changed since)")


def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    show_it: Annotated[bool, typer.Option("--open", help="Open the page in your browser.")] = False,
    as_json: Json = False,
) -> None:
    """Write report.html and report.md of a run again, from its files, and print the path of the page.

    Example: tunesmith report runs/quickstart --open
    """
    path = part("report.html").write(folder)
    card = part("report.card").write_report(folder)
    part("sealed").seal_again(folder, [path.name, card.name])
    paths = {"html": str(path), "markdown": str(card)}
    show.out(json.dumps(paths, ensure_ascii=False) if as_json else str(path))
    if show_it and not webbrowser.open(path.resolve().as_uri()):
        raise InputError(f"no browser was found to open {path}; open the file yourself, or leave --open out")
