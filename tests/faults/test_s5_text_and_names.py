"""S5, S6, S7 and S11: YAML, names, archives, addresses and keys, each from somebody else."""

from __future__ import annotations

import ast
import contextlib
import json
import threading
import urllib.error
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from tests.house.source import package
from tests.runs.closed import closed
from tests.runs.mistakes import typed, world

from tunesmith.errors import InputError, RecipeError
from tunesmith.evals.endpoint import Endpoint
from tunesmith.plain_yaml import load_yaml
from tunesmith.recipe import read
from tunesmith.secret import masked

# S5: YAML

RUNS = {  # fire under an unsafe loader
    "apply": "model: !!python/object/apply:os.mkdir [CANARY]",
    "new": "model: !!python/object/new:os.mkdir [CANARY]",
    "a key": "? !!python/object/apply:os.mkdir [CANARY]\n: 1",
    "in a list": "data: {train: [!!python/object/apply:os.makedirs [CANARY]]}",
    "by a tag of its own": "%TAG !p! tag:yaml.org,2002:python/\n---\nmodel: !p!object/apply:os.mkdir [CANARY]",
    "in a set": "model: !!set {? !!python/object/apply:os.mkdir [CANARY]}",
}
PAIRS = list(zip("abcdefghi", "bcdefghij"))
FLOODS = {
    "aliases of aliases": "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in PAIRS),
    "merges of merges": "a: &a {x: 1}\n"
    + "".join(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in PAIRS),
    "a list of itself": "model: &a [*a]",
    "a mapping of itself": "model: &a {b: *a}",
    "a thousand deep": "model: " + "[" * 1000 + "]" * 1000,
    "a thousand deep, never closed": "model: " + "{a: " * 1000,
    "a name that nobody gave": "model: *nobody",
    "a month that is none": "model: 2024-13-45",
    "a number of 5000 digits": "seed: " + "9" * 5000,
    "a tag of nobody": "model: !evil x",
    "two documents": "model: a\n---\nmodel: b\n",
    "a zero byte": "model: a\0b",
    "a tab": "model:\n\t- a",
}


@pytest.mark.parametrize("name", RUNS)
def test_yaml_that_runs_code_is_refused(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "fired"
    text = RUNS[name].replace("CANARY", json.dumps(str(canary)))
    with contextlib.suppress(yaml.YAMLError, TypeError):  # what it makes is no key, say; it ran before that
        yaml.load(text, yaml.UnsafeLoader)
    assert canary.exists(), "the payload must run where nothing stops it"
    canary.rmdir()
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError):
        read(tmp_path / "recipe.yaml", {})
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)
    assert not canary.exists()


@pytest.mark.parametrize("name", FLOODS)
def test_yaml_without_end_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(FLOODS[name])
    with pytest.raises(RecipeError, match=r"recipe\.yaml is not YAML"):
        read(path, {})


def test_mutant_the_safe_loader_alone_lets_a_flood_in() -> None:
    """Nine to the ninth values in 400 characters: small in memory, without end for whoever walks it."""
    num, level = 1, yaml.safe_load(FLOODS["aliases of aliases"])["j"]
    while isinstance(level, list):
        num, level = num * len(level), level[0]
    assert num > 9**9


def test_aliases_that_a_person_writes_are_read() -> None:
    found = load_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]")
    assert found == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]}


# S5: names

NAMES = (
    *("--help/x", "-x/y", "owner/--upload-file", "owner/-o", "-rm", "--", "owner/na me", "owner/a;touch fired"),
    *("$(touch fired)/x", "owner/`touch fired`", "owner/x|y", "../../etc/x", "owner/..", "owner/\n", "a/b/c", ""),
)


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_is_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No option of anything, no command of a shell: a model or a file that is not there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    with closed() as watch:
        for key in ("model", "data.train"):
            value = json.dumps(name if key == "model" else [name])
            said = typed(["plan", "--data", "rows.jsonl", "--set", "model=none/none/none", "--set", f"{key}={value}"])
            assert said.code == 2, said.text
            assert "Traceback" not in said.text
        assert watch.programs == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]


def test_a_file_that_looks_like_an_option_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "--out.yaml").write_text("data: {train: [--resume.jsonl]}\nmodel: none/none/none")
    (tmp_path / "--resume.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    said = typed(["plan", "--", "--out.yaml"])
    assert said.code == 2
    assert "none/none/none is not known" in said.text


# S6: archives


def test_nothing_unpacks_an_archive_by_its_names() -> None:
    """Of a zip one member is read under a name of ours (catalogue), or openpyxl reads it; of a tar nothing. Streams of
    gzip, and their bombs, are in test_r16_bad_data.py."""
    found = []
    for source in package():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
                *("extract", "extractall", "unpack_archive"),
            ):
                found.append(f"{source.path}:{node.lineno}")
            if isinstance(node, ast.Import) and any(a.name == "tarfile" for a in node.names):
                found.append(source.path)
    assert found == []


# S7: addresses

PRIVATE = (
    *("http://169.254.169.254/latest/meta-data", "http://127.0.0.1/x", "http://0x7f000001/x", "http://2130706433/x"),
    *("http://127.1/x", "http://0177.0.0.1/x", "http://[::1]/x", "http://[::ffff:127.0.0.1]/x", "http://localhost./x"),
    *("http://10.0.0.1/x.jsonl", "https://192.168.0.1/x.csv", "file:///etc/passwd", "ftp://127.0.0.1/x.jsonl"),
    *("http://user@127.0.0.1/x.gguf", "s3://bucket/x.parquet", "hf://datasets/x/y.parquet", "gopher://127.0.0.1/x"),
    *("//127.0.0.1/x.jsonl", "http:127.0.0.1/x.jsonl", "https://127.0.0.1.nip.io/x.jsonl"),
)


@pytest.mark.parametrize("address", PRIVATE)
def test_no_address_is_fetched_for_data_or_a_model(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models and data come from files and from the hub by name: an address is neither."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    with closed() as watch:
        for words in (["--data", address], ["--data", "rows.jsonl", "--model", address]):
            said = typed(["plan", *words])
            assert said.code == 2, said.text
        assert watch.reached == []


ELSEWHERE = (
    *("http://0x7f000001/v1", "http://2130706433/v1", "http://127.1/v1", "http://[::ffff:127.0.0.1]/v1"),
    *("http://localhost.evil.example/v1", "http://127.0.0.1.evil.example/v1", "http://evil.example/127.0.0.1/v1"),
    *("http://10.0.0.1/v1", "http://evil.example:80/v1", "http://localhost./v1"),
)


@pytest.mark.parametrize("address", ELSEWHERE)
def test_a_key_goes_unencrypted_to_this_machine_only(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every other spelling it counts as elsewhere, which asks for more and never for less."""
    monkeypatch.setenv("A_KEY", "secret")
    assert not Endpoint(address, "m").is_here
    with pytest.raises(InputError, match="unencrypted"):
        Endpoint(address, "m", api_key_env="A_KEY")


class Heard(BaseHTTPRequestHandler):
    """Answers as an endpoint, or sends on to `elsewhere`; keeps the keys that it was sent."""

    sent: list[str] = []  # noqa: RUF012
    elsewhere = ""

    def do_POST(self) -> None:
        self.sent.append(self.headers.get("Authorization", ""))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        raw = b"" if self.elsewhere else b'{"choices": [{"message": {"content": "yes"}}]}'
        self.send_response(307 if self.elsewhere else 200)
        if self.elsewhere:
            self.send_header("Location", self.elsewhere)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *arguments: object) -> None:
        return


class One(Heard):
    sent: list[str] = []  # noqa: RUF012


class Other(Heard):
    sent: list[str] = []  # noqa: RUF012


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Of two servers on this machine."""
    for handler in (One, Other):
        monkeypatch.setattr(handler, "sent", [])
    servers = [HTTPServer(("127.0.0.1", 0), handler) for handler in (One, Other)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{servers[0].server_port}/v1", f"http://127.0.0.1:{servers[1].server_port}/v1"
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_redirect_carries_no_key(addresses: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    monkeypatch.setattr(One, "elsewhere", f"{addresses[1]}/chat/completions")
    with pytest.raises(urllib.error.HTTPError, match="307"):
        Endpoint(addresses[0], "m", api_key_env="A_KEY").post({}, 20.0)
    assert One.sent == ["Bearer secret"]
    assert Other.sent == []


def test_what_goes_to_this_machine_goes_past_no_proxy(
    addresses: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, addresses[1])
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert Endpoint(addresses[0], "m").post({}, 20.0)
    assert len(One.sent) == 1
    assert Other.sent == [], "texts that were said to stay here went to a proxy"


# S11: keys

BODY = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
TOKENS = {
    "HF_TOKEN": f"hf_{BODY}",
    "HF_ORG": f"api_org_{BODY}",
    "OPENAI_API_KEY": f"sk-{BODY}",
    "OPENAI_PROJECT": f"sk-proj-{BODY}",
    "ANTHROPIC_API_KEY": f"sk-ant-api03-{BODY}",
    "GROQ_API_KEY": f"gsk_{BODY}",
    "GITHUB_TOKEN": f"ghp_{BODY}",
    "GH_TOKEN": f"gho_{BODY}",
    "GITHUB_PAT": f"github_pat_{BODY}",
    "GITLAB_TOKEN": f"glpat-{BODY[:20]}",
    "SLACK_TOKEN": f"xoxb-123456789012-{BODY}",
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SESSION_KEY": "ASIAIOSFODNN7EXAMPLE",
    "GOOGLE_API_KEY": f"AIza{BODY[:35]}",
    "GOOGLE_TOKEN": f"ya29.{BODY}",
    "NPM_TOKEN": f"npm_{BODY}",
    "PYPI_TOKEN": f"pypi-AgEIcHlwaS5vcmc{BODY}",
    "DOCKER_PAT": f"dckr_pat_{BODY[:27]}",
    "SENDGRID_API_KEY": f"SG.{BODY[:22]}.{BODY}",
    "STRIPE_KEY": f"sk_live_{BODY[:24]}",
    "REPLICATE_API_TOKEN": f"r8_{BODY}",
    "A_JWT": f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{BODY}",
    "A_PASSWORD": "https://somebody:hunter2hunter2@host.example/v1",
}


@pytest.mark.parametrize("name", TOKENS)
def test_a_key_in_a_recipe_is_refused_and_not_repeated(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    token = TOKENS[name]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"evals": {"judge": {"api_key": token}}}))
    (tmp_path / "broken.yaml").write_text(f"model: {token}: x")
    commands = (
        ["plan", "recipe.yaml"], ["plan", "--set", f"evals.judge.api_key_env={token}"],
        ["plan", "--set", f"task.instruction=use {token} for this"], ["plan", "--set", f"evals.judge.endpoint={token}"],
        ["plan", "broken.yaml"], ["plan", "--set", f"{token}=1"], ["plan", "--model", token],
        ["evaluate", "x", "--data", token], ["models", "fetch", token], ["chat", token], ["plan", "--data", token],
    )  # fmt: skip
    with closed():
        said = [typed(words) for words in commands]
    secret = token.partition("://")[2].partition("@")[0] or token
    shown = [(words, one.text) for words, one in zip(commands, said) if secret in one.out + one.err]
    assert shown == []
    assert all(one.code == 2 for one in said[:5])


def test_masking_leaves_what_is_no_key() -> None:
    digest = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    for plain in (digest, "runs/first", "sk-learn", "hf_hub", "https://host.example/v1", "a@b", "task.metric is 'x'"):
        assert masked(plain) == plain


def test_a_run_writes_no_key_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lock, plan, logs, checkpoints, report, cards and exports of a whole run, with all of them set. That a key in a
    file is found is the mutant of tests/runs/test_closed_network.py."""
    for name, token in TOKENS.items():
        monkeypatch.setenv(name, token)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    world(tmp_path)
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    found = [(p.name, n) for p in files for n, token in TOKENS.items() if token.encode() in p.read_bytes()]
    assert found == []
    print(f"S11: {len(TOKENS)} keys, {len(files)} files, none found")
