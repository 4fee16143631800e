"""A base in 4 or 8 bits: what the codes stand for, the product with them, and that its tenant is what leaves the run.

The base that is asked by itself is the one in the files, to the last bit. Mutants: the magnitudes of the blocks
dropped, the whole weight kept for the backward, the adapter opened on the base as it is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.laws.sessions import gradient, gradient_step, largest, records
from tests.laws.test_seq2seq import records as seq2seq_records
from tests.runs import tiny_runs
from tests.unit.engine.test_traced_update import SHAPE, allocated
from torch import Tensor, nn

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.engine.traced_update import trace_update
from tunesmith.errors import ModelError, PlanError, RecipeError
from tunesmith.export.verify import difference, expect, on_whole_base, verify
from tunesmith.export.write import Serving, open_adapter, open_model, write_merged
from tunesmith.generate.limits import Limits
from tunesmith.models import blockwise
from tunesmith.models.adapters import Adapt
from tunesmith.models.blockwise import BLOCK, NF4, Quantised, dequantise, quantise, quantised
from tunesmith.models.here import MEMORY
from tunesmith.models.load import Base, load
from tunesmith.models.moved import moved as layers_moved
from tunesmith.objectives.sft import SFT
from tunesmith.recipe import parse
from tunesmith.room import GIB, need, num_trained

LORA = Adapt("lora", rank=4, alpha=8, base_bits=4)
KINDS = {
    "lora": LORA, "rslora": replace(LORA, rslora=True), "dora": replace(LORA, dora=True),
    "8 bits": replace(LORA, base_bits=8), "dropout": replace(LORA, dropout=0.2),
}  # fmt: skip
LARGEST_GAP = {4: (NF4[1] - NF4[0]) / 2, 8: 1 / 254}  # of what a block is multiplied with


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.model_folder(tmp_path_factory.mktemp("model"))


def layer_of(weight: Tensor, bits: int, bias: Tensor | None = None) -> Quantised:
    frozen = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return Quantised(*quantise(weight, bits), weight.shape, weight.dtype, frozen)


def back(weight: Tensor, bits: int) -> Tensor:
    return dequantise(*quantise(weight, bits), weight.shape, weight.dtype)


def test_nf4_by_hand() -> None:
    """A block whose largest magnitude is 2: of each value over 2 the nearest of the 16 numbers."""
    weight = torch.zeros(2, 35)  # 70 values: a second block of 6, which is filled up
    weight[0, :8] = torch.tensor([2.0, -2.0, 0.0, 1.0, 0.5, -1.0, 0.1, -0.3])
    weight[1, -1] = -4.0
    codes, scales = quantise(weight, 4)
    assert codes[0, :5].tolist() == [0xF0, 0x7C, 0xA2, 0x85, 0x77]  # the first of two values has the upper half
    assert codes[1, :3].tolist() == [0x77, 0x77, 0x70]
    assert scales.tolist() == [2.0, 4.0]
    wanted = [2.0, -2.0, 0.0, 0.88141966, 0.49222460, -1.05014610, 0.15916060, -0.36954686]
    assert torch.allclose(back(weight, 4)[0, :8], torch.tensor(wanted), atol=1e-6)
    assert back(weight, 4)[1, -1] == -4
    assert torch.equal(back(torch.zeros(3, 5), 4), torch.zeros(3, 5))


def test_8_bits_by_hand() -> None:
    weight = torch.tensor([[2.0, -0.3, 0.01]])
    codes, scales = quantise(weight, 8)
    assert codes[0, :3].tolist() == [127, -19, 1]  # 0.3 / 2 * 127 = 19.05, 0.01 / 2 * 127 = 0.6
    assert torch.allclose(back(weight, 8), torch.tensor([[2.0, -38 / 127, 2 / 127]]))
    assert scales.tolist() == pytest.approx([2 / 127])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(64, 96), (7, 13), (1, 1), (33, 64)])
def test_no_value_is_further_off_than_half_a_gap(bits: int, shape: tuple[int, int]) -> None:
    """Of its own block's magnitude, which is why one outlier costs 64 values and no more."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, shape[0])[:, None]

    def blocks(values: Tensor) -> Tensor:
        flat = values.flatten()
        return nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)

    most = blocks(weight).abs().amax(1, keepdim=True) * (LARGEST_GAP[bits] + 1e-6)
    assert (blocks(weight - back(weight, bits)).abs() <= most).all()
    assert torch.equal(back(back(weight, bits), bits), back(weight, bits)) or bits == 8  # the numbers are kept
    codes, scales = quantise(weight, bits)
    mutant = dequantise(codes, torch.ones_like(scales), weight.shape, weight.dtype)
    assert weight.numel() == 1 or not (blocks(weight - mutant).abs() <= most).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_product_is_that_with_the_dequantised_weight(
    bits: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward to the bit, gradient to a millionth. A mutant whose blocks all have one magnitude differs in both."""
    torch.manual_seed(0)
    weight, bias = torch.randn(40, 96) * torch.rand(40, 1), torch.randn(40) if with_bias else None
    layer, whole = layer_of(weight, bits, bias), back(weight, bits)
    x, by = torch.randn(2, 5, 96), torch.randn(2, 5, 40)

    def learned(product: Any) -> tuple[Tensor, Tensor]:
        given = x.clone().requires_grad_()
        out = product(given)
        (out * by).sum().backward()
        return out.detach(), given.grad  # type: ignore[return-value]

    wanted, wanted_grad = learned(lambda given: nn.functional.linear(given, whole, bias))
    found, grad = learned(layer)
    assert torch.equal(found, wanted)
    assert float((grad - wanted_grad).abs().max() / wanted_grad.abs().max()) < 1e-6
    right = blockwise.dequantise
    monkeypatch.setattr(blockwise, "dequantise", lambda c, s, *rest: right(c, torch.ones_like(s), *rest))
    found, grad = learned(layer)
    assert float((found - wanted).abs().max()) > 0.1
    assert float((grad - wanted_grad).abs().max() / wanted_grad.abs().max()) > 0.1


@pytest.mark.parametrize(("bits", "share"), [(4, 4.5 / 16), (8, 8.5 / 16)])
def test_what_is_stored(bits: int, share: float, folder: Path) -> None:
    whole, held = load(str(folder)), load(str(folder), bits=bits)
    layers = quantised(held.model)
    num = sum(layer.shape.numel() for layer in layers.values())
    assert sum(layer.num_bytes for layer in layers.values()) == pytest.approx(2 * num * share, rel=0.02)
    assert {n.rpartition(".")[2] for n in layers} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    }  # fmt: skip
    assert held.num_weights == whole.num_weights == num + sum(p.numel() for p in held.model.parameters())
    same = [num_trained(b.model, replace(LORA, base_bits=n)) for b, n in ((held, bits), (whole, None))]
    assert same[0] == same[1]
    least = [need(b.model, replace(LORA, base_bits=n), 8).export_gib * GIB for b, n in ((held, bits), (whole, None))]
    assert least[1] - least[0] == pytest.approx(num * (4 - 2 * share), rel=0.02)
    assert held.digest == whole.digest


def kept_of(product: Any, x: Tensor) -> list[torch.Size]:
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        product(x)
    return kept


def test_the_whole_weight_is_not_kept_for_the_backward() -> None:
    """The mutant, autograd's own product with the dequantised weight, keeps it."""
    layer, x = layer_of(torch.randn(40, 96), 4), torch.randn(5, 96, requires_grad=True)
    assert kept_of(layer, x) == []
    mutant = kept_of(lambda x: nn.functional.linear(x, layer.weight), x)
    assert layer.shape in mutant or layer.shape[::-1] in mutant


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Base, Base]:
    """Held in 4 bits, and as it is; of a size at which layers outweigh what else there is."""
    folder = str(tiny_runs.model_folder(tmp_path_factory.mktemp("larger"), **SHAPE))
    return load(folder, bits=4), load(folder)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "again"])
def test_the_plan_counts_what_is_made_whole(checkpointing: bool, larger: tuple[Base, Base]) -> None:
    """On a twin whose layers are held so too; that of the base as it is, the mutant, is below."""
    held, whole = larger
    batch = forest(records(4))
    found = trace_update(held, Spec(LORA), [batch], SFT(), checkpointing=checkpointing).peak
    session = Session(held, checkpointing=checkpointing)
    session.create("t", Spec(LORA))
    taken = allocated(session, batch)
    session.close()
    assert found == pytest.approx(taken, rel=0.05)
    mutant = trace_update(whole, Spec(replace(LORA, base_bits=None)), [batch], SFT(), checkpointing=checkpointing).peak
    assert mutant < 0.95 * taken


@pytest.mark.parametrize(
    ("family", "stored", "run"),
    [
        ("llama", torch.float32, torch.float32), ("llama", torch.bfloat16, torch.float32),
        ("llama", torch.float32, torch.bfloat16), ("gemma3", torch.bfloat16, torch.float32),
    ],
)  # fmt: skip
def test_the_base_itself_is_the_one_in_the_files(
    family: str, stored: torch.dtype, run: torch.dtype, tmp_path: Path
) -> None:
    """To the last bit, before, between and after its tenants. The mutant, the rounded base, is what a tenant is at its
    start. Gemma has a number that is in no file, and that is rounded as the model is opened."""
    model = load(str(tiny_runs.model_folder(tmp_path / "model", family))).model
    model.to(stored).save_pretrained(tmp_path / "model")
    batch = forest(records(6))
    whole, held = (load(str(tmp_path / "model"), run, bits=bits) for bits in (None, 4))
    wanted = Session(whole).logprobs(None, [batch])[0]
    session = Session(held)
    session.create("t", Spec(LORA))
    assert torch.equal(session.logprobs(None, [batch])[0], wanted)
    assert not torch.equal(session.logprobs("t", [batch])[0], wanted)
    assert torch.equal(session.logprobs(None, [batch])[0], wanted)
    others = {n: p for n, p in whole.model.named_parameters() if "proj" not in n}
    assert all(torch.equal(p, held.model.get_parameter(n)) for n, p in others.items())
    session.close()
    assert torch.equal(Session(held).logprobs(None, [batch])[0], wanted)
    assert {p.dtype for p in held.model.parameters()} == {run}


def rounded(base: Base, held: Base) -> Base:
    """The base as it is, of which each layer's weight is what its codes stand for."""
    with torch.no_grad():
        for name, layer in quantised(held.model).items():
            base.model.get_submodule(name).weight.copy_(layer.weight)  # type: ignore[union-attr,operator]
    return base


@pytest.mark.parametrize("kind", KINDS)
def test_a_tenant_is_one_on_the_dequantised_weights(kind: str, folder: Path) -> None:
    """Its gradients are those on plain layers with these weights, but for rounding (there LoRA is added within the
    product), however an update is cut; after a few steps too."""
    adapt, rows = KINDS[kind], records()
    bits = adapt.base_bits
    assert bits is not None
    held = load(str(folder), bits=bits)
    session, plain = Session(held), Session(rounded(load(str(folder)), held))
    session.create("t", Spec(adapt))
    plain.create("t", Spec(replace(adapt, base_bits=None)))
    for _ in range(3):
        found, wanted = (gradient(s, "t", [forest(rows)]) for s in (session, plain))
        assert largest(found, wanted) < 1e-5
        for s in (session, plain):
            gradient_step(s, "t", [forest(rows[:5])])
    assert largest(found, gradient(session, "t", [forest(rows)])) > 1e-3  # it has moved
    whole = gradient(session, "t", [forest(rows)])
    assert largest(whole, gradient(session, "t", [forest(rows[:3]), forest(rows[3:])])) < 1e-5
    tenant = session.tenants["t"]
    found_moved, wanted_moved = (
        [m.relative for m in layers_moved(s.base.model, s.tenants["t"].slot, tenant.masters)] for s in (session, plain)
    )
    assert found_moved == pytest.approx(wanted_moved)


@pytest.mark.parametrize(
    ("family", "kind"), [("llama", "lora"), ("llama", "dora"), ("llama", "8 bits"), ("mixtral", "lora"), ("t5", "lora")]
)
def test_what_leaves_is_what_was_measured(family: str, kind: str, tmp_path: Path) -> None:
    """Plain transformers and peft, on the base rounded by its files; the mutant opens it on the base as it is."""
    base = load(str(tiny_runs.model_folder(tmp_path / "model", family)), bits=KINDS[kind].base_bits)
    session, rows = Session(base), seq2seq_records() if family == "t5" else records()
    session.create("t", Spec(KINDS[kind]))
    for _ in range(3):
        gradient_step(session, "t", [forest(rows[:4])])
    prompts = [r.segments[0].tokens[:12].tolist() for r in rows[:2]]
    expected = expect(session, session.publish("t"), prompts, Limits(4, (2,)))
    session.export("t", tmp_path / "adapter")
    opened = open_adapter(tmp_path / "model", tmp_path / "adapter", torch.float32)
    assert verify("adapter", opened, expected)["logit_diff"] < 1e-5
    apart = on_whole_base(opened, expected)["whole_base_diff"]
    assert apart > (1e-2 if KINDS[kind].base_bits == 4 else 1e-3)
    plain = PeftModel.from_pretrained(open_model(tmp_path / "model", torch.float32), str(tmp_path / "adapter"))
    on_plain = [difference(plain.eval(), p, v) for p, v in zip(expected.prompts, expected.logits)]
    assert max(on_plain) == pytest.approx(apart, rel=1e-4)
    assert verify("adapter", opened, expected)["logit_diff"] < 1e-5  # it is held as before
    whole = open_adapter(tmp_path / "model", tmp_path / "adapter", torch.float32, to_merge=True)
    assert verify("adapter", whole, expected)["logit_diff"] < 1e-5
    merged = write_merged(whole, Serving(base.tokenizer, "{{ messages }}", (2,), 4), tmp_path / "merged")
    assert verify("merged model", open_model(merged, torch.float32), expected)["logit_diff"] < 1e-5
    if kind != "8 bits" and family == "llama":
        again = Session(load(str(tmp_path / "model"), bits=4))
        again.create_from("t", tmp_path / "adapter")
        assert torch.equal(again.next_logits("t", prompts[0]), expected.logits[0])
        with pytest.raises(PlanError, match=r"Say adapt\.base_bits: 4"):
            Session(load(str(tmp_path / "model"))).create_from("t", tmp_path / "adapter")


def test_it_goes_on_to_the_same_bits(folder: Path) -> None:
    rows = records()

    def begun() -> Session:
        session = Session(load(str(folder), bits=4))
        session.create("t", Spec(KINDS["dropout"]))
        return session

    whole = begun()
    for i in range(4):
        gradient_step(whole, "t", [forest(rows[i:])])
    first, second = begun(), begun()
    for i in range(2):
        gradient_step(first, "t", [forest(rows[i:])])
    second.load_state("t", *first.save_state("t"))
    for i in range(2, 4):
        gradient_step(second, "t", [forest(rows[i:])])
    masters = (s.tenants["t"].masters for s in (whole, second))
    assert all(torch.equal(a, b) for a, b in zip(*(m.values() for m in masters)))


def test_what_cannot_be_held_or_tuned_so_is_refused(folder: Path, tmp_path: Path) -> None:
    for adapt in ({"method": "full"}, {"method": "last_k"}, {"method": "ia3"}, {"method": "named", "names": ["*"]}):
        with pytest.raises(PlanError, match=rf"adapt\.method is {adapt['method']}\. Use adapt\.method: lora"):
            parse({"adapt": adapt | {"base_bits": 4}})
    with pytest.raises(RecipeError, match=r"adapt\.base_bits is 3; wanted 4 or 8"):
        parse({"adapt": {"base_bits": 3}})
    session = Session(load(str(folder), bits=8))
    with pytest.raises(PlanError, match="held in 4 bits, and this one is held in 8 bits"):
        session.create("t", Spec(LORA))
    with pytest.raises(PlanError, match="no plain linear layer"):
        load(str(tiny_runs.model_folder(tmp_path / "gpt2", "gpt2")), bits=4)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "tunesmith.json").write_text('{"base_bits": 5}')
    with pytest.raises(ModelError, match="held in 5 bits"):
        open_adapter(folder, tmp_path / "adapter", torch.float32)


@pytest.mark.parametrize(("bits", "said"), [(None, "as float32 take [^l]"), (4, "in 4 bits take at least")])
def test_what_has_no_room_is_told_a_way_that_is_not_taken_already(
    bits: int | None, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MEMORY, "1e-9")
    with pytest.raises(PlanError, match=said) as refused:
        load(str(folder), bits=bits)
    assert ("adapt.base_bits=4" in str(refused.value)) == (bits is None)


def test_other_weights_than_in_the_files_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where transformers puts a layer together of several tensors: the base could not be read from the files."""
    read = blockwise.OwnWeights.read
    monkeypatch.setattr(blockwise.OwnWeights, "read", lambda self, layer: read(self, layer).flip(0))
    with pytest.raises(PlanError, match="is put together when it is loaded"):
        load(str(folder), bits=4)
