"""Knowledge distillation: a frozen teacher's distribution is the target (Hinton et al. 2015, arXiv:1503.02531).

L = (1 - share) CE + share T^2 KL, both distributions at temperature T, at each learned token. Forward KL(teacher ||
tuned) covers all that the teacher thinks possible; reverse KL(tuned || teacher) prefers its likeliest answers (Gu et
al. 2023, arXiv:2306.08543, there on answers of the tuned model itself; here on the tokens of the data).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from tunesmith.objectives.sft import SFT
from tunesmith.roles import Output
from tunesmith.types import Forest, Loss, Ratio, Shared


@dataclass(frozen=True, slots=True)
class Distil:
    """A teacher beside the model that learns."""

    share: float = 0.0  # of the loss that the teacher has, 0.5 to 1; the rest is that of the data's own tokens; 0: off
    teacher: str = ""  # a larger model with the same tokenizer: a name, or a folder such as runs/big/merged
    temperature: float = 2.0  # both are softened by it; 1 takes the teacher as it is, 2 to 4 shows more of its doubts
    kl: Literal["forward", "reverse"] = "forward"  # forward learns all that the teacher may say; reverse its favourites


def tempered_kl(mine: Tensor, theirs: Tensor, temperature: float, *, reverse: bool) -> Tensor:
    """T^2 KL(theirs || mine) in nats, [c], of logits [c, V]; with `reverse` T^2 KL(mine || theirs).

    T^2 keeps the gradient's size whatever T is (Hinton et al. 2015, section 2). One of the two may have rows of its
    embeddings that no token has, behind the others: they are left out.
    """
    common = min(mine.shape[-1], theirs.shape[-1])
    p, q = ((x[..., :common] / temperature).log_softmax(-1) for x in (mine, theirs))
    if not reverse:
        p, q = q, p
    return temperature**2 * (p.exp() * (p - q)).sum(-1)


class Distilled(SFT):
    """`inner`: the loss of the data's own tokens; `asked.share` is above 0."""

    needs = frozenset({"teacher"})

    def __init__(self, inner: SFT, asked: Distil) -> None:
        assert not inner.needs
        self.inner, self.asked = inner, asked

    def linear_weights(self, batch: Forest) -> Tensor | None:
        return None

    def __call__(self, output: Output, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss:
        asked = self.asked
        tokens = self.inner(output, batch, None, others)
        each = output.over_vocab(
            lambda mine, theirs: tempered_kl(mine, theirs, asked.temperature, reverse=asked.kl == "reverse"),
            others["teacher"],
        )
        total = (each * output.weight).sum()
        found = {"distil_nats_per_token": Ratio(total.detach(), self.count(batch))}
        return Loss((1 - asked.share) * tokens.total + asked.share * total, tokens.stats | found)
