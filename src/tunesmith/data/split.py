"""Train, dev and test by the hash of the prompt, or of the group. A ledger remembers: relabelling or adding rows moves
none.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.errors import DataError
from tunesmith.types import Example

SPLITS = ("train", "dev", "test")
LEDGER_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Moved:
    """An example that was taken out of a split because its key also stands in another one."""

    example_id: str
    source: str  # file:line
    out_of: str
    stands_in: str


@dataclass(slots=True)
class Ledger:
    """Which split a key belongs to. Keys are hashes: no text of the user stands in it."""

    splits: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Complete or not at all."""
        partial = path.with_name(f".partial_{path.name}")
        with partial.open("w", encoding="utf-8") as file:
            json.dump({"format": LEDGER_FORMAT, "splits": self.splits}, file, indent=0, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> Ledger:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: the split ledger cannot be read ({error}). Restore it, or start a new run."
            ) from error
        splits = found.get("splits") if isinstance(found, dict) and found.get("format") == LEDGER_FORMAT else None
        if not isinstance(splits, dict) or not set(splits.values()) <= set(SPLITS):
            raise DataError(f"{path}: is no split ledger of format {LEDGER_FORMAT}. Restore it, or start a new run.")
        return cls(splits)


@dataclass(frozen=True, slots=True)
class Split:
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    ledger: Ledger  # with the new keys
    moved: tuple[Moved, ...]


def key(example: Example) -> str:
    """What must not stand in two splits: the group, or else the prompt without differences of case, width and white
    space.
    """
    if example.group is not None:
        return hashlib.sha256(f"group\0{example.group}".encode()).hexdigest()[:20]
    turns = [f"{m.role}\0{normalised(m.content)}" for m in example.prompt]
    return hashlib.sha256("\0\0".join(["prompt", *turns]).encode()).hexdigest()[:20]


def normalised(text: str) -> str:
    """Without differences of case, width and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def split(
    examples: Sequence[Example],
    dev_frac: float,
    test_frac: float,
    salt: str,
    *,
    ledger: Ledger | None = None,
    given: Mapping[str, Sequence[Example]] | None = None,
) -> Split:
    """Every example in exactly one split, all of a key together.

    `given`: examples of explicit "dev" or "test" files. They are what their files say, and examples of the training
    file whose key also stands there are taken out of train. What is not given is drawn from `examples`: a key's place
    follows from the salt and the key alone.
    """
    given = dict(given or {})
    assert set(given) <= {"dev", "test"}, f"unknown split in {sorted(given)}"
    _check_fractions(dev_frac, test_frac)
    known = dict(ledger.splits) if ledger else {}
    fixed = _fixed_keys(given, known)
    parts: dict[str, list[Example]] = {name: [] for name in SPLITS}
    moved: list[Moved] = []
    for example in given.get("test", ()):
        parts["test"].append(example)
    for example in given.get("dev", ()):
        place = fixed[key(example)]
        if place == "dev":
            parts["dev"].append(example)
        else:
            moved.append(Moved(example.id, example.source, "dev", place))
    fractions = {"dev": 0.0 if "dev" in given else dev_frac, "test": 0.0 if "test" in given else test_frac}
    for example in examples:
        k = key(example)
        place = fixed.get(k) or known.get(k) or _drawn(k, salt, fractions)
        if place in given:
            moved.append(Moved(example.id, example.source, "train", place))
        else:
            parts[place].append(example)
            known[k] = place
    known.update(fixed)
    _refuse_empty(parts, given, fractions, len(examples))
    return Split(tuple(parts["train"]), tuple(parts["dev"]), tuple(parts["test"]), Ledger(known), tuple(moved))


def _check_fractions(dev_frac: float, test_frac: float) -> None:
    if dev_frac < 0 or test_frac < 0 or dev_frac + test_frac >= 1:
        raise DataError(
            f"dev_frac {dev_frac} and test_frac {test_frac} leave nothing to train on. Wanted: from 0 up, together "
            "below 1 (0.1 each is usual)."
        )


def _fixed_keys(given: Mapping[str, Sequence[Example]], known: Mapping[str, str]) -> dict[str, str]:
    """The split of each key of the given files; test goes before dev. What the ledger has elsewhere is refused."""
    fixed = {key(e): "dev" for e in given.get("dev", ())} | {key(e): "test" for e in given.get("test", ())}
    for name, files in given.items():
        elsewhere = [e for e in files if fixed[key(e)] == name and known.get(key(e), name) != name]
        if elsewhere:
            raise DataError(
                f"{len(elsewhere)} rows of the {name} file ({elsewhere[0].source} is the first) stand in "
                f"{known[key(elsewhere[0])]} in the "
                "split ledger, and a row never changes its split. Take them out of the file, or start a new run with "
                "a new ledger."
            )
    return fixed


def _drawn(k: str, salt: str, fractions: Mapping[str, float]) -> str:
    """Uniform in [0, 1) from salt and key: the test set is at its lower end, dev behind it."""
    at = int.from_bytes(hashlib.sha256(f"{salt}\0{k}".encode()).digest()[:8], "big") / 2**64
    if at < fractions["test"]:
        return "test"
    return "dev" if at < fractions["test"] + fractions["dev"] else "train"


def _refuse_empty(
    parts: Mapping[str, list[Example]],
    given: Mapping[str, Sequence[Example]],
    fractions: Mapping[str, float],
    num_examples: int,
) -> None:
    num_keys = len({key(e) for part in parts.values() for e in part})
    what = f"of {num_examples} examples with {num_keys} different prompts or groups"
    if not parts["test"]:
        raise DataError(
            f"the test split is empty ({what}), so nothing could be proven. Give a test file, or a larger test_frac, "
            "or more data."
        )
    if not parts["dev"] and ("dev" in given or fractions["dev"] > 0):
        raise DataError(
            f"the dev split is empty ({what}). Give a dev file, a larger dev_frac or more data; dev_frac 0 does "
            "without."
        )
    if not parts["train"]:
        raise DataError(
            f"the training split is empty ({what}): every row went to dev or test, or stands there too. Give more data."
        )
