"""The simple baselines: what they answer, and that they see the training split only."""

import pytest

from tunesmith.errors import DataError
from tunesmith.evals import baselines as b

INPUTS = ["where is my parcel", "parcel has not come", "I want my money back", "refund my money please", "parcel late"]
LABELS = ["delivery", "delivery", "refund", "refund", "delivery"]


def test_majority_and_ties():
    assert b.majority(LABELS, 2) == ["delivery", "delivery"]
    assert b.majority(["b", "a"], 1) == ["a"]


def test_logistic_regression_learns_the_words():
    assert b.tfidf_logistic(INPUTS, LABELS, ["money back now", "my parcel?"]) == ["refund", "delivery"]
    assert b.tfidf_logistic(INPUTS, ["x"] * 5, ["money"]) == ["x"]
    assert b.tfidf_logistic(["", "?"], ["b", "a"], ["money"]) == ["a"]


def test_nearest_gives_the_reply_of_the_nearest():
    assert b.nearest(INPUTS, list("vwxyz"), ["refund me please", "where is the parcel"]) == ["y", "v"]
    assert b.nearest(INPUTS, list("vwxyz"), ["Ж"]) == ["v"]  # nothing in common: the first


def test_held_out_texts_do_not_reach_the_fit():
    # an answer may depend on its own input alone: companions that would move idf weights must change nothing
    alone = (
        b.tfidf_logistic(INPUTS, LABELS, ["money parcel please"]),
        b.nearest(INPUTS, LABELS, ["money parcel please"]),
    )
    crowd = ["money parcel please", *["parcel parcel"] * 50]
    assert (b.tfidf_logistic(INPUTS, LABELS, crowd)[:1], b.nearest(INPUTS, LABELS, crowd)[:1]) == alone


def test_names_by_task_and_refusals():
    assert set(b.baselines(INPUTS, LABELS, ["x"], is_labels=True)) == {
        "majority answer",
        "TF-IDF + logistic regression",
    }
    texts = b.baselines(INPUTS, LABELS, ["x"], is_labels=False)
    assert set(texts) == {"majority answer", "nearest training example", "input unchanged"}
    assert texts["input unchanged"] == [
        "x"
    ]  # mutant: without it, a model that copies its input passes for a translator
    assert b.baselines(INPUTS, LABELS, [], is_labels=True)["TF-IDF + logistic regression"] == []
    with pytest.raises(DataError, match="5 training inputs and 1 answers"):
        b.baselines(INPUTS, ["a"], ["x"], is_labels=True)


def test_of_labels_that_may_all_fit_each_has_a_regression_of_its_own():
    """A mutant that takes each set for one label never says all three together: no training text has them."""
    inputs = ["parcel money", "money rude", "parcel rude", "thank you"] * 3
    answers = ["delivery, refund", "refund, staff", "delivery, staff", "none"] * 3
    found = b.baselines(inputs, answers, ["parcel money rude", "thank you"], is_labels=False, several=True)
    assert found["TF-IDF + logistic regression"] == ["delivery, refund, staff", "none"]
    assert set(found) == {"majority answer", "TF-IDF + logistic regression"}
    assert b.tfidf_each(INPUTS, ["x"] * 5, ["money"]) == ["x"]
    assert b.tfidf_each(["", "?"], ["b", "a"], ["money"]) == ["a"]
