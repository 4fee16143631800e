"""Learning from pairs: values worked out by hand, a pair forest against two sequences, the cut, the reference."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests import tiny
from tests.data import chat
from tests.laws.cases import assert_alike
from tests.laws.sessions import ADAPTS, base_of, gradient, largest, session_on
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.data.pack import forest
from tunesmith.data.render import Renderer
from tunesmith.data.tree import merge
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import DataError
from tunesmith.models.heads import find_head
from tunesmith.models.output import output
from tunesmith.models.probe import probe
from tunesmith.objectives import preference
from tunesmith.objectives.preference import LOSSES, Preference, Preferring, Scored, pairs_in, resolved, unread
from tunesmith.regularisers.still import Still
from tunesmith.types import Example, Message, Pair, Record, Segment

ASKED = {name: Preference(loss=name, nll=0.3 if name == "dpo" else None) for name in LOSSES} | {  # type: ignore[arg-type]
    "dpo per token": Preference(per_token=True),
    "ipo per token": Preference(loss="ipo", per_token=True, beta=0.5),
}


def pairs(num: int = 7, seed: int = 0) -> list[Record]:
    """A common beginning of the prompts, replies of very different lengths that begin alike, and weights of rows."""
    rng = np.random.default_rng(seed)
    prefix, made = rng.integers(3, tiny.VOCABULARY, 9), []
    for i in range(num):
        root = np.concatenate([prefix, rng.integers(3, tiny.VOCABULARY, 2 + i % 3)])
        sizes = (1 + (3 * i) % 7, 1 + (i * i) % 5)
        begin = rng.integers(3, tiny.VOCABULARY, 1)
        replies = [np.concatenate([begin, rng.integers(3, tiny.VOCABULARY, n)]) for n in sizes]
        children = [Segment(r, np.full(len(r), 0.5 + i % 3, np.float32), 0) for r in replies]
        made.append(Record(f"e{i}", (Segment(root, np.zeros(len(root), np.float32)), *children)))
    return made


REFERENCE = {f"e{i}": (-20.0 - i, -17.0 + 2 * i) for i in range(40)}

# -- values ---------------------------------------------------------------------------------------------------------

BY_HAND = Scored(*(torch.tensor([v], dtype=torch.float64) for v in (-10.0, -12.0, -11.0, -11.0, 5.0, 4.0)))
VALUES = {  # margin (-10 + 11) - (-12 + 11) = 2; means per token -2 and -3
    "dpo": 0.598139,  # -log sigmoid(0.2)
    "cdpo": 0.618139,  # 0.9 * 0.598139 + 0.1 * 0.798139
    "ipo": 9.0,  # (2 - 1 / 0.2)^2
    "simpo": 0.313262,  # -log sigmoid(2 * 1 - 1)
    "cpo": 0.598139,  # c - r = 2 too
}


@pytest.mark.parametrize("loss", VALUES)
def test_values_by_hand(loss: str) -> None:
    keys = resolved(Preference(loss=loss))  # type: ignore[arg-type]
    assert float(LOSSES[loss].each(BY_HAND, keys)) == pytest.approx(VALUES[loss], abs=1e-6)


def test_orpo_by_hand() -> None:
    """Means of one half and a quarter: odds 1 and 1/3, so -log sigmoid(log 3) = log 4/3."""
    half, quarter = (torch.tensor([math.log(p)], dtype=torch.float64) for p in (0.5, 0.25))
    assert float(preference.orpo(half, quarter)) == pytest.approx(math.log(4 / 3), abs=1e-12)
    sure = torch.zeros(1)  # rounding made it 1
    assert math.isfinite(float(preference.orpo(sure, quarter)))
    assert resolved(Preference(loss="orpo")) == {"beta": 0.1, "nll": 1.0}


def test_per_token_divides_each_side_by_its_own_tokens() -> None:
    assert float(BY_HAND.margin()) == 2
    assert float(BY_HAND.margin(per_token=True)) == pytest.approx(1 / 5 + 1 / 4)


def test_invariants_of_dpo() -> None:
    """ln 2 and slope -beta / 2 at the start; a pair that is swapped has the negative margin."""
    margin = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    loss = preference.dpo(margin, 0.3)
    assert loss.tolist() == pytest.approx([math.log(2)] * 3)
    [slope] = torch.autograd.grad(loss.sum(), [margin])
    assert slope.tolist() == pytest.approx([-0.15] * 3)
    swapped = Scored(*(getattr(BY_HAND, n) for n in ("rejected", "chosen", "ref_rejected", "ref_chosen")),
                     BY_HAND.num_rejected, BY_HAND.num_chosen)  # fmt: skip
    assert torch.equal(swapped.margin(), -BY_HAND.margin())
    x = torch.tensor([0.7], dtype=torch.float64)
    assert torch.equal(preference.cdpo(x, 0.1, 0.0), preference.dpo(x, 0.1))


def test_a_key_that_a_loss_does_not_read_is_told() -> None:
    assert unread(Preference(gamma=1.0, beta=0.2)) == ["gamma"]
    assert unread(Preference(loss="simpo", gamma=1.0, per_token=False)) == ["per_token"]
    assert [unread(asked) for asked in ASKED.values()] == [[]] * len(ASKED)


# -- a pair forest is two sequences ---------------------------------------------------------------------------------


def sequence_logp(model: PreTrainedModel, tokens: np.ndarray, begins: int) -> Tensor:
    """Summed nats of the tokens from `begins` on, by transformers alone."""
    ids = torch.from_numpy(tokens)[None]
    logp = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
    return logp.gather(1, ids[0, 1:, None])[begins - 1 :, 0].sum()


def plain(model: PreTrainedModel, rows: list[Record], asked: Preference) -> Tensor:
    """The mean loss, weighed by row, with each formula written out again."""
    keys, total, count = resolved(asked), torch.zeros((), dtype=torch.float64), 0.0
    beta = keys["beta"]
    for row in rows:
        root, chosen, rejected = row.segments
        c, r = (
            sequence_logp(model, np.concatenate([root.tokens, s.tokens]), len(root.tokens)) for s in (chosen, rejected)
        )
        n, m = len(chosen.tokens), len(rejected.tokens)
        rc, rr = REFERENCE[row.example_id] if LOSSES[asked.loss].has_reference else (0.0, 0.0)
        h = (c - rc) / n - (r - rr) / m if keys.get("per_token") else (c - rc) - (r - rr)
        if asked.loss == "ipo":
            each = (h - 0.5 / beta) ** 2
        elif asked.loss == "simpo":
            each = torch.log1p(torch.exp(-(beta * (c / n - r / m) - keys["gamma"])))
        elif asked.loss == "orpo":
            odds = [p / (1 - p) for p in ((c / n).exp(), (r / m).exp())]
            each = beta * torch.log1p(odds[1] / odds[0])
        else:
            e = keys.get("label_smoothing", 0.0)
            each = (1 - e) * torch.log1p(torch.exp(-beta * h)) + e * torch.log1p(torch.exp(beta * h))
        weight = float(chosen.weights[0])
        total, count = total + weight * (each - keys["nll"] * c / n), count + weight
    return total / count


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    found = tiny.build("llama", dtype=torch.float64)
    assert probe(found).layout == "forest"
    return found


def in_a_forest(model: PreTrainedModel, rows: list[Record], asked: Preference) -> Tensor:
    batch, objective = forest(rows), Preferring(asked, REFERENCE)
    return objective(output(model, find_head(model), batch, "forest"), batch, None, {}).total / objective.count(batch)


@pytest.mark.parametrize("name", ASKED)
def test_a_pair_forest_equals_two_sequences(model: PreTrainedModel, name: str) -> None:
    rows, asked = pairs(), ASKED[name]
    mine, theirs = in_a_forest(model, rows, asked), plain(model, rows, asked)
    assert_alike(model, mine, theirs)


@pytest.mark.parametrize(
    "mutant", ["without a reference", "rows weigh alike", "swapped", "one token of the reply lost"]
)
def test_mutant_another_loss_is_seen(model: PreTrainedModel, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, asked = pairs(), Preference()
    wanted = plain(model, rows, asked).item()
    if mutant == "without a reference":
        monkeypatch.setattr(
            Preferring, "referred", lambda self, index, batch, logp: preference.Pairs(index, 0 * logp.detach())
        )
    elif mutant == "rows weigh alike":
        monkeypatch.setattr(preference, "pair_weights", lambda batch, index: torch.ones(len(index)))
    elif mutant == "swapped":
        monkeypatch.setattr(preference, "pairs_in", lambda batch: pairs_in(batch).flip(-1))
    else:
        rows = [Record(r.example_id, (*r.segments[:2], lighter(r.segments[2]))) for r in rows]
    assert abs(in_a_forest(model, rows, asked).item() - wanted) > 1e-4


def lighter(segment: Segment) -> Segment:
    weights = segment.weights.copy()
    weights[-1] = 0
    return Segment(segment.tokens, weights, segment.parent)


# -- sums and counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_no_loss_is_cut_by_micro_batches(adapt: str) -> None:
    session, rows = session_on(adapt), pairs()
    for asked in ASKED.values():
        made = Preferring(asked, REFERENCE)
        whole = gradient(session, "t", [forest(rows)], made)
        cut = gradient(session, "t", [forest(rows[:1]), forest(rows[1:5]), forest(rows[5:])], made)
        assert largest(whole, cut) < 1e-5
    parts = [gradient(session, "t", [forest(part)], made) for part in (rows[:1], rows[1:5], rows[5:])]
    mean_of_means = {n: (parts[0][n] + parts[1][n] + parts[2][n]) / 3 for n in whole}
    assert largest(whole, mean_of_means) > 1e-3  # the mutant


def test_a_row_of_weight_2_is_two_rows() -> None:
    session, [row] = session_on("lora"), pairs(1)
    twice = Record("e0", tuple(Segment(s.tokens, 2 * s.weights, s.parent) for s in row.segments))
    other, made = pairs(2)[1], Preferring(Preference(), REFERENCE)
    reference = {**REFERENCE, "again": REFERENCE["e0"]}
    again = Preferring(Preference(), reference)
    one = gradient(session, "t", [forest([twice, other])], made)
    two = gradient(session, "t", [forest([row, Record("again", row.segments), other])], again)
    assert largest(one, two) < 1e-5
    assert float(made.count(forest([twice, other]))) == float(
        again.count(forest([row, Record("again", row.segments), other]))
    )


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "orpo"])
def test_a_list_is_the_mean_of_its_pairs(name: str) -> None:
    """Loss, count and gradient, the reference included; a list beside a pair counts as much as the pair."""
    session, rng = session_on("lora"), np.random.default_rng(3)
    root = Segment(rng.integers(3, tiny.VOCABULARY, 8), np.zeros(8, np.float32))

    def reply(num: int, weight: float) -> Segment:
        return Segment(
            np.random.default_rng(num).integers(3, tiny.VOCABULARY, num), np.full(num, weight, np.float32), 0
        )

    ranked = Record("list", (root, *[reply(num, 1.5) for num in (4, 2, 5)]))
    apart_ = [Record(f"{a}>{b}", (root, reply(a, 0.5), reply(b, 0.5))) for a, b in ((4, 2), (4, 5), (2, 5))]
    nats = {4: -9.0, 2: -8.0, 5: -15.0}
    reference = {**REFERENCE, "list": tuple(nats.values())}
    reference |= {f"{a}>{b}": (nats[a], nats[b]) for a in nats for b in nats}
    made, [pair] = Preferring(ASKED[name], reference), pairs(1)
    whole, each = forest([pair, ranked]), forest([pair, *apart_])
    assert pairs_in(whole).shape == (4, 2)
    assert float(made.count(whole)) == float(made.count(each)) == pytest.approx(2.0)  # weights 0.5 and 1.5
    one, three = (gradient(session, "t", [batch], made) for batch in (whole, each))
    assert largest(one, three) < 1e-5
    upside_down = Record("list", (root, *ranked.segments[:0:-1]))  # the mutant: the order is the ranking
    assert largest(one, gradient(session, "t", [forest([pair, upside_down])], made)) > 1e-2


# -- the start ------------------------------------------------------------------------------------------------------


def measured(session: Session, rows: list[Record]) -> dict[str, tuple[float, float]]:
    """As reference.py does, one pair at a time."""
    found = {}
    for row in rows:
        batch = forest([row])
        [logp_L] = session.logprobs("t", [batch])
        sizes = [len(s.tokens) for s in row.segments[1:]]
        chosen, rejected = logp_L.split(sizes)
        found[row.example_id] = (float(chosen.double().sum()), float(rejected.double().sum()))
    return found


@pytest.mark.parametrize("still", [True, False])
def test_dropout_is_off_while_pairs_are_learned(still: bool) -> None:
    """At update 0 the model is its own reference, so the loss is ln 2 to rounding; the mutant drops (GPT-2 does)."""
    session = Session(base_of("gpt2", resid_pdrop=0.3, attn_pdrop=0.3, embd_pdrop=0.3))
    regularisers = (Still(),) if still else ()
    session.create("t", Spec(ADAPTS["lora"], regularisers=regularisers))
    rows, before = pairs(), [m.p for m in session.base.model.modules() if isinstance(m, torch.nn.Dropout)]
    made = Preferring(Preference(beta=1.0), measured(session, rows))
    stats = session.forward_backward("t", [forest(rows)], made, 1.0)
    assert (abs(stats["loss"].mean - math.log(2)) < 1e-5) == still
    assert (abs(stats["margin_nats"].mean) < 1e-4) == still
    assert [m.p for m in session.base.model.modules() if isinstance(m, torch.nn.Dropout)] == before
    assert max(before) == 0.3


def test_told_numbers_are_what_moved() -> None:
    """After updates that make one reply likelier: its change is seen, and a tie counts half."""
    session, rows = session_on("lora"), pairs()
    made = Preferring(Preference(), measured(session, rows))
    told = session.forward_backward("t", [forest(rows)], made, 1.0)
    assert abs(told["chosen_change_nats"].mean) < 1e-4
    session.tenants["t"].forget_gradients()
    units = float(made.count(forest(rows)))
    for _ in range(4):
        session.forward_backward("t", [forest(rows)], made, 1 / units)
        session.optim_step("t", 1e-2)
    told = session.forward_backward("t", [forest(rows)], made, 1.0)
    assert told["margin_nats"].mean == pytest.approx(
        told["chosen_change_nats"].mean - told["rejected_change_nats"].mean, rel=1e-4
    )
    assert told["margin_nats"].mean > 0.1
    assert told["loss"].mean < math.log(2)


# -- rendering ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def render() -> Callable[[str, str], Record]:
    renderer = Renderer(chat.tokenizer("chatml"), 512)
    prompt = (Message("user", "Is it here?"), Message("assistant", "What?"), Message("user", "The dog."))
    return lambda c, r: renderer.record(
        Example("e-1", prompt, Pair(Message("assistant", c), Message("assistant", r)), weight=2.0)
    )


def test_replies_that_begin_alike_stay_whole(render: Callable[[str, str], Record]) -> None:
    """The prompt, earlier answers in it too, weighs 0; each reply ends with its end of turn."""
    record = render("Yes, it is.", "Yes, it was sold.")
    root, chosen, rejected = record.segments
    assert (root.parent, chosen.parent, rejected.parent) == (-1, 0, 0)
    assert root.weights.sum() == 0
    assert set(chosen.weights) == set(rejected.weights) == {2.0}
    assert chosen.tokens[0] == rejected.tokens[0]
    assert chosen.tokens[-1] == rejected.tokens[-1]
    assert pairs_in(forest([record])).tolist() == [[1, 2]]
    paths = [
        (np.concatenate([root.tokens, s.tokens]), np.concatenate([root.weights, s.weights])) for s in (chosen, rejected)
    ]
    merged = merge(paths)  # the mutant: as the turns of a dialogue are laid, a reply loses what both begin with
    assert len(merged[1].tokens) < len(chosen.tokens)


def test_two_replies_that_are_one_are_refused(render: Callable[[str, str], Record]) -> None:
    with pytest.raises(DataError, match="prefers none"):
        render("Yes.", "Yes.")
