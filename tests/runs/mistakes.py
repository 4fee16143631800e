"""Where mistakes are made: a tiny model, rows, a finished run, and the command line in this process."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file
from tests.runs import tiny_runs

from tunesmith.cli.main import main

Setup = Callable[[Path], object]  # of the folder in which the command is typed


@dataclass(frozen=True)
class Mistake:
    """`words` behind `tunesmith`; `says`: pieces of the message, white space aside."""

    name: str
    words: str
    says: tuple[str, ...]
    setup: Setup = lambda folder: None
    code: int = 2
    environ: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both streams, with the frames and breaks of a terminal taken out."""
        return " ".join((self.err + " " + self.out).replace("│", " ").replace("\x1b", "").split())


def typed(words: list[str], stdin: str = "") -> Said:
    """What `tunesmith WORDS` prints and returns, in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        mock.patch.object(sys, "argv", ["tunesmith", *words]),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as left:
            code = left.code
    assert isinstance(code, int) or code is None
    return Said(code or 0, out.getvalue(), err.getvalue())


def world(folder: Path) -> Path:
    """model/, rows.jsonl, replies.jsonl, and run/, a finished run on the rows."""
    tiny_runs.model_folder(folder / "model")
    tiny_runs.labelled_file(folder / "rows.jsonl")
    tiny_runs.reply_file(folder / "replies.jsonl")
    recipe = tiny_runs.settings(Path("model"), Path("rows.jsonl"), max_updates=2)
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    here = Path.cwd()
    os.chdir(folder)
    try:
        done = typed(["run", "recipe.yaml", "--out", "run", "--json"])
    finally:
        os.chdir(here)
    assert done.code == 0, done.text
    return folder


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


def text(name: str, content: str) -> Setup:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def raw(name: str, content: bytes) -> Setup:
    return lambda folder: (folder / name).write_bytes(content)


def gone(*names: str) -> Setup:
    def remove(folder: Path) -> None:
        for name in names:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return remove


def cut(name: str, share: float = 0.5) -> Setup:
    """The file as a copy that was broken off leaves it."""

    def half(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(share * len(whole))])

    return half


def rows_of(name: str, *rows: dict[str, object]) -> Setup:
    return text(name, "".join(json.dumps(row) + "\n" for row in rows))


def half_workbook(folder: Path) -> None:
    book = openpyxl.Workbook()
    for i in range(50):
        book.active.append([f"prompt {i}", f"completion {i}"])
    book.save(folder / "r.xlsx")
    cut("r.xlsx")(folder)


def half_table(folder: Path) -> None:
    pq.write_table(pa.table({"text": ["a fox", "a dog"] * 20, "label": ["fox", "dog"] * 20}), folder / "r.parquet")
    cut("r.parquet")(folder)


def unfinished(folder: Path) -> None:
    """The run as it is left before its exports."""
    for name in ("verdict.json", "export.json"):
        (folder / "run" / name).unlink()
    for name in ("adapter", "merged"):
        shutil.rmtree(folder / "run" / name)


def other_base(folder: Path) -> None:
    """The model's folder with other weights in it."""
    path = folder / "model" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] = weights["model.norm.weight"] + 0.5
    save_file(weights, path, metadata={"format": "pt"})


def replaced(name: str, old: str, new: str) -> Setup:
    def replace(folder: Path) -> None:
        (folder / name).write_text((folder / name).read_text(encoding="utf-8").replace(old, new), encoding="utf-8")

    return replace


def folder(name: str) -> Setup:
    return lambda here: (here / name).mkdir()


def changed(name: str, **keys: object) -> Setup:
    """Other values in a file of JSON."""

    def change(folder: Path) -> None:
        facts = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(facts | keys), encoding="utf-8")

    return change


def both(*setups: Setup) -> Setup:
    return lambda folder: [setup(folder) for setup in setups]
