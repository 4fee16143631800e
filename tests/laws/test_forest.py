"""Law: a forest equals its sequences run one by one, hidden states and gradients, for each family and layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from tests import tiny
from tests.laws.cases import apart, forest, gradients_apart, hidden_and_gradients, separate
from transformers import AttentionInterface

from tunesmith.errors import DataError, ModelError
from tunesmith.models.attention import NAME, Layout, forest_attention
from tunesmith.models.calls import count_calls
from tunesmith.models.forward import RopeLimit, attention, hidden_states, probe, rope_limit

HIDDEN, GRADIENT = 1e-5, 1e-5
SWAPPED = [name for name, family in tiny.FAMILIES.items() if family.layout == "forest"]
MUTANTS = [(name, mutant) for name in SWAPPED for mutant in tiny.FAMILIES[name].mutants]


def distances(name: str, layout: str) -> tuple[float, float]:
    """(hidden states, gradients) between a layout and separate sequences; asserts which attention ran."""
    model, batch = tiny.build(name), forest()
    wanted = hidden_and_gradients(model, separate(model, batch))
    with count_calls() as calls:
        found = hidden_and_gradients(model, hidden_states(model, batch, layout))
    assert calls.num == (model.config.num_hidden_layers if layout == "forest" else 0)
    return apart(found[0], wanted[0]), gradients_apart(found[1], wanted[1])


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_probe_finds_the_layout(name: str) -> None:
    found = probe(tiny.build(name))
    assert found.layout == tiny.FAMILIES[name].layout, found
    assert found.largest_diff < HIDDEN


@pytest.mark.parametrize("name", SWAPPED)
def test_forest_equals_separate_sequences(name: str) -> None:
    hidden, gradient = distances(name, "forest")
    assert hidden < HIDDEN
    assert gradient < GRADIENT


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_padded_equals_separate_sequences(name: str) -> None:
    """Encoder-decoders have padded rows of their own."""
    hidden, gradient = distances(name, "seq2seq" if tiny.FAMILIES[name].layout == "seq2seq" else "padded")
    assert hidden < HIDDEN
    assert gradient < GRADIENT


@contextmanager
def broken(mutant: str) -> Iterator[None]:
    """Forest attention that leaves one thing out."""
    leave_out: dict[str, dict[str, Any]] = {
        "window": {"sliding_window": None},
        "cap": {"softcap": None},
        "scale": {"scaling": 1.0},
        "sinks": {"s_aux": None},
        "parent": {},
    }

    def mutated(*args: Any, **kwargs: Any) -> Any:
        kwargs |= leave_out[mutant]
        if mutant == "parent":
            layout = kwargs["forest_layout"]
            kwargs["forest_layout"] = layout._replace(parent=torch.full_like(layout.parent, -1))
        return forest_attention(*args, **kwargs)

    AttentionInterface.register(NAME, mutated)
    try:
        yield
    finally:
        AttentionInterface.register(NAME, forest_attention)


@pytest.mark.parametrize(("name", "mutant"), MUTANTS)
def test_the_law_sees_what_is_left_out(name: str, mutant: str) -> None:
    model = tiny.build(name)
    with broken(mutant):
        hidden, gradient = distances(name, "forest")
        assert probe(model).layout == "padded"
    assert hidden > 100 * HIDDEN
    assert gradient > 100 * GRADIENT


def test_every_family_has_its_mutants() -> None:
    """What a configuration sets must be among the mutants that are tried."""
    for name in SWAPPED:
        config = tiny.build(name).config.to_dict()
        windowed = config.get("sliding_window") is not None and config.get("use_sliding_window") is not False
        assert windowed == ("window" in tiny.FAMILIES[name].mutants), name
        assert (config.get("attn_logit_softcapping") is not None) == ("cap" in tiny.FAMILIES[name].mutants), name


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_examples_are_independent(name: str) -> None:
    """Other tokens in one segment leave every segment that does not stand below it as it was."""
    family, batch = tiny.FAMILIES[name], forest()
    model = tiny.build(name)
    changed = 1  # a child of the first root, with two children (2 and 4) of its own
    tokens = batch.tokens.clone()
    inside = slice(int(batch.start[changed]), int(batch.stop[changed]))
    tokens[inside] = (tokens[inside] + 17) % tiny.VOCABULARY
    with torch.no_grad():
        before = hidden_states(model, batch, family.layout)
        after = hidden_states(model, replace(batch, tokens=tokens), family.layout)
    below = torch.zeros(batch.num_tokens, dtype=torch.bool)
    for segment in (1, 2, 4):
        below[int(batch.start[segment]) : int(batch.stop[segment])] = True
    if family.is_dense:
        assert torch.equal(after[~below], before[~below])
    assert apart(after[~below], before[~below]) < 1e-5
    assert apart(after[below], before[below]) > 1e-2


def test_a_segment_longer_than_a_block_and_a_long_window() -> None:
    """Segments of more than 256 tokens are cut; windows end inside ancestors, inside the segment, and nowhere."""
    batch = forest((300, 280, 40, 3, 530), (-1, 0, 0, 1, -1))
    for window in (150, 290, 512, None):
        model = tiny.build("mistral", sliding_window=window, max_position_embeddings=1024, num_hidden_layers=1)
        wanted = hidden_and_gradients(model, separate(model, batch))
        found = hidden_and_gradients(model, hidden_states(model, batch, "forest"))
        assert apart(found[0], wanted[0]) < HIDDEN
        assert gradients_apart(found[1], wanted[1]) < GRADIENT


@pytest.mark.parametrize("wrap", ["injected", "wrapped"])
@pytest.mark.parametrize("layout", ["forest", "padded"])
def test_adapters(wrap: str, layout: str) -> None:
    model, batch = tiny.build("qwen2"), forest()
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, lora) if wrap == "wrapped" else inject_adapter_in_model(lora, model)
    wanted = hidden_and_gradients(model, separate(model, batch))
    found = hidden_and_gradients(model, hidden_states(wrapped, batch, layout))
    assert apart(found[0], wanted[0]) < HIDDEN
    assert gradients_apart(found[1], wanted[1]) < GRADIENT
    assert any("lora_B" in n and g.abs().max() > 0 for n, g in found[1].items())


def test_own_attention_comes_back() -> None:
    model, batch = tiny.build("llama"), forest()
    hidden_states(model, batch, "forest")
    assert model.config._attn_implementation == "eager"
    tokens = torch.arange(3, 9)[None]
    first = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3, do_sample=False)
    with attention(model, NAME), pytest.raises(ModelError, match="without a layout"):
        model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3, do_sample=False)
    again = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3, do_sample=False)
    assert torch.equal(first, again)


def test_gradient_checkpointing_needs_the_attention_to_stay() -> None:
    model, batch = tiny.build("llama"), forest()
    wanted = hidden_and_gradients(model, separate(model, batch))
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with pytest.raises(ModelError, match="gradient checkpointing"):
        hidden_states(model, batch, "forest")
    with attention(model, NAME), count_calls() as calls:
        found = hidden_and_gradients(model, hidden_states(model, batch, "forest"))
    assert calls.num == 2 * model.config.num_hidden_layers  # once more in the backward pass
    assert gradients_apart(found[1], wanted[1]) < GRADIENT


def _refused(build: Callable[[], Any], *names: str) -> None:
    with pytest.raises(ModelError) as refusal:
        build()
    assert all(name in str(refusal.value) for name in names)


def test_refusals() -> None:
    q = torch.randn(1, 2, 5, 4)
    layout = Layout(torch.tensor([0, 3]), torch.tensor([3, 5]), torch.tensor([-1, -1]))
    module = torch.nn.Identity()
    forest_attention(module, q, q, q, None, forest_layout=layout, position_ids=q, use_cache=False, alibi=None)
    _refused(lambda: forest_attention(module, q, q, q, None), "without a layout")
    _refused(lambda: forest_attention(module, q, q, q, None, forest_layout=layout, alibi=q), "'alibi'")
    _refused(
        lambda: forest_attention(module, q, q, q, None, forest_layout=layout, output_attentions=True), "attentions"
    )
    _refused(lambda: forest_attention(module, q, q, q, q, forest_layout=layout), "mask")
    _refused(lambda: forest_attention(module, q, q, q, None, forest_layout=layout, is_causal=False), "both directions")
    longer = torch.randn(1, 2, 6, 4)  # keys of a cache
    _refused(lambda: forest_attention(module, q, longer, longer, None, forest_layout=layout), "cache")


def test_learned_roots_of_encoder_decoders_are_refused() -> None:
    batch = forest()
    with pytest.raises(ModelError, match="root"):
        hidden_states(tiny.build("t5"), replace(batch, weights=torch.ones(batch.num_tokens)), "seq2seq")


def test_two_broken_layouts_are_refused() -> None:
    with pytest.raises(ModelError, match="one sequence at a time"), broken("parent"):
        probe(_sums_its_batch())


def _sums_its_batch() -> Any:
    """A Llama whose every hidden state depends on what else is in the batch."""
    model = tiny.build("llama")

    def mix(_: Any, __: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.sum((0, 1))
        return output

    model.base_model.register_forward_hook(mix)
    return model


# Rotary variants whose angles depend on the longest position.

ORIGINAL = 16
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2],
    "long_factor": [2.0, 3.0, 4.0],
    "original_max_position_embeddings": ORIGINAL,
    "factor": 4.0,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}


def longrope() -> tf.PreTrainedModel:
    return tiny.build(
        "phi3",
        sliding_window=None,
        rope_parameters=dict(LONGROPE),
        max_position_embeddings=64,
        original_max_position_embeddings=ORIGINAL,
    )


def dynamic() -> tf.PreTrainedModel:
    return tiny.build("llama", rope_parameters=dict(DYNAMIC), max_position_embeddings=ORIGINAL)


def test_rope_limits() -> None:
    assert rope_limit(longrope().config) == RopeLimit(ORIGINAL, alone=False)
    assert rope_limit(dynamic().config) == RopeLimit(ORIGINAL, alone=True)
    assert rope_limit(tiny.build("llama").config) is None
    assert rope_limit(tiny.build("gemma3").config) is None  # one set of parameters per kind of layer
    assert rope_limit(tiny.build("gpt2").config) is None


SHORT = ((9, 7, 4, 16), (-1, 0, 0, -1))
LONG = ((12, 9, 5, 17), (-1, 0, 0, -1))
ALONE = ((12, 9), (-1, 0))


@pytest.mark.parametrize(
    ("build", "allowed", "refused"),
    [
        (longrope, [SHORT, LONG], [((12, 9, 4), (-1, 0, 0)), ((17, 3), (-1, -1))]),
        (dynamic, [SHORT, ALONE, ((16,), (-1,)), SHORT], [LONG, ((12, 9, 4), (-1, 0, 0))]),
    ],
)
@pytest.mark.parametrize("layout", ["forest", "padded"])
def test_rotary_by_length(build: Callable[[], tf.PreTrainedModel], allowed: list, refused: list, layout: str) -> None:
    """Allowed forests equal separate sequences on a model that has seen nothing, whatever this one saw before."""
    used = build()
    for sizes, parent in [*allowed, *reversed(allowed)]:
        batch = forest(sizes, parent)
        wanted = separate(build(), batch)
        assert apart(hidden_states(used, batch, layout), wanted) < HIDDEN
    for sizes, parent in refused:
        with pytest.raises(DataError, match="rotary"):
            hidden_states(used, forest(sizes, parent), layout)


def test_lengths_that_are_mixed_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why they are refused."""
    monkeypatch.setattr("tunesmith.models.hidden.check_lengths", lambda *_: None)
    for build, sizes in ((longrope, (17, 3)), (dynamic, (17, 20))):
        batch = forest(sizes, (-1, -1))
        wanted = torch.cat([separate(build(), forest_part(batch, s)) for s in range(2)])
        assert apart(hidden_states(build(), batch, "forest"), wanted) > 1e-3


def forest_part(batch: Any, root: int) -> Any:
    inside = slice(int(batch.start[root]), int(batch.stop[root]))
    single = forest((inside.stop - inside.start,), (-1,))
    return replace(single, tokens=batch.tokens[inside])
