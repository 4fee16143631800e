"""A longer context in a whole run: what is measured, what leaves with it, and that a resume, verify and the next run
keep it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tests.runs import tiny_runs
from tests.runs.test_run import StopAfter

from tunesmith import long_context
from tunesmith.build import compute, load_base, material
from tunesmith.engine.session import Session
from tunesmith.errors import Interrupted, PlanError
from tunesmith.evals.tasks import answer_text
from tunesmith.folder import Silent
from tunesmith.models.catalogue import locate
from tunesmith.opened import open_run
from tunesmith.recipe import parse
from tunesmith.run import run
from tunesmith.types import Message
from tunesmith.verified import verify

OWN, TOKENS = 128, 512


def short_model(folder: Path, family: str = "llama") -> Path:
    """Made for few tokens, by its configuration."""
    tiny_runs.model_folder(folder, family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": OWN}))
    return folder


def do(settings: dict[str, Any], out: Path, tell: Any = None, *, resume: bool = False) -> dict[str, Any]:
    return run(parse(settings), yaml.safe_dump(settings), out, tell or Silent(), resume=resume)


def asked(folder: Path, method: str = "yarn") -> dict[str, Any]:
    """Some of the examples are longer than the base's own context."""
    rows = [
        {"prompt": f"{'the lazy dog jumps ' * (5 + 20 * (i % 3))}{i}: what is it?", "completion": "the dog"}
        for i in range(60)
    ]
    settings = tiny_runs.settings(folder / "model", tiny_runs.written(folder / "rows.jsonl", rows), max_updates=4)
    settings["data"]["max_tokens"] = TOKENS
    settings["train"] |= {"update_tokens": 1024, "micro_tokens": 512, "watch": 0}
    settings["adapt"] |= {"context": {"tokens": TOKENS, "method": method}}
    settings["evals"] |= {"max_cases": 6, "few_shot": 0}
    return settings


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("longer")
    short_model(folder / "model")
    settings = asked(folder)
    with pytest.raises(Interrupted):
        do(settings, folder / "run", StopAfter(2))
    do(settings, folder / "run", resume=True)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_what_is_measured(world: Path) -> None:
    facts = read(world / "run" / "scores" / "context.json")
    assert (facts["own_tokens"], facts["tokens"], facts["method"]) == (OWN, TOKENS, "yarn")
    [angles] = facts["rope_parameters"]
    assert (angles["rope_type"], angles["factor"], angles["original_max_position_embeddings"]) == ("yarn", 4.0, OWN)
    loss, keys = facts["loss"], facts["passkey"]
    assert loss["ends"] == [0, 32, 64, 96, 128, 224, 320, 416, 512]
    assert loss["longest"] == TOKENS
    assert sum(loss["num_tokens"]) == loss["num_texts"] * (TOKENS - 1)
    assert set(loss["nats_per_token"]) == set(keys["found"]) == {"base", "stretched", "tuned"}
    base, stretched, tuned = (loss["nats_per_token"][who] for who in long_context.WHO)
    assert all(a != b for a, b in zip(base[1:], stretched[1:]))  # the angles act
    assert tuned != stretched
    assert {length for length, _ in keys["asked"]} <= {64, 128, 320, 512}
    assert len(keys["asked"]) == keys["num_planned"] == len(keys["found"]["tuned"]) > 0
    assert not (world / "run" / long_context.KEPT).exists()


def test_the_report_shows_it(world: Path) -> None:
    [note] = [n for n in read(world / "run" / "verdict.json")["notes"] if n.startswith("context 128 → 512")]
    assert "by yarn" in note
    for name in ("report.html", "report.md"):
        text = (world / "run" / name).read_text(encoding="utf-8")
        for words in ("A longer context", "From 128 to 512 tokens by YaRN", "Loss by position", "Passkeys found",
                      "416 to 512, beyond the base"):  # fmt: skip
            assert words in text, (name, words)
    plan = {r["key"]: (r["value"], r["why"]) for r in read(world / "run" / "plan.json")["resolved"]}
    assert plan["adapt.context"] == ("yarn", "512 tokens; the base was made for 128, so a factor of 4")
    assert read(world / "run" / "plan.json")["seconds"]["stages"]["context"] > 0


def test_what_leaves_with_it(world: Path) -> None:
    """Each export was opened in plain transformers and compared by the run itself."""
    out = world / "run"
    facts = read(out / "export.json")
    assert facts["adapter"]["same_text"]
    assert facts["merged"]["same_text"]
    assert any("base_config.json" in line for line in facts["adapter"]["vllm"]["breaches"])
    for config in (out / "merged" / "config.json", out / "adapter" / "base_config.json"):
        assert read(config)["max_position_embeddings"] == TOKENS
        assert read(config)["rope_parameters"]["rope_type"] == "yarn"
    card = (out / "adapter" / "README.md").read_text()
    assert 'AutoConfig.from_pretrained(f"{folder}/base_config.json")' in card
    assert "base_config.json" not in (out / "merged" / "README.md").read_text()


def test_verify_and_opening_keep_it(world: Path) -> None:
    assert [check for check in verify(world / "run") if check.passed is False] == []
    opened = open_run(world / "run")
    assert opened.session.base.context_tokens == TOKENS
    long = [[Message("user", "the lazy dog " * 60)]]
    assert OWN < len(opened.prompt(long[0])) < TOKENS
    tuned, base = (opened.complete(who, long)[0] for who in ("tuned", "base"))
    assert tuned.logp != base.logp


def test_the_next_run_begins_with_it(world: Path) -> None:
    """The tuned model as a base: its own context is the new one, and the same method stretches it further."""
    settings = {"model": str(world / "run" / "merged"), "data": {"max_tokens": 1024}}
    settings["adapt"] = {"context": {"tokens": 1024, "method": "yarn"}}
    recipe = parse(settings)
    base = load_base(recipe, compute(recipe))
    assert (base.own_tokens, base.context_tokens) == (TOKENS, 1024)
    assert locate(str(world / "run" / "merged")).folder == world / "run" / "merged"
    settings["adapt"]["context"]["method"] = "linear"
    recipe = parse(settings)
    with pytest.raises(PlanError, match="stretched by yarn already"):
        load_base(recipe, compute(recipe))


def test_all_weights_by_another_method(world: Path, tmp_path: Path) -> None:
    settings = asked(world, "ntk")
    settings["adapt"] = {"method": "full", "context": settings["adapt"]["context"]}
    do(settings, tmp_path / "out")
    config = read(tmp_path / "out" / "model" / "config.json")
    assert config["max_position_embeddings"] == TOKENS
    assert config["rope_parameters"]["rope_type"] == "default"
    assert config["rope_parameters"]["rope_theta"] > 10_000
    assert read(tmp_path / "out" / "export.json")["model"]["same_text"]
    assert load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert not (tmp_path / "out" / "model" / "base_config.json").exists()


def test_a_plain_text_is_read_once(world: Path, tmp_path: Path) -> None:
    """It is its own prompt; a second copy behind it would be easy to foretell."""
    (tmp_path / "book.txt").write_text("\n\n".join(f"the lazy dog {n} jumps" for n in range(40)))
    settings = asked(world)
    settings["data"] |= {"train": [str(tmp_path / "book.txt")], "reading": {"separator": "\n\n"}}
    recipe = parse(settings)
    base = load_base(recipe, compute(recipe))
    made = material(recipe, base)
    found = long_context.asking_of(recipe, Session(base), made)
    assert found is not None
    [document] = found.documents
    text = base.tokenizer.decode(document.tolist())
    held_out = [answer_text(e) for e in (*made.split.test, *made.split.dev)]
    assert len(held_out) > 4
    assert all(text.count(one) == 1 for one in held_out)


def test_longer_examples_without_it_are_told_of_it(world: Path, tmp_path: Path) -> None:
    settings = asked(world)
    del settings["adapt"]["context"]
    with pytest.raises(PlanError, match=r"adapt\.context\.tokens"):
        do(settings, tmp_path / "out")


def test_kl_beyond_the_bases_own_context_is_refused(world: Path, tmp_path: Path) -> None:
    settings = asked(world) | {"regularise": {"kl": 0.1}}
    with pytest.raises(PlanError, match=r"keep data\.max_tokens at 128"):
        do(settings, tmp_path / "out")
