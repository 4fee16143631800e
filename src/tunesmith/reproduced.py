"""A finished run made again from what its folder says, and what is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunesmith import heritage
from tunesmith.errors import InputError
from tunesmith.files import read_json
from tunesmith.folder import Teller
from tunesmith.importing.reading import flat
from tunesmith.opened import kept_recipe
from tunesmith.recipe import read
from tunesmith.report.facts import read_cases
from tunesmith.run import run


def reproduce(folder: Path, out: Path | None, tell: Teller) -> dict[str, Any]:
    """Trains again with the threads that were used then; facts: whether the weights are the same, and what is not."""
    recipe, text = read(kept_recipe(folder), {})
    for name in ("lock.json", "verdict.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} was not run to its end (no {name}): `tunesmith run --resume --out {folder}`")
    then = read_json(folder / "lock.json")
    if recipe.parent.run is not None:
        heritage.refuse_changed(then.get("parent") or {}, recipe)
    torch.set_num_threads(int(then["threads"]))
    there = out or folder.with_name(f"{folder.name}-again")
    picked = replace(recipe.train, **then["fitted"])  # as the memory of then allowed; another cut, other last bits
    verdict = run(replace(recipe, trackers=(), train=picked, precision=then["precision"]), text, there, tell)
    return compared(folder, there, verdict)


def compared(folder: Path, again: Path, verdict: dict[str, Any]) -> dict[str, Any]:
    """Digests and answers of both runs; `differs`: what of data, model, code, packages, threads was not the same."""
    before, then, now = (read_json(p) for p in (folder / "verdict.json", folder / "lock.json", again / "lock.json"))
    was, is_now = dict(flat(then)), dict(flat(now))
    differs = [
        {"what": key, "then": was.get(key), "now": is_now.get(key)}
        for key in {**was, **is_now}
        if was.get(key) != is_now.get(key)
    ]
    old, new = (
        {c.example_id: c.tuned_output for c in read_cases(at / "scores" / "cases.parquet") or ()}
        for at in (folder, again)
    )
    shared = old.keys() & new.keys()
    return {
        "folder": str(again),
        "identical": before["digests"]["tuned"] == verdict["digests"]["tuned"],
        "tuned": [before["digests"]["tuned"], verdict["digests"]["tuned"]],
        "decision": [before["decision"], verdict["decision"]],
        "effect": [before["effect"], verdict["effect"]],
        "same_answers": sum(old[i] == new[i] for i in shared),
        "num_answers": len(shared),
        "differs": differs,
    }


def lines(facts: dict[str, Any]) -> list[str]:
    """For people."""
    first = "the same weights, bit by bit" if facts["identical"] else "other weights"
    found = [
        f"{first}: digest {facts['tuned'][0][:12]} then, {facts['tuned'][1][:12]} now, in {facts['folder']}",
        f"verdict: {facts['decision'][0]} ({facts['effect'][0]:+.4g}) then, {facts['decision'][1]} "
        f"({facts['effect'][1]:+.4g}) now; {facts['same_answers']} of {facts['num_answers']} answers the same",
    ]
    found += [f"differs: {row['what']} was {row['then']} and is {row['now']}" for row in facts["differs"]]
    if not facts["identical"] and not facts["differs"]:
        found.append(
            "nothing that was recorded differs: data, model, template, code, packages, threads and device are those of "
            "then. Another processor can round differently"
        )
    return found
