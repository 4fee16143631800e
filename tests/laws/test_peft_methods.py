"""Methods of peft by their names: they begin at the base, an update may be cut, and what is saved opens in plain peft.

What cannot be had so is refused with its reason. The mutants are methods that do not begin at the base, or that mix the
tokens of a batch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.laws.sessions import base_of, gradient, largest, moved, records
from torch import Tensor, nn

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import PlanError
from tunesmith.models.adapters import Adapt, check_adapt
from tunesmith.models.artifact import read_weights
from tunesmith.models.load import Base
from tunesmith.models.peft_methods import known_methods

METHODS: dict[str, Adapt] = {
    "ia3": Adapt("ia3"),
    "ia3 on named layers": Adapt("ia3", targets=("q_proj", "up_proj")),
    "loha": Adapt("peft", peft="loha", options={"r": 2}),
    "lokr": Adapt("peft", peft="lokr", options={"r": 2}),
    "fourierft": Adapt("peft", peft="fourierft", options={"n_frequency": 20, "init_weights": True}),
    "oft": Adapt("peft", peft="oft", options={"oft_block_size": 4, "r": 0}),
    "hra": Adapt("peft", peft="hra", options={"r": 2}),
    "ln_tuning": Adapt("peft", peft="ln_tuning", options={"target_modules": ["input_layernorm", "norm"]}),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_peft(name: str, tmp_path: Path) -> None:
    base, adapt, rows = base_of(), METHODS[name], records(6)
    before = {n: p.clone() for n, p in base.model.named_parameters()}
    wanted = Session(base).logprobs(None, [forest(rows)])[0]
    check_adapt(adapt, base.model, base.probe)
    now = dict(base.model.named_parameters())
    assert all(torch.equal(p, now[n]) for n, p in before.items())
    assert now.keys() == before.keys()  # nothing is left of the proof
    session = Session(base)
    session.create("t", Spec(adapt, seed=3))
    assert float((session.logprobs("t", [forest(rows)])[0] - wanted).abs().max()) < 1e-5
    moved(session, "t")
    whole = gradient(session, "t", [forest(rows)])
    assert largest(whole, gradient(session, "t", [forest(part) for part in (rows[:1], rows[1:4], rows[4:])])) < 1e-5
    assert all(bool(g.any()) for g in whole.values())
    tuned = session.logprobs("t", [forest(rows)])[0]
    assert float((tuned - wanted).abs().max()) > 1e-3
    assert float((session.logprobs(None, [forest(rows)])[0] - wanted).abs().max()) < 1e-5
    tokens = torch.from_numpy(rows[3].segments[0].tokens)[None]
    said = session.next_logits("t", tokens[0].tolist())
    session.export("t", tmp_path)
    masters = {n: t.clone() for n, t in session.tenants["t"].masters.items()}
    read = read_weights(tmp_path, list(masters), base.digest)
    assert all(torch.allclose(read[n], masters[n]) for n in masters)
    session.close()
    assert torch.equal(session.logprobs(None, [forest(rows)])[0], wanted)
    with torch.no_grad():
        opened: Any = PeftModel.from_pretrained(base_of().model, str(tmp_path)).eval()
        assert float((opened(input_ids=tokens).logits[0, -1] - said).abs().max()) < 1e-5
        merged = opened.merge_and_unload()
        assert float((merged(input_ids=tokens).logits[0, -1] - said).abs().max()) < 1e-3


REFUSED: dict[str, Adapt] = {
    "in a way of its own": Adapt("peft", peft="multitask_prompt_tuning"),
    "engine's own": Adapt("peft", peft="lora"),
    "moves ranks": Adapt("peft", peft="adalora"),
    "Did you mean loha": Adapt("peft", peft="lohaa"),
    "which loha of peft has not": Adapt("peft", peft="loha", options={"rang": 2}),
    "anew in each micro-batch": Adapt("peft", peft="loha", options={"module_dropout": 0.1}),
    "does not begin at the base": Adapt("peft", peft="loha", options={"r": 2, "init_weights": False}),
    "share tensors": Adapt("peft", peft="vera"),
    "start it at zero": Adapt("peft", peft="fourierft", options={"n_frequency": 20}),
    "no such layer": Adapt("ia3", targets=("nowhere",)),
    "modules_to_save .* adapt.method: named": Adapt("ia3", options={"modules_to_save": ["embed_tokens"]}),
    "options.bias is 'all'": Adapt("peft", peft="oft", options={"oft_block_size": 4, "r": 0, "bias": "all"}),
    "options.inference_mode is True": Adapt("ia3", options={"inference_mode": True}),
    "both say which layers": Adapt("peft", peft="loha", targets=("q_proj",), options={"target_modules": ["v_proj"]}),
    "nothing that trains": Adapt("peft", peft="osf", options={"target_modules": ["input_layernorm"]}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_laid_in_forests_is_refused(reason: str) -> None:
    base = base_of()
    before = {n: p.clone() for n, p in base.model.named_parameters()}
    with pytest.raises(PlanError, match=reason):
        check_adapt(REFUSED[reason], base.model, base.probe)
    now = dict(base.model.named_parameters())
    assert now.keys() == before.keys()  # nothing is left of the proof
    assert all(torch.equal(p, now[n]) for n, p in before.items())
    assert not hasattr(base.model, "peft_config")


FITTING: dict[str, dict[str, Any]] = {  # options without which a method does not fit so small a model
    "c3a": {"block_size": 4, "init_weights": True},
    "fourierft": {"n_frequency": 20, "init_weights": True},
    "miss": {"r": 4},
    "psoft": {"r": 4},
    "road": {"group_size": 4},
    "shira": {"r": 2},
    "waveft": {"n_frequency": 20, "init_weights": True},
}
NOT_TAKEN = {
    "lily": "mixes the tokens",
    "shadow": "does not support",
    **dict.fromkeys(("frod", "pvera", "randlora", "tinylora", "unilora", "vblora", "vera"), "share tensors"),
}


@pytest.mark.parametrize("name", known_methods())
def test_which_methods_are_taken(name: str) -> None:
    base, adapt = base_of(), Adapt("peft", peft=name, options=FITTING.get(name, {}))
    if name in NOT_TAKEN:
        with pytest.raises(PlanError, match=NOT_TAKEN[name]):
            check_adapt(adapt, base.model, base.probe)
    else:
        check_adapt(adapt, base.model, base.probe)


def test_the_page_lists_these() -> None:
    page = (Path(__file__).parents[2] / "docs" / "methods" / "peft.md").read_text()
    listed = re.sub(r"\(.*?\)", "", page.split("these passed:")[1].split("Refused, with")[0])
    assert re.findall(r"\w+", listed) == [name for name in known_methods() if name not in NOT_TAKEN]


def test_mutant_that_mixes_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """IA3 whose factor meets the mean of the tokens."""
    from peft.tuners.ia3 import layer

    def mixing(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        plain: nn.Module = self.base_layer
        found: Tensor = plain(x)
        factor = sum((p - 1).sum() for p in self.ia3_l.values())
        return found + factor * found.mean(dim=1, keepdim=True)

    monkeypatch.setattr(layer.Linear, "forward", mixing)
    base: Base = base_of()
    with pytest.raises(PlanError, match="mixes the tokens"):
        check_adapt(Adapt("ia3"), base.model, base.probe)
