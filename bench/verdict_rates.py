"""Error rates of the verdict by simulation: false better-or-worse, coverage, power.

    python bench/verdict_rates.py [--per-kind 20000]
    python bench/verdict_rates.py --cells bleu:60:0.25 mcc:100:0.1 --num 6000    (only these: kind, units, discordance)

Appends a dated line to bench/results/verdict_rates.jsonl. The simulators call the package's own tests on batches;
tests/laws/test_verdict.py runs the same ones with fewer comparisons.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tunesmith.evals import counted, mcnemar, permutation, sets, stats
from tunesmith.evals.metrics import METRICS, mean_of

SIZES = (100, 200, 600)  # units of a comparison: cases, or groups where there are groups
SMALL = 60  # cases; of one tenth that differ, six are left (of groups of five, one)
DISCORDANCES = (0.1, 0.25, 0.5)
ALPHA = 0.05
ANNOUNCED = 2_000  # comparisons where the true effect is the announced one
FLIPS = 200  # enough for the level: 10 of 201 is just under 0.05
BATCH = 50  # comparisons that share their swaps, at most
BATCH_CASES = 12_000  # at most: what fits in a processor's cache
GROUP = 5  # cases of a group, where there are groups
RESULTS = Path(__file__).parent / "results" / "verdict_rates.jsonl"
Rng = np.random.Generator
Both = tuple[np.ndarray, np.ndarray]  # of base and tuned
Draw = Callable[..., Both]
Truth = Callable[[float, bool], float]


@dataclass(frozen=True)
class Kind:
    """`draw(rng, batch, n, discordance, better)` gives per-case statistics of base and tuned, [batch, n, K] each;
    `truth(discordance, better)` the effect in the population that it draws from."""

    value: Callable[[np.ndarray], np.ndarray]
    draw: Draw
    truth: Truth
    span: float = 1.0
    group: int = 1


# Right/wrong: won and lost of n cases.


def binary_counts(rng: Rng, num: int, n: int, discordance: float, effect: float) -> Both:
    won_rate, lost_rate = (discordance + effect) / 2, (discordance - effect) / 2
    counts = rng.multinomial(n, [won_rate, max(lost_rate, 0.0), 1 - discordance], size=num)
    return counts[:, 0], counts[:, 1]


def binary_rejects(rng: Rng, num: int, n: int, discordance: float, effect: float, shift: float = 0.0) -> float:
    """Share of comparisons that reject "the effect is shift"; with shift = effect it is 1 - coverage."""
    won, lost = binary_counts(rng, num, n, discordance, effect)
    return float((mcnemar.p_at(won, lost, n, shift) < ALPHA).mean())


# Means of case scores: where the two outputs differ, both scores are drawn from a skewed distribution.

BETA, BETTER_BETA = (0.5, 1.2), (0.9, 1.0)


def draw_mean(rng: Rng, batch: int, n: int, discordance: float, better: bool) -> Both:
    base = rng.beta(*BETA, size=(batch, n))
    fresh = rng.beta(*(BETTER_BETA if better else BETA), size=(batch, n))
    return as_mean(base, np.where(rng.random((batch, n)) < discordance, fresh, base))


def as_mean(base: np.ndarray, tuned: np.ndarray) -> Both:
    return np.stack([base, np.ones_like(base)], -1), np.stack([tuned, np.ones_like(tuned)], -1)


def truth_mean(discordance: float, better: bool) -> float:
    return discordance * (0.9 / 1.9 - 0.5 / 1.7) if better else 0.0


def draw_judged(rng: Rng, batch: int, n: int, discordance: float, better: bool) -> Both:
    """A judge's vote (or which of a pair is likelier): the tuned model gets 0, 1/2 or 1 of it, the base the rest."""
    wins = np.where(rng.random((batch, n)) < (0.7 if better else 0.5), 0.5, -0.5)
    share = 0.5 + np.where(rng.random((batch, n)) < discordance, wins, 0.0)
    return as_mean(1 - share, share)


def truth_judged(discordance: float, better: bool) -> float:
    return 0.4 * discordance if better else 0.0


def draw_grouped(rng: Rng, batch: int, n: int, discordance: float, better: bool) -> Both:
    """Right/wrong cases in groups that fare nearly alike: a model is right on a whole group or on none."""
    base = rng.random((batch, n // GROUP)) < 0.4
    fresh = rng.random((batch, n // GROUP)) < (0.7 if better else 0.4)
    # two draws of one rate differ in 0.48 of the groups
    tuned = np.where(rng.random(base.shape) < min(1.0, discordance / 0.48), fresh, base)
    wide = [np.repeat(side, GROUP, axis=1).astype(float) for side in (base, tuned)]
    noise = rng.random(wide[0].shape) < 0.05  # a case that goes its own way, for both models
    return as_mean(*(np.where(noise, 1.0 - side, side) for side in wide))


def truth_grouped(discordance: float, better: bool) -> float:
    return min(1.0, discordance / 0.48) * 0.3 * 0.9 if better else 0.0


# Labels: three classes of unequal size, the rest of the answers evenly wrong.

CLASSES = np.array([0.6, 0.3, 0.1])
RIGHT, BETTER_RIGHT = 0.5, 0.7


def answers(right: float) -> np.ndarray:
    """[C, C] P(answer | class)."""
    num = len(CLASSES)
    return np.full((num, num), (1 - right) / (num - 1)) + np.eye(num) * (right - (1 - right) / (num - 1))


REDRAW = 1 / (1 - float((answers(RIGHT)[0] ** 2).sum()))  # redraws per discordant output


def draw_labels(parts: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Draw:
    def draw(rng: Rng, batch: int, n: int, discordance: float, better: bool) -> Both:
        wanted = rng.choice(len(CLASSES), p=CLASSES, size=(batch, n))

        def answer(right: float) -> np.ndarray:
            wrong = (wanted + rng.integers(1, len(CLASSES), size=wanted.shape)) % len(CLASSES)
            return np.where(rng.random(wanted.shape) < right, wanted, wrong)

        base, fresh = answer(RIGHT), answer(BETTER_RIGHT if better else RIGHT)
        tuned = np.where(rng.random(wanted.shape) < min(1.0, discordance * REDRAW), fresh, base)
        return parts(base, wanted), parts(tuned, wanted)

    return draw


def f1_parts(given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    a, b = np.eye(len(CLASSES))[given], np.eye(len(CLASSES))[wanted]
    return np.concatenate([a * b, a, b], axis=-1)


def mcc_parts(given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    a, b = np.eye(len(CLASSES))[given], np.eye(len(CLASSES))[wanted]
    return np.concatenate([(given == wanted)[..., None] * 1.0, np.ones((*given.shape, 1)), a, b], axis=-1)


def truth_labels(
    parts: Callable[[np.ndarray, np.ndarray], np.ndarray], value: Callable[[np.ndarray], np.ndarray]
) -> Truth:
    def truth(discordance: float, better: bool) -> float:
        redrawn = min(1.0, discordance * REDRAW)
        base = answers(RIGHT)
        tuned = (1 - redrawn) * base + redrawn * answers(BETTER_RIGHT if better else RIGHT)
        places = np.indices(base.shape)
        wanted, given = places[0], places[1]
        every = parts(given, wanted)  # [C, C, K]
        sums = [(every * (CLASSES[:, None] * table)[..., None]).sum((0, 1)) * 1e6 for table in (base, tuned)]
        return float(value(sums[1]) - value(sums[0]))

    return truth


# Micro F1: an output is right, another label, or no label at all (which was not given).

RIGHT_WRONG_NONE, BETTER_RIGHT_WRONG_NONE = (0.5, 0.3, 0.2), (0.65, 0.3, 0.05)
SAME_AGAIN = sum(p * p for p in RIGHT_WRONG_NONE)


def draw_micro(rng: Rng, batch: int, n: int, discordance: float, better: bool) -> Both:
    base = rng.choice(3, p=RIGHT_WRONG_NONE, size=(batch, n))
    fresh = rng.choice(3, p=BETTER_RIGHT_WRONG_NONE if better else RIGHT_WRONG_NONE, size=(batch, n))
    tuned = np.where(rng.random(base.shape) < min(1.0, discordance / (1 - SAME_AGAIN)), fresh, base)
    return micro_parts(base), micro_parts(tuned)


def micro_parts(kind: np.ndarray) -> np.ndarray:
    return np.stack([kind == 0, kind < 2, np.ones_like(kind)], axis=-1).astype(float)


def truth_micro(discordance: float, better: bool) -> float:
    redrawn = min(1.0, discordance / (1 - SAME_AGAIN)) if better else 0.0
    every = micro_parts(np.arange(3))
    before, after = (every * np.array(p)[:, None] for p in (RIGHT_WRONG_NONE, BETTER_RIGHT_WRONG_NONE))
    mixed = (1 - redrawn) * before.sum(0) + redrawn * after.sum(0)
    return float(sets.f1(mixed) - sets.f1(before.sum(0)))


# Bits per byte: texts of very unequal length, of which short ones are harder; less is better, so a gain is a loss less.

GAIN = 0.9  # what a better model's bits are multiplied with


def draw_bits(rng: Rng, batch: int, n: int, discordance: float, better: bool) -> Both:
    sizes = np.ceil(rng.lognormal(4.5, 0.8, size=(batch, n)))

    def bits() -> np.ndarray:
        return sizes * (0.9 + 3 / np.sqrt(sizes)) * rng.gamma(20, 1 / 20, size=sizes.shape)

    base = bits()
    tuned = np.where(rng.random(sizes.shape) < discordance, bits() * (GAIN if better else 1.0), base)
    return np.stack([base, sizes], -1), np.stack([tuned, sizes], -1)


def truth_bits(discordance: float, better: bool) -> float:
    if not better:
        return 0.0
    sizes = np.ceil(np.random.default_rng(8).lognormal(4.5, 0.8, size=2_000_000))
    return float(discordance * (1 - GAIN) * (0.9 * sizes + 3 * np.sqrt(sizes)).sum() / sizes.sum())


# Texts: references of made-up words; an output keeps each word or replaces it.


def text_pool(stats_of: Callable, keep: float, num: int = 300, outputs: int = 4, seed: int = 5) -> np.ndarray:
    """[num, outputs, K] statistics of noisy copies of the same references."""
    words = np.random.default_rng(seed)
    vocabulary = ["".join(words.choice(list("abcdefghij"), size=words.integers(2, 8))) for _ in range(200)]
    zipf = 1 / np.arange(1, 201)
    references = [words.choice(vocabulary, p=zipf / zipf.sum(), size=words.integers(4, 16)) for _ in range(num)]
    rng = np.random.default_rng([seed, int(keep * 100)])
    rows = []
    for reference in references:
        texts = [
            " ".join(np.where(rng.random(len(reference)) < keep, reference, rng.choice(vocabulary, len(reference))))
            for _ in range(outputs)
        ]
        rows.append(stats_of(texts, [" ".join(reference)] * outputs))
    return np.array(rows)


def texts(stats_of: Callable, value: Callable[[np.ndarray], np.ndarray]) -> Kind:
    plain, good = text_pool(stats_of, 0.55), text_pool(stats_of, 0.75)
    num, outputs, _ = plain.shape
    redraws = outputs / (outputs - 1)  # per discordant output: one draw in `outputs` gives the same again

    def draw(rng: Rng, batch: int, n: int, discordance: float, better: bool) -> Both:
        case = rng.integers(num, size=(batch, n))
        base = plain[case, rng.integers(outputs, size=case.shape)]
        fresh = (good if better else plain)[case, rng.integers(outputs, size=case.shape)]
        return base, np.where((rng.random(case.shape) < discordance * redraws)[..., None], fresh, base)

    def truth(discordance: float, better: bool) -> float:
        a, b = plain.mean((0, 1)) * 1e6, (good if better else plain).mean((0, 1)) * 1e6
        return float(value(a + discordance * redraws * (b - a)) - value(a))

    return Kind(value, draw, truth, span=100.0)


def kinds() -> dict[str, Kind]:
    return {
        "mean": Kind(mean_of, draw_mean, truth_mean),
        "judge": Kind(mean_of, draw_judged, truth_judged),
        "groups": Kind(mean_of, draw_grouped, truth_grouped, group=GROUP),
        "macro_f1": Kind(counted.macro_f1, draw_labels(f1_parts), truth_labels(f1_parts, counted.macro_f1)),
        "mcc": Kind(counted.mcc, draw_labels(mcc_parts), truth_labels(mcc_parts, counted.mcc), span=2.0),
        "micro_f1": Kind(sets.f1, draw_micro, truth_micro),
        "bits_per_byte": Kind(METRICS["bits_per_byte"].gain, draw_bits, truth_bits, span=METRICS["bits_per_byte"].span),
        "bleu": texts(counted.bleu_stats, counted.bleu),
        "chrf": texts(counted.chrf_stats, counted.chrf),
    }


def rejects(
    kind: Kind,
    num: int,
    n: int,
    discordance: float,
    *,
    ask: Literal["level", "power", "coverage"] = "level",
    num_flips: int = FLIPS,
    change: Callable[[permutation.Flips], permutation.Flips] = lambda flips: flips,
) -> float:
    """Share of comparisons that reject "no effect" where there is none (level) or is one (power), or that reject the
    true effect where there is one (1 - coverage).

    `change` breaks the flips on purpose, for the mutants of the laws.
    """
    better, of_truth = ask != "level", ask == "coverage"
    rng = np.random.default_rng([0, n, int(discordance * 1000), better, of_truth])
    unit_n = None if kind.group == 1 else np.arange(n) // kind.group
    shift = kind.truth(discordance, better) if of_truth else 0.0
    found, most = 0, max(1, min(BATCH, BATCH_CASES // n))
    for start in range(0, num, most):
        batch = min(most, num - start)
        base, tuned = kind.draw(rng, batch, n, discordance, better)
        flips = permutation.flip(base, tuned, kind.value, kind.span, unit_n, num_flips, seed=int(rng.integers(2**31)))
        found += int((permutation.p_at(change(flips), shift) < ALPHA).sum())
    return found / num


def cells(kind: Kind) -> list[tuple[int, float]]:
    """(cases, discordance) of the nine cells."""
    return [(size * kind.group, d) for size in SIZES for d in DISCORDANCES]


def cases_for_power(kind: Kind, discordance: float) -> int:
    """How many cases it takes for the true effect to be the one that is announced as found four times in five, from
    the spread of 20,000 cases."""
    base, tuned = kind.draw(np.random.default_rng(3), 1, 20_000, discordance, True)
    unit_n = None if kind.group == 1 else np.arange(20_000) // kind.group
    flips = permutation.flip(base, tuned, kind.value, kind.span, unit_n, num_flips=1)
    announced = stats.detectable_mean(stats.standard_error(flips.contribution_G[0]), ALPHA)
    return round(20_000 * (announced / kind.truth(discordance, True)) ** 2 / kind.group) * kind.group


def binary_rows(num: int, seed: int = 0) -> list[dict[str, float | str]]:
    rng = np.random.default_rng(seed)
    rows: list[dict[str, float | str]] = []
    for n in (SMALL, *SIZES):
        for d in DISCORDANCES:
            half = d / 2
            detectable = stats.detectable_binary(n, d, ALPHA)
            row: dict[str, float | str] = {"kind": "binary", "n": n, "discordance": d, "comparisons": num}
            row["false"] = binary_rejects(rng, num, n, d, 0.0)
            row["coverage"] = 1 - binary_rejects(rng, num, n, d, half, half)
            row["detectable"] = round(detectable, 4)
            row["power"] = binary_rejects(rng, num, n, max(d, detectable), detectable)
            rows.append(row)
    return rows


def cell_row(name: str, kind: Kind, n: int, discordance: float, num: int) -> dict[str, float | str]:
    false = rejects(kind, num, n, discordance)
    missed = rejects(kind, num, n, discordance, ask="coverage")
    row: dict[str, float | str] = {"kind": name, "n": n, "units": n // kind.group, "discordance": discordance}
    row |= {"comparisons": num, "false": false, "coverage": 1 - missed}
    return row | {"effect": round(kind.truth(discordance, True), 4)}


def again(wanted: list[str], num: int) -> list[dict[str, float | str]]:
    rows, known = [], kinds()
    for name, units, discordance in (cell.split(":") for cell in wanted):
        kind = known[name]
        rows.append(cell_row(name, kind, int(units) * kind.group, float(discordance), num))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def append(per_cell: int, rows: list[dict[str, float | str]], seconds: float) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    facts = {"date": datetime.date.today().isoformat(), "alpha": ALPHA, "flips": FLIPS, "per_cell": per_cell}
    with RESULTS.open("a") as out:
        out.write(json.dumps(facts | {"seconds": round(seconds, 1), "rows": rows}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", nargs="*", help="KIND:UNITS:DISCORDANCE, only these")
    parser.add_argument("--num", type=int, default=6_000, help="comparisons for each of --cells")
    parser.add_argument("--kinds", nargs="*", help="only these, without right/wrong")
    parser.add_argument("--per-kind", type=int, default=20_000, help="comparisons per kind, over the nine cells")
    said = parser.parse_args()
    per_cell = -(-said.per_kind // 9)
    began = time.perf_counter()
    if said.cells:
        rows = again(said.cells, said.num)
        append(said.num, rows, time.perf_counter() - began)
        return
    rows = [] if said.kinds else binary_rows(10_000)
    for name, kind in kinds().items():
        if said.kinds and name not in said.kinds:
            continue
        for n, d in [*((SMALL, d) for d in DISCORDANCES), *cells(kind)]:
            row = cell_row(name, kind, n, d, per_cell)
            rows.append(row | {"power": rejects(kind, max(per_cell // 5, 1), n, d, ask="power")})
            print(json.dumps(rows[-1]), flush=True)
        num_cases = cases_for_power(kind, 0.5)
        row = {"kind": name, "n": num_cases, "discordance": 0.5, "comparisons": ANNOUNCED, "announced": 0.8}
        rows.append(row | {"power": rejects(kind, ANNOUNCED, num_cases, 0.5, ask="power")})
        print(json.dumps(rows[-1]), flush=True)
    append(per_cell, rows, time.perf_counter() - began)


if __name__ == "__main__":
    main()
