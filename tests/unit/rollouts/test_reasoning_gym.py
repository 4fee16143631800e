"""Tasks of reasoning-gym by name, and their scorers as a reward. What needs the package is skipped where it is not."""

from __future__ import annotations

import importlib.util
import json
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
from tests.attempts import attempt

from tunesmith.data import ingest
from tunesmith.data.located import files_named, find_splits
from tunesmith.errors import DataError, InputError
from tunesmith.evals import sandbox
from tunesmith.rollouts.rewards import make_reward
from tunesmith.types import Attempt, Task

needs_gym = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="pip install 'tunesmith[gym]'")
NAME = "reasoning-gym/letter_counting?size=4&seed=3&max_words=8"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    return tmp_path


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", lacks)
    with pytest.raises(DataError, match=r"tunesmith\[gym\]"):
        find_splits(NAME)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tunesmith\[gym\]"):
        make_reward([{"kind": "reasoning_gym"}])


def test_a_folder_of_that_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "reasoning-gym" / "mine"
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    assert find_splits("reasoning-gym/mine") == {"train": [Path("reasoning-gym/mine/rows.jsonl")]}


PARROT = """
def of_parrot(answer, entry):
    return 0.5 if answer is None else float(answer == entry["answer"])
def get_score_answer_fn(name):
    return {"parrot": of_parrot}[name]
"""


@pytest.fixture
def parrot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name whose one task wants its answer said again, installed alone."""
    folder = tmp_path / "site" / "reasoning_gym"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(PARROT)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder.parent))
    if sandbox.available():
        monkeypatch.setattr(sandbox, "isolation", lambda *, insist: (False, sandbox.WEAK))


@pytest.mark.parametrize(
    ("keys", "values"),
    [({}, [1, 1, 0, 0]), ({"tag": "a.b"}, [0.5, 0.5, 1, 0])],  # without the tag: no answer
)
@pytest.mark.usefixtures("parrot")
def test_the_scorer_that_the_entry_names_is_told_of_the_answer(keys: dict[str, str], values: list[float]) -> None:
    entry = {"question": "?", "answer": "polly", "metadata": {"source_dataset": "parrot"}}
    reward = make_reward([{"kind": "reasoning_gym", **keys}])
    texts = ["polly", " polly\n", "<a.b>jack</a.b> <a.b> polly\n</a.b>", "<a.b>polly</a.b> <a.b>jack</a.b>"]
    for said in (entry, json.dumps(entry)):  # a column of objects, or of JSON as the rows of this package have it
        assert [g.value for g in reward([attempt(text, entry=said) for text in texts])] == values
    [grade] = reward([attempt("polly", entry={**entry, "metadata": {"source_dataset": "gone"}})])
    assert (grade.value, grade.is_graded) == (0, False)
    assert "KeyError: 'gone'" in grade.why


@needs_gym
def test_rows_are_prompts_with_facts_and_are_made_once(cache: Path) -> None:
    [path] = files_named(NAME)
    stamp = path.stat().st_mtime_ns
    assert files_named(NAME) == [path]
    assert path.stat().st_mtime_ns == stamp
    assert path.is_relative_to(cache)
    assert files_named(NAME.replace("seed=3", "seed=4")) != [path]
    found = ingest.read([path], None).examples
    assert len(found) == 4
    assert all(isinstance(e.target, Task) and set(e.target.facts) == {"answer", "entry"} for e in found)
    assert all(e.prompt[0].content.startswith("How many times") for e in found)


@needs_gym
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("reasoning-gym/letter_count", "Did you mean letter_counting"),
        ("reasoning-gym/chain_sum?min_terms=9", "max_terms must be >= min_terms"),
        ("reasoning-gym/chain_sum?foo=9", "foo"),
        ("reasoning-gym/", "wanted reasoning-gym/TASK"),
    ],
)
def test_what_cannot_be_made_is_said(name: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        files_named(name)


@needs_gym
def test_the_tasks_own_scorer_grades(tmp_path: Path) -> None:
    [path] = files_named("reasoning-gym/countdown?size=2")
    found = ingest.read([path], None).examples
    example, other = found
    right, wrong = (json.loads(e.target.facts["entry"])["answer"] for e in (example, other))  # type: ignore[union-attr]
    canary = tmp_path / "canary"
    texts = [right, wrong, "I do not know", f"__import__('pathlib').Path({str(canary)!r}).touch()"]
    values = [g.value for g in make_reward([{"kind": "reasoning_gym"}])([Attempt(example, t, True, 1) for t in texts])]
    assert values[0] == 1
    assert max(values[1:]) < 0.1
    assert not canary.exists()
    tagged = make_reward([{"kind": "reasoning_gym", "tag": "answer"}])
    texts = [f"Let me see. <answer>{right}</answer>", right, f"<answer>{wrong}</answer> or {right}"]
    values = [g.value for g in tagged([Attempt(example, t, True, 1) for t in texts])]
    assert values[0] == 1
    assert max(values[1:]) < 0.1
