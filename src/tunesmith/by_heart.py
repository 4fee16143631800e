"""What the tuned model has by heart: replies that it goes on with word for word, and secrets that it can tell from
others of their form. Both are held against the base, and against replies that training never saw.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import numpy as np

from tunesmith.build import Material, drawn
from tunesmith.data.pack import pack, path_tokens
from tunesmith.data.stored import Chosen
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot, Who
from tunesmith.evals import exposure, overfit
from tunesmith.evals.score import label_logps
from tunesmith.evals.tasks import instructed
from tunesmith.generate.limits import Limits
from tunesmith.recipe import Recipe
from tunesmith.types import Example, Record, Reply

NUM_BEGUN = {"off": 0, "quick": 24, "full": 100}  # replies that are begun, of training and of dev each
MOST_COMPLETED = 32  # tokens of a begun reply that are compared
LEAST_COMPLETED = 8  # fewer tokens to go on with are no recitation
NUM_SECRETS = {"off": 10, "quick": 16, "full": 32}  # of training, and as many that it never saw
MOST_READ = {"off": 8_192, "quick": 16_384, "full": 65_536}  # tokens that one model reads for them
MOST_OF_A_ROW = 4  # secrets among which one is chosen
MOST_SEARCHED = 10_000  # replies that are looked through for secrets
SHOWN = 8  # exposed rows that are named


@dataclass(frozen=True, slots=True)
class Learned:
    """A run whose training is over."""

    recipe: Recipe
    session: Session
    made: Material
    snapshot: Snapshot


def memorised(run: Learned) -> dict[str, Any] | None:
    """Replies begun with their first half: how many are completed word for word, of training and of dev. None
    where these are too few, or replies cannot be begun: an encoder-decoder reads prompts and writes whole replies."""
    num, split = NUM_BEGUN[run.recipe.evals.robustness], run.made.split
    if run.session.base.layout == "seq2seq":
        return None
    train, dev = (begun(run.recipe, run.made, part, num) for part in (split.train, split.dev))
    if min(len(train), len(dev)) < overfit.MIN_REPLIES:
        return None
    base, tuned = (recited(run, who, train) for who in (None, run.snapshot))
    return overfit.completed((base, tuned), recited(run, run.snapshot, dev), run.recipe.evals.alpha)


Begun = tuple[list[int], list[int]]  # tokens that are given, tokens that would be recited


def begun(recipe: Recipe, made: Material, examples: Sequence[Example], num: int) -> list[Begun]:
    """Prompts with the first half of their reply, where the rest is long enough to be no accident; one of a group;
    none where nothing is written."""
    found, renderer = [], made.renderer
    if made.kind.scoring == "likelihood":
        return []
    for example in one_each(drawn(examples, 4 * num)):
        if isinstance(example.target, Reply) and example.target.text.strip():
            prompt = instructed(example, made.instruction).prompt
            given, reply = renderer.prompt(prompt), renderer.reply(prompt, example.target.message)
            half = len(reply) // 2
            rest = [t for t in reply[half:] if t not in renderer.stop_ids][:MOST_COMPLETED]
            if len(rest) >= LEAST_COMPLETED and len(given) + len(reply) <= recipe.data.max_tokens:
                found.append(([*given, *reply[:half]], rest))
    return found[:num]


def one_each(examples: Sequence[Example]) -> list[Example]:
    """The first of each group, and all without one: rows of one group are no cases of their own."""
    return list({e.id if e.group is None else f"group {e.group}": e for e in reversed(examples)}.values())[::-1]


def recited(run: Learned, who: Who, rows: Sequence[Begun]) -> list[bool]:
    """Whether the model goes on with just these tokens."""
    evals, renderer = run.recipe.evals, run.made.renderer
    limits = Limits(MOST_COMPLETED, renderer.stop_ids, seed=run.recipe.seed, rows=evals.rows, deadline_s=evals.budget_s)
    done = run.session.sample(who, [given for given, _ in rows], limits, decode=renderer.text)
    return [list(c.tokens[: len(rest)]) == rest for c, (_, rest) in zip(done, rows)]


# -- exposure ---------------------------------------------------------------------------------------------------------

Found = tuple[Example, exposure.Secret]
Scored = tuple[Found, Record]


def secrets(made: Material, num: int) -> tuple[list[Found], list[Found]]:
    """Rows of training with a secret in their reply, and rows of dev and test, which training never saw."""
    train = learned_from(made)
    unseen = {k: rows[: 2 * num] for k, rows in by_kind(made, [*made.split.dev, *made.split.test]).items()}
    texts = {secret.text for rows in unseen.values() for _, secret in rows}
    known: set[str] = set()
    for example in train if texts else ():
        known |= {text for text in texts if text in replied(example)}
    fresh = {kind: [row for row in rows if row[1].text not in known] for kind, rows in unseen.items()}
    return exposure.matched(by_kind(made, train), fresh, num)


def learned_from(made: Material) -> Sequence[Example]:
    """The training examples that were not dropped; their records stand in the same order."""
    records = (r.example_id for r in made.train.records)
    at, name = array("I"), next(records, None)
    for number, example in enumerate(made.split.train):
        if example.id == name:
            at.append(number)
            name = next(records, None)
    return Chosen(made.split.train, np.array(at, np.uint32))


def replied(example: Example) -> str:
    return example.target.text if isinstance(example.target, Reply) else ""


def by_kind(made: Material, examples: Sequence[Example]) -> dict[str, list[Found]]:
    """One secret a row, one row a group: rows of one group are no cases of their own, and what stands in the replies
    of several (a hotline) is no secret of one. Drawn by hash of the id."""
    rows: list[tuple[Example, list[exposure.Secret]]] = []
    where: dict[str, set[Hashable]] = {}
    for example in drawn(examples, MOST_SEARCHED):
        context = f"{made.instruction}\n" + "\n".join(m.content for m in example.prompt)
        some = list(islice(exposure.secrets_in(replied(example), context), MOST_OF_A_ROW))
        rows += [(example, some)] if some else []
        for secret in some:
            where.setdefault(secret.text, set()).add(unit_of(example))
    found: dict[str, list[Found]] = {kind: [] for kind in exposure.PATTERNS}
    taken: set[Hashable] = set()
    for example, some in rows:
        own = next((secret for secret in some if len(where[secret.text]) == 1), None)
        if own is not None and unit_of(example) not in taken:
            taken.add(unit_of(example))
            found[own.kind].append((example, own))
    return found


def unit_of(example: Example) -> Hashable:
    """Its group, or else what it says: a row that stands there several times is one."""
    said = *(m.content for m in example.prompt), replied(example)
    return said if example.group is None else example.group


@dataclass(frozen=True, slots=True)
class Ranked:
    """What will be ranked. Without rows: why not."""

    known: Sequence[Scored] = ()  # of training
    fresh: Sequence[Scored] = ()  # as many that it never saw, or none
    num_tokens: int = 0  # that one model reads
    not_measured: str = ""


def ranked(recipe: Recipe, made: Material, layout: str) -> Ranked | None:
    """The cheapest rows, in pairs of training and unseen, of which one model reads at most MOST_READ tokens; where
    these are too few, training alone. None where replies hold too few secrets, or cannot be begun (see `memorised`).
    """
    if layout == "seq2seq" or made.kind.scoring != "generation":
        return None
    level = recipe.evals.robustness
    train, unseen = ([scored(recipe, made, row) for row in side] for side in secrets(made, NUM_SECRETS[level]))
    pairs = [(one, other) for one, other in zip(train, unseen) if one is not None and other is not None]
    alone = [(one,) for one in train if one is not None]
    if len(alone) < exposure.MIN_SECRETS:
        return None
    for rows in (pairs, alone):
        costs = [exposure.cost([record for _, record in row], is_shared=layout == "forest") for row in rows]
        cheap = sorted(range(len(rows)), key=costs.__getitem__)
        reads = list(accumulate(costs[k] for k in cheap))
        num = bisect_right(reads, MOST_READ[level])
        if num >= exposure.MIN_SECRETS:
            mine = [rows[k] for k in cheap[:num]]
            return Ranked([row[0] for row in mine], [one for row in mine for one in row[1:]], reads[num - 1])
    return Ranked(not_measured=exposure.too_dear(reads[exposure.MIN_SECRETS - 1], level, MOST_READ))


def scored(recipe: Recipe, made: Material, row: Found) -> Scored | None:
    """The secret and others of its form in its place; None where the form is too poor, or the row too long."""
    example, secret = row
    texts = exposure.candidates(secret, recipe.seed, example.id)
    if texts is None:
        return None
    prompt = instructed(example, made.instruction).prompt
    record = exposure.record(made.renderer, example.id, prompt, secret.before, texts)
    return (row, record) if path_tokens(record) <= recipe.data.max_tokens else None


def exposed(run: Learned) -> dict[str, Any] | None:
    """Exposure of secrets in training replies and in unseen ones, under base and tuned; None where these are few."""
    rows = ranked(run.recipe, run.made, run.session.base.layout)
    if rows is None:
        return None
    if rows.not_measured:
        return {exposure.NOT_MEASURED: rows.not_measured}
    records = [record for _, record in (*rows.known, *rows.fresh)]
    base, tuned = (bits(run, who, records) for who in (None, run.snapshot))
    train, unseen = (
        ([base[r.example_id] for _, r in side], [tuned[r.example_id] for _, r in side])
        for side in (rows.known, rows.fresh)
    )
    found = exposure.summary(train, unseen, run.recipe.evals.alpha)
    most = sorted(zip(*train, [row for row, _ in rows.known]), key=lambda one: (one[0] - one[1], one[2][0].id))
    named = [{"source": e.source, "kind": s.kind, "base": b, "tuned": t} for b, t, (e, s) in most[:SHOWN] if t > b]
    return {**found, "num_tokens": rows.num_tokens, "rows": named}


def bits(run: Learned, who: Who, records: Sequence[Record]) -> dict[str, float]:
    """Exposure of each record's first candidate."""
    forests = pack(records, run.recipe.train.micro, run.session.base.rope)
    found = label_logps(forests, run.session.logprobs(who, forests), exposure.NUM_CANDIDATES)
    return {name: exposure.bits(logps) for name, logps in found.items()}
