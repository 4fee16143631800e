"""A longer context: the angles are those of the papers, the base keeps its own, and what is exported opens elsewhere as
the same model. Each law with a mutant that it catches."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from tests import tiny
from tests.laws.cases import apart, forest, separate
from tests.laws.sessions import base_of, moved, records
from transformers import AutoModelForCausalLM, PreTrainedModel

from tunesmith.data.pack import forest as packed
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot, Spec
from tunesmith.errors import ModelError, PlanError, RecipeError
from tunesmith.export.write import open_adapter
from tunesmith.files import BASE_CONFIG
from tunesmith.models import context as contexts
from tunesmith.models.adapters import Adapt
from tunesmith.models.context import Context, Rotary, check_context, extended, rotary_modules
from tunesmith.models.forward import hidden_states
from tunesmith.recipe import parse

METHODS = ("linear", "ntk", "yarn", "llama3")
OWN, THETA, DIM = 2048, 1e4, 32  # with which YaRN has channels of all three kinds


def by_hand(method: str, factor: float) -> tuple[np.ndarray, float]:
    """(angle of each pair of channels at position 1, what sines and cosines are multiplied with), from the papers."""
    exponent = np.arange(0, DIM, 2) / DIM
    plain = THETA**-exponent
    turns = OWN * plain / (2 * math.pi)  # in the context that the model was made for
    if method == "linear":  # Chen et al. 2023, eq. 4: position m becomes m / s
        return plain / factor, 1.0
    if method == "ntk":  # Peng et al. 2023, section 3.1: b' = b * s^(d / (d - 2))
        return (THETA * factor ** (DIM / (DIM - 2))) ** -exponent, 1.0
    if method == "llama3":  # Llama 3.1's apply_scaling: factors 1 and 4 of its turns
        smooth = np.clip((turns - 1) / (4 - 1), 0, 1)
        return (1 - smooth) * plain / factor + smooth * plain, 1.0
    # Peng et al. 2023, eq. 17 to 19 and 22. Between alpha = 1 and beta = 32 turns the authors' code, and transformers',
    # goes in a straight line by channel, not by turns.
    low, high = (DIM * math.log(OWN / (2 * math.pi * n)) / (2 * math.log(THETA)) for n in (32, 1))
    ramp = np.clip((np.arange(DIM // 2) - math.floor(low)) / (math.ceil(high) - math.floor(low)), 0, 1)
    found = plain / factor * ramp + plain * (1 - ramp)
    assert np.allclose(found[turns > 33], plain[turns > 33])
    assert np.allclose(found[turns < 0.5], plain[turns < 0.5] / factor)
    return found, 0.1 * math.log(factor) + 1


def wide() -> PreTrainedModel:
    return tiny.build("llama", head_dim=DIM, max_position_embeddings=OWN)


def angles(model: PreTrainedModel) -> tuple[np.ndarray, float]:
    module: Any
    [module] = rotary_modules(model)
    return module.inv_freq.double().numpy(), float(module.attention_scaling)


@pytest.mark.parametrize("factor", [2, 4.5])
@pytest.mark.parametrize("method", METHODS)
def test_angles_are_those_of_the_papers(method: Any, factor: float) -> None:
    """The mutants: every other method, and a factor that is upside down."""
    model, wanted = wide(), by_hand(method, factor)
    Rotary(model).put(Context(int(OWN * factor), method))
    found = angles(model)
    assert np.allclose(found[0], wanted[0], rtol=1e-5)
    assert math.isclose(found[1], wanted[1], rel_tol=1e-6)
    mutants = [by_hand(other, factor) for other in METHODS if other != method] + [by_hand(method, 1 / factor)]
    assert all(not np.allclose(found[0], mutant[0], rtol=1e-3) for mutant in mutants)


@pytest.mark.parametrize("method", METHODS)
def test_in_two_steps_is_at_once(method: Any) -> None:
    """A run that starts from a run whose context was made longer. The mutant measures from the second model's own."""
    config = wide().config
    once = extended(config, Context(4 * OWN, method))
    twice = extended(extended(config, Context(2 * OWN, method)), Context(4 * OWN, method))
    assert once.max_position_embeddings == twice.max_position_embeddings == 4 * OWN
    a, b = once.rope_parameters, twice.rope_parameters
    assert a.keys() == b.keys()
    assert all(a[k] == b[k] or math.isclose(a[k], b[k]) for k in a)
    assert a.get("original_max_position_embeddings", OWN) == OWN
    mutant = extended(extended(config, Context(2 * OWN, method)), Context(2 * OWN, method))
    assert any(a[k] != mutant.rope_parameters[k] for k in a)


@pytest.mark.parametrize("method", METHODS)
def test_factor_1_is_the_identity(method: Any) -> None:
    """Bit by bit. The mutant: one token more."""
    base, batch = base_of(), packed(records(6))
    session = Session(base)
    wanted = session.logprobs(None, [batch])[0]
    for tokens, is_same in ((128, True), (129, False)):
        session.create(f"t{tokens}", Spec(Adapt("lora", rank=4, context=Context(tokens, method))))
        found = session.logprobs(f"t{tokens}", [batch])[0]
        assert torch.equal(found, wanted) == is_same, tokens
    assert extended(base.model.config, Context(128, method)) is base.model.config


def test_the_base_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit, while tenants with other contexts are live beside it and after them; each tenant has its own angles.
    The mutant forgets to put the base's angles back."""
    base, batch = base_of(), packed(records(6))
    model = base.model
    session = Session(base)
    wanted = session.logprobs(None, [batch])[0]
    kinds = {"plain": Context(), "linear": Context(512, "linear"), "yarn": Context(512, "yarn")}
    for name, context in kinds.items():
        session.create(name, Spec(Adapt("lora", rank=4, context=context)))
    found = {name: session.logprobs(name, [batch])[0] for name in kinds}
    assert torch.equal(found["plain"], wanted)
    assert float((found["linear"] - wanted).abs().max()) > 1e-3
    assert float((found["linear"] - found["yarn"]).abs().max()) > 1e-3
    for name in ("yarn", "plain", "linear"):
        assert torch.equal(session.logprobs(None, [batch])[0], wanted)
        assert torch.equal(session.logprobs(name, [batch])[0], found[name])
    assert model.config.max_position_embeddings == 128
    session.close()
    assert torch.equal(Session(base).logprobs(None, [batch])[0], wanted)
    put = Rotary.put
    monkeypatch.setattr(Rotary, "put", lambda self, context: None if context is None else put(self, context))
    session = Session(base)
    session.create("linear", Spec(Adapt("lora", rank=4, context=Context(512, "linear"))))
    session.logprobs("linear", [batch])
    assert not torch.equal(session.logprobs(None, [batch])[0], wanted)


FAMILIES = ("llama", "mistral", "gemma3", "phi3", "gpt_neox", "deepseek_v3", "smollm3", "falcon")
TURNED = {"gpt_neox": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}}}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_forest_equals_its_rows(name: str, method: Any) -> None:
    """Beyond the base's own 8 tokens. The mutants: the base's angles, and positions that do not go on."""
    model, batch = tiny.build(name, max_position_embeddings=8, **TURNED.get(name, {})), forest()
    layout = tiny.FAMILIES[name].layout
    plain = hidden_states(model, batch, layout)
    Rotary(model).put(Context(64, method))
    wanted = separate(model, batch)
    assert apart(hidden_states(model, batch, layout), wanted) < 1e-5
    assert apart(plain, wanted) > 1e-3
    if layout == "forest":
        batch.positions.copy_(torch.arange(batch.num_tokens))
        assert apart(hidden_states(model, batch, layout), wanted) > 1e-3


def test_windowed_layers_keep_their_angles() -> None:
    model = tiny.build("gemma3")
    before = {n: b.clone() for n, b in rotary_modules(model)[0].named_buffers()}
    Rotary(model).put(Context(512, "linear"))
    after = dict(rotary_modules(model)[0].named_buffers())
    assert torch.equal(before["sliding_attention_inv_freq"], after["sliding_attention_inv_freq"])
    assert torch.allclose(before["full_attention_inv_freq"] / 4, after["full_attention_inv_freq"])


def plain_logits(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([tokens])).logits[0, -1]


LONG = [3 + (7 * i) % 50 for i in range(300)]  # more than the 128 of the base


@pytest.mark.parametrize(
    ("name", "method"),
    [*((name, m) for name in ("llama", "gemma3", "gpt_neox", "deepseek_v3") for m in METHODS), ("phi3", "ntk")],
)
def test_a_whole_model_opens_in_plain_transformers(name: str, method: Any, tmp_path: Path) -> None:
    """The mutant: the configuration of the base beside the same weights."""
    base = base_of(name, **TURNED.get(name, {}))
    session = Session(base)
    session.create("t", Spec(Adapt("full", context=Context(512, method))))
    moved(session, "t")
    wanted = session.next_logits("t", LONG)
    session.export("t", tmp_path)
    opened: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert opened.config.max_position_embeddings == 512
    assert float((plain_logits(opened, LONG) - wanted).abs().max()) < 1e-4
    base.model.config.save_pretrained(tmp_path)
    mutant: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert float((plain_logits(mutant, LONG) - wanted).abs().max()) > 1e-3


@pytest.mark.parametrize("adapt", [Adapt("lora", rank=4), Adapt("ia3")], ids=["lora", "ia3"])
def test_an_adapter_says_what_its_base_has_to_be_opened_with(adapt: Adapt, tmp_path: Path) -> None:
    """And the session reads it. The mutant: an adapter whose record is lost."""
    base, folder = base_of(), tmp_path / "adapter"
    base.model.save_pretrained(tmp_path / "base")
    session = Session(base)
    context = Context(512, "yarn")
    session.create("t", Spec(Adapt(adapt.method, rank=4, context=context)))
    moved(session, "t")
    wanted = session.next_logits("t", LONG)
    session.export("t", folder)
    session.close()
    dtype = torch.float32
    opened = open_adapter(tmp_path / "base", folder, dtype)
    assert float((plain_logits(opened, LONG) - wanted).abs().max()) < 1e-4
    merged: Any = opened.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert float((plain_logits(merged, LONG) - wanted).abs().max()) < 1e-3
    if adapt.method == "lora":
        session = Session(base)
        session.create_from("again", folder)
        assert session.tenants["again"].slot.adapt.context == context
        assert torch.equal(session.next_logits("again", LONG), wanted)
    (folder / BASE_CONFIG).unlink()
    assert float((plain_logits(open_adapter(tmp_path / "base", folder, dtype), LONG) - wanted).abs().max()) > 1e-3
    facts = json.loads((folder / "tunesmith.json").read_text())
    (folder / "tunesmith.json").write_text(json.dumps(facts | {"context": {"tokens": "many"}}))
    if adapt.method == "lora":
        with pytest.raises(ModelError, match="wanted tokens and method"):
            session.create_from("broken", folder)


def test_the_stretched_base_is_the_tenant_before_its_first_update() -> None:
    """What the report calls the new angles alone."""
    base, batch = base_of(), packed(records(6))
    session = Session(base)
    session.create("t", Spec(Adapt("lora", rank=4, context=Context(512, "ntk"))))
    wanted = session.logprobs("t", [batch])[0]
    moved(session, "t")
    before = Snapshot("stretched", session.tenants["t"].slot, session.tenants["t"].slot.neutral)
    assert torch.equal(session.logprobs(before, [batch])[0], wanted)
    assert not torch.equal(session.logprobs("t", [batch])[0], wanted)
    assert not torch.equal(session.logprobs(None, [batch])[0], wanted)


REFUSED: dict[str, tuple[str, dict[str, Any], Context]] = {
    "GPT2LMHeadModel is no decoder with rotary": ("gpt2", {}, Context(512)),
    "BloomForCausalLM is no decoder with rotary": ("bloom", {}, Context(512)),
    "does not take. Say adapt.context.method: ntk": ("phi3", {}, Context(512, "yarn")),
    "not made shorter": ("llama", {}, Context(64)),
    "stretched by dynamic already.*leave adapt.context out": (
        "llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, Context(512),
    ),
    "stretched by linear already.*Say adapt.context.method: linear": (
        "llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, Context(512, "ntk"),
    ),
    "sets attention_factor.*leave adapt.context out": (
        "llama",
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "attention_factor": 1.5,
                             "original_max_position_embeddings": 64}},
        Context(512, "yarn"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_made_longer_is_refused(reason: str) -> None:
    name, changes, context = REFUSED[reason]
    model = tiny.build(name, **changes)
    with pytest.raises(PlanError, match=reason):
        check_context(model, model.config, context)
    check_context(model, model.config, Context())


def test_an_encoder_decoder_is_refused() -> None:
    """T5Gemma turns in both of its halves, and its configuration would say so of one."""
    half = {**tiny.COMMON, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
    model = tiny.from_config(tf.T5GemmaConfig(encoder=dict(half), decoder=dict(half), vocab_size=tiny.VOCABULARY))
    with pytest.raises(PlanError, match="is no decoder with rotary"):
        check_context(model, model.config, Context(512))


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"adapt\.context\.method"):
        parse({"adapt": {"context": {"tokens": 512, "method": "longrope"}}})
    with pytest.raises(RecipeError, match=r"adapt\.context\.tokens"):
        parse({"adapt": {"context": {"tokens": 0}}})


def test_layers_of_unknown_kinds_are_left_alone() -> None:
    model = tiny.build("llama")
    model.config.rope_parameters = {"strange": {"rope_type": "default", "rope_theta": 1e4}}
    assert contexts.angles_of(model.config) == []
