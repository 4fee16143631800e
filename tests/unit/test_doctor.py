"""Findings about a machine that is made up at the edges: environment, folders, what is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from tests.house.source import ROOT
from typer.testing import CliRunner

from tunesmith import doctor
from tunesmith.cli.main import app
from tunesmith.models.catalogue import EMBEDDED, converted_folder

SECRET = "hf_neverToBeShown"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def by_topic(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {f.topic: f for f in findings}


def test_every_finding_that_is_not_ok_says_what_to_type(cache: Path) -> None:
    found = doctor.examine()
    assert {f.state for f in found} <= {"ok", "slow", "broken"}
    assert all(f.advice for f in found if f.state != "ok")
    assert {"Python", "torch", "transformers", "CPU", "threads", "memory", "GPU", "cache", "this folder", "network",
            "HF_TOKEN", "extras", "smollm2-135m-instruct"} <= {f.topic for f in found}  # fmt: skip


def test_a_token_is_never_shown(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for words in (["doctor"], ["doctor", "--json"]):
        done = CliRunner().invoke(app, words)
        assert SECRET not in done.output
        assert "HF_HUB_OFFLINE" in done.output
    assert by_topic(doctor.examine())["HF_TOKEN"].found == "set"


def test_a_cache_that_was_changed_is_broken(cache: Path) -> None:
    entry = EMBEDDED["smollm2-135m-instruct"]
    assert doctor.embedded(entry.name, entry).state == "ok"  # not here yet is no fault
    folder = converted_folder(entry)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"half")
    (folder / "manifest.json").write_text(json.dumps({"model.safetensors": "0" * 64}))
    found = doctor.embedded(entry.name, entry)
    assert found.state == "broken"
    assert "model.safetensors" in found.found
    assert found.advice == "tunesmith models fetch smollm2-135m-instruct"
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert (done.exit_code, json.loads(done.output)["broken"]) == (1, 1)


def test_a_download_that_was_cut_off_is_told(cache: Path) -> None:
    blobs = cache / "hf" / "hub" / "models--acme--small" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.incomplete").write_bytes(b"x")
    found = by_topic(list(doctor.models()))["hub cache"]
    assert (found.state, found.advice) == ("slow", "tunesmith models fetch acme/small")


def test_packages_against_what_is_wanted() -> None:
    (missing,) = doctor.package(Requirement("no-such-package-here>=3"))
    assert (missing.state, missing.advice) == ("broken", "pip install 'no-such-package-here>=3'")
    (older,) = doctor.package(Requirement("torch>=999"))
    assert older.state == "broken"
    assert "pip install -U" in older.advice
    (fine,) = doctor.package(Requirement("torch>=2"))
    assert fine.state == "ok"


def test_newer_than_tested_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.TESTED, "torch", "2.0.0")
    (found,) = doctor.package(Requirement("torch>=2"))
    assert found.state == "slow"
    assert "torch==2.0.0" in found.advice


def test_the_tested_set_is_that_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    assert {name: pinned[name] for name in doctor.TESTED} == doctor.TESTED
    low = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split('requires-python = ">=')[1].split('"')[0]
    assert Version(low) == doctor.PYTHON[0]


def test_a_place_that_cannot_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "file").write_text("")
    assert not doctor.is_writable(cache / "file")  # no folder
    assert doctor.is_writable(cache)
    monkeypatch.setattr(doctor, "LEAST_DISK_GIB", 1e9)
    assert {f.state for f in doctor.places()} == {"slow"}


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "allowed_cores", lambda: 1)
    monkeypatch.setattr(doctor.torch, "get_num_threads", lambda: 4)
    assert by_topic(list(doctor.processor()))["threads"].advice == "export OMP_NUM_THREADS=1"
    monkeypatch.setattr(doctor, "allowed_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert by_topic(list(doctor.processor()))["threads"].advice == "unset OMP_NUM_THREADS"
