"""Runs side by side: paired on the cases that all held out, intervals that agree with Holm."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.unit.report import run_folders

from tunesmith.compared import compare_runs
from tunesmith.errors import InputError
from tunesmith.evals.mcnemar import p_at
from tunesmith.evals.stats import holm, holm_levels


def run(folder: Path, rights: list[int], first: int = 0, **verdict: object) -> Path:
    """A run whose tuned model is right where `rights` is 1; the base is always wrong."""
    cases = [run_folders.case(first + i, 0.0, float(r)) for i, r in enumerate(rights)]
    return run_folders.make(folder, cases=cases, verdict={**run_folders.VERDICT, **verdict})


def test_two_runs_by_hand(tmp_path: Path) -> None:
    """10 both right, 12 only the second, 2 only the first, 16 neither: McNemar on 12 against 2."""
    one = run(tmp_path / "one", [1] * 10 + [0] * 12 + [1] * 2 + [0] * 16)
    two = run(tmp_path / "two", [1] * 10 + [1] * 12 + [0] * 2 + [0] * 16)
    found = compare_runs([one, two])
    (pair,) = found.pairs
    assert (found.num_cases, pair.num_better, pair.num_worse) == (40, 12, 2)
    assert pair.effect == pytest.approx(10 / 40)
    assert pair.p == pair.p_holm == pytest.approx(p_at(12, 2, 40, 0.0))
    assert (pair.level, pair.decision) == (0.05, "better")
    assert "The tuned model of B is better than that of A" in pair.claim
    assert (found.sides[0].tuned, found.sides[1].tuned) == (12 / 40, 22 / 40)
    assert compare_runs([two, one]).pairs[0].decision == "worse"
    assert found.notes == ()
    assert len(found.cases) == 40


def test_the_order_of_a_file_does_not_pair_cases(tmp_path: Path) -> None:
    rights = [1, 0, 1, 0, 0, 1, 1, 0]
    one = run(tmp_path / "one", rights)
    rows = [run_folders.case(i, 0.0, float(r)) for i, r in enumerate(rights)]
    random.Random(0).shuffle(rows)
    two = run_folders.make(tmp_path / "two", cases=rows)
    pair = compare_runs([one, two]).pairs[0]
    assert (pair.effect, pair.num_better, pair.num_worse) == (0.0, 0, 0)
    assert pair.decision in ("too few cases", "no relevant difference")


def test_dialogues_are_compared_turn_by_turn(tmp_path: Path) -> None:
    """By hand: half better, half better, half worse. A mutant that scores transcripts finds no difference."""

    def dialogue(number: int, *said: str) -> dict[str, object]:
        turns = [{"reference": "yes", "base_output": "no", "tuned_output": text} for text in said]
        return run_folders.case(number, 0.0, said.count("yes") / len(said), turns=turns)

    sides = [[("yes", "no"), ("no", "no"), ("yes", "yes")], [("yes", "yes"), ("yes", "no"), ("no", "yes")]]
    folders = [
        run_folders.make(tmp_path / str(k), cases=[dialogue(i, *said) for i, said in enumerate(side)])
        for k, side in enumerate(sides)
    ]
    (pair,) = compare_runs(folders).pairs
    assert (pair.num_better, pair.num_worse) == (2, 1)
    assert pair.effect == pytest.approx(0.5 / 3)
    assert [line[:5] for line in pair.largest] == ["+0.50", "+0.50", "-0.50"]


def test_other_test_sets_are_said_or_refused(tmp_path: Path) -> None:
    one, two = run(tmp_path / "one", [1] * 30), run(tmp_path / "two", [1] * 30, first=20)
    found = compare_runs([one, two])
    assert found.num_cases == 10
    assert "test sets differ (A 30, B 30 cases): the 10 cases" in found.notes[0]
    with pytest.raises(InputError, match="share no held-out case"):
        compare_runs([one, run(tmp_path / "three", [1] * 30, first=90)])


def test_mistakes(tmp_path: Path) -> None:
    one = run(tmp_path / "one", [1, 0] * 5)
    with pytest.raises(InputError, match="two or more"):
        compare_runs([one])
    with pytest.raises(InputError, match="different metrics"):
        compare_runs([one, run(tmp_path / "two", [1, 0] * 5, metric="token_f1")])
    assert compare_runs([one, tmp_path / "two"], "exact_match").metric == "exact_match"
    with pytest.raises(InputError, match="no metric 'nice'"):
        compare_runs([one, one], "nice")
    half = run_folders.make(tmp_path / "half", verdict=None)
    with pytest.raises(InputError, match="no verdict"):
        compare_runs([one, half])


def test_several_runs_are_corrected_by_holm(tmp_path: Path) -> None:
    """Each interval is at the level at which Holm looks at it, and leaves 0 out exactly where Holm rejects."""
    rng = random.Random(3)
    first = [int(rng.random() < 0.5) for _ in range(60)]
    folders = [run(tmp_path / "a", first)]
    for name, flips in (("b", 7), ("c", 25)):  # 7 wrong ones become right; 1 right one wrong
        rights, wrong = list(first), [i for i, r in enumerate(first) if not r]
        for i in wrong[:flips]:
            rights[i] = 1
        rights[first.index(1)] = 0
        folders.append(run(tmp_path / name, rights))
    found = compare_runs(folders)
    assert [p.p_holm for p in found.pairs] == holm([p.p for p in found.pairs])
    assert [p.first + p.second for p in found.pairs] == ["AB", "AC", "BC"]
    assert sorted(p.level for p in found.pairs) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])
    for pair in found.pairs:
        low, high = pair.interval
        assert (low > 0 or high < 0) == (pair.p_holm < 0.05), pair
    assert "flattered" in found.notes[-1]


@pytest.mark.parametrize("seed", range(200))
def test_a_level_rejects_where_holm_does(seed: int) -> None:
    rng = random.Random(seed)
    p_values = [rng.random() ** rng.choice((1, 3, 6)) for _ in range(rng.randint(1, 6))]
    levels = holm_levels(p_values, 0.05)
    assert [p < level for p, level in zip(p_values, levels)] == [p < 0.05 for p in holm(p_values)]


def test_recipes_are_told_apart(tmp_path: Path) -> None:
    one, two = run(tmp_path / "one", [1, 0] * 5), run(tmp_path / "two", [1, 0] * 5)
    (two / "recipe.yaml").write_text("model: smollm2-135m-instruct\ntrain:\n  lr: 0.01\n  epochs: 4\n")
    differences = compare_runs([one, two]).differences
    assert differences == {"train.lr": ("auto", "0.01"), "train.epochs": ("(default)", "4")}


def claims(*rows: tuple[str, float]) -> list[dict[str, object]]:
    return [{"metric": name, "smallest_that_matters": matters} for name, matters in rows]


def test_all_primary_metrics_that_the_runs_share_are_compared(tmp_path: Path) -> None:
    """12 against 4 has p = 0.049: shown on one metric, not on two."""
    rights = [1] * 10 + [0] * 12 + [1] * 4 + [0] * 16, [1] * 10 + [1] * 12 + [0] * 4 + [0] * 16
    several = claims(("accuracy", 0.03), ("exact_match", 0.02), ("bits_per_byte", 0.02))
    one, two = (run(tmp_path / n, r, claims=several) for n, r in zip(("one", "two"), rights))
    alone = compare_runs([one, two], "accuracy")
    assert [(p.metric, p.level, p.decision) for p in alone.pairs] == [("accuracy", 0.05, "better")]
    found = compare_runs([one, two])
    assert [p.metric for p in found.pairs] == ["accuracy", "exact_match"]
    assert [p.p_holm for p in found.pairs] == holm([p.p for p in found.pairs])
    for pair in found.pairs:  # a mutant without Holm says "better" of both
        assert (pair.p, pair.level, pair.decision) == (alone.pairs[0].p, 0.025, "too few cases")
        assert pair.interval[0] < 0 < alone.pairs[0].interval[0]
        assert "by Holm over 2 comparisons" in pair.how
    assert found.smallest_that_matters == 0.03
    assert any(note.startswith("bits_per_byte is a primary metric of these runs too") for note in found.notes)
    fewer = run(tmp_path / "three", rights[0], claims=claims(("accuracy", 0.02)))
    assert [p.metric for p in compare_runs([one, fewer]).pairs] == ["accuracy"]
    with pytest.raises(InputError, match="bits_per_byte cannot be worked out"):
        compare_runs([one, two], "bits_per_byte")
