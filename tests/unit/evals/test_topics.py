"""Topics: a planted weak one is found and named; scores that have nothing to do with words make none weak."""

from __future__ import annotations

import numpy as np

from tunesmith.evals.topics import topics, welch

SUBJECTS = ("invoice payment refund card", "parcel delivery courier late", "password login account reset")


def cases(num: int, rng: np.random.Generator) -> tuple[list[str], list[str], np.ndarray]:
    about = rng.integers(0, 3, num)
    prompts = [" ".join([*rng.permutation(SUBJECTS[a].split())[:3], *rng.choice(list("uvwxyz"), 3)]) for a in about]
    return [f"id{i}" for i in range(num)], prompts, about


def test_a_planted_weakness_is_found_and_named() -> None:
    rng = np.random.default_rng(0)
    ids, prompts, about = cases(180, rng)
    score = np.where(about == 1, 0.2, 0.9) + rng.normal(0, 0.05, 180)
    found = topics(ids, prompts, score.tolist(), [None] * 180, 0.05)
    assert [t.gap for t in found] == sorted(t.gap for t in found)
    weak = [t for t in found if t.interval[1] < 0]
    assert weak
    assert all(set(t.name.split(", ")) & set(SUBJECTS[1].split()) for t in weak)
    assert {i for t in weak for i in t.example_ids} <= {i for i, a in zip(ids, about) if a == 1}
    assert sorted(i for t in found for i in t.example_ids) == sorted(ids)


def test_scores_of_chance_make_few_topics_weak() -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(40):
        ids, prompts, _ = cases(120, rng)
        wrong += any(
            t.interval[1] < 0 or t.interval[0] > 0
            for t in topics(ids, prompts, rng.normal(size=120).tolist(), [None] * 120, 0.05)
        )
    assert wrong <= 6  # 5% of 40 is 2; a mutant with each topic at 5% of its own makes about 10


def test_cases_of_one_group_are_one_piece_of_evidence() -> None:
    """Twenty copies of nine customers say no more than nine customers."""
    rng = np.random.default_rng(3)
    ids, prompts, about = cases(180, rng)
    owner = [f"c{a}{k % 3}" for k, a in enumerate(about)]
    level = {name: rng.normal() for name in sorted(set(owner))}
    scores = [level[name] for name in owner]
    alone = topics(ids, prompts, scores, [None] * 180, 0.05)
    grouped = topics(ids, prompts, scores, owner, 0.05)
    wide, narrow = (max(t.interval[1] - t.interval[0] for t in found) for found in (grouped, alone))
    assert wide > 2 * narrow


def test_few_cases_and_prompts_without_words_have_no_topics() -> None:
    rng = np.random.default_rng(2)
    ids, prompts, _ = cases(39, rng)
    assert topics(ids, prompts, [0.5] * 39, [None] * 39, 0.05) == []
    assert topics([str(i) for i in range(60)], [f"w{i}" for i in range(60)], [0.5] * 60, [None] * 60, 0.05) == []
    same = topics([str(i) for i in range(60)], ["a b"] * 30 + ["c d e"] * 30, [1.0] * 60, [None] * 60, 0.05)
    assert all(t.gap == 0 for t in same)


def test_prompts_with_the_same_words_are_no_more_topics_than_there_are_words() -> None:
    """Three topics are asked for, and there are two. Mutant: the third has no case, and its mean divides by zero."""
    texts = [f"How often stands {'abc'[k % 3]} in the {'lamp' if k % 2 else 'kettle'}?" for k in range(60)]
    found = topics([str(k) for k in range(60)], texts, [float(k % 2) for k in range(60)], [None] * 60, 0.05)
    assert sorted(topic.name.split(",")[0] for topic in found) == ["kettle", "lamp"]
    assert topics([str(k) for k in range(60)], ["a lamp"] * 60, [0.0] * 60, [None] * 60, 0.05) == []


def test_welch() -> None:
    gap, (low, high) = welch(np.array([1.0, 2.0, 3.0]), np.array([5.0, 6.0, 7.0, 8.0]), 0.05)
    assert gap == -4.5
    assert low < -4.5 < high < 0
    assert welch(np.ones(3), np.zeros(3), 0.05) == (1.0, (1.0, 1.0))
