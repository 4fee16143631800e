"""What a longer context is worth: loss by position and a number to be found, before and after; scores/context.json.

Three models are looked at: the untouched base; the base with the new angles and no update, so that one sees what the
method does by itself; and the tuned one. Both measures read plain text, without the task's instruction or template.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from tunesmith.build import Material, prompt_text
from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot, Who
from tunesmith.evals import by_position, passkey
from tunesmith.evals.tasks import answer_text
from tunesmith.folder import RunFolder
from tunesmith.models.context import angles_of, extended
from tunesmith.models.forward import output
from tunesmith.recipe import Recipe
from tunesmith.types import Example, Record, Segment

NAME, KEPT = "scores/context.json", "scores/partial_context.json"
NUM_DOCUMENTS = 4
NUM_KEYS = 2  # of each length and depth
WHO = ("base", "stretched", "tuned")


@dataclass(frozen=True, slots=True)
class Asking:
    """What all three models are asked. `ends`: of the buckets of positions."""

    ends: list[int]
    documents: list[np.ndarray]
    questions: list[passkey.Question]


def lengths_of(own: int, tokens: int) -> list[int]:
    """Of the texts with a number in them: within the base's own context, at its end, beyond it, and at the new end."""
    return sorted({own // 2, own, (own + tokens) // 2, tokens})


def reading(own: int, tokens: int) -> tuple[int, int]:
    """(tokens that one model reads at most, in how many passes)."""
    lengths, each = lengths_of(own, tokens), NUM_KEYS * len(passkey.DEPTHS)
    return NUM_DOCUMENTS * tokens + each * sum(lengths), NUM_DOCUMENTS + each * len(lengths)


def encoder(tokenizer: Any) -> passkey.Encode:
    """Text to tokens as the model reads plain text: with what stands at its start, and nothing at its end."""
    starts = tokenizer.bos_token_id is not None and tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    lead = [tokenizer.bos_token_id] if starts else []
    return lambda text: lead + list(tokenizer(text, add_special_tokens=False)["input_ids"])


def text_of(example: Example) -> str:
    """Prompt and answer of a case; a plain text is all of it."""
    asked = "" if example.is_text else f"{prompt_text(example)}\n"
    return f"{asked}{answer_text(example)}\n\n"


def asking_of(recipe: Recipe, session: Session, made: Material) -> Asking | None:
    """None where the recipe asks for no longer context. Texts are those of the held-out cases, the longest first."""
    tokens, own = recipe.adapt.context.tokens, session.base.own_tokens
    if tokens is None or own is None:
        return None
    encode = encoder(session.base.tokenizer)
    texts = [text_of(e) for e in (*made.split.test, *made.split.dev)]
    runs = (encode(text) for text in sorted(texts, key=lambda text: (-len(text), text)))
    documents = by_position.documents(runs, tokens, NUM_DOCUMENTS)
    asked = passkey.questions(encode, lengths_of(own, tokens), NUM_KEYS)
    return Asking(by_position.edges(own, tokens), documents, asked)


def whole_record(name: str, tokens: Sequence[int] | np.ndarray, num_learned: int) -> Record:
    """Of which the last tokens are scored."""
    weights = np.zeros(len(tokens), np.float32)
    weights[len(tokens) - num_learned :] = 1
    return Record(name, (Segment(np.array(tokens, dtype=np.int64), weights),))


def losses(session: Session, who: Who, asking: Asking) -> Iterator[list[float]]:
    """Nats of each token but the first, document by document."""
    for number, tokens in enumerate(asking.documents):
        batch = forest([whole_record(str(number), tokens, len(tokens) - 1)])
        yield (-session.logprobs(who, [batch])[0]).tolist()


@torch.no_grad()
def is_found(session: Session, who: Who, asked: passkey.Question) -> bool:
    """Whether the model, writing greedily, would write the number: each of its tokens is the likeliest behind those
    before it."""
    batch = forest([whole_record("asked", asked.tokens, asked.num_answer)])
    with session.borrowed(who) as model:
        out = output(model, session.base.head, batch.to(model.device), session.base.layout)
        right_L = out.over_vocab(lambda logits, target: (logits.argmax(-1) == target).float(), out.target)
    return bool(right_L.all())


def ask(
    session: Session, who: Who, asking: Asking, budget_s: float, step: Callable[[int, int], None]
) -> dict[str, Any]:
    """Nats of the documents and which numbers were found, as far as `budget_s` went."""
    began = time.monotonic()
    total = len(asking.documents) + len(asking.questions)
    nats: list[list[float]] = []
    found: list[bool] = []

    def is_over() -> bool:
        step(len(nats) + len(found), total)
        return time.monotonic() - began > budget_s

    for row in losses(session, who, asking):
        nats.append(row)
        if is_over():
            break
    for one in asking.questions:
        if is_over():
            break
        found.append(is_found(session, who, one))
    return {"nats": nats, "found": found}


def stretched(snapshot: Snapshot) -> Snapshot:
    """The tenant as it was before its first update: the base with other angles."""
    return Snapshot("stretched", snapshot.slot, snapshot.slot.neutral)


def measure(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, snapshot: Snapshot
) -> dict[str, Any] | None:
    """Once a run; what an earlier sitting asked one model is not asked again."""
    kept: dict[str, Any] | None = folder.read(NAME)
    if kept is not None:
        return kept
    asking = asking_of(recipe, session, made)
    if asking is None:
        return None
    sides: dict[str, Any] = folder.read(KEPT) or {}
    with folder.stage("context", len(WHO) * recipe.evals.guard_budget_s), folder.stop.gently("this long text"):
        for name, who in zip(WHO, (None, stretched(snapshot), snapshot)):
            if name in sides:
                continue

            def step(done: int, of: int, name: str = name) -> None:
                folder.tell.step(done, of, f"{name}: long texts")
                folder.stop.check("stopped between long texts; the models that were asked are kept")

            sides[name] = ask(session, who, asking, recipe.evals.guard_budget_s, step)
            folder.write(KEPT, sides)
    facts = facts_of(recipe, session, asking, sides)
    folder.write(NAME, facts)
    (folder.path / KEPT).unlink()
    return facts


def facts_of(recipe: Recipe, session: Session, asking: Asking, sides: dict[str, Any]) -> dict[str, Any]:
    """scores/context.json. Only what all three had time for is compared."""
    context, config = recipe.adapt.context, session.base.model.config
    num_texts, num_asked = (min(len(side[part]) for side in sides.values()) for part in ("nats", "found"))
    loss: dict[str, Any] = {}
    num: list[int] = []
    for name, side in sides.items():
        loss[name], num = by_position.bucketed(asking.ends, [np.array(row) for row in side["nats"][:num_texts]])
    asked = asking.questions[:num_asked]
    return {
        **asdict(context),
        "own_tokens": session.base.own_tokens,
        "rope_parameters": angles_of(extended(config, context)),
        "loss": {
            "ends": asking.ends, "num_tokens": num, "nats_per_token": loss, "num_texts": num_texts,
            "longest": max((len(d) for d in asking.documents[:num_texts]), default=0),
        },
        "passkey": {
            "lengths": sorted({q.length for q in asked}),
            "depths": list(passkey.DEPTHS),
            "asked": [[q.length, q.depth] for q in asked],
            "num_planned": len(asking.questions),
            "found": {name: side["found"][:num_asked] for name, side in sides.items()},
        },
    }  # fmt: skip


def note(facts: dict[str, Any] | None) -> str:
    """Of the verdict: both measures, within the base's own context and beyond; "" without a longer context."""
    if facts is None:
        return ""
    own, tokens, loss = facts["own_tokens"], facts["tokens"], facts["loss"]
    said = [f"context {own:,} → {tokens:,} tokens by {facts['method']} (scores/context.json)"]
    for where, low, high in (("within", 0, own), ("beyond", own, tokens)):
        of = {w: by_position.mean_between(loss["ends"], n, loss["num_tokens"], low, high)
              for w, n in loss["nats_per_token"].items()}  # fmt: skip
        if of["base"] is not None:
            said.append(
                f"loss {where} the base's own context {of['base']:.3f} → {of['tuned']:.3f} nats per token "
                f"({of['stretched']:.3f} with the new angles alone)"
            )
    found, asked = facts["passkey"]["found"], facts["passkey"]["asked"]
    if asked:
        base, between, tuned = (sum(found[name]) for name in WHO)
        said.append(f"passkeys found {base} → {tuned} of {len(asked)} ({between} with the angles alone)")
    return f"{'; '.join(said)}."
