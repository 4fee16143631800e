"""Where the rows are: a file, a folder whose file names tell the splits, a data set on the hub, a task by name."""

from __future__ import annotations

import re
from pathlib import Path

from tunesmith.data import gym
from tunesmith.data.hub import Hub, fetch, is_hub_name
from tunesmith.data.rows import FORMATS, of_one_kind
from tunesmith.errors import DataError, did_you_mean

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "valid": "dev",
    "validation": "dev",
    "val": "dev",
    "test": "test",
}


def find_splits(name: str | Path, hub: Hub | None = None) -> dict[str, list[Path]]:
    """{"train" | "dev" | "test": files}. A file is training data; in a folder the names tell (train…, dev | valid |
    val…, test…); a hub name (owner/name, owner/name:config, owner/name:config/split) that is no path is fetched.
    """
    if gym.is_gym_name(str(name)):
        return {"train": [gym.rows_file(str(name))]}
    path = Path(name).expanduser()
    if path.is_file():
        return {"train": [path]}
    if path.is_dir():
        return _in_folder(path)
    if not is_hub_name(str(name)):
        check_there(path)
        raise DataError(f"{path}: is neither a file nor a folder (a pipe, a device?). Name a data file.")
    splits = fetch(str(name), hub)
    if len(splits) == 1:  # one split was named, or there is only one: it is what to learn from
        return {"train": next(iter(splits.values()))}
    found: dict[str, list[Path]] = {}
    for split, files in splits.items():
        if split in SPLIT_NAMES:
            found.setdefault(SPLIT_NAMES[split], []).extend(files)
    if "train" not in found:
        raise DataError(f"{name}: has the splits {', '.join(splits)} and no train. Name one: {name}:CONFIG/SPLIT.")
    return found


def check_there(path: Path) -> None:
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: there is no such file or folder. Check the name.{did_you_mean(path.name, beside)}")


def files_named(name: str | Path, hub: Hub | None = None) -> list[Path]:
    """The files of one split that was named outright: a file, a folder with nothing else, or a split on the hub."""
    if gym.is_gym_name(str(name)):
        return [gym.rows_file(str(name))]
    path = Path(name).expanduser()
    if path.exists() or not is_hub_name(str(name)):
        return [path] if not path.is_dir() else [file for files in _in_folder(path).values() for file in files]
    splits = fetch(str(name), hub)
    if len(splits) > 1:
        raise DataError(f"{name}: has the splits {', '.join(splits)}. Name one: {name}:CONFIG/SPLIT.")
    return next(iter(splits.values()))


def _in_folder(path: Path) -> dict[str, list[Path]]:
    files = of_one_kind(sorted(f for f in path.iterdir() if f.is_file()))
    if not files:
        raise DataError(f"{path}: holds no data file. Wanted: {', '.join(FORMATS)}, each also with .gz or .zst.")
    found: dict[str, list[Path]] = {}
    unknown = []
    for file in files:
        word = re.match(r"[a-z]*", file.name.lower())
        split = SPLIT_NAMES.get(word.group() if word else "")
        if split is None:
            unknown.append(file)
        else:
            found.setdefault(split, []).append(file)
    if unknown and found:
        names = ", ".join(f.name for f in unknown)
        raise DataError(
            f"{path}: beside files named train, dev or test stand {names}. Name the files to use, or move these away."
        )
    if unknown:
        return {"train": unknown}
    if "train" not in found:
        raise DataError(f"{path}: holds {', '.join(f.name for f in files)} and no training file. Name it train….")
    return found
