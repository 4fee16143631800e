"""The report of a run: one HTML file that needs no network, no server and, for its static parts, no script."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tunesmith.evals.probes import ALPHA
from tunesmith.evals.tasks import KINDS
from tunesmith.report import cases, first_screen, views, words
from tunesmith.report.average_view import nearer, trade_off
from tunesmith.report.calibration_view import calibration
from tunesmith.report.case_views import CasePage, Known, page
from tunesmith.report.context_view import context
from tunesmith.report.data_view import data, flat
from tunesmith.report.dialogue_view import HEAD as DIALOGUE_HEAD
from tunesmith.report.dialogue_view import dialogues
from tunesmith.report.facts import Facts, base_model, read
from tunesmith.report.lineage_view import HEAD, LOST_HEAD, lineage_of
from tunesmith.report.robustness_view import robustness
from tunesmith.report.rollouts_view import rolled
from tunesmith.report.synthetic_view import SYNTHETIC_HEAD, synthetic_of
from tunesmith.report.watch_view import watched
from tunesmith.report.why_view import tags, why

FOLDER = Path(__file__).parent
FEW_DEV = 50  # dev cases, below which scores of prompt forms are said to be close to a toss
UNEXPLAINED = [name for name, kind in KINDS.items() if not kind.has_answers]  # nobody could ask why one is wrong
MOST_BYTES = 4_900_000  # a report stays under 5 MB, so that it can be mailed
CASE_BUDGETS = (4_000_000, 3_200_000, 2_400_000, 1_600_000, 800_000)


def write(run_folder: Path) -> Path:
    """Write report.html into a run folder. The same files give the same bytes."""
    facts = read(run_folder)
    out = Path(run_folder) / "report.html"
    out.write_bytes(render(facts).encode("utf-8"))
    return out


def render(facts: Facts) -> str:
    """The page. Cases are shortened until it fits; what was left out is said on it."""
    answers = words.answers(facts)
    environment = make_environment()
    template = environment.get_template("report.html")
    shown = sections(facts, answers)
    known = Known(tags(facts.understanding), facts.explained)
    for budget in CASE_BUDGETS:
        found = page(facts.cases, budget, known) if facts.cases else CasePage([], 0, None, 0, 0)
        html = template.render(
            **shown,
            page=found,
            shown_kinds={v.kind for v in found.views},
            shown_ids={v.example_id for v in found.views},
        )
        if len(html.encode("utf-8")) <= MOST_BYTES:
            return html
    return html


@cache
def make_environment() -> Environment:
    """Jinja with every value escaped, and control characters made visible before that. One for all pages: to compile
    the templates takes longer than to fill them."""

    def finalize(value: Any) -> Any:
        return words.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False, "separators": (",", ":")}
    assert environment.loader is not None
    style, script = (environment.loader.get_source(environment, f"{name}.html")[0] for name in ("style", "script"))
    # Only these two texts may act on the page: whatever a case or a name holds, a browser refuses to run it.
    environment.globals.update(
        style=Markup(style), script=Markup(script), style_hash=digest(style), script_hash=digest(script)
    )
    environment.globals.update(
        number=words.number, signed=words.signed, interval=words.interval, things=words.things, flat=flat
    )
    environment.globals.update(
        metric=words.metric,
        direction=words.direction,
    )
    return environment


def digest(text: str) -> str:
    """As a content security policy wants it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def sections(facts: Facts, answers: words.Answers) -> dict[str, Any]:
    """Everything the template prints but the cases."""
    verdict = facts.verdict
    is_share = verdict is not None and words.is_share(facts, verdict)
    curves = views.curves(facts.metrics or ())
    return {
        "facts": facts,
        "answers": answers,
        "rows": first_screen.rows(facts),
        "scale": first_screen.points(verdict) if verdict else None,
        "first_note": first_screen.first_note(verdict),
        "verdict": verdict,
        "counts": cases.counts(facts.cases or ()),
        **cases.named(facts.cases or ()),
        "are_pairs": cases.are_pairs(facts.cases or ()),
        "are_marked": cases.are_marked(facts.cases or ()),
        "explains": (verdict or {}).get("task") not in UNEXPLAINED,
        "base": base_model(facts),
        "confidence": words.confidence(words.claims(verdict)[0] if verdict else {}),
        "guard_confidence": words.confidence({"alpha": ALPHA}),
        "few_dev": any((f.get("num_cases") or 0) < FEW_DEV for f in (facts.forms or ())[1:]),
        "figure": views.effect_figure(verdict, answers.tone) if verdict else None,
        "metric_words": words.metric_meaning((verdict or {}).get("metric")),
        "scores": views.score_rows(verdict, is_share=is_share, with_cases=bool(facts.cases)) if verdict else [],
        "claims": views.claim_rows(verdict) if verdict else [],
        "secondary": views.secondary_rows(verdict) if verdict else [],
        "curves": curves,
        "watched": watched(facts.watched or ()),
        "rolled": rolled(facts.sampled, facts.metrics or ()),
        "calibration": calibration(facts.calibration) if facts.calibration is not None else None,
        "dialogues": dialogues(facts),
        "dialogue_head": DIALOGUE_HEAD,
        "lineage": lineage_of(facts),
        "lineage_head": HEAD,
        "lineage_lost": LOST_HEAD,
        "synthetic": synthetic_of(facts),
        "synthetic_head": SYNTHETIC_HEAD,
        "robust": robustness(facts.robustness) if facts.robustness is not None else None,
        "reach": context(facts.context) if facts.context is not None else None,
        "nearer": nearer(facts.average) if facts.average is not None else None,
        "trade_off": trade_off(facts.average) if facts.average is not None else None,
        "why": why(facts.understanding) if facts.understanding is not None else None,
        "explained": list(facts.explained),
        "exports": views.exports(facts.export or {}),
        "curve_points": [{"first": c.first, "last": c.last, "points": c.points} for c in curves],
        "cost_rows": views.cost_rows(facts.cost or {}),
        "cost_facts": views.cost_facts(facts.cost) if facts.cost else [],
        "data": data(facts.audit) if facts.audit is not None else None,
        "resolved": views.resolved(facts.plan or {}),
        "locked": views.locked(facts.lock or {}),
    }
