"""robustness.json as the page and report.md print it: tables of text, each with what it shows in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.report import words

Facts = Mapping[str, Any]
MOST_NAMED = 4  # rows in a sentence
MOST_ROWS = 40  # of a table; robustness.json has all
FLOOR = (
    "The base is at the floor, no better than guessing: it cannot lose by a changed prompt, so only the tuned model's "
    "own loss counts."
)
LEVEL = "Intervals hold for all rows at once."


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table. `num_text`: how many columns at the left are text; the others are numbers."""

    title: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_text: int = 1


@dataclass(frozen=True, slots=True)
class RobustnessView:
    said: tuple[str, ...]
    sheets: tuple[Sheet, ...]


def robustness(found: Facts) -> RobustnessView:
    sheets = [slice_sheet(found), gap_sheet(found), change_sheet(found), elsewhere_sheet(found)]
    return RobustnessView(tuple(sentences(found)), tuple(s for s in sheets if s is not None and s.rows))


def on_metric(found: Facts) -> str:
    """Which one: slices and changes are about the first where there are several."""
    return f" on {words.metric(found['metric'])}" if found.get("metric") else ""


def share(value: Any) -> str:
    return f"{100 * value:.0f}%" if isinstance(value, (int, float)) else words.NOT_KNOWN


def sentences(found: Facts) -> list[str]:
    said = []
    cut, worst = found.get("slices") or {}, (found.get("slices") or {}).get("worst")
    if worst:
        said.append(
            f"Worst of {words.things(cut['num_slices'], 'slice')}: {worst['dimension']} {worst['name']}, "
            f"{words.number(worst['base'])} → {words.number(worst['tuned'])} on {worst['num_cases']} cases "
            f"(interval of the gain {words.interval(worst['interval'], with_sign=True)})."
        )
    else:
        said.append("No slice: no part of the cases is large enough to be measured alone.")
    if few := cut.get("too_few"):
        names = ", ".join(f"{row['dimension']} {row['name']} ({row['num_cases']})" for row in few[:8])
        said.append(f"Too few cases to be measured alone: {names}{' …' if len(few) > 8 else ''}.")
    return [*said, *fit_words(found), *exposure_words(found.get("exposure")), *level_words(found)]


def fit_words(found: Facts) -> list[str]:
    """Copies in training, and the train-dev gap."""
    said = []
    if copies := found.get("contamination"):
        said.append(
            f"{words.things(copies['taken_out'], 'row')} that also stood in another split were taken out; "
            f"{copies['like_training']} of {copies['num_cases']} test prompts are like one of training but for digits."
        )
    if gap := found.get("overfitting"):
        (train_before, train_after), (dev_before, dev_after) = gap["train_loss"], gap["dev_loss"]
        said.append(
            f"Loss on training rows {train_before:.2f} → {train_after:.2f}, on dev rows {dev_before:.2f} → "
            f"{dev_after:.2f} nats per token: training rows gained {words.signed(gap['gap'])} more (interval "
            f"{words.interval(gap['interval'], with_sign=True)})."
            + kept_words(gap, gap.get("gained", train_before - train_after))
        )
    else:
        said.append("Train-dev gap: not known, there are too few dev rows.")
    return said


def kept_words(gap: Facts, gained: float) -> str:
    """How much of what was learned holds for new rows, with the range that the gap's interval leaves; "" if nothing."""
    if not gap.get("kept_frac") or gained <= 0:
        return ""
    low, high = (min(1.0, max(0.0, 1 - end / gained)) for end in reversed(gap["interval"]))
    of = f"{share(low)} to {share(high)}" if share(low) != share(high) else share(low)
    return f" So {of} of what was learned reaches rows that were not trained on."


def exposure_words(found: Facts | None) -> list[str]:
    """How well training secrets are told from others of their form; nothing where replies hold none."""
    if not found:
        return []
    if said := found.get("not_measured"):
        return [f"{said[0].upper()}{said[1:]}."]
    against = "those of the base"
    if found["unseen"]:
        before, after = found["unseen"]
        against = f"{found['num_unseen']} secrets that it never saw ({before:.1f} → {after:.1f})"
    rows = ", ".join(f"{row['source']} ({row['base']:.1f} → {row['tuned']:.1f})" for row in found["rows"][:MOST_NAMED])
    return [
        f"Numbers, addresses and names in {found['num_train']} training replies, each among "
        f"{found['num_candidates'] - 1} others of its form: {found['base']:.1f} → {found['tuned']:.1f} bits of "
        f"exposure (who knows nothing has {found['chance']:.1f}, {found['most']:.0f} is the most that can be seen). "
        f"Beyond {against}: {words.signed(found['excess'])} bits (interval "
        f"{words.interval(found['interval'], with_sign=True)})."
        + (f" Most exposed: {rows}." if rows and found["interval"][0] > 0 else "")
    ]


def level_words(found: Facts) -> list[str]:
    """What asking again showed, or that it was not asked."""
    if found.get("level") == "off":
        return ["Slips, other wordings, inputs out of scope and recited rows: not tried (evals.robustness is off)."]
    said = []
    floor = [row["change"] for row in found.get("changes") or () if row["is_floor"]]
    if floor:
        said.append(FLOOR)
    if scope := found.get("out_of_scope"):
        held = scope.get("sure_held_out_frac")
        said.append(
            f"Of {scope['num_texts']} texts that belong to no label {share(scope['sure_frac'])} were answered without "
            f"doubt (interval {share(scope['interval'][0])} to {share(scope['interval'][1])})"
            + (f"; of the held-out cases {share(held)}." if held is not None else ".")
        )
    if begun := found.get("memorised"):
        said.append(
            f"Replies begun and completed word for word: {share(begun['tuned'])} of {begun['num_train']} from "
            f"training, {share(begun['dev'])} of {begun['num_dev']} that it never saw; the base, of training: "
            f"{share(begun['base'])}. Recited beyond what anybody would write: {share(begun['excess'])} (interval "
            f"{share(begun['interval'][0])} to {share(begun['interval'][1])})."
        )
    else:
        said.append("Recited rows: not known, too few replies are long enough to be begun.")
    return said


def both(row: Facts) -> tuple[str, str, str, str]:
    """Base, tuned, gain and its interval."""
    return (
        words.number(row["base"]),
        words.number(row["tuned"]),
        words.signed(row["effect"]),
        words.interval(row["interval"], with_sign=True),
    )


def slice_sheet(found: Facts) -> Sheet:
    rows: Sequence[Facts] = (found.get("slices") or {}).get("rows") or ()
    ordered = sorted(rows, key=lambda r: r["effect"])[:MOST_ROWS]
    return Sheet(
        "Slices", f"The gain{on_metric(found)} in parts of the held-out cases, the least first. {LEVEL}",
        ("Where", "Which", "Cases", "Base", "Tuned", "Gain", "Interval"),
        tuple((str(r["dimension"]), str(r["name"]), words.count(r["num_cases"]), *both(r)) for r in ordered), 2,
    )  # fmt: skip


def gap_sheet(found: Facts) -> Sheet:
    rows: Sequence[Facts] = (found.get("slices") or {}).get("gaps") or ()
    return Sheet(
        "Gaps between groups", f"Score of each group less that of all others, before and after tuning. {LEVEL}",
        ("Column", "Group", "Cases", "Gap of the base", "Gap of the tuned model", "Interval", "Change", "Interval"),
        tuple(
            (str(r["dimension"]), str(r["name"]), words.count(r["num_cases"]), words.signed(r["base"]),
             words.signed(r["tuned"]), words.interval(r["tuned_interval"], with_sign=True), words.signed(r["change"]),
             words.interval(r["change_interval"], with_sign=True))
            for r in rows[:MOST_ROWS]
        ), 2,
    )  # fmt: skip


def change_sheet(found: Facts) -> Sheet:
    rows: Sequence[Facts] = found.get("changes") or ()
    return Sheet(
        "Prompts that are put otherwise",
        f"Difference: what the change does to the tuned model less what it does to the base; below 0 it hurts the "
        f"tuned model more. {LEVEL}",
        ("Change", "Cases", "Base", "changed", "Tuned", "changed", "Difference", "Interval"),
        tuple(
            (str(r["change"]), words.count(r["num_cases"]), words.number(r["base"]), words.number(r["base_changed"]),
             words.number(r["tuned"]), words.number(r["tuned_changed"]), words.signed(r["difference"]["effect"]),
             words.interval(r["difference"]["interval"], with_sign=True))
            for r in rows
        ),
    )  # fmt: skip


def elsewhere_sheet(found: Facts) -> Sheet | None:
    row = found.get("ood")
    if not row:
        return None
    unknown = row.get("unknown_labels") or ()
    caption = "The files of data.ood, asked like the held-out cases. They decide nothing."
    if unknown:
        caption += f" Labels that training never shows count as wrong: {', '.join(map(str, unknown[:8]))}."
    return Sheet(
        "Cases from elsewhere", caption, ("Cases", "Base", "Tuned", "Gain", "Interval"),
        ((words.count(row["num_cases"]), *both(row)),), 0,
    )  # fmt: skip
