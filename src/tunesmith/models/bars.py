"""Silence for transformers' own progress bars and reports while it reads or writes a model: what is shown is our
caller's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def no_bars() -> Iterator[None]:
    """Without "Loading weights" and "Writing model shards" inside; whoever wanted bars has them again behind it."""
    wanted = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if wanted:
            logging.enable_progress_bar()


@contextmanager
def no_reports() -> Iterator[None]:
    """Without its table of tensors that the files lack: who opens them looks at that list and says it."""
    wanted = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(wanted)
