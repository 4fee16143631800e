"""`tunesmith predict`: a file in, the same file with answers out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import show
from tunesmith.cli.options import Json, part


def predict(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    source: Annotated[Path, typer.Argument(metavar="IN", help="CSV, TSV, JSONL, JSON, Parquet or XLSX.")],
    out: Annotated[Path, typer.Argument(help="Written as its name says: .csv, .tsv, .jsonl or .parquet.")],
    model: Annotated[str, typer.Option(help="tuned, or base to see what it said before.")] = "tuned",
    prompt: Annotated[
        list[str] | None, typer.Option(help="The column that is the prompt here, or a template with {columns}.")
    ] = None,
    each_label: Annotated[bool, typer.Option("--each-label", help="One more column per label.")] = False,
    best_of: Annotated[
        int, typer.Option("--best-of", help="Sample so many answers, and keep the best by --reward.")
    ] = 1,
    reward: Annotated[Path | None, typer.Option(help="The run of a reward model, or its folder.")] = None,
    schema: Annotated[Path | None, typer.Option(help="A JSON schema that each answer has to fit.")] = None,
    pattern: Annotated[str, typer.Option(help="A regular expression that each whole answer has to fit.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a prediction that was stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Answer every row of a file: its columns stay, and an answer is added, for labels with how sure it is.

    Example: tunesmith predict runs/quickstart messages.csv answers.csv
    """
    job = part("predict_file")
    asked = job.Asked(model, tuple(prompt or ()), each_label, resume, best_of, reward, schema, pattern)
    with show.Screen(quiet=as_json) as tell:
        done = job.predict_file(folder, source, out, asked, tell)
    if as_json:
        show.out(json.dumps(dataclasses.asdict(done), ensure_ascii=False))
        return
    facts = {"unsure": done.num_unsure, "cut off at the limit": done.num_cut, "without an answer": done.num_problems}
    rest = ", ".join(f"{num} {name}" for name, num in facts.items() if num is not None)
    show.out(f"{done.out}: {done.num_rows} rows; {rest}")
