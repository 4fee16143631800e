"""OpenAI's grader objects (reinforcement fine-tuning): string_check, text_similarity, python, score_model, label_model
and multi. What cannot be done here is refused, with what can."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import RecipeError, did_you_mean
from tunesmith.evals import sandbox
from tunesmith.evals.endpoint import Endpoint
from tunesmith.rollouts import asked, coded, kinds
from tunesmith.rollouts.combined import computed
from tunesmith.rollouts.formula import Formula
from tunesmith.rollouts.matches import SIMILAR
from tunesmith.rollouts.parts import Part, Ungradable, each, facts_of
from tunesmith.rollouts.sandboxed import Code, Sandboxed
from tunesmith.rollouts.templates import check, filled, sample_of
from tunesmith.types import Attempt, Message

Object = Mapping[str, Any]
KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # type -> (has to have, may have)
    "string_check": (("input", "reference", "operation"), ()),
    "text_similarity": (("input", "reference", "evaluation_metric"), ()),
    "python": (("source",), ()),
    "score_model": (("input", "model"), ("range", "sampling_params")),
    "label_model": (("input", "model", "labels", "passing_labels"), ()),
    "multi": (("graders", "calculate_output"), ()),
}
OPERATIONS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda given, wanted: given == wanted,
    "ne": lambda given, wanted: given != wanted,
    "like": lambda given, wanted: wanted in given,
    "ilike": lambda given, wanted: wanted.casefold() in given.casefold(),
}
METRICS = ("fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l")
CANNOT = {
    "cosine": "needs a model of embeddings, which is not here; take rouge_l or fuzzy_match, or a score_model",
    "meteor": "needs WordNet, which is not here; take rouge_l or gleu",
}
LEAVE_OUT = {
    "image_tag": " Installed packages are there without it: leave it out.",
    "pass_threshold": " Evaluations read it, and rewards do not, whose grade is the similarity itself: leave it out.",
}
PYTHON_MIB = 2048  # as at OpenAI
MOST_TOKENS = 1024  # of a model grader's answer, where its sampling_params say nothing
RESULT = (
    'Reply with one JSON object and nothing else: {{"why": "one sentence", "{key}": {value}}}, where "{key}" is {what}.'
)


@dataclass(frozen=True, slots=True)
class Around:
    """What a grader object needs beside what stands in it."""

    options: kinds.OpenAI
    insist: bool
    kept: Path | None


def openai(around: Around, name: str) -> Part:
    said: Any = around.options.grader
    if isinstance(said, str):
        try:
            said = json.loads(Path(said).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecipeError(f"the grader {around.options.grader} could not be read: {error}") from None
        if isinstance(said, dict) and "type" not in said and isinstance(said.get("grader"), dict):
            said = said["grader"]  # a request that holds one
    return part_of(said, around, name)


def part_of(said: Any, around: Around, name: str) -> Part:
    kind = said.get("type") if isinstance(said, dict) else said
    if not isinstance(kind, str) or kind not in KEYS:
        raise RecipeError(
            f"the type of the grader {name} is {kind!r:.60}; wanted one of {', '.join(KEYS)}."
            f"{did_you_mean(str(kind), KEYS)}"
        )
    wanted, more = KEYS[kind]
    for key in said:
        if key not in ("type", "name", *wanted, *more):
            hint = LEAVE_OUT.get(key, "")
            raise RecipeError(
                f"unknown key {key} of the grader {name}: a {kind} has {', '.join((*wanted, *more))}.{hint}"
                f"{did_you_mean(str(key), (*wanted, *more))}"
            )
    missing = [key for key in wanted if key not in said]
    if missing:
        raise RecipeError(f"the grader {name} is a {kind} without {missing[0]}")
    return MAKERS[kind](said, around, name)


def templates(said: Object, name: str) -> tuple[str, str]:
    for key in ("input", "reference"):
        if not isinstance(said[key], str):
            raise RecipeError(f"{key} of the grader {name} is {said[key]!r:.60}; wanted a text")
    return check(said["input"], f"the grader {name}"), check(said["reference"], f"the grader {name}")


def chosen(said: Object, key: str, known: Mapping[str, Any], name: str) -> Any:
    if not isinstance(said[key], str) or said[key] not in known:
        raise RecipeError(f"{key} of the grader {name} is {said[key]!r:.60}; wanted one of {', '.join(known)}")
    return known[said[key]]


def string_check(said: Object, around: Around, name: str) -> Part:
    given, wanted = templates(said, name)
    holds = chosen(said, "operation", OPERATIONS, name)
    return Part(name, 0.0, 1.0, each(lambda a: float(holds(filled(given, a), filled(wanted, a)))))


def text_similarity(said: Object, around: Around, name: str) -> Part:
    given, wanted = templates(said, name)
    if said["evaluation_metric"] in CANNOT:
        metric = said["evaluation_metric"]
        raise RecipeError(f"evaluation_metric of the grader {name} is {metric}, which {CANNOT[metric]}")
    like = chosen(said, "evaluation_metric", {metric: SIMILAR[metric] for metric in METRICS}, name)
    return Part(name, 0.0, 1.0, each(lambda a: like(filled(given, a), filled(wanted, a))))


def python(said: Object, around: Around, name: str) -> Part:
    isolate, _ = sandbox.isolation(insist=around.insist)
    code = Code(str(said["source"]), f"the grader {name}", "grade", around.options.timeout_s, PYTHON_MIB * coded.MIB,
                isolate)  # fmt: skip
    box = Sandboxed(code)
    if box.facts["takes"] != 2:
        raise RecipeError(f"grade of the grader {name} has to take (sample, item)")

    def given(attempt: Attempt) -> list[Any]:
        return [sample_of(attempt), dict(facts_of(attempt))]

    return Part(name, 0.0, 1.0, coded.asked(box, name, given, (0.0, 1.0)))


def score_model(said: Object, around: Around, name: str) -> Part:
    try:
        low, high = (float(v) for v in said.get("range") or (0, 1))
        is_range = low < high
    except (TypeError, ValueError):
        is_range = False
    if not is_range:
        raise RecipeError(f"range of the grader {name} is {said['range']!r:.60}; wanted [least, most]")
    what = RESULT.format(key="result", value=f"{high:g}", what=f"a number from {low:g} to {high:g}")

    def read(reply: str) -> float:
        return asked.number_of(reply, "result", low, high)

    return by_model(said, around, name, what, read, (low, high))


def label_model(said: Object, around: Around, name: str) -> Part:
    labels, passing = said["labels"], said["passing_labels"]
    is_list = all(isinstance(v, list) and v and all(isinstance(x, str) for x in v) for v in (labels, passing))
    if not is_list or not set(passing) <= set(labels):
        raise RecipeError(f"passing_labels of the grader {name} have to be some of its labels, both lists of texts")
    what = RESULT.format(key="label", value=json.dumps(labels[0]), what=f"one of {json.dumps(labels)}")

    def read(reply: str) -> float:
        label = asked.said_under(reply, "label")
        if label not in labels:
            raise Ungradable(f"the model gave {label!r:.40}, which is none of the labels")
        return float(label in passing)

    return by_model(said, around, name, what, read, (0.0, 1.0))


def by_model(
    said: Object, around: Around, name: str, what: str, read: Callable[[str], float], ends: kinds.Range
) -> Part:
    options = around.options
    if options.endpoint is None:
        raise RecipeError(
            f"the grader {name} asks the model {said['model']!r}: say who answers, with endpoint: http://127.0.0.1:8000"
            "/v1 and, where it is called otherwise there, model: NAME"
        )
    most = most_tokens(said.get("sampling_params") or {}, name)
    endpoint = Endpoint(options.endpoint, options.model or str(said["model"]), options.api_key_env, most)
    turns = turns_of(said["input"], name)

    def question(attempt: Attempt) -> asked.Turns:
        shown = [Message(role, filled(text, attempt)) for role, text in turns]
        first = shown.pop(0).content + "\n\n" if shown[0].role == "system" else ""
        return (Message("system", first + what), *shown)

    ask = asked.asker(endpoint, name, options.timeout_s, 4, around.kept)
    return Part(name, *ends, asked.graded(ask, question, read, name, ends[0]))


def most_tokens(params: Any, name: str) -> int:
    """Of an answer. Judges are asked at temperature 0, so that equal replies get equal grades."""
    known = ("max_completions_tokens", "temperature", "seed")
    if (
        not isinstance(params, dict)
        or any(k not in known for k in params)
        or params.get("temperature") not in (None, 0)
    ):
        raise RecipeError(
            f"sampling_params of the grader {name} are {params!r:.80}: it is asked at temperature 0, so that equal "
            "replies get equal grades. Leave them out, but for max_completions_tokens"
        )
    return int(params.get("max_completions_tokens") or MOST_TOKENS)


def turns_of(said: Any, name: str) -> list[tuple[str, str]]:
    """(role, template) of the messages; developers are system here, since servers know no other word for them."""
    found = []
    for turn in said if isinstance(said, list) else []:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        pieces = content if isinstance(content, list) else [content]
        texts = [p.get("text") if isinstance(p, dict) else p for p in pieces]
        words = [t for t in texts if isinstance(t, str)]
        if role not in ("system", "developer", "user", "assistant") or len(words) < len(texts):
            raise RecipeError(f"input of the grader {name} has {turn!r:.80}; wanted messages with a role and a text")
        found.append(("system" if role == "developer" else role, check("".join(words), f"the grader {name}")))
    if not found:
        raise RecipeError(f"input of the grader {name} is {said!r:.60}; wanted a list of messages")
    return found


def multi(said: Object, around: Around, name: str) -> Part:
    inner = said["graders"]
    if not isinstance(inner, dict) or not inner:
        raise RecipeError(f"graders of the grader {name} is {inner!r:.60}; wanted names and graders")
    formula = Formula(str(said["calculate_output"]))
    unknown = sorted(formula.names - set(inner))
    if unknown:
        raise RecipeError(
            f"calculate_output of the grader {name} reads {unknown[0]!r}; its graders are {', '.join(inner)}"
        )
    parts = [part_of(one, around, key) for key, one in inner.items()]
    return computed(formula, parts, (0.0, 1.0), name)


MAKERS: dict[str, Callable[[Object, Around, str], Part]] = {
    "string_check": string_check, "text_similarity": text_similarity, "python": python, "score_model": score_model,
    "label_model": label_model, "multi": multi,
}  # fmt: skip
