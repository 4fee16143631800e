"""Answers to many prompts: for labels with the calibrated probability and "unsure", for texts with what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tunesmith.best_of import BestOf
from tunesmith.calibrate import NAME as CALIBRATION_FILE
from tunesmith.classes import OF_LABELS
from tunesmith.errors import DataError, InputError
from tunesmith.evals.calibration import DIGITS, Calibration, probabilities
from tunesmith.evals.score import all_that_fit
from tunesmith.files import read_json
from tunesmith.generate.structured import Form
from tunesmith.opened import TUNED, Opened, Served
from tunesmith.types import Completion, Message
from tunesmith.unasked import IN_CHAT, refuse_command

LABEL_ROWS = 64  # prompts whose labels are scored in one call: memory does not grow with the file


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says to one prompt. What is not known, or does not apply, is None."""

    answer: str  # "" where there is a problem
    probability: float | None = None  # labels: calibrated on the run's dev cases
    unsure: bool | None = None  # labels: the probability is below the threshold chosen on dev
    confidence: float | None = None  # not calibrated: share of the label or labels, or geometric mean over the tokens
    probabilities: dict[str, float] | None = None  # labels: of every label; calibrated where `probability` is given
    cut: bool | None = None  # texts: the answer ran into the limit of tokens and is not finished
    reward: float | None = None  # the best of several: what the reward model gave it
    problem: str | None = None  # why there is no answer


@dataclass(frozen=True, slots=True)
class Unusable:
    """A prompt that cannot be asked, and why."""

    reason: str


def is_labelled(served: Served) -> bool:
    return served.task in OF_LABELS and bool(served.labels)


def calibration_of(folder: Path) -> Calibration | None:
    """None where the run kept none, or had too few dev cases for one."""
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    found = Calibration.of(read_json(path))
    return found if found.is_usable else None


class Predictor:
    """One of an opened run's models, asked in batches. The calibration is that of the tuned model, and of no other."""

    def __init__(
        self,
        opened: Opened,
        calibration: Calibration | None,
        model: str = TUNED,
        best: BestOf | None = None,
        form: Form | None = None,
    ) -> None:
        refuse_command(opened.served.task, f"{opened.name} learned from", IN_CHAT, writes=True)
        opened.who(model)  # refuses a name that is not there
        self.opened, self.model, self.best, self.form = opened, model, best, form
        self.labelled = is_labelled(opened.served) or bool(opened.renderer.several)
        self.calibration = calibration if model == TUNED and self.labelled else None
        self.batch_rows = LABEL_ROWS if self.labelled else opened.recipe.evals.rows
        self._room = self._answer_tokens()

    def __call__(self, prompts: Sequence[tuple[Message, ...] | Unusable]) -> list[Prediction]:
        """One prediction a prompt, in order. What one answer is depends, in its last bits, on the batch it is in."""
        checked = [self._checked(p) for p in prompts]
        usable = [p for p in checked if not isinstance(p, Unusable)]
        answers = iter(self._labels(usable) if self.labelled else self._texts(usable))
        return [Prediction("", problem=p.reason) if isinstance(p, Unusable) else next(answers) for p in checked]

    def _answer_tokens(self) -> int:
        if not self.labelled:
            return self.opened.served.max_new_tokens
        choice, turn = self.opened.renderer.choice, [Message("user", "x")]
        return max(len(choice(turn, label)) for label in self.opened.labels)

    def _checked(self, prompt: tuple[Message, ...] | Unusable) -> tuple[Message, ...] | Unusable:
        if isinstance(prompt, Unusable):
            return prompt
        if not any(m.content.strip() for m in prompt if m.role not in ("system", "developer")):
            return Unusable("the prompt is empty")
        context = self.opened.session.base.context_tokens
        try:
            length = len(self.opened.prompt(prompt))
        except (DataError, InputError) as error:
            return Unusable(str(error))
        if context is not None and length + self._room > context:
            return Unusable(
                f"the prompt has {length} tokens and its answer up to {self._room}, the model's context is {context}: "
                "shorten it"
            )
        return prompt

    def _labels(self, prompts: Sequence[tuple[Message, ...]]) -> list[Prediction]:
        if not prompts:
            return []
        names = self.opened.labels
        found = self.calibration
        logp = self.opened.label_logps(self.model, prompts)
        if self.opened.renderer.several:
            return [several(logp_C, names) for logp_C in logp]
        shares = np.round(probabilities(logp, found.temperature if found else 1.0), DIGITS)
        predictions = []
        for best, share_C in zip(logp.argmax(axis=1).tolist(), shares.tolist()):
            top, each = share_C[best], dict(zip(names, share_C))
            if found is None:
                predictions.append(Prediction(names[best], confidence=top, probabilities=each))
            else:
                unsure = found.is_unsure(top)
                predictions.append(Prediction(names[best], probability=top, unsure=unsure, probabilities=each))
        return predictions

    def _texts(self, prompts: Sequence[tuple[Message, ...]]) -> list[Prediction]:
        """Prompts that are longer than any of training are answered one at a time: the rows of a batch are as long in
        memory as its longest."""
        if self.best is not None:
            found = [self.best(self.opened, self.model, p) for p in prompts]
            return [replace(written(done), reward=round(score, DIGITS)) for done, score in found]
        usual = self.opened.recipe.data.max_tokens
        lengths = [len(self.opened.prompt(p)) for p in prompts]
        done: dict[int, Completion] = {}
        together = [i for i, n in enumerate(lengths) if n <= usual]
        for rows in [together, *([i] for i, n in enumerate(lengths) if n > usual)]:
            if not rows:
                continue
            limits = self.opened.limits(rows=len(rows), form=self.form)
            done.update(zip(rows, self.opened.complete(self.model, [prompts[i] for i in rows], limits)))
        return [written(done[i]) for i in range(len(prompts))]


def several(logp_C: np.ndarray, names: Sequence[str]) -> Prediction:
    """All labels that fit. `confidence`: the probability of just this set of them; not calibrated."""
    found = all_that_fit(logp_C, names)
    each = dict(zip(names, np.round(np.exp(logp_C), DIGITS).tolist()))
    return Prediction(found.text, confidence=round(found.probability or 0.0, DIGITS), probabilities=each)


def written(completion: Completion) -> Prediction:
    """`confidence`: the geometric mean of the probabilities of the answer's tokens."""
    mean = float(np.exp(np.mean(completion.logp)))
    return Prediction(completion.text, confidence=round(mean, DIGITS), cut=not completion.stopped)
