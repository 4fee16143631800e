"""Sequence-level distillation (Kim and Rush 2016, arXiv:1606.07947): a teacher's answers to prompts, as rows.

Which teacher wrote a row, and which row of yours it answered, stands in the row; its digest and all that it was asked
with in a file beside. What was answered is kept beside OUT until it is whole.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from tunesmith.answerers import Answerer
from tunesmith.build import prompt_text
from tunesmith.errors import DataError
from tunesmith.evals.score import Answer
from tunesmith.evaluated import progress_of, stopping
from tunesmith.files import write_json, write_text
from tunesmith.folder import Teller
from tunesmith.questions import Questions
from tunesmith.rows_out import Place
from tunesmith.stopping import Stop
from tunesmith.types import Example, Message

EMPTY, CUT, UNNAMED = "empty", "cut off at the limit of tokens", "names no single label"  # why an answer is left out


def distil(teacher: Answerer, asked: Questions, place: Place, tell: Teller) -> dict[str, Any]:
    """Asks and writes; returns what stands beside the rows. Answers that nobody should learn from are left out."""
    place.kept.mkdir(parents=True, exist_ok=True)
    with Stop(tell.say) as stop, stop.gently("what is being answered"):
        said = teacher.answer(asked, place.kept, progress_of(tell, teacher.name), stopping(stop, place.kept))
    rows, left_out = [], {EMPTY: 0, CUT: 0, UNNAMED: 0}
    for example, answer in zip(asked.cases, said.answers, strict=True):
        reason = unusable(answer, asked)
        if reason:
            left_out[reason] += 1
        else:
            rows.append(row_of(example, answer.text, said.name, is_label=bool(asked.labels)))
    if not rows:
        raise DataError(
            f"{said.name} gave no answer to learn from: {left_out}. Give longer answers room with --max-tokens, or ask "
            "another teacher"
        )
    facts = {
        "teacher": said.name, **said.about, "source": asked.source, "instruction": asked.instruction,
        "max_new_tokens": asked.max_new_tokens, "num_asked": len(asked.cases), "num_rows": len(rows),
        "left_out": left_out, "notes": [*asked.notes, *said.notes],
    }  # fmt: skip
    write_json(place.about, facts)
    write_text(place.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    shutil.rmtree(place.kept)
    return facts


def unusable(answer: Answer, asked: Questions) -> str:
    """Why nobody should learn from it; "" where there is no reason."""
    if not answer.text.strip():
        return EMPTY
    if asked.labels:
        return "" if answer.text in asked.labels else UNNAMED
    return "" if answer.stopped else CUT


def row_of(example: Example, text: str, teacher: str, *, is_label: bool) -> dict[str, Any]:
    """A row as `tunesmith run` reads it. The instruction is not in it: the run that learns from it brings its own."""
    turns = [*example.prompt, Message("assistant", text)]
    row: dict[str, Any] = (
        {"text": prompt_text(example), "label": text} if is_label else {"messages": [m.as_dict() for m in turns]}
    )
    group = {"group": example.group} if example.group else {}
    return {**row, **group, **example.slices, "teacher": teacher, "answers": example.source}
