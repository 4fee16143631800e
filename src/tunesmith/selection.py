"""Rows that are worth learning from, chosen out of a pool: read, ranked, written as they stood, and a line for each.

What is ranked by a model is ranked as it would be trained: with the task's instruction, in the model's template. Rows
of the dev and test files, and what could not be learned from, are left out and named in the ledger.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from tunesmith.build import compute, load_base
from tunesmith.data import select
from tunesmith.data.alike import places
from tunesmith.data.ingest import Ingested, infer_task
from tunesmith.data.render import Renderer
from tunesmith.data.rows import Rejected, Row, rows
from tunesmith.data.split import keys_of
from tunesmith.data.stored import Chosen
from tunesmith.data.write import write_rows
from tunesmith.engine.session import Session
from tunesmith.errors import DataError, InputError, PlanError
from tunesmith.evals.tasks import answer_text, instructed, labels_of, own_instruction
from tunesmith.files import write_json
from tunesmith.folder import Teller
from tunesmith.recipe import Recipe
from tunesmith.row_scores import Desk, difficulty, embeddings, influence
from tunesmith.rows_out import Place
from tunesmith.sources import files_of, read_rows
from tunesmith.stopping import Stop
from tunesmith.types import Example, Label, Record, Reply

By = Literal["random", "length", "diversity", "difficulty", "influence", "semdedup"]
METHODS: tuple[By, ...] = get_args(By)
UNASKED: tuple[By, ...] = ("random", "length")  # which read no model
BY_REPLY: tuple[By, ...] = ("difficulty", "influence")  # which read a prompt and its one reply
HELD_OUT = "stands in the dev or test file too"


def keys_read(by: By) -> tuple[str, ...]:
    """Of a recipe, or how they begin."""
    keys: tuple[str, ...] = ("data.columns.", "data.reading.")
    if by not in UNASKED:
        keys += ("data.max_tokens", "data.too_long", "task.name", "task.instruction", "precision")
    return (*keys, "adapt.rank", "adapt.alpha", "adapt.targets") if by == "influence" else keys


@dataclass(frozen=True, slots=True)
class Wanted:
    by: By
    keep: int
    seed: int


@dataclass(frozen=True, slots=True)
class Pool:
    """What may be chosen. `records`: as the model reads them; none where it is not asked."""

    examples: Sequence[Example]
    records: Sequence[Record]
    left_out: Mapping[str, str]  # file:line -> why
    renderer: Renderer | None = None
    said: str = ""  # what decides the tokens, beside the rows


@dataclass(frozen=True, slots=True)
class Ranking:
    """`order`: numbers of the pool's rows, the best first, at least as many as are kept. `score` [n]: NaN where a row
    has none. `why`: of one row, in words; `facts`: of all."""

    order: np.ndarray
    score: np.ndarray
    why: Callable[[int], str]
    facts: dict[str, Any]


def choose(recipe: Recipe, wanted: Wanted, place: Place, tell: Teller) -> dict[str, Any]:
    """Ranks and writes; returns what stands beside the rows. `recipe.data` names the files."""
    files = files_of(recipe)
    main = read_rows(recipe, files["train"])
    if main.columns.conversation is not None:
        raise InputError(
            "a row of these files is one message, and whole conversations are chosen: write them as one conversation "
            "per row first (messages)"
        )
    given = {part: read_rows(recipe, files[part], main.columns) for part in files if part != "train"}
    if wanted.by == "influence" and "dev" not in given:
        raise InputError("--by influence wants rows of the kind that is to get better: name a file of them with --dev")
    fresh, held_out = apart(main, [read.examples for read in given.values()])
    with Stop(tell.say, "the same command goes on with them") as stop:
        session = None
        if wanted.by in UNASKED:
            pool = Pool(fresh, (), held_out)
        else:
            base = load_base(recipe, compute(recipe))
            if not base.writes:
                raise PlanError(
                    f"{recipe.model} writes no text, and --by {wanted.by} asks how it reads and writes rows"
                )
            session = Session(base)
            pool = readable(recipe, main, fresh, held_out, session, wanted.by)
        if wanted.keep > len(pool.examples):
            raise DataError(too_few(wanted, main, pool))
        between = lambda: stop.check("stopped; the rows scored so far are kept")
        with stop.gently("what is being scored"):
            desk = None if session is None else Desk(session, recipe.train.micro, tell.step, between)
            dev = given["dev"].examples if wanted.by == "influence" else ()
            ranking = ranked(recipe, wanted, pool, desk, dev, tell)
    kept = ranking.order[: wanted.keep]
    facts = {
        "by": wanted.by, "keep": wanted.keep, "seed": wanted.seed, "files": main.files,
        "model": None if session is None else {"name": recipe.model, "digest": session.base.digest},
        "num_rows": main.num_rows, "num_pool": len(pool.examples), "num_kept": len(kept),
        "left_out": dict(Counter([*pool.left_out.values(), *("could not be used" for _ in main.rejected)])),
        "reply_chars": {"kept": float(lengths(pool)[kept].mean()), "pool": float(lengths(pool).mean())},
        **ranking.facts,
        "held_out": sorted(given),
    }  # fmt: skip
    write_json(place.about, facts)
    write_rows(place.out, chosen_rows(recipe, main, pool, ranking, wanted.keep, ledger_of(place)), {})
    return facts


def ledger_of(place: Place) -> Path:
    return place.out.with_name(f"{place.out.name}.ledger.jsonl")


def apart(main: Ingested, others: Sequence[Sequence[Example]]) -> tuple[Sequence[Example], dict[str, str]]:
    """The rows whose prompt or group stands in no other file, and why the rest is left out."""
    if not others:
        return main.examples, {}
    known = np.unique(np.concatenate([keys_of(part) for part in others]))
    is_there = places(known, keys_of(main.examples)) >= 0
    held_out = {e.source: HELD_OUT for e in Chosen(main.examples, np.flatnonzero(is_there))}
    return Chosen(main.examples, np.flatnonzero(~is_there)), held_out


def readable(
    recipe: Recipe, main: Ingested, examples: Sequence[Example], left_out: Mapping[str, str], session: Session, by: By
) -> Pool:  # fmt: skip
    """The rows as the model reads them, each with its first record: of a long text its first piece."""
    base, why = session.base, dict(left_out)
    renderer = Renderer(base.tokenizer, recipe.data.max_tokens, recipe.data.too_long, base.layout)
    task = infer_task(main.columns, main) if recipe.task.name == "auto" else recipe.task.name
    instruction = recipe.task.instruction
    if instruction is None:
        instruction = own_instruction(task, labels_of(main.examples), main.examples)
    if by in BY_REPLY:
        odd = [e for e in examples if e.is_text or not isinstance(e.target, (Reply, Label))]
        why |= {e.source: f"has no prompt with one reply, which --by {by} reads" for e in odd}
    asked = [instructed(e, instruction) for e in examples if e.source not in why]
    found = renderer.records(asked)
    first: dict[str, Record] = {}
    for record in found.records:
        first.setdefault(record.example_id, record)
    reasons = dict(found.dropped)
    why |= {e.source: reasons.get(e.id, "nothing of it can be learned") for e in asked if e.id not in first}
    there = [e for e in asked if e.id in first]
    return Pool(there, [first[e.id] for e in there], why, renderer, f"{renderer.digest} {instruction}")


def ranked(
    recipe: Recipe, wanted: Wanted, pool: Pool, desk: Desk | None, dev: Sequence[Example], tell: Teller
) -> Ranking:
    drawn = select.by_hash((e.id for e in pool.examples), wanted.seed)
    if desk is None:
        chars = lengths(pool)
        if wanted.by == "random":
            return Ranking(drawn, np.full(len(drawn), np.nan), lambda _: "drawn by hash of seed and content", {})
        order = select.by_score(chars, drawn)
        return Ranking(order, chars, lambda i: f"its reply has {chars[i]:.0f} characters", {})
    assert pool.renderer is not None
    if wanted.by == "difficulty":
        return by_difficulty(difficulty(desk, pool.renderer, pool.examples, pool.said), drawn, wanted.keep)
    if wanted.by == "influence":
        towards = pool.renderer.records(dev).records
        if not towards:
            raise DataError("no row of the dev file can be learned from: wanted prompts with replies")
        cosine = influence(desk, recipe.adapt, pool.records, list(towards), wanted.seed, pool.said)
        order = select.by_score(cosine, drawn)
        means = {"kept": float(cosine[order[: wanted.keep]].mean()), "pool": float(cosine.mean())}
        return Ranking(
            order, cosine, lambda i: f"mean cosine {cosine[i]:.4f} with the gradients of {len(towards)} dev rows",
            {"num_dev": len(towards), "cosine": means},
        )  # fmt: skip
    vectors = select.scaled(embeddings(desk, pool.records, pool.said))
    if wanted.by == "semdedup":
        return by_meaning(vectors, pool, drawn, wanted.keep, tell)
    return by_cover(vectors, drawn, wanted.keep, tell)


def by_difficulty(ifd: np.ndarray, drawn: np.ndarray, keep: int) -> Ranking:
    order = select.by_difficulty(ifd, drawn)
    some = ifd[order[:keep]]
    facts = {
        "ifd": {"least": float(some.min()), "most": float(some.max()), "pool_median": float(np.median(ifd))},
        "num_unrelated": int((ifd >= select.UNRELATED).sum()),
        "num_unrelated_kept": int((some >= select.UNRELATED).sum()),
    }  # fmt: skip

    def why(i: int) -> str:
        odd = ": the prompt makes the reply no likelier" if ifd[i] >= select.UNRELATED else ""
        return f"IFD {ifd[i]:.3f}{odd}"

    return Ranking(order, ifd, why, {"difficulty": facts})


def by_cover(vectors: np.ndarray, drawn: np.ndarray, keep: int, tell: Teller) -> Ranking:
    order, distance = select.k_centre(vectors, keep, int(drawn[0]), lambda n, of: tell.step(n, of, "rows taken"))
    score = np.full(len(vectors), np.nan)
    score[order[1:]] = distance[1:]
    cover = {"kept": select.radius(vectors, order), "random": select.radius(vectors, drawn[:keep])}

    def why(i: int) -> str:
        if np.isnan(score[i]):
            return "drawn as the first" if i == order[0] else "nearer to a kept row than those that were taken"
        return f"{score[i]:.3f} from all taken before it"

    return Ranking(order, score, why, {"radius": cover})


def by_meaning(vectors: np.ndarray, pool: Pool, drawn: np.ndarray, keep: int, tell: Teller) -> Ranking:
    distance, which = select.nearest_earlier(vectors, lambda n, of: tell.step(n, of, "rows compared"))
    order = select.by_score(distance, drawn)
    far = {"kept": float(distance[order[:keep]].min())}
    if keep < len(order):
        far["left_out"] = float(distance[order[keep:]].max())
    twin = lambda i: f"{distance[i]:.3f} from {pool.examples[int(which[i])].source}"
    score = np.where(which >= 0, distance, np.nan)
    return Ranking(order, score, lambda i: twin(i) if which[i] >= 0 else "no row stands before it", {"nearest": far})


def lengths(pool: Pool) -> np.ndarray:
    """[n] characters of each reply."""
    return np.array([len(answer_text(e)) for e in pool.examples], np.float64)


def chosen_rows(
    recipe: Recipe, main: Ingested, pool: Pool, ranking: Ranking, keep: int, ledger: Path
) -> Iterator[Row]:  # fmt: skip
    """The rows that are kept, as they stand in their files; a line for every row goes into the ledger."""
    number = {example.source: i for i, example in enumerate(pool.examples)}
    rank = {int(i): k + 1 for k, i in enumerate(ranking.order)}
    left_out = {f"{r.file}:{r.line}": f"could not be used: {r.reason}" for r in main.rejected} | dict(pool.left_out)
    with ledger.open("w", encoding="utf-8", errors="backslashreplace") as out:
        for path in map(Path, main.files):
            for item in rows(path, recipe.data.reading):
                name = f"{path}:{item.line if isinstance(item, Rejected) else item[0]}"
                i = number.get(name)
                entry: dict[str, Any] = {"row": name, "kept": i is not None and rank.get(i, keep + 1) <= keep}
                if i is not None:
                    score = None if np.isnan(ranking.score[i]) else float(ranking.score[i])
                    entry |= {"rank": rank.get(i), "score": score, "why": ranking.why(i)}
                else:
                    entry["why"] = left_out[name]
                out.write(json.dumps(entry, ensure_ascii=False) + "\n")
                if entry["kept"] and not isinstance(item, Rejected):
                    yield item[1]


def too_few(wanted: Wanted, main: Ingested, pool: Pool) -> str:
    reasons = Counter(pool.left_out.values()).most_common(3)
    why = "".join(f"; {num} x {reason}" for reason, num in reasons)
    bad = f"; {len(main.rejected)} could not be used" if main.rejected else ""
    return (
        f"--keep is {wanted.keep}, and {len(pool.examples)} of {main.num_rows} rows can be chosen{why}{bad}. Ask for "
        "fewer, or give more rows"
    )
