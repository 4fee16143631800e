"""A run that goes on from another one: it begins as that one ended, answers to it and to the base, and learns nothing
of what was held out before."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from tests.runs.test_run import StopAfter

from tunesmith import against_parent, heritage, sweep
from tunesmith.build import TENANT, compute, load_base, material, parents_split, start
from tunesmith.data.examples import of_row
from tunesmith.data.split import Ledger, keys_of
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import DataError, InputError, Interrupted, ModelError, PlanError
from tunesmith.evals.score import Answer
from tunesmith.files import sha256_file, write_json
from tunesmith.fitted import fit
from tunesmith.folder import Silent
from tunesmith.models.load import Base, weights_digest
from tunesmith.recipe import Recipe, parse
from tunesmith.replay import Replayed
from tunesmith.reproduced import reproduce
from tunesmith.run import run
from tunesmith.sealed import seal
from tunesmith.verified import verify

STILL = 1e-30  # a learning rate at which no answer moves


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def do(settings: dict[str, Any], out: Path, tell: Any = None, *, resume: bool = False) -> dict[str, Any]:
    recipe, text = heritage.settled(parse(settings), yaml.safe_dump(settings))
    return run(recipe, text, out, tell or Silent(), resume=resume)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, first/: a finished run on rows.jsonl whose model answers otherwise than its base, and new.jsonl: new
    rows, and behind them two that first/ held out."""
    folder = tiny_runs.world(tmp_path_factory.mktemp("world"))
    settings = tiny_runs.settings(folder / "model", folder / "rows.jsonl", lr=0.05, watch=0)
    settings["export"] = ["adapter"]
    settings["evals"]["robustness"] = "off"
    verdict = do(settings, folder / "first")
    assert verdict["base"] != verdict["tuned"]
    rows = [json.loads(line) for line in tiny_runs.labelled_file(folder / "all.jsonl", 400).read_text().splitlines()]
    held = pq.read_table(folder / "first" / "scores" / "cases.parquet").to_pylist()[:2]
    planted = [{"text": row["prompt"], "label": row["reference"]} for row in held]
    tiny_runs.written(folder / "new.jsonl", [*rows[200:280], *planted])
    return folder


def asked(world: Path, parent: str = "first", **train: Any) -> dict[str, Any]:
    return {
        "parent": {"run": str(world / parent)}, "data": {"train": [str(world / "new.jsonl")]},
        "train": {"lr": STILL, "max_updates": 1, **train}, "evals": {"max_cases": 8},
    }  # fmt: skip


@pytest.fixture(scope="module")
def child(world: Path) -> Heard:
    """second/: one update after first/ that moves no answer. What was said while it ran."""
    heard = Heard()
    do(asked(world), world / "second", heard)
    return heard


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def found_of(world: Path, name: str = "second") -> dict[tuple[str, str], dict[str, Any]]:
    return {(c["cases"], c["against"]): c for c in read(world / name / "lineage.json")["claims"]}


def says_what_was_said(claims: dict[tuple[str, str], dict[str, Any]], verdict: dict[str, Any]) -> bool:
    """Of a model that is still the parent: the old cases come out as its verdict said, and nothing moved on them."""
    base, before = claims["old", "base"], claims["old", "previous run"]
    same = (base["base"], base["tuned"], base["effect"]) == (verdict["base"], verdict["tuned"], verdict["effect"])
    return same and (before["base"], before["effect"]) == (verdict["tuned"], 0.0)


def test_the_old_cases_come_out_as_the_parents_verdict_said(world: Path, child: Heard) -> None:
    verdict, claims = read(world / "first" / "verdict.json"), found_of(world)
    assert set(claims) == set(against_parent.COMPARISONS)
    assert says_what_was_said(claims, verdict)
    assert claims["old", "base"]["num_cases"] == verdict["num_cases"]
    assert claims["new", "previous run"]["effect"] == 0
    smallest = min(c["p"] for c in claims.values())
    assert min(c["p_holm"] for c in claims.values()) == pytest.approx(min(1, 4 * smallest))
    found = read(world / "second" / "lineage.json")
    assert found["forgotten"]["said"].startswith(("Nothing that matters was forgotten", "Whether something was"))
    assert (found["forgotten"]["num_lower"], found["forgotten"]["num_higher"]) == (0, 0)
    notes = read(world / "second" / "verdict.json")["notes"]
    assert [c["said"] in notes for c in claims.values()] == [True] * 4
    assert any("of the old cases, all of the 20 test cases were opened" in n for n in notes)


def test_mutant_answers_of_another_model_are_found(world: Path, child: Heard) -> None:
    """The base's in the place of the parent's, on the old cases; and a forgotten case is told."""
    recipe = parse(yaml.safe_load((world / "second" / "recipe.yaml").read_text()))
    base = load_base(recipe, compute(recipe))
    made = material(recipe, base)
    kept = {n: [Answer(**a) for a in read(world / f / "scores" / f"{n}.json")["answers"]]
            for f, n in (("first", "base"), ("first", "tuned"), ("second", "old_tuned"))}  # fmt: skip
    cases = [of_row(row) for row in read(world / "second" / "scores" / "old_cases.json")]
    sides = {"base": kept["base"], "previous run": kept["tuned"], "tuned": kept["old_tuned"]}
    new = against_parent.Side(made.split.test, {who: kept["base"][: len(made.split.test)] for who in sides}, made)
    verdict = read(world / "first" / "verdict.json")
    for wrong in (False, True):
        old = against_parent.Side(cases, sides | ({"previous run": kept["base"]} if wrong else {}), made)
        assert made.before is not None
        found = against_parent.of_sides(recipe, made, made.before, {"new": new, "old": old})
        claims = {(c["cases"], c["against"]): c for c in found["claims"]}
        assert says_what_was_said(claims, verdict) is not wrong
    right = [k for k, a in enumerate(kept["tuned"]) if a.text == cases[k].target.text]  # type: ignore[union-attr]
    spoilt = [replace(a, text="?") if k in right else a for k, a in enumerate(kept["old_tuned"])]
    lost = against_parent.of_sides(recipe, made, made.before, {"new": new, "old": replace(old, answers=sides | {
        "tuned": spoilt})})["forgotten"]  # fmt: skip
    assert lost["num_lower"] == len(right) > 0
    assert {c["now"] for c in lost["cases"]} == {"?"}


def test_old_test_rows_are_taken_out_with_a_line_each(world: Path, child: Heard) -> None:
    lines = [line for line in child.said if line.startswith("taken out")]
    assert [line.split(": ")[0].split()[-1] for line in lines] == [f"{world / 'new.jsonl'}:{n}" for n in (81, 82)]
    audit = read(world / "second" / "audit.json")
    assert (audit["moved"]["old"], audit["moved"]["examples"][0]["stands_in"]) == (2, "old")
    before = Ledger.load(world / "first" / "ledger.json")
    recipe = parse(yaml.safe_load((world / "second" / "recipe.yaml").read_text()))
    recipe = replace(recipe, evals=replace(recipe.evals, max_cases=400, max_dev_cases=400))
    base = load_base(recipe, compute(recipe))

    def learned_old(ledger: Ledger | None) -> int:
        """Old test rows anywhere in the data of a child that begins with this ledger."""
        parts = material(recipe, base, ledger).split
        return sum(int((before.places(keys_of(p)) == 2).sum()) for p in (parts.train, parts.dev, parts.test))

    assert learned_old(None) == learned_old(Ledger.load(world / "second" / "ledger.json")) == 0
    assert learned_old(before) == learned_old(Ledger()) == 2  # the mutants: handed on as it is, and none


def test_what_is_kept_and_recorded(world: Path, child: Heard) -> None:
    kept = parse(yaml.safe_load((world / "second" / "recipe.yaml").read_text()))
    first = parse(yaml.safe_load((world / "first" / "recipe.yaml").read_text()))
    assert (kept.adapt, kept.model, kept.export) == (first.adapt, first.model, first.export)
    assert (kept.train.update_tokens, kept.evals.few_shot) == (first.train.update_tokens, first.evals.few_shot)
    assert (kept.data.train, kept.data.test_frac) == ((str(world / "new.jsonl"),), first.data.test_frac)
    assert (kept.task.name, kept.train.lr, kept.evals.max_cases) == ("classify", STILL, 8)
    assert kept.precision == read(world / "first" / "lock.json")["precision"]
    resolved = {r["key"]: r for r in read(world / "second" / "plan.json")["resolved"]}
    assert "adapt.rank" in resolved["kept of its settings"]["why"]
    assert "train.lr (was 0.05)" in resolved["said anew"]["why"]
    lock, mine = (read(world / "second" / name) for name in ("lock.json", "run.json"))
    assert lock["parent"]["weights"] == weights_digest(world / "first" / "adapter")
    assert lock["parent"]["lock"] == sha256_file(world / "first" / "lock.json")
    assert lock["parent"]["run"] == mine["parent"]["id"] == read(world / "first" / "run.json")["id"]
    for name in ("report.html", "report.md"):
        text = (world / "second" / name).read_text()
        assert "Against the run before" in text
        assert "└─ second" in text
    assert all(check.passed for check in verify(world / "second"))


def tuned_otherwise(world: Path, folder: Path, adapt: dict[str, Any]) -> Path:
    """A copy of first/ whose weights are of another kind, and not those of the base."""
    shutil.copytree(world / "first", folder)
    settings = yaml.safe_load((folder / "recipe.yaml").read_text()) | {"adapt": adapt}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    recipe = parse(settings)
    session = Session(load_base(recipe, compute(recipe)))
    session.create(TENANT, Spec(recipe.adapt))
    tenant, drawn = session.tenants[TENANT], torch.Generator().manual_seed(0)
    noise = {n: 0.01 * torch.randn(t.shape, generator=drawn) for n, t in tenant.masters.items()}
    tenant.start_from({n: t + noise[n] for n, t in tenant.masters.items()})
    weights = folder / ("adapter" if recipe.adapt.is_adapter else "model")
    shutil.rmtree(folder / "adapter")
    session.export(TENANT, weights)
    verdict = read(folder / "verdict.json")
    verdict["digests"]["tuned"] = weights_digest(weights)
    write_json(folder / "verdict.json", verdict)
    seal(folder)
    return folder


@pytest.mark.parametrize(
    "adapt",
    [{}, {"method": "last_k", "last_k": 1}, {"method": "full"}, {"dora": True}, {"method": "ia3"}],
    ids=["lora", "last_k", "full", "dora", "ia3"],
)
def test_update_0_is_the_parent_bit_for_bit(world: Path, tmp_path: Path, adapt: dict[str, Any]) -> None:
    """And the base beneath is the base; the mutant, a child that takes nothing over, is not the parent."""
    parent = tuned_otherwise(world, tmp_path / "parent", adapt) if adapt else world / "first"
    settings = asked(world) | {"parent": {"run": str(parent)}}
    recipe, _ = heritage.settled(parse(settings), yaml.safe_dump(settings))

    def exported(name: str, *, takes: bool) -> str:
        base = load_base(recipe, compute(recipe))
        plain, session = Session(base).next_logits(None, [5, 6, 7]), Session(base)
        made = material(recipe, base)
        start(recipe, session, made if takes else replace(made, before=None), 1)
        session.export(TENANT, tmp_path / name)
        assert (session.next_logits(None, [5, 6, 7]) - plain).abs().max() <= (1e-5 if recipe.adapt.dora else 0)
        return weights_digest(tmp_path / name)

    ended = read(parent / "verdict.json")["digests"]["tuned"]
    assert exported("child", takes=True) == ended
    assert exported("mutant", takes=False) != ended


def test_a_killed_child_goes_on_to_the_same_weights_wherever_its_parent_is(world: Path, tmp_path: Path) -> None:
    """But from no other one."""
    settings = asked(world, lr=0.02, max_updates=4, every_checkpoint=1)
    settings["parent"] |= {"replay": 0.3}
    do(settings, tmp_path / "whole")
    with pytest.raises(Interrupted):
        do(settings, tmp_path / "cut", StopAfter(2))
    shutil.copytree(world / "first", tmp_path / "carried")
    settings["parent"]["run"] = str(tuned_otherwise(world, tmp_path / "other", {"rank": 4}))
    with pytest.raises(InputError, match=r"not the run that was started: parent\.weights"):
        do(settings, tmp_path / "cut", resume=True)
    settings["parent"]["run"] = str(tmp_path / "gone")
    with pytest.raises(InputError, match=r"there is no run in it .*--set parent\.run=FOLDER"):
        do(settings, tmp_path / "cut", resume=True)
    settings["parent"]["run"] = str(tmp_path / "carried")
    tensors = load_file(world / "first" / "adapter" / "adapter_model.safetensors")
    do(settings, tmp_path / "cut", resume=True)
    one, other = (load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert any(not torch.equal(one[n], tensors[n]) for n in one)
    whole, cut = (found_of(tmp_path, name) for name in ("whole", "cut"))
    assert {k: c | {"said": ""} for k, c in whole.items()} == {k: c | {"said": ""} for k, c in cut.items()}


def test_a_third_run_answers_for_the_whole_lineage(world: Path, child: Heard, tmp_path: Path) -> None:
    """Typed, with the settings of the second; made again; and neither where its parent is gone."""
    rows = [json.loads(line) for line in (world / "all.jsonl").read_text().splitlines()[270:400]]
    first, second = (pq.read_table(world / n / "scores" / "cases.parquet").to_pylist() for n in ("first", "second"))
    planted = [{"text": r["prompt"], "label": r["reference"]} for r in (first[0], second[0])]
    tiny_runs.written(tmp_path / "more.jsonl", [*rows, *planted])
    home = tmp_path / "home"
    for name in ("first", "second"):
        shutil.copytree(world / name, home / name)
    words = ["run", "--from", str(home / "second"), "--data", str(tmp_path / "more.jsonl"), "--json"]
    said = typed([*words, "--out", str(home / "third")])
    assert said.code == 0, said.text
    found = read(home / "third" / "lineage.json")
    assert found["num_old"] == len(first) + len(second)
    assert [run["run"] for run in found["runs"]] == ["first", "second"]
    assert read(home / "third" / "audit.json")["moved"]["old"] >= 2
    claims = found_of(home, "third")
    both = [*first, *second]
    assert claims["old", "previous run"]["base"] == pytest.approx(sum(r["tuned_score"] for r in both) / len(both))
    assert claims["old", "base"]["base"] == pytest.approx(sum(r["base_score"] for r in both) / len(both))
    tree = typed(["runs", str(home), "--tree"]).out
    lines = re.findall(r"(?m)^( *(?:└─ )?)\S*/(first|second|third)\b", tree)
    assert lines == [("", "first"), ("└─ ", "second"), ("   └─ ", "third")]
    assert reproduce(home / "third", tmp_path / "again", Silent())["identical"]
    (home / "second").rename(home / "elsewhere")
    with pytest.raises(InputError, match=r"began with the weights of .*second, and .*second is not here"):
        reproduce(home / "third", tmp_path / "once more", Silent())
    [parent] = [check for check in verify(home / "third") if check.name == "parent"]
    assert parent.passed is None


@pytest.fixture(scope="module")
def base(world: Path) -> Base:
    recipe = parse({"model": str(world / "model"), "data": {"max_tokens": 256}})
    return load_base(recipe, compute(recipe))


def settled(world: Path, **changes: Any) -> Recipe:
    settings = asked(world)
    for key, value in changes.items():
        settings[key] = {**settings.get(key, {}), **value} if isinstance(value, dict) else value
    return heritage.settled(parse(settings), yaml.safe_dump(settings))[0]


def test_new_labels_join_the_old_ones(world: Path, base: Base, tmp_path: Path) -> None:
    """The parent is asked as it was trained: among its own labels, with its own instruction."""
    rows = [{"text": f"lazy sold brown {i} order", "label": "lazy"} for i in range(60)]
    data = tiny_runs.written(tmp_path / "lazy.jsonl", rows)
    made = material(settled(world, data={"train": [str(data)]}), base)
    assert made.labels == ("clips", "dog", "fox", "lazy")
    assert made.before is not None
    served = against_parent.as_served(made, made.before)
    assert (served.labels, "lazy" in served.instruction) == (("clips", "dog", "fox"), False)
    assert "lazy" in made.instruction
    assert "1 labels are new (lazy)" in against_parent.new_labels(made, made.before)[0]


def test_earlier_rows_come_back_in_the_share_that_was_asked_for(world: Path, base: Base) -> None:
    made = material(settled(world, parent={"replay": 0.3}), base)
    learned = sum(r.num_learned for r in made.train.records)
    earlier = [r.num_learned for r in made.again.records]
    assert sum(earlier) / (learned + sum(earlier)) == pytest.approx(0.3, abs=max(earlier) / learned)
    ledger = read(world / "first" / "ledger.json")["splits"]
    assert made.before is not None
    rows, _ = parents_split(made.before)
    ids = {r.example_id for r in made.again.records}
    assert ids <= {e.id for e in rows.train}
    assert not ids & {e.id for e in (*rows.test, *rows.dev)}
    assert set(ledger.values()) == {"train", "dev", "test"}
    assert not material(settled(world), base).again.records


def changed(folder: Path, name: str, tmp_path: Path) -> Path:
    """A copy of a run with one thing that is not as it was left."""
    there = tmp_path / name.replace("/", "_")
    shutil.copytree(folder, there)
    path = there / name
    if name.endswith(".safetensors"):
        save_file({n: t + 1 for n, t in load_file(path).items()}, path, {"format": "pt"})
    elif name == "verdict.json":
        path.write_text(path.read_text().replace('"base"', '"base" '))
    else:
        path.unlink()
    return there


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ledger.json", "lacks ledger.json: it was made by another version"),
        ("run.json", "lacks run.json"),
        ("plan.json", "lacks plan.json"),
        ("seal.json", "has no seal.json"),
        ("verdict.json", "verdict.json changed since the run ended"),
        ("adapter/adapter_model.safetensors", "its weights changed since"),
    ],
)
def test_a_parent_that_is_not_what_it_was(world: Path, tmp_path: Path, name: str, said: str) -> None:
    folder = changed(world / "first", name, tmp_path)
    with pytest.raises(InputError, match=said):
        heritage.before_of(parse({"parent": {"run": str(folder)}}))


def test_a_parent_that_did_not_end(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "first", tmp_path / "half")
    (tmp_path / "half" / "verdict.json").unlink()
    with pytest.raises(InputError, match=r"not run to its end.*--resume --out .*half"):
        heritage.opened(tmp_path / "half")
    said = typed(["run", "--from", str(tmp_path / "half"), "--data", str(world / "new.jsonl")])
    assert (said.code, "Traceback" in said.text) == (2, False)


REFUSED: dict[str, tuple[type[InputError], dict[str, Any]]] = {
    "adapt.rank was 4 and is 8": (PlanError, {"adapt": {"rank": 8}}),
    "method was lora and is full": (PlanError, {"adapt": {"method": "full"}}),
    "was tuned for classify": (PlanError, {"task": {"name": "generate"}}),
}


@pytest.mark.parametrize("said", REFUSED)
def test_recipes_that_cannot_go_on(world: Path, base: Base, said: str) -> None:
    kind, changes = REFUSED[said]
    with pytest.raises(kind, match=said):
        material(settled(world, **changes), base)


def test_a_parent_without_adapter_is_begun_from_by_its_model(world: Path) -> None:
    before = replace(heritage.opened(world / "first"), recipe=parse({"adapt": {"method": "full"}}))
    with pytest.raises(PlanError, match=r"--model .*first/model without --from"):
        heritage.refuse_other_task(before, "generate", is_labelled=True)


def test_a_run_that_wrote_its_labels_goes_on_to_no_class_head(world: Path) -> None:
    recipe = settled(world, task={"by": "head"})
    with pytest.raises(PlanError, match=r"task\.by is head .*first they were labels"):
        material(recipe, load_base(recipe, compute(recipe)))


def test_data_that_cannot_go_on(world: Path, base: Base, tmp_path: Path) -> None:
    replies = tiny_runs.reply_file(tmp_path / "replies.jsonl")
    with pytest.raises(DataError, match="chooses among labels"):
        material(settled(world, data={"train": [str(replies)]}), base)
    held = pq.read_table(world / "first" / "scores" / "cases.parquet").to_pylist()
    old = tiny_runs.written(tmp_path / "t.jsonl", [{"text": r["prompt"], "label": r["reference"]} for r in held])
    with pytest.raises(DataError, match=r"all 20 rows of the test file .* are asked anyway"):
        material(settled(world, data={"train": [str(world / "new.jsonl")], "test": [str(old)]}), base)
    with pytest.raises(PlanError, match="there is no parent"):
        heritage.before_of(parse({"parent": {"replay": 0.1}}))
    other = replace(base, digest="0" * 64)
    with pytest.raises(ModelError, match="keeps the base of its lineage"):
        material(settled(world), other)


def test_the_parents_rows_may_grow_but_not_go(world: Path, base: Base, tmp_path: Path) -> None:
    made = material(settled(world), base)
    assert made.before is not None
    data = tmp_path / "rows.jsonl"
    shutil.copy(world / "rows.jsonl", data)
    recipe = replace(made.before.recipe, data=replace(made.before.recipe.data, train=(str(data),)))
    before = replace(made.before, recipe=recipe)
    with data.open("a") as out:
        out.write(json.dumps({"text": "a row that came later", "label": "dog"}) + "\n")
    assert [e.id for e in against_parent.old_cases(before)] == [e.id for e in against_parent.old_cases(made.before)]
    assert not any("came later" in e.prompt[0].content for e in parents_split(before)[0].train)
    data.write_text("".join(f"{line}\n" for line in data.read_text().splitlines()[60:]))
    with pytest.raises(DataError, match="are not in its data any more"):
        against_parent.old_cases(before)
    data.unlink()
    with pytest.raises(DataError, match="cannot be read again"):
        against_parent.old_cases(before)


def test_next_says_where_new_data_came(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "first", tmp_path / "first")
    data = tmp_path / "rows.jsonl"
    shutil.copy(world / "rows.jsonl", data)
    for name in ("recipe.yaml", "lock.json"):
        path = tmp_path / "first" / name
        path.write_text(path.read_text().replace(str(world / "rows.jsonl"), str(data)))
    words = ["next", str(tmp_path / "first"), "--out", str(tmp_path / "next.yaml"), "--json"]
    assert json.loads(typed(words).out)["new_data"] == []
    with data.open("a") as out:
        out.write(json.dumps({"text": "more", "label": "dog"}) + "\n")
    said = typed([*words[:-2], str(tmp_path / "other.yaml")]).text
    assert f"tunesmith run --from {tmp_path / 'first'} --data {data}" in said


def test_a_number_that_is_written_otherwise_is_not_said_anew(world: Path, base: Base) -> None:
    """YAML 1.1 reads 5e-2 as a text."""
    before = heritage.opened(world / "first")
    before = replace(before, settings={**before.settings, "train.lr": "5e-2"})
    recipe = settled(world, train={"lr": 0.05}, model=str(world / "model"))
    rows = {key: why for key, _, why in heritage.rows(before, recipe, Replayed())}
    assert "evals.max_cases (was 20)" in rows["said anew"]
    assert "train.lr" not in rows["said anew"]


def test_a_sweep_changes_nothing_that_the_parents_weights_rest_on(world: Path, tmp_path: Path) -> None:
    settings = asked(world, lr=0.01) | {"sweep": {"trials": 1}}
    recipe, text = heritage.settled(parse(settings), yaml.safe_dump(settings))
    found = sweep.sweep(recipe, text, tmp_path / "usual", Silent())
    assert list(found["space"]) == ["train.lr"]
    assert [row["state"] for row in found["rows"]] == ["tried"]
    recipe, text = sweep.trying(text, {"adapt.rank": [2, 4]})
    with pytest.raises(PlanError, match=r"adapt\.rank was 4 and is 2"):
        sweep.sweep(recipe, text, tmp_path / "rank", Silent())


def test_the_plan_counts_the_parents_weights_beside_the_childs(world: Path, base: Base) -> None:
    recipe = settled(world)
    made = material(recipe, base)
    asked_too, alone = (fit(recipe, base, m, compute(recipe)) for m in (made, replace(made, before=None)))
    assert asked_too.footprint is not None
    assert alone.footprint is not None
    more = asked_too.footprint.stages["evaluate"] - alone.footprint.stages["evaluate"]
    assert more >= 4 * alone.num_trained / 2**30
