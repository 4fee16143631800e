"""Whether a run fits: the weights that train are counted as they are made, and what is said to fit does."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests import tiny

from tunesmith import room
from tunesmith.errors import PlanError
from tunesmith.models.adapters import Adapt, open_slot
from tunesmith.models.here import MEMORY, memory_gib


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize(
    "adapt",
    [Adapt("lora", rank=4), Adapt("lora", rank=3, targets=("c_attn",)), Adapt("full"), Adapt("last_k", last_k=1)],
    ids=["lora", "one layer", "full", "last_k"],
)
def test_the_weights_that_train_are_counted_as_they_are_made(family: str, adapt: Adapt) -> None:
    model = tiny.build(family)
    if adapt.targets and family != "gpt2":
        adapt = replace(adapt, targets=("q_proj", "down_proj"))
    counted, with_head = (room.num_trained(model, adapt, heads) for heads in ((), ("value",)))
    sizes = {name: p.numel() for name, p in open_slot(model, adapt, ("value",)).live.items()}
    assert with_head == sum(sizes.values())
    assert counted == sum(num for name, num in sizes.items() if not name.startswith("heads."))


def test_what_is_said_to_fit_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("llama")
    adapt = Adapt("lora", rank=2)
    wanted = room.need(model, adapt, 4096)
    monkeypatch.setenv(MEMORY, str(wanted.memory_gib))
    assert "at least" in room.check_memory(wanted, "cpu", memory_gib("cpu"), 4096, 100)
    monkeypatch.setenv(MEMORY, str(0.5 * wanted.memory_gib))
    with pytest.raises(PlanError, match="would fit") as refused:
        room.check_memory(wanted, "cpu", memory_gib("cpu"), 4096, 100)
    found = re.search(r"micro_tokens=(\d+)", str(refused.value))
    assert found is not None
    fitting = int(found.group(1))
    assert room.need(model, adapt, fitting).memory_gib <= memory_gib("cpu")
    assert room.need(model, adapt, fitting + 64).memory_gib > memory_gib("cpu")
    with pytest.raises(PlanError) as refused:
        room.check_memory(wanted, "cpu", memory_gib("cpu"), 4096, 4000)  # an example is longer than what would fit
    assert "would fit" not in str(refused.value)


def test_more_is_needed_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("llama")
    lora = Adapt("lora", rank=2)
    small = room.need(model, lora, 512)
    assert room.need(model, Adapt("full"), 512).state_gib == pytest.approx(16 * model.num_parameters() / 2**30)
    assert room.disk_need(model, lora, ("adapter", "merged"), 100) > room.disk_need(model, lora, ("adapter",), 100)
    half = room.need(model.to(torch.bfloat16), lora, 512)
    assert half.layers_gib == small.layers_gib / 2
    monkeypatch.setenv(MEMORY, "plenty")
    with pytest.raises(PlanError, match="is 'plenty'; wanted a number of GiB"):
        memory_gib("cpu")
    monkeypatch.delenv(MEMORY)
    assert 0 < memory_gib("cpu") < 1e5


def test_the_disk_is_that_of_the_nearest_folder_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def usage(path: Path) -> object:
        asked.append(path)
        return shutil._ntuple_diskusage(2**40, 2**40 - 2**30, 2**30)  # type: ignore[attr-defined]

    monkeypatch.setattr(shutil, "disk_usage", usage)
    room.check_disk(tmp_path / "a" / "b", 0.9, "leave something out")
    with pytest.raises(PlanError, match=r"will take about 1\.1 GiB, and 1\.0 GiB are free .* or leave something out"):
        room.check_disk(tmp_path / "a" / "b", 1.1, "leave something out")
    assert asked == [tmp_path.resolve()] * 2
