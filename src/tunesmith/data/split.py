"""Train, dev and test, near copies on one side. A ledger remembers: relabelling or adding rows moves none."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunesmith.data import alike
from tunesmith.data.drawn import Drawing, drawn, named
from tunesmith.data.stored import Chosen, Stored, listed
from tunesmith.data.together import clusters, have_copies, templates
from tunesmith.data.traits import column, key
from tunesmith.errors import DataError
from tunesmith.types import Example

__all__ = ["SPLITS", "Ledger", "Moved", "Split", "key", "keys_of", "split"]

SPLITS = ("train", "dev", "test")
OLD = len(SPLITS)  # the place of a held-out case of the run that this one goes on from: it stands in none of them
BETWEEN = OLD + 1  # that of a new row whose near copies stand in two; no ledger keeps it
PLACES = (*SPLITS, "old", "two splits")
LEDGER_FORMAT = 1
ENTRY = re.compile(r'"([0-9a-f]{20})": "(train|dev|test|old)",?')
PIECE = 4096  # keys that are text at a time


@dataclass(frozen=True, slots=True)
class Moved:
    """An example that was taken out of a split because its key also stands in another one."""

    example_id: str
    source: str  # file:line
    out_of: str
    stands_in: str


class Ledger:
    """Which split a key belongs to. Keys are hashes: no text of the user stands in it. 11 bytes of memory a key."""

    def __init__(self, keys: np.ndarray | None = None, places: np.ndarray | None = None) -> None:
        """`keys` [n] as in `alike`, `places` [n] as indices into PLACES. Of equal keys the first one counts."""
        if keys is None or places is None:
            keys, places = np.empty(0, alike.DTYPE), np.empty(0, np.int8)
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        del order
        is_first = np.ones(len(keys), bool)
        is_first[1:] = keys[1:] != keys[:-1]
        self._keys, self._places = (keys, places) if is_first.all() else (keys[is_first], places[is_first])

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def content(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys, sorted, and the place of each."""
        return self._keys, self._places

    def places(self, keys: np.ndarray) -> np.ndarray:
        """Of each key the index into PLACES, int8; -1 where it is not known."""
        at = alike.places(self._keys, keys)
        return np.where(at >= 0, self._places[at], -1).astype(np.int8) if len(self) else np.full(len(at), -1, np.int8)

    def handed_on(self) -> Ledger:
        """For a run that goes on from this one with new data: what was held out here is learned from nowhere."""
        return Ledger(self._keys, np.where(self._places == SPLITS.index("test"), OLD, self._places).astype(np.int8))

    def joined(self, keys: np.ndarray, places: np.ndarray) -> Ledger:
        """With these keys, which win over those that are there."""
        if not len(self):
            return Ledger(keys, places)
        return Ledger(np.concatenate([keys, self._keys]), np.concatenate([places, self._places]))

    def save(self, path: Path) -> None:
        """Complete or not at all."""
        partial = path.with_name(f".partial_{path.name}")
        with partial.open("w", encoding="utf-8") as file:
            file.write(f'{{\n"format": {LEDGER_FORMAT},\n"splits": {{')
            for at in range(0, len(self), PIECE):
                names = alike.to_hex(self._keys[at : at + PIECE])
                lines = [f'"{n}": "{PLACES[p]}"' for n, p in zip(names, self._places[at : at + PIECE].tolist())]
                file.write(("," if at else "") + "\n" + ",\n".join(lines))
            file.write("\n}\n}")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> Ledger:
        """Line by line, as it was saved; what stands otherwise in the file is read as JSON."""
        keys, places, other = bytearray(), bytearray(), []
        try:
            with path.open(encoding="utf-8") as file:
                for line in file:
                    if found := ENTRY.fullmatch(line.strip()):
                        keys += bytes.fromhex(found[1])
                        places.append(PLACES.index(found[2]))
                    else:
                        other.append(line)
            found = json.loads("".join(other))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: the split ledger cannot be read ({error}). Restore it, or start a new run."
            ) from error
        rest = found.get("splits") if isinstance(found, dict) and found.get("format") == LEDGER_FORMAT else None
        if not isinstance(rest, dict) or not all(ENTRY.fullmatch(f'"{k}": "{v}"') for k, v in rest.items()):
            raise DataError(f"{path}: is no split ledger of format {LEDGER_FORMAT}. Restore it, or start a new run.")
        keys += bytes.fromhex("".join(rest))
        places += bytes(PLACES.index(place) for place in rest.values())
        return cls(np.frombuffer(keys, alike.DTYPE), np.frombuffer(places, np.int8))


@dataclass(frozen=True, slots=True)
class Split:
    train: Sequence[Example]
    dev: Sequence[Example]
    test: Sequence[Example]
    ledger: Ledger  # with the new keys
    moved: Sequence[Moved]
    num_together: int = 0  # rows that were put on one side with near copies of them
    num_apart: int = 0  # rows with too many near copies for that: they were drawn one by one


def keys_of(examples: Sequence[Example]) -> np.ndarray:
    return column(examples, "key")


def split(
    examples: Sequence[Example],
    dev_frac: float,
    test_frac: float,
    salt: str,
    *,
    ledger: Ledger | None = None,
    given: Mapping[str, Sequence[Example]] | None = None,
    drawing: Drawing = Drawing(),  # noqa: B008 (frozen)
) -> Split:
    """Every example in exactly one split, all of a key together.

    `given`: examples of explicit "dev" or "test" files. They are what their files say, and examples of the training
    file whose key also stands there are taken out of train. What is not given is drawn from `examples`, as `drawing`
    says; what the ledger knows stays where it is.
    """
    given = dict(given or {})
    assert set(given) <= {"dev", "test"}, f"unknown split in {sorted(given)}"
    _check_fractions(dev_frac, test_frac)
    known, moved = Ledger() if ledger is None else ledger, listed(Moved)
    given = {name: _new_only(name, files, known, moved) for name, files in given.items()}
    fixed, of_given = Ledger(), {name: keys_of(files) for name, files in given.items()}
    for name in sorted(given):  # test goes before dev
        fixed = fixed.joined(of_given[name], np.full(len(given[name]), SPLITS.index(name), np.int8))
    _refuse_other_places(given, of_given, fixed, known)
    fractions = {"dev": 0.0 if "dev" in given else dev_frac, "test": 0.0 if "test" in given else test_frac}
    keys = keys_of(examples)
    placed = _placed(examples, keys, _stands(keys, (fixed, known)), salt, fractions, drawing)
    places = placed.places
    is_out = np.isin(places, [OLD, BETWEEN, *map(SPLITS.index, given)])
    parts = dict(given)
    if "dev" in given:
        stands = fixed.places(of_given["dev"])
        parts["dev"] = Chosen(given["dev"], np.flatnonzero(stands == SPLITS.index("dev")))
        _tell_moved(given["dev"], stands, stands != SPLITS.index("dev"), "dev", moved)
    _tell_moved(examples, places, is_out, "train", moved)
    for number, name in enumerate(SPLITS):
        if name not in given:
            parts[name] = Chosen(examples, np.flatnonzero(places == number))
    if is_out.any():
        keys, places = keys[~is_out], places[~is_out]
    after = known.joined(keys, places).joined(*fixed.content)
    _refuse_empty(parts, given, fractions, len(examples))
    return Split(
        parts["train"], parts["dev"], parts["test"], after, moved, placed.num_together, placed.num_apart
    )  # fmt: skip


def _new_only(name: str, files: Sequence[Example], known: Ledger, moved: Stored[Moved]) -> Sequence[Example]:
    """A file's examples but for those that an earlier run of the lineage held out, which are asked anyway."""
    stands = known.places(keys_of(files))
    is_known = stands == OLD
    if not is_known.any():
        return files
    if is_known.all():
        raise DataError(
            f"all {len(files)} rows of the {name} file ({files[0].source} is the first) are held-out cases of the run "
            "that this one goes on from, and those are asked anyway. Give a file of new cases, or leave it out: then a "
            "share of the new rows is held out"
        )
    _tell_moved(files, stands, is_known, name, moved)
    return Chosen(files, np.flatnonzero(~is_known))


def _tell_moved(
    examples: Sequence[Example], places: np.ndarray, is_moved: np.ndarray, out_of: str, into: Stored[Moved]
) -> None:
    for at in np.flatnonzero(is_moved).tolist():
        into.append(Moved(examples[at].id, examples[at].source, out_of, PLACES[places[at]]))


def _check_fractions(dev_frac: float, test_frac: float) -> None:
    if dev_frac < 0 or test_frac < 0 or dev_frac + test_frac >= 1:
        raise DataError(
            f"dev_frac {dev_frac} and test_frac {test_frac} leave nothing to train on. Wanted: from 0 up, together "
            "below 1 (0.1 each is usual)."
        )


def _refuse_other_places(
    given: Mapping[str, Sequence[Example]], of_given: Mapping[str, np.ndarray], fixed: Ledger, known: Ledger
) -> None:
    """What the ledger has in another split than the files say."""
    for name, files in given.items():
        stands, before = fixed.places(of_given[name]), known.places(of_given[name])
        number = SPLITS.index(name)
        elsewhere = np.flatnonzero((stands == number) & (before >= 0) & (before != number)).tolist()
        if len(elsewhere):
            raise DataError(
                f"{len(elsewhere)} rows of the {name} file ({files[elsewhere[0]].source} is the first) stand in "
                f"{SPLITS[before[elsewhere[0]]]} in the "
                "split ledger, and a row never changes its split. Take them out of the file, or start a new run with "
                "a new ledger."
            )


def _stands(keys: np.ndarray, ledgers: Sequence[Ledger]) -> np.ndarray:
    """Of each key the index into PLACES, int8, as the first ledger says that knows it; -1 where none does."""
    found = np.full(len(keys), -1, np.int8)
    for begin in range(0, len(keys), PIECE):
        here = found[begin : begin + PIECE]
        for ledger in ledgers:
            np.copyto(here, ledger.places(keys[begin : begin + PIECE]), where=here < 0)
    return found


@dataclass(frozen=True, slots=True)
class _Placed:
    places: np.ndarray  # [n] indices into PLACES, int8
    num_together: int = 0
    num_apart: int = 0


def _placed(
    examples: Sequence[Example], keys: np.ndarray, stands: np.ndarray, salt: str, fractions: Mapping[str, float],
    drawing: Drawing,
) -> _Placed:  # fmt: skip
    """Rows that no ledger knows (-1 in `stands`) go where their near copies are, else where they are drawn."""
    places, names = stands.copy(), keys
    if not (places < 0).any():
        return _Placed(places)
    num_together = num_apart = 0
    if drawing.near_together:
        cluster, alone = clusters(examples, drawing.step), alike.first_like(keys)
        is_template = templates(cluster)
        cluster = np.where(is_template, alone, cluster)
        num_together, num_apart = int(have_copies(cluster, alone).sum()), int(is_template.sum())
        places, names = _beside(cluster, places), named(keys, cluster)
    new = np.flatnonzero(places < 0)
    places[new] = drawn(Chosen(examples, new), names[new], salt, fractions, drawing.by)
    return _Placed(places, num_together, num_apart)


def _beside(cluster: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Of a cluster with rows that have their place the others get it too; where it has rows in two places, the others
    would bring these together, and go to neither."""
    first, last = np.full(len(places), len(PLACES), np.int8), np.full(len(places), -1, np.int8)
    known = places >= 0
    np.minimum.at(first, cluster[known], places[known])
    np.maximum.at(last, cluster[known], places[known])
    of_others = np.where((last >= 0) & (first != last), BETWEEN, last)[cluster]
    return np.where(known, places, of_others).astype(np.int8)


def _refuse_empty(
    parts: Mapping[str, Sequence[Example]],
    given: Mapping[str, Sequence[Example]],
    fractions: Mapping[str, float],
    num_examples: int,
) -> None:
    may_lack_dev = "dev" not in given and not fractions["dev"]
    if all(part or (name == "dev" and may_lack_dev) for name, part in parts.items()):
        return
    num_keys = len(np.unique(np.concatenate([keys_of(part) for part in parts.values()])))
    what = f"of {num_examples} examples with {num_keys} different prompts or groups"
    if not parts["test"]:
        raise DataError(
            f"the test split is empty ({what}), so nothing could be proven. Give a test file, or a larger test_frac, "
            "or more data."
        )
    if not parts["dev"] and not may_lack_dev:
        raise DataError(
            f"the dev split is empty ({what}). Give a dev file, a larger dev_frac or more data; dev_frac 0 does "
            "without."
        )
    if not parts["train"]:
        raise DataError(
            f"the training split is empty ({what}): every row went to dev or test, or stands there too. Give more data."
        )
