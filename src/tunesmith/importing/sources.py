"""The data sets of another tool's file: which files, which columns, which share is held out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tunesmith.errors import RecipeError
from tunesmith.importing.reading import Reading, number, shown

PLAIN_TEXT = ("completion", "pretrain", "text")
TEXT_FIELDS = ("field", "text_column")  # which column holds the text
CHATS = ("chat_template", "sharegpt", "chatml", "conversation")
# what a row's columns are called by the keys of Axolotl's data sets -> data.columns
FIELDS = {
    "field_messages": "messages", "type.field_messages": "messages", "field_instruction": "prompt",
    "type.field_instruction": "prompt", "field_input": "prompt", "type.field_input": "prompt", "field_output": "reply",
    "type.field_output": "reply", "field_system": "system", "type.field_system": "system", "field_tools": "tools",
    **{f"{of}field_{name}": name for of in ("", "type.") for name in ("prompt", "chosen", "rejected")},
}  # fmt: skip
# columns of LLaMA-Factory's dataset_info.json -> data.columns
INFO_FIELDS = {
    "prompt": "prompt", "query": "prompt", "response": "reply", "messages": "messages", "system": "system",
    "tools": "tools", "chosen": "chosen", "rejected": "rejected", "kto_tag": "mark",
}  # fmt: skip
KNOWN_SPEAKERS = ({"role": "role", "content": "content"}, {"role": "from", "content": "value"})
FILE = re.compile(r"\.(jsonl?|csv|tsv|parquet|xlsx|txt|md|ya?ml)(\.gz)?$")
ONE_HOME = "columns are the same for all files here: those of the first data set"


def data_sets(reading: Reading) -> None:
    """data.train, data.dev, data.columns and data.dev_frac."""
    listed(reading, "datasets", "data.train")
    listed(reading, "pretraining_dataset", "data.train")
    listed(reading, "test_datasets", "data.dev")
    mixture(reading)
    for key in ("dataset_name", "dataset", "train_dataset"):
        if isinstance(reading.said.get(key), str):
            named(reading, key, "data.train")
    if isinstance(reading.said.get("eval_dataset"), str):
        named(reading, "eval_dataset", "data.dev")
    splits(reading)
    for key in ("dataset_text_field", "dataset_config", "dataset_dir"):
        if reading.said.get(key) is not None and key not in reading.fates:
            reading.leave("absent", "files and columns are named by data.train and data.columns", key)
    dev_share(reading)


def listed(reading: Reading, stem: str, ours: str) -> None:
    """Axolotl's list of data sets, or one by its name."""
    numbers = dict.fromkeys(m[0] for key in reading.said if (m := re.match(rf"{stem}\[\d+\]", key)))
    if isinstance(reading.said.get(stem), str):
        numbers = {stem: None}
    for prefix in numbers:
        keys = (f"{prefix}.path", f"{prefix}.", prefix, f"{prefix}.data_files")
        path_key = next((key for key in keys if key in reading.said), "")
        inner = {k.removeprefix(f"{prefix}."): v for k, v in reading.said.items() if k.startswith(f"{prefix}.")}
        kind = str(inner.get("type") or "")
        if kind.startswith("input_output"):
            raise RecipeError(
                f"{prefix} marks itself which parts of a text are learned ({kind}), which is not here: make prompts "
                "with replies, or messages with weights, of it. Nothing was written."
            )
        is_text = kind.startswith(PLAIN_TEXT) or inner.get("field") is not None or stem == "pretraining_dataset"
        if reading.settings.get("data.train") and is_text != (reading.settings.get("task.name") == "pretrain"):
            raise RecipeError(
                f"{prefix} is {'plain text' if is_text else 'no plain text'}, unlike the data sets before it, and a "
                "run learns either texts or replies: make a file of each kind. Nothing was written."
            )
        if is_text:
            plain_text(reading, prefix, inner)
        files = files_of(reading, prefix, inner)
        if files:
            add(reading, ours, files, path_key)
        elif path_key:
            others = {name: f"{prefix}.{name}" for name in ("name", "split") if f"{prefix}.{name}" in reading.said}
            add(reading, ours, [hub_name(reading, path_key, others.get("name"), others.get("split"))], path_key)
        if not is_text:
            row_kind(reading, prefix, kind)
        if inner.get("type.system_prompt"):
            reading.put("task.instruction", str(inner["type.system_prompt"]), f"{prefix}.type.system_prompt")
        for name in inner:
            if name in FIELDS and inner[name] is not None:
                column(reading, FIELDS[name], str(inner[name]), f"{prefix}.{name}", is_first=prefix.endswith("[0]"))
        speakers(reading, prefix, inner)
        learned_roles(reading, prefix)


def plain_text(reading: Reading, prefix: str, inner: dict[str, Any]) -> None:
    """Texts without prompts: the task, and the column that is learned."""
    said = [name for name in TEXT_FIELDS if inner.get(name) is not None]
    for name in said:
        text_column(reading, str(inner[name]), f"{prefix}.{name}")
    if "type" in inner:
        text_column(reading, "text", f"{prefix}.type")
    elif not said:
        reading.settings["task.name"] = "pretrain"
        reading.settings.setdefault("data.columns.text", "text")


def text_column(reading: Reading, column_name: str, key: str) -> None:
    """The first that is said holds for all files."""
    reading.settings.setdefault("data.columns.text", column_name)
    meant = "texts are cut into pieces of data.max_tokens, and documents are held out whole; data.columns.text"
    reading.put("task.name", "pretrain", key, meant=meant)


def learned_roles(reading: Reading, prefix: str) -> None:
    """Whose turns are learned, and what the roles are called."""
    key = f"{prefix}.roles_to_train"
    if key in reading.said:
        is_plain = set(reading.said[key] or ["assistant"]) <= {"assistant", "gpt"}
        reading.leave("needless" if is_plain else "absent", "replies of the assistant only are learned", key)
    roles = [k for k in reading.said if k.startswith(f"{prefix}.roles.")]
    if roles:
        reading.leave("needless", "the usual names of roles are known", *roles)


def hub_name(reading: Reading, path_key: str, config_key: str | None, split_key: str | None) -> str:
    """owner/name, owner/name:split or owner/name:config/split; a file stays what it is."""
    name = str(reading.said[path_key])
    config, split = (reading.said.get(key) if key else None for key in (config_key, split_key))
    if is_file(name):
        for key in (config_key, split_key):
            if key is not None and key not in reading.fates:
                why = "a file is read whole" if reading.said[key] in (None, "train") else "a file is read whole: cut it"
                reading.leave("needless" if why.endswith("whole") else "absent", why, key)
        return name
    if isinstance(split, str) and "[" in split:
        why = f"all rows of {split.split('[')[0]} are used: bring a part of it here as a file for less"
        reading.leave("absent", why, split_key or "", ours="data.train")
        split = split.split("[")[0]
    for key in (config_key, split_key):
        if key is not None and key not in reading.fates:
            reading.leave("same", "", key, ours="data.train")
    split = None if split == "train" else split
    config = None if config in ("default", "all", None) else config
    if config:
        return f"{name}:{config}/{split or 'train'}"
    return f"{name}:{split}" if split else name


def files_of(reading: Reading, prefix: str, inner: dict[str, Any]) -> list[str]:
    """`data_files` of a data set that is read by a bare format (path: json)."""
    files = inner.get("data_files")
    if not files:
        return []
    key = f"{prefix}.data_files"
    names = [str(f) for f in files] if isinstance(files, list) else [str(files)]
    if inner.get("path") in ("json", "csv", "parquet", "text"):
        reading.leave("same", "", key, ours="data.train")
        return names
    folder = Path(str(inner.get("path") or ""))
    if folder.is_dir():
        reading.leave("same", "", key, ours="data.train")
        return [str(folder / n) for n in names]
    reading.leave("absent", "of a hub set all training files are read: download the ones you want", key)
    return []


def add(reading: Reading, ours: str, files: list[str], key: str) -> None:
    """One more source. A name that is no file is one of the hub's."""
    meant = "" if all(map(is_file, files)) else "not a file here, so a data set of the hub"
    before = list(reading.settings.get(ours) or [])
    said = reading.comments.get(ours)
    reading.put(ours, before + files, key, meant=meant)
    if said:
        reading.comments[ours] = f"{said}, {reading.comments[ours]}"


def is_file(name: str) -> bool:
    return bool(FILE.search(name)) or name.startswith((".", "/", "~")) or Path(name).exists()


def row_kind(reading: Reading, prefix: str, kind: str) -> None:
    key = f"{prefix}.type"
    if key not in reading.said:
        return
    if any(kind.startswith(word) for word in CHATS):
        reading.leave("same", "columns with conversations are known by their names and roles", key, ours="data.columns")
    elif kind.startswith("alpaca"):
        why = "the columns are known by name; rows are put into the chat template without Alpaca's wording around them"
        reading.leave("meant", why, key, ours="data.columns")
    else:
        why = "no such prompt is built in: the columns are told by their names; see `tunesmith audit`, or name them"
        reading.leave("value", why, key, ours="data.columns")


def column(reading: Reading, ours: str, name: str, key: str, *, is_first: bool) -> None:
    dotted = f"data.columns.{ours}"
    if not is_first:
        reading.leave("value", ONE_HOME, key, ours=dotted)
    elif ours == "prompt":
        reading.put(dotted, [*reading.settings.get(dotted, []), name], key)
    else:
        reading.put(dotted, name, key)


def speakers(reading: Reading, prefix: str, inner: dict[str, Any]) -> None:
    """Who speaks and what they say: both usual spellings are read here."""
    stems = ("message_property_mappings.", "message_field_")
    said = {n.removeprefix(s): v for n, v in inner.items() for s in stems if n.startswith(s)}
    keys = [f"{prefix}.{n}" for n in inner if n.startswith(stems)]
    if not keys:
        return
    usual = any({**known, **said} == known for known in KNOWN_SPEAKERS)
    why = "role/content and from/value are both read" if usual else (
        f"messages are read with role/content or from/value, not {shown(said)}: rename them")  # fmt: skip
    reading.leave("needless" if usual else "value", why, *keys)


def mixture(reading: Reading) -> None:
    """The list of hub sets in recipes for TRL's scripts; those of a test split are what choices are made on."""
    for key in [k for k in reading.said if re.fullmatch(r"dataset_mixture\.datasets\[\d+\]\.id", k)]:
        prefix = key.removesuffix(".id")
        others = {
            n: f"{prefix}.{n}" for n in ("config", "split", "columns", "weight") if f"{prefix}.{n}" in reading.said
        }
        split = str(reading.said.get(f"{prefix}.split") or "train")
        ours = "data.dev" if split.startswith(("test", "eval", "valid")) else "data.train"
        add(reading, ours, [hub_name(reading, key, others.get("config"), others.get("split"))], key)
        if "columns" in others:
            reading.leave("needless", "columns are known by their names", others["columns"])
        if "weight" in others:
            is_whole = number(reading.said[others["weight"]]) == 1
            reading.leave("needless" if is_whole else "absent", "all rows of a set are used", others["weight"])
    if "dataset_mixture.seed" in reading.said:
        reading.leave("needless", "there is one seed for everything (seed)", "dataset_mixture.seed")


def named(reading: Reading, key: str, ours: str) -> None:
    """One name (TRL), or names with commas out of dataset_info.json (LLaMA-Factory)."""
    value = str(reading.said[key])
    folder = Path(str(reading.said.get("dataset_dir") or "data"))
    info = dataset_info(folder)
    names = [n.strip() for n in value.split(",") if n.strip()]
    if key in ("dataset", "eval_dataset") and info is not None and all(n in info for n in names):
        for at, name in enumerate(names):
            from_info(reading, folder, info[name], key, ours, is_first=at == 0)
        if "dataset_dir" in reading.said:
            reading.leave("same", "its dataset_info.json was read", "dataset_dir", ours=ours)
    elif key == "dataset_name":
        others = [n if n in reading.said else None for n in ("dataset_config", "dataset_train_split")]
        add(reading, ours, [hub_name(reading, key, *others)], key)
    elif all(is_file(n) and not n.endswith((".yaml", ".yml")) for n in names):
        add(reading, ours, names, key)
    else:
        where = (
            "a list of data sets" if value.endswith((".yaml", ".yml")) else f"names of {folder / 'dataset_info.json'}"
        )
        why = f"{where}, not found here: write the files into {ours}"
        reading.leave("value", why, key, ours=ours)


def dataset_info(folder: Path) -> dict[str, Any] | None:
    path = folder / "dataset_info.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not JSON ({error}); mend it, or name the files yourself") from error
    return found if isinstance(found, dict) else None


def from_info(reading: Reading, folder: Path, entry: dict[str, Any], key: str, ours: str, *, is_first: bool) -> None:
    """One entry of dataset_info.json: its file, and its columns."""
    if bool(entry.get("ranking")) != (reading.settings.get("task.name") in ("preferences", "reward")):
        raise RecipeError(f"{key}: {reading.said[key]}: a ranking is for the stages dpo and rm, and other sets are not")
    file = entry.get("file_name")
    add(reading, ours, [str(folder / file) if file else str(entry.get("hf_hub_url"))], key)
    for theirs, name in (entry.get("columns") or {}).items():
        is_text = reading.said.get("stage") == "pt" and theirs == "prompt"
        target = "text" if is_text else INFO_FIELDS.get(theirs)
        if target is None or not is_first or ours != "data.train":
            continue
        dotted = f"data.columns.{target}"
        before = reading.settings.get(dotted, [])
        reading.settings[dotted] = [*before, name] if target == "prompt" else name
        reading.comments[dotted] = f"{theirs} in {folder / 'dataset_info.json'}"


def splits(reading: Reading) -> None:
    for key in ("dataset_train_split", "dataset_test_split", "train_split", "test_split", "dataset_splits"):
        value = reading.said.get(key)
        if value is None:
            continue
        if key in reading.fates:
            continue
        if value in ("train", "test", "validation"):
            reading.leave("needless", "train, dev and test are told by their names", key)
        else:
            reading.leave("absent", "splits of other names: name files as data.train, data.dev and data.test", key)


def dev_share(reading: Reading) -> None:
    """A share held out there is dev here; a number of rows is not a share."""
    keys = [*reading.names("data.dev_frac"), *(k for k in ("dataset_mixture.test_split_size",) if k in reading.said)]
    for key in keys:
        value = number(reading.said[key])
        if value is not None and 0 < value < 1:
            reading.put("data.dev_frac", value, key, meant="data.test_frac is held out for the verdict beside it")
        elif value == 0:
            why = "dev stays 0.1 of the rows: the base's best prompt form is chosen on it (data.dev_frac: 0 for none)"
            reading.leave("meant", why, key, ours="data.dev_frac")
        else:
            reading.leave("value", "a share of the rows is wanted, above 0 and below 1", key, ours="data.dev_frac")
