"""Nested training sets: the rows of each size stand in every larger one."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from dataclasses import replace

import numpy as np

from tunesmith.build import Material
from tunesmith.data.mixture import Mixture
from tunesmith.data.split import keys_of
from tunesmith.data.stored import Chosen
from tunesmith.errors import PlanError


def nested_order(made: Material) -> np.ndarray:
    """Numbers of the training examples that can be learned from, in an order by hash in which groups stay together; of
    several sources in turn, so that each size has its share of each, and a row at least."""
    stops = [part.stop for part in made.mixture.parts] if made.mixture else []
    source = {r.example_id: bisect_right(stops, k) for k, r in enumerate(made.train.records)}
    examples = made.split.train
    keys = [hashlib.sha256(bytes(k)).digest() for k in keys_of(examples)]
    ids = [e.id for e in examples]
    usable = sorted((i for i, name in enumerate(ids) if name in source), key=lambda i: (keys[i], ids[i]))
    sizes, before = Counter(source.values()), Counter[int]()
    places = []
    for i in usable:
        number = source[ids[i]]
        places.append((before[number] / sizes[number], number))
        before[number] += 1
    return np.array([i for _, i in sorted(zip(places, usable), key=lambda one: one[0])])


def smaller(made: Material, order: np.ndarray, num: int) -> Material:
    """With the first `num` rows of the order alone."""
    at = np.sort(order[:num])
    examples = Chosen(made.split.train, at)
    names = {e.id for e in examples}
    records = [k for k, r in enumerate(made.train.records) if r.example_id in names]
    train = replace(made.train, records=Chosen(made.train.records, np.array(records)))
    mixture = made.mixture and of_fewer(made.mixture, np.array(records))
    return replace(made, train=train, split=replace(made.split, train=examples), mixture=mixture)


def of_fewer(mixture: Mixture, records: np.ndarray) -> Mixture:
    """Of these records, by number and in order: an epoch has as many fewer of each source as there are fewer rows."""
    share, parts = len(records) / mixture.parts[-1].stop, []
    for part in mixture.parts:
        begin, stop = np.searchsorted(records, [part.begin, part.stop]).tolist()
        if begin == stop:
            raise PlanError(f"the smallest size has no row of source {part.name}: leave it out, or give more rows")
        parts.append(replace(part, begin=begin, stop=stop, quota=max(1, round(share * part.quota))))
    return replace(mixture, parts=tuple(parts))
