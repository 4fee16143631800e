"""`tunesmith chat`: ask a run's model, in a terminal or a pipe, alone or beside the other one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from tunesmith.cli import show
from tunesmith.cli.options import part
from tunesmith.errors import InputError, TunesmithError

BLOCK = '"""'
HELP = f"""\
/reset          forget the conversation
/system TEXT    another instruction from now on; /system alone shows it
/save FILE      add the conversation to a file, one line of JSON in the form that a run learns from
/quit           leave; so does Ctrl-D
{BLOCK}             opens a message of several lines, and closes it
Ctrl-C stops an answer"""


def chat(
    target: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run folder, or a model.")],
    model: Annotated[str | None, typer.Option(help="base or tuned; tuned where there is one.")] = None,
    against: Annotated[str | None, typer.Option(help="The other one, shown beside it: base or tuned.")] = None,
    system: Annotated[str | None, typer.Option(help="An instruction in place of the run's own.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=5, help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Draw from the likeliest part only.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer; the run's own without it.")] = None,
    once: Annotated[str | None, typer.Option(help="Answer this text and leave.")] = None,
) -> None:
    """Talk to the model of a run, or to any model. From a pipe, the whole input is one message.

    Example: tunesmith chat runs/quickstart --against base
    """
    alone = once if once is not None else None if sys.stdin.isatty() else sys.stdin.read()
    if alone is not None and not alone.strip():
        raise InputError("the message is empty: give a text to answer, on standard input or with --once")
    if not sys.stdin.isatty() or once is not None:
        opened = part("opened").open_any(target)
    else:
        with show.Screen().console.status(f"loading {target}"):
            opened = part("opened").open_any(target)
    changes: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "seed": seed}
    if max_tokens is not None:
        changes["max_new_tokens"] = max_tokens
    talk = part("cli.talk").Talk(opened, chosen(opened, model, against), opened.limits(**changes), system)
    if alone is not None:
        talk.answer(alone.strip())
    else:
        converse(talk)


def chosen(opened: Any, model: str | None, against: str | None) -> tuple[str, ...]:
    """Which of base and tuned answer, in the order of their columns."""
    first = model or ("tuned" if opened.tuned is not None and against != "tuned" else "base")
    names = tuple(dict.fromkeys(name for name in (against, first) if name))
    for name in names:
        opened.who(name)  # raises where there is none
    if against is not None and len(names) == 1:
        raise InputError(f"--against {against} is the model itself; name the other one, base or tuned")
    return names


def converse(talk: Any) -> None:
    """Reads and answers until /quit or Ctrl-D."""
    if importlib.util.find_spec("readline"):
        importlib.import_module("readline")  # input() then has a history and arrow keys
    talk.note(talk.greeting())
    while True:
        try:
            text = message()
        except EOFError:
            talk.note("")
            return
        except KeyboardInterrupt:
            talk.note("\nCtrl-D or /quit leaves")
            continue
        if text == "/quit":
            return
        try:
            if text.startswith("/"):
                command(talk, text)
            elif text:
                talk.answer(text)
        except KeyboardInterrupt:
            talk.note("\nstopped; neither the message nor the answer is kept")
        except TunesmithError as error:
            show.error(str(error))


def message() -> str:
    """One line, or the lines between two marks."""
    line = input("> ")
    if not line.strip().startswith(BLOCK):
        return line.strip()
    lines = [line.strip().removeprefix(BLOCK)]
    while not lines[-1].rstrip().endswith(BLOCK) or (len(lines) == 1 and not lines[0]):
        lines.append(input("… "))
    lines[-1] = lines[-1].rstrip().removesuffix(BLOCK)
    return "\n".join(lines).strip()


def command(talk: Any, text: str) -> None:
    name, _, rest = text.partition(" ")
    rest = rest.strip()
    if name == "/help":
        talk.note(HELP)
    elif name == "/reset":
        talk.reset()
        talk.note("forgotten")
    elif name == "/system" and rest:
        talk.system = rest
        talk.reset()
        talk.note("the instruction is set, and the conversation begins anew")
    elif name == "/system":
        talk.note(talk.instruction() or "there is no instruction")
    elif name == "/save" and rest:
        talk.save(Path(rest).expanduser())
        talk.note(f"added to {rest}")
    else:
        wanted = "/save FILE" if name == "/save" else "/help shows them"
        talk.console.print(Text(f"{name} is no command as it stands: {wanted}", style="red"))
