"""How long a run takes here, from one timed pass of the model: what the plan says. Rough; a run measures its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tunesmith import guards
from tunesmith.build import Material
from tunesmith.data.pack import pack
from tunesmith.data.render import Renderer
from tunesmith.models.forward import output
from tunesmith.models.load import Base
from tunesmith.recipe import Recipe
from tunesmith.types import Message, Record, Segment

TIMED_TOKENS = 256
WRITING_COSTS = 2.4  # a written token against one that is only read; measured on a CPU
LEARNING_COSTS = 3.0  # a learned token: forward, and twice that backward


@torch.no_grad()
def second_per_token(base: Base, renderer: Renderer) -> float:
    """Seconds for each token that is read, of one pass of TIMED_TOKENS."""
    tokens = np.resize(np.array(renderer.prompt([Message("user", "How long does this take?")])), TIMED_TOKENS)
    forest = pack([Record("0", (Segment(tokens, np.ones(TIMED_TOKENS, np.float32)),))], TIMED_TOKENS)[0]
    took = []
    for _ in range(2):  # the first pass pays for what is built once
        began = time.monotonic()
        output(base.model, base.head, forest.to(base.model.device), base.layout).logp().sum().item()
        took.append(time.monotonic() - began)
    return min(took) / TIMED_TOKENS


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of base and tuned together. Neither loading nor export is in them."""

    train_s: float
    answers_s: float  # to the held-out cases, and of the base on dev, form by form
    guards_s: float
    one_guard_s: float  # of one model, whatever the budget
    losses_s: float  # of rows of training and dev, for the train-dev gap
    explaining_s: float  # at most, of the worst cases

    @property
    def total_s(self) -> float:
        return self.train_s + self.answers_s + self.guards_s + self.losses_s + self.explaining_s

    def why(self) -> str:
        parts = {
            "training": self.train_s, "answers": self.answers_s, "guard probes": self.guards_s,
            "losses of training and dev rows": self.losses_s, "explaining": self.explaining_s,
        }  # fmt: skip
        shown = ", ".join(f"{name} {seconds:.0f}" for name, seconds in parts.items())
        return f"by a rough guess from one timed pass, in seconds: {shown}; loading and export come on top"


def of_run(recipe: Recipe, base: Base, made: Material, train_tokens: int) -> Times:
    each, evals = second_per_token(base, made.renderer), recipe.evals
    num_test, num_dev = len(made.split.test), len(made.split.dev)
    read, learned = mean_tokens(made.train.records)
    written = WRITING_COSTS * min(learned, made.max_new_tokens) if made.kind.scoring == "generation" else 0.0
    asked = 2 * num_test + len(made.forms) * num_dev
    one_guard = whole_guard = 0.0
    if evals.guards != "off":
        scored, new = guards.num_tokens(base, made.renderer, evals.guards)
        one_guard = each * (scored + WRITING_COSTS * new)
        is_kept = guards.kept_at(base, made.renderer, evals.guards).is_file()
        whole_guard = (1 if is_kept else 2) * min(one_guard, evals.guard_budget_s)
    return Times(
        train_s=LEARNING_COSTS * each * train_tokens,
        answers_s=each * asked * (read + written),
        guards_s=whole_guard,
        one_guard_s=one_guard,
        losses_s=each * read * 2 * 2 * num_dev,  # as many rows of training as of dev, under both models
        explaining_s=evals.explain_budget_s if evals.explain_cases else 0.0,
    )


def mean_tokens(records: Sequence[Record]) -> tuple[float, float]:
    """(tokens, learned tokens) of an example."""
    num = max(1, len(records))
    learned = sum(float((s.weights > 0).sum()) for r in records for s in r.segments)
    return sum(r.num_tokens for r in records) / num, learned / num
