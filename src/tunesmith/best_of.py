"""Several answers sampled to one prompt, of which a reward model picks the best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import InputError
from tunesmith.files import sha256_text
from tunesmith.opened import Opened, Served
from tunesmith.rollouts.reward_model import RewardModel, open_reward
from tunesmith.types import Attempt, Completion, Example, Message, Task

TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True)
class BestOf:
    """Of `num` answers the one with the highest score, the first of equals."""

    num: int
    reward: RewardModel

    @property
    def facts(self) -> list[object]:
        """All that decides which it is, beside the model that answers."""
        return [self.num, self.reward.session.base.digest]

    def __call__(self, opened: Opened, model: str, prompt: tuple[Message, ...]) -> tuple[Completion, float]:
        """With its score. What is drawn depends on the prompt alone, not on the rows around it."""
        seed = int(sha256_text(repr(opened.prompt(prompt)))[:8], 16)
        rows = min(self.num, opened.recipe.evals.rows)
        limits = opened.limits(temperature=TEMPERATURE, seed=seed, rows=rows)
        done = opened.complete(model, [prompt] * self.num, limits)
        example = Example("", prompt, Task({}))
        grades = self.reward([Attempt(example, c.text, c.stopped, len(c.tokens)) for c in done])
        best = max(range(self.num), key=lambda at: grades[at].value)
        return done[best], grades[best].value


def best_of(num: int, reward: Path | None) -> BestOf | None:
    """`reward`: a finished run of a reward model, or a folder of such a model. None for one answer."""
    if num < 1 or (num > 1) != (reward is not None):
        raise InputError(
            f"--best-of is {num} and --reward {reward or 'not said'}: the best of several answers wants a number above "
            "1 and a reward model to pick it, the folder of a run with task.name: reward"
        )
    return None if reward is None else BestOf(num, open_reward(str(model_in(reward))))


def model_in(folder: Path) -> Path:
    """Of a run the whole model that it left; InputError where it is none of a reward model."""
    if not (folder / "recipe.yaml").is_file():
        return folder
    task = Served.read(folder).task
    whole = [folder / name for name in ("merged", "model") if (folder / name).is_dir()]
    if task != "reward" or not whole:
        why = f"a run of task {task}" if task != "reward" else "a run without merged/ (tunesmith export makes it)"
        raise InputError(f"--reward {folder} is {why}; wanted one of task reward, which gives replies a score")
    return whole[0]
