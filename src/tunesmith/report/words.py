"""The answers of a run in plain words. Page, Markdown and model card take them from here, so they say the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.report import cases, demands
from tunesmith.report.facts import Facts
from tunesmith.report.metric_words import METRICS

NOT_KNOWN = "not known"
CONTROLS = {c: 0x2400 + c for c in range(32) if c not in (9, 10)}
CONTROLS |= {0x7F: 0x2421} | dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000)), 0xFFFD)
HEADLINES = {
    "better": "Yes, it is better.",
    "worse": "No, it is worse.",
    "no relevant difference": "No relevant difference.",
    "too few cases": "Too few cases to tell.",
}
OF_SCORES = ("reward_accuracy", "reward_margin", "reward_loss")
OF_PAIRS_OR_MARKS = ("preference_accuracy", "preference_margin", "feedback_accuracy", "feedback_margin")
OF_GIVEN = (*OF_PAIRS_OR_MARKS, *OF_SCORES, "mean_reward")  # metrics by which no answer is right or wrong
TONES = {"better": "good", "worse": "bad", "no relevant difference": "even", "too few cases": "open"}


@dataclass(frozen=True, slots=True)
class Link:
    """A number that opens the cases behind it. `tags`: what the cases carry, one of them is enough."""

    text: str
    tags: str


Sentence = tuple[str | Link, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """The five questions of the first screen."""

    decision: str  # as in verdict.json; "" = not compared
    tone: str  # good | bad | even | open
    headline: str
    lead: Sentence
    how_much: tuple[Sentence, ...]
    how_sure: tuple[Sentence, ...]
    lost: tuple[Sentence, ...]
    may_use: Sentence
    because: tuple[Sentence, ...]
    notes: tuple[str, ...]


def clean(text: str) -> str:
    """Text that any page can hold: control characters as their pictures (U+2400 …), lone surrogates as U+FFFD."""
    return text.replace("\r\n", "\n").translate(CONTROLS)


def plain(sentence: Sentence) -> str:
    return "".join(part if isinstance(part, str) else part.text for part in sentence)


def number(value: Any) -> str:
    """A score as it is read: three decimals up to 1.5, four near 0 so that nothing reads "−0.000", two above;
    "not known" for None, NaN and infinity."""
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return NOT_KNOWN
    text = f"{value:,.2f}" if abs(value) > 1.5 else f"{value:.3f}" if abs(value) >= 0.0005 else f"{value:.4f}"
    return "0.000" if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def signed(value: Any) -> str:
    text = number(value)
    return f"+{text}" if text[:1].isdigit() and value > 0 and text != "0.000" else text


def interval(pair: Sequence[float] | None, *, with_sign: bool = False) -> str:
    if pair is None or len(pair) != 2:
        return NOT_KNOWN
    low, high = ((signed if with_sign else number)(v) for v in pair)
    return low if low == high == NOT_KNOWN else f"{low} to {high}"


def count(value: Any) -> str:
    return f"{int(value):,}" if isinstance(value, (int, float)) and math.isfinite(value) else NOT_KNOWN


def things(num: int, one: str, many: str | None = None) -> str:
    return f"{num:,} {one if num == 1 else many or one + 's'}"


def duration(seconds: Any) -> str:
    if not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        return NOT_KNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes} min {left:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def p_value(p: Any) -> str:
    if not isinstance(p, (int, float)) or not math.isfinite(p):
        return f"p {NOT_KNOWN}"
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def chance(p: float) -> str:
    """A probability as people say it."""
    if p <= 0.0001:  # as far as 9,999 drawn flips can tell
        return "at most once in 10,000 times"
    if p > 0.95:
        return "almost always"
    out_of = 100 if p >= 0.02 else 1000 if p >= 0.002 else 10_000
    times = round(p * out_of)
    return f"about {'once' if times == 1 else f'{times} times'} in {out_of:,}"


def claims(verdict: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The verdict as it would stand about each of its primary metrics alone; one metric: the verdict itself."""
    several = verdict.get("claims") or ()
    return [{**verdict, **c} for c in several] if len(several) > 1 else [verdict]


def confidence(verdict: Mapping[str, Any]) -> str:
    """Of an interval: with several primary metrics each stands at the level at which Holm tests it."""
    alpha = verdict.get("level", verdict.get("alpha"))
    return f"{round(100 * (1 - alpha), 2):g}%" if isinstance(alpha, float) and 0 < alpha < 1 else "confidence"


def metric(name: Any) -> str:
    return METRICS[name][0] if name in METRICS else str(name).replace("_", " ")


def metric_meaning(name: Any) -> str:
    """What the metric is, "" for one that is not ours."""
    return METRICS[name][1] if name in METRICS else ""


def as_good(verdict: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Baselines that need no language model and come within what matters of the tuned model's score, or above it."""
    sign = -1 if verdict.get("less_is_better") else 1
    enough = sign * verdict["tuned"] - (verdict.get("smallest_that_matters") or 0.0)
    return [(n, v) for n, v in (verdict.get("baselines") or {}).items() if v is not None and sign * v >= enough]


def direction(verdict: Mapping[str, Any]) -> str:
    return "less is better" if verdict.get("less_is_better") else "larger is better"


def answers(facts: Facts) -> Answers:
    verdict = facts.verdict
    if verdict is None:
        return without_verdict(facts)
    decision = str(verdict["decision"])
    may_use, because = may_i_use_it(facts, verdict)
    return Answers(
        decision=decision,
        tone=TONES.get(decision, "open"),
        headline=HEADLINES.get(decision, decision),
        lead=lead(facts, verdict),
        how_much=how_much(claims(verdict)[0]),
        how_sure=(*how_sure(claims(verdict)[0]), *holm_words(verdict)),
        lost=what_it_lost(facts, verdict),
        may_use=may_use,
        because=(*because, *demands.sentences(facts.gates)),
        notes=tuple(n[:1].upper() + n[1:] for n in map(str, verdict.get("notes") or ())),
    )


def without_verdict(facts: Facts) -> Answers:
    num = len(facts.cases) if facts.cases is not None else 0
    base = [c.base_score for c in facts.cases or () if c.base_score is not None]
    known: Sentence = ("Nothing was measured that this report could show.",)
    if base:
        known = (
            "The base model alone scores ",
            number(sum(base) / len(base)),
            " on average over ",
            Link(things(num, "case"), "all"),
            ".",
        )
    elif num:
        known = (Link(things(num, "case"), "all"), " were answered, and none of them is scored.")
    not_there: Sentence = ("Not known: this run has no verdict.",)
    return Answers(
        decision="",
        tone="open",
        headline="Not compared yet.",
        lead=("This run stopped before a tuned model was compared with the base model.",),
        how_much=(known,),
        how_sure=(not_there,),
        lost=(not_there,),
        may_use=("Not yet: nothing shows that tuning helped.",),
        because=(("Finish the run, or start it again with --resume.",),),
        notes=(),
    )


def is_share(facts: Facts, verdict: Mapping[str, Any]) -> bool:
    """The verdict's scores are shares of right cases, and the cases say the same."""
    found = facts.cases or ()
    tally = cases.counts(found)
    return cases.is_right_or_wrong(found) and all(
        math.isclose(tally[f"{side}-right"] / len(found), verdict[side], abs_tol=1e-6) for side in ("base", "tuned")
    )


def lead(facts: Facts, verdict: Mapping[str, Any]) -> Sentence:
    """Before and after in one sentence: as right answers where a case is right or wrong, else as the score."""
    found = facts.cases or ()
    if is_share(facts, verdict) and verdict["metric"] not in OF_GIVEN:
        tally = cases.counts(found)
        return (
            f"Of {len(found):,} cases that were kept out of training, the base model got ",
            Link(f"{tally['base-right']:,}", "base-right"),
            " right and the tuned model ",
            Link(f"{tally['tuned-right']:,}", "tuned-right"),
            ".",
        )
    num = verdict.get("num_cases")
    cases_text: str | Link = Link(f"{count(num)} cases", "all") if found else f"{count(num)} cases"
    name = metric(verdict["metric"])
    return (
        "On ",
        cases_text,
        f" that were kept out of training, {name} went from {number(verdict['base'])} to {number(verdict['tuned'])}.",
    )


def how_much(verdict: Mapping[str, Any]) -> tuple[Sentence, ...]:
    matters = verdict.get("smallest_that_matters")
    low, high = verdict["interval"]
    said: list[Sentence] = []
    if verdict["decision"] == "better" and matters:
        if low >= matters:
            said.append((f"Even the low end of the interval is more than the {number(matters)} that matters.",))
        elif high <= matters:
            said.append((f"The gain is real but smaller than the {number(matters)} that was said to matter.",))
        else:
            said.append((f"The gain is real, but may be smaller than the {number(matters)} that was said to matter.",))
    if verdict["decision"] == "no relevant difference" and matters:
        said.append((f"The whole interval lies within ±{number(matters)}: any difference is too small to matter.",))
    return tuple(said)


def how_sure(verdict: Mapping[str, Any]) -> tuple[Sentence, ...]:
    p, sure = verdict.get("p"), confidence(verdict)
    said: list[Sentence] = []
    where = {
        "better": "The whole interval lies above zero.",
        "worse": "The whole interval lies below zero.",
        "no relevant difference": "The interval is narrow and close to zero.",
        "too few cases": "The interval is too wide: it reaches from no change, or loss, to a change that matters.",
    }.get(verdict["decision"])
    if where:
        said.append((where,))
    if isinstance(p, (int, float)) and math.isfinite(p):
        said.append(
            (
                f"If tuning changed nothing, a difference this large would come up by chance {chance(p)} "
                f"({p_value(p)}, {verdict.get('test', 'test not named')}).",
            )
        )
    else:
        said.append((f"The p-value is not known ({verdict.get('test', 'test not named')}).",))
    said.append(
        (
            Link(f"{count(verdict.get('num_cases'))} cases", "all"),
            f", {sure} interval. The smallest effect that so many cases can be expected to show is "
            f"{number(verdict.get('smallest_detectable'))}.",
        )
    )
    return tuple(said)


def holm_words(verdict: Mapping[str, Any]) -> tuple[Sentence, ...]:
    """How several primary metrics come to one decision; nothing where there is one."""
    found = claims(verdict)
    if len(found) == 1:
        return ()
    named = [f"{metric(c['metric'])}: {c['decision']} ({p_value(c.get('p_holm'))} after correction)" for c in found]
    rule = "Better needs one that is better and none that is worse"
    return ((f"{len(found)} metrics were chosen before training. {'; '.join(named)}. {rule}. "
             "The correction (Holm) keeps luck on any of them as rare as on one alone.",),)  # fmt: skip


def got_worse(facts: Facts) -> str:
    """What a lower score of a case means, by the scale of the metric."""
    if cases.are_marked(facts.cases or ()):
        return "moved against their mark"
    scale = facts.cases[0].scale if facts.cases else "more"
    return {"less": "scored worse than before", "relative": "in which the judge prefers the base model's answer"}.get(
        scale, "scored lower than before"
    )


def what_it_lost(facts: Facts, verdict: Mapping[str, Any]) -> tuple[Sentence, ...]:
    said: list[Sentence] = []
    tally = cases.counts(facts.cases or ())
    if facts.cases:
        if cases.is_right_or_wrong(facts.cases):
            said.append(
                (
                    Link(things(tally["broken"], "case"), "broken"),
                    f"{cases.went_wrong(facts.cases, tally['broken'])}.",
                )
            )
        elif tally["worsened"] or tally["improved"]:
            said.append((Link(things(tally["worsened"], "case"), "worsened"), f" {got_worse(facts)}."))
        if tally["tuned-cut"]:
            said.append(
                (
                    Link(things(tally["tuned-cut"], "answer"), "tuned-cut"),
                    " of the tuned model ran into the length limit.",
                )
            )
    guard = verdict.get("guard") or ()
    if not guard:
        said.append(("Abilities outside this task: not checked. No guard probe was run.",))
        return tuple(said)
    for passed, words in ((False, "lost"), (None, "not known"), (True, "kept")):
        names = [str(g["name"]) for g in guard if g.get("passed") is passed]
        if names:
            said.append((f"Outside this task, {words}: {', '.join(names)}.",))
    return tuple(said)


def may_i_use_it(facts: Facts, verdict: Mapping[str, Any]) -> tuple[Sentence, tuple[Sentence, ...]]:
    """A plain sentence and its reasons. Only a "better" can become a yes; each doubt is named."""
    decision = verdict["decision"]
    if decision == "worse":
        return ("No. Keep the base model: it does this task better.",), ()
    if decision == "no relevant difference":
        return ("There is no reason to. The base model does this task as well, without any tuning.",), ()
    if decision == "too few cases":
        return ("Not on this evidence. Test on more cases first; the difference may be real or luck.",), ()
    guard = verdict.get("guard") or ()
    failed = [str(g["name"]) for g in guard if g.get("passed") is False]
    unknown = [str(g["name"]) for g in guard if g.get("passed") is None]
    because: list[Sentence] = []
    notes = [str(n) for n in verdict.get("notes") or ()]
    notes = [n.removeprefix(f"{verdict['metric']}: ") for n in notes]  # of several primary metrics the first is meant
    doubted = [n for n in verdict.get("baselines") or {} if any(note.startswith(f"{n} scores") for note in notes)]
    for name, value in as_good(verdict):
        if name in doubted:
            continue  # a note of the verdict says it, with its own test
        because.append(
            (f"{name}: {number(value)}, without a language model. The tuned model: {number(verdict['tuned'])}.",)
        )
    if failed:
        because.append((f"It lost something elsewhere: {', '.join(failed)}.",))
    elif not guard:
        because.append(("What it may have forgotten outside this task was not checked.",))
    elif unknown:
        because.append((f"Whether it kept these is not known: {', '.join(unknown)}.",))
    because += export_words(facts)
    if differs(facts):
        return ("Not the exported files: they do not answer as the model that was measured.",), tuple(because)
    if as_good(verdict):
        return ("There may be no need: something simpler does about as well.",), tuple(because)
    if failed:
        return ("Only where the losses named here do not matter.",), tuple(because)
    if doubted:
        return ("Yes, but something simpler may do as well.",), tuple(because)
    return ("Yes, instead of the base model, for inputs like those it was tested on.",), tuple(because)


def differs(facts: Facts) -> bool:
    checks = [e for e in (facts.export or {}).values() if isinstance(e, dict) and e.get("same_text") is not None]
    return not all(map(alike, checks))


def alike(check: Mapping[str, Any]) -> bool:
    """Every answer is the one that was measured, or parts from it at a near tie, which rounding to 16 bits decides."""
    return bool(check["same_text"]) or check.get("num_ties", 0) + check.get("num_same", 0) == check.get("num_prompts")


def export_words(facts: Facts) -> list[Sentence]:
    checked = {k: e for k, e in (facts.export or {}).items() if isinstance(e, dict) and e.get("same_text") is not None}
    if not checked:
        return [("Whether exported files answer as the measured model does was not checked.",)]
    said: list[Sentence] = []
    for is_same, what in (
        (False, "does not answer as the measured model does"),
        (True, "answers as the measured model does"),
    ):
        names = [name for name, check in checked.items() if alike(check) is is_same]
        prompts = [checked[name].get("num_prompts") for name in names]
        asked = f" on {things(prompts[0], 'prompt')}" if names and set(prompts) == {prompts[0]} and prompts[0] else ""
        ties = max((checked[name].get("num_ties", 0) for name in names if is_same), default=0)
        tied = f"; where they part ({count(ties)}), rounding to 16 bits decides a near tie" if ties else ""
        if names:
            said.append((f"Exported and loaded again ({', '.join(names)}), it {what}{asked}{tied}.",))
    return said
