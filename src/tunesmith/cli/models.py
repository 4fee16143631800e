"""`tunesmith models`: what is here and what fits; which suits a file of examples; bringing one here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.cli import show
from tunesmith.cli.options import Json, part
from tunesmith.errors import InputError

app = typer.Typer(help="Models: what is here, what fits, which suits your data; bringing one here.")
ABOUT = "GiB of memory, by a rough guess, to tune all weights or an adapter, or only to answer; {0:.1f} are free ({1})"


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    data: Annotated[str | None, typer.Option("--for", metavar="DATA", help="Rank them on this file of yours.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Rank them on the data of this recipe.")] = None,
    names: Annotated[
        str | None, typer.Option("--candidates", help="Names with commas; else all that are here.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="With --for: the column that the model should give back.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="With --for: columns or a template it is given.")] = None,
    shots: Annotated[int, typer.Option(min=0, help="Solved examples in each prompt.")] = 4,
    cases: Annotated[int, typer.Option(min=1, help="At most so many dev cases.")] = 48,
    seconds: Annotated[float, typer.Option(min=1, help="For all of the ranking.")] = 600.0,
    folders: Annotated[list[Path] | None, typer.Option("--folder", help="A model's folder, to look at too.")] = None,
    as_json: Json = False,
) -> None:
    """What is on this machine, under which licence, and what of it fits; with --for, which model suits a file.

    Nothing is downloaded. Ranking asks each candidate some dev cases of your data, untuned: bits per byte and score.

    Example: tunesmith models --for tickets.csv
    """
    said = [p.opts[0] for p in context.command.params if p.name and was_typed(context, p.name)]
    if context.invoked_subcommand is not None:
        if said:
            raise InputError(f"{said[0]} belongs to `tunesmith models` alone, not before {context.invoked_subcommand}")
        return
    refuse_unread(said)
    if data is None and recipe is None:
        inventory(folders or [], as_json=as_json)
        return
    wanted = [name.strip() for name in (names or "").split(",") if name.strip()]
    job = part("candidates")
    found = job.candidates(wanted, folders or [])
    asked = job.Asked(shots, cases, seconds)
    with show.Screen(quiet=as_json) as tell:
        ranked = job.rank(recipe_for(data, recipe, (target, prompt), found), found, asked, tell)
    if as_json:
        show.out(json.dumps(ranked.facts(), ensure_ascii=False))
    else:
        tell_ranking(ranked)


def was_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_unread(said: list[str]) -> None:
    """Raises InputError at an option that nothing would read."""
    if "--for" in said and "--recipe" in said:
        raise InputError("--for and --recipe both name the data to rank on: give one of them")
    ranks = [name for name in said if name not in ("--for", "--recipe", "--folder", "--json")]
    if ranks and "--for" not in said and "--recipe" not in said:
        raise InputError(f"{ranks[0]} is about ranking: say on which data, with --for FILE or --recipe FILE")
    columns = [name for name in ranks if name in ("--target", "--prompt")]
    if columns and "--recipe" in said:
        raise InputError(f"{columns[0]} goes with --for: the recipe says the columns itself")


def recipe_for(data: str | None, file: Path | None, columns: tuple[Any, Any], found: list[Any]) -> Any:
    """A recipe file, or what `tunesmith init` would propose for the data."""
    recipe = part("recipe")
    if file is not None:
        return recipe.read(file, {})[0]
    init = part("init")
    target, prompt = columns
    wish = init.Wish(data=data, target=target, prompt=tuple(prompt) if prompt else None, model=found[0].name)
    return recipe.parse(init.settings(init.propose(wish)))


def inventory(folders: list[Path], *, as_json: bool) -> None:
    facts = part("candidates").inventory(folders)
    if as_json:
        show.out(json.dumps(facts, ensure_ascii=False))
        return
    console = Console(highlight=False)
    table = columned(("model", "licence", "weights", "on disk", "full", "LoRA", "answers"))
    for model in facts["here"]:
        fits = [fit(model["needs_gib"][way], model["fits"][way]) for way in ("full", "lora", "answers")]
        name = Text(model["name"]).append("\n(a base model)" if model["is_base"] else "", style="dim")
        sizes = (f"{model['num_weights'] / 1e6:,.0f}M", f"{model['disk_gib']:.1f} GiB")
        table.add_row(name, model["licence"] or "not said here", *sizes, *fits)
    if facts["here"]:
        console.print(table)
        console.print(Text(ABOUT.format(facts["free_gib"], facts["precision"]), style="dim"))
    for model in facts["unusable"]:
        console.print(Text(f"cannot be used: {model['name']}: {model['why']}", style="yellow"))
    for model in facts["not_here"]:
        size = f"{model['licence']}, {model['num_weights'] / 1e6:,.0f}M weights, {model['download_mb']} MB to download"
        console.print(Text(f"not here: {model['name']} ({size}): tunesmith models fetch {model['name']}"))
    console.print(Text("which suits your data: tunesmith models --for FILE", style="dim"))


def columned(names: tuple[str, ...]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for index, name in enumerate(names):
        table.add_column(name, justify="right" if index > 1 else "left", overflow="fold", no_wrap=index < 2)
    return table


def fit(need_gib: float, is_enough: bool) -> Text:
    return Text(f"{need_gib:.1f}{'' if is_enough else ' too much'}", style="green" if is_enough else "yellow")


def tell_ranking(found: Any) -> None:
    console = Console(highlight=False)
    of = "your texts" if found.bits_of == "text" else "your answers"
    console.print()
    console.print(
        Text(f"{found.task}: {found.num_cases} of {found.num_dev} dev cases, each model untuned", style="bold")
    )
    table = columned(("model", "licence", found.metric, "bits/byte", "tokens/word", "GiB"))
    for row in found.rows:
        if row.problem:
            continue
        name = Text(row.name, style="bold green" if row.name == found.choice else "")
        memory = Text(f"{row.need_gib:.1f}{'' if row.fits else ' too much'}", style="" if row.fits else "yellow")
        table.add_row(
            name, row.licence or "not said here", with_interval(row.score, row.score_interval),
            with_interval(row.bits_per_byte, row.bits_interval), f"{row.tokens_per_word:.2f}", memory,
        )  # fmt: skip
    if found.usual:
        label, score = found.usual
        table.add_row(Text(f"always {label!r}", style="dim"), "", Text(f"{score:.3f}", style="dim"))
    console.print(table)
    for line in (
        f"{found.metric}: {found.unit}, with {found.shots} solved examples in the prompt",
        f"bits/byte: how well a model foretells {of}; less is better. Below each figure: its 95% interval",
        f"GiB: memory to tune an adapter, by a rough guess; {found.free_gib:.1f} are free",
    ):
        console.print(Text(line, style="dim"))
    for row in found.rows:
        if row.problem:
            console.print(Text(f"not ranked: {row.name}: {row.problem}", style="yellow"))
    for note in found.notes:
        console.print(Text(f"note: {note}"))
    if found.choice:
        console.print(Text(f"take {found.choice}", style="bold green"), Text(f"({found.why})"))
    else:
        console.print(Text(found.why, style="bold yellow"))


def with_interval(value: float, interval: tuple[float, float]) -> str:
    digits = 1 if max(abs(value), *map(abs, interval)) > 10 else 3
    return f"{value:.{digits}f}\n{interval[0]:.{digits}f}–{interval[1]:.{digits}f}"


@app.command("list")
def models_list(as_json: Json = False) -> None:
    """The models that are known by name, and whether they are here.

    Example: tunesmith models list
    """
    known = part("models.catalogue").known()
    if as_json:
        show.out(json.dumps(known, ensure_ascii=False))
        return
    for model in known:
        here = "here" if model["is_here"] else f"not here: tunesmith models fetch {model['name']}"
        show.out(f"{model['name']}  ({model['base_model']}, {model['licence']}; {model['note']})  {here}")


@app.command("fetch")
def models_fetch(
    name: Annotated[str, typer.Argument(help="A known name, or a hub name (owner/name).")],
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="You have read the terms that the model comes under, and agree.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring a model to this machine: download, check its digest, convert once.

    Example: tunesmith models fetch smollm2-135m-instruct
    """
    located = part("models.catalogue").fetch(name, accept_terms=accept_terms)
    facts = {"name": located.name, "folder": str(located.folder), "licence": located.licence, "note": located.note}
    show.out(json.dumps(facts, ensure_ascii=False) if as_json else f"{located.name} is in {located.folder}")


@app.command("resize")
def models_resize(
    name: Annotated[str, typer.Argument(help="A model's name or folder.")],
    token: Annotated[list[str], typer.Option("--token", help="A new token, as texts have it; once for each.")],
    out: Annotated[Path, typer.Option(help="Folder of the model with them; has to be new.")],
    as_json: Json = False,
) -> None:
    """A model with more tokens, each with the mean of all rows, as the base of a run that trains them.

    Example: tunesmith models resize smollm2-135m-instruct --token "<sql>" --token "</sql>" --out base-with-sql
    """
    grown = part("models.new_tokens").add_tokens(name, token, out)
    facts = {"folder": str(grown.folder), "ids": grown.ids, "num_rows": grown.num_rows, "digest": grown.digest}
    said = f"{grown.folder}: {len(grown.ids)} new tokens of {grown.num_rows}; adapt.method full or named trains them"
    show.out(json.dumps(facts, ensure_ascii=False) if as_json else said)
