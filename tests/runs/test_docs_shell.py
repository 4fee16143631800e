"""Every block of README and docs runs, page by page, with a tiny model under the name of the embedded one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.house.source import ROOT
from tests.runs import pages, tiny_runs
from tests.runs.mistakes import copied, typed

from tunesmith.errors import RecipeError
from tunesmith.files import publish_folder
from tunesmith.models.catalogue import EMBEDDED, converted_folder

PAGES = sorted(["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))])

# What does not run here: (what a line begins with, why). A line that is neither run nor named here fails its page,
# and so does a row here that no page needs.
NOT_RUN = (
    ("git clone", "needs a network and the address of this repository"),
    ("cd tunesmith", "into the clone, which is not there"),
    ("python3 -m venv", "makes an environment; the tests run in one"),
    ("source", "enters an environment; the tests run in one"),
    ("pip install", "installs; the tests run on what is installed"),
    ("powershell:", "PowerShell is not on the machines of the tests"),
    ("make", "installs and runs the whole project; CI is made of the same targets"),
    ("ollama", "a program of its own, not on the machines of the tests"),
    ("llama-cli", "a program of its own; its library opens every export in tests/runs/test_export.py"),
    ("vllm", "needs a GPU"),
    ("export VLLM_ALLOW_RUNTIME_LORA_UPDATING", "is for the server, which needs a GPU"),
    ("curl", "asks a server; tests/runs/test_serve.py asks the same of a real one"),
    ("from openai import OpenAI", "asks a server; tests/runs/test_serve.py asks the same with the same client"),
    ("from datasets import", "a library that is not installed here; what it wrote was compared by hand"),
    ("import ray", "wants a cluster"),
    ("from datatrove", "a library that is not installed here"),
    ("tunesmith serve", "runs until Ctrl-C; tests/runs/test_serve.py starts it and asks it"),
    ("tunesmith evaluate runs/first --against https", "asks a service elsewhere; tests ask one on this machine"),
    (
        "tunesmith prefer prompts.jsonl --model smollm2-135m-instruct --judge",
        "asks a judge; test_prefer_command.py asks one",
    ),
    (
        "tunesmith synthesise recipe.yaml --kind paraphrase",
        "asks a model elsewhere; test_synthesise_command.py asks one",
    ),
    ("tunesmith audit --data letters.jsonl --toxicity", "asks a classifier; test_encoders.py asks a run and a folder"),
    ("tunesmith export runs/quickstart --to merged --push", "would send a model to the hub"),
    ("export HF_HUB_OFFLINE", "would stay for the other pages; it is set for all of them here"),
    ("eval", "changes the shell that one sits at; tests/unit/test_schema.py runs the scripts in bash"),
)

Given = Callable[[Path, Path], object]  # (folder of the page, a finished run on labels and one on replies)


def both(*given: Given) -> Given:
    return lambda folder, runs: [each(folder, runs) for each in given]


def run_at(place: str, kind: str) -> Given:
    """A finished run stands where the page says that one is."""
    return lambda folder, runs: copied(runs / kind, folder / place)


GIVEN: dict[str, Given] = {
    "docs/methods/distillation.md": run_at("runs/first", "labels"),
    "docs/methods/iterations.md": run_at("runs/first", "labels"),
    "docs/evaluate.md": run_at("runs/first", "labels"),
    "docs/explain.md": run_at("runs/quickstart", "replies"),
    "docs/verify.md": run_at("runs/quickstart", "replies"),
    "docs/export.md": run_at("runs/quickstart", "replies"),
    "docs/gates.md": run_at("runs/quickstart", "labels"),
    "docs/guides/laptop.md": run_at("runs/quickstart", "replies"),
    "docs/guides/review.md": both(run_at("runs/first", "labels"), run_at("runs/second", "labels")),
    "docs/next.md": run_at("runs/quickstart", "labels"),
    "docs/judge.md": run_at("runs/quickstart", "replies"),
    "docs/ask.md": run_at("runs/first", "labels"),
    "docs/predict.md": run_at("runs/tickets", "labels"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, labels/ and replies/: the last two are finished runs of the first."""
    folder = tmp_path_factory.mktemp("world")
    tiny_runs.model_folder(folder / "model")
    for kind, make in (("labels", tiny_runs.labelled_file), ("replies", tiny_runs.reply_file)):
        data = folder / "data" / kind
        data.mkdir(parents=True)
        rows = make(data / "rows.jsonl", 150).read_text().splitlines(keepends=True)
        (data / "rows.jsonl").unlink()
        for name, part in (("train", rows[:108]), ("dev", rows[108:138]), ("test", rows[138:])):
            (data / f"{name}.jsonl").write_text("".join(part))
        words = ["run", "--model", str(folder / "model"), "--data", str(data), "--out", str(folder / kind)]
        said = typed(pages.shrunk(words))
        assert said.code == 0, said.text
    return folder


@pytest.fixture(scope="module", autouse=True)
def embedded(tmp_path_factory: pytest.TempPathFactory, runs: Path) -> None:
    """The cache holds the tiny model under the name and digest of the embedded one: nothing is fetched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        for entry in EMBEDDED.values():
            publish_folder(
                lambda out: shutil.copytree(runs / "model", out, dirs_exist_ok=True), converted_folder(entry)
            )
        yield


def read(path: str, folder: Path, runs: Path) -> pages.Done:
    shutil.copytree(ROOT / "examples", folder / "examples")
    if path in GIVEN:
        GIVEN[path](folder, runs)
    return pages.Reader(folder, NOT_RUN).read((ROOT / path).read_text(encoding="utf-8"), path)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_does_what_it_shows(path: str, tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read(path, tmp_path, runs)


def powershell(path: str) -> list[str]:
    found = pages.blocks((ROOT / path).read_text(encoding="utf-8"))
    return [line for block in found if block.language == "powershell" for line in block.body.splitlines()]


def test_nothing_is_listed_that_no_page_shows() -> None:
    shown = [
        line.strip()
        for path in PAGES
        for block in pages.blocks((ROOT / path).read_text(encoding="utf-8"))
        for line in block.body.splitlines()
    ]
    shown += [f"powershell: {text}" for path in PAGES for text in powershell(path)]
    assert [start for start, _ in NOT_RUN if not any(line.startswith(start) for line in shown)] == []
    assert set(GIVEN) <= set(PAGES)


GOOD = """
```csv file=rows.csv
text,label
%s
```
```sh
tunesmith audit --data rows.csv --set data.columns.label=label --set data.test_frac=0.4
```
"""
GOOD %= "\n".join(f"animal {i},{('fox', 'dog')[i % 2]}" for i in range(40))
MUTANTS = {
    "an option that is none": ("--data rows.csv", "--date rows.csv"),
    "a file that is not there": ("--data rows.csv", "--data rosw.csv"),
    "a column of another name": ("text,label", "text,kind"),
    "a key that is none": ("data.columns.label", "data.columns.lable"),
    "a program that is not listed": ("tunesmith audit", "tunesmiht audit"),
    "a block without a language": ("```sh", "```"),
    "an indented block": ("```csv", "\n    tunesmith doctor\n\n```csv"),
    "an exit code": ("data.test_frac=0.4", "data.test_frac=0.4  # exit code 2"),
    "a recipe": ("```csv", "```yaml\ntrain: {epoch: 3}\n```\n```csv"),
    "Python": ("```csv", "```python\nassert 1 == 2, 'no'\n```\n```csv"),
}


def test_a_good_page_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(pages.Reader(tmp_path).read(GOOD, "page").ran) == 1


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_page_is_found(mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert MUTANTS[mutant][0] in GOOD
    with pytest.raises((pages.Broken, AssertionError, RecipeError)):
        pages.Reader(tmp_path).read(GOOD.replace(*MUTANTS[mutant]), "page")


def test_pipes_redirections_and_comments() -> None:
    body = "# first\necho 'a | b' | tunesmith chat x > out.txt  # exit code 2: why\ntunesmith run \\\n  r.yaml\n"
    first, second = map(pages.step_of, pages.lines(body))
    assert (first.words, first.piped, first.into) == (("tunesmith", "chat", "x"), "echo 'a | b'", "out.txt")
    assert (first.code, second.code) == (2, 0)
    assert second.words == ("tunesmith", "run", "r.yaml")
    with pytest.raises(pages.Broken, match="one command a line"):
        pages.step_of("tunesmith doctor && tunesmith runs")
