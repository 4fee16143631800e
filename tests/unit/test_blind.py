"""The blind sheet: nothing on it tells whose an answer is, and what is read back is what people chose."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from openpyxl import load_workbook
from tests.runs.mistakes import typed
from tests.unit.report import run_folders

from tunesmith import blind
from tunesmith.data import ingest
from tunesmith.data.rows import rows
from tunesmith.data.write import write_rows
from tunesmith.errors import InputError
from tunesmith.types import Pair


def run(folder: Path, num: int = 30, num_equal: int = 6) -> Path:
    """A run whose base says "base k …" and whose tuned model says "tuned k …", but for some equal answers."""
    cases = [
        run_folders.case(
            k, 0.0, 1.0, prompt=f"=1+{k}", base_output=f"same {k}" if k < num_equal else f"-base {k}",
            tuned_output=f"same {k} " if k < num_equal else f"=tuned {k}",
        )
        for k in range(num)
    ]  # fmt: skip
    return run_folders.make(folder, cases=cases)


def filled(sheet: Path, out: Path, choose: Callable[[str, str, int], str]) -> Path:
    """The sheet as a person leaves it; `choose` gets both answers and the number of the line."""
    lines = [dict(row, choice=choose(str(row["A"]), str(row["B"]), n)) for n, (_, row) in enumerate(rows(sheet))]  # type: ignore[misc]
    write_rows(out, lines, {name: {str} for name in blind.COLUMNS})
    return out


def likes(word: str) -> Callable[[str, str, int], str]:
    return lambda a, b, n: "A" if word in a else "b"


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_the_sheet_is_blind_shuffled_and_read_back(kind: str, tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    sheet, key = tmp_path / f"sheet.{kind}", tmp_path / "key.json"
    made = blind.write(folder, sheet, key, num_cases=20, seed=1)
    assert blind.Key.read(key) == made
    lines = [row for _, row in rows(sheet)]  # type: ignore[misc]
    assert len(lines) == len(made.placed) == 20
    firsts = ["tuned" in str(row["A"]) for row in lines]
    assert 4 < sum(firsts) < 16  # both stand first
    order = [p.contest.example_id for p in made.placed]
    assert order != sorted(order)
    assert blind.choices(filled(sheet, tmp_path / "done.csv", likes("tuned")), made) == {
        p.case: 1.0 for p in made.placed
    }
    found = blind.judged([tmp_path / "done.csv"], made)
    num = 20 + len(made.ties)
    assert found["win_rate"] == pytest.approx((20 + len(made.ties) / 2) / num)
    assert found["wins"] == {"tuned": 20, **({"tie": len(made.ties)} if made.ties else {})}
    assert found["decision"] == "better"
    found = blind.judged([filled(sheet, tmp_path / "other.csv", likes("base"))], made)
    assert (found["decision"], found["interval"][1] < 0.5) == ("worse", True)


def test_no_text_is_a_formula(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    blind.write(folder, tmp_path / "s.xlsx", tmp_path / "k.json", 5, seed=0)
    page = load_workbook(tmp_path / "s.xlsx").active
    assert "f" not in {c.data_type for row in page.iter_rows() for c in row}
    assert page["B2"].value.startswith("=1+")
    assert page.data_validations.dataValidation[0].formula1 == '"A,B,tie"'
    blind.write(folder, tmp_path / "s.csv", tmp_path / "k2.json", 5, seed=0)
    texts = [row[name] for _, row in rows(tmp_path / "s.csv") for name in ("prompt", "A", "B")]  # type: ignore[misc]
    assert all(text.startswith("'") for text in texts)


def test_two_sheets_are_drawn_apart(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    one, two = (blind.write(folder, tmp_path / f"{n}.csv", tmp_path / f"{n}.json", 20) for n in "ab")
    assert [p.a for p in one.placed] != [p.a for p in two.placed] or one.placed != two.placed
    assert {p.contest.example_id for p in one.placed} == {p.contest.example_id for p in two.placed}


def test_raters_agree_or_not(tmp_path: Path) -> None:
    """Two people by hand: of 10 cases both say tuned in 4, both base in 3, and differ in 3: kappa (.7 - .5) / .5."""
    folder = run(tmp_path / "run", num=10, num_equal=0)
    made = blind.write(folder, tmp_path / "s.csv", tmp_path / "k.json", 10, seed=0)

    def person(num: int) -> Callable[[str, str, int], str]:
        likes_tuned = (0, 1, 2, 3, *((4, 5) if num == 0 else (6,)))
        return lambda a, b, n: likes("tuned" if n in likes_tuned else "base")(a, b, n)

    sheets = [filled(tmp_path / "s.csv", tmp_path / f"p{k}.csv", person(k)) for k in (0, 1)]
    found = blind.judged(sheets, made)
    chance = 0.6 * 0.5 + 0.4 * 0.5
    assert (found["kappa_kind"], found["agreement"]) == ("Cohen", pytest.approx(0.7))
    assert found["kappa"] == pytest.approx((0.7 - chance) / (1 - chance))
    assert found["wins"] == {"tuned": 4, "base": 3, "tie": 3}  # those who differ make a tie
    out = tmp_path / "pairs.jsonl"
    assert blind.preferences(sheets, made, out) == 7
    pairs = [e.target for e in ingest.read([out]).examples]
    assert all(isinstance(p, Pair) for p in pairs)
    assert sum("tuned" in p.chosen.content and "base" in p.rejected.content for p in pairs) == 4  # type: ignore[union-attr]


def test_fleiss_of_the_literature() -> None:
    """Fleiss 1971, as in the worked example of ten subjects and fourteen raters: 0.210."""
    counts = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    votes = [[float(k) for k, n in enumerate(row) for _ in range(n)] for row in counts]
    assert blind.fleiss_kappa(votes) == pytest.approx(0.210, abs=5e-4)
    assert blind.fleiss_kappa([[1.0, 1.0], [1.0, 1.0]]) is None


def test_people_who_choose_at_random_find_no_winner(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", num=60, num_equal=0)
    made = blind.write(folder, tmp_path / "s.csv", tmp_path / "k.json", 60, seed=0)
    wrong = 0
    for seed in range(40):
        rng = random.Random(seed)
        done = tmp_path / f"{seed}.csv"
        filled(tmp_path / "s.csv", done, lambda a, b, n, rng=rng: rng.choice(["A", "B", "tie"]))  # type: ignore[misc]
        wrong += blind.judged([done], made)["decision"] in ("better", "worse")
    assert wrong <= 5  # 2 are expected at level 0.05; 6 or more come once in 70 such tests


def test_who_always_takes_the_first_place_is_noticed(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    made = blind.write(folder, tmp_path / "s.csv", tmp_path / "k.json", 24, seed=0)
    found = blind.judged([filled(tmp_path / "s.csv", tmp_path / "a.csv", lambda a, b, n: "A")], made)
    assert (found["share_a"], found["share_a_p"] < 0.001) == (1.0, True)
    assert found["decision"] not in ("better", "worse")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row | {"choice": "C"}, "the choice is 'C'"),
        (lambda row: row | {"case": "c0000-1"}, "key of another sheet"),
        (lambda row: {k: v for k, v in row.items() if k != "choice"}, "no column 'choice'"),
        (lambda row: row | {"choice": " "}, "no choice yet"),
    ],
)
def test_wrong_sheets(change, message: str, tmp_path: Path) -> None:
    made = blind.write(run(tmp_path / "run"), tmp_path / "s.csv", tmp_path / "k.json", 5, seed=0)
    lines = [change(dict(row, choice="A")) for _, row in rows(tmp_path / "s.csv")]  # type: ignore[misc]
    write_rows(tmp_path / "bad.csv", lines, {name: {str} for name in lines[0]})
    with pytest.raises(InputError, match=message):
        blind.judged([tmp_path / "bad.csv"], made)


def test_as_typed(tmp_path: Path) -> None:
    folder, sheet = run(tmp_path / "run"), tmp_path / "choices.csv"
    said = typed(["judge", str(folder), "--sheet", str(sheet), "--cases", "8"])
    assert said.code == 0, said.text
    assert "choices.key.json: which is which" in said.text
    assert typed(["judge", str(folder), "--sheet", str(sheet)]).code == 2  # it is there already
    done = filled(sheet, tmp_path / "done.csv", lambda a, b, n: "" if n == 0 else likes("tuned")(a, b, n))
    key = str(tmp_path / "choices.key.json")
    said = typed(["judge", "--read", str(done), "--key", key, "--preferences", str(tmp_path / "p.jsonl")])
    assert said.code == 0, said.text
    assert "tuned is preferred to base in" in said.text
    assert "1 cases of the sheet have no choice" in said.text
    assert "7 pairs" in said.text
    found = json.loads(typed(["judge", "--read", str(done), "--key", key, "--json"]).out)
    assert (found["wins"]["tuned"], found["num_raters"]) == (7, 1)
    for words in ([], [str(folder)], ["--read", str(done)], ["--sheet", str(sheet)]):
        assert typed(["judge", *words]).code == 2
