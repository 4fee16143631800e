"""A reward model: values worked out by hand, a pair forest against plain transformers, the cut, where it is read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.laws.sessions import gradient, largest
from tests.laws.test_preference import pairs
from tests.runs import tiny_runs
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import ModelError, RecipeError
from tunesmith.evals.score import by_example, by_segment
from tunesmith.models.adapters import Adapt
from tunesmith.models.load import Base, load
from tunesmith.models.score_head import ends
from tunesmith.objectives.reward import Reward, Rewarding, bradley_terry, off_centre
from tunesmith.rollouts.rewards import make_reward
from tunesmith.types import Attempt, Example, Message, Record, Segment, Task

ASKED = Reward(margin=0.5, centre=0.1)


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_values_by_hand() -> None:
    assert float(bradley_terry(of(2.0), of(1.0), 0.0)) == pytest.approx(0.313262, abs=1e-6)  # -log sigmoid(1)
    assert float(bradley_terry(of(2.0), of(1.0), 0.5)) == pytest.approx(0.474077, abs=1e-6)  # -log sigmoid(1/2)
    assert float(bradley_terry(of(7.0), of(7.0), 0.0)) == pytest.approx(math.log(2))
    assert off_centre(of(2.0, 1.0), of(1.0, -1.0)).tolist() == [9.0, 0.0]


def test_a_swapped_pair_has_the_negative_margin() -> None:
    """And the two chances of which it speaks add up to 1; with a margin that is wanted they do not."""
    a, b = of(0.7), of(-0.2)
    both = [(-bradley_terry(*sides, 0.0)).exp() for sides in ((a, b), (b, a))]
    assert float(sum(both)) == pytest.approx(1)
    assert float(sum((-bradley_terry(*sides, 0.5)).exp() for sides in ((a, b), (b, a)))) != pytest.approx(1, abs=1e-2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.model_folder(tmp_path_factory.mktemp("scoring") / "model")


def scoring(folder: Path) -> Base:
    """In float64, with a head that is not 0."""
    base = load(str(folder), torch.float64, door="scores")
    with torch.no_grad():
        base.head.weight.normal_(generator=torch.Generator().manual_seed(3))
    return base


def rows() -> list[Record]:
    """Pairs, one list of three, and one reply that ends with the padding."""
    made = pairs()
    root, *replies = made[2].segments
    made[2] = Record("e2", (root, *replies, Segment(np.array([5, 6, 7]), np.full(3, 0.5 + 2 % 3, np.float32), 0)))
    return made


def by_transformers(base: Base, row: Record) -> list[Tensor]:
    """The scores of a row's replies, each as a sequence of its own."""
    root = row.segments[0].tokens
    return [base.model(input_ids=torch.from_numpy(np.concatenate([root, s.tokens]))[None]).logits[0, 0]
            for s in row.segments[1:]]  # fmt: skip


def plain(base: Base, made: list[Record]) -> Tensor:
    """The mean loss, weighed by row, written out again; a list is the mean of its pairs."""
    total, count = torch.zeros((), dtype=torch.float64), 0.0
    for row in made:
        scores = by_transformers(base, row)
        each = [
            torch.log1p(torch.exp(-(c - r - ASKED.margin))) + ASKED.centre * (c + r) ** 2
            for k, c in enumerate(scores) for r in scores[k + 1 :]
        ]  # fmt: skip
        weight = float(row.segments[1].weights[0])
        total, count = total + weight * sum(each) / len(each), count + weight
    return total / count


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])  # the last one pads
def test_a_forest_scores_as_plain_transformers_do(tmp_path: Path, family: str) -> None:
    """The prompt is computed once. A score that is read at the prompt's end instead is another."""
    base = scoring(tiny_runs.model_folder(tmp_path / family, family))
    assert base.layout == ("padded" if family == "bloom" else "forest")
    session, whole = Session(base), forest(rows())
    found = by_example(whole, session.scores(None, [whole])[0])
    for row in rows():
        assert found[row.example_id] == pytest.approx([float(s) for s in by_transformers(base, row)], abs=1e-5)
    [mutant] = by_transformers(base, Record("x", (rows()[0].segments[0], Segment(np.zeros(0, np.int64), np.zeros(0)))))
    assert found["e0"][0] != pytest.approx(float(mutant), abs=1e-3)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_gradient_is_that_of_separate_sequences(folder: Path, method: str) -> None:
    base = scoring(folder)
    base.model.requires_grad_(True)
    wanted = torch.autograd.grad(plain(base, rows()), [base.head.weight])[0]
    base.model.requires_grad_(False)
    session = Session(base)
    session.create("t", Spec(Adapt(method, rank=4)))  # type: ignore[arg-type]
    found = gradient(session, "t", [forest(rows())], Rewarding(ASKED))
    assert float((found["score.weight"] - wanted).abs().max()) < 1e-6 * float(wanted.abs().max())
    other = gradient(session, "t", [forest(rows())], Rewarding(Reward(margin=0.5)))  # the mutant: no centring
    assert float((other["score.weight"] - wanted).abs().max()) > 1e-2 * float(wanted.abs().max())


def test_the_cut_is_free(folder: Path) -> None:
    """One pair, four, and two with the list among them."""
    session = Session(scoring(folder))
    session.create("t", Spec(Adapt("lora", rank=4)))
    made = rows()
    whole = gradient(session, "t", [forest(made)], Rewarding(ASKED))
    parts = [forest(made[:1]), forest(made[1:5]), forest(made[5:])]
    assert largest(gradient(session, "t", parts, Rewarding(ASKED)), whole) < 1e-6
    alone = gradient(session, "t", parts[:1], Rewarding(ASKED))  # the mutant: a mean of one part
    assert largest(alone, whole) > 1e-2


def test_a_new_head_gives_nothing_and_learns(folder: Path) -> None:
    """ln 2 before the first update, which all moves from then on; one that the files bring is kept."""
    base = load(str(folder), door="scores")
    session, whole = Session(base), forest(rows())
    session.create("t", Spec(Adapt("lora", rank=4)))
    assert not session.scores("t", [whole])[0].any()
    losses = []
    for _ in range(30):
        found = session.forward_backward("t", [whole], Rewarding(Reward()), 1 / 7)
        losses.append(found["loss"].mean)
        session.optim_step("t", 1e-2)
    assert losses[0] == pytest.approx(math.log(2))
    assert losses[-1] < 0.1
    assert found["preferred_frac"].mean == pytest.approx(1)
    assert set(by_example(whole, session.scores(None, [whole])[0])["e0"]) == {0.0}  # the base is still untouched


def test_memory_that_runs_out_moves_no_score(folder: Path) -> None:
    session, whole = Session(scoring(folder)), forest(rows())
    wanted = by_segment(whole, session.scores(None, [whole])[0])
    session.cuts.scored_tokens = 40
    assert torch.allclose(by_segment(whole, session.scores(None, [whole])[0]), wanted, atol=1e-9)


def test_padding_at_the_end_is_not_read() -> None:
    """As in transformers: the rightmost token that is not padding. A reply of padding alone is read in its prompt."""
    made = forest([Record("e", tuple(
        Segment(np.array(ids), np.full(len(ids), float(at > 0), np.float32), (at and 0) or -1)
        for at, ids in enumerate(([9, 2, 8], [5, 2], [2], [2, 6], [7, 2, 2]))
    ))])  # fmt: skip
    assert ends(made, 2).tolist() == [2, 3, 2, 7, 8]
    assert ends(made, None).tolist() == [2, 4, 5, 7, 10]


@pytest.mark.parametrize(("family", "says"), [("t5", "is no decoder"), ("granite", "has no class head")])
def test_what_can_be_no_reward_model_is_said(tmp_path: Path, family: str, says: str) -> None:
    tiny_runs.model_folder(tmp_path / family, family)
    with pytest.raises(ModelError, match=says):
        load(str(tmp_path / family), door="scores")


def test_a_classifier_is_no_reward_model(folder: Path, tmp_path: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="gives 3 classes, and a reward model gives one number"):
        load(str(tmp_path), door="scores")


@pytest.fixture(scope="module")
def kept(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model as a run leaves it."""
    base, out = scoring(folder), tmp_path_factory.mktemp("kept")
    base.model.float().save_pretrained(out)
    base.tokenizer.save_pretrained(out)
    return out


def attempts(texts: list[list[str]]) -> list[Attempt]:
    """Of each example some replies."""
    examples = [Example(f"e{i}", (Message("user", f"dog {i}?"),), Task({})) for i in range(len(texts))]
    return [Attempt(e, text, True, 1) for e, some in zip(examples, texts) for text in some]


def test_a_reward_model_grades_what_was_sampled_as_transformers_score_it(kept: Path) -> None:
    """In the order of the attempts, groups of unlike size, an empty reply among them."""
    tried = attempts([["the dog", "a brown fox", ""], ["sold"], ["May", "the dog jumps where it jumps"]])
    reward = make_reward([{"kind": "reward_model", "model": str(kept)}])
    found = [grade.value for grade in reward(tried)]
    model = AutoModelForSequenceClassification.from_pretrained(kept).eval()
    tokenizer = AutoTokenizer.from_pretrained(kept)
    wanted = []
    for attempt in tried:
        turns = [{"role": "user", "content": attempt.example.prompt[0].content}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) + attempt.text
        ids = tokenizer(f"{text}<|im_end|>", add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            wanted.append(float(model(input_ids=ids).logits))
    assert found == pytest.approx(wanted, abs=1e-4)
    assert found[::-1] != pytest.approx(wanted, abs=1e-2)  # the mutant: another order
    cut = make_reward([{"kind": "reward_model", "model": str(kept), "clip": [-0.1, 0.1]}])
    assert [g.value for g in cut(tried)] == pytest.approx([min(0.1, max(-0.1, value)) for value in wanted], abs=1e-4)


def test_what_is_too_long_or_no_reward_model_is_said(kept: Path, folder: Path) -> None:
    """A long reply costs its neighbours nothing."""
    reward = make_reward([{"kind": "reward_model", "model": str(kept)}])
    long, short = "dog " * 2100, "the dog"
    grades = reward(attempts([[short, long], [long]]))
    assert [g.is_graded for g in grades] == [True, False, False]
    assert grades[1].value == grades[2].value == reward.low == -10
    assert grades[0].value == pytest.approx(reward(attempts([[short]]))[0].value, abs=1e-5)
    with pytest.raises(RecipeError, match="has no head of one output"):
        make_reward([{"kind": "reward_model", "model": str(folder)}])
