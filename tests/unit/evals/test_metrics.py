"""Each metric against values worked out by hand, and against its library."""

import numpy as np
import pytest
import sacrebleu
from sklearn.metrics import f1_score, matthews_corrcoef

from tunesmith.errors import DataError
from tunesmith.evals.metrics import METRICS

NO_TEXT = {name for name, metric in METRICS.items() if metric.needs != "answer"}


def case(name, output, reference):
    return METRICS[name].case(output, reference)


def test_exact_match_folds_white_space_and_nothing_else():
    assert case("exact_match", "  to be\n or ", "to be or") == 1
    assert case("exact_match", "To be", "to be") == 0
    assert case("exact_match", "to be.", "to be") == 0


def test_token_f1_by_hand():
    # 2 of 4 and of 3 words in common, once without the article: 2 * 2 / (3 + 3)
    assert case("token_f1", "the red cat sat", "red dog sat") == pytest.approx(2 * 2 / 6)
    assert case("token_f1", "yes yes yes", "yes") == pytest.approx(2 * 1 / 4)  # a repeated word counts once
    assert case("token_f1", "Paris!", "paris") == 1


def test_rouge_by_hand():
    # unigrams in common: a, c, d (3 of 4 and of 4); the longest common subsequence is "a c" or "a d": 2
    assert case("rouge_1", "a d c x", "a c b d") == pytest.approx(3 / 4)
    assert case("rouge_l", "a d c x", "a c b d") == pytest.approx(2 / 4)
    assert case("rouge_1", "running", "runs") == 1  # the stemmer is on


def test_json_by_hand():
    reference = '{"intent": "return", "order": 17, "urgent": true, "items": ["a", "b"]}'
    assert (
        case("json_fields", '{"order": 17.0, "intent": "return", "urgent": true, "items": ["a", "b"]}', reference) == 1
    )
    assert (
        case("json_fields", '{"intent": "return", "order": "17", "urgent": 1, "items": ["b", "a"]}', reference) == 0.25
    )
    assert case("json_fields", '{"intent": "return"', reference) == 0
    assert case("json_fields", '```json\n{"intent": "return"}\n```', reference) == 0
    assert case("json_exact", reference, reference) == 1
    extra = reference[:-1] + ', "note": 1}'
    assert (case("json_exact", extra, reference), case("json_fields", extra, reference)) == (0, 1)
    for bad in ("[1]", "3", "null", '{"a": NaN}', '{"a": ' * 100_000, '{"a": ' + "9" * 5000 + "}", None, float("nan")):
        assert case("json_valid", bad, reference) == 0, str(bad)[:20]
    assert (case("json_fields", "{}", "{}"), case("json_fields", '{"a": 1}', "{}")) == (1, 0)
    with pytest.raises(DataError, match="not a JSON object"):
        case("json_fields", "{}", "plain text")


@pytest.mark.parametrize(
    "name",
    sorted(
        set(METRICS)
        - NO_TEXT
        - {"json_exact", "json_fields", "json_f1", "json_valid", "numeric", "tool_calls", "tool_names"}
    ),
)
def test_odd_outputs_have_a_score(name):
    metric = METRICS[name]
    for output in ("", None, float("nan"), 3, 2.5, ["x"], "\ud800", "  "):
        for reference in ("yes indeed it is", ""):
            score = metric.case(output, reference)
            assert metric.low <= score <= metric.high
    assert metric.case(None, "yes indeed it is") == metric.case("", "yes indeed it is") == 0
    if name not in ("bleu", "chrf"):
        assert metric.case("", "") == 1
    assert np.isfinite(metric.corpus(["", ""], ["", "a"]))
    assert metric.cases(["a", "b"], ["a", "a"]) == [metric.case("a", "a"), metric.case("b", "a")]


def noisy_texts():
    rng = np.random.default_rng(0)
    words = np.array(["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "log", "über", "Ж9", "ok.", "no,", "x"])
    references = [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(60)]
    outputs = [" ".join(np.where(rng.random(len(r.split())) < 0.6, r.split(), "cat")) for r in references]
    outputs[3:6] = ["", "cat", "cat " * 40]
    return outputs, references


@pytest.mark.parametrize("take", [slice(None), slice(0, 1), slice(3, 4), slice(4, 5), slice(2, 9)])
def test_bleu_and_chrf_are_sacrebleus(take):
    outputs, references = (texts[take] for texts in noisy_texts())
    assert METRICS["bleu"].corpus(outputs, references) == pytest.approx(
        sacrebleu.corpus_bleu(outputs, [references]).score, abs=1e-9
    )
    assert METRICS["chrf"].corpus(outputs, references) == pytest.approx(
        sacrebleu.corpus_chrf(outputs, [references]).score, abs=1e-9
    )
    for output, reference in zip(outputs, references):
        assert case("chrf", output, reference) == pytest.approx(sacrebleu.sentence_chrf(output, [reference]).score)


def test_macro_f1_and_mcc_are_scikit_learns():
    rng = np.random.default_rng(1)
    wanted = rng.choice(list("aaabbc"), 80)
    given = np.where(rng.random(80) < 0.5, wanted, rng.choice(list("abcz"), 80))  # z is no label
    assert METRICS["macro_f1"].corpus(given, wanted) == pytest.approx(
        f1_score(wanted, given, labels=list("abc"), average="macro", zero_division=0)
    )
    assert METRICS["mcc"].corpus(given, wanted) == pytest.approx(matthews_corrcoef(wanted, given))
    assert METRICS["mcc"].corpus(["a"] * 80, wanted) == 0
    assert METRICS["mcc"].corpus(wanted, wanted) == pytest.approx(1)


def test_macro_f1_by_hand():
    # a: 1 right of 2 given, 1 wanted: 2/3; b: 1 right, 1 given, 2 wanted: 2/3; c: 0. "x" is a miss of c, no more
    assert METRICS["macro_f1"].corpus(["a", "a", "b", "x"], ["a", "b", "b", "c"]) == pytest.approx(
        (2 / 3 + 2 / 3 + 0) / 3
    )


def test_free_text_as_labels_is_refused():
    texts = [f"text {k}" for k in range(1001)]
    with pytest.raises(DataError, match="1001 different values"):
        METRICS["macro_f1"].corpus(texts, texts)
