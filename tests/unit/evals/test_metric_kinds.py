"""The metrics beside plain answers: values worked out by hand, against their library or by enumeration, and laws."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from tunesmith.errors import DataError, InputError
from tunesmith.evals import compare, json_scores, passing, per_byte, preference
from tunesmith.evals.metrics import METRICS
from tunesmith.evals.words_of import Words, words_of
from tunesmith.measured import score_once


def case(name, output, reference):
    return METRICS[name].case(output, reference)


def corpus(name, outputs, references):
    return METRICS[name].corpus(outputs, references)


# F1


def test_micro_f1_is_scikit_learns():
    rng = np.random.default_rng(3)
    wanted = rng.choice(list("aaabbc"), 80)
    given = np.where(rng.random(80) < 0.5, wanted, rng.choice(list("abcz"), 80))  # z is no label
    assert corpus("micro_f1", given, wanted) == pytest.approx(
        f1_score(wanted, given, labels=list("abc"), average="micro")
    )
    # 2 right, 3 given ("x" is none), 4 wanted
    assert corpus("micro_f1", ["a", "a", "b", "x"], ["a", "b", "b", "c"]) == pytest.approx(2 * 2 / (3 + 4))


def test_label_sets_by_hand():
    assert case("label_set_f1", "billing, urgent", "urgent; billing") == 1
    assert case("label_set_f1", '["billing", "urgent"]', "billing | urgent") == 1
    assert case("label_set_f1", "billing, billing", "billing") == 1  # a set
    assert case("label_set_f1", "billing, invented", "billing, urgent") == pytest.approx(2 * 1 / (2 + 2))
    assert case("label_set_f1", "", "billing") == 0
    # over all cases: 2 right of 3 given and 4 wanted, not the mean of the cases' own
    assert corpus("label_set_f1", ["a, b", "x"], ["a, b, c", "d"]) == pytest.approx(2 * 2 / (3 + 4))
    assert case("label_set_f1", '["unclosed, b', "b") == pytest.approx(2 * 1 / (2 + 1))


def test_each_label_of_a_set_weighs_the_same_as_in_scikit_learn():
    """That none fits is no label, and one that was invented costs nothing here."""
    wanted = [{"a", "b"}, {"a"}, set(), {"a", "c"}]
    given = [{"a"}, {"a", "c"}, {"b"}, {"a", "x"}]
    as_rows = MultiLabelBinarizer(classes=["a", "b", "c"]).fit_transform
    texts = [[", ".join(sorted(s)) or "none" for s in side] for side in (given, wanted)]
    found = corpus("label_set_macro_f1", *texts)
    known = [s - {"x"} for s in given]
    assert found == pytest.approx(f1_score(as_rows(wanted), as_rows(known), average="macro", zero_division=0))
    assert found == pytest.approx(1 / 3)  # 1, 0, 0
    assert corpus("label_set_macro_f1", ["none", "a"], ["none", "none"]) == pytest.approx(2 / 3)


def test_json_f1_counts_what_was_invented():
    reference = '{"name": "Ann", "home": {"city": "Ulm", "zip": "89073"}}'
    assert case("json_f1", '{"home": {"zip": "89073", "city": "Ulm"}, "name": "Ann"}', reference) == 1
    # 2 of 3 right, one more invented: 2 * 2 / (3 + 4)
    output = '{"name": "Ann", "home": {"city": "Ulm", "zip": 89073}, "age": 3}'
    assert case("json_f1", output, reference) == pytest.approx(4 / 7)
    invented = reference[:-1] + ', "age": 3}'
    assert case("json_fields", invented, reference) == 1
    assert case("json_f1", invented, reference) == pytest.approx(2 * 3 / 7)
    assert case("json_f1", '{"home": {}}', '{"home": {}}') == 1
    assert case("json_f1", "no json", reference) == 0
    with pytest.raises(DataError, match="not a JSON object"):
        case("json_f1", "{}", "plain")


# JSON schema

TICKET = {
    "type": "object", "required": ["intent"], "additionalProperties": False,
    "properties": {"intent": {"enum": ["return", "refund"]}, "order": {"$ref": "#/$defs/number"}},
    "$defs": {"number": {"type": "integer", "minimum": 1}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("output", "is_valid"),
    [('{"intent": "return"}', 1), ('{"intent": "return", "order": 17}', 1), ('{"intent": "return", "order": 0}', 0),
     ('{"intent": "gift"}', 0), ('{"intent": "return", "more": 1}', 0), ("return", 0), ("[1]", 0), ("", 0),
     ('{"intent": NaN}', 0), ('{"a": ' * 100_000, 0), (None, 0)],
)  # fmt: skip
def test_a_schema_takes_what_it_says(output, is_valid):
    assert json_scores.Schema(TICKET, "ticket.json").valid(output) == is_valid


def test_a_schema_is_checked_and_fetches_nothing():
    with pytest.raises(InputError, match=r"ticket.json is not one, at properties/a/type: 'strin' is not valid"):
        json_scores.Schema({"properties": {"a": {"type": "strin"}}}, "ticket.json")
    elsewhere = json_scores.Schema({"$ref": "http://127.0.0.1:9/schema.json"}, "ticket.json")
    with pytest.raises(InputError, match=r"refers to what is not in it .* nothing is fetched"):
        elsewhere.valid("{}")
    assert json_scores.Schema({"type": "array"}, "list").valid("[1]") == 1  # any kind of JSON, not objects alone


# pass@k


@pytest.mark.parametrize(("n", "c", "k"), [(5, 0, 1), (5, 2, 1), (5, 2, 3), (5, 2, 4), (5, 5, 2), (8, 3, 5), (1, 1, 1)])
def test_pass_at_k_is_the_mean_over_all_choices(n, c, k):
    passes = [1] * c + [0] * (n - c)
    draws = list(itertools.combinations(passes, k))
    assert passing.pass_at_k(n, c, k) == pytest.approx(sum(map(max, draws)) / len(draws))


def test_pass_at_k_is_unbiased_and_its_mutant_is_not():
    """Over many draws of n answers with pass rate p the mean is 1 - (1 - p)^k; 1 - (1 - c/n)^k is too low."""
    rng, n, k, p = np.random.default_rng(5), 10, 5, 0.2
    counts = rng.binomial(n, p, size=20_000)
    truth = 1 - (1 - p) ** k
    ours = np.mean([passing.pass_at_k(n, c, k) for c in counts])
    assert ours == pytest.approx(truth, abs=0.008)
    assert np.mean(1 - (1 - counts / n) ** k) < truth - 0.02


def test_the_program_of_an_answer():
    assert passing.program("Sure:\n```python\ndef f():\n    return 1\n```\nDone.") == "def f():\n    return 1\n"
    assert passing.program("def f(): return 1") == "def f(): return 1"
    assert passing.program("```\na = 1\n```\nand\n```py\nb = 2\n```") == "a = 1\n\nb = 2\n"


# Bits per byte


def test_bits_per_byte_by_hand():
    # 8 ln 2 nats over 4 bytes: 2 bits a byte; "é" has two bytes
    assert case("bits_per_byte", (8 * math.log(2),), "abcd") == pytest.approx(2)
    assert case("bits_per_byte", (8 * math.log(2),), "abé") == pytest.approx(2)
    measured, texts = [(8 * math.log(2),), (4 * math.log(2),)], ["abcd", "abcdefgh"]
    assert corpus("bits_per_byte", measured, texts) == pytest.approx(12 / 12)  # a ratio of sums
    assert np.mean(METRICS["bits_per_byte"].cases(measured, texts)) == pytest.approx((2 + 0.5) / 2)  # not this
    assert case("bits_per_byte", (1e9,), "a") == per_byte.MOST
    assert corpus("bits_per_byte", [(0.0,), (math.log(2),)], ["", "a"]) == 1


def test_less_is_better_turns_the_decision_and_nothing_else():
    rng = np.random.default_rng(7)
    texts = ["x" * int(n) for n in rng.integers(20, 200, 80)]
    base = [(len(t) * math.log(2) * float(rng.normal(1.2, 0.1)),) for t in texts]
    tuned = [(b[0] * float(rng.normal(0.9, 0.02)),) for b in base]
    metric = METRICS["bits_per_byte"]
    verdict = compare.compare(compare.Cases(texts, base, tuned), metric)
    assert verdict.tuned < verdict.base
    assert verdict.decision == "better"
    assert verdict.effect == pytest.approx(verdict.base - verdict.tuned)
    assert verdict.interval[0] > 0
    assert verdict.less_is_better
    assert "less is better, a gain of +" in verdict.claim
    turned = compare.compare(compare.Cases(texts, tuned, base), metric)
    assert turned.decision == "worse"
    assert turned.interval == pytest.approx((-verdict.interval[1], -verdict.interval[0]))
    cases = compare.Cases(texts, base, tuned, simple={"n-grams": tuned, "noise": base})
    simple = compare.compare(cases, metric)
    assert len(simple.notes) == 1
    assert "n-grams scores" in simple.notes[0]
    assert "does as well or better" in simple.notes[0]


# Preference accuracy


def test_numbers_of_pairs_by_hand():
    """6 and 9 nats with 3 and 3 tokens."""
    found = preference.measured_all(((-6.0, 3), (-9.0, 3)), "sum")
    scores = {name: case(name, measured, None) for name, measured in found.items()}
    assert scores == {"preference_accuracy": 1, "preference_margin": 3, "chosen_nats": 2, "rejected_nats": 3}
    assert case("preference_margin", (0.0, -5000.0), None) == 1000


def test_preference_accuracy_by_hand():
    assert [case("preference_accuracy", m, None) for m in ((-3.0, -4.0), (-4.0, -3.0), (-3.0, -3.0))] == [1, 0, 0.5]
    assert corpus("preference_accuracy", [(-1, -2), (-2, -2), (-3, -2), (-1, -9)], [None] * 4) == 2.5 / 4
    # a short reply has the larger sum, the long one the larger mean
    short, long = (-4.0, 2), (-6.0, 6)
    assert preference.preferred(*preference.measured_pair((long, short), "sum")) == 0
    assert preference.preferred(*preference.measured_pair((long, short), "mean")) == 1


# ROUGE in any script


def test_rouge_reads_every_script():
    for text in ("Привет мир", "سلام دنیا", "नमस्ते दुनिया", "你好世界", "こんにちは", "สวัสดี", "שלום עולם", "안녕 세상"):
        for name in ("rouge_1", "rouge_l"):
            assert case(name, text, text) == 1, text
            assert case(name, "??", text) == 0
    assert RougeScorer(["rouge1"]).score("Привет мир", "Привет мир")["rouge1"].fmeasure == 0  # rouge-score's own words
    assert case("rouge_1", "Привет дом", "Привет мир") == pytest.approx(1 / 2)
    # 3 of 4 characters in common, 2 in one order
    assert case("rouge_1", "我爱你们", "你爱我们") == 1
    assert case("rouge_l", "我爱你们", "你爱我们") == pytest.approx(2 / 4)


def test_words_of_any_script():
    assert words_of("The naïve_café's 3rd—test") == ["the", "naïve", "café", "s", "3rd", "test"]
    assert words_of("cafe\u0301") == words_of("café") == ["café"]  # composed or not
    assert words_of("हिन्दी में") == ["हिन्दी", "में"]  # vowel signs belong to their letters
    assert words_of("GPT是模型 v2") == ["gpt", "是", "模", "型", "v2"]


@given(st.text(st.characters(max_codepoint=127), max_size=60))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_ascii_words_are_rouge_scores_own(text):
    from rouge_score.tokenizers import DefaultTokenizer

    assert Words().tokenize(text) == DefaultTokenizer(use_stemmer=True).tokenize(text)


# Laws of every metric

TEXTS = ["", "a", "b", "a, b", "b c a", '{"a": 1}', '{"a": 2, "b": [1]}', "2", "3.5", "你好"]
MEASURED = {
    "schema": st.sampled_from([(0.0,), (1.0,)]),
    "judge": st.sampled_from([(0.0,), (0.5,), (1.0,)]),
    "samples": st.integers(0, 5).map(lambda c: (5, c, 2)),
    "pairs": st.tuples(st.floats(-50, 0), st.floats(-50, 0)),
    "marks": st.tuples(st.floats(-50, 50), st.sampled_from([0.0, 1.0])),
    "graded": st.floats(0, 1).map(lambda value: (value,)),
    "scores": st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    "likelihood": st.floats(0, 400).map(lambda nats: (nats,)),
}
TOP = {"schema": (1.0,), "judge": (1.0,), "samples": (5, 5, 2), "pairs": (-1.0, -2.0), "likelihood": (0.0,)}
TOP |= {"preference_margin": (0.0, -1000.0), "chosen_nats": (0.0, -1.0), "rejected_nats": (-1.0, -100.0)}
TOP |= {"graded": (1.0,)}
TOP |= {"scores": (1.0, 0.0), "reward_margin": (1000.0, 0.0), "reward_loss": (1000.0, 0.0)}
TOP |= {"marks": (1.0, 1.0), "feedback_margin": (1000.0, 1.0)}


def rows_of(metric):
    texts = st.sampled_from(TEXTS)
    if metric.name.startswith("json"):
        return st.tuples(MEASURED.get(metric.needs, texts), st.sampled_from(['{"a": 1}', '{"a": 1, "b": {"c": 2}}']))
    if metric.name == "numeric":
        return st.tuples(texts, st.sampled_from(["2", "3.5"]))
    return st.tuples(MEASURED.get(metric.needs, texts), texts)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_range_order_and_top(name):
    metric = METRICS[name]

    @given(st.lists(rows_of(metric), min_size=1, max_size=8), st.randoms(use_true_random=False))
    @settings(max_examples=25, deadline=None, derandomize=True)
    def holds(rows, random):
        outputs, references = map(list, zip(*rows))
        scores = metric.cases(outputs, references)
        assert all(metric.low <= s <= metric.high + 1e-9 for s in scores)  # rounding of a power
        assert metric.low <= metric.corpus(outputs, references) <= metric.high + 1e-9
        shuffled = rows[:]
        random.shuffle(shuffled)
        mixed = metric.corpus(*map(list, zip(*shuffled)))
        assert mixed == pytest.approx(metric.corpus(outputs, references), abs=1e-9)
        top = [TOP.get(name, TOP[metric.needs])] * len(rows) if metric.needs in TOP else references
        best = metric.low if metric.less_is_better else metric.high
        flat = {"mcc": len(set(references)) < 2, "bleu": min(len(r.split()) for r in references) < 4,
                "chrf": not all(references)}  # fmt: skip
        if not flat.get(name, False):
            assert metric.corpus(top, references) == pytest.approx(best)

    holds()


@pytest.mark.parametrize("name", [n for n, m in METRICS.items() if m.needs == "answer"])
def test_every_metric_of_texts_can_be_scored_once_before_the_plan(name: str) -> None:
    score_once([METRICS[name]])
