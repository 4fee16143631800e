"""`tunesmith audit`: what is in the data, and what is wrong with it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import show
from tunesmith.cli.options import DataFiles, GoOn, Json, Model, RecipeFile, Set, Strict, TestFiles, part, recipe_of
from tunesmith.errors import InputError

Fix = Annotated[Path | None, typer.Option(help="A new folder for the training files with safe mends, and a ledger.")]
Benchmarks = Annotated[
    list[Path] | None, typer.Option("--benchmark", help="A file of a public test: do training rows contain its items?")
]
Inputs = Annotated[
    str | None, typer.Option(help="A file of what will really be asked, without answers: is it learned?")
]
Toxicity = Annotated[
    str | None,
    typer.Option(help="Who tells toxic texts: a classifier (folder, hub name or run), MODEL or MODEL:LABEL."),
]
Drop = Annotated[
    list[str] | None, typer.Option(help="With --fix: a kind of finding whose rows are dropped, such as toxic_replies.")
]
Out = Annotated[Path | None, typer.Option(help="A folder for audit.json and audit.html.")]


def audit(
    file: RecipeFile = None,
    model: Model = None,
    data: DataFiles = None,
    test: TestFiles = None,
    sets: Set = None,
    parent: GoOn = None,
    benchmark: Benchmarks = None,
    inputs: Inputs = None,
    strict: Strict = False,
    out: Out = None,
    fix: Fix = None,
    drop: Drop = None,
    toxicity: Toxicity = None,
    as_json: Json = False,
) -> None:
    """What is in the data, what is wrong with it, and what would leak into the test set.

    Example: tunesmith audit --data tickets.csv
    """
    if benchmark:
        sets = [*(sets or []), f"data.benchmarks={json.dumps(list(map(str, benchmark)))}"]
    recipe, _ = recipe_of(file, model, data, test, sets, strict=strict, parent=parent)
    for name, folder in (("--out", out), ("--fix", fix)):
        if (
            folder is not None
            and folder.exists()
            and (not folder.is_dir() or (fix == folder and any(folder.iterdir())))
        ):
            raise InputError(f"{name} {folder} is there already: name a folder that is new")
    refuse_drop(drop or [], fix)
    build = part("build")
    part("sources").check_files(recipe)
    own = {} if toxicity is None else {"reader": part("toxic_model").reader(toxicity)}
    doubts = part("data.doubtful").Doubts(drop=tuple(drop or ()), **own)
    asked = part("target_inputs").reader(inputs, recipe.data.reading) if inputs is not None else None
    with show.Screen(quiet=as_json) as tell:
        base = build.load_base(recipe, build.compute(recipe))
        examined, step = part("data.examined"), of_many(tell.step, build.RENDERED)
        look = examined.Look(doubts, examined.Room(recipe.data.max_tokens, base.context_tokens), asked, step)
        found = build.material(recipe, base, step=step, look=look).audit
    complete(found, Given(file, model, data or (), test or (), sets or (), parent, toxicity, inputs), recipe)
    names = ", ".join(Path(name).name for name in recipe.data.named)
    written = write(found, out, names) if out is not None else []
    mended = (
        part("data.mend").mend(look.read, recipe.data.reading, fix, doubts.dropped, doubts.cut)
        if fix is not None
        else None
    )
    found |= {"mended": dict(mended.counts)} if mended is not None else {}
    if as_json:
        show.out(json.dumps(found, ensure_ascii=False))
    else:
        show.Screen().understood(found["understood"])
        for line in examined.summary_lines(found):
            show.out(line)
        for path in written:
            show.out(f"written    {path}")
        if mended is not None:
            show.out(told(mended))


def told(mended: Any) -> str:
    num = mended.counts
    return (
        f"mended     {num['read']} rows read = {num['written']} written ({num['masked']} masked, {num['cut']} cut) + "
        f"{num['dropped']} dropped + {num['left out']} left out; {mended.ledger} says which and why"
    )


@dataclass(frozen=True, slots=True)
class Given:
    """The words of the command line that name the data."""

    file: Path | None
    model: str | None
    data: Sequence[Path]
    test: Sequence[Path]
    sets: Sequence[str]
    parent: Path | None
    toxicity: str | None
    inputs: str | None

    def words(self, data: Sequence[Path], test: Sequence[Path], sets: Sequence[str]) -> str:
        said = [str(self.file)] if self.file is not None else []
        options = (("--model", [self.model] if self.model else []), ("--from", [self.parent] if self.parent else []),
                   ("--data", data), ("--test", test), ("--set", sets))  # fmt: skip
        return shlex.join(
            [*said, *(str(word) for name, values in options for value in values for word in (name, value))]
        )


def complete(found: dict[str, Any], given: Given, recipe: Any) -> None:
    """Each finding's command for just these data."""
    files, tokens = part("sources").files_of(recipe), found["tokens"]
    test = files.get("test", [])
    alone = [s for s in given.sets if not s.startswith(("data.train=", "data.test=", "data.dev="))]
    held_out = [f"data.{name}={json.dumps(list(map(str, files.get(name, []))) if name == 'dev' else [])}"
                for name in ("dev", "test") if name in files]  # fmt: skip
    together = [] if recipe.data.sources else [*files["train"], *test]
    whole = given.words(given.data, given.test, given.sets)
    is_drawn = not test and recipe.data.split_by == "content"
    anew = f"data.split_seed={1 + (recipe.data.split_seed or 0)}" if is_drawn else "data.split_by=content"
    joined = given.words(together, [], [*alone, *held_out]) if test else whole
    said = {
        "GIVEN": whole, "INPUTS": shlex.quote(given.inputs or ""), "MODEL": shlex.quote(recipe.model),
        "MORE": str(2 * tokens["max_tokens"]),
        "TOGETHER": joined, "ANEW": f"{joined} --set {anew}",
    }  # fmt: skip
    for one in found["findings"]:
        own = f" --toxicity {shlex.quote(given.toxicity)}" if given.toxicity and one["kind"].startswith("toxic") else ""
        one["command"] = part("data.remedies").filled(one["command"], said) + own


def of_many(step: Any, rendered: str) -> Any:
    """Without the step of rendering where rows are few: that is done before anybody could look."""
    least = part("data.progress").EVERY
    return lambda done, total, text: step(done, total, text) if total > least or text != rendered else None


def refuse_drop(drop: list[str], fix: Path | None) -> None:
    remedies = part("data.remedies")
    kinds = (*remedies.ROWS, *remedies.SENTENCES)
    odd = next((name for name in drop if name not in kinds), None)
    if odd is not None:
        raise InputError(f"--drop {odd}: wanted one of {', '.join(kinds)}")
    if drop and fix is None:
        raise InputError("--drop leaves rows out of a mended copy: name its folder with --fix")


def write(found: dict[str, Any], folder: Path, name: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    page = part("report.audit_page").page(found, name)
    text = json.dumps(found, ensure_ascii=False, indent=1) + "\n"
    made = {folder / "audit.json": text, folder / "audit.html": page}
    for path, content in made.items():
        path.write_text(content, encoding="utf-8", errors="backslashreplace")
    return list(made)
