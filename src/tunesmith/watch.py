"""A few fixed prompts, answered every so often while a model is trained: watched.jsonl.

Answers are greedy and draw no random number, so the weights are bit by bit those of a run without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tunesmith.build import TENANT, Material, drawn, prompt_text
from tunesmith.engine.session import Session
from tunesmith.evals.tasks import answer_text
from tunesmith.folder import RunFolder
from tunesmith.generate.limits import Limits
from tunesmith.recipe import Recipe
from tunesmith.types import Message

NAME = "watched.jsonl"
MOST_TOKENS = 64  # of one answer: it is looked at, not scored
MOST_SHOWN = 200  # characters of a text on the screen


@dataclass(frozen=True, slots=True)
class Prompt:
    """One that is watched. `facts` go with every answer; the reference is "" where the recipe said the prompt."""

    facts: dict[str, str]
    tokens: list[int]


def watched_prompts(recipe: Recipe, session: Session, made: Material) -> list[Prompt]:
    """Those of the recipe, then some of dev, drawn by hash, as far as the context has room for them."""
    form = made.forms[0]
    system = (Message("system", made.instruction),) if made.instruction and form.place == "system" else ()
    said = [
        Prompt({"example_id": f"said-{i}", "prompt": text, "reference": ""},
               made.renderer.prompt((*system, Message("user", text))))
        for i, text in enumerate(recipe.train.watch_prompts, 1)
    ]  # fmt: skip
    own = [
        Prompt({"example_id": e.id, "prompt": prompt_text(e), "reference": answer_text(e)},
               made.renderer.prompt(form.prompt(e, made.instruction)))
        for e in (drawn(made.split.dev, recipe.train.watch) if recipe.train.watch else ())
    ]  # fmt: skip
    context = session.base.context_tokens
    room = None if context is None else context - min(MOST_TOKENS, made.max_new_tokens)
    return [p for p in (*said, *own) if room is None or len(p.tokens) <= room]


def watched_at(recipe: Recipe, num_updates: int) -> set[int]:
    """Update 0, the end, and every `train.every_watch` updates (null: once, half way)."""
    every = recipe.train.every_watch
    return {0, *(range(every, num_updates, every) if every else [num_updates // 2]), num_updates}


class Watch:
    """Asks the prompts, whenever it is time."""

    def __init__(self, recipe: Recipe, folder: RunFolder, session: Session, made: Material, num_updates: int) -> None:
        self.folder, self.session, self.made = folder, session, made
        self.prompts = watched_prompts(recipe, session, made)
        self.updates = watched_at(recipe, num_updates)

    def __call__(self, update: int) -> None:
        """Ask, if it is time, unless the answers of this update are kept already."""
        if not self.prompts or update not in self.updates:
            return
        if any(row["update"] == update for row in self.folder.lines(NAME)):
            return
        limits = Limits(min(MOST_TOKENS, self.made.max_new_tokens), self.made.renderer.stop_ids)
        tokens = [p.tokens for p in self.prompts]
        done = self.session.sample(TENANT, tokens, limits, decode=self.made.renderer.text)
        rows = [{"update": update, **p.facts, "answer": c.text} for p, c in zip(self.prompts, done)]
        self.folder.add_lines(NAME, rows)
        for row in rows:
            self.folder.tell.say(in_words(row))


def in_words(row: dict[str, Any]) -> str:
    """For the screen."""
    lines = [f"watched at update {row['update']}: {shortened(row['prompt'])}"]
    if row["reference"]:
        lines.append(f"  wanted  {shortened(row['reference'])}")
    lines.append(f"  answer  {shortened(row['answer'])}")
    return "\n  ".join(lines)


def shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MOST_SHOWN else f"{flat[: MOST_SHOWN - 2]} …"
