"""`tunesmith sweep --range`: a learning rate from one short training in which it rises (a range test).

Smith 2017, arXiv:1506.01186, section 3.3. That the rate rises by a factor, that the loss is smoothed, and what is
taken (a tenth of the rate at which the smoothed loss is least) are fastai's (Howard and Gugger 2020, arXiv:2002.04688).
No row of dev or test is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tunesmith import reference
from tunesmith.build import Material, compute, learning_rate, load_base, material
from tunesmith.data.feed import FileFeed
from tunesmith.engine.cuts import Cuts
from tunesmith.engine.loop import train
from tunesmith.engine.schedule import Schedule
from tunesmith.errors import NotFinite, PlanError, RunError
from tunesmith.files import write_json, write_text
from tunesmith.fitted import Fitted, fit_or_halve
from tunesmith.folder import RunFolder, Teller, peak_gib
from tunesmith.models.load import Base
from tunesmith.probing import start_head
from tunesmith.recipe import Recipe, place
from tunesmith.report import range_page
from tunesmith.sources import check_files
from tunesmith.speeds import session_of
from tunesmith.trial import Ended, put_away

MOST_UPDATES, LEAST_UPDATES = 100, 20
BY = 100.0  # the rate goes from the usual one, divided by this, to the usual one times this
ROSE = 2.0  # times the least smoothed loss: it ends there
TAKEN = 0.1  # of the rate at which the smoothed loss is least


@dataclass(frozen=True, slots=True)
class Rising(Schedule):
    """Each update's rate is that of the one before times the same factor; the last has the peak."""

    def factor(self, update: int, num_updates: int) -> float:
        return float(BY ** (2 * (update / (num_updates - 1) - 1)))


@dataclass(slots=True)
class Heard:
    """A listener that keeps what each update came to, and ends the training where the loss has risen."""

    tell: Teller
    num_updates: int
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)

    def __call__(self, update: int, facts: Mapping[str, float]) -> None:
        self.rates.append(facts["lr"])
        self.losses.append(facts["loss"])
        self.smoothed = smooth(self.losses, self.num_updates)
        self.tell.updated(update, self.num_updates, {**facts, "peak_gib": peak_gib()})
        if self.smoothed[-1] > ROSE * min(self.smoothed):
            raise Ended("rose", f"the loss had risen to {ROSE:g} times its least")


def smooth(losses: list[float], num_updates: int) -> list[float]:
    """An exponential mean over about a tenth of the updates, without the zero that it begins with (Adam's
    correction)."""
    keep = max(0.0, 1 - 10 / num_updates)
    found, mean = [], 0.0
    for k, loss in enumerate(losses, 1):
        mean = keep * mean + (1 - keep) * loss
        found.append(mean / (1 - keep**k))
    return found


def rate_range(recipe: Recipe, text: str, out: Path, tell: Teller) -> dict[str, Any]:
    """The training, and range.json, which is returned; range.html, and best.yaml with the rate. Nothing is left of one
    that was stopped."""
    check_files(recipe)
    folder = RunFolder.open(out, tell, resume=False)
    try:
        with folder.stop:
            facts, lr = tried(recipe, folder)
        settings = yaml.safe_load(text) or {}
        place(settings, "train.lr", lr)
        head = "# The learning rate is that of tunesmith sweep --range.\n"
        write_text(out / "best.yaml", head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        write_text(out / "range.html", range_page.page(facts, out.name))
        write_json(out / "range.json", facts)
        return facts
    except BaseException:
        folder.take_back()
        raise
    finally:
        folder.close()


def tried(recipe: Recipe, folder: RunFolder) -> tuple[dict[str, Any], float]:
    """(range.json, the rate to take)."""
    folder.tell.stage("prepare", None)
    where = compute(recipe)
    with folder.doing("model loaded and probed"):
        base = load_base(recipe, where, learns=True)
    made = put_away(material(recipe, base, step=folder.tell.step))
    if made.kind.rewards:
        raise PlanError("a range test reads a training loss off its rows, and here each update samples its own replies")
    start_head(recipe, folder, base, made)
    _, base, fitted = fit_or_halve(recipe, base, made, where)
    usual, _ = learning_rate(replace(recipe, train=replace(recipe.train, lr="auto")), base, made.kind, MOST_UPDATES)
    num = min(MOST_UPDATES, fitted.feed.num_updates)
    if num < LEAST_UPDATES:
        raise PlanError(
            f"a range test needs {LEAST_UPDATES} updates, and the rows give {num}: more train.epochs, or a smaller "
            "train.update_tokens (which changes what rate is right)"
        )
    folder.tell.stage(f"range test: {num} updates, rates {usual / BY:.1e} to {usual * BY:.1e}", None)
    heard, why = risen(fitted, folder, base, made, usual * BY, num)
    return read(heard, usual, num, why)


def risen(
    fitted: Fitted, folder: RunFolder, base: Base, made: Material, peak: float, num: int
) -> tuple[Heard, str]:  # fmt: skip
    """What was heard of the training, and why it ended before its last update ("" where it did not)."""
    feed, recipe = fitted.feed, fitted.recipe
    assert isinstance(feed, FileFeed), "nothing is sampled here"
    recipe = replace(recipe, train=replace(recipe.train, max_updates=num, on_nan="abort", lr=peak, schedule=Rising()))
    made = replace(made, dev=replace(made.dev, records=()))  # or the base is asked of dev's pairs too
    session, heard = session_of(fitted, base, Cuts()), Heard(folder.tell, num)
    try:
        state, _ = reference.begin(recipe, folder, session, made, feed)
        train(session, state, feed, num, [heard])
    except Ended as ended:
        return heard, str(ended)
    except NotFinite:
        return heard, "the loss was no number any more"
    finally:
        session.close()
    return heard, ""


def read(heard: Heard, usual: float, num: int, why: str) -> tuple[dict[str, Any], float]:
    """(range.json, the rate to take)."""
    least = min(range(len(heard.smoothed)), key=heard.smoothed.__getitem__) if heard.smoothed else 0
    if least < num // 10:
        raise RunError(
            f"the loss never fell: it was least at {heard.rates[least]:.1e}, one of the lowest rates. Say train.lr "
            "yourself, or look for what cannot be learned: `tunesmith audit`" if heard.rates
            else "the loss was no number from the first update on: look at the rows (`tunesmith audit`), or try "
            "--set precision=float32"
        )  # fmt: skip
    lr = float(f"{TAKEN * heard.rates[least]:.2g}")
    facts = {"lr": lr, "least_at": heard.rates[least], "usual": usual, "num_updates": num, "ended": why,
             "rates": heard.rates, "losses": heard.losses, "smoothed": heard.smoothed}  # fmt: skip
    return facts, lr
