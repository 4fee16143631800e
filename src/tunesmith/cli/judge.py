"""`tunesmith judge`: a blind sheet for people, and what their choices say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from tunesmith.cli import show
from tunesmith.cli.options import Json, part
from tunesmith.errors import InputError


def judge(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A finished run, or an evaluation of two models.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write the sheet here: .xlsx or .csv.")] = None,
    cases: Annotated[int, typer.Option(help="Most cases on the sheet.")] = 50,
    read: Annotated[list[Path] | None, typer.Option(help="A filled sheet; again for each further person.")] = None,
    key: Annotated[Path | None, typer.Option(help="Which answer is whose; beside the sheet without it.")] = None,
    preferences: Annotated[
        Path | None, typer.Option(metavar="OUT.jsonl", help="With --read: prompt, chosen and rejected, to learn from.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let people choose blindly between base and tuned: write a shuffled sheet, read it back filled in.

    Example: tunesmith judge runs/quickstart --sheet choices.xlsx
    """
    if (sheet is None) == (not read):
        raise InputError(
            "one of the two is wanted: `tunesmith judge RUN --sheet FILE` writes a sheet, `tunesmith judge --read FILE "
            "--key KEY` reads it back"
        )
    blind = part("blind")
    if sheet is not None:
        if folder is None:
            raise InputError(
                "whose answers? name the folder of a run, or of an evaluation: tunesmith judge RUN --sheet"
            )
        if preferences is not None:
            raise InputError("--preferences are made of choices: it goes with --read")
        write(blind, folder, sheet, key or beside(sheet), cases, as_json=as_json)
        return
    sheets = read or []
    found_key = blind.Key.read(key or beside(sheets[0]))
    found = blind.judged(sheets, found_key)
    if preferences is not None:
        found |= {"preferences": str(preferences), "num_pairs": blind.preferences(sheets, found_key, preferences)}
    if as_json:
        show.out(json.dumps(found, ensure_ascii=False))
    else:
        shown(found)


def beside(sheet: Path) -> Path:
    return sheet.with_name(f"{sheet.stem}.key.json")


def write(blind: Any, folder: Path, sheet: Path, key: Path, cases: int, *, as_json: bool) -> None:
    made = blind.write(folder, sheet, key, cases)
    if as_json:
        show.out(json.dumps({"sheet": str(sheet), "key": str(key), "num_cases": len(made.placed),
                             "num_equal": len(made.ties)}))  # fmt: skip
        return
    equal = f"; {len(made.ties)} cases with equal answers count as ties" if made.ties else ""
    show.out(f"{sheet}: {len(made.placed)} cases, choices A, B or tie{equal}")
    show.out(
        f"{key}: which is which. Keep it from whoever fills in the sheet, and give each person a copy of their own"
    )
    show.out(f"read it back: tunesmith judge --read {sheet} --key {key}")


def shown(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    first, second = found["models"]
    low, high = found["interval"]
    console.print(
        Text(found["decision"].upper(), style=show.TONE[found["decision"]]),
        Text(
            f"{second} is preferred to {first} in {found['win_rate']:.0%} of {found['num_cases']} cases (interval "
            f"{low:.0%} to {high:.0%}, ties half; 50% is no difference)"
        ),
    )
    wins = ", ".join(f"{name} {found['wins'].get(name, 0)}" for name in (second, first, "tie"))
    console.print(Text(f"{wins} (of the ties {found['num_equal']} are equal answers that nobody was asked about)"))
    console.print(Text(f"{found['test']}, p = {found['p']:.2g}"))
    if found["num_without_choice"]:
        console.print(Text(f"note: {found['num_without_choice']} cases of the sheet have no choice and are left out."))
    if found["num_shared"]:
        kappa = "not defined" if found["kappa"] is None else f"{found['kappa']:.2f}"
        console.print(
            Text(
                f"{found['num_raters']} people say the same in {found['agreement']:.0%} of {found['num_shared']} "
                f"cases, {found['kappa_kind']}'s kappa {kappa} (0 is chance, 1 is perfect)"
            )
        )
    if found["share_a"] is not None and found["share_a_p"] < 0.05:
        console.print(
            Text(
                f"note: {found['share_a']:.0%} of the choices went to A; where answers stood decided more than chance."
            )
        )
    if "preferences" in found:
        console.print(Text(f"{found['preferences']}: {found['num_pairs']} pairs with prompt, chosen and rejected"))
