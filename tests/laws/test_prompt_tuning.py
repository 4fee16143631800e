"""Prompt tuning: tokens of a forest that stand before every root give what peft gives, whatever shares the batch, and
the base does not see them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from tests import tiny
from tests.laws.cases import forest as tree
from tests.laws.sessions import base_of, gradient, largest, moved, records
from tests.runs import tiny_runs
from tests.runs.test_run import StopAfter

from tunesmith.build import compute, load_base
from tunesmith.data.pack import forest
from tunesmith.deliver import deliver
from tunesmith.engine import learner
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot, Spec
from tunesmith.errors import Interrupted, PlanError
from tunesmith.folder import Silent
from tunesmith.generate.limits import Limits
from tunesmith.models import artifact
from tunesmith.models.adapters import Adapt, check_adapt
from tunesmith.models.artifact import read_weights
from tunesmith.models.before import Prefix, Prompted
from tunesmith.models.prompts import NETWORK, ROWS, begun
from tunesmith.opened import open_run
from tunesmith.recipe import parse
from tunesmith.regularisers.kl import KLToBase
from tunesmith.room import num_trained
from tunesmith.run import run
from tunesmith.types import Message

ADAPT = Adapt("peft", peft="prompt_tuning", options={"num_virtual_tokens": 5})
PREFIX = Adapt("peft", peft="prefix_tuning", options={"num_virtual_tokens": 5})
P_TUNING = Adapt("peft", peft="p_tuning", options={"num_virtual_tokens": 5, "encoder_hidden_size": 24})
QUIET = {"gpt2": {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}}  # its own dropout is not cut-free
PROMPT = [7, 21, 9, 40, 33, 12]


def test_where_the_tokens_stand() -> None:
    """Two roots of 2 and 1 tokens, the first with a child of 2; by hand."""
    batch = tree((2, 2, 1), (-1, 0, -1))
    found = begun(batch, (61, 62, 63))
    a, b, c, d, e = batch.tokens.tolist()
    assert found.tokens.tolist() == [61, 62, 63, a, b, c, d, 61, 62, 63, e]
    assert found.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3]
    assert found.start.tolist() == [0, 5, 7]
    assert found.stop.tolist() == [5, 7, 11]
    assert found.weights.nonzero()[:, 0].tolist() == [5, 6]
    assert torch.equal(found.weights[5:7], batch.weights[2:4])
    assert found.parent is batch.parent
    assert begun(batch, ()) is batch


@pytest.mark.parametrize(
    ("adapt", "name"),
    [(ADAPT, name) for name in ("llama", "gemma3", "qwen3", "gpt2", "falcon")]
    + [(P_TUNING, name) for name in ("llama", "gpt2")]
    + [(PREFIX, name) for name in ("llama", "gemma2", "gemma3", "qwen3", "qwen3_moe", "smollm3", "gpt2", "gpt_oss")],
    ids=lambda given: given if isinstance(given, str) else given.peft,
)
def test_it_gives_what_peft_gives(adapt: Adapt, name: str, tmp_path: Path) -> None:
    """Logits and greedy answers of what is saved; an update may be cut; the base keeps every bit."""
    base, rows = base_of(name, **QUIET.get(name, {})), records(6)
    before = {n: p.clone() for n, p in base.model.named_parameters()}
    wanted = Session(base).logprobs(None, [forest(rows)])[0]
    check_adapt(adapt, base.model, base.probe)
    session = Session(base)
    session.create("t", Spec(adapt, seed=3))
    masters = session.tenants["t"].masters
    first = f"{NETWORK}embedding.weight" if adapt is P_TUNING else ROWS
    assert set(masters) == {first, *((f"{NETWORK}mlp_head.{k}.{n}" for k in (0, 2, 4) for n in ("weight", "bias"))
                                     if adapt is P_TUNING else ())}  # fmt: skip
    moved(session, "t")
    assert torch.equal(session.logprobs(None, [forest(rows)])[0], wanted)
    tuned = session.logprobs("t", [forest(rows)])[0]
    assert float((tuned - wanted).abs().max()) > 1e-2
    whole = gradient(session, "t", [forest(rows)])
    assert largest(whole, gradient(session, "t", [forest(part) for part in (rows[:1], rows[1:4], rows[4:])])) < 1e-5
    assert bool(whole[first].any(1).all())  # every row has a gradient
    assert all(bool(g.any()) for g in whole.values())
    said = session.next_logits("t", PROMPT)
    [answer] = session.sample("t", [PROMPT], Limits(6, (2,)), decode=str)
    session.export("t", tmp_path)
    kept = read_weights(tmp_path, list(masters), base.digest)
    assert all(torch.equal(kept[n], t) for n, t in masters.items())
    session.close()
    assert not isinstance(base.model.get_input_embeddings(), Prompted)
    now = dict(base.model.named_parameters())
    assert now.keys() == before.keys()
    assert all(torch.equal(p, now[n]) for n, p in before.items())
    opened: Any = PeftModel.from_pretrained(tiny.build(name), str(tmp_path)).eval()
    tokens = torch.tensor([PROMPT])
    with torch.no_grad():
        assert float((opened(input_ids=tokens).logits[0, -1] - said).abs().max()) < 1e-4
        out = opened.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=6, do_sample=False,
            eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
    assert tuple(out[0, len(PROMPT) :].tolist()) == answer.tokens


@pytest.mark.parametrize("adapt", [ADAPT, PREFIX], ids=["prompt", "prefix"])
def test_a_forest_is_its_rows_one_by_one(adapt: Adapt, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are answered, a prompt by the model's own attention. The mutant leaves the positions as they were."""
    base = base_of()
    session = Session(base)
    session.create("t", Spec(adapt))
    [logp] = session.logprobs("t", [forest(records(4))])
    alone = torch.cat([session.logprobs("t", [forest([r])])[0] for r in records(4)])
    assert float((logp.sort().values - alone.sort().values).abs().max()) < 1e-5
    record = records(1)[0]
    tokens = record.segments[0].tokens.tolist()
    last = session.next_logits("t", tokens[:-1]).log_softmax(-1)[tokens[-1]]
    assert float(session.logprobs("t", [forest([record])])[0][-1] - last) == pytest.approx(0, abs=1e-5)

    def wrong(batch: Any, ids: Any) -> Any:
        found = begun(batch, ids)
        found.positions.sub_(len(ids)).clamp_(min=0)
        return found

    monkeypatch.setattr(learner, "begun", wrong)
    assert abs(float(session.logprobs("t", [forest([record])])[0][-1] - last)) > 1e-3


@pytest.mark.parametrize("adapt", [ADAPT, PREFIX, P_TUNING], ids=["prompt", "prefix", "p-tuning"])
def test_layers_that_run_again_learn_the_same(adapt: Adapt) -> None:
    """Also behind a forward pass of the base, which has nothing before its sequences."""
    found = []
    for checkpointing in (False, True):
        session = Session(base_of(), checkpointing=checkpointing)
        session.create("t", Spec(adapt, seed=3, regularisers=(KLToBase(0.5),)))
        moved(session, "t")
        found.append(gradient(session, "t", [forest(records(6))]))
        assert num_trained(session.base.model, adapt) == sum(t.numel() for t in session.tenants["t"].masters.values())
    assert largest(*found) < 1e-6


def test_mutant_rows_of_another_network_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What peft reads are the rows that the trained network makes, and not those with which it began."""
    monkeypatch.setattr(artifact, "rows_of", lambda model: torch.randn(5, model.config.hidden_size))
    with pytest.raises(AssertionError):
        test_it_gives_what_peft_gives(P_TUNING, "llama", tmp_path)


def test_in_bf16_the_rows_that_answered_leave(tmp_path: Path) -> None:
    """A network in float32 makes others of the same weights, by more than an export may differ."""
    base = base_of()
    base.model.to(torch.bfloat16)
    session = Session(base)
    session.create("t", Spec(P_TUNING))
    moved(session, "t")
    session.export("t", tmp_path)
    rows = load_file(tmp_path / "adapter_model.safetensors")[ROWS].float()
    with session.borrowed("t") as model, torch.no_grad():
        prompted: Any = model.get_input_embeddings()
        assert torch.equal(prompted.made().float(), rows)
        assert not torch.equal(prompted.network.float()(torch.arange(5)), rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mutant_a_prefix_that_one_layer_lacks_is_found(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in 16 bits, where the trial allows for rounding."""
    base = base_of()
    base.model.to(dtype)
    check_adapt(PREFIX, base.model, base.probe)
    right = Prefix.into
    monkeypatch.setattr(Prefix, "into", lambda self, layer, k, v: (k, v) if layer else right(self, layer, k, v))
    with pytest.raises(PlanError, match="other hidden states here than by peft"):
        check_adapt(PREFIX, base.model, base.probe)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("falcon", "runs in the padded layout"),
        ("deepseek_v3", "not as peft makes them"),
        ("mpt", "peft does not know"),
        ("opt", "not as peft makes them"),
    ],
)
def test_models_without_a_place_for_a_prefix(name: str, reason: str) -> None:
    base = base_of(name)
    with pytest.raises(PlanError, match=reason):
        check_adapt(PREFIX, base.model, base.probe)
    assert not isinstance(base.model.get_input_embeddings(), Prompted)


def test_other_starts_and_refusals() -> None:
    base = base_of()
    check_adapt(Adapt("peft", peft="prefix_tuning", options={"init_weights": "zero"}), base.model, base.probe)
    noise = Adapt("peft", peft="prompt_tuning", options={"prompt_tuning_init": "RANDOM"})
    check_adapt(noise, base.model, base.probe)
    for options, reason in (
        ({"num_virtual_tokens": 0}, "above 0"), ({"prompt_tuning_init": "TEXT"}, "SAMPLE_VOCAB or RANDOM"),
        ({"num_tokens": 3}, "prompt_tuning takes num_virtual_tokens"),
    ):  # fmt: skip
        with pytest.raises(PlanError, match=reason):
            check_adapt(Adapt("peft", peft="prompt_tuning", options=options), base.model, base.probe)
    for option, value in (("encoder_hidden_size", 0), ("encoder_reparameterization_type", "LSTM")):
        with pytest.raises(PlanError, match=option):
            check_adapt(Adapt("peft", peft="p_tuning", options={option: value}), base.model, base.probe)
    for option, value in (("prefix_projection", True), ("init_weights", "ones")):
        with pytest.raises(PlanError, match=option):
            check_adapt(Adapt("peft", peft="prefix_tuning", options={option: value}), base.model, base.probe)


def test_its_rows_take_room_of_the_context(tmp_path: Path) -> None:
    """GPT-2 has no position behind the last, so an example of all of them would end in an IndexError."""
    tiny_runs.model_folder(tmp_path / "model", "gpt2")
    settings = settings_of(tmp_path)
    settings["data"]["max_tokens"] = 125
    recipe = parse(settings)
    with pytest.raises(PlanError, match=r"124 tokens beside the 4 of its tuned prompt.*num_virtual_tokens"):
        load_base(recipe, compute(recipe))
    settings["data"]["max_tokens"] = 124
    recipe = parse(settings)
    base = load_base(recipe, compute(recipe))
    assert base.context_tokens == 124
    session = Session(base)
    session.create("t", Spec(recipe.adapt))
    assert len(session.next_logits("t", [5] * 124)) > 0
    with pytest.raises(IndexError):
        session.next_logits("t", [5] * 125)
    assert (Adapt("peft", peft="prompt_tuning").num_before, Adapt().num_before) == (20, 0)


def settings_of(folder: Path, **more: Any) -> dict[str, Any]:
    settings = tiny_runs.settings(folder / "model", tiny_runs.reply_file(folder / "rows.jsonl"), lr=0.05, watch=1)
    settings["adapt"] = {"method": "peft", "peft": "prompt_tuning", "options": {"num_virtual_tokens": 4}}
    settings["export"] = ["adapter"]
    settings["evals"] |= {"max_cases": 4, "few_shot": 0}
    return settings | more


def do(settings: dict[str, Any], out: Path, tell: Any = None, *, resume: bool = False) -> None:
    run(parse(settings), yaml.safe_dump(settings), out, tell or Silent(), resume=resume)


@pytest.mark.parametrize("name", ["prompt_tuning", "prefix_tuning", "p_tuning"])
def test_a_run(name: str, tmp_path: Path) -> None:
    """Rehearsed, stopped, gone on with, opened by plain peft, and opened as a run; no merged model can be made."""
    tiny_runs.model_folder(tmp_path / "model")
    settings = settings_of(tmp_path)
    settings["adapt"]["peft"] = name
    settings["train"] |= {"rehearsal": True, "max_updates": 4}
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        do(settings, out, StopAfter(2))
    do(settings, out, resume=True)
    assert json.loads((out / "export.json").read_text())["adapter"]["same_text"]
    stored = load_file(out / "adapter" / "adapter_model.safetensors")
    opened = open_run(out)
    tuned = opened.who("tuned")
    assert isinstance(tuned, Snapshot)
    assert all(torch.equal(t, stored[n]) for n, t in tuned.values.items())
    asked = [[Message("user", "fox 3: what is it?")]]
    assert opened.complete("tuned", asked)[0].logp != opened.complete("base", asked)[0].logp
    with pytest.raises(PlanError, match="--to adapter"):
        deliver(out, "merged", tmp_path / "merged", "f16", Silent())


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"export": ["adapter", "merged"]}, "no weights of the model"),
        ({"regularise": {"neftune": 5}}, "no noise for"),
        ({"adapt": {"method": "peft", "peft": "prompt_tuning", "targets": ["q_proj"]}}, "leave adapt.targets out"),
        ({"adapt": {"method": "peft", "peft": "prompt_tuning", "context": {"tokens": 4096}}}, "do not train"),
        ({"adapt": {"method": "peft", "peft": "prefix_tuning"}, "train": {"compile": True}}, "between their steps"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_it_is_refused(tmp_path: Path, more: dict[str, Any], reason: str) -> None:
    tiny_runs.model_folder(tmp_path / "model")
    with pytest.raises(PlanError, match=reason):
        do(settings_of(tmp_path, **more), tmp_path / "out")
