"""`tunesmith schema` and `tunesmith completion`: what editors and shells want to know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from enum import StrEnum
from typing import Annotated

import typer

from tunesmith.cli import show
from tunesmith.cli.options import part

Shell = StrEnum("Shell", ("bash", "zsh", "fish", "powershell"))
VARIABLE = "_TUNESMITH_COMPLETE"  # typer reads it; the scripts set it


def schema() -> None:
    """Print the JSON Schema of a recipe, with which editors complete and check its keys.

    Keep it beside the recipe, whose first line then is: # yaml-language-server: $schema=recipe.schema.json

    Example: tunesmith schema > recipe.schema.json
    """
    show.out(json.dumps(part("schema").json_schema(), indent=2, ensure_ascii=False))


def completion(shell: Annotated[Shell, typer.Argument(help="Whose script is printed.")]) -> None:
    """Print the script that lets a shell complete commands and options.

    For bash and zsh it goes into the start-up file of the shell as: eval "$(tunesmith completion bash)"

    Example: tunesmith completion bash
    """
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith.cli.main"],
        env={**os.environ, VARIABLE: f"source_{shell}"},
        capture_output=True,
        text=True,
        check=True,
    )
    show.out(done.stdout.rstrip())
