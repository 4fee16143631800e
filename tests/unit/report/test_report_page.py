"""The page shows the numbers of the files, cannot be broken by a text, and stays well-formed, small and the same."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.report.page_reader import Reader, form_faults, read_page
from tests.unit.report.run_folders import BASELINE_ONLY, VERDICT, binary_cases, case, make

from tunesmith.report import html

NASTY = (
    "<script>alert(1)</script></script><!-- \"quotes\" 'single' & &lt; </textarea></style> "
    "שלום \u202eevil\u202c 👩‍🔧 NUL:\x00 ESC:\x1b[31m {{ 7*7 }} {% raw %} ]]> <img src=x onerror=alert(1)> "
    "\u2028\u2029 javascript:alert(1)"
)


def page_of(folder: Path, **files: Any) -> tuple[str, Reader]:
    text = html.write(make(folder, **files)).read_text(encoding="utf-8")
    return text, read_page(text)


def test_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    text, page = page_of(tmp_path)
    assert page.row("Base model") == ["Base model", "0.400", "0.170 to 0.690", ""]
    assert page.row("Tuned model") == ["Tuned model", "0.700", "0.390 to 0.890", ""]
    assert page.row("Tuned minus base")[1:3] == ["+0.300", "+0.062 to +0.512"]
    assert page.row("majority")[1] == "0.300"
    assert page.row("macro-F1")[1:] == ["0.381", "0.655", "+0.274", "+0.010 to +0.500"]
    assert page.row("few-shot") == ["few-shot", "0.440", "16", "✓ chosen"]
    assert page.row("instruction")[1:] == ["0.310", "16", ""]
    assert page.row("baseline")[:3] == ["baseline", "12.0 s", "1 min 00 s"]
    assert page.row("train")[:3] == ["train", "over budget 2 min 10 s", "1 min 30 s"]
    assert page.row("train.lr") == ["train.lr", "0.0004", "auto: LoRA on 135 M weights"]
    assert page.row("inbox.csv:17")[1] == "no label"
    for said in (
        "Of 10 cases that were kept out of training, the base model got 4 right and the tuned model 7.",
        "95% interval +0.062 to +0.512.",
        "(p = 0.031, mid-p McNemar)",
        "10 cases, 95% interval. The smallest effect that so many cases can be expected to show is 0.270.",
        "1 case that the base had right is now wrong.",
        "12,345",
        "1.62 GiB",
        "ab" * 32,
        "2.13.0",
        "not the original bf16 ones",
    ):
        assert said in page.words, said
    assert form_faults(text) == []


def test_a_number_of_cases_opens_just_these_cases(tmp_path: Path) -> None:
    _, page = page_of(tmp_path)
    articles = [a["data-tags"].split() for a in page.having("article", class_="case")]
    opened = {a["data-tags"] for a in page.having("a", class_="open")}
    assert opened == {"base-right", "tuned-right", "tuned-wrong", "broken", "all"}
    num = {
        tag: sum(tag in tags for tags in articles)
        for tag in ("base-right", "tuned-right", "broken", "fixed", "changed")
    }
    assert num == {"base-right": 4, "tuned-right": 7, "broken": 1, "fixed": 4, "changed": 5}
    chips = {a["data-tags"] for a in page.having("button") if "data-tags" in a}
    assert chips == {"changed", "worse", "better", "both-wrong", "both-right", "all"}


def test_changed_cases_stand_first_and_name_their_line(tmp_path: Path) -> None:
    text, page = page_of(tmp_path)
    kinds = [a["data-tags"].split()[0] for a in page.having("article", class_="case")]
    assert kinds == ["broken"] + ["fixed"] * 4 + ["both-wrong"] * 2 + ["both-right"] * 3
    first = text[text.index("<article") : text.index("</article")]
    assert "id0003" in first
    assert "inbox.csv:5" in first


@pytest.mark.parametrize(
    ("decision", "headline", "may"),
    [
        ("better", "Yes, it is better.", "Yes, instead of the base model, for inputs like those it was tested on."),
        ("worse", "No, it is worse.", "No. Keep the base model"),
        ("no relevant difference", "No relevant difference.", "There is no reason to."),
        ("too few cases", "Too few cases to tell.", "Not on this evidence."),
    ],
)
def test_each_decision_is_said(tmp_path: Path, decision: str, headline: str, may: str) -> None:
    text, page = page_of(tmp_path, verdict={**VERDICT, "decision": decision})
    assert f">{headline}</h1>" in text
    assert may in page.words
    assert f"Decision: {decision}." in page.words
    assert form_faults(text) == []


def test_no_guard_is_said_and_a_failed_one_holds_the_yes_back(tmp_path: Path) -> None:
    _, page = page_of(tmp_path / "none")
    assert "Abilities outside this task: not checked." in page.words
    arithmetic = {"name": "arithmetic", "base": 0.5, "tuned": 0.25, "effect": -0.25, "interval": [-0.3, -0.2]}
    refusals = {"name": "refusals", "base": 0.9, "tuned": 0.9, "effect": 0.0, "interval": [-0.2, 0.2]}
    guard = [{**arithmetic, "margin": 0.02, "passed": False}, {**refusals, "margin": 0.02, "passed": None}]
    text, page = page_of(tmp_path / "some", verdict={**VERDICT, "guard": guard})
    assert "Outside this task, lost: arithmetic." in page.words
    assert "Outside this task, not known: refusals." in page.words
    assert "not checked" not in page.words
    assert "Only where the losses named here do not matter." in page.words
    assert page.row("arithmetic") == ["arithmetic", "✗ lost", "0.500", "0.250", "−0.250", "−0.300 to −0.200", "0.020"]
    assert form_faults(text) == []


def nasty_run(folder: Path) -> Path:
    rows = binary_cases()
    rows[0].update(
        prompt=NASTY, reference=NASTY, base_output=NASTY, tuned_output=NASTY + " more", group=NASTY, source=NASTY
    )
    verdict = {
        **VERDICT,
        "run": NASTY,
        "claim": NASTY,
        "metric": NASTY,
        "test": NASTY,
        "notes": [NASTY],
        "baselines": {NASTY: 0.3},
        "secondary": {NASTY: {"base": 0.1, "tuned": 0.2, "effect": 0.1, "interval": [0.0, 0.2]}},
        "guard": [{"name": NASTY, "passed": True}],
        "digests": {NASTY: NASTY},
    }
    understood = {"columns": {NASTY: NASTY}, "example": {"id": NASTY, "pieces": [[NASTY, True]]}}
    rejected = [{"file": NASTY, "line": 1, "reason": NASTY}]
    audit = {"rows": 1, "rejected": rejected, NASTY: NASTY, "warnings": [NASTY], "understood": understood}
    lock = {"data": {NASTY: NASTY}, NASTY: {NASTY: NASTY}}
    plan = {
        "model": {"name": NASTY, "note": NASTY},
        "task": NASTY,
        "layout": {NASTY: NASTY},
        "resolved": [{"key": NASTY, "value": NASTY, "why": NASTY}],
    }
    cost = {"stages": [{"name": NASTY, "seconds": 1.0, "budget_s": 2.0}]}
    forms = [{"form": NASTY, "dev_score": 0.1, "num_cases": 3}]
    make(
        folder,
        verdict=verdict,
        cases=rows,
        audit=audit,
        lock=lock,
        plan=plan,
        cost=cost,
        forms=forms,
        export={NASTY: {"same_text": True}},
    )
    (folder / "recipe.yaml").write_text(f"model: |\n  {NASTY}\n", encoding="utf-8")
    asked = {"update": 0, "example_id": NASTY, "prompt": NASTY, "reference": NASTY, "answer": NASTY}
    (folder / "watched.jsonl").write_text(json.dumps(asked) + "\n", encoding="utf-8")
    told = {"temperature": 1.5, "num_dev": 40, "target": 0.9, "threshold": None, "sure": NASTY, "labels": [NASTY]}
    (folder / "calibration.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def test_no_text_from_files_becomes_markup(tmp_path: Path) -> None:
    text = html.write(nasty_run(tmp_path)).read_text(encoding="utf-8")
    page = read_page(text)
    assert form_faults(text) == []
    assert len(page.scripts) == 2  # the curve's points and ours, as in any report
    assert not page.having("img")
    assert text.count("</script>") == 2
    assert text.count("</style>") == 1
    assert "alert(1)" not in "".join(page.scripts)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    shown = "".join(page.text)
    assert "<script>alert(1)</script>" in shown  # read as text, whole
    assert "NUL:␀ ESC:␛[31m {{ 7*7 }}" in shown
    assert "שלום" in shown
    assert "👩‍🔧" in shown


def test_mutant_without_escaping_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above looks at does change when escaping is off."""
    whole = html.make_environment.__wrapped__  # one of its own: the pages share theirs

    def unescaped() -> Any:
        environment = whole()
        environment.autoescape = False
        return environment

    monkeypatch.setattr(html, "make_environment", unescaped)
    text = html.write(nasty_run(tmp_path)).read_text(encoding="utf-8")
    assert text.count("</script>") > 2
    assert form_faults(text)


def test_only_our_own_script_and_style_may_run(tmp_path: Path) -> None:
    text, page = page_of(tmp_path)
    (policy,) = [a["content"] for a in page.having("meta", http_equiv="Content-Security-Policy")]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        body = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.S)
        assert len(body) == 1
        digest = base64.b64encode(hashlib.sha256(body[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"""(?:href|src)=["'](?!#)""", text)
    assert "url(" not in text
    assert "@import" not in text


def test_missing_files_are_named_and_nothing_is_made_up(tmp_path: Path) -> None:
    files = ("metrics.jsonl", "audit.json", "cost.json", "plan.json", "lock.json", "recipe.yaml", "export.json",
             "scores/forms.json", "scores/cases.parquet")  # fmt: skip
    text, page = page_of(tmp_path, without=files)
    assert "9 files of this run are missing" in page.words
    for file in files:
        assert f"{file}: this report cannot say" in page.words
    assert "Whether exported files answer as the measured model does was not checked." in page.words
    assert "accuracy went from 0.400 to 0.700" in page.words
    assert not page.having("a", class_="open", data_tags="broken")
    assert form_faults(text) == []


def test_every_single_file_may_be_missing(tmp_path: Path) -> None:
    for number, file in enumerate(
        [*BASELINE_ONLY, "audit.json", "plan.json", "lock.json", "recipe.yaml", "scores/cases.parquet"]
    ):
        text, page = page_of(tmp_path / str(number), without=(file,))
        assert form_faults(text) == [], file
        assert f"{file}: this report cannot say" in page.words


def test_a_run_that_stopped_after_the_baseline(tmp_path: Path) -> None:
    rows = [case(i, float(i < 3), None) for i in range(12)]
    text, page = page_of(tmp_path, verdict=None, cases=rows, without=BASELINE_ONLY)
    assert ">Not compared yet.</h1>" in text
    assert "The base model alone scores 0.250 on average over 12 cases." in page.words
    assert "Not yet: nothing shows that tuning helped." in page.words
    assert len(page.having("article", class_="case")) == 12
    assert "✗ wrong" in page.words
    assert "Tuned model" not in page.words
    assert form_faults(text) == []


def test_same_files_same_bytes(tmp_path: Path) -> None:
    rows = binary_cases()
    one = html.write(make(tmp_path / "a", cases=rows)).read_bytes()
    assert html.write(tmp_path / "a").read_bytes() == one
    assert html.write(make(tmp_path / "b", cases=rows[::-1])).read_bytes() == one


def test_a_thousand_long_cases_stay_under_five_megabytes(tmp_path: Path) -> None:
    long = " ".join(f"word{i % 97} <b>&" for i in range(1500))
    rows = [
        case(
            i,
            float(i % 2),
            float(i % 3 > 0),
            prompt=f"{i} {long}",
            base_output=f"{long} {i}",
            tuned_output=f"{i} {long[40:]}",
        )
        for i in range(1000)
    ]
    verdict = {**VERDICT, "num_cases": 1000}
    text, page = page_of(tmp_path, cases=rows, verdict=verdict)
    assert len(text.encode()) < 5_000_000
    assert len(page.having("article", class_="case")) == 1000
    (said,) = re.findall(r"([\d,]+) texts longer than (\d+) characters are shortened", page.words)
    assert said[0] == "3,000"
    left_out = int(re.findall(r"… ([\d,]+) more in scores/cases.parquet", page.words)[0].replace(",", ""))
    assert left_out >= len(long) - 2 * int(said[1])


def test_a_long_text_is_whole_behind_an_expander(tmp_path: Path) -> None:
    long = " ".join(f"word{i}" for i in range(400))
    text, page = page_of(tmp_path, cases=[case(i, 0.0, 1.0, prompt=f"{i} {long}") for i in range(2)])
    shown = re.findall(r'<details class="tail"><summary>Show ([\d,]+) more characters</summary>', text)
    assert len(shown) == 2
    assert f"0 {long}".replace(" ", "") in re.sub(r"Show [\d,]+ more characters|\s", "", "".join(page.text))
    assert len(f"0 {long}") - 520 < int(shown[0].replace(",", "")) <= len(f"0 {long}") - 440


def test_too_many_cases_are_left_out_unchanged_ones_first_and_said(tmp_path: Path) -> None:
    rows = [case(i, 0.0, float(i >= 6990), prompt=f"{i} " + "&" * 300) for i in range(7000)]
    text, page = page_of(tmp_path, cases=rows)
    shown = page.having("article", class_="case")
    assert len(text.encode()) < 5_000_000
    assert 500 < len(shown) < 7000
    assert [a["data-tags"].split()[0] for a in shown[:11]] == ["fixed"] * 10 + ["both-wrong"]
    assert f"{len(shown)} of 7000 cases are on this page" in page.words


def test_curves_carry_the_logged_points(tmp_path: Path) -> None:
    text, page = page_of(tmp_path)
    points = json.loads(page.scripts[0])
    assert points[0] == {"first": 1.0, "last": 3.0, "points": [[1.0, 2.5], [2.0, 1.25], [3.0, 0.75]]}
    assert [c["points"][1][1] for c in points] == [1.25, 0.0004, 2.0, 820.0]
    assert "2.5 at the start, 0.75 at update 3, lowest 0.75 at 3. Dev: 1.5 at 2." in page.words
    assert text.count('class="mark"') == 1


def test_learned_text_is_marked_and_only_that(tmp_path: Path) -> None:
    text, _ = page_of(tmp_path)
    assert re.findall(r'<mark class="learned">(.*?)</mark>', text) == ["delivery"]
    assert "&lt;user&gt;Where is it?&lt;/user&gt;<mark" in text


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb; WCAG 2.2."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("scheme", [0, 1])
def test_contrast_is_aa_in_light_and_dark(tmp_path: Path, scheme: int) -> None:
    text, _ = page_of(tmp_path)
    colours = dict(re.findall(r"--(\w+):(#\w{6})", re.findall(r":root\{(.*?)\}", text)[scheme]))
    pairs = [
        (ink, ground) for ink in ("ink", "soft", "good", "bad", "even", "open", "link") for ground in ("paper", "panel")
    ]
    pairs += [("ink", "was"), ("ink", "now"), ("ink", "learned"), ("bad", "was")]
    for ink, ground in pairs:
        light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)
