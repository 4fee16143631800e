"""Marks of the charts stand where the numbers say."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.report import charts


def numbers(svg: str, tag: str, css: str, *names: str) -> list[float]:
    (found,) = re.findall(rf'<{tag} [^>]*class="{css}"[^>]*>', svg)
    return [float(re.findall(rf'\b{n}="([-\d.]+)"', found)[0]) for n in names]


def test_effect_stands_between_its_ends_and_right_of_zero() -> None:
    svg = str(charts.effect_plot(0.3, (0.1, 0.4), 0.05, "good", "an effect"))
    low, high = numbers(svg, "line", "bar good", "x1", "x2")
    (effect,) = numbers(svg, "circle", "dot good", "cx")
    (zero,) = numbers(svg, "line", "zero", "x1")
    x, wide = numbers(svg, "rect", "margin", "x", "width")
    scale = (high - low) / 0.3  # of 0.1 to 0.4
    assert effect == pytest.approx(low + 0.2 * scale, abs=0.2)
    assert zero == pytest.approx(low - 0.1 * scale, abs=0.2)
    assert (x, wide) == (pytest.approx(zero - 0.05 * scale, abs=0.2), pytest.approx(0.1 * scale, abs=0.2))
    assert 0 < low < high < charts.WIDTH


def test_zero_is_always_inside() -> None:
    for effect, interval in ((-0.3, (-0.4, -0.2)), (0.0, (-1e-3, 1e-3)), (30.0, (20.0, 40.0)), (0.0, (0.0, 0.0))):
        svg = str(charts.effect_plot(effect, interval, None, "bad", ""))
        assert 14 <= numbers(svg, "line", "zero", "x1")[0] <= charts.WIDTH - 14


def test_not_finite_draws_nothing() -> None:
    assert charts.effect_plot(0.1, (float("-inf"), 0.2), 0.02, "open", "") is None
    assert charts.curve([(1, float("nan"))], [], "") is None


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_inside(low: float, wide: float) -> None:
    high = low + wide
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return
    for tick in charts.ticks(low, high):
        assert low - wide * 1e-6 <= tick <= high + wide * 1e-6
    assert len(charts.ticks(low, high)) <= 9


def test_ticks_by_hand() -> None:
    assert charts.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert charts.ticks(-0.03, 0.05) == [-0.02, 0.0, 0.02, 0.04]


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.0004, "4e−4"), (12_000, "12k"), (2.5, "2.5"), (-0.2, "−0.2")])
def test_short(value: float, text: str) -> None:
    assert charts.short(value) == text


def test_thin_keeps_means() -> None:
    points = [(float(i), float(i * i)) for i in range(10)]
    drawn, every = charts.thin(points, 5)
    assert every == 2
    assert drawn[0] == (0.5, 0.5)
    assert drawn[-1] == (8.5, 72.5)
    assert charts.thin(points, 10) == (points, 1)


def test_curve_falls_where_the_loss_falls() -> None:
    svg = str(charts.curve([(1, 2.0), (2, 1.0), (3, 1.5)], [(2, 1.2)], "loss"))
    (drawn,) = re.findall(r'points="([^"]+)"', svg)
    (x1, y1), (x2, y2), (x3, y3) = [tuple(map(float, p.split(","))) for p in drawn.split()]
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 > y3 > y1  # down the page is lower
    assert y3 - y1 == pytest.approx((y2 - y1) / 2, abs=0.2)


def test_labels_cannot_leave_their_attribute() -> None:
    svg = str(charts.strip(0.5, None, (0.0, 1.0), "main", '"><script>\x00'))
    assert "<script>" not in svg
    assert "\x00" not in svg


def test_over_budget_is_marked() -> None:
    assert 'class="spent over"' in charts.budget_bar(11.0, 10.0, 11.0, "")
    assert 'class="spent within"' in charts.budget_bar(9.0, 10.0, 11.0, "")
    assert "limit" not in charts.budget_bar(9.0, None, 11.0, "")
