"""One conversation with one or two models: what they were told, and how their answers are shown."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunesmith.cli.options import part
from tunesmith.errors import InputError
from tunesmith.types import Message

CONVERSES = (
    "chat",
    "generate",
    "pretrain",
    "preferences",
    "feedback",
    "reinforce",
)  # tasks whose answers may build on what was said before
SHOWN_LABELS = 3


class Talk:
    """`names`: of base and tuned, those that answer. `system`: an instruction in place of the run's own."""

    def __init__(self, opened: Any, names: tuple[str, ...], limits: Any, system: str | None) -> None:
        self.opened, self.names, self.limits, self.system = opened, names, limits, system
        self.console = Console(highlight=False)
        self.aside = Console(stderr=True, highlight=False)
        self.said: dict[str, list[Message]] = {name: [] for name in names}

    # -- what is said -------------------------------------------------------------------------------------------

    def greeting(self) -> str:
        served = self.opened.served
        who = " beside ".join(self.names)
        if served.labels:
            shown = ", ".join(served.labels[:8]) + (", …" if len(served.labels) > 8 else "")
            own = "all that fit" if self.opened.renderer.several else "its label"
            what = f"It was tuned on labels ({shown}): a text is answered with {own} and how likely that is."
        elif served.task == "pretrain":
            what = "It went on learning from plain text; no answers were learned, and none was measured."
        elif served.task in ("preferences", "feedback"):
            what = (
                "It learned which replies are preferred; what it writes was not measured, so read it beside the base's."
            )
        elif served.task in CONVERSES:
            what = "It answers in the light of what was said before; /reset forgets that."
        else:
            what = f"It was tuned to {served.task}: each message is answered by itself."
        return f"{self.opened.name}, {who}. {what} /help shows the commands."

    def instruction(self) -> str:
        return self.opened.served.instruction if self.system is None else self.system

    def reset(self) -> None:
        self.said = {name: [] for name in self.names}

    def turns(self, name: str, text: str) -> tuple[Message, ...]:
        before = self.said[name] if self.opened.served.task in CONVERSES else []
        system = [] if self.system is None else [Message("system", self.system)]
        return (*system, *before, Message("user", text))

    def answer(self, text: str) -> None:
        """Shows the answers and keeps them; where that is interrupted, nothing is kept."""
        if len(self.names) == 1:
            answers = {self.names[0]: self._alone(self.names[0], text)}
        else:
            answers = self._beside(text)
        for name, answer in answers.items():
            self.said[name] += [Message("user", text), Message("assistant", answer)]

    def save(self, path: Path) -> None:
        """One line a model, as a run reads them; lines that are there stay."""
        if not any(self.said.values()):
            raise InputError("nothing was said yet, so there is nothing to save")
        rows = []
        for name, said in self.said.items():
            system = [Message("system", self.instruction())] if self.instruction() else []
            messages = [{"role": m.role, "content": m.content} for m in (*system, *said)]
            rows.append({"messages": messages, "model": name})
        try:
            with path.open("a", encoding="utf-8") as out:
                out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}): name another file") from error

    def note(self, text: str) -> None:
        self.aside.print(Text(text, style="dim"), soft_wrap=True)

    # -- how it is shown ----------------------------------------------------------------------------------------

    def _alone(self, name: str, text: str) -> str:
        """The answer, on standard output as it is written."""
        parts: list[str] = []
        notes: list[str] = []
        with closing(self._pieces(name, text, notes)) as pieces:
            for piece in pieces:
                parts.append(piece)
                sys.stdout.write(piece)
                sys.stdout.flush()
        sys.stdout.write("\n")
        for note in notes:
            self.note(note)
        return "".join(parts)

    def _beside(self, text: str) -> dict[str, str]:
        """Two columns, one model after the other; below each other where nobody watches."""
        if not self.console.is_terminal:
            answers = {}
            for name in self.names:
                sys.stdout.write(f"{name}:\n")
                answers[name] = self._alone(name, text)
            return answers
        answers, notes = dict.fromkeys(self.names, ""), []
        with Live(self._columns(answers), console=self.console, refresh_per_second=8) as live:
            for name in self.names:
                told: list[str] = []
                with closing(self._pieces(name, text, told)) as pieces:
                    for piece in pieces:
                        answers[name] += piece
                        live.update(self._columns(answers))
                notes += [f"{name}: {note}" for note in told]
        for note in notes:
            self.note(note)
        return answers

    def _columns(self, answers: dict[str, str]) -> Table:
        table = Table(expand=True, header_style="bold")
        for name in self.names:
            table.add_column(name, ratio=1, overflow="fold")
        table.add_row(*(Text(answers[name]) for name in self.names))
        return table

    def _pieces(self, name: str, text: str, notes: list[str]) -> Generator[str]:
        """The answer's text as it comes; what a reader should know of it goes to `notes`."""
        if self.opened.served.labels and self.system is None:
            yield self._label(name, text)
            return
        limits = dataclasses.replace(self.limits, seed=self.limits.seed + len(self.said[name]) // 2)
        parts: list[str] = []
        with closing(self.opened.stream(name, self.turns(name, text), limits)) as pieces:
            for piece in pieces:
                parts.append(piece.text)
                yield piece.text
        if piece.finish == "length":
            notes.append(f"cut off at {piece.num_tokens} tokens; --max-tokens allows more")
        elif self.opened.served.task == "extract" and not is_json("".join(parts)):
            notes.append("this is not JSON")

    def _label(self, name: str, text: str) -> str:
        """The likeliest label and its probability among the labels, calibrated where the run is; then the next ones. Of
        several that may fit, all that do, and how likely each of the likeliest is."""
        served, predict = self.opened.served, part("predict")
        folder = Path(self.opened.name)
        calibration = predict.calibration_of(folder) if name == "tuned" else None
        logp_C = self.opened.label_logps(name, [self.turns(name, text)])[0]
        temperature = 1.0 if calibration is None else calibration.temperature
        if self.opened.renderer.several:
            found = predict.several(logp_C, self.opened.labels)
            each = sorted(found.probabilities.items(), key=lambda one: -one[1])[:SHOWN_LABELS]
            return f"{found.answer}  ({', '.join(f'{name} {p:.2f}' for name, p in each)})"
        p_C = part("evals.calibration").probabilities(logp_C[None], temperature)[0]
        order = sorted(range(len(served.labels)), key=lambda i: -p_C[i])[:SHOWN_LABELS]
        first, *others = (f"{served.labels[i]} {p_C[i]:.2f}" for i in order)
        return f"{first}  ({', '.join(others)})" if others else first


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
