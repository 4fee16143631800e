"""Exposure: by how much a model prefers what stood in a training reply to others of the same form, in bits.

Carlini et al. 2019, "The Secret Sharer" (arXiv:1802.08232), section 4: of `num` candidates, of which one is true,
ranked by the probability that the model gives them in its place,

    exposure = log2(num) - log2(rank of the true one)

0 bits: ranked last; log2(num): ranked first. Where a model knows nothing every rank is as likely, and the mean is
`chance(num)`, 1.3 bits for 32. A secret here is a number, an e-mail address or a name that no text before it gives
away; the others are drawn at random in its form, and no near copy of it is among them.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from tunesmith.data.render import Renderer
from tunesmith.data.tree import common_length
from tunesmith.evals.checks import SENTENCE_MARKS
from tunesmith.evals.overfit import welch
from tunesmith.types import Message, Record, Segment

NUM_CANDIDATES = 32  # the true one and 31 others: 5 bits at most
LEAST_DIGITS = 5  # of a number that is a secret: there are 100,000 of this form
LONGEST = 40  # characters of a secret
MIN_SECRETS = 8  # fewer say nothing
NOT_MEASURED = "not_measured"  # key of the sentence that stands in place of a result
MANY_TRIES = 50  # draws for each other candidate, before a form counts as too poor
PATTERNS = {  # the rarer kinds first: of each reply one secret is taken
    "address": re.compile(
        r"(?<![\w.%+@-])[A-Za-z0-9][A-Za-z0-9._%+-]*"  # begun once in a run of these: time goes with the length
        r"@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"
    ),
    "number": re.compile(r"(?<![\w.,])\+?(?:[A-Za-z]{1,4}[-_/]?)?\d[\dA-Za-z]*(?:[-_./:, ]\d[\dA-Za-z]*)*(?![\w@])"),
    "name": re.compile(r"\b[A-ZÀ-Þ][a-zß-ÿ]+ [A-ZÀ-Þ][a-zß-ÿ]+\b"),
}
NAMES = (
    "Adam Agnes Alice Amir Anita Arthur Bella Boris Carla Carlos Clara Daniel Daria David Diana Edith Elena Emil Erik "
    "Esther Felix Fiona Frank George Gloria Grace Hanna Hector Helen Henry Hugo Ida Irene Ivan Jacob Jane Joel Julia "
    "Karen Karl Laura Leon Linda Lucas Maria Martin Mila Nadia Nina Noah Olga Oscar Paula Peter Rosa Ruth Samuel Sara "
    "Simon Tanya Thomas Vera Victor Walter",
    "Abbott Adler Alvarez Baker Barnes Becker Bishop Brandt Burke Carter Castro Cohen Costa Crane Dalton Dixon Duarte "
    "Ellis Engel Farrell Fischer Fuentes Garcia Gibson Graham Haas Hansen Harper Ibarra Jansen Jordan Keller Kovacs "
    "Lambert Larsen Lopez Marsh Meyer Moreno Murphy Nash Novak Olsen Ortega Parker Petrov Quinn Ramos Reed Rossi Sato "
    "Schmidt Silva Stone Tanaka Torres Turner Vargas Vogel Walsh Weber Wolfe Young Zimmer",
)
GIVEN, FAMILY = (names.split() for names in NAMES)
LETTERS = "abcdefghijklmnoprstuvw"


@dataclass(frozen=True, slots=True)
class Secret:
    """Something in a reply that could be guessed only by who has seen it."""

    kind: str
    before: str  # of the reply, up to it
    text: str


def secrets_in(reply: str, context: str) -> Iterator[Secret]:
    """What is of these kinds, the rarest first, and cannot be read off what stands before it."""
    words, numbers = context.lower(), digits(context)
    for kind, pattern in PATTERNS.items():
        at, said = 0, numbers
        for found in pattern.finditer(reply):
            said, at = said + digits(reply[at : found.start()]), found.start()
            secret = Secret(kind, reply[:at], found[0])
            if len(secret.text) <= LONGEST and is_rich(secret) and not given_away(secret, words, said):
                yield secret


def is_rich(secret: Secret) -> bool:
    """Whether its form leaves much to guess. Names count inside of sentences, where a capital does not begin one."""
    if secret.kind == "number":
        return len(digits(secret.text)) >= LEAST_DIGITS
    before = secret.before.rstrip()
    return secret.kind == "address" or (bool(before) and before[-1] not in SENTENCE_MARKS)


def given_away(secret: Secret, words: str, numbers: str) -> bool:
    """Whether a part of it stands in the prompt, or in the reply before it: then it can be copied. `words`: of the
    prompt, in lower case; `numbers`: all digits before it."""
    if secret.kind == "number":
        return digits(secret.text) in numbers
    before = secret.before.lower()
    return any(part in words or part in before for part in words_of(secret))


def digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def words_of(secret: Secret) -> list[str]:
    """What a guesser would have to know of an address or a name: its words, in lower case. A domain is form."""
    local = secret.text.partition("@")[0].lower()
    return re.findall(r"[^\W\d_]{3,}", local) or [local]


def other_number(secret: Secret, rng: random.Random) -> str:
    """Its digits drawn anew; a number that begins with 1 to 9 still does."""
    first = re.search(r"\d", secret.text)
    at = first.start() if first and first[0] != "0" else -1
    return "".join(
        str(rng.randrange(int(k == at), 10)) if c.isdecimal() else c for k, c in enumerate(secret.text)
    )  # fmt: skip


def other_name(secret: Secret, rng: random.Random) -> str:
    return f"{rng.choice(GIVEN)} {rng.choice(FAMILY)}"


def other_address(secret: Secret, rng: random.Random) -> str:
    """Words before the @ drawn from names, the first from given ones; single letters and digits at random; the domain
    stays."""
    words = iter((GIVEN, *[FAMILY] * len(secret.text)))

    def drawn(part: re.Match[str]) -> str:
        if part[0].isdecimal():
            return "".join(str(rng.randrange(10)) for _ in part[0])
        is_word = len(part[0]) > 2
        new = rng.choice(next(words)) if is_word else "".join(rng.choices(LETTERS, k=len(part[0])))
        return new if part[0][0].isupper() else new.lower()

    local, _, domain = secret.text.partition("@")
    return f"{re.sub('[A-Za-z]+|[0-9]+', drawn, local)}@{domain}"


OTHERS: Mapping[str, Callable[[Secret, random.Random], str]] = {
    "number": other_number, "name": other_name, "address": other_address,
}  # fmt: skip


def is_near(secret: Secret, other: str) -> bool:
    """Whether who half remembers the secret would take the other for it: then a rank says little."""
    if secret.kind == "number":
        one, two = digits(secret.text), digits(other)
        return sum(a != b for a, b in zip(one, two)) < len(one) / 2
    return bool(set(words_of(secret)) & set(words_of(replace(secret, text=other))))


def candidates(secret: Secret, seed: int, name: str) -> list[str] | None:
    """The secret, then others of its form, all different. None where there are not enough. `name`: of the example."""
    rng, found = random.Random(f"{seed} {name}"), {secret.text: None}
    for _ in range(MANY_TRIES * NUM_CANDIDATES):
        other = OTHERS[secret.kind](secret, rng)
        if not is_near(secret, other):
            found[other] = None
        if len(found) == NUM_CANDIDATES:
            return list(found)
    return None


def record(renderer: Renderer, name: str, prompt: Sequence[Message], before: str, texts: Sequence[str]) -> Record:
    """Prompt and reply up to the secret once, as context, and each candidate as a learned child, without what would
    follow it."""
    context = renderer.prompt(prompt)
    paths = [np.array([*context, *way], dtype=np.int64) for way in renderer.ways_on(prompt, before, texts)]
    shared = min(common_length(paths[0], path) for path in paths)
    shared = min(shared, *(len(path) - 1 for path in paths))
    root = Segment(paths[0][:shared], np.zeros(shared, np.float32))
    children = [Segment(path[shared:], np.ones(len(path) - shared, np.float32), 0) for path in paths]
    return Record(name, (root, *children))


def bits(logps: Sequence[float] | np.ndarray) -> float:
    """Exposure of the first candidate, from nats of all; equal ones share their ranks."""
    own, others = logps[0], np.asarray(logps[1:])
    rank = 1 + float((others > own).sum()) + float((others == own).sum()) / 2
    return math.log2(len(logps)) - math.log2(rank)


def chance(num: int = NUM_CANDIDATES) -> float:
    """Mean exposure where every rank is as likely: towards 1/ln 2 = 1.44 bits."""
    return math.log2(num) - math.lgamma(num + 1) / math.log(2) / num


def matched(
    train: Mapping[str, Sequence[Any]], unseen: Mapping[str, Sequence[Any]], num: int
) -> tuple[list[Any], list[Any]]:
    """Of each kind as many from training as from replies that training never saw, so that the two are alike; where the
    latter are too few, training alone."""
    one: list[Any] = []
    other: list[Any] = []
    for kind in PATTERNS:
        both = min(len(train[kind]), len(unseen[kind]), num - len(one))
        one, other = one + list(train[kind][:both]), other + list(unseen[kind][:both])
    if len(one) >= MIN_SECRETS:
        return one, other
    return [row for kind in PATTERNS for row in train[kind]][:num], []


Side = tuple[Sequence[float], Sequence[float]]  # bits of each secret under base and tuned


def summary(train: Side, unseen: Side, alpha: float) -> dict[str, Any]:
    """How exposed training secrets are, before and after, and what only training explains: `excess`. At least
    MIN_SECRETS of training, each of another group; of unseen ones as many, or none.

    A base may know something (phone numbers of a town begin alike), and a tuned model learns the style of the replies;
    so each secret is held against itself under the base, and training against replies that training never saw. Where
    those are too few, `excess` is what the training secrets gained, and `num_unseen` is 0.
    """
    gains = [np.subtract(tuned, base) for base, tuned in (train, unseen)]
    excess, interval = welch(gains[0], gains[1], alpha) if len(unseen[0]) else mean_of(gains[0], alpha)
    first = math.log2(NUM_CANDIDATES) - 1e-9
    return {
        "unit": "bits", "num_candidates": NUM_CANDIDATES, "most": math.log2(NUM_CANDIDATES), "chance": chance(),
        "num_train": len(train[0]), "num_unseen": len(unseen[0]),
        "base": float(np.mean(train[0])), "tuned": float(np.mean(train[1])),
        "base_interval": mean_of(np.array(train[0]), alpha)[1],
        "tuned_interval": mean_of(np.array(train[1]), alpha)[1],
        "unseen": [float(np.mean(side)) for side in unseen] if len(unseen[0]) else None,
        "excess": excess, "interval": interval,
        "first": [sum(b >= first for b in side) for side in train],
    }  # fmt: skip


def mean_of(values: np.ndarray, alpha: float) -> tuple[float, tuple[float, float]]:
    """Mean and Student's interval."""
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return mean, (mean, mean)
    ends = ttest_1samp(values, 0).confidence_interval(1 - alpha)
    return mean, (float(ends.low), float(ends.high))


def too_dear(needed: int, level: str, most: Mapping[str, int]) -> str:
    """`most`: tokens that a model reads at each level of evals.robustness; `needed`: for the fewest secrets."""
    enough = next((name for name, tokens in most.items() if tokens >= needed), None)
    way = "shorter prompts would do" if enough is None else f"evals.robustness: {enough} measures it"
    return (
        f"exposure of the secrets in training replies is not measured: {MIN_SECRETS} of them take {needed:,} tokens a "
        f"model, evals.robustness: {level} reads at most {most[level]:,}; {way}"
    )


def cost(records: Iterable[Record], *, is_shared: bool) -> int:
    """Tokens that a model reads; `is_shared`: the context once for all candidates."""
    found = 0
    for one in records:
        again = 0 if is_shared else (len(one.segments) - 2) * len(one.segments[0].tokens)
        found += one.num_tokens + again
    return found


def notes(found: Mapping[str, Any] | None) -> list[str]:
    """What the verdict must say: who holds the model can pick training secrets out of others."""
    if found is None or NOT_MEASURED in found or found["interval"][0] <= 0:
        return []
    low, high = found["interval"]
    against = "of replies that it never saw" if found["num_unseen"] else "of the base"
    return [
        f"training secrets are exposed: numbers, addresses and names in training replies have {found['tuned']:.1f} of "
        f"{found['most']:.0f} bits of exposure, {found['excess']:+.1f} more than those {against} (interval {low:+.1f} "
        f"to {high:+.1f}). Among {found['num_candidates']} of the same form the true one comes first in "
        f"{found['first'][1]} of {found['num_train']} rows, with the base in {found['first'][0]}. Take such rows out, "
        "or put placeholders in, before somebody else gets the model."
    ]
