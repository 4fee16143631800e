"""What a model with a new class head is worth before it is tuned: linear probes on its frozen states.

The base of a classifier that has no head yet is the better, on dev, of two probes fitted on the training rows: on the
pooled state that the model's own head reads, and on the mean of its last hidden states. The first is put into the head,
so training begins at it (Kumar et al. 2022, arXiv:2202.10054). docs/design/encoders.md says what was rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tunesmith.build import Material, drawn
from tunesmith.data.pack import pack
from tunesmith.engine.session import Session
from tunesmith.evals.linear_probe import fit_each, fit_linear
from tunesmith.evals.score import Answer, all_that_fit
from tunesmith.files import save_tensors
from tunesmith.folder import RunFolder
from tunesmith.models.class_head import KEPT, head_tensors, last_linear
from tunesmith.models.load import Base
from tunesmith.models.rows import both_states
from tunesmith.recipe import Recipe
from tunesmith.types import Message, Record, Segment

NAME = KEPT  # where training begins
MEAN_WEIGHT, MEAN_BIAS = "mean_probe.weight", "mean_probe.bias"
MOST_ROWS = 2000  # training rows that a probe is fitted on, drawn by the hash of their ids


def start_head(recipe: Recipe, folder: RunFolder, base: Base, made: Material) -> None:
    """Give a base without a class head of its own one that is a probe. What is resumed has it already, and a run that
    goes on from another has that one's: the base is that of the lineage."""
    if not base.fresh:
        return
    path = folder.path / NAME
    if made.before is not None and not path.is_file():
        save_tensors(load_file(made.before.folder / NAME), path)
    if not path.is_file():
        with folder.doing("linear probes of the base fitted; the class head starts as one"):
            save_tensors(fitted(recipe, base, made), path)
    read_head(base, path)


def read_head(base: Base, path: Path) -> None:
    """The class head that a run began with."""
    put_head(base, load_file(path))


@torch.no_grad()
def put_head(base: Base, kept: Mapping[str, Tensor]) -> None:
    for name, parameter in head_tensors(base.model).items():
        parameter.copy_(kept[name])
    base.mean_probe = kept[MEAN_WEIGHT], kept[MEAN_BIAS]


@torch.no_grad()
def fitted(recipe: Recipe, base: Base, made: Material) -> dict[str, Tensor]:
    """The tensors of the class head, whose last layer is a probe on what it reads, and the probe on the mean state."""
    name, layer = last_linear(base.model)
    records, y = learned_rows(made)
    texts = [Record(r.example_id, r.segments[:1]) for r in records]
    pooled, mean = states(recipe, base, texts)
    fit = fit_each if made.renderer.several else partial(fit_linear, num_classes=len(made.labels))
    own, other = fit(pooled, y, bias=layer.bias is not None), fit(mean, y, bias=True)
    found = {n: p.detach().cpu().clone() for n, p in head_tensors(base.model).items()}
    found |= {f"{name}.{k}": torch.from_numpy(v).to(layer.weight.dtype) for k, v in zip(("weight", "bias"), own)
              if f"{name}.{k}" in found}  # fmt: skip
    return found | {MEAN_WEIGHT: torch.from_numpy(other[0]), MEAN_BIAS: torch.from_numpy(other[1])}


def learned_rows(made: Material) -> tuple[list[Record], np.ndarray]:
    """Some training records, and the number of each one's class [n]; of several that may fit, which do [n, C]."""
    some = {e.id for e in drawn(made.split.train, MOST_ROWS)}
    records = [r for r in made.train.records if r.example_id in some]
    answers = np.stack([r.segments[1].tokens for r in records])
    return records, answers % 2 == 1 if made.renderer.several else answers[:, 0]


@torch.no_grad()
def states(recipe: Recipe, base: Base, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """(pooled, mean), each [n, D] float64, in the order of the records, which are texts alone."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for forest in pack(records, recipe.train.micro, base.rope, share_prefix=False):
        at, *both = both_states(base.model, forest.to(base.model.device))
        order = forest.owner[torch.searchsorted(forest.stop, at.cpu(), right=True)].tolist()
        pooled, mean = (rows.double().cpu().numpy() for rows in both)
        found |= {forest.example_ids[k]: (p, m) for k, p, m in zip(order, pooled, mean, strict=True)}
    pooled, mean = (np.stack(rows) for rows in zip(*(found[r.example_id] for r in records)))
    return pooled, mean


def by_mean(session: Session, recipe: Recipe, made: Material, prompts: Sequence[Sequence[Message]]) -> list[Answer]:
    """The base's answers by the probe on the mean state."""
    base = session.base
    assert base.mean_probe is not None
    weight, bias = (t.numpy() for t in base.mean_probe)
    tokens = [np.array(made.renderer.prompt(p), np.int64) for p in prompts]
    texts = [Record(str(i), (Segment(t, np.zeros(len(t), np.float32)),)) for i, t in enumerate(tokens)]
    with session.borrowed(None):
        logits = states(recipe, base, texts)[1] @ weight.T + bias
    if made.renderer.several:
        return [all_that_fit(row, made.labels) for row in -np.logaddexp(0, -logits)]
    logp = logits - np.logaddexp.reduce(logits, 1, keepdims=True)
    return [
        Answer(made.labels[int(row.argmax())], True, 0, float(np.exp(row.max())), tuple(map(float, row)))
        for row in logp
    ]
