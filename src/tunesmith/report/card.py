"""The report in Markdown, and the model card of an exported model folder. The same facts and words as the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evals.probes import ALPHA
from tunesmith.files import BASE_CONFIG
from tunesmith.report import cases, costs, first_screen, words
from tunesmith.report.average_view import nearer
from tunesmith.report.case_views import shorten
from tunesmith.report.context_view import context
from tunesmith.report.data_view import flat, listing
from tunesmith.report.dialogue_view import HEAD as DIALOGUE_HEAD
from tunesmith.report.dialogue_view import dialogues, worst
from tunesmith.report.facts import Facts, StartingModel, base_model, read, read_mapping
from tunesmith.report.hub_metadata import front_matter
from tunesmith.report.lineage_view import HEAD, LOST_HEAD, lineage_of
from tunesmith.report.loading import loading
from tunesmith.report.robustness_view import RobustnessView, robustness
from tunesmith.report.synthetic_view import SYNTHETIC_HEAD, synthetic_of
from tunesmith.report.views import claim_rows
from tunesmith.report.why_view import lines as why_lines

MOST_CHARS = 600  # of a text of the worst dialogue in Markdown
MOST_LISTED = 20  # rejected rows and the like in Markdown; the page and audit.json have the rest


def write_report(run_folder: Path) -> Path:
    """Write report.md into a run folder: the page's facts without its single cases."""
    facts = read(run_folder)
    out = Path(run_folder) / "report.md"
    out.write_bytes(report(facts).encode("utf-8"))
    return out


def write_model_card(run_folder: Path, model_folder: Path) -> Path:
    """Write README.md into an exported folder: an adapter where adapter_config.json stands, else a whole model."""
    facts = read(run_folder)
    model_folder = Path(model_folder)
    if not any((model_folder / name).is_file() for name in ("adapter_config.json", "config.json")):
        raise DataError(
            f"{model_folder} has neither adapter_config.json nor config.json; wanted a folder of weights as "
            "`tunesmith export` writes it."
        )
    out = model_folder / "README.md"
    config = read_mapping(model_folder / "adapter_config.json")
    peft_type = None if config is None else str(config.get("peft_type") or "")
    is_longer = (model_folder / BASE_CONFIG).is_file()
    out.write_bytes(model_card(facts, peft_type, is_longer=is_longer).encode("utf-8"))
    return out


def plain_text(value: Any) -> str:
    """Text from files, made harmless in Markdown: no markup, no HTML, no new line that starts a block."""
    text = re.sub(r"\s+", " ", words.clean(str(value)))
    return (
        re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", text.replace("&", "&amp;"))
        .replace("\\<", "&lt;")
        .replace("\\>", "&gt;")
    )


def code(value: Any) -> str:
    """Text as a code span; a fence longer than any run of backticks in it."""
    text = re.sub(r"\s+", " ", words.clean(str(value))).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"`{text}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Cells are Markdown already."""
    return [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows), ""]


def sentences(found: Iterable[words.Sentence]) -> list[str]:
    return [f"- {plain_text(words.plain(s))}" for s in found]


def verdict_lines(facts: Facts, answers: words.Answers) -> list[str]:
    """The five questions and the table of scores."""
    lines = [f"**{answers.headline}** {plain_text(words.plain(answers.lead))}", ""]
    rows = first_screen.rows(facts)
    lines += [*(f"- **{row.question}** {plain_text(words.plain(row.answer))}" for row in rows), ""]
    for title, found in (
        ("By how much", answers.how_much),
        ("How sure", answers.how_sure),
        ("What it lost", answers.lost),
        ("Whether to use it", (rows[-1].answer, *answers.because)),
    ):
        lines += [f"### {title}", ""]
        if title == "By how much" and facts.verdict:
            lines += [f"- {effect_line(claim)}" for claim in words.claims(facts.verdict)]
        lines += [*sentences(found), ""]
    if answers.notes:
        lines += ["### You should also know", "", *(f"- {plain_text(n)}" for n in answers.notes), ""]
    return [*lines, *(score_table(facts.verdict) if facts.verdict else [])]


def effect_line(verdict: Mapping[str, Any]) -> str:
    what = "gain" if verdict.get("less_is_better") else "difference"
    return (
        f"{plain_text(words.metric(verdict['metric']))}: {words.number(verdict['base'])} → "
        f"{words.number(verdict['tuned'])}, a {what} of {words.signed(verdict['effect'])} "
        f"({words.confidence(verdict)} interval {words.interval(verdict['interval'], with_sign=True)})."
    )


def score_table(verdict: Mapping[str, Any]) -> list[str]:
    rows = [["Base model", words.number(verdict["base"]), words.interval(verdict.get("base_interval"))]]
    rows.append(["Tuned model", words.number(verdict["tuned"]), words.interval(verdict.get("tuned_interval"))])
    rows += [
        [f"{plain_text(n)} (no language model)", words.number(v), "–"]
        for n, v in sorted((verdict.get("baselines") or {}).items())
    ]
    name = plain_text(words.metric(verdict["metric"]))
    lines = table(["Answered by", f"{name} (primary)", f"{words.confidence(verdict)} interval"], rows)
    if len(words.claims(verdict)) > 1:
        lines += table(
            ["Primary metric", "Base", "Tuned", "Effect", "Interval", "p (Holm)", "Decision"],
            ([plain_text(cell) for cell in row] for row in claim_rows(verdict)),
        )
    guard = verdict.get("guard") or ()
    if guard:
        said = {True: "kept", False: "lost", None: "not known"}
        lines += table(
            ["Guard probe", "Base", "Tuned", f"{words.confidence({'alpha': ALPHA})} interval of the effect", "Result"],
            (
                [plain_text(g["name"]), words.number(g.get("base")), words.number(g.get("tuned")),
                 words.interval(g.get("interval"), with_sign=True), said[g.get("passed")]]
                for g in guard
            ),
        )  # fmt: skip
    second = verdict.get("secondary") or {}
    if second:
        lines += table(
            ["Secondary metric (decides nothing)", "Base", "Tuned", "Effect", f"{words.confidence(verdict)} interval"],
            (
                [plain_text(words.metric(n)), words.number(r.get("base")), words.number(r.get("tuned")),
                 words.signed(r.get("effect")), words.interval(r.get("interval"), with_sign=True)]
                for n, r in second.items()
            ),
        )  # fmt: skip
    return lines


def data_lines(audit: Mapping[str, Any]) -> list[str]:
    lines = [f"- rows read: {words.count(audit.get('rows'))}, accepted: {words.count(audit.get('accepted'))}"]
    for key, name in (("rejected", "rejected"), ("dropped", "dropped"), ("moved", "taken out of a split")):
        if key not in audit:
            continue
        found = listing(name, audit[key])
        lines.append(f"- {name}: {found.num}")
        lines += [f"    - {plain_text(' · '.join(row))}" for row in found.rows[:MOST_LISTED]]
        lines += [f"    - and {found.num - MOST_LISTED} more, in audit.json"] if found.num > MOST_LISTED else []
    return [*lines, *(f"- {plain_text(w)}" for w in audit.get("warnings") or ()), ""]


def sheet_lines(view: RobustnessView) -> list[str]:
    lines = [*(f"- {plain_text(said)}" for said in view.said), ""]
    for sheet in view.sheets:
        lines += [f"### {sheet.title}", "", plain_text(sheet.caption), ""]
        lines += table(sheet.head, ([plain_text(cell) for cell in row] for row in sheet.rows))
    return lines


def dialogue_lines(facts: Facts) -> list[str]:
    view, lowest = dialogues(facts), worst(facts)
    if view is None:
        return []
    lines = ["## Whole dialogues", "", f"{plain_text(view.said)} {plain_text(view.caption)}", ""]
    lines += table(DIALOGUE_HEAD, view.rows)
    if lowest is not None:
        lines += ["### The dialogue in which the tuned model does worst", "", plain_text(view.worst_said), ""]
        for number, turn in enumerate(lowest.turns, 1):
            said = {"user": turn.prompt, "wanted": turn.reference, "base": turn.base_output, "tuned": turn.tuned_output}
            texts = {who: shorten(text or "", MOST_CHARS) for who, text in said.items()}
            lines += [f"{number}. turn", *(f"    - {who}: {plain_text(text)}" for who, text in texts.items())]
        lines.append("")
    return lines


def lineage_lines(facts: Facts) -> list[str]:
    view = lineage_of(facts)
    if view is None:
        return []
    lines = ["## Against the run before", "", *(f"- {plain_text(said)}" for said in view.said), ""]
    lines += table(HEAD, ([plain_text(cell) for cell in row] for row in view.rows))
    if view.lost:
        lines += table(LOST_HEAD, ([plain_text(cell) for cell in row] for row in view.lost))
    runs = [f"    {words.clean(name)} ({words.clean(said)})" for name, said in view.runs]
    return [*lines, "Lineage:", "", *runs, ""]


def synthetic_lines(facts: Facts) -> list[str]:
    view = synthetic_of(facts)
    if view is None:
        return []
    rows = ([plain_text(cell) for cell in row] for row in view.rows)
    lines = ["## Rows that a model wrote", "", plain_text(view.said), "", *table(SYNTHETIC_HEAD, rows)]
    return [*lines, plain_text(view.paired), ""] if view.paired else lines


def cost_lines(cost: Mapping[str, Any]) -> list[str]:
    rows = [
        [plain_text(s.get("name")), words.duration(s.get("seconds")), words.duration(s.get("budget_s"))]
        for s in cost.get("stages") or ()
    ]
    peak, speed = cost.get("peak_gib"), cost.get("tokens_per_s")
    known = isinstance(peak, (int, float)), isinstance(speed, (int, float))
    total = (
        f"Total {words.duration(cost.get('total_s'))}; {words.count(cost.get('train_tokens'))} tokens trained on at "
        f"{words.count(speed) if known[1] else words.NOT_KNOWN} tokens/s; peak memory "
        + (f"{peak:.2f} GiB." if known[0] else f"{words.NOT_KNOWN}.")
    )
    more = [f"{name}: {said}." for name, said in costs.beside_time(cost)]
    return [*table(["Stage", "Time", "Budget"], rows), total, *more, ""]


def hash_lines(lock: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in lock.items():
        if isinstance(value, Mapping):
            lines += [f"- {plain_text(name)}:", *(f"    - {plain_text(k)}: {code(flat(v))}" for k, v in value.items())]
        else:
            lines.append(f"- {plain_text(name)}: {code(flat(value))}")
    return [*lines, ""]


def report(facts: Facts) -> str:
    """report.md."""
    lines = [
        f"# tunesmith report of {plain_text(facts.name)}",
        "",
        "## Is the tuned model better than the base model?",
        "",
    ]
    lines += verdict_lines(facts, words.answers(facts))
    if facts.forms:
        lines += ["## Prompt forms of the base model, tried on dev", ""]
        lines += table(
            ["Form", "Score on dev", "Cases", "Used"],
            (
                [
                    plain_text(f.get("form")),
                    words.number(f.get("dev_score")),
                    flat(f.get("num_cases")),
                    "chosen" if f.get("chosen") else "",
                ]
                for f in facts.forms
            ),
        )
    if facts.cases:
        tally = cases.counts(facts.cases)
        lines += [
            "## Cases",
            "",
            *(f"- {words_of}: {tally[kind]}" for kind, words_of in cases.KINDS.items() if tally[kind]),
            "",
        ]
        lines += ["The texts are in report.html and scores/cases.parquet.", ""]
    lines += [*dialogue_lines(facts), *synthetic_lines(facts), *lineage_lines(facts)]
    for title, found, make in (
        ("Where it fails", facts.understanding, why_lines),
        ("How far it holds", facts.robustness, lambda found: sheet_lines(robustness(found))),
        ("A longer context", facts.context, lambda found: sheet_lines(context(found))),
        ("Nearer to the base", facts.average, lambda found: sheet_lines(nearer(found))),
        ("Data", facts.audit, data_lines),
        ("Cost", facts.cost, cost_lines),
        ("Hashes", facts.lock, hash_lines),
    ):
        if found is not None:
            lines += [f"## {title}", "", *make(found)]
    if facts.recipe is not None:
        lines += ["## Recipe", "", *(f"    {line}" for line in words.clean(facts.recipe).splitlines()), ""]
    if facts.missing:
        lines += [
            "## Missing from this run",
            "",
            *(f"- {code(m.file)}: this report cannot say {m.means}." for m in facts.missing),
            "",
        ]
    return "\n".join(lines)


def limits(facts: Facts, base: StartingModel) -> list[str]:
    """What a user of the weights must know, each from a file of the run."""
    verdict = facts.verdict
    said = []
    if base.note:
        said.append(f"Base weights: {plain_text(base.note)}.")
    if base.digest:
        said.append(f"Made on the base with digest {code(base.digest)}; on another base the results here do not hold.")
    if verdict is None:
        said.append("Never compared with its base model: nothing is known of its quality.")
    else:
        said.append(
            f"Measured on {words.count(verdict.get('num_cases'))} held-out cases of one data set; elsewhere: not known."
        )
        if not verdict.get("guard"):
            said.append("What it may have forgotten outside this task was not checked.")
    said += [plain_text(n) for n in (verdict or {}).get("notes") or () if n != base.note]
    said.append("No test of safety, bias or memorised training text is part of this card unless it is named above.")
    return [*(f"- {s}" for s in said), ""]


def model_card(facts: Facts, peft_type: str | None, *, is_longer: bool) -> str:
    """README.md of an exported folder. `peft_type`: as the adapter's configuration says it; None for a whole model."""
    base, verdict, audit = base_model(facts), facts.verdict, facts.audit or {}
    shown = plain_text(base.base_model or base.name or "a base model that plan.json does not name")
    lines = ["---", front_matter(facts, base, peft_type) + "---", "", f"# {plain_text(facts.name)}", ""]
    adapter = "A LoRA adapter for" if peft_type == "LORA" else f"An adapter ({plain_text(peft_type)} of peft) for"
    lines += [
        f"{'Tuned from' if peft_type is None else adapter} {shown}, made with tunesmith.",
        "",
        "## Is it better than its base?",
        "",
    ]
    lines += verdict_lines(facts, words.answers(facts)) if verdict else ["It was never compared with its base.", ""]
    lines += [
        "## How to load it",
        "",
        *loading(facts, base, is_adapter=peft_type is not None, is_longer=is_longer),
        "## What it was trained on",
        "",
    ]
    splits = audit.get("splits") or {}
    lines += (
        [f"- rows read: {words.count(audit.get('rows'))}, accepted: {words.count(audit.get('accepted'))}"]
        if audit
        else ["- not known: no audit.json"]
    )
    lines += [f"- {plain_text(name)}: {words.count(num)} examples" for name, num in splits.items()]
    lines += [
        f"- {plain_text(Path(str(path)).name)}: sha256 {code(digest)}"
        for path, digest in ((facts.lock or {}).get("data") or {}).items()
    ]
    lines += ["", "The data itself is not part of this folder.", "", "## Limits", "", *limits(facts, base)]
    return "\n".join(lines)
