"""What prefers one answer to another: a judge with a rubric, asked in both orders, or a reward that grades each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.answered import Progress
from tunesmith.best_of import model_in
from tunesmith.both_orders import CONTRADICTED, Judge, doubt, judge_of, judged
from tunesmith.build import prompt_text
from tunesmith.errors import InputError
from tunesmith.evals.judge import Contest, Kept, Vote, trust
from tunesmith.evals.knobs import RUBRIC
from tunesmith.files import sha256_text
from tunesmith.graded import recipe_of
from tunesmith.prefer import Chosen, Group, LeftOut, People, Row
from tunesmith.prompt_rows import gradable, key_of
from tunesmith.rollouts.rewards import Means, Summed, make_reward
from tunesmith.types import Attempt, Example, Grade, Pair, Ranked

FLAT, NOT_ENOUGH = "all rewards are alike", "the best reward is not enough"
BATCH, CHARS = 64, 4  # answers graded at once; characters of a token, where nobody counted
PLACE = (
    "in more than half of the comparisons the judge says another thing when the answers change places: what is left is "
    "little, and hardly an opinion. Name a larger model as the judge."
)
SAID = {None: "not read", 0.0: "first", 0.5: "tie", 1.0: "second"}


@dataclass(frozen=True, slots=True)
class ByJudge:
    """Answers of a prompt are compared two by two, each once: half as many pairs as answers, at most."""

    judge: Judge
    rubric: str

    @property
    def name(self) -> str:
        return self.judge.name

    @property
    def num_needed(self) -> int:
        return 2

    @property
    def asks(self) -> str:
        return "questions to"

    def sends(self, pairs: Sequence[Example]) -> list[str]:
        return self.judge.sends(f"all prompts, their answers, {len(pairs)} pairs of people's and the rubric")

    def choose(
        self, groups: Sequence[Group], pairs: Sequence[Example], kept: Path, progress: Progress,
        between: Callable[[], None],
    ) -> Chosen:  # fmt: skip
        contests, owners = list[Contest](), list[Group]()
        for group in groups:
            for k in range(0, len(group.answers) - 1, 2):
                prompt = prompt_text(group.example)
                contests.append(Contest(group.example.id, prompt, group.answers[k], group.answers[k + 1]))
                owners.append(group)
        people = [Contest(e.id, prompt_text(e), worse, better) for e in pairs for worse, better in (ends(e),)]
        said = judged([*contests, *people], self.judge, self.rubric, Kept(kept / "judge.jsonl"), progress, between)
        votes, of_people = said.votes[: len(contests)], said.votes[len(contests) :]
        rows, left_out = list[Row](), list[LeftOut]()
        digest = sha256_text(self.rubric)
        for contest, owner, vote, replies in zip(contests, owners, votes, said.replies):
            both = {"verdicts": [SAID[vote.base_first], SAID[vote.tuned_first]]}
            if why := doubt(vote):
                texts = {"first": contest.base, "second": contest.tuned}
                left_out.append(LeftOut(owner.example, why, {**texts, **both, "judge_said": list(replies)}))
                continue
            sides = (contest.tuned, contest.base) if vote.tuned == 1 else (contest.base, contest.tuned)
            rows.append(Row(owner, *sides, {**both, "rubric": digest}))
        agrees = tuple(None if doubt(v) else v.tuned for v in of_people)
        about = {**said.about, "rubric": self.rubric, "rubric_digest": digest, **position(votes)}
        found = People(tuple(key_of(e) for e in pairs), agrees)
        notes = (PLACE,) if (about["contradicted_frac"] or 0) > 0.5 else ()
        return Chosen(tuple(rows), tuple(left_out), len(contests), found, about, notes)


def ends(example: Example) -> tuple[str, str]:
    """The worst and the best reply, as people see them."""
    assert isinstance(example.target, (Pair, Ranked))
    return example.target.replies[-1].content, example.target.replies[0].content


def position(votes: Sequence[Vote]) -> dict[str, Any]:
    """Share that contradicts itself, and of the votes that the answer shown first got, 1/2 being fair."""
    found = trust(votes, {})
    share = sum(doubt(v) == CONTRADICTED for v in votes) / len(votes) if votes else None
    return {"contradicted_frac": share, "first_place": found.first_place,
            "first_place_interval": found.first_place_interval}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ByReward:
    """The best and the worst answer of each prompt; with `is_best` the best alone, where it gets at least `least`, or
    more than the least that the reward can give."""

    name: str
    reward: Summed
    is_best: bool = False
    least: float | None = None

    @property
    def num_needed(self) -> int:
        return 1 if self.is_best else 2

    @property
    def asks(self) -> str:
        return "answers graded by"

    def sends(self, pairs: Sequence[Example]) -> list[str]:
        return []

    def choose(
        self, groups: Sequence[Group], pairs: Sequence[Example], kept: Path, progress: Progress,
        between: Callable[[], None],
    ) -> Chosen:  # fmt: skip
        asked = [attempt(g.example, text) for g in groups for text in g.answers]
        asked += [attempt(gradable(e), side) for e in pairs for side in ends(e)]
        grades = self.graded(asked, progress, between)
        rest = iter(grades)
        rows, left_out = list[Row](), list[LeftOut]()
        for group in groups:
            found = [next(rest) for _ in group.answers]
            picked = self.picked(group, [g.value for g in found])
            (rows if isinstance(picked, Row) else left_out).append(picked)  # type: ignore[arg-type]
        values = [grade.value for grade in rest]
        agrees = tuple(None if b == w else float(b > w) for w, b in zip(values[::2], values[1::2]))
        num_failed = sum(not g.is_graded for g in grades)
        notes = [f"{num_failed} answers could not be graded and have the least reward."] if num_failed else []
        about = {"low": self.reward.low, "high": self.reward.high, "files": dict(self.reward.files)}
        people = People(tuple(key_of(e) for e in pairs), agrees)
        return Chosen(tuple(rows), tuple(left_out), len(groups), people, about, tuple(notes))

    def graded(self, asked: Sequence[Attempt], progress: Progress, between: Callable[[], None]) -> list[Grade]:
        found = list[Grade]()
        for first in range(0, len(asked), BATCH):
            found += self.reward(asked[first : first + BATCH])
            progress(len(found), len(asked))
            between()
        return found

    def picked(self, group: Group, values: Sequence[float]) -> Row | LeftOut:
        best, worst = values.index(max(values)), values.index(min(values))
        said = {"rewards": list(values)}
        if self.is_best:
            enough = values[best] > self.reward.low if self.least is None else values[best] >= self.least
            if not enough:
                return LeftOut(group.example, NOT_ENOUGH, {**said, "answer": group.answers[best]})
            return Row(group, group.answers[best], None, said)
        if values[best] == values[worst]:
            return LeftOut(group.example, FLAT, {**said, "answer": group.answers[0]})
        return Row(group, group.answers[best], group.answers[worst], {"rewards": [values[best], values[worst]]})


def attempt(example: Example, text: str) -> Attempt:
    return Attempt(example, text, True, -(-len(text) // CHARS))


def by_reward(reward: Path, kept: Path, *, is_best: bool, least: float | None) -> ByReward:
    """Of a recipe with reward:, a grader object (.json), or a reward model: its run, or its folder."""
    if least is not None and not is_best:
        raise InputError("--least says how good the best answer has to be: it goes with --best")
    if reward.is_dir():
        said = {"reward": [{"kind": "reward_model", "model": str(model_in(reward))}]}
        return ByReward(str(reward), make_reward(said["reward"]), is_best, least)
    recipe = recipe_of(reward, {})
    made = make_reward(recipe.reward, Means(recipe.evals.code.trust_local_code, kept / "reward.jsonl"))
    return ByReward(str(reward), made, is_best, least)


def by_judge(what: str, key_env: str | None, rubric: Path | None, *, may_send: bool, is_best: bool = False) -> ByJudge:
    """`rubric`: a text file; None: that of a run's judge."""
    if is_best:
        raise InputError("--best takes the answer with the highest reward, and a judge only compares two: use --reward")
    return ByJudge(judge_of(what, key_env, may_send=may_send), RUBRIC if rubric is None else text_of(rubric))


def text_of(path: Path) -> str:
    """InputError where it says nothing, or cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the rubric {path} could not be read ({error}); wanted a text file") from error
    if not text:
        raise InputError(f"the rubric {path} is empty; wanted a text that says what makes an answer better")
    return text
