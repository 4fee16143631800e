"""Every command, typed once on a tiny model, with the network closed and a token in the environment.

Three promises are held against the same session: your data stays on this machine, the token is written nowhere, and
with --json standard output is one JSON document.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.house.test_docs import command_tree, leaves
from tests.runs import tiny_runs
from tests.runs.closed import Watch, closed
from tests.runs.mistakes import Said, typed

from tunesmith import NO_TELEMETRY
from tunesmith.files import publish_folder
from tunesmith.models.catalogue import EMBEDDED, converted_folder

CANARY = "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"
RUN = "runs/first"

# Command -> the words that it is typed with; the order is that of a session.
SESSION: dict[str, str] = {
    "init": "init rows.csv --model model --out proposed.yaml --json",
    "audit": "audit recipe.yaml --json",
    "plan": "plan recipe.yaml --json",
    "sweep": "sweep recipe.yaml --trials 1 --try rank=2,4 --out search --json",
    "curve": "curve recipe.yaml --set train.max_updates=null --set train.epochs=1 --budget 5m --out curve --json",
    "run": f"run recipe.yaml --out {RUN} --json",
    "train": "train recipe.yaml --out runs/trained --json",
    "predict": f"predict {RUN} rows.csv answers.csv --json",
    "report": f"report {RUN} --json",
    "evaluate": f"evaluate {RUN} --cases 5 --out checked --json",
    "distil": f"distil {RUN} --data rows.csv --cases 4 --out taught.jsonl --json",
    "prefer": "prefer rows.csv --model model --reward chars.yaml --max-tokens 512 --n 8 --cases 4 --out p.jsonl --json",
    "select": "select rows.csv --keep 5 --by diversity --model model --out chosen.jsonl --json",
    "ask": f"ask pool.csv --model {RUN} --num 4 --sheet to_label.csv --json",
    "synthesise": "synthesise rows.csv --kind paraphrase --model model --num 1 --requests 8 --max-tokens 512 "
    "--temperature 1 --out more.jsonl --json",
    "explain": f"explain {RUN} --json",
    "judge": f"judge {RUN} --sheet choices.csv --cases 5 --json",
    "gate": f"gate {RUN} --set gates.effect=-1 --json",
    "verify": f"verify {RUN} --json",
    "reproduce": f"reproduce {RUN} --json",
    "export": f"export {RUN} --to merged --out merged --json",
    "next": f"next {RUN} --json",
    "runs": "runs --json",
    "runs rebuild": "runs rebuild --json",
    "runs check": "runs check --json",
    "compare": f"compare {RUN} {RUN}_again --json",
    "doctor": "doctor --json",
    "import": "import axolotl.yml --json",
    "grade": "grade grader.json outputs.jsonl --json",
    "schema": "schema",
    "models": "models --recipe recipe.yaml --candidates model --cases 12 --shots 2 --json",
    "models list": "models list --json",
    "models fetch": "models fetch smollm2-135m-instruct --json",
    "models resize": "models resize model --token <new> --out grown --json",
}
# Commands that print no facts, or are the same as another.
OTHERS = {
    "chat": "a conversation; what it does is in tests/runs/test_chat.py",
    "serve": "runs until it is stopped; tests/runs/test_serve.py asks it",
    "completion": "prints a script for a shell",
    "quickstart": "prints as `run` does; takes minutes",
}


@dataclass
class Session:
    folder: Path
    said: dict[str, Said]
    failed: Said  # of a command that was refused
    watch: Watch


def commands() -> dict[str, Any]:
    """Name -> command of everything that can be typed, `models` alone too."""
    found = {" ".join(words): command for words, command in leaves(command_tree())}
    groups = {name: c for name, c in command_tree().commands.items() if getattr(c, "invoke_without_command", False)}
    return found | groups


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("session")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
            patch.delenv(name, raising=False)
        patch.setenv("HF_TOKEN", CANARY)
        patch.setenv("TUNESMITH_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        prepare(folder)
        with closed() as watch:
            said = {}
            for name, words in SESSION.items():
                if name == "compare":
                    shutil.copytree(RUN, f"{RUN}_again")
                said[name] = typed(words.split())
            failed = typed(f"run recipe.yaml --out {RUN}_failed --set data.columns.label=no_such --json".split())
            reached = Watch(reached=list(watch.reached), programs=list(watch.programs))
        yield Session(folder, said, failed, reached)


def prepare(folder: Path) -> None:
    model = tiny_runs.model_folder(folder / "model")
    publish_as_embedded(model)
    rows = [json.loads(line) for line in tiny_runs.labelled_file(folder / "rows.jsonl").read_text().splitlines()]
    (folder / "rows.csv").write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows))
    recipe = tiny_runs.settings(Path("model"), Path("rows.csv"), max_updates=2)
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    grader = {"type": "string_check", "name": "same", "operation": "eq"}
    grader |= {"input": "{{ sample.output_text }}", "reference": "{{ item.answer }}"}
    (folder / "grader.json").write_text(json.dumps(grader))
    (folder / "outputs.jsonl").write_text('{"answer": "4", "output": "4"}\n{"answer": "5", "output": "4"}\n')
    chars = [{"kind": "expression", "expression": "num_chars / 40", "name": "chars"}]
    (folder / "chars.yaml").write_text(json.dumps({"reward": chars}))
    (folder / "pool.csv").write_text("text\n" + "".join(f"is the fox {k} sold\n" for k in range(9)))
    (folder / "axolotl.yml").write_text("base_model: owner/model\nnum_epochs: 3\n")


def publish_as_embedded(model: Path) -> None:
    """The tiny model under the embedded one's name: fetching finds it here."""
    final = converted_folder(EMBEDDED["smollm2-135m-instruct"])
    publish_folder(lambda out: shutil.copytree(model, out, dirs_exist_ok=True), final)


def test_every_command_is_typed_or_named_as_another() -> None:
    missing = sorted(set(commands()) - set(SESSION) - set(OTHERS))
    assert missing == [], f"add a row to SESSION (with --json) or to OTHERS (with the reason) for {missing}"


def test_every_command_that_prints_facts_has_json() -> None:
    without = [
        name
        for name, command in commands().items()
        if name not in OTHERS and name != "schema" and not any("--json" in p.opts for p in command.params)
    ]
    assert without == []


@pytest.mark.parametrize("name", SESSION)
def test_standard_output_is_one_json_document(session: Session, name: str) -> None:
    said = session.said[name]
    assert said.code == 0, said.text
    json.loads(said.out)  # raises at anything before or behind the document


def test_what_goes_wrong_leaves_standard_output_empty(session: Session) -> None:
    assert (session.failed.code, session.failed.out) == (2, "")


def test_no_command_reaches_for_the_network(session: Session) -> None:
    assert session.watch.reached == []
    assert [p for p in session.watch.programs if Path(p).name in ("pip", "curl", "wget", "git", "ssh")] == []


def test_no_package_reports_that_it_was_used() -> None:
    """huggingface_hub reads the switch once, when it is imported: a process of its own."""
    code = "import tunesmith.models.load, huggingface_hub.constants as c; print(c.HF_HUB_DISABLE_TELEMETRY)"
    without = {k: v for k, v in os.environ.items() if k not in NO_TELEMETRY}
    done = subprocess.run([sys.executable, "-c", code], env=without, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_mutant_the_guard_sees_who_reaches_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with closed() as watch:
        for reach in (
            lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
            lambda: urllib.request.urlopen("http://example.invalid/x", timeout=1),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
        ):
            with pytest.raises(OSError, match="network is closed"):
                reach()
        assert len(watch.reached) >= 3
        with socket.create_server(("127.0.0.1", 0)) as here:  # this machine's own addresses are no network
            socket.create_connection(here.getsockname()).close()


def test_mutant_a_hub_name_is_what_reaches_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one thing in a recipe that asks a network: the guard sees it, and the message says what to do."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with closed() as watch:
        said = typed(["models", "fetch", "owner/no-such-model"])
        assert said.code == 2
        assert "Check the network" in said.text
        assert watch.reached


def written_in(folder: Path, secret: str) -> list[str]:
    """Files that hold it, in their bytes or in their names."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return [str(p) for p in files if secret.encode() in p.read_bytes() or secret in p.name]


def test_the_token_is_written_nowhere(session: Session) -> None:
    assert os.environ.get("HF_TOKEN") == CANARY  # it was there to be written
    assert written_in(session.folder, CANARY) == []
    said = session.said | {"failed": session.failed}
    assert [name for name, one in said.items() if CANARY in one.out + one.err] == []


def test_mutant_a_token_in_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"environment": {"HF_TOKEN": CANARY}}))
    assert len(written_in(tmp_path, CANARY)) == 1


class Hub(BaseHTTPRequestHandler):
    """A hub on this machine that refuses everybody, and keeps what it was sent."""

    sent: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.sent.append(self.headers.get("Authorization", ""))
        self.send_response(401)
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        return


def test_the_token_goes_to_the_hub_and_into_no_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.chdir(tmp_path)
    said = typed(["models", "fetch", "owner/gated-model"])
    server.shutdown()
    assert f"Bearer {CANARY}" in Hub.sent
    assert said.code == 2
    assert "HF_TOKEN" in said.text
    assert CANARY not in said.out + said.err
    assert written_in(tmp_path, CANARY) == []


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "owner/model"])
def test_a_switch_keeps_the_network_away(
    switch: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(switch, "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read once, when it was imported
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    with closed() as watch:
        said = typed(["models", "fetch", name])
        assert (watch.reached, watch.programs) == ([], [])
    assert said.code == 2
    assert switch in said.text
    assert "unset it" in said.text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("models --cases 5", "--cases is about ranking"),
        ("models --for rows.csv --recipe recipe.yaml", "both name the data"),
        ("models --recipe recipe.yaml --target label", "--target goes with --for"),
        ("models --json list", "not before list"),
        ("models --for rows.csv --candidates owner/unknown", "tunesmith models fetch owner/unknown"),
    ],
)
def test_what_nothing_would_read_is_refused(words: str, says: str, session: Session) -> None:
    said = typed(words.split())
    assert said.code == 2
    assert says in said.text
