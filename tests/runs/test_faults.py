"""What is nobody's typing error: Ctrl-C at any moment, a full disk, no memory, a reader that went away, and a fault of
tunesmith itself."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.runs.mistakes import Said, changed, copied, typed, unfinished, world

from tunesmith.cli import faults
from tunesmith.cli.screen import Screen
from tunesmith.errors import InputError
from tunesmith.recipe import read
from tunesmith.resumed import refuse_other_recipe

COMMAND = [sys.executable, "-m", "tunesmith.cli.main"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(copied(made, tmp_path))
    return tmp_path


def stopped_at(text: str, words: str, monkeypatch: pytest.MonkeyPatch) -> Said:
    """Ctrl-C, a real signal, when the screen is told of this for the first time."""
    plain_step, plain_stage = Screen.step, Screen.stage
    sent: list[str] = []

    def hit(said: str) -> None:
        if text in said and not sent:
            sent.append(said)
            signal.raise_signal(signal.SIGINT)

    def step(self: Screen, done: int, total: int, said: str) -> None:
        plain_step(self, done, total, said)
        hit(said)

    def stage(self: Screen, name: str, budget_s: float | None) -> None:
        plain_stage(self, name, budget_s)
        hit(name)

    with monkeypatch.context() as patch:
        patch.setattr(Screen, "step", step)
        patch.setattr(Screen, "stage", stage)
        said = typed(shlex.split(words))
    assert sent, f"{text!r} was never said"
    assert "Traceback" not in said.text
    return said


@pytest.mark.parametrize("moment", ["base on dev", "updates", "tuned on the held-out", "adapter merged"])
def test_ctrl_c_in_a_run_names_the_command_that_ends_it(
    moment: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = stopped_at(moment, "run recipe.yaml --out new --json", monkeypatch)
    assert said.code == 75, said.text
    assert said.out == ""
    last = said.err.strip().splitlines()[-1].strip()
    assert last == "tunesmith run --out new --resume --json"
    assert not list((here / "new").rglob(".partial*"))
    ended = typed(shlex.split(last)[1:])
    assert ended.code == 0, ended.text
    assert (here / "new" / "verdict.json").is_file()


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("opening run", "export run --to merged --out other"),
        ("writing and comparing", "export run --to gguf --out other"),
        ("model loaded", "run recipe.yaml --out new"),
    ],
)
def test_ctrl_c_before_there_is_something_to_keep(
    moment: str, words: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = stopped_at(moment, words, monkeypatch)
    assert said.code == 75, said.text
    assert "tunesmith run --out new --resume" in said.text or "the same command starts again" in said.text
    assert not (here / "other").exists()
    assert not list(here.rglob(".partial*"))


def test_a_reader_that_goes_away_is_no_error(here: Path) -> None:
    """`tunesmith runs | head -1`: 141, as of other programs, and nothing on the screen."""
    process = subprocess.Popen(
        [*COMMAND, "runs", "."], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert said == ""


def test_ctrl_c_while_python_comes_up(here: Path) -> None:
    code = "import tunesmith.cli; raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=here)
    assert done.returncode != 0
    assert done.stderr == "stopped before it began\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_while_a_run_writes(here: Path) -> None:
    """The kernel's own ENOSPC in the middle of training; with room again, the run ends."""
    unfinished(here)
    shutil.rmtree(here / "run" / "checkpoints")
    metrics = here / "run" / "metrics.jsonl"
    metrics.unlink()
    metrics.symlink_to("/dev/full")
    said = typed(["run", "--resume", "--out", "run"])
    assert said.code == 1, said.text
    assert "error: the disk is full" in said.text
    assert "df -h" in said.text
    assert "goes on with --resume" in said.text
    assert "Traceback" not in said.text
    assert not list(here.rglob(".partial*"))
    metrics.unlink()
    ended = typed(["run", "--resume", "--out", "run"])
    assert ended.code == 0, ended.text


def test_too_little_disk_is_said_before_anything_is_done(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))  # type: ignore[attr-defined]
    for words in ("run recipe.yaml --out new", "export run --to merged --out other", "export run --to gguf"):
        said = typed(shlex.split(words))
        assert said.code == 2, said.text
        assert "error: too little disk" in said.text
        assert "0.0 MiB are free there. Make room, or" in said.text
    assert not (here / "new").exists()
    assert not (here / "other").exists()
    assert not list(here.rglob("*.gguf"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(here: Path) -> None:
    (here / "locked").mkdir(mode=0o500)
    said = typed(["run", "recipe.yaml", "--out", "locked/new"])
    assert said.code == 2, said.text
    assert "locked/new: permission denied" in said.text


def test_errors_of_the_machine_have_words_of_their_own() -> None:
    with pytest.raises(RuntimeError) as torch_says:
        torch.empty(2**60)
    for error in (torch_says.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        message, code = faults.told(error)
        assert (code, "train.micro_tokens" in message, "--resume" in message) == (1, True, True), message
    for number, code, words in (
        (errno.ENOSPC, 1, "the disk is full: x.json could not be written"),
        (errno.EACCES, 2, "x.json: permission denied"),
        (errno.EROFS, 2, "x.json: read-only file system"),
        (errno.EISDIR, 2, "x.json: is a directory"),
        (errno.EIO, 1, "x.json: input/output error: the disk"),
    ):
        message, found = faults.told(OSError(number, os.strerror(number), "x.json"))
        assert found == code
        assert message.startswith(words), message
    message, code = faults.told(ModuleNotFoundError("No module named 'sacrebleu'", name="sacrebleu"))
    assert code == 1
    assert "tunesmith doctor" in message


def broken(*args: Any, **kwargs: Any) -> None:
    raise KeyError("an odd\nthing")


def test_a_fault_of_ours_is_one_message_and_a_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the run's folder where there is one; the file has the command, the versions and the whole traceback."""
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    monkeypatch.setattr("tunesmith.plan.lock", broken)
    monkeypatch.setattr("tunesmith.runs.find", broken)
    for words, folder in (("run recipe.yaml --out new", here / "new"), ("runs .", here)):
        said = typed(shlex.split(words))
        assert said.code == 1, said.text
        assert said.err.count("error: this is a fault of tunesmith, not yours: KeyError: ") == 1
        assert "report it" in said.text
        assert "Traceback" not in said.text
        [kept] = folder.glob("tunesmith_error_*.txt")
        assert str(kept) in "".join(said.err.split("\n")) or str(kept.relative_to(here)) in said.err
        story = kept.read_text(encoding="utf-8")
        assert f"command: {shlex.split(words)}" in story
        assert "Traceback (most recent call last)" in story
        assert f"torch {torch.__version__}" in story


def test_debug_shows_the_traceback(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_DEBUG", "1")
    said = typed(["plan", "--model", "gpt-5", "--data", "rows.jsonl"])
    assert said.code == 2
    assert "Traceback (most recent call last)" in said.text
    assert "error: model gpt-5 is not known" in said.text


def test_export_and_trackers_may_change_on_a_resume(here: Path) -> None:
    unfinished(here)
    said = typed(["run", "recipe.yaml", "--resume", "--out", "run", "--set", "export=[adapter]"])
    assert said.code == 0, said.text
    assert not (here / "run" / "merged").exists()


def test_a_run_that_ended_for_its_numbers_may_go_on_without_them(here: Path) -> None:
    """`abort` did what `skip` does, until it ended the run; not the other way round."""
    path = here / "run" / "recipe.yaml"
    aborts, _ = read(path, {})
    skips = replace(aborts, train=replace(aborts.train, on_nan="skip"))
    refuse_other_recipe(skips, here / "run")
    settings = yaml.safe_load(path.read_text())
    settings["train"]["on_nan"] = "skip"
    path.write_text(yaml.safe_dump(settings))
    refuse_other_recipe(skips, here / "run")
    with pytest.raises(InputError, match=r"train.on_nan changed since then .* was 'skip' and is 'abort' now"):
        refuse_other_recipe(aborts, here / "run")


def test_mutant_without_the_check_half_a_model_would_be_tuned(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers makes up the layers that are missing, and a plan would be made of them."""
    changed("model/config.json", num_hidden_layers=4)(here)
    assert typed(["plan", "recipe.yaml"]).code == 2
    monkeypatch.setattr("tunesmith.models.load.refuse_half", lambda *found: None)
    assert typed(["plan", "recipe.yaml"]).code == 0


def test_mutant_an_error_that_is_swallowed_is_found(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that ended in silence would pass for a run that is done."""
    monkeypatch.setattr("tunesmith.plan.lock", broken)
    monkeypatch.setattr(faults, "own_fault", lambda error, folder: "")
    assert typed(["run", "recipe.yaml", "--out", "new"]).code == 1
