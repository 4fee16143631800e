"""The errors a user can cause. Each names the thing, what was found, what was wanted and the way out.

Broken invariants are `assert`; what stands here is shown without a traceback, with exit code 2 (1 for `RunError`).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " Did you mean …?" where one of the known is near to what was found, else nothing."""
    near = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f" Did you mean {near[0]}?" if near else ""


def is_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out: Python's own error, or one of torch's, which has no type of its own."""
    words = ("allocate memory", "not enough memory", "out of memory", "std::bad_alloc")
    return isinstance(error, MemoryError) or any(w in str(error).lower() for w in words)


def of_the_system(error: BaseException) -> OSError | None:
    """The system's own error inside one that safetensors made of it: "I/O error: No space left … (os error 28)"."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


class TunesmithError(Exception):
    """Root of the tree. `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(TunesmithError):
    """Something that the user gave is wrong."""

    exit_code = 2


class RecipeError(InputError):
    """A key or a value of the recipe or of the command line."""


class DataError(InputError):
    """A file, a row, a column, a split."""


class ModelError(InputError):
    """A model, a tokenizer, a chat template, an adapter."""


class PlanError(InputError):
    """A combination that cannot work, found before a model is loaded or an update is made."""


class NoRoom(PlanError):
    """It does not fit in the memory that is free."""


class RunError(TunesmithError):
    """A run could not go on, though its input was right."""


class LostRank(RunError):
    """Another process of the same run is gone, or does not answer."""


class StoreError(RunError):
    """The store of runs cannot be used now; the folders of the runs can."""


class BrokenStore(StoreError):
    """It has to be made anew."""


class EmptyUpdate(RunError):
    """Every unit of an update was masked."""


class NotFinite(RunError):
    """A loss or gradient is NaN or infinite; no parameter was changed. Carries the example ids."""

    def __init__(self, example_ids: tuple[str, ...], update: int | None = None) -> None:
        self.example_ids, self.update = example_ids, update
        shown = ", ".join(example_ids[:5]) + (f" … ({len(example_ids)} in all)" if len(example_ids) > 5 else "")
        which = "an update" if update is None else f"update {update}"
        super().__init__(
            f"loss or gradient of {which} is not finite, and no parameter was changed. It is due to: {shown}. Look at "
            "these rows; --resume --set train.on_nan=skip goes on without such updates. Where every update has them, "
            "it is not the rows: --resume --set train.on_nan=rollback goes back, or start a new run with a lower "
            "train.lr or --set precision=float32"
        )


class Overflow(RunError):
    """Weights left the range of their number format in a step."""

    def __init__(self, update: int, lr: float) -> None:
        super().__init__(
            f"weights are not finite after update {update} with a learning rate of {lr:.2g}. The last checkpoint is "
            "from before; start a new run with a smaller train.lr"
        )


class Interrupted(TunesmithError):
    """Stopped by a signal after the state was saved; the same command with --resume goes on."""

    exit_code = 75


def again(kind: type[TunesmithError], said: str) -> TunesmithError:
    """An error as another process said it, whatever it was made of there."""
    error = kind.__new__(kind)
    error.args = (said,)
    return error
