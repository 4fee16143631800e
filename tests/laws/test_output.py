"""Law: what an output computes in chunks equals the plain computation with all logits, values and gradients.

The plain side takes the model's own logits, one sequence at a time; so heads with scale and soft-cap, tied and untied,
are those of transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, inject_adapter_in_model
from tests import tiny
from tests.laws.cases import apart, forest, gradients, gradients_apart, paths
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.models import chunked
from tunesmith.models.forward import ForwardOutput, output
from tunesmith.models.heads import find_head
from tunesmith.types import Forest

CLOSE = 1e-5  # in float64, too: norms and rotary angles of transformers are float32 whatever the model is
PHI = {**tiny.COMMON, "num_attention_heads": 3, "num_key_value_heads": 3, "partial_rotary_factor": 0.5}
HEADS: dict[str, Callable[[torch.dtype], PreTrainedModel]] = {
    "untied": lambda dtype: tiny.build("llama", dtype=dtype, tie_word_embeddings=False),
    "tied": lambda dtype: tiny.build("llama", dtype=dtype, tie_word_embeddings=True),
    "soft-cap, tied": lambda dtype: tiny.build("gemma2", dtype=dtype),
    "scale, tied": lambda dtype: tiny.build("cohere", dtype=dtype),
    "divisor": lambda dtype: tiny.build("granite", dtype=dtype, tie_word_embeddings=False),
    "encoder-decoder, scale": lambda dtype: tiny.build("t5", dtype=dtype),
    "encoder-decoder, bias": lambda dtype: biased(tiny.build("bart", dtype=dtype)),
    "linear with bias": lambda dtype: tiny.from_config(tf.PhiConfig(**PHI), dtype=dtype),
}


ALL = [(name, is_frozen, torch.float64) for name in HEADS for is_frozen in (False, True)]
FLOAT32 = [(name, False, torch.float32) for name in HEADS if not name.startswith("encoder-decoder")]
each_head = pytest.mark.parametrize(("name", "is_frozen", "dtype"), ALL + FLOAT32)


def biased(model: PreTrainedModel) -> PreTrainedModel:
    model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(2))
    return model


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_LOGITS", 3 * tiny.VOCABULARY)


def frozen_head(model: PreTrainedModel, is_frozen: bool) -> PreTrainedModel:
    model.get_output_embeddings().weight.requires_grad_(not is_frozen)
    return model


def learned(batch: Forest) -> list[int]:
    """Places of the learned tokens, found by hand: weight other than 0 and not first of a root."""
    first = {int(batch.start[s]) for s in range(batch.num_segments) if batch.parent[s] < 0}
    return [n for n in range(batch.num_tokens) if batch.weights[n] != 0 and n not in first]


def plain_logits(model: PreTrainedModel, batch: Forest) -> Tensor:
    """The model's own logits that predict each learned token [L, V]."""
    rows: dict[int, Tensor] = {}
    for path in paths(batch):
        index = [i for s in path for i in range(int(batch.start[s]), int(batch.stop[s]))]
        tokens = batch.tokens[index]
        if model.config.is_encoder_decoder:
            root = int(batch.stop[path[0]] - batch.start[path[0]])
            begin = torch.tensor([model.config.decoder_start_token_id])
            after = torch.cat([begin, tokens[root:]])
            logits = model(input_ids=tokens[None, :root], decoder_input_ids=after[None], use_cache=False).logits[0]
            logits = torch.cat([logits.new_zeros(root - 1, logits.shape[1]), logits])
        else:
            logits = model(input_ids=tokens[None], use_cache=False).logits[0]
        for place in range(1, len(index)):
            rows.setdefault(index[place], logits[place - 1])
    return torch.stack([rows[n] for n in learned(batch)])


def plain_logp(model: PreTrainedModel, batch: Forest) -> Tensor:
    return plain_logits(model, batch).log_softmax(-1).gather(1, batch.tokens[learned(batch)][:, None])[:, 0]


def ours(model: PreTrainedModel, batch: Forest) -> ForwardOutput:
    return output(model, find_head(model), batch, "seq2seq" if model.config.is_encoder_decoder else "forest")


def entropy(logits: Tensor) -> Tensor:
    logq = logits.log_softmax(-1)
    return -(logq.exp() * logq).sum(-1)


def divergence(logits: Tensor, other: Tensor) -> Tensor:
    """KL(p || q), [c]."""
    logp, logq = logits.log_softmax(-1), other.log_softmax(-1)
    return (logp.exp() * (logp - logq)).sum(-1)


def compare(model: PreTrainedModel, ours: Callable[[], Tensor], plain: Callable[[], Tensor]) -> None:
    """Values [L, ...] and the gradients of a random linear function of them."""
    results = []
    for side in (ours, plain):
        value = side()
        cotangent = torch.randn(value.shape, generator=torch.Generator().manual_seed(3)).to(value.dtype)
        results.append((value.detach(), gradients(model, (value * cotangent).sum())))
    assert apart(results[0][0], results[1][0]) < CLOSE
    assert gradients_apart(results[0][1], results[1][1]) < CLOSE


@each_head
def test_logp(name: str, is_frozen: bool, dtype: torch.dtype) -> None:
    model, batch = frozen_head(HEADS[name](dtype), is_frozen), forest()
    compare(model, lambda: ours(model, batch).logp(), lambda: plain_logp(model, batch))


@each_head
def test_one_pass_linear_loss(name: str, is_frozen: bool, dtype: torch.dtype) -> None:
    model, batch = frozen_head(HEADS[name](dtype), is_frozen), forest()
    by = torch.randn(len(learned(batch)), generator=torch.Generator().manual_seed(9))  # of both signs
    compare(
        model,
        lambda: ours(model, batch).linear_loss(by)[0],
        lambda: -(by * plain_logp(model, batch)).sum(),
    )
    total, logp = ours(model, batch).linear_loss(by)
    assert apart(logp, plain_logp(model, batch)) < CLOSE
    assert not logp.requires_grad
    with torch.no_grad():
        assert apart(ours(model, batch).linear_loss(by)[0], total) < CLOSE


@each_head
def test_over_vocab(name: str, is_frozen: bool, dtype: torch.dtype) -> None:
    """Entropy, and a distillation from targets given as rows, side by side as [L, 2]."""
    model, batch = frozen_head(HEADS[name](dtype), is_frozen), forest()
    teacher = torch.randn(len(learned(batch)), tiny.VOCABULARY, generator=torch.Generator().manual_seed(4)).softmax(-1)

    def both(logits: Tensor, wanted: Tensor) -> Tensor:
        return torch.stack([entropy(logits), -(wanted * logits.log_softmax(-1)).sum(-1)], -1)

    compare(
        model,
        lambda: ours(model, batch).over_vocab(both, teacher),
        lambda: both(plain_logits(model, batch), teacher),
    )


def test_over_vocab_of_two_outputs_and_of_rows_with_gradients() -> None:
    """KL to another model, gradients into both; a tensor of rows gets its gradient too."""
    pair = torch.nn.ModuleList([tiny.build("gemma2"), tiny.build("cohere", seed=1)])
    batch = forest()
    scale = (torch.arange(len(learned(batch))) % 5 - 1.5).requires_grad_()

    def weighted(logits: Tensor, other: Tensor, rows: Tensor) -> Tensor:
        return divergence(logits, other) * rows

    def found() -> Tensor:
        return ours(pair[0], batch).over_vocab(weighted, ours(pair[1], batch), scale)

    def wanted() -> Tensor:
        return weighted(plain_logits(pair[0], batch), plain_logits(pair[1], batch), scale)

    compare(pair, found, wanted)  # type: ignore[arg-type]
    got, expected = (torch.autograd.grad(side().sum(), scale)[0] for side in (found, wanted))
    assert apart(got, expected) < CLOSE
    with pytest.raises(ValueError, match="rows"):
        ours(pair[0], batch).over_vocab(weighted, scale[:-1])


def test_select_puts_twins_side_by_side() -> None:
    """R-Drop: the same tokens as two roots' children; the symmetric KL between twins."""
    model = tiny.build("qwen2")
    batch = forest((6, 4, 3, 4), (-1, 0, -1, 2))
    rows = plain_logits(model, batch)
    first, second = torch.arange(4), torch.arange(4, 8)

    def found() -> Tensor:
        whole = ours(model, batch)
        return whole.select(first).over_vocab(divergence, whole.select(second))

    compare(model, found, lambda: divergence(plain_logits(model, batch)[first], plain_logits(model, batch)[second]))
    assert apart(ours(model, batch).select(second).logp(), plain_logp(model, batch)[second]) < CLOSE
    assert len(rows) == 8


def test_positions_and_segments() -> None:
    """By hand. Segments: root 0 1 2, child 3 4, root 5 6 (first learned), child of the child 7, child of root 8 9."""
    batch = forest((3, 2, 2, 1, 2), (-1, 0, -1, 1, 0))
    weights = torch.tensor([1.0, 0, 0, 1, 0, 5, 2, 3, -1, 0])
    model = tiny.build("llama")
    found = ours(model, replace(batch, weights=weights))
    assert found.at.tolist() == [2, 5, 4, 2]
    assert found.target.tolist() == batch.tokens[[3, 6, 7, 8]].tolist()
    assert found.weight.tolist() == [
        1,
        2,
        3,
        -1,
    ]  # a negative weight is learned, too
    assert found.segment.tolist() == [1, 2, 3, 4]
    also = torch.zeros(10, dtype=torch.bool)
    also[[0, 2, 9]] = True
    found = output(model, find_head(model), replace(batch, weights=weights), "forest", also=also)
    assert found.at.tolist() == [1, 2, 5, 4, 2, 8]
    assert found.weight.tolist() == [0, 1, 2, 3, -1, 0]


def test_a_child_is_not_predicted_from_its_neighbour() -> None:
    """The mutant of the line above: the token that stands before in the flat run predicts something else."""
    model, batch = tiny.build("llama"), forest()
    found = ours(model, batch)
    wrong = replace(found, at=torch.tensor(learned(batch)) - 1)
    assert apart(found.logp(), plain_logp(model, batch)) < CLOSE
    assert apart(wrong.logp(), plain_logp(model, batch)) > 1e-2


def test_pooled() -> None:
    model, batch = tiny.build("llama"), forest()
    found = ours(model, batch)
    rows = [found.hidden[int(a) : int(b)] for a, b in zip(batch.start, batch.stop)]
    for how, plain in (("first", lambda r: r[0]), ("last", lambda r: r[-1]), ("mean", lambda r: r.mean(0))):
        assert apart(found.pooled(how), torch.stack([plain(r) for r in rows])) < 1e-6
    compare(model, lambda: ours(model, batch).pooled("mean"), lambda: plain_mean(model, batch))


def plain_mean(model: PreTrainedModel, batch: Forest) -> Tensor:
    found = ours(model, batch)
    return torch.stack([found.hidden[int(a) : int(b)].mean(0) for a, b in zip(batch.start, batch.stop)])


def test_nothing_learned() -> None:
    model, batch = tiny.build("llama"), forest()
    found = ours(model, replace(batch, weights=torch.zeros(batch.num_tokens)))
    assert found.logp().shape == (0,)
    assert found.over_vocab(lambda z: z[:, :2]).shape == (0, 2)
    total, _ = found.linear_loss(torch.empty(0))
    total.backward()
    assert float(total.detach()) == 0


# The head follows the model.


def lora_on_head(**more: Any) -> PreTrainedModel:
    model = tiny.build("llama")
    lora = LoraConfig(r=2, init_lora_weights=False, **more)
    inject_adapter_in_model(lora, model)
    return model


@pytest.mark.parametrize(
    "adapter",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"]},
    ],
)
def test_head_with_adapter(adapter: dict[str, Any]) -> None:
    model, batch = lora_on_head(**adapter), forest()
    head = find_head(model)
    compare(
        model,
        lambda: output(model, head, batch, "forest").logp(),
        lambda: plain_logp(model, batch),
    )


def test_head_found_before_the_adapter_follows_it() -> None:
    model, batch = tiny.build("llama"), forest()
    head = find_head(model)
    inject_adapter_in_model(LoraConfig(r=2, init_lora_weights=False, target_modules=["lm_head"]), model)
    assert apart(output(model, head, batch, "forest").logp(), plain_logp(model, batch)) < CLOSE


@pytest.mark.parametrize(
    ("name", "mutant"), [("gemma2", {"softcap": None}), ("cohere", {"scale": 1.0}), ("granite", {"scale": 1.0})]
)
def test_the_law_sees_a_head_without_its_scale_or_cap(name: str, mutant: dict[str, Any]) -> None:
    model, batch = tiny.build(name), forest()
    wrong = replace(find_head(model), **mutant)
    assert apart(output(model, wrong, batch, "forest").logp(), plain_logp(model, batch)) > 1e-2
