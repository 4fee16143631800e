"""What stands on the screen: time left, lines where there is no terminal, 80 columns, the terminal given back."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from tunesmith.cli.screen import Screen, in_time, measured, sparkline

FACTS = {"loss": 2.5, "lr": 1e-3, "grad_norm": 0.8, "tokens_per_s": 512.4, "peak_gib": 1.42}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def screen(*, terminal: bool, width: int = 80) -> tuple[Screen, Clock, io.StringIO]:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, highlight=False, color_system=None)
    return Screen(console=console, clock=clock), clock, out


def drawn(shown: Screen, width: int) -> list[str]:
    """The living lines as text."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(shown.render())
    return out.getvalue().splitlines()


def test_of_rewards_only_what_was_measured_is_said() -> None:
    """Pairs have a margin and no distance to the start, which would read as 0."""
    known = {"reward": 0.5, "reply_tokens": 20.0}
    assert measured({**known, "kl_nats": 0.0312}) == ["reward 0.500", "20 tokens a reply", "KL 0.0312 nats"]
    assert measured({**known, "margin_nats": 1.25}) == ["reward 0.500", "20 tokens a reply", "margin 1.250 nats"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_time_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert in_time(seconds) == text


def test_a_sparkline_by_hand() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert sparkline([0, 2, 7, 7], most=2) == "▁█"  # means 1 and 7
    assert sparkline([3, 3]) == "▁▁"


def test_time_left_is_at_the_pace_since_the_step_began_and_not_since_zero() -> None:
    shown, clock, out = screen(terminal=False)
    shown.step(60, 100, "updates")  # a resume begins here
    clock.now += 10
    shown.step(70, 100, "updates")
    assert out.getvalue() == "  70/100  updates  30 s left\n"


def test_lines_grow_rarer_where_there_is_no_terminal() -> None:
    shown, clock, out = screen(terminal=False)
    shown.step(0, 10_000, "updates")
    for done in range(1, 10_001):
        clock.now += 1
        shown.updated(done, 10_000, FACTS)
    lines = out.getvalue().splitlines()
    assert 60 < len(lines) < 160  # 2 s apart at first, minutes at the end
    assert lines[-1] == "  10000/10000  updates  loss 2.500 → 2.500  512 tokens/s  2 h 46 min"
    assert not re.search(r"[\x1b\r]", out.getvalue())


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_living_lines_fit_and_say_all(width: int) -> None:
    shown, clock, _ = screen(terminal=True, width=width)
    shown.stage("train", None)
    shown.step(0, 120, "updates")
    for done in range(1, 43):
        clock.now += 1
        shown.updated(done, 120, {**FACTS, "loss": 5 / done})
    lines = drawn(shown, width)
    shown.close()
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    if width >= 80:
        text = " ".join(lines)
        for wanted in ("42/120", "1 min 18 s left", "loss 0.119", "▁", "lr 1.0e-03", "gradient norm 0.80",
                       "512 tokens/s", "memory 1.4 GiB", "42 s so far"):  # fmt: skip
            assert wanted in text


def test_between_steps_the_stage_goes_on() -> None:
    shown, clock, _ = screen(terminal=True)
    shown.stage("export", None)
    clock.now += 12
    assert drawn(shown, 80) == ["  export: 12 s"]
    shown.close()


def test_the_terminal_is_given_back_when_something_goes_wrong() -> None:
    shown, _, out = screen(terminal=True)
    with pytest.raises(ValueError), shown:  # noqa: PT012
        shown.step(0, 3, "answers")
        assert "\x1b[?25l" in out.getvalue()  # the cursor is hidden while the lines live
        raise ValueError
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")
    assert shown.live is None


def test_a_step_outside_of_a_stage_gives_the_terminal_back_at_its_end() -> None:
    shown, _, out = screen(terminal=True)
    shown.step(0, 2, "answers")
    shown.step(2, 2, "answers")
    assert shown.live is None
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(quiet=True) as shown:
        shown.stage("train", 3)
        shown.step(1, 2, "updates")
        shown.updated(2, 2, FACTS)
        shown.say("x")
    assert capsys.readouterr() == ("", "")
