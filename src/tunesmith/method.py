"""What a recipe asks for beside the plain loss: made, put into words for the plan, and refused where it cannot work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter

import numpy as np
from torch import Tensor, nn

from tunesmith.data.feed import Laying
from tunesmith.data.marks import Matched
from tunesmith.data.records import sizes_of
from tunesmith.data.render import Rendered, Renderer
from tunesmith.data.stored import Made
from tunesmith.errors import PlanError
from tunesmith.evals.endpoint import Endpoint
from tunesmith.evals.tasks import Kind
from tunesmith.models.adapters import READ_BY, config_of, trained_weights
from tunesmith.models.load import Base
from tunesmith.models.new_tokens import by_token
from tunesmith.models.peft_methods import unmergeable
from tunesmith.models.prompts import PREFIX
from tunesmith.models.quantised import held_words
from tunesmith.objectives.goal import objective
from tunesmith.objectives.kto import Marking
from tunesmith.objectives.online import Online
from tunesmith.objectives.policy import ONLINE, Policy, Reinforcing, bounds, has_values, kl_of, method_of
from tunesmith.objectives.preference import LOSSES, Preferring, Reference, resolved
from tunesmith.objectives.reward import Rewarding
from tunesmith.recipe import Recipe
from tunesmith.regularisers.average import Ema, Tail
from tunesmith.regularisers.strengths import regularisers
from tunesmith.roles import Objective, Regulariser
from tunesmith.types import Example, Label, Marked, Message, Reply

Row = tuple[str, object, str]
READ_WITH = {  # key -> the key that switches on what reads it
    "objective.temperature": "objective.contrastive", "objective.distil.temperature": "objective.distil.share",
    "objective.distil.kl": "objective.distil.share", "adapt.context.method": "adapt.context.tokens",
    "train.early_stop.every": "train.early_stop.patience", "train.early_stop.on": "train.early_stop.patience",
}  # fmt: skip


def laying_of(recipe: Recipe, renderer: Renderer) -> Laying:
    return Laying(recipe.regularise.rdrop > 0, recipe.regularise.neftune == 0, renderer.redrawn)


def regularisers_of(recipe: Recipe, num_updates: int, fisher: Mapping[str, Tensor]) -> tuple[Regulariser, ...]:
    """Those that the recipe asks for, and the mean of the weights if it wants one. `fisher`: of the base, for EWC."""
    average = recipe.train.average
    mean = [Ema(average.ema)] if average.ema else [Tail(max(0, num_updates - average.last))] if average.last else []
    return (*regularisers(recipe.regularise, fisher), *mean)


def objective_of(
    recipe: Recipe, kind: Kind, examples: Sequence[Example], reference: Reference | None = None
) -> Objective:
    """`examples`: of training; their labels are what the contrastive loss compares by, their marks what KTO learns.
    `reference`: of pairs and marked replies."""
    if kind.scoring == "marks":
        marks = {e.id: e.target.is_good for e in examples if isinstance(e.target, Marked)}
        return Marking(recipe.objective.kto, reference, marks)
    if kind.scoring == "scores":
        return Rewarding(recipe.objective.reward)
    if kind.scoring == "pairs":
        return Preferring(recipe.objective.preference, reference)
    if kind.rewards:
        asked = recipe.objective.policy
        return Online(recipe.objective.preference) if method_of(asked) is ONLINE else Reinforcing(asked)
    if not recipe.objective.contrastive:
        return objective(recipe.objective, {})
    names = sorted({e.target.name for e in examples if isinstance(e.target, Label)})
    number = {name: i for i, name in enumerate(names)}
    classes = {e.id: number[e.target.name] for e in examples if isinstance(e.target, Label)}
    return objective(recipe.objective, classes)


def heads_of(objective: Objective) -> tuple[str, ...]:
    """Scalar heads that train along, and are left behind when the model is delivered."""
    return ("value",) if "value" in objective.needs else ()


def taught(examples: Sequence[Example], kind: Kind, train: Sequence[Example]) -> Sequence[Example]:
    """As they are rendered: a marked reply beside one of training to another prompt; what a model answers by itself
    with a reply of one letter, which nobody learns."""
    if kind.rewards:
        return Made(examples, lambda e: replace(e, target=Reply(Message("assistant", "x"))))
    return Matched(examples, train) if kind.scoring == "marks" else examples


def longest_reply(rendered: Rendered, kind: Kind, policy: Policy) -> int:
    """Tokens that an answer may take: a quarter more than 99 of 100 training replies, within the task's own room; as
    many as are sampled where replies are."""
    if kind.rewards:
        return policy.max_new_tokens
    lengths = np.sort(sizes_of(rendered.records).reply)
    usual = int(1.25 * int(lengths[int(0.99 * (len(lengths) - 1))])) + 8
    return min(kind.most_tokens, max(kind.least_tokens, usual))


def own_dropout(base: Base) -> bool:
    """Whether the model drops something by itself while it trains, in its modules or by functions."""
    in_modules = any(isinstance(m, nn.Dropout) and m.p > 0 for m in base.model.modules())
    settings = base.model.config.get_text_config().to_dict()
    names = ("attention", "activation", "hidden", "residual", "embedding")  # of functions, in no module
    return in_modules or any(settings.get(name) for name in ("attn_pdrop", "dropout", *(f"{n}_dropout" for n in names)))


def has_routers(base: Base) -> bool:
    """Whether tokens choose among experts."""
    settings = base.model.config.get_text_config().to_dict()
    return any("experts" in name and type(n) is int and n > 1 for name, n in settings.items())


def unbalanced(recipe: Recipe, base: Base) -> dict[str, bool]:
    """Reason -> whether the configuration wants its routers' auxiliary loss (Fedus et al. 2021, arXiv:2101.03961)."""
    why = (
        f"the configuration of {recipe.model} asks for its routers' auxiliary loss (output_router_logits: true), and "
        "no objective here computes it. Set that to false in its config.json: LoRA then leaves routers as they are, "
        "and where all weights train they learn from the tokens' loss alone"
    )
    return {why: bool(base.model.config.get_text_config().to_dict().get("output_router_logits"))}


def idle(recipe: Recipe) -> dict[str, str]:
    """What is said and nothing reads: key -> the key that would have to say otherwise."""
    usual, found = Recipe(), {f"adapt.{key}": "adapt.method" for key in recipe.adapt.unread}
    return found | {
        key: switch
        for key, switch in READ_WITH.items()
        if not attrgetter(switch)(recipe) and attrgetter(key)(recipe) != attrgetter(key)(usual)
    }


def unread(recipe: Recipe) -> dict[str, bool]:
    """What nothing reads beside what else is said: reason, whether it is so."""
    a, found = recipe.adapt, {}
    for key, switch in idle(recipe).items():
        why = f"{key} is read with {switch} alone, which is off: leave {key} out, or set {switch}"
        if switch == "adapt.method":
            methods = " or ".join(READ_BY[key.removeprefix("adapt.")])
            why = f"{key} is read by {switch} {methods}, and it is {a.method}: leave {key} out, or take that method"
        found[why] = True
    return found | {
        f"adapt.peft {a.peft} stands before every sequence, and has no layers: leave adapt.targets out": (
            a.is_prompt and bool(a.targets)
        ),
        f"adapt.peft {a.peft}: regularise.neftune has no noise for its tokens, evals.lm_eval asks the model "
        "without them, and adapt.context moves angles under weights that do not train. Leave these out, or use "
        "adapt.method: lora": a.is_prompt
        and bool(recipe.regularise.neftune or recipe.evals.lm_eval or a.context.tokens),
        "train.compile compiles layers, and adapt.peft prefix_tuning puts keys and values between their steps. Leave "
        "one of the two out": a.is_prompt and a.peft == PREFIX and recipe.train.compile,
    }


def unheld(recipe: Recipe) -> dict[str, bool]:
    """What a base in fewer bits cannot give: reason, whether it is asked for."""
    is_held = recipe.adapt.base_bits is not None
    return {
        "regularise.ewc measures how much each weight of the base matters by its gradient; with adapt.base_bits there "
        "is no weight to have one. Use regularise.kl or l2sp, or leave one of the two out": (
            is_held and recipe.regularise.ewc > 0
        ),
        "train.average.base_share goes towards the weights without adapter, which with adapt.base_bits are rounded, "
        "and not those of the base that is compared with. Leave one of the two out": (
            is_held and bool(recipe.train.average.base_share)
        ),
        "train.compile compiles layers, and with adapt.base_bits these read files and make their weights anew. Leave "
        "one of the two out": is_held and recipe.train.compile,
    }


def unforetold(recipe: Recipe) -> dict[str, bool]:
    """What an encoder-decoder cannot do, since nothing foretells its prompts: reason, whether it is asked for."""
    why = "an encoder-decoder foretells replies and no ordinary text"
    return {
        f"regularise.ewc measures what matters on general rows, and {why}: name rows with replies, data.replay.files": (
            recipe.regularise.ewc > 0 and not recipe.data.replay.files
        ),
        f"evals.lm_eval asks how likely texts are, and {why}. Leave it out": bool(recipe.evals.lm_eval),
        "train.compile compiles decoder layers, and this model has an encoder too. Leave it out": recipe.train.compile,
    }


def refuse_idle_tokens(recipe: Recipe, base: Base) -> None:
    """PlanError where tokens that were added to the base would stay all alike."""
    if not base.located.new_tokens:
        return
    rows = {id(tensor) for tensor in by_token(base.model)}
    trained = set() if recipe.adapt.is_adapter else {id(p) for _, p in trained_weights(base.model, recipe.adapt)}
    if not rows <= trained:
        names = ", ".join(name for name, p in base.model.named_parameters() if id(p) in rows)
        raise PlanError(
            f"{recipe.model} was given new tokens ({', '.join(base.located.new_tokens[:4])}), whose rows are all the "
            f"same until they are trained, and adapt.method {recipe.adapt.method} does not train them. Use "
            f"adapt.method: full, or named with these among adapt.names: {names}"
        )


def refuse(recipe: Recipe, base: Base, *, is_labelled: bool, has_dev: bool) -> None:
    """PlanError with the reason where what is asked for cannot work, or would do nothing."""
    refuse_idle_tokens(recipe, base)
    r, o, average, stop = recipe.regularise, recipe.objective, recipe.train.average, recipe.train.early_stop
    drops = own_dropout(base) or (recipe.adapt.method == "lora" and recipe.adapt.dropout > 0)
    if recipe.adapt.dora and (r.mixout or r.l2sp or r.ewc or average.base_share):
        raise PlanError(
            "regularise.mixout, l2sp and ewc and train.average.base_share act on the change of the weights, scale * "
            "B A, and with adapt.dora that is not all that changes. Set adapt.dora: false, or leave them out"
        )
    if recipe.adapt.is_pefts and (r.mixout or r.l2sp or r.ewc or average.base_share):
        raise PlanError(
            "regularise.mixout, l2sp and ewc and train.average.base_share act on the change of the weights, and what a "
            f"method of peft changes is known to it alone ({recipe.adapt.peft or 'ia3'}). Use adapt.method: lora"
        )
    if recipe.adapt.is_pefts and "merged" in recipe.export:
        why = unmergeable(base.model, config_of(recipe.adapt, base.model))
        if why:
            raise PlanError(f"peft cannot merge this adapter ({why}): leave merged out, --set export=[adapter]")
    idle = unread(recipe) | unheld(recipe) | unbalanced(recipe, base)
    reasons = idle | {
        "regularise.rdrop compares two passes with other dropout masks, and nothing here drops anything: both would be "
        "the same. Set adapt.dropout to 0.1, say, with adapt.method lora": r.rdrop and not drops,
        f"regularise.neftune knows the forest layout only, and this model needs the {base.layout} one "
        f"({base.probe.reason}). Use another regulariser": r.neftune and base.layout != "forest",
        "regularise.mixout changes the layers anew in each update, and train.compile would compile them each time. "
        "Use one of the two": r.mixout and recipe.train.compile,
        "objective.contrastive brings examples of one label together, and these rows have no labels, or lists of them: "
        "set data.columns.label, or leave it out": o.contrastive and not is_labelled,
        "objective.contrastive and regularise.rdrop cannot be had at once: each example would be compared with its own "
        "twin. Use one of the two": o.contrastive and r.rdrop,
        "objective.contrastive and objective.distil are two losses beside that of the tokens, and one is computed. Use "
        "one of the two": o.contrastive and o.distil.share,
        "objective.smoothing and objective.focal both change the loss of a token, in opposite ways. Use one of the "
        "two": o.smoothing and o.focal,
        f"train.unfreeze_groups is {recipe.train.unfreeze_groups} and train.epochs {recipe.train.epochs}: one group "
        "more trains each epoch, so the lowest would never. Use at most as many groups as epochs": (
            recipe.train.unfreeze_groups > recipe.train.epochs
        ),
        "train.average.ema and train.average.last are two means of the same weights. Use one of the two": average.ema
        and average.last,
        "train.average.last counts from the end, which train.early_stop does not know beforehand. Use "
        "train.average.ema with it": average.last and stop.patience,
        "train.on_nan rollback goes back behind looks at dev whose weights train.early_stop would still keep as the "
        "best. Use one of the two": recipe.train.on_nan == "rollback" and stop.patience,
        "regularise.kl holds the tuned model to what the base says, which beyond its own context is nothing to hold on "
        f"to. With adapt.context, leave it out, or keep data.max_tokens at {base.own_tokens}": (
            r.kl and recipe.adapt.context.tokens and recipe.data.max_tokens > (base.own_tokens or 0)
        ),
        "train.early_stop looks at dev, and there is none: give data.dev or a data.dev_frac above 0": stop.patience
        and not has_dev,
        "train.average.base_share auto is chosen on dev, and there is none: give data.dev or a data.dev_frac above 0, "
        "or name a share": average.base_share == "auto" and not has_dev,
    }
    if base.layout == "seq2seq":
        reasons |= unforetold(recipe)
    for reason, is_so in reasons.items():
        if is_so:
            raise PlanError(reason)


HELD = (
    "against the model as it is before the first update, by log-probabilities computed once and kept in reference.json"
)


def preferring_rows(recipe: Recipe, base: Base, kind: Kind, train: Sequence[Example]) -> list[Row]:
    """Of the plan: how pairs or marked replies are learned, each key of the loss resolved."""
    if kind.scoring == "scores":
        said = recipe.objective.reward
        why = f"Bradley-Terry, margin {said.margin:g}, centre {said.centre:g}; the head begins at 0 unless it has one"
        return [("objective.reward", "on", why)]
    still: list[Row] = [("dropout", "off", "the model's own: it is compared with itself before the first update")]
    still = still if own_dropout(base) else []
    if kind.scoring == "marks":
        return [mark_row(recipe, train), *still]
    if kind.rewards:
        return [policy_row(recipe), *still]
    return [pair_row(recipe), *still] if kind.scoring == "pairs" else []


def mark_row(recipe: Recipe, train: Sequence[Example]) -> Row:
    """With how much both marks count, which should be about alike: KTO's authors advise 1 to 4/3 for the good ones."""
    k, good = recipe.objective.kto, sum(isinstance(e.target, Marked) and e.target.is_good for e in train)
    bad, why = len(train) - good, f"beta {k.beta:g}, desirable {k.desirable:g}, undesirable {k.undesirable:g}"
    why += f"; {good:,} replies are marked good and {bad:,} bad"
    if not 1 <= k.desirable * good / max(1e-9, k.undesirable * bad) <= 4 / 3:
        key, ratio = ("desirable", bad / max(1, good)) if good < bad else ("undesirable", good / max(1, bad))
        why += f", so that one side counts for more: objective.kto.{key}: {ratio:.2g} makes them alike"
    return "objective.kto", k.beta, f"{why}; {HELD}"


def policy_row(recipe: Recipe) -> Row:
    """Of the plan: how replies are sampled and learned."""
    asked = recipe.objective.policy
    per = asked.inner_epochs * asked.mini_batches
    why = f"{asked.prompts} prompts with {asked.group_size} replies each of at most {asked.max_new_tokens} tokens, "
    why += f"sampled at temperature {asked.temperature:g}"
    if asked.server.endpoint:
        why += f" by {asked.server.model} at {Endpoint(asked.server.endpoint, asked.server.model).host}, to which "
        why += "prompts and adapters are SENT; how long that takes is not known"
    why += "; each update is of the model that sampled" if per == 1 else f" for {per} updates"
    if method_of(asked) is ONLINE:
        _, loss, keys = pair_row(recipe)
        return "objective.policy", asked.method, f"{why}; the best and the worst are a pair, learned by {loss}: {keys}"
    low, high = bounds(asked)
    why += f"; ratios clipped at -{low:g} and +{high:g}, KL to the start weighs {kl_of(asked):g}"
    if has_values(asked):
        c = asked.critic
        why += f" in the reward; a value head on the model, lambda {c.gae_lambda:g}, gamma {c.gamma:g}, its loss times "
        why += f"{c.weight:g}, clipped at {c.clip:g} in the reward's unit; it is in no export"
    if method_of(asked).refills:
        why += f"; prompts are drawn until {asked.prompts} of them tell replies apart, so how many is not known before"
    return "objective.policy", asked.method, why


def pair_row(recipe: Recipe) -> Row:
    asked = recipe.objective.preference
    keys = ", ".join(f"{name} {value:g}" for name, value in resolved(asked).items())
    held = HELD if LOSSES[asked.loss].has_reference else "no reference"
    return "objective.preference", asked.loss, f"{keys}; {held}"


def context_why(recipe: Recipe, base: Base) -> str:
    """How far the angles are stretched, and whether any example could be that long."""
    tokens, own, longest = recipe.adapt.context.tokens, base.own_tokens, recipe.data.max_tokens
    if tokens is None or own is None:
        return ""
    why = f"{tokens} tokens; the base was made for {own}, so a factor of {tokens / own:g}"
    if longest <= own < tokens:
        why += f"; data.max_tokens is {longest}, so no example is longer than the base's own context"
    return why


def rows(recipe: Recipe, base: Base, kind: Kind, train: Sequence[Example]) -> list[Row]:
    """Of the plan: what is asked for, and what it costs."""
    r, o, average, stop = recipe.regularise, recipe.objective, recipe.train.average, recipe.train.early_stop
    found: list[tuple[str, object, str]] = [
        ("regularise.mixout", r.mixout, "of the change of each weight; as much memory again as the adapted weights"),
        ("regularise.l2sp", r.l2sp, "on the change of the weights (of LoRA: scale * B A), once an update"),
        ("regularise.ewc", r.ewc, "the same, weighed by the Fisher information of general text; memory of the weights"),
        ("regularise.kl", r.kl, "per learned token, exact; a second forward pass for each update, of the base"),
        ("regularise.neftune", r.neftune, "each example's own noise, so no prefix is stored once: more tokens"),
        ("regularise.rdrop", r.rdrop, "each example twice with other dropout: twice the time of an update"),
        ("objective.smoothing", o.smoothing, "of the target goes to all tokens alike"),
        ("objective.focal", o.focal, "the power of (1 - p) that a token's loss is multiplied with"),
        ("objective.distil.share", o.distil.share, f"of the loss is {o.distil.teacher}'s, a second forward pass"),
        ("objective.contrastive", o.contrastive, "of the loss; a second forward pass for each update"),
        ("train.average.ema", average.ema, "the run's weights are a running mean"),
        ("train.average.last", average.last, "the run's weights are the mean over this many last updates"),
        ("train.average.base_share", average.base_share, "of the base in the run's weights (WiSE-FT)"),
        ("train.early_stop.patience", stop.patience, f"looks at the {stop.on} on dev without a better one"),
    ]
    t, c = recipe.train, recipe.adapt.context
    found += [
        ("adapt.context", c.method if c.tokens else "", context_why(recipe, base)),
        ("adapt.base_bits", recipe.adapt.base_bits, held_words(base.model)),
        (
            "train.by_depth",
            t.by_depth if t.by_depth != 1 else 0,
            "each layer's rate is that of the one above over this",
        ),
        ("train.unfreeze_groups", t.unfreeze_groups, "epoch k trains the top k groups of layers"),
    ]
    if has_routers(base) and not recipe.adapt.is_adapter:
        why = "experts are kept evenly used by no auxiliary loss, which no objective here computes; LoRA leaves routers"
        found.append(("routers", "learn from the tokens' loss alone", why))
    cut: list[Row] = []
    if own_dropout(base) or (base.layout != "forest" and recipe.adapt.dropout):  # rows that are padded
        why = "dropout is drawn by micro-batch here: train.micro_tokens changes which numbers are dropped"
        cut = [("micro-batches", "not free", why)]
    if base.layout == "seq2seq":
        why = "ordinary text among the guard probes, and replies that are begun to see what is known by heart: an "
        cut.append(("not asked", "2 checks", f"{why}encoder-decoder reads a prompt and foretells a whole reply"))
    return preferring_rows(recipe, base, kind, train) + [row for row in found if row[1]] + cut
