"""The first screen: five fixed questions, each answered by one plain sentence with its number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evals.metrics import METRICS
from tunesmith.report import cases, demands, words
from tunesmith.report.facts import Facts
from tunesmith.report.words import Link, Sentence

COUNTED = {  # of metrics from 0 to 1, said out of 100: what is counted
    "accuracy": "answers that are right",
    "macro_f1": "right answers, with each label weighing the same",
    "exact_match": "answers that equal the right one exactly",
    "json_exact": "answers right in every field",
    "micro_f1": "labels that are right",
    "label_set_f1": "labels that are right, missing and invented ones against it",
    "label_set_macro_f1": "labels that are right, missing and invented ones against it, each label weighing the same",
    "json_f1": "fields that are right, missing and invented ones against it",
    "json_schema": "answers that are JSON as the schema wants it",
    "json_valid": "answers that are JSON at all",
    "json_fields": "fields that are right in an average answer",
    "numeric": "answers that come to the right number",
    "tool_calls": "answers that make the right calls",
    "tool_names": "answers that call the right functions",
    "token_f1": "words shared with the right answer",
    "rouge_1": "words shared with the right answer",
    "rouge_l": "words shared, in order, with the right answer",
    "chrf": "pieces of words shared with the right answer",
    "bleu": "runs of words shared with the right answer",
    "pass_at_k": "cases solved by one of k tries",
    "preference_accuracy": "pairs of which the model finds the better reply likelier",
    "reward_accuracy": "pairs of which the better reply gets the higher score",
    "feedback_accuracy": "replies that became likelier where they are marked good and less likely where bad",
    "judge": "cases in which the judge prefers it",
}
OF_100_ALREADY = ("chrf", "bleu")
LIKENESS = ("rouge_l", "rouge_1", "chrf", "bleu", "token_f1")  # to one right answer, not truth
LIMIT_MATTERS_FRAC = 0.2  # of one model's answers: from here on, the limit may have decided the comparison
MANY_CUT_FRAC = 0.05  # of answers that ran into the length limit: from here on, said on the first screen
NOT_YET: Sentence = ("Not known yet: base and tuned model were not compared.",)


@dataclass(frozen=True, slots=True)
class Row:
    question: str
    answer: Sentence


@dataclass(frozen=True, slots=True)
class Points:
    """A metric's values as a reader without training in it takes them: out of 100 where the scale allows."""

    factor: float
    digits: int
    unit: str  # "points of 100" | "" where the metric keeps its own scale

    def of(self, value: Any, *, sign: bool = False) -> str:
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            return words.NOT_KNOWN
        if not self.unit:
            return words.signed(value) if sign else words.number(value)
        text = f"{round(value * self.factor, self.digits) + 0.0:{'+' if sign else ''}.{self.digits}f}"
        return text.removeprefix("+").replace("-", "−") if float(text) == 0 else text.replace("-", "−")


def points(verdict: Mapping[str, Any]) -> Points:
    """One decimal where whole points would hide the effect or an end of its interval that lies close to zero, or where
    they do not add up (23 more than 23 is not 45)."""
    if verdict["metric"] not in COUNTED:
        return Points(1.0, 3, "")
    factor = 1.0 if verdict["metric"] in OF_100_ALREADY else 100.0
    known = [abs(v) * factor for v in (verdict["effect"], *verdict["interval"]) if v is not None and math.isfinite(v)]
    base, tuned, effect = (verdict[k] * factor for k in ("base", "tuned", "effect"))
    sums = all(map(math.isfinite, (base, tuned, effect))) and abs(round(tuned) - round(base)) != round(abs(effect))
    return Points(factor, 1 if sums or any(0 < v < 2 for v in known) else 0, "points of 100")


def rows(facts: Facts) -> tuple[Row, ...]:
    """The five questions, always these and in this order. Whether it is better is the headline with `better`."""
    verdict = facts.verdict
    if verdict is None:
        return (
            Row("Is it better?", stopped(facts)),
            Row("By how much?", base_alone(facts)),
            Row("How sure is that?", NOT_YET),
            Row("What did it lose?", NOT_YET),
            Row("May I use it?", ("Not yet: nothing shows that tuning helped. Go on with --resume.",)),
        )
    first, *further = words.claims(verdict)
    return (
        Row("Is it better?", better(facts, verdict)),
        Row("By how much?", (*how_much(facts, first, points(first)), *(f" {beside(c)}" for c in further))),
        Row(
            "How sure is that?",
            (*how_sure(first, points(first)), *(f" {sure_beside(c)}" for c in further), broken_off(facts)),
        ),
        Row("What did it lose?", lost(facts, verdict)),
        Row("May I use it?", (*may_i_use_it(facts, verdict), demands.summary(facts.gates))),
    )


def linked(facts: Facts, text: str, tags: str) -> str | Link:
    """A number that opens its cases, where the run has them."""
    return Link(text, tags) if facts.cases and cases.counts(facts.cases)[tags] else text


def better(facts: Facts, verdict: Mapping[str, Any]) -> Sentence:
    found = linked(facts, words.things(int(verdict.get("num_cases") or 0), "case"), "all")
    out = f" kept out of training{played(verdict)}, "
    if none_right(facts, verdict) and not verdict["base"]:
        return ("On ", found, out, "neither the tuned model (trained on your examples) nor the base "
                "model (before training) got one right.")  # fmt: skip
    did = {
        "better": "the tuned model (trained on your examples) did better than the base model (before training).",
        "worse": "the tuned model (trained on your examples) did worse than the base model (before training).",
        "no relevant difference": "the tuned model (trained on your examples) did about as well as the base model.",
    }.get(verdict["decision"], "the tuned model (trained on your examples) was neither clearly better nor worse.")
    return ("On ", found, out, did)


def played(verdict: Mapping[str, Any]) -> str:
    """Where dialogues were played through."""
    history = verdict.get("history")
    if not history:
        return ""
    which = "all" if history["num_dialogues"] == verdict["num_cases"] else f"{history['num_dialogues']:,}"
    return f" ({which} of them dialogues, played through on each model's own answers)"


def none_right(facts: Facts, verdict: Mapping[str, Any]) -> bool:
    """Of cases that are right or wrong: more of them would show how little it can do, not that it can."""
    return verdict["tuned"] == 0 and words.is_share(facts, verdict) and verdict["metric"] not in words.OF_GIVEN


def how_much(facts: Facts, verdict: Mapping[str, Any], scale: Points) -> Sentence:
    effect, name = verdict["effect"], str(verdict["metric"])
    is_share = words.is_share(facts, verdict)
    base, tuned = (
        linked(facts, scale.of(verdict[side]), f"{side}-right" if is_share else "all") for side in ("base", "tuned")
    )
    what = (
        f", counting {COUNTED[name]}." if name in COUNTED else f" in {words.metric(name)}; {words.direction(verdict)}."
    )
    moved = "Up" if (effect > 0) != bool(verdict.get("less_is_better")) else "Down"
    by = scale.of(abs(effect))
    unit = f" {scale.unit}" if scale.unit else ""
    if float(by.replace(",", "")) == 0 if by != words.NOT_KNOWN else False:
        return ("By nothing that shows: ", base, " before and ", tuned, f" after{what}")
    return (f"{moved} {by}{unit}, from ", base, " to ", tuned, what, floor(verdict, scale))


def floor(verdict: Mapping[str, Any], scale: Points) -> str:
    """What needs no model and does better than the base model: a gain over that base begins below it."""
    sign = -1 if verdict.get("less_is_better") else 1
    above = {
        n: v for n, v in (verdict.get("baselines") or {}).items() if v is not None and sign * v > sign * verdict["base"]
    }
    if verdict["decision"] != "better" or not above:
        return ""
    name = max(above, key=lambda n: sign * above[n])
    beaten = "both" if sign * above[name] > sign * verdict["tuned"] else "the base"
    return f" Without a language model, {name} gets {scale.of(above[name])}: better than {beaten}."


def beside(claim: Mapping[str, Any]) -> str:
    """One more primary metric: before, after and its own decision."""
    scale = points(claim)
    return (
        f"{words.metric(claim['metric'])}: from {scale.of(claim['base'])} to {scale.of(claim['tuned'])} "
        f"({claim['decision']})."
    )


def sure_beside(claim: Mapping[str, Any]) -> str:
    scale = points(claim)
    low, high = (scale.of(end, sign=True) for end in claim["interval"])
    unit = " points" if scale.unit else ""
    return f"{words.metric(claim['metric'])}: {low} to {high}{unit} ({words.confidence(claim)} interval)."


def how_sure(verdict: Mapping[str, Any], scale: Points) -> Sentence:
    low, high = verdict["interval"]
    p: Any = verdict.get("p")
    sure = f"{words.confidence(verdict)} interval"
    unit = " points" if scale.unit else ""
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in (low, high)):
        return ("Not known: the interval of the difference could not be worked out.",)
    span = f"{scale.of(low, sign=True)} to {scale.of(high, sign=True)}{unit} ({sure})"
    if verdict["decision"] == "no relevant difference":
        matters = scale.of(verdict.get("smallest_that_matters"))
        return (f"Sure enough: the true difference is likely {span}, and less than {matters} does not matter.",)
    if verdict["decision"] not in ("better", "worse"):
        num = words.things(int(verdict.get("num_cases") or 0), "case")
        return (f"Not sure: the true difference may lie anywhere from {span}; {num} cannot tell more.",)
    is_gain = verdict["decision"] == "better"
    ends = (low, high) if is_gain else (-high, -low)
    span = f"{scale.of(ends[0])} to {scale.of(ends[1])}{unit} ({sure})"
    known = isinstance(p, (int, float)) and math.isfinite(p)
    how = "Very sure" if known and p < 0.001 else "Sure" if known and p < 0.01 else "Fairly sure"
    luck = f" Luck alone would show as much {words.chance(p).removesuffix(' times')} tries." if known else ""
    return (f"{how}: the true {'gain' if is_gain else 'loss'} is likely {span}.{luck}",)


def broken_off(facts: Facts) -> str:
    """Where the length limit cut so many answers that it is a part of what was measured; nothing where none is read."""
    measured = METRICS.get(str(words.claims(facts.verdict or {})[0].get("metric")))
    if measured is not None and measured.needs == "likelihood":
        return ""
    each = [answer for case in facts.cases or () for answer in case.each]
    base, tuned = (sum(a.base_stopped is False for a in each), sum(a.tuned_stopped is False for a in each))
    if max(base, tuned) < LIMIT_MATTERS_FRAC * max(1, len(each)):
        return ""
    return (
        f" Of {len(each):,} answers {base:,} of the base and {tuned:,} of the tuned model broke off at the length "
        "limit: a larger evals.max_new_tokens may change the result."
    )


def lost(facts: Facts, verdict: Mapping[str, Any]) -> Sentence:
    """Cases that got worse, and abilities outside the task: kept, lost or not checked."""
    tally = cases.counts(facts.cases or ())
    said: list[str | Link] = []
    if facts.cases:
        tag, what = ("worsened", f" {words.got_worse(facts)}")
        if cases.is_right_or_wrong(facts.cases):
            tag, what = ("broken", cases.went_wrong(facts.cases, tally["broken"]))
        said += [linked(facts, f"{tally[tag]:,} of {len(facts.cases):,} cases", tag), f"{what}. "]
    guard = verdict.get("guard") or ()
    if not guard:
        return (*said, "Other abilities: not checked in this run.")
    return (*said, f"Other abilities, {guards(guard)}.")


def guards(guard: Sequence[Mapping[str, Any]]) -> str:
    """Lost probes with their numbers, those not known by name, the kept ones by number: the table below has all."""
    lost, open_, kept = ([g for g in guard if g.get("passed") is state] for state in (False, None, True))
    parts = []
    if lost:
        parts.append("lost: " + ", ".join(f"{g['name']} ({from_to(g)})" for g in lost))
    if open_:
        parts.append(f"not known: {', '.join(str(g['name']) for g in open_)}")
    if kept:
        parts.append(f"kept: {len(kept)} of {len(guard)}")
    return "; ".join(parts)


def from_to(probe: Mapping[str, Any]) -> str:
    """Shares out of 100; bits per byte, which have a minus, as they are."""
    ends: list[Any] = [probe.get("base"), probe.get("tuned")]
    if all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in ends):
        return " → ".join(f"{100 * v:.0f}" for v in ends) + " of 100"
    return " → ".join(words.number(v) for v in ends)


def may_i_use_it(facts: Facts, verdict: Mapping[str, Any]) -> Sentence:
    """The decision in a sentence; a yes names what is still wrong, for better is not the same as good."""
    may, _ = words.may_i_use_it(facts, verdict)
    tally = cases.counts(facts.cases or ())
    if verdict["decision"] != "worse" and none_right(facts, verdict):
        return (f"No: it got none of {words.things(tally['all'], 'case')} right.",)
    simpler = words.as_good(verdict)
    if verdict["decision"] == "better" and simpler and not words.differs(facts):
        name, value = (min if verdict.get("less_is_better") else max)(simpler, key=lambda pair: pair[1])
        scale = points(verdict)
        return (f"There may be no need: {name}, without a language model, gets {scale.of(value)}, this model ",
                f"{scale.of(verdict['tuned'])}.")  # fmt: skip
    if verdict["decision"] != "better" or not words.plain(may).startswith("Yes"):
        return (*may, *but_read(verdict, tally)) if words.plain(may).startswith("Only") else may
    if verdict["metric"] == "mean_reward":
        return (*may, " But read the best replies first (below, under Training): it pleases its graders more, which ",
                "may be another thing than to answer well.")  # fmt: skip
    if verdict["metric"] in words.OF_GIVEN:
        return (*may, " But read what it writes first (tunesmith chat RUN --against base): given replies were ",
                "compared, and no answer of its own.")  # fmt: skip
    num = tally["tuned-wrong"]
    if not facts.cases or not num:
        return (*may, *but_read(verdict, tally))
    not_right = "wrong" if cases.is_right_or_wrong(facts.cases) else "not right in every field"
    found = Link(f"{num:,} of {len(facts.cases):,}", "tuned-wrong")
    if 2 * num > len(facts.cases):
        return ("Only if each answer is checked: it beats the base model, but ", found, f" answers are {not_right}.")
    return (*may, " But check its answers: ", found, f" {'is' if num == 1 else 'are'} {not_right}.")


def but_read(verdict: Mapping[str, Any], tally: Mapping[str, int]) -> Sentence:
    """What a better score of free texts leaves open: whether they are true, and whether they come to an end."""
    doubts: list[str | Link] = []
    if verdict["metric"] in LIKENESS:
        doubts.append("sharing words with the right answer is not being true")
    if tally["tuned-cut"] >= MANY_CUT_FRAC * max(1, tally["all"]):
        doubts += [", and "] if doubts else []
        doubts += [Link(f"{tally['tuned-cut']:,} of {tally['all']:,}", "tuned-cut"), " break off at the length limit"]
    return (" But read some answers first: ", *doubts, ".") if doubts else ()


def stopped(facts: Facts) -> Sentence:
    """How far a run without a verdict came."""
    if facts.export is not None and facts.forms is None:
        return ("Not known: this model was trained and not measured. `tunesmith run --resume --out RUN` compares it.",)
    said = "Not known: this run stopped before a tuned model was compared with the base model."
    updates = [r["update"] for r in facts.metrics or () if isinstance(r.get("update"), int) and "loss" in r]
    total = (facts.plan or {}).get("updates")
    if updates:
        of = f" of {words.count(total)}" if isinstance(total, int) else ""
        return (f"{said} Training came to update {max(updates):,}{of}.",)
    return (f"{said} Training had not begun.",)


def base_alone(facts: Facts) -> Sentence:
    scores = [c.base_score for c in facts.cases or () if c.base_score is not None]
    if scores:
        found = Link(words.things(len(scores), "case"), "all")
        return ("Not known yet. The base model alone scores ", words.number(sum(scores) / len(scores)),
                " on average over ", found, ".")  # fmt: skip
    best = [f for f in facts.forms or () if f.get("chosen") and isinstance(f.get("dev_score"), (int, float))]
    if best:
        num = words.things(int(best[0].get("num_cases") or 0), "dev case")
        return (f"Not known yet. The base model alone scored {words.number(best[0]['dev_score'])} on {num}.",)
    return NOT_YET


def first_note(verdict: Mapping[str, Any] | None) -> tuple[str, int]:
    """The note that stands on the first screen, and how many more there are below."""
    notes = [str(n) for n in (verdict or {}).get("notes") or ()]
    return (notes[0][:1].upper() + notes[0][1:], len(notes) - 1) if notes else ("", 0)
