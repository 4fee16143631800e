"""Laws of encoder-decoders: uneven rows side by side equal each alone and transformers' own loss; no cut is felt; what
is learned is what is asked; greedy is the likeliest token, step by step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.data import pieces
from tests.laws.cases import apart
from tests.laws.sessions import ADAPTS, base_of, gradient, gradient_step, largest
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from tunesmith.data.pack import forest
from tunesmith.data.render import Renderer
from tunesmith.data.tree import apart as set_apart
from tunesmith.data.twins import doubled
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import ModelError
from tunesmith.generate.limits import Limits
from tunesmith.generate.plain import generate_plain
from tunesmith.models import seq2seq
from tunesmith.models.depth import depths
from tunesmith.models.padded import Rows
from tunesmith.objectives.distil import Distil
from tunesmith.objectives.goal import Goal, objective
from tunesmith.regularisers.kl import KLToBase
from tunesmith.regularisers.l2sp import L2SP
from tunesmith.regularisers.mixout import Mixout
from tunesmith.regularisers.rdrop import RDrop
from tunesmith.types import Example, Message, Record, Reply, Segment

FAMILIES = [name for name, family in tiny.FAMILIES.items() if family.layout == "seq2seq"]
QUIET = {"t5": {"dropout_rate": 0.0}, "mt5": {"dropout_rate": 0.0}, "bart": {"dropout": 0.0}}
CLOSE = 1e-5
each_family = pytest.mark.parametrize("family", FAMILIES)


def test_the_families() -> None:
    assert FAMILIES == ["t5", "mt5", "bart"]


def records(num: int = 9, seed: int = 0) -> list[Record]:
    """Prompts of very different lengths that begin alike, and replies of very different lengths."""
    rng = np.random.default_rng(seed)
    prefix, made = rng.integers(3, tiny.VOCABULARY, 9), []
    for i in range(num):
        prompt = np.concatenate([prefix, rng.integers(3, tiny.VOCABULARY, 1 + (5 * i) % 13)])
        reply = rng.integers(3, tiny.VOCABULARY, 1 + (i * i) % 11)
        path = np.concatenate([prompt, reply]).astype(np.int64)
        weights = np.concatenate([np.zeros(len(prompt)), np.full(len(reply), 1 + i % 3)]).astype(np.float32)
        made.append(Record(f"e{i}", set_apart([(path, weights)])))
    return made


def sides(record: Record) -> tuple[Tensor, Tensor]:
    """(prompt [1, P], reply [1, R]), by hand."""
    return tuple(torch.from_numpy(s.tokens)[None] for s in record.segments)  # type: ignore[return-value]


def session_of(family: str, adapt: str = "full") -> Session:
    """One update away from its base, without dropout."""
    session = Session(base_of(family, **QUIET[family]))
    session.create("t", Spec(ADAPTS[adapt]))
    for seed in (50, 51):
        gradient_step(session, "t", [forest(records(4, seed))])
    return session


def logps(session: Session, rows: list[Record], *, share_prefix: bool = True) -> dict[str, Tensor]:
    """Record -> [R] nats of its reply."""
    batch = forest(rows, share_prefix=share_prefix)
    [found] = session.logprobs("t", [batch])
    owner = torch.repeat_interleave(batch.owner, batch.stop - batch.start)[batch.weights != 0]
    return {name: found[owner == index] for index, name in enumerate(batch.example_ids)}


# -- learning ---------------------------------------------------------------------------------------------------------


def uneven(session: Session) -> float:
    """Largest difference between rows side by side and each alone, by the model's own forward pass."""
    rows, worst = records(), 0.0
    together, model = logps(session, rows), session.base.model
    for record in rows:
        prompt, reply = sides(record)
        with torch.no_grad():
            said = model(input_ids=prompt, labels=reply)
        alone = said.logits[0].log_softmax(-1).gather(1, reply[0][:, None])[:, 0]
        assert float(said.loss) == pytest.approx(-float(alone.mean()), abs=1e-5)  # `labels=` is this very sum
        worst = max(worst, apart(together[record.example_id], alone))
    return worst


@each_family
def test_uneven_rows_equal_each_alone_and_transformers_labels(family: str) -> None:
    assert uneven(session_of(family)) < CLOSE


@each_family
def test_the_law_sees_a_mask_left_out(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session, rows_of = session_of(family), seq2seq.padded_rows

    def unmasked(runs: Any, num: int) -> Rows:
        rows = rows_of(runs, num)
        return replace(rows, mask=torch.ones_like(rows.mask))

    monkeypatch.setattr(seq2seq, "padded_rows", unmasked)
    assert uneven(session) > 1e-3


@each_family
def test_the_loss_of_a_batch_is_transformers_own_weighted(family: str) -> None:
    """The same learned tokens with the same weights: one padded batch with `labels=`, and the session's statistics."""
    session, rows = session_of(family), [replace_weights(r, 1.0) for r in records()]
    pairs = [sides(r) for r in rows]
    wide, long = (max(p[k].shape[1] for p in pairs) for k in (0, 1))
    ids, mask = torch.zeros(len(rows), wide, dtype=torch.int64), torch.zeros(len(rows), wide, dtype=torch.int64)
    labels = torch.full((len(rows), long), -100)
    for row, (prompt, reply) in enumerate(pairs):
        ids[row, : prompt.shape[1]], mask[row, : prompt.shape[1]] = prompt, 1
        labels[row, : reply.shape[1]] = reply
    with torch.no_grad(), session.borrowed("t") as model:
        wanted = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    stats = session.forward_backward("t", [forest(rows)], objective(Goal(), {}), 1.0)
    assert stats["loss"].mean == pytest.approx(float(wanted), rel=1e-5)


def replace_weights(record: Record, weight: float) -> Record:
    root, reply = record.segments
    return replace(record, segments=(root, replace(reply, weights=np.full(len(reply.tokens), weight, np.float32))))


@pytest.mark.parametrize(("family", "adapt"), [*((f, "full") for f in FAMILIES), ("t5", "lora"), ("bart", "last_k")])
def test_no_cut_is_felt_and_no_shared_prefix(family: str, adapt: str) -> None:
    session, rows = session_of(family, adapt), records()
    whole = gradient(session, "t", [forest(rows)])
    assert all(float(g.abs().max()) > 0 for g in whole.values())
    parts = [forest(rows[:1]), forest(rows[1:7]), forest(rows[7:])]
    assert largest(whole, gradient(session, "t", parts)) < CLOSE
    batch = forest(rows)
    assert int(batch.owner.min()) < 0  # a prefix is stored once, and each encoder reads it before its own prompt
    assert largest(whole, gradient(session, "t", [forest(rows, share_prefix=False)])) < CLOSE
    lost = replace(batch, owner=batch.owner.clamp(min=0))  # the mutant: the prefix alone taken for the prompt
    assert largest(whole, gradient(session, "t", [lost])) > 1e-2


def test_several_replies_read_their_prompt_once() -> None:
    """Labels are children of one prompt: as each behind a prompt of its own, and the encoder sees one row."""
    session, [record] = session_of("t5"), records(1)
    prompt, replies = record.segments[0], [np.array(r, np.int64) for r in ([5, 9, 2], [7], [5, 2])]
    children = [Segment(r, np.ones(len(r), np.float32), 0) for r in replies]
    seen: list[int] = []
    hook = lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[0])
    handle = session.base.model.get_encoder().register_forward_pre_hook(hook, with_kwargs=True)
    together = logps(session, [Record("all", (prompt, *children))])["all"]
    handle.remove()
    assert seen == [1]
    alone = [logps(session, [Record("one", (prompt, child))])["one"] for child in children]
    assert apart(together, torch.cat(alone)) < CLOSE


def test_layers_again_give_the_same_gradient() -> None:
    session, rows = session_of("t5"), records()
    whole = gradient(session, "t", [forest(rows)])
    session.checkpointing = True
    assert largest(whole, gradient(session, "t", [forest(rows)])) < CLOSE


GOALS = {
    "smoothing": Goal(smoothing=0.2), "focal": Goal(focal=2.0), "contrastive": Goal(contrastive=0.6),
    "distil": Goal(distil=Distil(share=0.5)),
}  # fmt: skip
REGULARISERS: dict[str, Callable[[], Any]] = {
    "kl": lambda: KLToBase(0.5), "l2sp": lambda: L2SP(0.5), "mixout": lambda: Mixout(0.4),
}  # fmt: skip


@pytest.mark.parametrize("name", [*GOALS, *REGULARISERS])
def test_objectives_and_regularisers_are_cut_freely_too(name: str) -> None:
    session, rows = session_of("t5", "lora"), records()
    tenant, classes = session.tenants["t"], {r.example_id: i % 3 for i, r in enumerate(rows)}
    tenant.spec = replace(tenant.spec, teacher=base_of("t5", seed=7))
    plain = gradient(session, "t", [forest(rows)])
    if name in REGULARISERS:
        tenant.spec = replace(tenant.spec, regularisers=(REGULARISERS[name](),))
    goal = objective(GOALS.get(name, Goal()), classes)
    found = [gradient(session, "t", cut, goal) for cut in ([forest(rows)], [forest(rows[:2]), forest(rows[2:])])]
    assert largest(*found) < CLOSE
    if name != "l2sp":  # which acts once an update, before the step
        assert largest(plain, found[0]) > 1e-4


def test_rdrop_sets_twins_side_by_side() -> None:
    session = Session(base_of("t5", dropout_rate=0.3))
    session.create("t", Spec(ADAPTS["lora"], regularisers=(RDrop(1.0),)))
    stats = session.forward_backward("t", [forest([doubled(r) for r in records()])], objective(Goal(), {}), 1.0)
    assert stats["rdrop_nats_per_token"].mean > 1e-4


def test_an_encoder_stands_below_its_decoder() -> None:
    model = tiny.build("t5")
    deep = depths(model, [name for name, _ in model.named_parameters()])
    assert deep["shared.weight"] == 0
    assert {d for n, d in deep.items() if n.startswith("encoder.block.1.")} == {2}
    assert {d for n, d in deep.items() if n.startswith("decoder.block.0.")} == {3}
    assert (deep["encoder.final_layer_norm.weight"], deep["decoder.final_layer_norm.weight"]) == (2, 5)
    session = Session(base_of("bart"))
    session.create("t", Spec(ADAPTS["last_k"]))
    assert all(name.startswith("model.decoder.layers.1.") for name in session.tenants["t"].masters)


# -- asking -----------------------------------------------------------------------------------------------------------

STOP = (5, 9, 11, 17)
PROMPTS = [[3 + (7 * i + k) % 50 for k in range(n)] for i, n in enumerate((7, 2, 4, 4, 19, 1, 3))]


def step_by_step(
    model: PreTrainedModel, prompt: list[int], most: int, stops: tuple[int, ...]
) -> tuple[list[int], list[float]]:
    """Each step anew, without a cache: the likeliest token behind what was written so far."""
    written, nats = [model.config.decoder_start_token_id], []
    while len(nats) < most and (not nats or written[-1] not in stops):
        with torch.no_grad():
            said = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([written]))
        best = said.logits[0, -1].log_softmax(-1).max(-1)
        written, nats = [*written, int(best.indices)], [*nats, float(best.values)]
    return written[1:], nats


@each_family
def test_greedy_is_step_by_step(family: str) -> None:
    session = session_of(family)
    free = session.sample("t", PROMPTS, Limits(12, ()), decode=str)
    stops = free[0].tokens[4], free[3].tokens[8]  # rows stop at different steps, and some do not
    done = session.sample("t", PROMPTS, Limits(12, stops, rows=4), decode=str)
    for prompt, found in zip(PROMPTS, done):
        tokens, nats = step_by_step(session.base.model, prompt, 12, stops)
        assert list(found.tokens) == tokens
        assert list(found.logp) == pytest.approx(nats, abs=2e-5)
        assert found.stopped == (tokens[-1] in stops)
        first = session.next_logits("t", prompt).log_softmax(-1)
        assert float(first[tokens[0]]) == pytest.approx(nats[0], abs=2e-5)
    assert len({len(c.tokens) for c in done}) > 1


@each_family
def test_what_a_model_brings_along_does_not_decide(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beams and forced tokens of generation_config.json, as bart-large-cnn has them; the mutant lets them in."""
    model, limits = tiny.build(family), Limits(8, STOP)
    plain = [c.tokens for c in generate_plain(model, PROMPTS, limits, str)]
    model.generation_config = GenerationConfig(forced_bos_token_id=21, no_repeat_ngram_size=1)
    assert [c.tokens for c in generate_plain(model, PROMPTS, limits, str)] == plain
    assert model.generation_config.forced_bos_token_id == 21
    monkeypatch.setattr("tunesmith.generate.plain.bare", nullcontext)
    assert all(c.tokens[0] == 21 for c in generate_plain(model, PROMPTS, limits, str))


# -- what is learned is what is asked ---------------------------------------------------------------------------------

ASKED = [Message("system", "where is it?"), Message("user", "the lazy dog 42")]


@each_family
def test_source_and_target_are_written_as_the_tokenizer_writes_texts(family: str) -> None:
    words = pieces.tokenizer(family)
    renderer = Renderer(words, 100, layout="seq2seq")
    source, target = "where is it?\n\nthe lazy dog 42", "brown fox"
    assert renderer.prompt(ASKED) == words(source)["input_ids"]
    assert renderer.reply(ASKED, Message("assistant", target)) == words(text_target=target)["input_ids"]
    [root, reply] = renderer.record(Example("a", tuple(ASKED), Reply(Message("assistant", target, 0.5)))).segments
    assert (root.tokens.tolist(), reply.tokens.tolist()) == (renderer.prompt(ASKED), words(target)["input_ids"])
    assert (root.weights == 0).all()
    assert (reply.weights == 0.5).all()
    assert reply.parent == 0
    assert renderer.text(reply.tokens) == target
    assert renderer.stop_ids == (words.eos_token_id,)
    words.chat_template = renderer.template  # as it is exported
    asked = [m.as_dict() for m in ASKED]
    served = words.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    words.chat_template = None
    assert served == renderer.prompt(ASKED)


def test_each_turn_of_a_conversation_has_a_source_of_its_own() -> None:
    words = pieces.tokenizer("t5")
    turns = (*ASKED, Message("assistant", "brown"), Message("user", "what is it"))
    record = Renderer(words, 100, layout="seq2seq").record(Example("a", turns, Reply(Message("assistant", "fox"))))
    texts = [words.decode(s.tokens.tolist()) for s in record.segments]
    assert [s.parent for s in record.segments] == [-1, 0, -1, 2]
    assert texts[1::2] == ["brown</s>", "fox</s>"]
    assert texts[2].startswith(texts[0].removesuffix("</s>"))
    assert texts[2].endswith("brown what is it</s>")


def test_tokenizers_that_name_languages_are_refused() -> None:
    with pytest.raises(ModelError, match="mBART"):
        Renderer(pieces.framed("$A </s> en_XX"), 100, layout="seq2seq")


# -- over-fitted, saved, opened ---------------------------------------------------------------------------------------


@each_family
def test_a_few_examples_are_learned_by_heart_and_saved(family: str, tmp_path: Any) -> None:
    words = pieces.tokenizer(family)
    session = Session(base_of(family, **QUIET[family], **pieces.shape(words)))
    renderer = Renderer(words, 64, layout=session.base.layout)
    said = {"where is it?": "the lazy dog", "what is it?": "brown fox", "order 12?": "clips sold 7", "fox?": "it jumps"}
    rows = [Example(q, (Message("user", q),), Reply(Message("assistant", a))) for q, a in said.items()]
    batch = forest(list(renderer.records(rows).records))
    session.create("t", Spec(ADAPTS["full"]))
    for _ in range(60):
        gradient_step(session, "t", [batch], 5e-3)
    prompts = [renderer.prompt(e.prompt) for e in rows]
    done = session.sample("t", prompts, Limits(24, renderer.stop_ids), decode=renderer.text)
    assert {q: c.text for q, c in zip(said, done)} == said
    assert all(c.stopped for c in done)
    session.export(session.publish("t"), tmp_path / "model")
    opened = type(session.base.model).from_pretrained(tmp_path / "model").eval()
    for prompt, completion in zip(prompts, done):
        begins = {"decoder_start_token_id": opened.config.decoder_start_token_id}
        plain = opened.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, **begins)
        assert tuple(plain[0, 1:].tolist()) == completion.tokens
