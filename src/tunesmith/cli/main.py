"""The command line. Commands parse, call and print; what they call is loaded only then, so that --help is quick."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable

import typer

from tunesmith import exits
from tunesmith.cli import (
    advice,
    ask,
    audit,
    chat,
    curve,
    distil,
    doctor,
    evaluate,
    explain,
    export,
    gate,
    grade,
    importing,
    init,
    job,
    judge,
    models,
    predict,
    prefer,
    runs,
    schema,
    select,
    serve,
    show,
    sweep,
    synthesise,
    verify,
)
from tunesmith.cli.faults import told
from tunesmith.cli.words import Words
from tunesmith.errors import Interrupted, LostRank, TunesmithError

app = typer.Typer(
    cls=Words,
    help="Fine-tunes a pre-trained language model on your examples and proves whether the result is better.",
    epilog="Exit codes: 0 done, 1 a run failed, 2 what was given is wrong, 3 a gate was not met, 75 stopped "
    "with nothing lost. docs/troubleshooting.md explains messages; TUNESMITH_DEBUG=1 shows where they come from.",
    no_args_is_help=True,
    add_completion=schema.VARIABLE in os.environ,  # else its two options would stand in every --help
    pretty_exceptions_enable=False,
)
PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Start here": (init.init, job.run, chat.chat, predict.predict, job.report),
    "More": (
        job.quickstart,
        job.train,
        serve.serve,
        export.export,
        audit.audit,
        select.select,
        job.plan,
        sweep.sweep,
        curve.curve,
        advice.next_,
        runs.compare,
        evaluate.evaluate,
        judge.judge,
        grade.grade,
        distil.distil,
        prefer.prefer,
        synthesise.synthesise,
        ask.ask,
        explain.explain,
        gate.gate,
        verify.verify,
        verify.reproduce,
        doctor.doctor,
        importing.import_,
        schema.schema,
        schema.completion,
    ),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(command.__name__.rstrip("_"), rich_help_panel=panel)(command)  # import_: import is a word of Python
app.add_typer(models.app, name="models", rich_help_panel="More")
app.add_typer(runs.app, name="runs", rich_help_panel="More")


def main() -> None:
    """Runs a command; a user's mistake is one message and the documented exit code, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", module="transformers|peft|torch")
    if not exits.begin():
        return
    try:
        app(prog_name="tunesmith")
    except SystemExit as end:
        sys.exit(exits.noted(end.code if isinstance(end.code, int) else int(end.code is not None)))
    except Exception as error:
        message, code = told(error)
        (show.stopped if isinstance(error, Interrupted) else show.error)(message)
        is_known = isinstance(error, TunesmithError) and not isinstance(error, LostRank)
        sys.exit(exits.noted(code) if is_known else code)


if __name__ == "__main__":
    main()
