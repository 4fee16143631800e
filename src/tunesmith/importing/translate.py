"""Each key of another tool's training file to keys of a recipe, with what it means here."""

from __future__ import annotations

import difflib

from tunesmith.errors import RecipeError
from tunesmith.importing import adapting, preferring, updates
from tunesmith.importing.known import ABSENT, NEEDLESS, OTHER_KINDS, reason
from tunesmith.importing.reading import Reading, is_off, number, shown
from tunesmith.importing.sources import data_sets
from tunesmith.importing.tools import Tool
from tunesmith.spellings import OPTIONS, OURS

PRECISIONS = {"bfloat16": "bfloat16", "bf16": "bfloat16", "float32": "float32", "fp32": "float32", "auto": "auto"}
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
SUPERVISED = ("sft", "nll", "chunked_nll", "pt")
QUANTISED = ("-unsloth-bnb-4bit", "-bnb-4bit", "-gptq", "-awq")


def translate(reading: Reading, tool: Tool) -> None:
    """Fills the reading: every key that the file says has a fate when this returns."""
    has_reference = preferring.pairs(reading, tool) or preferring.beside_pairs(reading, tool) == "feedback"
    refuse_other_kinds(reading)
    model(reading)
    data_sets(reading)
    lengths(reading, tool)
    adapting.method(reading, tool)
    if has_reference:
        preferring.without_dropout(reading)
    updates.batches(reading, tool)
    updates.schedule(reading)
    updates.optimizer(reading)
    precision(reading)
    instruction(reading)
    seed(reading)
    template(reading)
    trackers(reading)
    for key in reading.rest():
        the_rest(reading, key)
    for ours, value in tool.defaults.items():
        if ours not in reading.settings and not any(k.ours == ours for k in reading.fates.values()):
            reading.settings[ours] = value
            reading.comments[ours] = f"not said in the file; what {tool.shown} does then"


def refuse_other_kinds(reading: Reading) -> None:
    """A file for another kind of training would become a recipe that does another job."""
    for key, value in reading.said.items():
        stem = key.split(".")[0].split("[")[0]
        if stem in OTHER_KINDS and key not in reading.fates and not is_off(value):
            raise RecipeError(
                f"{key}: {shown(value)} is {OTHER_KINDS[stem]}, whose files are not imported yet: only supervised "
                "ones, pairs (with the loss said), KTO and reward models are. Nothing was written."
            )
    for key in (k for k in ("stage", "loss_type") if k not in reading.fates):
        if reading.said.get(key) not in (None, *SUPERVISED):
            raise RecipeError(
                f"{key} is {reading.said[key]}; only supervised tuning (sft), pre-training (pt), pairs (dpo), KTO and "
                "reward models (rm) can be imported yet. Nothing was written."
            )
        if reading.said.get(key) == "pt":
            reading.put("task.name", "pretrain", key, meant="documents are held out whole")
        elif reading.said.get(key) is not None:
            reading.leave("needless", "supervised tuning is what a recipe does", key)


def model(reading: Reading) -> None:
    names = reading.names("model")
    if not names:
        raise RecipeError("the file names no model (base_model or model_name_or_path): is it a training file?")
    name, *others = names
    value = str(reading.said[name])
    ending = next((e for e in QUANTISED if value.lower().endswith(e)), "")
    if ending:
        meant = f"{value} holds quantised weights, which cannot be trained here; the same model without {ending}"
        reading.put("model", value[: -len(ending)], name, meant=meant)
    else:
        reading.put("model", value, name)
    reading.leave("value", f"{name} is what counts", *others, ours="model")


def lengths(reading: Reading, tool: Tool) -> None:
    """Longest example, and what happens to longer ones."""
    names = reading.names("data.max_tokens")
    if names:
        value = number(reading.said[names[0]])
        if value is None or value < 1:
            reading.leave("value", "wanted: a number of tokens", names[0], ours="data.max_tokens")
        else:
            reading.put("data.max_tokens", int(value), names[0], meant="of one example, not of a packed row")
        reading.leave("value", f"{names[0]} is what counts", *names[1:], ours="data.max_tokens")
    names = reading.names("data.too_long")
    cuts = tool.cut_long
    if names:
        value = reading.said[names[0]]
        cuts = value not in ("drop", "raise")
        meant = "the longest text of the prompt loses its middle, never the reply" if cuts else ""
        reading.put("data.too_long", "cut" if cuts else "drop", names[0], meant=meant)
    elif cuts:
        reading.settings["data.too_long"] = "cut"
        reading.comments["data.too_long"] = (
            f"{tool.shown} cuts the end of long examples; here the longest text of the prompt loses its middle"
        )


def precision(reading: Reading) -> None:
    """`bf16: true`, or a type by name; half precision with 5 bits of exponent is not here."""
    for name in reading.names("precision"):
        value = reading.said[name]
        said = {True: "bfloat16", "true": "bfloat16"}.get(value, value) if name in ("bf16", "bfloat16") else value
        chosen = PRECISIONS.get(str(said)) if name not in ("fp16", "float16") else None
        if is_off(value):
            reading.leave("off", "it only says what is not used; auto picks what this machine is good at", name)
        elif chosen is None:
            why = "half precision (float16) is not here; auto picks what this machine is good at"
            reading.leave("value", why, name, ours="precision")
        elif reading.settings.get("precision", chosen) != chosen:
            reading.leave("value", f"the file says {reading.settings['precision']} first", name, ours="precision")
        else:
            meant = "" if chosen == "auto" else "of the forward pass; what trains is float32. auto suits any machine"
            reading.put("precision", chosen, name, meant=meant)


def instruction(reading: Reading) -> None:
    for name in reading.names("task.instruction"):
        reading.put("task.instruction", str(reading.said[name]), name, meant="a row's own system message wins")
    for name in reading.names("evals.max_new_tokens"):
        value = number(reading.said[name])
        if value is not None and value >= 1:
            reading.put("evals.max_new_tokens", int(value), name, meant="of an answer to a held-out case")


def seed(reading: Reading) -> None:
    for name in ("seed", *reading.names("seed")):
        value = number(reading.said.get(name))
        if value is None:
            continue
        if "seed" in reading.settings:
            reading.leave("value", "there is one seed for everything", name, ours="seed")
        else:
            reading.put("seed", int(value), name, meant="also picks the split; other draws than there")


def template(reading: Reading) -> None:
    for name in ("chat_template", "template", "chat_template_path", "chat_template_jinja"):
        value = reading.said.get(name)
        if value is None:
            continue
        if value in ("tokenizer_default", "default", "tokenizer"):
            reading.leave("needless", "the model's own chat template is what is used", name)
        else:
            reading.leave(
                "absent",
                "the model's own chat template is used, so that training and serving agree; a base model without one "
                "is refused: take its instruct or chat version",
                name,
            )


def trackers(reading: Reading) -> None:
    """Those that are asked for by name, and Weights & Biases where a project is named."""
    wanted: list[str] = []
    asked: list[str] = []
    for key in ("report_to", "use_tensorboard", "wandb_project", "mlflow_tracking_uri", "mlflow_experiment_name"):
        value = reading.said.get(key)
        if is_off(value):
            continue
        stem = key.removeprefix("use_").split("_")[0]
        named = [str(v) for v in (value if isinstance(value, list) else [value])] if key == "report_to" else [stem]
        known = [name for name in named if name in TRACKERS]
        if known:
            wanted += known
            asked.append(key)
    if asked:
        extras = ",".join(dict.fromkeys(wanted))
        meant = f"each needs its extra: pip install 'tunesmith[{extras}]'; projects are named as those tools say"
        reading.put("trackers", list(dict.fromkeys(wanted)), *asked, meant=meant)


def the_rest(reading: Reading, key: str) -> None:
    """Keys without a translation of their own: why, for each; never in silence."""
    value = reading.said[key]
    needless, absent = reason(key, NEEDLESS), reason(key, ABSENT)
    if key in OPTIONS and not is_off(value):
        reading.leave("meant", f"say it on the command line: {OPTIONS[key]}", key, ours=OPTIONS[key])
    elif is_off(value):
        reading.leave("off", "empty or off in the file", key)
    elif needless:
        reading.leave("needless", needless, key)
    elif absent:
        reading.leave("absent", absent, key)
    else:
        near = difflib.get_close_matches(key, list(OURS), 1, 0.8)
        why = f"did you mean {near[0]}? It may have done nothing there" if near else "nothing was made of it"
        reading.leave("unknown", why, key)
