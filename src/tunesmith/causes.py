"""`tunesmith next`: from the files of a run, what most likely held it back, with the figures, and what to try instead.

Rules, not guesses: each looks at numbers that the run measured, names them, and says which keys to change. The limits
are stated here, and are conventions; none was fitted to data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tunesmith.build import PAIRS_SLOWER
from tunesmith.errors import InputError
from tunesmith.heritage import new_data
from tunesmith.importing.reading import flat
from tunesmith.opened import kept_recipe
from tunesmith.recipe import Recipe, parse, place, read
from tunesmith.report import facts
from tunesmith.unasked import OF_MARKS, OF_PAIRS, OF_REWARDS

RISES = 1.2  # of the loss, that are no noise any more
TURNS = 1.03  # of the least loss on dev, above which the end has turned up
FLAT = 0.05  # share of the loss; a fall by less is none
STILL = 0.05  # the same over the last fifth of the updates, while it still falls
SHARE = 0.05  # of rows: duplicates, cut ones, contradictions
FEW_CASES = 50
RULE_LR = (4e-4, 4e-5)  # of adapters, and of the model's own weights


@dataclass(frozen=True, slots=True)
class Cause:
    """What held a run back. `keys`: what to change in its recipe; `also`: what no key can do."""

    name: str
    evidence: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    also: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """The files of a run, as the rules read them."""

    recipe: Recipe
    facts: facts.Facts

    def part(self, name: str) -> Mapping[str, Any]:
        return getattr(self.facts, name) or {}

    def audit(self, *path: str) -> float:
        found: Any = self.part("audit")
        for name in path:
            found = found.get(name, {}) if isinstance(found, Mapping) else {}
        return float(found) if isinstance(found, (int, float)) else 0.0

    def curve(self, name: str) -> list[tuple[int, float]]:
        rows = self.facts.metrics or ()
        return [(r["update"], r[name]) for r in rows if r.get(name) is not None and math.isfinite(r[name])]

    @property
    def prefers(self) -> bool:
        """Whether it learned from pairs, marked replies or rewards: what is better, and not what is right."""
        return self.part("plan").get("task") in (OF_PAIRS, OF_MARKS, OF_REWARDS)

    @property
    def losses(self) -> list[float]:
        """None of rewards: that of what was sampled last says nothing of that before."""
        return [] if self.part("plan").get("task") == OF_REWARDS else [value for _, value in self.curve("loss")]

    @property
    def fall(self) -> float | None:
        """Share of the loss that training took away: first tenth against last tenth of the updates."""
        losses = self.losses
        tenth = max(1, len(losses) // 10)
        return 1 - mean(losses[-tenth:]) / mean(losses[:tenth]) if len(losses) > 1 and losses[0] > 0 else None

    @property
    def lr(self) -> float:
        return float(self.part("plan").get("lr") or max((v for _, v in self.curve("lr")), default=0.0))

    @property
    def unended(self) -> tuple[float, float]:
        """Shares of the answers of base and tuned that did not end by themselves."""
        answers = [a for case in self.facts.cases or () for a in case.each if a.tuned_stopped is not None]
        ended = [(bool(a.base_stopped), bool(a.tuned_stopped)) for a in answers]
        return (mean([not b for b, _ in ended]), mean([not t for _, t in ended])) if ended else (0.0, 0.0)


def mean(values: list[Any]) -> float:
    return sum(values) / len(values)


def not_finite(seen: Seen) -> Cause | None:
    ends = [str(s.get("stopped_by", "")) for s in seen.part("cost").get("stages") or ()]
    broken = next((e for e in ends if e.startswith(("NotFinite", "Overflow"))), "")
    skipped = [r["update"] for r in seen.facts.metrics or () if "skipped" in r]
    if not broken and not skipped:
        return None
    said = broken.split(". ")[0] or f"{len(skipped)} updates were left out, the first of them {skipped[0]}"
    return Cause("loss is no number", said, slower(seen, 5) | {"precision": "float32"},
                 "look at the rows that are named")  # fmt: skip


def nothing_learned(seen: Seen) -> Cause | None:
    tokens = seen.part("audit").get("tokens") or {}
    share = tokens.get("learned_frac", seen.part("audit").get("learned_frac"))
    if share is None or share >= 0.005:
        return None
    return Cause("almost nothing is learned from", f"{share:.2%} of the training tokens count in the loss", {},
                 "name the column of the answer (data.columns.reply), and look at what `tunesmith audit` shows in ⟦ ⟧; "
                 "weights of 0 in the data leave rows out")  # fmt: skip


def leak(seen: Seen) -> Cause | None:
    twins, num = seen.audit("twins", "count"), max(1.0, seen.audit("splits", "test"))
    moved = seen.audit("moved", "count") - seen.audit("moved", "old")  # the last are no leak of this data
    if twins / num < 0.1 and moved / max(1.0, seen.audit("accepted")) < 0.2:
        return None
    said = f"{twins:.0f} of {num:.0f} test prompts stand in training but for digits"
    said += f"; {moved:.0f} rows stood in two splits"
    also = "name the column whose rows belong together (data.columns.group), or take the twins out: the score flatters"
    return Cause("the test leaks into training", said, also=also)


def truncated(seen: Seen) -> Cause | None:
    cut, dropped = seen.audit("cut", "count"), seen.audit("dropped", "count")
    num = max(1.0, seen.audit("splits", "train"))
    if (cut + dropped) / num < SHARE:
        return None
    most = seen.recipe.data.max_tokens
    said = f"{cut:.0f} of {num:.0f} training examples were cut and {dropped:.0f} left out, at {most} tokens"
    return Cause("rows are too long", said, {"data.max_tokens": 2 * most})


def cut_answers(seen: Seen) -> Cause | None:
    most, replies = seen.recipe.evals.max_new_tokens, (seen.part("audit").get("tokens") or {}).get("reply_quantiles")
    _, tuned = seen.unended
    if most is None or not replies or replies.get("0.95", 0) <= most or tuned < 0.1:
        return None
    said = f"{tuned:.0%} of the answers were cut at {most} tokens; one reply of twenty is longer than {replies['0.95']}"
    return Cause("answers are cut short", said, {"evals.max_new_tokens": None})


def never_ends(seen: Seen) -> Cause | None:
    base, tuned = seen.unended
    if tuned < 0.3 or tuned <= base + 0.1:
        return None
    said = f"{tuned:.0%} of the tuned answers do not end by themselves, {base:.0%} of the base's"
    return Cause("the template is not the model's", said, {},
                 "the end of a turn was not learned: take a model with its own chat template, and replies without "
                 "marks of another one (<|im_end|>, </s>, ### …) in the data")  # fmt: skip


def contradicting(seen: Seen) -> Cause | None:
    rows, num = seen.audit("contradictions", "rows"), max(1.0, seen.audit("accepted"))
    if rows / num < 0.02:
        return None
    said = f"{rows:.0f} of {num:.0f} rows ({rows / num:.0%}) have a prompt that stands with another label too"
    o = seen.recipe.objective
    return Cause("labels are noisy", said, {} if o.focal else {"objective.smoothing": max(o.smoothing, 0.1)},
                 "audit.json lists them: decide which label is right")  # fmt: skip


def unseen_labels(seen: Seen) -> Cause | None:
    classes = seen.part("audit").get("classes") or {}
    few = [name for name, n in classes.items() if not n["train"] and n["test"]]
    if not few:
        return None
    return Cause("labels that training never shows", f"in the test alone: {', '.join(few[:5])}", {},
                 "add rows of these labels, or rename them where they are another spelling")  # fmt: skip


def imbalanced(seen: Seen) -> Cause | None:
    classes, verdict = seen.part("audit").get("classes") or {}, seen.part("verdict")
    counts = [n["train"] for n in classes.values()]
    macro = (verdict.get("secondary") or {}).get("macro_f1", {}).get("tuned")
    if len(counts) < 2 or macro is None or max(counts) < 0.7 * sum(counts) or verdict["tuned"] - macro < 0.15:
        return None
    said = (
        f"{max(counts) / sum(counts):.0%} of the training rows have one label; {verdict['metric']} "
        f"{verdict['tuned']:.3f}, macro_f1 {macro:.3f}"
    )
    o = seen.recipe.objective
    focal = {} if o.smoothing else {"objective.focal": max(o.focal, 2.0)}
    return Cause("one label outweighs the others", said, focal | {"task.metric": ["macro_f1"]},
                 "more rows of the rare labels help most")  # fmt: skip


def duplicated(seen: Seen) -> Cause | None:
    num = seen.audit("duplicates", "exact", "count") + seen.audit("duplicates", "normalised", "count")
    total = max(1.0, seen.audit("accepted"))
    if num / total < 2 * SHARE:
        return None
    said = f"{num:.0f} of {total:.0f} rows repeat an earlier one but for case, white space or digits"
    return Cause("rows repeat each other", said, {"train.epochs": epochs_of(seen, 0.5)},
                 "keep one of each; the others count as more epochs of the same")  # fmt: skip


def too_high(seen: Seen) -> Cause | None:
    losses = seen.losses
    tenth = max(1, len(losses) // 10)
    if len(losses) < 3:
        return None
    first, last, least = mean(losses[:tenth]), mean(losses[-tenth:]), min(losses)
    if last < RISES * first and (last < 2 * least or last < 0.8 * first):
        return None
    said = f"the training loss went from {first:.3g} over {least:.3g} to {last:.3g} at a rate of {seen.lr:.2g}"
    return Cause("the learning rate is too high", said, slower(seen, 5))


def rows_unseen(seen: Seen) -> Cause | None:
    feed = seen.part("plan").get("feed") or {}
    num, seen_rows = feed.get("num_examples", 0), feed.get("num_seen", 0)
    if not num or seen_rows >= num or seen.recipe.train.max_updates is None:
        return None
    said = f"train.max_updates ended it when {seen_rows} of {num} training examples had been seen"
    return Cause("too few epochs", said, {"train.max_updates": None})


def turned_up(seen: Seen) -> Cause | None:
    """Loss on dev that was measured on the way has its least before the end."""
    dev, train = [(u, v) for u, v in seen.curve("dev_loss") if u], seen.recipe.train
    if train.early_stop.patience or len(dev) < 3 or dev[-1][1] < TURNS * min(v for _, v in dev):
        return None
    at, least = min(dev, key=lambda d: d[1])
    end, last = dev[-1]
    said = f"the loss on dev was least, {least:.3g}, after update {at} of {end}, and is {last:.3g} at the end"
    keys = {"train.epochs": epochs_of(seen, at / end), **stops_early(seen)}
    also = "train.early_stop would keep the best weights; use train.average.ema with it, not last"
    return Cause("too many epochs", said, keys, also if train.average.last else "")


def by_heart(seen: Seen) -> Cause | None:
    gap = seen.part("robustness").get("overfitting") or {}
    if not gap:
        return None
    train, dev = (gap[f"{part}_loss"][0] - gap[f"{part}_loss"][1] for part in ("train", "dev"))
    if train <= 0 or dev >= 0.5 * train:
        return None
    said = f"tuning took {train:.3g} nats a token from training rows and {dev:.3g} from dev rows"
    adapt, keys = seen.recipe.adapt, stops_early(seen)
    if not (adapt.dora or adapt.is_pefts or seen.recipe.train.compile):
        keys["regularise.mixout"] = max(seen.recipe.regularise.mixout, 0.3)
    if adapt.method == "lora":
        keys["adapt.dropout"] = max(adapt.dropout, 0.1)
    return Cause("it over-fits", said, keys, "more rows help more than any key")


def too_low_or_dead(seen: Seen) -> Cause | None:
    """The loss hardly fell: too low a rate where it is far under the rule's, else too few weights."""
    fall, adapt = seen.fall, seen.recipe.adapt
    if fall is None or fall >= FLAT or len(seen.losses) < 5:
        return None
    said = f"the training loss fell by {fall:.1%} in {len(seen.losses)} updates at a rate of {seen.lr:.2g}"
    usual = RULE_LR[0 if adapt.is_adapter else 1] * (PAIRS_SLOWER if seen.prefers else 1)
    if seen.lr < usual / 8:
        return Cause("the learning rate is too low", f"{said}; about {usual:.0e} is usual", {"train.lr": usual})
    few = {"lora": adapt.rank <= 2 or bool(adapt.targets), "last_k": adapt.last_k <= 1, "named": True}
    if few.get(adapt.method):
        lora = f"rank {adapt.rank}" + (f" on {', '.join(adapt.targets)}" if adapt.targets else "")
        others = {"last_k": f"the last {adapt.last_k} layer(s)", "named": ", ".join(adapt.names)}
        what = others.get(adapt.method, lora)
        keys = {"adapt.method": "lora", "adapt.rank": max(adapt.rank, 16), "adapt.targets": [], "adapt.names": [],
                "adapt.last_k": Recipe().adapt.last_k, "train.lr": "auto"}  # fmt: skip
        return Cause("too few weights train", f"{said}, and what trains is {what}", keys)
    return None


def still_falling(seen: Seen) -> Cause | None:
    losses = seen.losses
    fifth, stops = len(losses) // 5, seen.recipe.train.early_stop.patience
    if stops or fifth < 1 or turned_up(seen) or by_heart(seen):  # more of the same would only be learned by heart
        return None
    before, last = mean(losses[-2 * fifth : -fifth]), mean(losses[-fifth:])
    if before <= 0 or 1 - last / before < STILL:
        return None
    said = f"the loss still fell by {1 - last / before:.0%} over the last fifth of {len(losses)} updates"
    return Cause("too few epochs", said, {"train.epochs": 2 * seen.recipe.train.epochs + 1, "train.max_updates": None})


def forgot(seen: Seen) -> Cause | None:
    lost = [g["name"] for g in seen.part("verdict").get("guard") or () if g.get("passed") is False]
    if not lost:
        return None
    held = {} if seen.prefers else {"regularise.kl": max(seen.recipe.regularise.kl, 0.1)}
    also = f"{'a larger beta or kl of its loss' if seen.prefers else 'general rows in data.replay.files'} may help too"
    return Cause("it forgot what it could do", f"guard probes lost: {', '.join(lost)}", held | slower(seen, 2), also)


def forgot_cases(seen: Seen) -> Cause | None:
    found = seen.part("lineage").get("forgotten") or {}
    if found.get("decision") != "worse":
        return None
    keys = {"parent.replay": max(seen.recipe.parent.replay, 0.2), **slower(seen, 2)}
    return Cause("it forgot the old cases", found["said"], keys)


def nothing_to_gain(seen: Seen) -> Cause | None:
    verdict = seen.part("verdict")
    if not verdict or verdict.get("less_is_better") or verdict["base"] < 0.97 or verdict["metric"] in ("chrf", "bleu"):
        return None
    said = f"the base scores {verdict['base']:.3f} on {verdict['metric']} before any tuning"
    return Cause("the base can do it already", said, {}, "test on harder cases, or use the base as it is")


def unfit_metric(seen: Seen) -> Cause | None:
    verdict = seen.part("verdict")
    if verdict.get("decision") not in ("worse", "no relevant difference") or seen.prefers:
        return None
    moved = {n: r for n, r in (verdict.get("secondary") or {}).items() if (r.get("interval") or [0])[0] > 0}
    dev = [v for _, v in seen.curve("dev_loss")]
    if not moved or len(dev) < 2 or dev[-1] > 0.8 * dev[0]:
        return None
    name, row = next(iter(moved.items()))
    said = (
        f"{verdict['metric']} moved by {verdict['effect']:+.3f}, while {name} moved by {row['effect']:+.3f} and the "
        f"loss on dev from {dev[0]:.3g} to {dev[-1]:.3g}"
    )
    also = "only if you care about that one, and on other cases: a metric chosen by its result proves nothing on these"
    return Cause("the metric does not see it", said, {"task.metric": [name]}, also)


def few_cases(seen: Seen) -> Cause | None:
    verdict = seen.part("verdict")
    num, least = verdict.get("num_cases", 10**9), verdict.get("smallest_detectable") or 0.0
    if not verdict or (verdict["decision"] != "too few cases" and num >= FEW_CASES):
        return None
    said = f"{num} held-out cases find no difference below about {least:.3g}; the interval is {verdict['interval']}"
    frac = seen.recipe.data.test_frac
    keys: dict[str, Any] = {"evals.max_cases": max(seen.recipe.evals.max_cases, 800, 2 * num)}
    if not seen.recipe.data.test:  # else its files are the test
        keys["data.test_frac"] = max(frac, min(0.3, 2 * frac))
    return Cause("too few test cases", said, keys, "or a file of more held-out cases: data.test")


# What spoils the others' figures stands first.
RULES: tuple[Callable[[Seen], Cause | None], ...] = (
    not_finite, nothing_learned, leak, truncated, cut_answers, never_ends, contradicting, unseen_labels, imbalanced,
    duplicated, too_high, rows_unseen, turned_up, by_heart, too_low_or_dead, still_falling, forgot, forgot_cases,
    nothing_to_gain, unfit_metric, few_cases,
)  # fmt: skip


def slower(seen: Seen, by: float) -> dict[str, Any]:
    """The rate over this; nothing where no rate is known."""
    return {"train.lr": float(f"{seen.lr / by:.2g}")} if seen.lr else {}


def epochs_of(seen: Seen, share: float) -> int:
    """This share of the epochs, but no fewer than there are groups of layers to unfreeze."""
    return max(1, seen.recipe.train.unfreeze_groups, round(share * seen.recipe.train.epochs))


def stops_early(seen: Seen) -> dict[str, Any]:
    """Nothing where it does already, or cannot: a mean of the last weights counts from the end."""
    train = seen.recipe.train
    return {} if train.early_stop.patience or train.average.last else {"train.early_stop.patience": 3}


def changing(recipe: Recipe, cause: Cause) -> Cause:
    """Without the keys that the recipe has so already."""
    said = dict(flat(asdict(recipe)))
    keys = {k: v for k, v in cause.keys.items() if said.get(k) != (tuple(v) if isinstance(v, list) else v)}
    return replace(cause, keys=keys)


def causes(folder: Path) -> list[Cause]:
    """What held the run back, the most basic first; none where nothing stands out."""
    recipe, _ = read(kept_recipe(folder), {})
    seen = Seen(recipe, facts.read(folder))
    if seen.facts.metrics is None and seen.facts.audit is None and seen.facts.cost is None:
        raise InputError(f"{folder} holds nothing yet that could be looked at: `tunesmith run --resume --out {folder}`")
    return [changing(recipe, cause) for rule in RULES if (cause := rule(seen)) is not None]


def advise(folder: Path, out: Path) -> dict[str, Any]:
    """The causes, and `out`: the run's recipe with the keys of the first one that has any changed."""
    found = causes(folder)
    recipe, text = read(kept_recipe(folder), {})
    settings = yaml.safe_load(text)
    first = next((c for c in found if c.keys), None)
    facts_of: dict[str, Any] = {"run": str(folder), "causes": [asdict(c) for c in found], "recipe": None, "changed": {},
                                "new_data": new_data(folder, recipe)}  # fmt: skip
    if first is None:
        return facts_of
    if out.exists():
        raise InputError(f"{out} is there already: name another file with --out, or move it away")
    for key, value in first.keys.items():
        place(settings, key, value)
    parse(settings)
    head = f"# After {folder.name}: {first.name}. {' '.join(first.evidence.split())}\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return facts_of | {"recipe": str(out), "changed": dict(first.keys)}
