"""A finished tiny run taken elsewhere, by the command line: each export is compared before it is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.runs import tiny_runs
from tests.runs.mistakes import typed

from tunesmith import deliver as deliver_module
from tunesmith.deliver import deliver
from tunesmith.errors import InputError, PlanError, RunError
from tunesmith.export import gguf_file, llamacpp
from tunesmith.files import broken_files
from tunesmith.folder import Silent
from tunesmith.recipe import parse
from tunesmith.run import run


def finished(folder: Path, **changes: Any) -> Path:
    model = tiny_runs.model_folder(folder / "model")
    settings = tiny_runs.settings(model, tiny_runs.reply_file(folder / "rows.jsonl"), lr=0.01)
    settings |= {"export": ["adapter"], **changes}
    run(parse(settings), yaml.safe_dump(settings), folder / "out", Silent())
    return folder / "out"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("run"))


def test_every_kind(done: Path, tmp_path: Path) -> None:
    assert not (done / "merged").exists()
    for kind, files in (
        ("adapter", {"adapter_model.safetensors", "adapter_config.json", "README.md"}),
        ("merged", {"model.safetensors", "chat_template.jinja", "generation_config.json", "README.md"}),
        ("gguf", {"out-f16.gguf", "README.md"}),
        ("ollama", {"out-f16.gguf", "Modelfile", "README.md"}),
    ):
        facts = deliver(done, kind, tmp_path / kind, "f16", Silent())  # type: ignore[arg-type]
        here = {p.name for p in (tmp_path / kind).iterdir()}
        assert files | {"checked.json", "manifest.json"} <= here, kind
        assert broken_files(tmp_path / kind) == []
        compared = [v for k, v in facts.items() if k in ("peft", "transformers", "llama.cpp") and isinstance(v, dict)]
        assert len(compared) == (2 if "gguf" in "".join(here) and llamacpp.is_here() else 1)
        assert all(c["num_prompts"] == facts["prompts"] == 4 for c in compared)
        if kind == "adapter":
            assert facts["vllm"] == {"breaches": [], "max_lora_rank": 16}
    assert 'PARAMETER stop "<|im_end|>"' in (tmp_path / "ollama" / "Modelfile").read_text()


def test_without_out_it_stands_in_the_run(done: Path) -> None:
    """From the command line, for people and for programs."""
    before = (done / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    told = typed(["export", str(done), "--to", "adapter"])
    assert "peft: 4 of 4 greedy answers the same" in told.out, told.err
    assert "vLLM (its rules, not run): keeps its rules" in told.out
    assert (done / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == before
    told = typed(["export", str(done), "--to", "gguf", "--quant", "q8_0", "--json"])
    facts = json.loads(told.out)
    assert facts["folder"] == str(done / "gguf")
    assert (done / "gguf" / "out-q8_0.gguf").is_file()


MISTAKES = {
    "quant": (["--to", "gguf", "--quant", "q3"], "wanted f32, f16 or q8_0"),
    "push name": (["--to", "merged", "--push", "model"], "wanted owner/name"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, done: Path) -> None:
    words, message = MISTAKES[mistake]
    told = typed(["export", str(done), *words])
    assert told.code == 2, told.err
    assert message in " ".join(told.err.split())
    assert "Traceback" not in told.err


def test_folders_that_are_no_runs_or_taken(done: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted one of adapter, merged, gguf, ollama"):
        deliver(done, "onnx", None, "f16", Silent())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="holds no run"):
        deliver(tmp_path, "gguf", None, "f16", Silent())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="is taken"):
        deliver(done, "gguf", tmp_path / "mine", "f16", Silent())
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_a_whole_model_has_no_adapter(tmp_path: Path) -> None:
    out = finished(tmp_path, adapt={"method": "full"})
    with pytest.raises(PlanError, match="there is no adapter"):
        deliver(out, "adapter", tmp_path / "a", "f16", Silent())
    assert deliver(out, "merged", None, "f16", Silent())["folder"] == str(out / "model")
    facts = deliver(out, "gguf", tmp_path / "g", "f32", Silent())
    assert facts["transformers"]["num_same"] == 4


def test_a_wrong_export_is_not_kept(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "converted", lambda name, weight, config: weight)
    with pytest.raises(RunError, match="is not the model that was measured"):
        deliver(done, "ollama", tmp_path / "new", "f16", Silent())
    assert list(tmp_path.iterdir()) == []


def test_an_export_without_what_was_learned_is_not_kept(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = deliver_module.open_adapter

    def forgetful(*asked: Any, **how: Any) -> Any:
        found = opened(*asked, **how)
        for name, parameter in found.named_parameters():
            if "lora_B" in name:
                parameter.data.zero_()
        return found

    monkeypatch.setattr(deliver_module, "open_adapter", forgetful)
    for kind in ("adapter", "merged", "gguf"):
        with pytest.raises(RunError, match="is not the model that was measured"):
            deliver(done, kind, tmp_path / kind, "f16", Silent())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
