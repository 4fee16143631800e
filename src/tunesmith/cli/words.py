"""A command line that is odd: words of other tools, Ctrl-C at any moment, a reader that went away."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, NoReturn

from typer.core import TyperGroup

from tunesmith.cli.options import part
from tunesmith.errors import Interrupted, RecipeError, RunError

READER_GONE = 141  # 128 + SIGPIPE, as the programs of a shell have it
VERBS = {  # of other tools -> ours
    "sft": "run", "finetune": "run", "fine-tune": "run", "tune": "run", "preprocess": "audit",
    "eval": "evaluate", "test": "evaluate", "inference": "predict", "infer": "predict", "generate": "predict",
    "merge": "export", "merge-lora": "export", "push": "export", "list": "runs", "ls": "runs",
    "download": "models fetch", "pull": "models fetch",
}  # fmt: skip


class Words(TyperGroup):
    """Where typer would end a command by itself (Ctrl-C, a closed pipe, an early end of input), tunesmith does."""

    def invoke(self, ctx: Any) -> Any:
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
            return done
        except KeyboardInterrupt:
            raise Interrupted("stopped; nothing half done is left behind: the same command starts again") from None
        except EOFError as error:
            raise RunError(f"the input ended too early ({error or 'nothing came'}); give all of it") from error
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            reader_gone()
        except SystemExit as left:  # rich has met the closed pipe
            if isinstance(left.__context__, BrokenPipeError):
                reader_gone()
            raise
        except Exception as error:
            if type(error).__name__ == "NoSuchOption":  # a class of typer or of click, by their versions
                hint_at_key(str(error.option_name))  # type: ignore[attr-defined]
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        ours = VERBS.get(args[0] if args else "", "").partition(" ")[0]
        if ours in self.commands and args[0] not in self.commands:
            raise RecipeError(
                f"there is no command {args[0]!r}; what other tools call so is tunesmith {VERBS[args[0]]}"
            )
        return super().resolve_command(ctx, args)


def reader_gone() -> NoReturn:
    """`tunesmith runs | head -1`: nobody reads any more, and that is no error. Python would complain at its end."""
    if sys.__stdout__ is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
    sys.exit(READER_GONE)


def hint_at_key(option: str) -> None:
    """RecipeError where an option that no command has is a key of the recipe, here or in another tool."""
    name = option.lstrip("-").replace("-", "_")
    recipe = part("recipe")
    hint = recipe.elsewhere(name)
    if hint:
        raise RecipeError(f"there is no option {option}: {hint} (keys of a recipe are set with --set key=value)")
