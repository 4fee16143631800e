"""The sampler against transformers' own generation: same tokens and log-probabilities, however rows are batched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests import tiny

from tunesmith.errors import RunError
from tunesmith.generate import buffers
from tunesmith.generate.buffers import Level
from tunesmith.generate.decode import Sampler, common_prefix, drawn, pick
from tunesmith.generate.limits import Limits
from tunesmith.generate.plain import generate_plain
from tunesmith.models.heads import find_head

FAMILIES = [name for name, family in tiny.FAMILIES.items() if family.layout == "forest"]
PADDED = [name for name, family in tiny.FAMILIES.items() if family.layout != "forest"]
STOP = (5, 9, 11, 17)


def prompts(shared: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(shared)
    prefix = torch.randint(3, tiny.VOCABULARY, (shared,), generator=generator).tolist()
    return [
        prefix + torch.randint(3, tiny.VOCABULARY, (n,), generator=generator).tolist() for n in (7, 2, 4, 4, 9, 1, 3)
    ]


def texts(tokens: object) -> str:
    return " ".join(map(str, tokens))  # type: ignore[call-overload]


@pytest.mark.parametrize("shared", [0, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_sampler_writes_what_transformers_writes(family: str, shared: int) -> None:
    model = tiny.build(family)
    limits = Limits(12, STOP, rows=4)
    asked = prompts(shared)
    ours = Sampler(model, find_head(model), texts)(asked, limits)
    plain = generate_plain(model, asked, limits, texts)
    for mine, wanted in zip(ours, plain):
        assert mine.tokens == wanted.tokens
        assert mine.stopped == wanted.stopped
        assert mine.text == wanted.text
        assert torch.tensor(mine.logp) == pytest.approx(torch.tensor(wanted.logp), abs=2e-5)


@pytest.mark.parametrize("shared", [0, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_read_in_pieces_is_the_same_prompt(family: str, shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few queries at a time, against levels, padding and windows."""
    monkeypatch.setattr(buffers, "QUERIES", 3)
    test_the_sampler_writes_what_transformers_writes(family, shared)


@pytest.mark.parametrize("moved", ["begin", "end"])
def test_mutant_pieces_that_see_one_column_less_are_found(moved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first column that a window leaves; the last that a query may see, which is itself."""
    model = tiny.build("mistral")
    sampler, limits, asked = Sampler(model, find_head(model), texts), Limits(6, STOP, rows=4), prompts(8)
    monkeypatch.setattr(buffers, "QUERIES", 3)
    right, plain = sampler(asked, limits), buffers.blocks

    def mutant(column: int, num_queries: int, window: int | None) -> list[buffers.Block]:
        step = 1 if moved == "begin" else -1
        return [replace(b, **{moved: getattr(b, moved) + step}) for b in plain(column, num_queries, window)]

    monkeypatch.setattr(buffers, "blocks", mutant)
    assert [c.logp for c in sampler(asked, limits)] != [pytest.approx(c.logp, abs=1e-6) for c in right]


def test_the_scores_of_a_long_prompt_never_stand_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a window what is computed does not grow with the square of the prompt. Mutants: whole passes; no `begin`."""
    model, sizes = tiny.build("mistral"), list[int]()
    plain = buffers.attended

    def watched(query: torch.Tensor, below: object, own: tuple[torch.Tensor, ...], *rest: object) -> torch.Tensor:
        sizes.append(query.shape[3] * own[0].shape[2])
        return plain(query, below, own, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(buffers, "attended", watched)
    monkeypatch.setattr(buffers, "QUERIES", 8)
    sampler = Sampler(model, find_head(model), texts)
    per_token = []
    for num in (64, 256):
        sizes.clear()
        sampler.logits(list(range(3, tiny.VOCABULARY))[:8] * (num // 8))
        assert max(sizes) <= 8 * (8 + model.config.sliding_window)
        per_token.append(sum(sizes) / num)
    assert per_token[1] < 1.1 * per_token[0]


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_sampler_draws_what_transformers_draws(family: str, told: bool) -> None:
    """At a temperature, with the same seeds; rows that stopped draw on and change nothing. Mutant: other seeds."""
    model, asked = tiny.build(family), prompts(8)
    limits = Limits(12, STOP, temperature=0.7, top_p=0.9, seed=3, tempered=told, rows=4)
    ours = Sampler(model, find_head(model), texts)(asked, limits)
    plain = generate_plain(model, asked, limits, texts)
    for mine, wanted in zip(ours, plain):
        assert mine.tokens == wanted.tokens
        assert mine.stopped == wanted.stopped
        assert torch.tensor(mine.logp) == pytest.approx(torch.tensor(wanted.logp), abs=2e-5)
    others = generate_plain(model, asked, replace(limits, seed=4), texts)
    assert [c.tokens for c in others] != [c.tokens for c in plain]


@pytest.mark.parametrize("family", PADDED)
def test_models_of_other_layouts_draw_alone_what_they_draw_beside_others(family: str) -> None:
    """Each row by its own seed. Mutant: one by its place in the batch."""
    model, asked = tiny.build(family), [prompts(8)[i] for i in SEVERAL]
    beside, alone = (generate_plain(model, asked, Limits(10, STOP, 1.0, seed=5, rows=n), texts) for n in (9, 1))
    assert len({c.tokens for c in alone}) > 5
    for mine, wanted in zip(beside, alone):
        assert mine.tokens == wanted.tokens
        assert mine.logp == pytest.approx(wanted.logp, abs=2e-5)


SEVERAL = (0, 3, 0, 5, 3, 0, 1, 3, 5)  # prompts by number: some are answered several times


@pytest.mark.parametrize("shared", [0, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_answered_several_times_is_answered_as_alone(family: str, shared: int) -> None:
    """Answers of one prompt part ways and stop at different times, and each goes on as if nobody stood beside it."""
    model = tiny.build(family)
    sampler, asked = Sampler(model, find_head(model), texts), [prompts(shared)[i] for i in SEVERAL]
    beside, alone = (sampler(asked, Limits(16, STOP, temperature=1.0, rows=rows)) for rows in (len(asked), 1))
    assert len({c.tokens for c in alone}) > 5
    assert len({len(c.tokens) for c in alone}) > 1
    for mine, wanted in zip(beside, alone):
        assert mine.tokens == wanted.tokens
        assert torch.tensor(mine.logp) == pytest.approx(torch.tensor(wanted.logp), abs=2e-5)


def test_a_prompt_is_read_once_however_often_it_is_answered() -> None:
    model = tiny.build("llama")
    sampler, read = Sampler(model, find_head(model), texts), list[int]()
    model.get_input_embeddings().register_forward_pre_hook(lambda _, given: read.append(given[0].numel()))
    asked = [prompts(8)[i] for i in SEVERAL]
    sampler(asked, Limits(1, (), rows=len(asked)))
    shared, longest = common_prefix(asked), max(map(len, asked))
    assert sum(read) == shared + len(set(SEVERAL)) * (longest - shared)


@pytest.mark.parametrize("wrong", ["of", "at_B"])
def test_mutant_rows_on_another_prompt_are_found(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("llama")
    sampler, asked = Sampler(model, find_head(model), texts), [prompts(0)[i] for i in SEVERAL]
    limits = Limits(16, STOP, temperature=1.0, rows=len(asked))
    right, made = sampler(asked, limits), Level.__init__

    def mutant(self: Level, *given: object, **named: object) -> None:
        made(self, *given, **named)  # type: ignore[arg-type]
        setattr(self, wrong, getattr(self, wrong)[::-1] if wrong == "of" else self.at_B.flip(0))

    monkeypatch.setattr(Level, "__init__", mutant)
    assert [c.tokens for c in sampler(asked, limits)] != [c.tokens for c in right]


def test_rows_stop_at_different_times_and_leave_the_batch() -> None:
    model = tiny.build("llama")
    ours = Sampler(model, find_head(model), texts)(prompts(8), Limits(24, STOP, rows=7))
    assert len({len(c.tokens) for c in ours}) > 2
    assert any(c.stopped for c in ours)
    assert all(c.tokens[-1] in STOP for c in ours if c.stopped)
    assert all(t not in STOP for c in ours for t in c.tokens[:-1])


def test_sampled_tokens_depend_on_the_row_and_its_seed_alone() -> None:
    model = tiny.build("llama")
    sampler = Sampler(model, find_head(model), texts)
    asked = prompts(8)
    one = sampler(asked, Limits(10, STOP, temperature=1.0, seed=3, rows=7))
    other = sampler(asked, Limits(10, STOP, temperature=1.0, seed=3, rows=2))
    assert [c.tokens for c in one] == [c.tokens for c in other]
    assert [c.tokens for c in one] != [c.tokens for c in sampler(asked, Limits(10, STOP, temperature=1.0, seed=4))]


def test_samples_follow_the_model() -> None:
    """First tokens of many samples against the model's own distribution; top_p cuts its tail off."""
    model = tiny.build("llama")
    sampler = Sampler(model, find_head(model), texts)
    prompt = prompts(0)[0]
    with torch.no_grad():
        p = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
    drawn = sampler([prompt] * 2000, Limits(1, STOP, temperature=1.0, rows=500))
    found = torch.bincount(torch.tensor([c.tokens[0] for c in drawn]), minlength=len(p)) / 2000
    assert float((found - p).abs().sum() / 2) < 0.1
    few = sampler([prompt] * 300, Limits(1, STOP, temperature=1.0, top_p=0.3, rows=300))
    order = p.sort(descending=True)
    allowed = order.indices[: int((order.values.cumsum(0) < 0.3).sum()) + 1].tolist()
    assert {c.tokens[0] for c in few} <= set(allowed)


def test_what_cannot_be_is_never_drawn_and_the_rest_as_often_as_it_is_likely() -> None:
    prob = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    noise = [torch.Generator().manual_seed(i) for i in range(4000)]
    found = torch.bincount(drawn(prob.expand(4000, -1), noise), minlength=6) / 4000
    assert found[prob == 0].sum() == 0
    assert found == pytest.approx(prob, abs=0.03)
    assert torch.bincount(drawn(prob.roll(1).expand(4000, -1), noise), minlength=6)[1] == 0, "the same noise elsewhere"


@pytest.mark.parametrize("top_p", [0.5, 1.0])
@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-7, 1e-5])
def test_a_temperature_near_0_is_greedy(temperature: float, top_p: float) -> None:
    """Of numbers that float32 cannot hold no token would be drawn, and another row's answer be lost with it."""
    logp_V, noise = torch.randn(3, 50).log_softmax(-1), [torch.Generator() for _ in range(3)]
    picked = pick(logp_V, Limits(4, STOP, temperature=temperature, top_p=top_p), noise)
    assert picked.tolist() == logp_V.argmax(-1).tolist()


def test_common_prefix_leaves_every_prompt_a_token() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 3]]) == 2
    assert common_prefix([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert common_prefix([[1], [1, 2]]) == 0
    assert common_prefix([[7, 2], [1, 2]]) == 0


def test_past_the_deadline_nothing_is_scored() -> None:
    model = tiny.build("llama")
    late = Limits(50, (), rows=2, deadline_s=0.0)
    with pytest.raises(RunError, match=r"evals\.budget_s"):
        Sampler(model, find_head(model), texts)(prompts(0), late)
    with pytest.raises(RunError, match=r"evals\.budget_s"):
        generate_plain(model, prompts(0), late, texts)
    assert len(generate_plain(model, prompts(0), Limits(3, STOP, deadline_s=100.0), texts)) == 7
