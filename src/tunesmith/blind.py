"""A sheet on which people choose between two answers without knowing whose they are, and what their choices say.

The cases stand in a drawn order, and which model is A is drawn for each. Which is which is in the key, a file of its
own that raters do not get. Equal answers are a tie that nobody is asked about.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from tunesmith import evaluations
from tunesmith.data.rows import Rejected, rows
from tunesmith.data.sheet import write_sheet
from tunesmith.data.write import write_rows
from tunesmith.errors import InputError
from tunesmith.evals.compare import Cases, Rules, decide, measure
from tunesmith.evals.judge import cohens_kappa
from tunesmith.evals.metrics import METRICS
from tunesmith.files import read_json, write_json
from tunesmith.report.facts import read_cases

COLUMNS = ("case", "prompt", "A", "B", "choice", "comment")
CHOICES = ("A", "B", "tie")
TIE = "tie"


@dataclass(frozen=True, slots=True)
class Contest:
    """One case with the answers of both models."""

    example_id: str
    group: str | None
    prompt: str
    answers: tuple[str, str]  # of the models, in the order of their names


@dataclass(frozen=True, slots=True)
class Placed:
    """A case of the sheet: `a` is the number of the model whose answer is A."""

    case: str  # as it stands on the sheet
    a: int
    contest: Contest


@dataclass(frozen=True, slots=True)
class Key:
    """Which is which. `ties`: cases whose answers are equal."""

    models: tuple[str, str]  # the second is the one that is to win: tuned, or the first that `evaluate` named
    placed: tuple[Placed, ...]
    ties: tuple[Contest, ...]

    def lines(self) -> list[dict[str, str]]:
        """Of the sheet, without choices."""
        return [
            dict(zip(COLUMNS, (p.case, p.contest.prompt, p.contest.answers[p.a], p.contest.answers[1 - p.a], "", "")))
            for p in self.placed
        ]

    @classmethod
    def read(cls, path: Path) -> Key:
        if not path.is_file():
            raise InputError(f"there is no key {path}: `tunesmith judge RUN --sheet FILE` wrote it beside the sheet")
        found = read_json(path)
        try:
            placed = tuple(Placed(p["case"], p["a"], contest(p["contest"])) for p in found["placed"])
            return cls((found["models"][0], found["models"][1]), placed, tuple(map(contest, found["ties"])))
        except (KeyError, TypeError, IndexError) as error:
            raise InputError(f"{path} is no key that `tunesmith judge --sheet` wrote ({error!r} is missing)") from error


def contest(row: Mapping[str, Any]) -> Contest:
    return Contest(row["example_id"], row["group"], row["prompt"], (row["answers"][0], row["answers"][1]))


def contests(folder: Path) -> tuple[tuple[str, str], list[Contest]]:
    """(names, cases) of a run's base and tuned model, or of the two models of an evaluation."""
    if evaluations.is_evaluation(folder):
        found = evaluations.read(folder)
        if len(found.models) != 2:
            raise InputError(f"{folder} is about one model; a choice is between two: tunesmith evaluate … --against …")
        return (found.models[1], found.models[0]), [
            Contest(r["example_id"], r["group"] or None, r["prompt"], (r["against_output"], r["output"]))
            for r in found.rows
        ]
    cases = read_cases(folder / "scores" / "cases.parquet") or ()
    if not cases or any(c.tuned_output is None for c in cases):
        raise InputError(
            f"{folder} holds no answers of two models; wanted the folder of a finished run, or of `tunesmith evaluate` "
            "with --against"
        )
    pairs = [
        Contest(c.example_id, c.group or None, c.prompt, (c.base_output or "", c.tuned_output or "")) for c in cases
    ]
    return ("base", "tuned"), pairs


def write(folder: Path, sheet: Path, key: Path, num_cases: int, seed: int | None = None) -> Key:
    """A sheet of at most `num_cases` cases with different answers, and its key. `seed`: for tests; drawn without one.

    Cases are taken by the hash of their ids until there are enough that differ; equal ones met on the way are ties.
    """
    check_free(sheet, key)
    if num_cases < 1:
        raise InputError(f"--cases is {num_cases}; at least one case is wanted")
    names, found = contests(folder)
    different: list[Contest] = []
    ties: list[Contest] = []
    for one in sorted(found, key=lambda c: sha256(c.example_id.encode()).digest()):
        if len(different) == num_cases:
            break
        (ties if one.answers[0].strip() == one.answers[1].strip() else different).append(one)
    if not different:
        raise InputError(f"both models of {folder} answered all {len(found)} cases alike: there is nothing to choose")
    random = Random(secrets.randbits(64) if seed is None else seed)
    random.shuffle(different)
    mark = marked(random)
    placed = tuple(Placed(f"{mark}-{n}", random.randrange(2), one) for n, one in enumerate(different, 1))
    made = Key(names, placed, tuple(ties))
    to_fill_in(sheet, COLUMNS, made.lines(), {"choice": CHOICES})
    write_json(key, asdict(made))
    return made


def check_free(sheet: Path, *others: Path) -> None:
    """InputError where something would be overwritten, or the sheet's name does not say how it is written."""
    for path in (sheet, *others):
        if path.exists():
            raise InputError(f"{path} is there already: name another file, or move this one away")
    if sheet.suffix.lower() not in (".xlsx", ".csv"):
        raise InputError(f"{sheet}: its name must end in .xlsx or .csv, which says how it is written")


def marked(random: Random) -> str:
    """Of a sheet: a key of another one is noticed; c: it is no date or number."""
    return f"c{random.getrandbits(16):04x}"


def to_fill_in(
    sheet: Path, columns: Sequence[str], lines: Sequence[Mapping[str, str]], choices: Mapping[str, Sequence[str]]
) -> None:
    """`choices`: column -> what may be chosen there, where the file can say it."""
    sheet.parent.mkdir(parents=True, exist_ok=True)
    if sheet.suffix.lower() == ".xlsx":
        write_sheet(sheet, columns, lines, choices)
    else:
        write_rows(sheet, [{k: unevaluated(v) for k, v in line.items()} for line in lines], {c: {str} for c in columns})


def unevaluated(text: str) -> str:
    """As spreadsheet programs show it and do not compute it: they take = + - @ at the start for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def cells(path: Path, name: str, value: str, known: Collection[str]) -> dict[str, tuple[int, str]]:
    """What a person filled in: row -> (line, text). `name` and `value`: columns; `known`: the rows of the key."""
    found: dict[str, tuple[int, str]] = {}
    for item in rows(path):
        if isinstance(item, Rejected):
            raise InputError(f"{path}:{item.line}: {item.reason}")
        line, row = item
        missing = [n for n in (name, value) if n not in row]
        if missing:
            raise InputError(f"{path} has no column {missing[0]!r}; wanted is the sheet as it was written, filled in")
        which, said = (str(row[n] if row[n] is not None else "").strip() for n in (name, value))
        if which not in known:
            raise InputError(f"{path}:{line}: the key knows no {name} {which!r}: is it the key of another sheet?")
        if which in found:
            raise InputError(f"{path}:{line}: the {name} {which} stands there twice")
        found[which] = line, said
    return found


def choices(path: Path, key: Key) -> dict[str, float]:
    """Case -> 1 where the second model was chosen, 0 the first, 1/2 a tie; cases without a choice are left out."""
    there = {p.case: p for p in key.placed}
    found: dict[str, float] = {}
    for case, (line, choice) in cells(path, "case", "choice", there).items():
        if not choice:
            continue
        if choice.casefold() not in ("a", "b", TIE):
            raise InputError(f"{path}:{line}: the choice is {choice!r}; wanted one of {', '.join(CHOICES)}, or nothing")
        chosen_a = there[case].a if choice.casefold() == "a" else 1 - there[case].a
        found[case] = 0.5 if choice.casefold() == TIE else float(chosen_a)
    if not found:
        raise InputError(f"{path} holds no choice yet: the column 'choice' is empty")
    return found


def judged(sheets: Sequence[Path], key: Key, alpha: float = 0.05) -> dict[str, Any]:
    """What the filled sheets say: win rate with interval, decision, agreement, favour for a side.

    A case counts once, with the mean of its raters' choices; ties count half, those of equal answers too.
    """
    read = [choices(path, key) for path in sheets]
    shares = [(p.contest, mean_of([r[p.case] for r in read if p.case in r])) for p in key.placed]
    seen = [(c, s) for c, s in shares if s is not None] + [(c, 0.5) for c in key.ties]
    groups = [c.group for c, _ in seen]
    outputs = [(1 - s,) for _, s in seen], [(s,) for _, s in seen]
    cases = Cases([None] * len(seen), *outputs, groups if any(groups) else None)
    metric = METRICS["judge"]
    found = measure(cases, metric, Rules(alpha=alpha))
    low, high = found.interval
    return {
        "models": list(key.models),
        "num_cases": len(seen),
        "num_equal": len(key.ties),
        "num_without_choice": sum(s is None for _, s in shares),
        "num_raters": len(read),
        "win_rate": found.tuned,
        "interval": ((1 + low) / 2, (1 + high) / 2),
        "p": found.p,
        "test": found.test,
        "decision": decide(found.interval, metric.matters),
        "wins": dict(Counter(verdict_on(s, key.models) for _, s in seen)),
        **agreement(read),
        **favour(read, key),
    }


def mean_of(votes: Sequence[float]) -> float | None:
    return sum(votes) / len(votes) if votes else None


def verdict_on(share: float, models: tuple[str, str]) -> str:
    return TIE if share == 0.5 else models[share > 0.5]


def agreement(read: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far raters say the same of cases that several of them judged: Cohen's kappa of two, Fleiss' of more."""
    both = [[r[case] for r in read if case in r] for case in sorted({c for r in read for c in r})]
    both = [votes for votes in both if len(votes) > 1]
    if not both:
        return {"num_shared": 0, "agreement": None, "kappa": None, "kappa_kind": None}
    same = [mean_of([float(a == b) for a, b in combinations(votes, 2)]) or 0.0 for votes in both]
    two = len(read) == 2
    kappa = cohens_kappa([(str(a), str(b)) for a, b in both]) if two else fleiss_kappa(both)
    return {
        "num_shared": len(both), "agreement": mean_of(same), "kappa": kappa,
        "kappa_kind": "Cohen" if two else "Fleiss",
    }  # fmt: skip


def fleiss_kappa(votes: Sequence[Sequence[Any]]) -> float | None:
    """Fleiss 1971, with as many raters a case as there are (two or more); None where all always say one thing."""
    counts = [Counter(v) for v in votes]
    total = Counter[Any]()
    for count in counts:
        total.update(count)
    chance = sum((n / total.total()) ** 2 for n in total.values())
    observed = sum(sum(n * (n - 1) for n in c.values()) / (c.total() * (c.total() - 1)) for c in counts) / len(counts)
    return None if chance == 1 else (observed - chance) / (1 - chance)


def favour(read: Sequence[Mapping[str, float]], key: Key) -> dict[str, Any]:
    """How often A was chosen where a side was: far from one half, raters followed the place and not the answer."""
    firsts = [float(r[p.case] == p.a) for r in read for p in key.placed if p.case in r and r[p.case] != 0.5]
    if not firsts:
        return {"share_a": None, "share_a_p": None}
    from scipy.stats import binomtest  # a second to import

    found = binomtest(round(sum(firsts)), len(firsts))
    return {"share_a": mean_of(firsts), "share_a_p": float(found.pvalue)}


def preferences(sheets: Sequence[Path], key: Key, out: Path) -> int:
    """Writes prompt, chosen and rejected, a line for each case on which raters lean to a side; how many there are."""
    if out.exists():
        raise InputError(f"{out} is there already: name another file, or move this one away")
    if out.suffix.lower() != ".jsonl":
        raise InputError(f"{out}: a preference file is JSON lines: its name must end in .jsonl")
    read = [choices(path, key) for path in sheets]
    lines = []
    for placed in key.placed:
        share = mean_of([r[placed.case] for r in read if placed.case in r])
        if share is not None and share != 0.5:
            one, better = placed.contest, int(share > 0.5)
            row = {"prompt": one.prompt, "chosen": one.answers[better], "rejected": one.answers[1 - better]}
            lines.append(row | ({"group": one.group} if one.group else {}))
    if lines:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines), encoding="utf-8")
    return len(lines)
