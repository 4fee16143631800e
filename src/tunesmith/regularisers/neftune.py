"""NEFTune (Jain et al. 2023, arXiv:2310.05914): uniform noise on the embeddings while training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.models.noise import BITS, key_of, uniform
from tunesmith.roles import Regulariser, Site

SALT = key_of("neftune")


def noise(keys_N: Tensor, lengths_N: Tensor, width: int, seed: int, alpha: float) -> Tensor:
    """[N, D] float32, uniform in +-alpha / sqrt(L D); L is the length of the sequence that the token is in."""
    unit = uniform(keys_N, width, SALT ^ seed).float() * 2.0 ** (1 - BITS) - 1
    return unit * (alpha / (lengths_N * width).float().sqrt())[:, None]


class NEFTune(Regulariser):
    """`alpha`: 5 to 15 in the paper; 0 adds nothing."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def attach(self, site: Site) -> Callable[[], None]:
        if self.alpha == 0:
            return lambda: None
        assert isinstance(site.model, PreTrainedModel)

        def noisy(_: nn.Module, __: Any, embedded: Tensor) -> Tensor:
            keys, lengths = site.noise.keys, site.noise.lengths
            assert keys is not None
            assert lengths is not None
            assert embedded.shape[:-1] == (1, len(keys)), "NEFTune knows the forest layout only"
            drawn = noise(keys, lengths, embedded.shape[-1], site.noise.seed, self.alpha)
            return embedded + drawn.to(embedded.dtype)

        handle = site.model.get_input_embeddings().register_forward_hook(noisy)
        return handle.remove
