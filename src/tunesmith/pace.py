"""How long a run takes here, from one timed pass of the model: what the plan says. Rough; a run measures its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tunesmith import by_heart, guards
from tunesmith.build import Material
from tunesmith.data.feed import FileFeed
from tunesmith.data.pack import pack
from tunesmith.data.render import Renderer
from tunesmith.generate.decode import common_prefix
from tunesmith.models.forward import output
from tunesmith.models.load import Base
from tunesmith.recipe import Recipe
from tunesmith.types import Message, Record, Segment

TIMED_TOKENS = 256
WRITING_COSTS = 2.4  # a written token against one that is only read; measured on a CPU
LEARNING_COSTS = {"lora": 2.2, "full": 3.3}  # a learned token: forward, and backward once or twice that, and the head
NUM_LOOKED_AT = 32  # prompts, whose lengths stand for all


@torch.no_grad()
def second_per_token(base: Base, renderer: Renderer) -> float:
    """Seconds for each token that is read, of one pass of TIMED_TOKENS."""
    tokens = np.resize(np.array(renderer.prompt([Message("user", "How long does this take?")])), TIMED_TOKENS)
    weights = np.zeros(TIMED_TOKENS, np.float32)
    weights[-1] = 1  # what is read needs the head at its end only
    forest = pack([Record("0", (Segment(tokens, weights),))], TIMED_TOKENS)[0]
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
    losses_s: float  # of rows of training and dev, for the train-dev gap, and of secrets among others of their form
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


def of_run(recipe: Recipe, base: Base, made: Material, feed: FileFeed, train_tokens: int) -> Times:
    """`train_tokens`: of all updates, before prefixes are stored once."""
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
    cost = LEARNING_COSTS["lora" if recipe.adapt.method == "lora" else "full"]
    return Times(
        train_s=cost * each * train_tokens * stored_frac(feed),
        answers_s=each * asked * (own_tokens(made) + written),
        guards_s=whole_guard,
        one_guard_s=one_guard,
        # as many rows of training as of dev, and the secrets of both, under both models
        losses_s=each * 2 * (read * 2 * num_dev + by_heart.expected(recipe, made)[1]),
        explaining_s=evals.explain_budget_s if evals.explain_cases else 0.0,
    )


def stored_frac(feed: FileFeed) -> float:
    """Tokens of an update that are left where a shared prefix is stored once."""
    return min(1.0, sum(batch.num_tokens for batch in feed.heaviest()) / feed.shape()["update_tokens_max"])


def own_tokens(made: Material) -> float:
    """Of a held-out prompt, without the beginning that all share, which is read once."""
    form = made.forms[0]
    prompts = [made.renderer.prompt(form.prompt(e, made.instruction)) for e in made.split.test[:NUM_LOOKED_AT]]
    shared = common_prefix(prompts) if len(prompts) > 1 else 0
    return sum(len(p) - shared for p in prompts) / max(1, len(prompts))


def mean_tokens(records: Sequence[Record]) -> tuple[float, float]:
    """(tokens, learned tokens) of an example."""
    num = max(1, len(records))
    learned = sum(float((s.weights > 0).sum()) for r in records for s in r.segments)
    return sum(r.num_tokens for r in records) / num, learned / num
