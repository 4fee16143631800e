"""A page on which a person chooses between two answers: it needs no network, and saves a sheet to read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from tunesmith.report.html import digest, make_environment
from tunesmith.report.words import clean

SHOWN = ("case", "prompt", "A", "B")


def page(name: str, lines: Sequence[Mapping[str, str]]) -> str:
    """`lines`: of the sheet. Which answer is whose is not in them."""
    environment = make_environment()
    assert environment.loader is not None
    script = environment.loader.get_source(environment, "choose_script.html")[0]
    pairs = [{k: clean(line[k]) for k in SHOWN} for line in lines]
    return environment.get_template("choose.html").render(
        name=name, pairs=pairs, script=Markup(script), script_hash=digest(script)
    )
