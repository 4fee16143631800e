"""Other tools' files: every key has a fate, the recipe that is written parses, numbers mean what they meant there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith.errors import RecipeError
from tunesmith.importing import write
from tunesmith.importing.reading import FATES
from tunesmith.importing.tools import TOOLS
from tunesmith.importing.updates import SCHEDULES
from tunesmith.recipe import Recipe, known_keys, parse
from tunesmith.spellings import OURS, THEIRS

AXOLOTL = """
base_model: acme/small-chat
model_type: LlamaForCausalLM
load_in_4bit: true
strict: false
adapter: qlora
lora_r: 16
lora_alpha: 8
lora_dropout: 0.05
lora_target_modules: [q_proj, v_proj, lm_head]
chat_template: chatml
datasets:
  - path: inbox/train.jsonl
    type: chat_template
    field_messages: conversations
    message_property_mappings: {role: from, content: value}
  - path: acme/talks
    type: chat_template
    name: polite
    split: train_sft
val_set_size: 0.05
sequence_len: 2048
sample_packing: true
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 3
optimizer: paged_adamw_8bit
lr_scheduler: cosine
learning_rate: 2e-4
warmup_steps: 10
max_steps: 200
bf16: auto
tf32: false
gradient_checkpointing: true
flash_attention: true
wandb_project: inbox
wandb_entity:
saves_per_epoch: 1
weight_decay: 0.01
special_tokens: {pad_token: "<pad>", eos_token: "</s>"}
fsdp_config: {offload_params: true}
lora_aplha: 16
output_dir: ./out
"""
LLAMAFACTORY = """
model_name_or_path: acme/small-chat
stage: sft
do_train: true
finetuning_type: lora
lora_target: all
use_rslora: true
dataset: inbox,notes
dataset_dir: sets
template: llama3
cutoff_len: 1024
max_samples: 1000
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 2.5
lr_scheduler_type: inverse_sqrt
warmup_ratio: 0.1
fp16: true
val_size: 0
report_to: none
resume_from_checkpoint: null
"""
TRL = """
model_name_or_path: acme/small-bnb-4bit
model_revision: main
torch_dtype: bfloat16
bf16: true
dataset_name: acme/talks
dataset_config: all
dataset_train_split: train
dataset_num_proc: 12
max_length: 4096
max_steps: -1
num_train_epochs: 1
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr_rate: 0.1}
report_to: [tensorboard, wandb]
packing: true
save_steps: 0.05
"""
FILES = {"axolotl": AXOLOTL, "llamafactory": LLAMAFACTORY, "trl": TRL}


def imported(folder: Path, text: str, tool: str | None = None) -> write.Imported:
    path = folder / "theirs.yml"
    path.write_text(text, encoding="utf-8")
    return write.read(path, tool)


def fates(found: write.Imported) -> dict[str, str]:
    return {k.key: k.fate for k in found.keys}


@pytest.mark.parametrize("tool", list(FILES))
def test_the_tool_is_told_and_what_is_written_is_a_recipe(tool: str, tmp_path: Path) -> None:
    found = imported(tmp_path, FILES[tool])
    assert found.tool == tool
    assert yaml.safe_load(found.text) == found.settings
    assert parse(found.settings) == parse(yaml.safe_load(found.text))
    assert parse(found.settings) != Recipe()


@pytest.mark.parametrize("tool", list(FILES))
def test_no_key_vanishes(tool: str, tmp_path: Path) -> None:
    """Also a key that nobody has heard of, an empty one, and one deep inside."""
    odd = "\nno_such_key: 7\nempty_key:\ndeep: {inside: [{here: 1}]}\n"
    found = imported(tmp_path, FILES[tool] + odd, tool)
    said = yaml.safe_load(FILES[tool] + odd)

    def leaves(value: Any) -> int:
        if isinstance(value, dict):
            return sum(map(leaves, value.values()))
        if isinstance(value, list) and any(isinstance(v, dict) for v in value):
            return sum(map(leaves, value))
        return 1

    assert len(found.keys) == leaves(said)
    assert {k.fate for k in found.keys} <= set(FATES)
    assert all(k.why for k in found.keys if k.fate != "same")
    told = fates(found)
    assert (told["no_such_key"], told["empty_key"], told["deep.inside[0].here"]) == ("unknown", "off", "unknown")
    for key in found.keys:
        if key.fate in ("value", "absent", "unknown"):
            assert f"#   {key.key}:" in found.text  # what is lost is said in the recipe itself


def test_axolotl_by_hand(tmp_path: Path) -> None:
    found = imported(tmp_path, AXOLOTL)
    r, told = parse(found.settings), fates(found)
    assert r.model == "acme/small-chat"
    assert r.data.train == ("inbox/train.jsonl", "acme/talks:polite/train_sft")
    assert (r.data.columns.messages, r.data.dev_frac, r.data.max_tokens) == ("conversations", 0.05, 2048)
    assert (r.adapt.method, r.adapt.rank, r.adapt.alpha, r.adapt.dropout) == ("lora", 16, 8, 0.05)
    assert r.adapt.targets == ("q_proj", "v_proj")  # the head stays as it is
    assert r.adapt.base_bits == 4
    assert r.train.update_tokens == 2 * 4 * 2048
    assert r.train.micro_tokens == 2 * 2048
    assert (r.train.lr, r.train.epochs, r.train.max_updates) == (2e-4, 3, 200)
    assert r.train.schedule.warmup_frac == 10 / 200
    assert r.train.optim.weight_decay == 0.01
    assert (r.precision, r.trackers) == ("auto", ("wandb",))
    assert {k for k, fate in told.items() if fate == "absent"} == {
        "chat_template", "gradient_checkpointing", "special_tokens.eos_token",
        "fsdp_config.offload_params",
    }  # fmt: skip
    assert told["lora_aplha"] == "unknown"
    assert "did you mean lora_alpha" in found.text
    assert "--out" in next(k.ours for k in found.keys if k.key == "output_dir")


def test_llamafactory_by_hand(tmp_path: Path) -> None:
    found = imported(tmp_path, LLAMAFACTORY)
    r, told = parse(found.settings), fates(found)
    assert r.data.train == ()  # names of a dataset_info.json that is not there
    assert told["dataset"] == "value"
    assert (r.adapt.rank, r.adapt.targets) == (8, ())
    assert r.adapt.alpha == pytest.approx(16 * 8**0.5, abs=1e-3)  # alpha / sqrt(rank) there, alpha / rank here
    assert r.train.update_tokens == 8 * 1024
    assert r.train.epochs == 3  # whole epochs only
    assert r.train.schedule.kind == "cosine"  # ours, since inverse_sqrt is not here
    assert told["lr_scheduler_type"] == "value"
    assert r.precision == "auto"
    assert told["fp16"] == "value"
    assert (r.data.dev_frac, told["val_size"]) == (0.1, "meant")
    assert r.data.too_long == "cut"


def test_llamafactory_names_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sets").mkdir()
    info = {
        "inbox": {"file_name": "inbox.json", "columns": {"prompt": "ask", "query": "more", "response": "reply"}},
        "notes": {"hf_hub_url": "acme/notes"},
        "better": {"file_name": "better.json", "ranking": True},
    }
    (tmp_path / "sets" / "dataset_info.json").write_text(json.dumps(info))
    r = parse(imported(tmp_path, LLAMAFACTORY).settings)
    assert r.data.train == ("sets/inbox.json", "acme/notes")
    assert (r.data.columns.prompt, r.data.columns.reply) == (("ask", "more"), "reply")
    with pytest.raises(RecipeError, match="ranking"):
        imported(tmp_path, LLAMAFACTORY.replace("inbox,notes", "better"))


def test_trl_by_hand(tmp_path: Path) -> None:
    found = imported(tmp_path, TRL)
    r, told = parse(found.settings), fates(found)
    assert r.model == "acme/small"  # not the quantised copy
    assert r.adapt.method == "full"  # TRL's default
    assert r.data.train == ("acme/talks",)
    assert (r.train.lr, r.train.schedule.warmup_frac) == (2e-5, 0.0)  # its defaults
    assert r.train.update_tokens == 8 * 4096
    assert (r.train.schedule.kind, r.train.schedule.end_frac) == ("cosine", 0.1)
    assert (r.train.max_updates, r.precision) == (None, "bfloat16")
    assert r.trackers == ("tensorboard", "wandb")
    assert (told["save_steps"], told["max_steps"], told["torch_dtype"]) == ("value", "off", "meant")


def test_sets_of_a_mixture_go_to_train_and_dev(tmp_path: Path) -> None:
    text = """
model_name_or_path: acme/small
dataset_mixture:
  datasets:
  - {id: acme/a, config: default, split: train_sft, weight: 1.0, columns: [messages]}
  - {id: acme/a, config: default, split: test_sft, weight: 1.0, columns: [messages]}
  - {id: acme/b, config: SFT, split: train, weight: 0.5, columns: [messages]}
  test_split_size: 1000
  seed: 0
"""
    found = imported(tmp_path, text, "trl")
    r = parse(found.settings)
    assert r.data.train == ("acme/a:train_sft", "acme/b:SFT/train")
    assert r.data.dev == ("acme/a:test_sft",)
    told = fates(found)
    assert told["dataset_mixture.datasets[2].weight"] == "absent"
    assert told["dataset_mixture.test_split_size"] == "value"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base_model: a/b\nrl: grpo\nsequence_len: 8", "reinforcement learning"),
        ("model_name_or_path: a/b\nstage: ppo\ncutoff_len: 8", "stage is ppo"),
        ("model_name_or_path: a/b\nbeta: 0.1\nmax_length: 8\nuse_peft: true", "preference tuning"),
        ("base_model: a/b\nsequence_len: 8\ndatasets: [{path: a/c, type: input_output}]", "marks itself which parts"),
        (
            "base_model: a/b\nsequence_len: 8\ndatasets: [{path: a/c, type: completion}, {path: a/d, type: alpaca}]",
            "either texts or replies",
        ),
        (
            "base_model: a/b\nsequence_len: 8\ndatasets: [{path: a/d}]\npretraining_dataset: [{path: a/c}]",
            "either texts or replies",
        ),
        (
            "base_model: a/b\nsequence_len: 8\ndatasets: [{path: a/d}]\npretraining_dataset: a/c",
            "either texts or replies",
        ),
        (
            "base_model: a/b\nsequence_len: 8\npretraining_dataset: a/c\ntest_datasets: [{path: a/d, type: alpaca}]",
            "either texts or replies",
        ),
        ("sequence_len: 8\nmicro_batch_size: 1", "names no model"),
        ("a: 1", "--from"),
        ("- 1", "wanted keys and values"),
        ("", "wanted keys and values"),
        ("a: [", "not YAML"),
    ],
)
def test_what_is_no_supervised_training_file_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        imported(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("base_model: a/b\nsequence_len: 8\nrl: simpo\nsimpo_gamma: 0.5\nrl_beta: 2.5\ncpo_alpha: 0",
         ("simpo", 2.5, 0.5, None)),
        ("base_model: a/b\nsequence_len: 8\nrl: simpo", ("simpo", 0.1, 0.5, 1.0)),  # what these tools do then
        ("model_name_or_path: a/b\ncutoff_len: 8\nstage: dpo\npref_loss: simpo", ("simpo", 0.1, 0.5, None)),
        ("model_name_or_path: a/b\ncutoff_len: 8\nstage: dpo\npref_beta: 0.2\npref_ftx: 1", ("dpo", 0.2, None, 1.0)),
        ("model_name_or_path: a/b\nuse_peft: true\nmax_length: 8\nloss_type: sigmoid\nbeta: 0.3\nlabel_smoothing: 0.2",
         ("cdpo", 0.3, None, None)),
        ("base_model: a/b\nsequence_len: 8\nrl: ipo\nadapter: lora\nlora_dropout: 0.1", ("ipo", None, None, None)),
    ],
)  # fmt: skip
def test_files_that_learn_from_pairs(text: str, wanted: tuple[Any, ...], tmp_path: Path) -> None:
    found = imported(tmp_path, text)
    recipe = parse(found.settings)
    asked = recipe.objective.preference
    assert (asked.loss, asked.beta, asked.gamma, asked.nll) == wanted
    assert recipe.task.name == "preferences"
    assert (asked.per_token is True) == (asked.loss == "ipo")
    assert asked.label_smoothing == (0.2 if asked.loss == "cdpo" else None)
    assert recipe.adapt.dropout == 0  # refused with pairs


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("base_model: a/b\nsequence_len: 8\nrl: kto\nrl_beta: 0.2\nkto_undesirable_weight: 0.5\nadapter: lora\n"
         "lora_dropout: 0.1", (0.2, 1.0, 0.5)),
        ("model_name_or_path: a/b\ncutoff_len: 8\nstage: kto\nkto_chosen_weight: 1.5", (0.1, 1.5, 1.0)),
        ("model_name_or_path: a/b\nuse_peft: true\nmax_length: 8\nloss_type: kto\nbeta: 0.3\n"
         "desirable_weight: 2", (0.3, 2.0, 1.0)),
    ],
)  # fmt: skip
def test_files_that_learn_from_marked_replies(text: str, wanted: tuple[float, ...], tmp_path: Path) -> None:
    recipe = parse(imported(tmp_path, text).settings)
    kto = recipe.objective.kto
    assert recipe.task.name == "feedback"
    assert (kto.beta, kto.desirable, kto.undesirable) == wanted
    assert recipe.adapt.dropout == 0  # refused where there is a reference


def test_files_that_learn_a_reward_model(tmp_path: Path) -> None:
    info = {"mine": {"file_name": "p.jsonl", "ranking": True, "columns": {"chosen": "good", "rejected": "bad"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    text = f"model_name_or_path: a/b\ncutoff_len: 8\nstage: rm\ndataset: mine\ndataset_dir: {tmp_path}\n"
    recipe = parse(imported(tmp_path, text + "lora_dropout: 0.1\nfinetuning_type: lora").settings)
    assert recipe.task.name == "reward"
    assert recipe.data.train == (str(tmp_path / "p.jsonl"),)
    assert recipe.adapt.dropout == 0.1
    text = "base_model: a/b\nsequence_len: 8\nreward_model: true\ncenter_rewards_coefficient: 0.01"
    recipe = parse(imported(tmp_path, text).settings)
    assert (recipe.task.name, recipe.objective.reward.centre) == ("reward", 0.01)


def test_a_method_that_is_not_used_takes_its_shape_with_it(tmp_path: Path) -> None:
    found = imported(tmp_path, AXOLOTL.replace("adapter: qlora", "adapter:"))
    assert parse(found.settings).adapt.method == "full"  # as Axolotl does, whatever shape is said
    assert (fates(found)["lora_r"], fates(found)["load_in_4bit"]) == ("off", "off")
    found = imported(tmp_path, LLAMAFACTORY.replace("finetuning_type: lora", "finetuning_type: full"))
    assert parse(found.settings).adapt.method == "full"
    assert "rank" not in found.settings["adapt"]
    found = imported(tmp_path, LLAMAFACTORY.replace("type: lora", "type: freeze") + "freeze_trainable_layers: 3\n")
    assert (parse(found.settings).adapt.method, parse(found.settings).adapt.last_k) == ("last_k", 3)


@pytest.mark.parametrize(
    ("said", "frac", "fate"), [("0.1", 0.1, "same"), ("100", None, "value"), ("-1", None, "value")]
)
def test_warm_up_is_a_share(said: str, frac: float | None, fate: str, tmp_path: Path) -> None:
    text = AXOLOTL.replace("warmup_steps: 10\nmax_steps: 200", f"warmup_steps: {said}")
    found = imported(tmp_path, text)
    assert found.settings["train"].get("schedule", {}).get("warmup_frac") == frac
    assert fates(found)["warmup_steps"] == fate


def test_the_tables_name_keys_that_exist() -> None:
    keys = set(known_keys())
    assert set(THEIRS) <= keys
    assert set(OURS.values()) <= keys
    assert {k for tool in TOOLS.values() for k in tool.defaults} <= keys
    for kind in set(SCHEDULES.values()):
        parse({"train": {"schedule": {"kind": kind}}})


@pytest.mark.parametrize(
    ("text", "files", "column"),
    [
        (
            "base_model: a/b\nsequence_len: 8\ndatasets: [{path: a/c, type: completion, field: body}, {path: x.txt, "
            "type: completion}]",
            ("a/c", "x.txt"), "body",
        ),
        ("base_model: a/b\nsequence_len: 8\nadapter: lora\ndatasets: [{path: a/c, field: note}]", ("a/c",), "note"),
        (
            "base_model: a/b\nsequence_len: 8\nmax_steps: 9\npretraining_dataset: [{path: a/c, name: en, split: train, "
            "text_column: raw}]\npretraining_sample_concatenation: true",
            ("a/c:en/train",), "raw",
        ),
        ("base_model: a/b\nsequence_len: 8\npretraining_dataset: [{path: a/c}]", ("a/c",), "text"),
        ("base_model: a/b\nsequence_len: 8\npretraining_dataset: a/c", ("a/c",), "text"),
    ],
)  # fmt: skip
def test_plain_text_is_continued_pre_training(text: str, files: tuple[str, ...], column: str, tmp_path: Path) -> None:
    found = imported(tmp_path, text, "axolotl")
    recipe = parse(found.settings)
    assert (recipe.task.name, recipe.data.columns.text) == ("pretrain", column)
    assert recipe.data.train == files
    assert [k.key for k in found.keys if k.fate == "unknown"] == []


def test_a_text_is_no_data_set_of_the_hub(tmp_path: Path) -> None:
    text = "base_model: a/b\nsequence_len: 8\ndatasets: [{path: books/notes.md, type: completion}]"
    assert "of the hub" not in imported(tmp_path, text, "axolotl").text


def test_the_stage_pt_is_continued_pre_training(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"c4": {"file_name": "c4.jsonl", "columns": {"prompt": "text"}}}')
    text = f"model_name_or_path: a/b\nstage: pt\ncutoff_len: 8\ndataset: c4\ndataset_dir: {tmp_path}\ntemplate: llama3"
    found = imported(tmp_path, text, "llamafactory")
    recipe = parse(found.settings)
    assert (recipe.task.name, recipe.data.columns.text, recipe.data.columns.prompt) == ("pretrain", "text", None)
    assert fates(found)["stage"] == "meant"
