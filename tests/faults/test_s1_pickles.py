"""S1 and S3: nothing that runs code when it is read is read, and no code of a model's folder runs.

Every malicious file is first shown to fire under a careless loader. Then it is put where weights, optimizers, heads,
adapters, checkpoints, tokenizers and data come from, and the commands are typed, with the network closed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml
from tests.faults import evil
from tests.house.test_docs import command_tree, leaves
from tests.runs.closed import closed
from tests.runs.mistakes import Said, copied, typed, unfinished, world

from tunesmith.files import sha256_file

Make = Callable[[Path], bytes]
KINDS: dict[str, Make] = {"zip": evil.in_zip, "legacy": evil.legacy, "plain": evil.plain, "array": evil.array}
# Beside what is whole: (file, kind)
BYSTANDERS = (
    *(("model/pytorch_model.bin", "zip"), ("model/pytorch_model-00001-of-00001.bin", "legacy")),
    *(("model/consolidated.00.pth", "zip"), ("model/model.pt", "legacy"), ("model/adapter_model.bin", "zip")),
    *(("model/training_args.bin", "zip"), ("model/optimizer.pt", "zip"), ("model/scheduler.pt", "legacy")),
    *(("model/rng_state.pth", "plain"), ("model/vocab.pkl", "plain"), ("model/heads.bin", "zip")),
    *(("run/optimizer.pt", "zip"), ("run/training_args.bin", "legacy"), ("run/state.pkl", "plain")),
    *(("run/adapter/adapter_model.bin", "zip"), ("run/adapter/training_args.bin", "plain")),
    *(("run/adapter/heads.pt", "legacy"), ("run/merged/pytorch_model.bin", "zip")),
    *(("run/scores/cases.pkl", "plain"), ("run/scores/base.npy", "array"), ("run/checkpoints/latest.pt", "zip")),
    *(("checkpoint/state.pt", "zip"), ("checkpoint/optimizer.pt", "legacy"), ("checkpoint/rng_state.pth", "plain")),
)
MODELS = "models --recipe recipe.yaml --candidates model"
# The first ends the run; predict, serve, evaluate and explain open models as chat does (opened.py)
COMMANDS = (
    *("run --resume --out run", "plan recipe.yaml", MODELS, "runs .", "chat run --once fox"),
    *("chat model --once fox", "export run --to merged --out merged"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = copied(made, tmp_path / "here")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))  # `models` asks every model in it
    with closed() as watch:
        yield folder
        assert watch.reached == []


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "fired"


def place(folder: Path, name: str, raw: bytes) -> None:
    first, _, rest = name.partition("/")
    if first == "checkpoint":
        name = str(newest(folder).relative_to(folder) / rest)
    (folder / name).write_bytes(raw)


def newest(folder: Path) -> Path:
    return max((folder / "run" / "checkpoints").glob("update_*"))


def test_pickles_beside_what_is_whole_are_never_read(here: Path, canary: Path) -> None:
    for name, kind in BYSTANDERS:
        raw = KINDS[kind](canary)
        assert evil.fires(raw, canary), name
        place(here, name, raw)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model-00001-of-00001.bin"}}
    (here / "model" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    unfinished(here)
    for words in COMMANDS:
        said = typed(words.split())
        assert said.code == 0, (words, said.text)
        assert not canary.exists(), words
    print(f"S1, beside what is whole: {len(BYSTANDERS)} files, {len(COMMANDS)} commands, 0 executions")


def only(name: str, **more: Any) -> Callable[[Path, bytes], None]:
    """The malicious file in place of model.safetensors; `more` goes into config.json."""

    def plant(folder: Path, raw: bytes) -> None:
        (folder / "model" / "model.safetensors").unlink()
        (folder / "model" / name).write_bytes(raw)
        change(folder / "model" / "config.json", **more)

    return plant


def change(path: Path, **more: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def index_of_bin(folder: Path, raw: bytes) -> None:
    weights = {"metadata": {}, "weight_map": {"lm_head.weight": "evil.bin"}}
    (folder / "model" / "model.safetensors.index.json").write_text(json.dumps(weights))
    only("evil.bin")(folder, raw)


def as_adapter(folder: Path, raw: bytes) -> None:
    """A model's folder that says that it is an adapter, too."""
    shutil.copy(folder / "run" / "adapter" / "adapter_config.json", folder / "model")
    (folder / "model" / "adapter_model.bin").write_bytes(raw)
    (folder / "model" / "model.safetensors").unlink()


def old_tokenizer(name: str, kind: str) -> Callable[[Path, bytes], None]:
    def plant(folder: Path, raw: bytes) -> None:
        (folder / "model" / "tokenizer.json").unlink()
        (folder / "model" / name).write_bytes(raw)
        (folder / "model" / "vocab.txt").write_text("a\nb\n")
        change(folder / "model" / "tokenizer_config.json", tokenizer_class=kind)

    return plant


def run_file(name: str) -> Callable[[Path, bytes], None]:
    return lambda folder, raw: place(folder, name, raw)


def adapter_as_bin(folder: Path, raw: bytes) -> None:
    (folder / "run" / "adapter" / "adapter_model.safetensors").unlink()
    (folder / "run" / "adapter" / "adapter_model.bin").write_bytes(raw)


def in_checkpoint(name: str) -> Callable[[Path, bytes], None]:
    """With a manifest that agrees, in every checkpoint."""

    def plant(folder: Path, raw: bytes) -> None:
        unfinished(folder)
        for at in (folder / "run" / "checkpoints").glob("update_*"):
            (at / name).write_bytes(raw)
            files = [p for p in at.iterdir() if p.name != "manifest.json"]
            (at / "manifest.json").write_text(json.dumps({p.name: sha256_file(p) for p in files}))

    return plant


def data_named(name: str) -> Callable[[Path, bytes], None]:
    return lambda folder, raw: (folder / name).write_bytes(raw) and None


ADAPTER = "adapter_model.safetensors"
PLAN, CHAT, RESUME = "plan recipe.yaml", "chat run --once fox", "run --resume --out run"
# In place of what is wanted: (what, kind, plant, command)
INSTEAD: tuple[tuple[str, str, Callable[[Path, bytes], None], str], ...] = (
    *((f"model.safetensors, {k}", k, only("model.safetensors"), PLAN) for k in KINDS),
    *((f"pytorch_model.bin, {k}", k, only("pytorch_model.bin"), PLAN) for k in ("zip", "legacy")),
    ("weights of an index", "zip", index_of_bin, PLAN),
    ("weights named by config.json", "zip", only("evil.bin", transformers_weights="evil.bin"), PLAN),
    ("adapter weights it names", "zip", only("adapter_model.bin", transformers_weights="adapter_model.bin"), PLAN),
    ("weights beside an adapter's config", "zip", as_adapter, PLAN),
    ("a vocabulary of Transformer-XL", "plain", old_tokenizer("vocab.pkl", "TransfoXLTokenizer"), PLAN),
    ("a model of sentencepiece", "plain", old_tokenizer("tokenizer.model", "LlamaTokenizer"), PLAN),
    ("a vocabulary in words", "plain", old_tokenizer("vocab.json", "GPT2Tokenizer"), PLAN),
    *((f"the run's adapter as .bin, {k}", k, adapter_as_bin, CHAT) for k in ("zip", "legacy")),
    *((f"the run's adapter, {k}", k, run_file(f"run/adapter/{ADAPTER}"), CHAT) for k in ("zip", "plain")),
    *((f"a checkpoint's state, {k}", k, in_checkpoint("state.safetensors"), RESUME) for k in ("zip", "legacy")),
    ("a checkpoint's facts", "plain", in_checkpoint("state.json"), RESUME),
    ("the cases of a run", "plain", run_file("run/scores/cases.parquet"), "export run --to adapter --out a"),
    ("the lock of a run", "plain", run_file("run/lock.json"), RESUME),
    ("data as a pickle", "plain", data_named("rows.pkl"), "audit --data rows.pkl"),
    ("data as a tensor", "zip", data_named("rows.pt"), "audit --data rows.pt"),
    ("data as an array", "array", data_named("rows.npy"), "audit --data rows.npy"),
    ("data by the name of a table", "plain", data_named("rows.parquet"), "audit --data rows.parquet"),
    ("data by the name of a workbook", "zip", data_named("rows.xlsx"), "audit --data rows.xlsx"),
    ("a GGUF file by name", "zip", data_named("m.gguf"), "plan recipe.yaml --set model=m.gguf"),
    ("a recipe", "plain", data_named("evil.yaml"), "plan evil.yaml"),
)  # fmt: skip


@pytest.mark.parametrize("case", INSTEAD, ids=[c[0] for c in INSTEAD])
def test_a_pickle_in_place_of_what_is_wanted_is_refused(
    case: tuple[str, str, Callable[[Path, bytes], None], str], here: Path, canary: Path
) -> None:
    _, kind, plant, words = case
    raw = KINDS[kind](canary)
    assert evil.fires(raw, canary)
    plant(here, raw)
    said = typed(words.split())
    assert not canary.exists()
    assert said.code in (1, 2), said.text
    assert "Traceback" not in said.text
    assert "fault in tunesmith" not in said.text


# S3: code in a model's folder

CODE = "import os\nos.makedirs({canary!r}, exist_ok=True)\nfrom transformers import {names}\n{classes}"


def code(canary: Path) -> str:
    names = ("LlamaConfig", "LlamaForCausalLM", "PreTrainedTokenizerFast")
    classes = "".join(f"class Evil{n}({n}):\n    model_type = 'evil'\n" for n in names)
    return CODE.format(canary=str(canary), names=", ".join(names), classes=classes)


def with_code(folder: Path, canary: Path, model_type: str) -> Path:
    model = folder / "model"
    (model / "evil.py").write_text(code(canary))
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text(code(canary))
    (model / "tests.py").write_text(code(canary))
    change(
        model / "config.json", model_type=model_type,
        auto_map={"AutoConfig": "evil.EvilLlamaConfig", "AutoModelForCausalLM": "evil.EvilLlamaForCausalLM"},
    )  # fmt: skip
    change(
        model / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "evil.EvilPreTrainedTokenizerFast"]},
    )
    return model


def code_fires(model: Path, canary: Path) -> bool:
    transformers.AutoConfig.from_pretrained(model, trust_remote_code=True)
    has_fired = canary.exists()
    if has_fired:
        canary.rmdir()
    return has_fired


def test_code_beside_a_known_architecture_never_runs(here: Path, canary: Path) -> None:
    """`auto_map` on a llama: transformers' own class is taken."""
    model = with_code(here, canary, "evil")
    assert code_fires(model, canary), "the code must run where it is trusted"
    change(model / "config.json", model_type="llama")
    commands = ("run recipe.yaml --out new", "plan recipe.yaml", MODELS, "chat new --once fox")
    for words in (*commands, "export new --to merged --out merged"):
        said = typed(words.split())
        assert said.code == 0, (words, said.text)
        assert not canary.exists(), words


def test_a_model_that_is_nothing_but_code_is_refused(here: Path, canary: Path) -> None:
    model = with_code(here, canary, "evil")
    assert code_fires(model, canary)
    for words in (MODELS, PLAN, "run recipe.yaml --out new", "chat model --once x"):
        said = typed(words.split())
        assert not canary.exists(), words
        assert words.startswith("models") or said.code == 2, said.text


@pytest.mark.parametrize(
    "more",
    [
        {"_attn_implementation": "evil/kernel"},
        {"attn_implementation": "evil/kernel:attention"},
        {"_attn_implementation_internal": "kernels-community/flash-attn"},
        {"_experts_implementation": "evil/kernel"},
        {"quantization_config": {"quant_method": "fp8"}},
        {"quantization_config": {"quant_method": "evil/kernel"}},
        {"auto_map": {"AutoModelForCausalLM": "owner/repository--evil.Model"}},
        {"auto_map": "evil"},
        {"base_model_tp_plan": {"layers.*": "evil.module"}},
    ],
    ids=str,
)
def test_kernels_and_code_from_elsewhere_are_not_fetched(more: dict[str, Any], here: Path) -> None:
    """`closed()` in the fixture: nothing is asked for. Whether it is refused or passed over, it is not run."""
    change(here / "model" / "config.json", **more)
    said = typed(PLAN.split())
    assert said.code in (0, 2), said.text
    assert "Traceback" not in said.text


def test_no_switch_trusts_code(here: Path) -> None:
    """Neither a recipe nor a command line can; README and privacy say so."""
    options = {opt for _, command in leaves(command_tree()) for p in command.params for opt in p.opts}
    assert not [o for o in options if "trust" in o and o != "--trust-local-code"]
    for key in ("trust_remote_code", "data.trust_remote_code"):
        said: Said = typed(["plan", "recipe.yaml", "--set", f"{key}=true"])
        assert said.code == 2
        assert "trust_remote_code" in said.text
    assert yaml.safe_load((here / "recipe.yaml").read_text())["model"] == "model"
