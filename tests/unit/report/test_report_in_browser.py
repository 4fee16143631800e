"""The page in a real browser: both widths, light and dark, by keyboard, without JavaScript, and with no request.

Skipped where no Chromium is installed. With AXE_CORE naming an axe.min.js (npm pack axe-core), axe looks too.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.report.browser import Browser, browser, executable
from tests.unit.report.run_folders import METRICS, VERDICT, binary_cases, case, make
from tests.unit.report.test_report_page import nasty_run

from tunesmith.report import html

pytestmark = pytest.mark.skipif(
    executable() is None or sys.platform == "win32", reason="no Chromium on this machine to look at the page with"
)
SIZES = [(390, 844), (1280, 800)]
VISIBLE = "[...document.querySelectorAll('article.case')].filter((c) => !c.hidden).length"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def whole_run(folder: Path) -> Path:
    """Every part of a page: notes, guards, files, groups, watched prompts, calibration."""
    rows = [
        {**row, "group": f"customer {i % 3}", "source": f"{'ab'[i % 2]}.csv:{i + 2}", "tuned_stopped": i != 9}
        for i, row in enumerate(binary_cases())
    ]
    for i, row in enumerate(rows):
        row["reference"] = "refund" if i % 2 else "delivery"
    guard = {
        "name": "arithmetic",
        "base": 0.5,
        "tuned": 0.25,
        "effect": -0.25,
        "interval": [-0.3, -0.2],
        "margin": 0.02,
    }
    notes = [
        "the data is made by a program: the inbox of a shop that does not exist. It says nothing about yours.",
        "two",
    ]
    make(folder, verdict={**VERDICT, "notes": notes, "guard": [{**guard, "passed": False}]}, cases=rows)
    (folder / "watched.jsonl").write_text(WATCHED, encoding="utf-8")
    (folder / "calibration.json").write_text(CALIBRATION, encoding="utf-8")
    return folder


WATCHED = "".join(
    f'{{"update": {u}, "example_id": "{e}", "prompt": "Where?", "reference": "delivery", "answer": "{a}"}}\n'
    for u, a in ((0, "hm"), (2, "delivery"), (3, "delivery"))
    for e in ("w1", "w2")
)
BINS = '{"num_cases": 4, "confidence": 0.55, "accuracy": 0.5}, {"num_cases": 6, "confidence": 0.9, "accuracy": 0.8333}'
QUALITY = f'{{"ece": 0.07, "brier": 0.4, "nll": 0.6, "bins": [{BINS}]}}'
CALIBRATION = (
    '{"temperature": 1.5, "num_dev": 40, "target": 0.9, "threshold": 0.8, "sure": "chosen", "calibrated": true, '
    f'"held_out": {{"num_cases": 10, "before": {QUALITY}, "after": {QUALITY}, "unsure_frac": 0.4, "accuracy": 0.7, '
    '"accuracy_when_sure": 0.8333}}'
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return html.write(whole_run(tmp_path_factory.mktemp("run")))


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("dark", [False, True])
def test_the_first_screen_holds_all_five_answers(
    chromium: Browser, page: Path, width: int, height: int, *, dark: bool
) -> None:
    chromium.show(page, width=width, height=height, dark=dark)
    bottom = chromium.value(
        "Math.max(...[...document.querySelectorAll('.answer')].map((a) => a.getBoundingClientRect().bottom))"
    )
    assert chromium.value("document.querySelectorAll('.answer').length") == 4  # and the headline
    assert bottom <= height
    assert chromium.value("document.documentElement.scrollWidth") <= width
    ground = chromium.value("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", ground)[:3])) > 382
    assert light is not dark


def test_nothing_is_asked_of_a_network_and_nothing_fails(chromium: Browser, tmp_path: Path) -> None:
    for run in (whole_run(tmp_path / "a"), nasty_run(tmp_path / "b")):
        chromium.requests.clear()
        chromium.errors.clear()
        file = html.write(run)
        chromium.show(file, width=1280, height=800)
        assert chromium.requests == [file.resolve().as_uri()]
        assert chromium.errors == []
        assert chromium.value("document.querySelectorAll('script:not([type])').length") == 1


def test_every_number_opens_as_many_cases(chromium: Browser, page: Path) -> None:
    chromium.show(page, width=1280, height=800)
    links = chromium.value("""[...document.querySelectorAll('a.open')].map((a) => {
        a.click();
        const num = [...document.querySelectorAll('article.case')].filter((c) => !c.hidden).length;
        return [a.textContent, a.dataset.tags, num, document.getElementById('found').textContent];
    })""")
    assert len(links) > 10
    for text, tag, num, found in links:
        said = re.match(r"(\d+)( of \d+)?( cases?)?$", text)
        if said and not (tag.endswith("-right") and int(said[1]) > 10):  # points of 100 open the right ones of 10
            assert int(said[1]) == num, (text, tag, found)
        assert found.startswith(f"{num} of 10 cases")


def test_filters_work_together(chromium: Browser, page: Path) -> None:
    chromium.show(page, width=1280, height=800)
    assert chromium.value(VISIBLE) == 5  # what changed
    chromium.value("document.querySelector('button[data-tags=all]').click()")
    assert chromium.value(VISIBLE) == 10
    set_one = (
        "(() => {{ const s = document.getElementById('{}'); s.value = '{}'; s.dispatchEvent(new Event('change')); }})()"
    )
    chromium.value(set_one.format("by-file", "0"))
    assert chromium.value(VISIBLE) == 5
    chromium.value(set_one.format("by-group", "0"))
    assert chromium.value(VISIBLE) == 2  # 0 and 6 of 0, 3, 6, 9
    assert chromium.value("document.getElementById('found').textContent") == "2 of 10 cases: All, a.csv, customer 0"
    chromium.value("document.querySelector('button[data-tags=better]').click()")
    assert chromium.value(VISIBLE) == 1
    chromium.value("document.querySelector('a.open[data-tags=all]').click()")
    assert chromium.value(VISIBLE) == 10  # a number clears what was chosen before


def test_by_keyboard(chromium: Browser, page: Path) -> None:
    chromium.show(page, width=1280, height=800)
    chromium.press("/")
    assert chromium.value("document.activeElement.id") == "search"
    for letter in "id0003":
        chromium.press(letter)
    assert chromium.value(VISIBLE) == 1
    chromium.press("Escape")
    assert chromium.value(VISIBLE) == 5
    chromium.show(page, width=1280, height=800)
    chromium.press("Tab")
    assert chromium.value("document.activeElement.className") == "skip"
    chromium.value("document.querySelector('a.open[data-tags=broken]').focus()")
    chromium.press("Enter")
    assert chromium.value(VISIBLE) == 1
    assert chromium.value("new Promise((r) => setTimeout(() => r(document.activeElement.id), 50))") == "found"
    assert chromium.value("getComputedStyle(document.querySelector(':focus-visible') || document.body).outlineStyle")


def test_without_javascript_all_is_there_but_the_filters(chromium: Browser, page: Path) -> None:
    chromium.show(page, width=390, height=844, script=False)
    try:
        assert chromium.value(VISIBLE) == 10
        assert chromium.value("document.getElementById('controls').hidden")
        assert chromium.value("document.getElementById('more').hidden")
        chromium.value("document.querySelector('a.open[data-tags=broken]').click()")
        top = chromium.value("document.getElementById('cases-broken').getBoundingClientRect().top")
        assert chromium.value("location.hash") == "#cases-broken"
        assert top is not None
    finally:
        chromium.ask("Emulation.setScriptExecutionDisabled", value=False)


def test_on_paper_it_is_black_on_white(chromium: Browser, page: Path) -> None:
    chromium.show(page, width=1280, height=800, dark=True)
    chromium.ask("Emulation.setEmulatedMedia", media="print")
    assert chromium.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert chromium.value("getComputedStyle(document.getElementById('controls')).display") == "none"


def test_two_thousand_long_cases_open_and_filter(chromium: Browser, tmp_path: Path) -> None:
    long = " ".join(f"word{i % 97} <b>&" for i in range(900))
    rows = [
        case(
            i,
            float(i % 2),
            float(i % 3 > 0),
            prompt=f"{i} {long}",
            base_output=f"{long} {i}",
            tuned_output=f"{i} {long}",
        )
        for i in range(2000)
    ]
    file = html.write(make(tmp_path, cases=rows, verdict={**VERDICT, "num_cases": 2000}, metrics=METRICS * 400))
    assert file.stat().st_size < 5_000_000
    chromium.show(file, width=390, height=844)
    assert chromium.value(VISIBLE) == 20
    assert chromium.value("document.documentElement.scrollWidth") <= 390
    chromium.value("document.getElementById('more').click()")
    assert chromium.value(VISIBLE) == 40


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_axe_finds_nothing(chromium: Browser, page: Path, width: int, height: int, *, dark: bool) -> None:
    axe = os.environ.get("AXE_CORE", "")
    if not axe:
        pytest.skip("AXE_CORE does not name an axe.min.js")
    chromium.show(page, width=width, height=height, dark=dark)
    chromium.value("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    chromium.value(Path(axe).read_text(encoding="utf-8") + "; 0")
    found = chromium.value("axe.run().then((r) => r.violations.map((v) => [v.id, v.help, v.nodes.map((n) => n.html)]))")
    assert found == []
