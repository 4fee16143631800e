"""Rewards that are computed here: what a reply is held against stands in the recipe or in the row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

from tunesmith.errors import DataError
from tunesmith.evals import counted
from tunesmith.evals.metrics import rouge, token_f1
from tunesmith.evals.numeric import last_number
from tunesmith.evals.text import folded
from tunesmith.rollouts import kinds
from tunesmith.rollouts.parts import Part, each, reference
from tunesmith.types import Attempt

LONGEST_FUZZY = 20_000  # characters: the time grows with the product of both lengths


def exact(options: kinds.Exact, name: str) -> Part:
    def case(attempt: Attempt) -> float:
        got, wanted = folded(attempt.text), folded(reference(attempt, options.reference))
        return float(got.casefold() == wanted.casefold() if options.ignore_case else got == wanted)

    return Part(name, 0.0, 1.0, each(case))


def numeric(options: kinds.Numeric, name: str) -> Part:
    share = Decimal(str(options.tolerance))

    def case(attempt: Attempt) -> float:
        text = reference(attempt, options.reference)
        wanted, got = last_number(text), last_number(attempt.text)
        if wanted is None:
            raise DataError(
                f"{attempt.example.source or attempt.example.id}: the reference {text[-60:]!r} holds no number"
            )
        return float(got is not None and abs(got - wanted) <= abs(wanted) * share)

    return Part(name, 0.0, 1.0, each(case))


def similarity(options: kinds.Similarity, name: str) -> Part:
    like = SIMILAR[options.by]
    return Part(name, 0.0, 1.0, each(lambda a: like(a.text, reference(a, options.reference))))


def length(options: kinds.Length, name: str) -> Part:
    def case(attempt: Attempt) -> float:
        return overlong(size(attempt, options.unit), options.most, options.buffer)

    return Part(name, -1.0, 0.0, each(case))


def overlong(size: int, most: int, buffer: int) -> float:
    """0 up to most - buffer, -1 from `most` on, a straight line between. DAPO (Yu et al. 2025), eq. 13."""
    return min(0.0, max(-1.0, (most - buffer - size) / buffer))


def size(attempt: Attempt, unit: str) -> int:
    if unit == "tokens":
        return attempt.num_tokens
    return len(attempt.text.split()) if unit == "words" else len(attempt.text)


def in_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, of characters or words. Bit-parallel (Hyyrö 2004): one big integer is a
    row of the table."""
    where: dict[str, int] = {}
    for place, char in enumerate(a):
        where[char] = where.get(char, 0) | 1 << place
    full = (1 << len(a)) - 1
    row = full
    for char in b:
        hits = row & where.get(char, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(a) - row.bit_count()


def fuzzy(output: object, wanted: object) -> float:
    """2 x the longest common subsequence / both lengths: 1 less the share of insertions and deletions (rapidfuzz's
    ratio). Two empty texts: 1."""
    a, b = str(output)[:LONGEST_FUZZY], str(wanted)[:LONGEST_FUZZY]
    return 2 * in_common(a, b) / (len(a) + len(b)) if a or b else 1.0


def gleu(output: object, wanted: object) -> float:
    """The smaller of precision and recall of n-grams of 1 to 4 words (Wu et al. 2016)."""
    from nltk.translate.gleu_score import sentence_gleu  # a second to import

    words, others = str(output).split(), str(wanted).split()
    return float(sentence_gleu([others], words)) if words and others else float(words == others)


SIMILAR: dict[str, Callable[[object, object], float]] = {
    "fuzzy_match": fuzzy,
    "bleu": lambda a, b: counted.bleu_case(a, b) / 100,
    "gleu": gleu,
    "chrf": lambda a, b: counted.chrf_case(a, b) / 100,
    "token_f1": token_f1,
    "rouge_l": rouge("rougeL"),
    **{f"rouge_{n}": rouge(f"rouge{n}") for n in range(1, 6)},
}
