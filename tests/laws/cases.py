"""Forests for the laws of models, their sequences run one by one, and how far two results are apart."""

from __future__ import annotations

import torch
from tests import tiny
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.types import Forest

# Three trees, depth up to 3, prompts longer than tiny.WINDOW, siblings of unlike length that do not stand together.
SIZES = (11, 5, 3, 4, 2, 7, 1, 3, 3)
PARENT = (-1, 0, 1, 0, 1, -1, -1, 6, 6)


def forest(sizes: tuple[int, ...] = SIZES, parent: tuple[int, ...] = PARENT, seed: int = 0) -> Forest:
    """Random tokens; every token that is not in a root is learned, with unequal weights."""
    generator = torch.Generator().manual_seed(seed)
    stop = torch.tensor(sizes).cumsum(0)
    start = stop - torch.tensor(sizes)
    offset = [0] * len(sizes)
    for s, above in enumerate(parent):
        offset[s] = 0 if above < 0 else offset[above] + sizes[above]
    weights = torch.rand(int(stop[-1]), generator=generator) + 0.5
    for s, above in enumerate(parent):
        if above < 0:
            weights[start[s] : stop[s]] = 0
    return Forest(
        tokens=torch.randint(3, tiny.VOCABULARY, (int(stop[-1]),), generator=generator),
        positions=torch.cat([torch.arange(n) + o for n, o in zip(sizes, offset)]),
        weights=weights,
        start=start,
        stop=stop,
        parent=torch.tensor(parent),
        owner=torch.zeros(len(sizes), dtype=torch.int64),
        example_ids=("one",),
    )


def paths(batch: Forest) -> list[list[int]]:
    """Segments of each sequence, root first, one per leaf. Written apart from the package's own."""
    parent = batch.parent.tolist()
    found = []
    for leaf in (s for s in range(len(parent)) if s not in parent):
        path = []
        while leaf >= 0:
            path, leaf = [leaf, *path], parent[leaf]
        found.append(path)
    return found


def separate(model: PreTrainedModel, batch: Forest) -> Tensor:
    """Hidden states [N, D], each sequence by itself through the model's ordinary attention and default positions."""
    rows: dict[int, Tensor] = {}
    for path in paths(batch):
        index = [i for s in path for i in range(int(batch.start[s]), int(batch.stop[s]))]
        if model.config.is_encoder_decoder:
            hidden = _seq2seq(model, batch, path)
        else:
            hidden = model.base_model(input_ids=batch.tokens[index][None], use_cache=False).last_hidden_state[0]
        for place, token in enumerate(index):
            rows.setdefault(token, hidden[place])
    return torch.stack([rows[token] for token in range(batch.num_tokens)])


def _seq2seq(model: PreTrainedModel, batch: Forest, path: list[int]) -> Tensor:
    root, rest = batch.tokens[int(batch.start[path[0]]) : int(batch.stop[path[0]])], path[1:]
    begin = torch.tensor([model.config.decoder_start_token_id])
    after = [batch.tokens[int(batch.start[s]) : int(batch.stop[s])] for s in rest]
    output = model(
        input_ids=root[None],
        decoder_input_ids=torch.cat([begin, *after])[None],
        output_hidden_states=True,
        use_cache=False,
    )
    # The root's last position is the decoder's state at the start token.
    return torch.cat([output.encoder_last_hidden_state[0, :-1], output.decoder_hidden_states[-1][0]])


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def gradients_of(model: nn.Module, loss: Tensor) -> Tensor:
    """Of all parameters that the loss moves, in one row."""
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def assert_alike(model: nn.Module, mine: Tensor, theirs: Tensor) -> None:
    """Two losses of a model in value and gradient, of which there is one."""
    assert abs(mine.item() - theirs.item()) <= 1e-6 * abs(theirs.item()), (mine.item(), theirs.item())
    wanted = gradients_of(model, theirs)
    assert apart(gradients_of(model, mine), wanted) < 1e-6
    assert float(wanted.abs().max()) > 1e-6


def hidden_and_gradients(model: nn.Module, hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states, and gradients of a random linear function of all of them."""
    cotangent = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(5))
    return hidden.detach(), gradients(model, (hidden * cotangent.to(hidden.dtype)).sum())


def apart(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest wanted number; infinite where something is not finite."""
    found, wanted = found.detach(), wanted.detach()
    distance = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    return distance if distance == distance else float("inf")


def gradients_apart(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest over parameters, each relative to its own largest entry. Some gradients are 0 in exact arithmetic (a
    key's bias): none counts as smaller than a hundredth of the largest of all."""
    assert found.keys() == wanted.keys()
    least = 1e-2 * max(float(g.abs().max()) for g in wanted.values())
    worst = max(
        float((found[n] - wanted[n]).abs().max()) / max(float(wanted[n].abs().max()), least, 1e-30) for n in wanted
    )
    return worst if worst == worst else float("inf")
