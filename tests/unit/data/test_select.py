"""Orders of rows beside slow loops in float64, and on planted pools beside a random choice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tunesmith.data import select


def unheard(done: int, of: int) -> None:
    assert 0 < done <= of


def rows_of(num: int, width: int = 5, seed: int = 0) -> np.ndarray:
    return select.scaled(np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32))


def slow_k_centre(vectors: np.ndarray, num: int, first: int) -> tuple[list[int], list[float]]:
    rows = vectors.astype(np.float64)
    order, distance = [first], [np.inf]
    while len(order) < num:
        nearest = [min(float(np.linalg.norm(row - rows[t])) for t in order) for row in rows]
        nearest = [-1.0 if i in order else d for i, d in enumerate(nearest)]
        order.append(int(np.argmax(nearest)))
        distance.append(nearest[order[-1]])
    return order, distance


def slow_nearest_earlier(vectors: np.ndarray) -> list[tuple[float, int]]:
    rows = vectors.astype(np.float64)
    far = lambda i, j: float(np.linalg.norm(rows[i] - rows[j]))
    return [min(((far(i, j), j) for j in range(i)), default=(np.inf, -1)) for i in range(len(rows))]


def test_k_centre_is_a_double_loop_in_float64() -> None:
    unit = rows_of(60)
    order, distance = select.k_centre(unit, 25, 7, unheard)
    wanted, far = slow_k_centre(unit, 25, 7)
    assert order.tolist() == wanted
    np.testing.assert_allclose(distance, far, atol=1e-5)
    few, _ = select.k_centre(unit, 9, 7, unheard)
    assert few.tolist() == wanted[:9]  # nested


def test_mutant_that_looks_at_the_last_taken_row_alone_is_another_order() -> None:
    unit = rows_of(60).astype(np.float64)
    order = [7]
    while len(order) < 25:
        distance = np.linalg.norm(unit - unit[order[-1]], axis=1)
        distance[order] = -1
        order.append(int(distance.argmax()))
    assert order != slow_k_centre(unit, 25, 7)[0]


def test_k_centre_takes_no_row_twice_where_all_are_alike() -> None:
    order, _ = select.k_centre(np.ones((6, 3), np.float32) / np.float32(3**0.5), 6, 2, unheard)
    assert sorted(order.tolist()) == list(range(6))


def planted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """400 rows of ten kinds, of which one has 80 of 100 rows; and of each row its kind."""
    draw = np.random.default_rng(seed)
    kind = draw.choice(10, 400, p=[0.82, *[0.02] * 9])
    kind[:10] = range(10)
    centres = draw.normal(size=(10, 24)) * 3
    return select.scaled((centres[kind] + draw.normal(size=(400, 24))).astype(np.float32)), kind


@pytest.mark.parametrize("seed", range(5))
def test_diversity_finds_all_planted_kinds_and_chance_does_not(seed: int) -> None:
    unit, kind = planted(seed)
    drawn = select.by_hash(map(str, range(400)), seed)
    order, _ = select.k_centre(unit, 10, int(drawn[0]), unheard)
    assert len(set(kind[order])) == 10
    assert len(set(kind[drawn[:10]])) < 7
    assert select.radius(unit, order) < select.radius(unit, drawn[:10])


def test_radius_is_the_farthest_row() -> None:
    unit, taken = rows_of(700, seed=3), np.array([3, 50, 51])
    rows = unit.astype(np.float64)
    slow = max(min(float(np.linalg.norm(row - rows[t])) for t in taken) for row in rows)
    assert select.radius(unit, taken) == pytest.approx(slow, abs=1e-5)


def test_the_nearest_earlier_row_is_a_double_loop_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "BLOCK", 16)
    rows = rows_of(75, seed=1)
    distance, which = select.nearest_earlier(rows, unheard)
    wanted = slow_nearest_earlier(rows)
    np.testing.assert_allclose(distance, [far for far, _ in wanted], atol=1e-3)
    assert which.tolist() == [at for _, at in wanted]
    either = np.linalg.norm(rows[:, None] - rows[None], axis=2) + np.diag([9.0] * 75)
    assert which.tolist() != either.argmin(1).tolist()  # mutant: both of two alike would go


def test_what_is_said_twice_goes_first() -> None:
    draw = np.random.default_rng(0)
    once = draw.normal(size=(50, 16))
    again = once[:30] + draw.normal(size=(30, 16)) * 0.05
    rows = select.scaled(np.concatenate([once, again]).astype(np.float32))
    distance, which = select.nearest_earlier(rows, unheard)
    drawn = select.by_hash(map(str, range(80)), 0)
    kept = select.by_score(distance, drawn)[:50]
    assert sorted(kept.tolist()) == list(range(50))
    assert which[50:].tolist() == list(range(30))
    assert len({int(i) % 50 for i in drawn[:50]}) < 45  # by chance some are said twice and others never


def test_a_spread_is_one_and_keeps_the_lengths_of_rows() -> None:
    draw = np.random.default_rng(0)
    vectors = (draw.normal(size=(300, 8)) * 7 + 5).astype(np.float32)
    rows = select.scaled(vectors)
    assert float(np.square(rows).sum(1).mean()) == pytest.approx(1, abs=1e-4)
    far = np.linalg.norm(vectors[:150] - vectors[150:], axis=1)
    np.testing.assert_allclose(np.linalg.norm(rows[:150] - rows[150:], axis=1) / far, (rows[0, 0] - rows[1, 0]) / (
        vectors[0, 0] - vectors[1, 0]), rtol=1e-3)  # fmt: skip


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        (lambda ifd, drawn: select.by_difficulty(ifd, drawn), [1, 0, 3, 2]),
        (lambda ifd, drawn: select.by_score(ifd, drawn), [2, 3, 1, 0]),  # mutant: odd replies are no hard ones
    ],
)
def test_replies_that_belong_to_another_prompt_stand_last(
    order: Callable[[np.ndarray, np.ndarray], np.ndarray], wanted: list[int]
) -> None:
    ifd = np.array([0.3, 0.9, 4.0, 1.0])
    assert order(ifd, np.arange(4)).tolist() == wanted


def test_ties_are_drawn_and_the_seed_draws_them() -> None:
    ids = [f"row {i}" for i in range(40)]
    orders = {tuple(select.by_score(np.zeros(40), select.by_hash(ids, seed)).tolist()) for seed in range(3)}
    assert len(orders) == 3
    assert all(sorted(order) == list(range(40)) for order in orders)
