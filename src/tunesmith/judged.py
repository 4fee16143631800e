"""A judge that compares the answers of both models, once both have answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tunesmith.build import Material, drawn
from tunesmith.errors import RunError
from tunesmith.evals import judge as judges
from tunesmith.evals.score import Answer
from tunesmith.evaluate import Asked
from tunesmith.folder import RunFolder
from tunesmith.measured import endpoint_of
from tunesmith.recipe import Recipe

JUDGED = "scores/judged.json"


def judged(
    recipe: Recipe, folder: RunFolder, made: Material, base: Asked, tuned: Asked
) -> tuple[Asked, Asked, list[str]]:
    """Both with their share of the judge's votes, and what must be known of the judge. Nothing is asked where no
    endpoint was named."""
    by = recipe.evals.judge
    if by.endpoint is None:
        return base, tuned, []
    endpoint = endpoint_of(recipe.evals)
    contests = contests_of(made, base.answers, tuned.answers, by.max_cases)

    def progress(done: int, of: int) -> None:
        folder.tell.step(done, of, f"judged by {by.model}")
        folder.stop.check("stopped between two questions to the judge, whose answers are kept")

    kept = kept_in(folder)
    with folder.stage("judge", by.budget_s), folder.stop.gently("this question to the judge"):
        votes = judges.judge(contests, by, endpoint, kept, progress)
    found = judges.trust(votes, judges.read_votes(Path(by.votes)) if by.votes else {})
    folder.write(JUDGED, {"model": by.model, **found.facts(), "votes": [asdict(v) for v in votes]})
    if not found.is_readable:
        trouble = (
            f"{found.num_unreadable} of the {2 * found.num_asked} replies of the judge {by.model} could not be read, "
            "so nothing is concluded from it"
        )
        if any(m.needs == "judge" for m in made.primary):
            raise RunError(
                f"{trouble}: its replies are in {kept.path}. Start a new run with a larger model as the judge"
            )
        return base, tuned, [f"{trouble}."]
    share = {v.example_id: v.tuned for v in votes}
    sides = [
        replace(asked, answers=tuple(voted(made, asked.answers, share, is_tuned=is_tuned)))
        for asked, is_tuned in ((base, False), (tuned, True))
    ]
    where = f"the judge is {by.model} at {endpoint.host}, asked about {len(votes)} cases."
    return sides[0], sides[1], [where, *found.notes()]


def kept_in(folder: RunFolder) -> judges.Kept:
    return judges.Kept(folder.path / "scores" / "judge.jsonl")


def check_judge(recipe: Recipe, folder: RunFolder) -> None:
    """Before anything is trained: the judge is there and can be read. Only a made-up question is sent."""
    by = recipe.evals.judge
    if by.endpoint is not None:
        with folder.doing(f"a made-up question to the judge {by.model}"):
            judges.probe(by, endpoint_of(recipe.evals), kept_in(folder))


def contests_of(made: Material, base: Sequence[Answer], tuned: Sequence[Answer], most: int) -> list[judges.Contest]:
    """The cases that are judged: drawn as held-out cases are."""
    asked = {e.id for e in drawn(made.split.test, most)}
    return [
        judges.Contest(e.id, made.shown(e), b.text, t.text)
        for e, b, t in zip(made.split.test, base, tuned, strict=True)
        if e.id in asked
    ]


def voted(made: Material, answers: Sequence[Answer], share: dict[str, float], *, is_tuned: bool) -> list[Answer]:
    """`share`: of the votes for the tuned model, by case."""
    return [
        replace(a, measured={**a.measured, "judge": (share[e.id] if is_tuned else 1 - share[e.id],)})
        if e.id in share
        else a
        for e, a in zip(made.split.test, answers, strict=True)
    ]
