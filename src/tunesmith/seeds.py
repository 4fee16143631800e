"""`tunesmith run --seeds N`: the same recipe with N seeds on the same split, and what they say together."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from tunesmith import gates
from tunesmith.engine.ranks import ALONE, Ranks
from tunesmith.errors import InputError, RunError
from tunesmith.evals.compare import UNKNOWN, decide
from tunesmith.evals.compare import together as decided_together
from tunesmith.evals.seeds import FEWEST, fewest, over_seeds, variances
from tunesmith.evals.stats import holm, holm_levels
from tunesmith.files import read_json, write_json, write_text
from tunesmith.folder import Silent, Teller
from tunesmith.recipe import Recipe, place
from tunesmith.run import run
from tunesmith.side_by_side import Beside, each
from tunesmith.stopping import Stop

NAME = "seeds.json"
TOO_FEW = "too few seeds"
BASE_SAID = ("forms.json", "base.json")  # what the base answered: the same for every seed, so it is asked once


def run_seeds(
    recipe: Recipe, text: str, out: Path, tell: Teller, num: int, *, resume: bool = False, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Runs into out/seed_0, out/seed_1 …; returns seeds.json. Finished ones are kept on a resume."""
    folders: list[Path] = []
    for one in seeded(recipe, text, out, num, resume=resume):
        tell.say(f"seed {one.recipe.seed}: {one.folder} ({len(folders) + 1} of {num})")
        if not one.is_done:
            begun = begin(one.folder, one.text, folders)
            run(one.recipe, one.text, one.folder, tell, resume=begun, ranks=ranks)
        folders.append(one.folder)
    found = together(folders, recipe.evals.alpha)
    write_json(out / NAME, found)
    write_text(out / "seeds.md", in_words(found))
    return found


@dataclass(frozen=True, slots=True)
class Seeded:
    """The recipe with one seed, on the split that all share."""

    recipe: Recipe
    text: str
    folder: Path

    @property
    def is_done(self) -> bool:
        return (self.folder / "verdict.json").is_file()


def seeded(recipe: Recipe, text: str, out: Path, num: int, *, resume: bool) -> list[Seeded]:
    if num < 2:
        raise InputError(f"--seeds is {num}; wanted at least 2 (at least {FEWEST} for a claim about the method)")
    if out.exists() and any(out.iterdir()) and not resume:
        raise InputError(f"{out} is not empty: add --resume to go on with it, or name another folder with --out")
    split_seed = recipe.seed if recipe.data.split_seed is None else recipe.data.split_seed
    found = []
    for seed in range(recipe.seed, recipe.seed + num):
        one = replace(recipe, seed=seed, data=replace(recipe.data, split_seed=split_seed))
        settings = yaml.safe_load(text)
        place(settings, "seed", seed)
        place(settings, "data.split_seed", split_seed)
        said = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        found.append(Seeded(one, said, out / f"seed_{seed}"))
    return found


def run_beside(recipe: Recipe, text: str, out: Path, tell: Teller, num: int, beside: Beside, *, resume: bool) -> None:
    """Fills the folders that `run_seeds` with `resume` puts together. Each seed asks the base for itself."""
    missing = [one for one in seeded(recipe, text, out, num, resume=resume) if not one.is_done]
    with Stop(tell.say) as stop:
        for one, decision in each(beside, stop, run_apart, missing):
            tell.say(f"seed {one.recipe.seed} ended: {decision} ({one.folder})")


def run_apart(one: Seeded) -> str:
    """In a process of its own."""
    is_begun = (one.folder / "recipe.yaml").is_file()
    return str(run(one.recipe, one.text, one.folder, Silent(), resume=is_begun)["decision"])


def first(out: Path) -> Path:
    """The folder of the lowest seed, whose recipe says the rest; `out` itself where there is none."""
    folders = [f for f in out.glob("seed_*") if f.name.removeprefix("seed_").isdigit()]
    return min(folders, key=lambda f: int(f.name.removeprefix("seed_")), default=out)


def begin(folder: Path, text: str, earlier: list[Path]) -> bool:
    """Whether there is something to go on with: a stopped run, or the base's answers, taken from the first seed."""
    if not (folder / "recipe.yaml").is_file() and earlier:
        (folder / "scores").mkdir(parents=True, exist_ok=True)
        for name in BASE_SAID:
            shutil.copyfile(earlier[0] / "scores" / name, folder / "scores" / name)
        write_text(folder / "recipe.yaml", text)
    return (folder / "recipe.yaml").is_file()


def together(folders: list[Path], alpha: float) -> dict[str, Any]:
    """What the seeds say about the method, and what the spread is made of."""
    verdicts = [read_json(f / "verdict.json") for f in folders]
    first = verdicts[0]
    for folder, verdict in zip(folders, verdicts):
        for key in ("test_cases", "base"):
            if verdict["digests"][key] != first["digests"][key]:
                raise RunError(
                    f"{folder} has another digest of {key} than {folders[0]}: data or model changed between the seeds. "
                    "Start again in another folder"
                )
    claims = claims_of(verdicts, alpha)
    decision = decided_together([UNKNOWN if c["decision"] == TOO_FEW else c["decision"] for c in claims])
    return {
        **claims[0], "decision": TOO_FEW if decision == UNKNOWN else decision, "alpha": alpha, "claims": claims,
        "fewest": max(FEWEST, fewest(alpha / len(claims))), "num_seeds": len(folders), "num_cases": first["num_cases"],
        "spread": spread(folders, claims[0]["effects"]), "runs": [str(f) for f in folders],
        "gates_met": all(g["passed"] for f in folders for g in gates.kept(f / gates.NAME) or []),
    }  # fmt: skip


def claims_of(verdicts: list[dict[str, Any]], alpha: float) -> list[dict[str, Any]]:
    """What the seeds say on each primary metric; each interval at the level at which Holm's step-down tests it."""
    rows = list(zip(*(v["claims"] for v in verdicts)))  # of a metric what each seed says
    effects = [[c["effect"] for c in row] for row in rows]
    p_values = [over_seeds(own, alpha).p for own in effects]
    claims = []
    for row, own, level, p_holm in zip(rows, effects, holm_levels(p_values, alpha), holm(p_values)):
        said = over_seeds(own, level)
        decision = UNKNOWN if len(own) < FEWEST else decide(said.interval, row[0]["smallest_that_matters"])
        claims.append({
            "decision": TOO_FEW if decision == UNKNOWN else decision, "metric": row[0]["metric"], "effects": own,
            "mean": said.mean, "interval": [x if isfinite(x) else None for x in said.interval], "level": level,
            "p": said.p, "p_holm": p_holm, "sd_of_seeds": float(np.std(own, ddof=1)),
            "worst": min(own), "best": max(own),
        })  # fmt: skip
    return claims


def spread(folders: list[Path], effects: list[float]) -> dict[str, Any] | None:
    """Variance of a case's gain by seed, by case and the rest, and their shares in the standard error of the mean.
    None where the metric is no mean over cases."""
    tables = [pq.read_table(f / "scores" / "cases.parquet").sort_by("example_id") for f in folders]
    gain_SN = np.array([np.subtract(t["tuned_score"].to_numpy(), t["base_score"].to_numpy()) for t in tables])
    same = np.allclose(np.abs(gain_SN.mean(1)), np.abs(effects), atol=1e-9)
    if not same or gain_SN.shape[1] < 2:
        return None
    parts = variances(gain_SN)
    of_mean = parts.of_mean(*gain_SN.shape)
    return {
        **asdict(parts),
        "standard_error": sqrt(sum(of_mean)),
        "of_mean": dict(zip(("seeds", "cases", "rest"), of_mean)),
    }


def in_words(found: dict[str, Any]) -> str:
    """seeds.md."""
    claims = found["claims"]
    lines = [f"# {found['num_seeds']} seeds: {found['decision']}"]
    for claim in claims:
        low, high = ("unbounded" if x is None else f"{x:+.4g}" for x in claim["interval"])
        of_holm = f", {claim['p_holm']:.2g} by Holm over {len(claims)} metrics" if len(claims) > 1 else ""
        own = f"{claim['metric']}, {claim['decision']}" if len(claims) > 1 else claim["metric"]
        lines += [
            "",
            f"{own}: mean effect {claim['mean']:+.4g}, interval {low} to {high} with the seeds as units (sign flips, "
            f"p = {claim['p']:.2g}{of_holm}); worst {claim['worst']:+.4g}, best {claim['best']:+.4g}, standard "
            f"deviation between seeds {claim['sd_of_seeds']:.2g}; {found['num_cases']} held-out cases, the same for "
            "all.",
        ]
    if still := [c["metric"] for c in claims if c["worst"] == c["best"]]:
        lines += [
            "", f"All seeds came out alike on {', '.join(still)}: they show no spread, and the interval does not say "
            "how far another seed may be from them.",
        ]  # fmt: skip
    if found["num_seeds"] < found["fewest"]:
        lines += [
            "", f"A claim about the method needs at least {found['fewest']} seeds: fewer cannot reach a level of "
            f"{found['alpha'] / len(claims):.3g}.",
        ]  # fmt: skip
    if found["spread"]:
        total = sum(found["spread"]["of_mean"].values()) or 1.0
        shares = ", ".join(f"{name} {part / total:.0%}" for name, part in found["spread"]["of_mean"].items())
        lines += [
            "", f"What the uncertainty of the mean on {found['metric']} ({found['spread']['standard_error']:.2g}) is "
            f"made of: {shares}. More seeds shrink the first part, more test cases the second.",
        ]  # fmt: skip
    lines += ["", f"| run | {' | '.join(c['metric'] for c in claims)} |", f"| --- {'| --- ' * len(claims)}|"]
    for name, *effects in zip(found["runs"], *(c["effects"] for c in claims)):
        lines.append(f"| {Path(name).name} | {' | '.join(f'{effect:+.4g}' for effect in effects)} |")
    return "\n".join([*lines, ""])
