"""Pairs of replies that people prefer: does the model find the chosen one likelier? Of a run that learns from pairs
this is the verdict; of others it stands beside, for the files of evals.preferences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

from torch import Tensor

from tunesmith.build import Material, drawn
from tunesmith.data import ingest
from tunesmith.data.pack import pack, path_tokens
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot, Who
from tunesmith.errors import DataError, PlanError
from tunesmith.evals.compare import Cases, Rules, secondary
from tunesmith.evals.metrics import METRICS
from tunesmith.evals.preference import By, measured_all, measured_pair, preferred
from tunesmith.evals.score import Answer, segment_sums
from tunesmith.evals.tasks import given_record, given_replies, instructed
from tunesmith.folder import RunFolder
from tunesmith.measured import Asking, of_forests
from tunesmith.objectives.preference import replies_in
from tunesmith.recipe import Recipe
from tunesmith.types import Example, Forest, Pair, Ranked, Record

T = TypeVar("T")
Sums = list[float]  # nats and tokens of each reply of an example, the best first
PREFERENCES = "scores/preferences.json"
PREFERS = {"chosen": "the chosen reply", "rejected": "the rejected reply", "neither": "neither reply"}
HOW = {"sum": "whole replies are compared, which favours short ones", "mean": "replies are compared per token"}


def preferences(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, snapshot: Snapshot
) -> dict[str, Any]:
    """The secondary row of preference accuracy; {} where no pairs were named. Both models are asked in the form that
    the tuned one was trained in."""
    if not recipe.evals.preferences:
        return {}
    pairs = pairs_of(recipe)
    kept = folder.read(PREFERENCES)
    if kept is None:
        with folder.doing(f"{len(pairs)} preference pairs under base and tuned"):
            kept = {"example_id": [e.id for e in pairs], "source": [e.source for e in pairs]}
            for name, who in (("base", None), ("tuned", snapshot)):
                kept[name] = pair_logps(recipe, session, made, who, pairs)
        folder.write(PREFERENCES, kept)
    base, tuned = (
        [measured_pair(by_reply(sums), recipe.evals.preference_by) for sums in kept[name]] for name in ("base", "tuned")
    )
    groups = [e.group for e in pairs] if any(e.group for e in pairs) else None
    rules = Rules(alpha=recipe.evals.alpha, seed=recipe.seed)
    rows = secondary(Cases([None] * len(pairs), base, tuned, groups), [METRICS["preference_accuracy"]], rules)
    return {name: {**row, "num_cases": len(pairs), "by": recipe.evals.preference_by} for name, row in rows.items()}


def pairs_of(recipe: Recipe) -> list[Example]:
    found = ingest.read([Path(p) for p in recipe.evals.preferences], None, recipe.data.reading)
    odd = next((e for e in found.examples if not isinstance(e.target, (Pair, Ranked))), None)
    if odd is not None:
        raise DataError(
            f"evals.preferences: {odd.source} is no pair; wanted are the columns prompt, chosen and rejected, or a "
            "list of ranked replies"
        )
    return list(drawn(found.examples, recipe.evals.max_cases))


def pair_logps(recipe: Recipe, session: Session, made: Material, who: Who, pairs: Sequence[Example]) -> list[Sums]:
    """Nats and tokens of each reply of each pair or list, the best first, end of turn included."""
    records = [given_record(made.renderer, e, instructed(e, made.instruction).prompt) for e in pairs]
    found: dict[str, Sums] = {}
    for forest in pack(records, recipe.train.micro, session.base.rope):
        found |= sums_of(forest, session.logprobs(who, [forest])[0])
    return [found[e.id] for e in pairs]


def sums_of(forest: Forest, logp_L: Tensor) -> dict[str, Sums]:
    """Of each example of the forest, as `pair_logps` gives them."""
    sums, size = segment_sums(forest, logp_L), (forest.stop - forest.start).tolist()
    found: dict[str, Sums] = {name: [] for name in forest.example_ids}
    for segment in replies_in(forest).tolist():
        found[forest.example_ids[int(forest.owner[segment])]] += [sums[segment], size[segment]]
    return found


def by_reply(sums: Sequence[float]) -> list[tuple[float, int]]:
    """(nats, tokens) of each reply."""
    return [(nats, int(size)) for nats, size in zip(sums[::2], sums[1::2], strict=True)]


def asked(asking: Asking, by: By) -> list[Answer]:
    """Which reply of each case is the likelier, with what the metrics of pairs read."""
    found = of_given(asking, lambda forest: sums_of(forest, asking.session.logprobs(asking.who, [forest])[0]))
    return [answer_of(sums, by) for sums in found]


def of_given(asking: Asking, measure: Callable[[Forest], Mapping[str, T]]) -> list[T]:
    """Of each case what `measure` finds, by its id, in a forest of prompts with the replies that the rows have."""
    records = [given_record(asking.renderer, e, p) for e, p in zip(asking.cases, asking.prompts, strict=True)]
    refuse_long(records, asking.session.base.context_tokens)
    found: dict[str, T] = {}
    for _, some in of_forests(asking, records, measure):
        found |= some
    return [found[e.id] for e in asking.cases]


def answer_of(sums: Sequence[float], by: By) -> Answer:
    measured = measured_all(by_reply(sums), by)
    score = METRICS["preference_accuracy"].case(measured["preference_accuracy"], None)
    text = PREFERS["rejected" if score < 0.5 else "chosen" if score > 0.5 else "neither"]
    return Answer(text, stopped=True, num_tokens=0, measured=measured)


def refuse_long(records: Sequence[Record], context: int | None) -> None:
    longest = max(records, key=path_tokens)
    if context is not None and path_tokens(longest) > context:
        raise PlanError(
            f"the held-out pair {longest.example_id} has {path_tokens(longest)} tokens, the model's context is "
            f"{context}: drop long rows"
        )


def column(cases: Sequence[Example]) -> dict[str, list[str]]:
    """Of scores/cases.parquet: the rejected replies, where the cases are pairs or lists of replies."""
    if not all(isinstance(e.target, (Pair, Ranked)) for e in cases):
        return {}
    others = [[reply.content for reply in given_replies(e)[1:]] for e in cases]
    return {"rejected": [more[0] if len(more) == 1 else numbered(more) for more in others]}


def numbered(texts: Sequence[str]) -> str:
    """The replies of a list behind its best."""
    return "\n\n".join(f"{place}. {text}" for place, text in enumerate(texts, 2))


def notes(cases: Sequence[Example], base: Sequence[Answer], tuned: Sequence[Answer], by: By) -> list[str]:
    """What a reader of the verdict on pairs must know beside it."""
    grew = [gained(b, t, "preference_margin") > 0 for b, t in zip(base, tuned, strict=True)]
    said = [
        f"in {sum(grew)} of {len(grew)} held-out pairs the chosen reply gained on the rejected one (half would by "
        f"chance). As evals.preference_by says, {HOW[by]}; a rule that reads nothing, to prefer "
        f"the shorter reply, is right in {shorter(cases):.3f} of these pairs."
    ]
    chosen, rejected = ([gained(b, t, name) for b, t in zip(base, tuned)] for name in ("chosen_nats", "rejected_nats"))
    error = stdev(chosen) / len(chosen) ** 0.5 if len(chosen) > 1 else float("inf")
    if mean(chosen) > 2 * error:
        said.insert(0, (
            f"the chosen replies became less likely, by {mean(chosen):.3f} nats a token (the rejected ones by "
            f"{mean(rejected):.3f}), a known failure of learning from pairs. Read what it writes now (tunesmith chat "
            "RUN --against base); objective.preference.nll: 1 or a lower train.lr may hold it."
        ))  # fmt: skip
    return said


def shorter(cases: Sequence[Example]) -> float:
    """Share of the pairs whose chosen reply has fewer characters; a tie is half. Of a list the mean of its pairs."""
    sizes = [[-len(reply.content) for reply in given_replies(e)] for e in cases]
    return mean(mean(preferred(*both) for both in combinations(each, 2)) for each in sizes)


def gained(base: Answer, tuned: Answer, name: str) -> float:
    """Of a case, by the metric's own number, tuned minus base."""
    return float(METRICS[name].case(tuned.measured[name], None) - METRICS[name].case(base.measured[name], None))
