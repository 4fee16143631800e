"""The worst held-out cases, which a run explains by itself: for the report, and for `tunesmith explain --case`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.build import Material
from tunesmith.data.pack import pack
from tunesmith.evals.knobs import Evals
from tunesmith.evals.score import Answer, label_logps
from tunesmith.explain import (
    MOST_BYTES,
    Effort,
    Explained,
    OutOfTime,
    Progress,
    answer_record,
    explain_all,
    gradient_bytes,
    last_turn,
)
from tunesmith.files import read_json, write_json
from tunesmith.folder import RunFolder
from tunesmith.opened import TUNED, Opened

FOLDER = "explained"
QUICK = Effort(most_spans=16, num_random=8, num_near=2, num_drawn=4)
MOST_TIED = 6  # cases of one score, of which the loss of the right answer is taken


def path_of(folder: Path, example_id: str) -> Path:
    return folder / FOLDER / f"{example_id[:12]}.json"


def kept(folder: Path, example_id: str) -> dict[str, Any] | None:
    """What was found out about this case, by the run or by an earlier `explain`."""
    path = path_of(folder, example_id)
    return read_json(path) if path.is_file() else None


def keep(folder: Path, found: Explained) -> Path:
    path = path_of(folder, found.example_id)
    write_json(path, found.facts())
    return path


def why(evals: Evals) -> str:
    """What it costs, for the plan."""
    if not evals.explain_cases:
        return "no case is explained in the report; `tunesmith explain RUN --case ID` does it later"
    return (
        f"worst cases explained in the report: {QUICK.most_spans} pieces of each prompt taken out, and at most "
        f"{evals.explain_cases * QUICK.num_near + QUICK.num_drawn} training examples compared, within "
        f"{evals.explain_budget_s:.0f} s"
    )


def explain_worst(
    opened: Opened, made: Material, folder: RunFolder, rows: Sequence[Mapping[str, Any]], answers: Sequence[Answer]
) -> None:
    """`rows` and `answers`: of the held-out cases, in one order. What an earlier sitting kept stays."""
    evals = opened.recipe.evals
    if not evals.explain_cases or (folder.path / FOLDER).is_dir():
        return
    with folder.stage("explain", evals.explain_budget_s), folder.stop.gently("this case"):
        ends = time.monotonic() + evals.explain_budget_s

        def progress(done: int, total: int, text: str) -> None:
            if time.monotonic() > ends:
                raise OutOfTime
            folder.stop.check("stopped while the worst cases were explained, which begins anew")
            folder.tell.step(done, total, text)

        try:
            chosen = worst(opened, made, rows, answers, progress)
        except OutOfTime:
            chosen = []
        found = explain_all(opened, made, chosen, effort_of(opened, len(chosen)), progress)
        if time.monotonic() > ends:
            folder.tell.say(
                f"{len(found)} of the {evals.explain_cases} worst cases were explained within evals.explain_budget_s "
                f"({evals.explain_budget_s:g} s); `tunesmith explain` takes the time it needs"
            )
        (folder.path / FOLDER).mkdir(exist_ok=True)
        for one in found:
            keep(folder.path, one)


def effort_of(opened: Opened, num: int) -> Effort:
    """Words alone where the gradients of so many cases are so large that they may not fit beside the optimizer."""
    is_large = num * gradient_bytes(opened) > MOST_BYTES
    return replace(QUICK, num_near=0, num_drawn=0) if is_large else QUICK


def worst(
    opened: Opened, made: Material, rows: Sequence[Mapping[str, Any]], answers: Sequence[Answer], progress: Progress
) -> list[Mapping[str, Any]]:
    """The cases with the lowest score that is not full; of equal ones those in which the right answer is least
    likely."""
    num, metric = opened.recipe.evals.explain_cases, made.metric
    turn = -1.0 if metric.less_is_better else 1.0
    full = -metric.low if metric.less_is_better else metric.high
    score = {k: turn * r["tuned_score"] for k, r in enumerate(rows) if r["tuned_score"] is not None}
    order = sorted((k for k in score if score[k] < full), key=lambda k: (score[k], rows[k]["example_id"]))
    if len(order) <= num:
        return [rows[k] for k in order]
    sure = [k for k in order if score[k] < score[order[num - 1]]]
    tied = [k for k in order if score[k] == score[order[num - 1]]]
    if made.labels and not made.renderer.several:
        losses = {k: label_loss(answers[k], made.labels, rows[k]["reference"]) for k in tied}
    else:
        tied = tied[: max(MOST_TIED, num)]
        losses = dict(zip(tied, reference_losses(opened, made, [rows[k] for k in tied], progress)))
    tied.sort(key=lambda k: (-losses[k], rows[k]["example_id"]))
    return [rows[k] for k in (*sure, *tied)[:num]]


def label_loss(answer: Answer, labels: Sequence[str], right: str) -> float:
    """Nats of the right label among the labels."""
    logp_C = np.array(answer.label_logps)
    return float(np.logaddexp.reduce(logp_C) - logp_C[labels.index(right)])


def reference_losses(
    opened: Opened, made: Material, rows: Sequence[Mapping[str, Any]], progress: Progress
) -> list[float]:
    """Nats per token of each reference behind its prompt, as the tuned model sees it."""
    by_id = {e.id: e for e in made.split.test}
    asked = [last_turn(by_id[r["example_id"]], r) for r in rows]
    prompts = [made.forms[0].prompt(e, made.instruction) for e, _ in asked]
    records = [answer_record(opened, r["example_id"], p, r["reference"]) for (_, r), p in zip(asked, prompts)]
    forests = pack(records, opened.recipe.train.micro, opened.session.base.rope)
    scored = []
    for done, forest in enumerate(forests):
        progress(done, len(forests), "how likely the right answers are")
        scored += opened.session.logprobs(opened.who(TUNED), [forest])
    found = label_logps(forests, scored, 1)
    return [-float(found[r.example_id][0]) / r.num_learned for r in records]
