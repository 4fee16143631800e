"""No dropout while a model learns against a reference: the two would differ by what was dropped."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from tunesmith.roles import Regulariser, Site


def drops(module: nn.Module) -> list[str]:
    """Names of its shares that are dropped, in a module made for it or by a function in another's forward pass."""
    is_one = isinstance(module, nn.Dropout)
    return [n for n, v in vars(module).items() if isinstance(v, float) and v > 0 and ("drop" in n or is_one)]


class Still(Regulariser):
    """Shares are 0 during the passes of an update, and as they were behind it."""

    def attach(self, site: Site) -> Callable[[], None]:
        there = [(module, name, vars(module)[name]) for module in site.model.modules() for name in drops(module)]
        for module, name, _ in there:
            setattr(module, name, 0.0)

        def undo() -> None:
            for module, name, share in there:
                setattr(module, name, share)

        return undo
