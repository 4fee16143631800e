"""The tasks that people name: which instruction, metric and way of scoring each brings along."""

from __future__ import annotations

import json
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tunesmith.data.columns import NO_LABEL
from tunesmith.data.render import Renderer
from tunesmith.data.stored import Chosen
from tunesmith.data.traits import NUM_ANSWERED, column
from tunesmith.evals.calls import calls_of
from tunesmith.evals.sets import label_set
from tunesmith.types import Example, Label, Marked, Message, Pair, Ranked, Record, Reply, Segment


@dataclass(frozen=True, slots=True)
class Kind:
    """What a task's name picks. Every part can be said otherwise in the recipe."""

    # text: as it stands, and nothing is answered; pairs: how likely two given replies are; marks: how much likelier or
    # less likely than before training a given reply is; scores: what a reward model gives to given replies; graded:
    # what graders give a text that the model writes
    scoring: Literal["likelihood", "generation", "text", "pairs", "marks", "scores", "graded"]
    metric: str  # primary, locked before training
    secondary: tuple[str, ...]
    instruction: str  # "" = none; {labels} is filled in; with instructions of its own, a data set needs none
    about: str  # what it is for, as `tunesmith init` asks
    least_tokens: int = 0  # room that an answer has at least, and at most, where nobody says
    most_tokens: int = 512
    note: str = ""  # what the verdict must say of its metric

    @property
    def has_answers(self) -> bool:
        """Whether the model answers, and a right answer is known."""
        return self.scoring in ("likelihood", "generation")

    @property
    def prefers(self) -> bool:
        """Whether it learns which replies are better, and nothing is written to be measured."""
        return self.referred or self.scoring == "scores"

    @property
    def referred(self) -> bool:
        """Whether it learns so against what the model was before its first update."""
        return self.scoring in ("pairs", "marks")

    @property
    def rewards(self) -> bool:
        """Whether it learns from what its own replies are worth, and there is no right one."""
        return self.scoring == "graded"


KINDS = {
    "classify": Kind(
        "likelihood", "accuracy", ("macro_f1",),
        "Classify the text. Answer with exactly one of these labels: {labels}.",
        "choose one of a few labels",
    ),
    "summarise": Kind(
        "generation", "rouge_l", ("rouge_1", "chrf"), "Summarise the text. Answer with the summary only.",
        "shorten a text",
    ),
    "translate": Kind(
        "generation", "chrf", ("bleu",), "Translate the text. Answer with the translation only.",
        "put it into another language",
    ),
    "extract": Kind(
        "generation", "json_fields", ("json_exact", "json_valid"), "Answer with one JSON object only.",
        "fill a JSON object",
    ),
    "generate": Kind("generation", "rouge_l", ("token_f1", "exact_match"), "", "write an answer, by example"),
    "chat": Kind("generation", "rouge_l", ("token_f1", "chrf"), "", "go on with a conversation"),
    "reason": Kind(
        "generation", "numeric", ("rouge_l",),
        "Solve the problem step by step. Write the answer alone on the last line.",
        "solve a problem step by step, down to a number", least_tokens=256, most_tokens=1024,
    ),
    "number": Kind(
        "generation", "numeric", ("exact_match",), "Answer with the number only.",
        "answer with a number and nothing else",
    ),
    "qa": Kind(
        "generation", "token_f1", ("exact_match", "rouge_l"),
        "Answer the question from the text. Answer with the answer only.",
        "answer a question about a text",
    ),
    "style": Kind(
        "generation", "bits_per_byte", ("rouge_l", "chrf"), "", "write in a style, by example",
        note="bits per byte say how likely the references are, the others how many words are shared with them: none "
        "sees whether an answer has the style, or is any good. Read some, or name a judge (evals.judge).",
    ),
    "tools": Kind(
        "generation", "tool_calls", ("tool_names",), "", "call functions",
        note="a call is right where name and arguments are the reference's; another call that would do as well is not.",
    ),
    "multilabel": Kind(
        "generation", "label_set_f1", ("label_set_macro_f1", "exact_match"),
        "Which of these labels fit the text: {labels}? Answer with those that fit, with commas between them, or with: "
        "none.",
        "choose all labels that fit",
    ),
    "pretrain": Kind(
        "text", "bits_per_byte", (), "", "go on learning from plain text",
        note="how likely such texts are was measured, and no answer: whether it answers better is not known.",
    ),
    "preferences": Kind(
        "pairs", "preference_accuracy", ("preference_margin", "chosen_nats", "rejected_nats"), "",
        "learn which of two replies is preferred",
        note="which of two given replies is likelier was measured, and no answer of its own: whether it answers better "
        "is not known. Read some beside the base's: tunesmith chat RUN --against base.",
    ),
    "feedback": Kind(
        "marks", "feedback_accuracy", ("feedback_margin",), "", "learn from replies marked good or bad",
        note="how likely given replies became was measured, and no answer of its own: whether it answers better is not "
        "known. Read some beside the base's: tunesmith chat RUN --against base.",
    ),
    "reward": Kind(
        "scores", "reward_accuracy", ("reward_loss", "reward_margin"), "", "learn to score replies, from pairs",
        note="which of two given replies gets the higher score was measured, of replies like those in the data. What "
        "it says of replies that a model writes to please it is not known.",
    ),
    "reinforce": Kind(
        "graded", "mean_reward", (), "", "learn from what graders say of its own replies",
        note="the reward is what its graders say: whether a reply is good beside that was not measured. Read some of "
        "the best (report.html): replies that please a grader and nobody else are among these.",
    ),
}  # fmt: skip
WRITTEN = ("generate", "summarise", "translate", "extract", "qa", "reason", "number", "style")  # for prompts and texts
# "auto" or one of them, as a recipe says it
TaskName = Literal[
    "auto", "classify", "summarise", "translate", "extract", "generate", "chat", "reason", "number", "qa", "style",
    "tools", "multilabel", "pretrain", "preferences", "feedback", "reward", "reinforce",
]  # fmt: skip


def own_instruction(task: str, labels: Sequence[str], examples: Iterable[Example]) -> str:
    """The instruction that a task brings along, with the labels that may be answered."""
    if task == "multilabel":
        labels = sorted(set().union(*(label_set(answer_text(e)) for e in examples)) - {NO_LABEL})
    return KINDS[task].instruction.format(labels=", ".join(labels))


@dataclass(frozen=True, slots=True)
class Form:
    """One way to put a case to the model. The tuned model is trained and asked in the form `system`."""

    name: str
    place: Literal["system", "user", "last", "none"]  # where the instruction stands; last: behind the input
    shots: tuple[Example, ...] = ()  # answered before, as earlier turns

    def prompt(self, example: Example, instruction: str) -> tuple[Message, ...]:
        """The messages before the answer. A row that brings a system message of its own keeps that one. Without a turn
        of a user there is only the system message to put an instruction into.
        """
        own = [m for m in example.prompt if m.role == "system"]
        turns: list[Message] = []
        for shot in self.shots:
            turns += [*[m for m in shot.prompt if m.role != "system"], replace(answer_message(shot), weight=0.0)]
        turns += [m for m in example.prompt if m.role != "system"]
        users = [i for i, m in enumerate(turns) if m.role == "user"]
        place = "system" if self.place != "none" and not users else self.place
        if place == "last":
            own, instruction = [], "\n\n".join(m.content for m in own) or instruction
        if place == "system" and instruction and not own:
            own = [Message("system", instruction)]
        elif place == "user" and instruction and not own:
            turns[users[0]] = replace(turns[users[0]], content=f"{instruction}\n\n{turns[users[0]].content}")
        elif place == "last" and instruction:
            turns[users[-1]] = replace(turns[users[-1]], content=f"{turns[users[-1]].content}\n\n{instruction}")
        return with_its_tools((*own, *turns))


def instructed(example: Example, instruction: str) -> Example:
    """The example as it is trained: with the instruction as system message, unless the row brings one of its own, or
    is a plain text."""
    if not instruction or example.is_text or any(m.role == "system" for m in example.prompt):
        return example
    return replace(example, prompt=with_its_tools((Message("system", instruction), *example.prompt)))


def with_its_tools(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """The functions that the last turn with some may call, at the first turn, where a chat template looks for them."""
    tools = [m.extra["tools"] for m in turns if "tools" in m.extra]
    if not tools:
        return turns
    bare = [replace(m, extra={k: v for k, v in m.extra.items() if k != "tools"}) for m in turns]
    return (replace(bare[0], extra={**bare[0].extra, "tools": tools[-1]}), *bare[1:])


def answer_message(example: Example) -> Message:
    """The reference answer as a turn, with its calls."""
    if isinstance(example.target, Reply):
        return example.target.message
    return Message("assistant", answer_text(example))


def answer_text(example: Example) -> str:
    """The reference answer; one that calls functions as the JSON of its calls; of a pair or a list the best
    reply, of a marked reply itself."""
    if isinstance(example.target, Reply):
        calls = calls_of(example.target.message.extra)
        return json.dumps(calls, ensure_ascii=False) if calls else example.target.text
    if isinstance(example.target, Label):
        return example.target.text
    if isinstance(example.target, (Pair, Ranked, Marked)):
        return example.target.replies[0].content
    facts = example.target.facts  # nothing is right by itself: what the graders are told
    return str(next(iter(facts.values()))) if len(facts) == 1 else "\n".join(f"{k}: {v}" for k, v in facts.items())


def references(cases: Sequence[Example]) -> list[str]:
    return [answer_text(e) for e in cases]


def labels_of(examples: Iterable[Example]) -> tuple[str, ...]:
    """The closed set of labels, sorted."""
    return tuple(sorted({e.target.name for e in examples if isinstance(e.target, Label)}))


def forms(train: Sequence[Example], shots: int, instruction: str, labels: Sequence[str]) -> list[Form]:
    """The forms in which the base is tried on dev: instruction as system message, in the user's turn, with examples."""
    place: Literal["system", "none"] = "system" if instruction else "none"
    plain = [Form("instruction" if instruction else "plain", place)]
    if instruction:
        plain.append(Form("instruction in the user's turn", "user"))
    chosen = few(train, shots, labels)
    if chosen:
        plain.append(
            Form(f"instruction + {len(chosen)} examples" if instruction else f"{len(chosen)} examples", place, chosen)
        )
    return plain


def few(train: Sequence[Example], shots: int, labels: Sequence[str]) -> tuple[Example, ...]:
    """Examples for the prompt: of middling length, with different answers as far as there are such."""
    if not shots:
        return ()
    kept: dict[str, list[tuple[str, int]]] = {}  # the first answers in the alphabet, and of each the first by id
    for at in map(int, _middling(train)):
        answer = answer_text(train[at]) if labels else answer_text(train[at])[:18]
        if len(kept) == shots and answer > max(kept):
            continue
        insort(kept.setdefault(answer, []), (train[at].id, at))
        del kept[answer][shots:]
        if len(kept) > shots:
            del kept[max(kept)]
    picked: list[int] = []
    while len(picked) < shots and any(kept.values()):
        for answer in sorted(kept):
            if kept[answer] and len(picked) < shots:
                picked.append(kept[answer].pop(0)[1])
    return tuple(train[at] for at in picked)


def _middling(train: Sequence[Example]) -> np.ndarray:
    """Numbers of the examples in the second and third fifth by length; of one length, by id."""
    usable = np.flatnonzero(column(train, "kind") < NUM_ANSWERED).astype(np.uint32)
    length = column(train, "chars")[usable]
    ordered = np.sort(length)
    begin, end = len(usable) // 5, max(1, len(usable) * 3 // 5)
    edges = ordered[begin:end][[0, -1]] if len(usable) else ordered
    is_in = (length > edges[:1]) & (length < edges[1:])
    for edge in np.unique(edges):
        there = np.flatnonzero(length == edge)
        ids = b"".join(e.id.encode().ljust(32, b"\0") for e in Chosen(train, usable[there]))
        there = there[np.argsort(np.frombuffer(ids, "S32"))]
        first = int(np.searchsorted(ordered, edge))
        is_in[there[max(0, begin - first) : end - first]] = True
    return usable[is_in]


def label_record(renderer: Renderer, name: str, prompt: Sequence[Message], labels: Sequence[str]) -> Record:
    """The prompt with every label as a learned child, in the order of the labels: the prompt is computed once."""
    tokens = np.array(renderer.prompt(prompt), dtype=np.int64)
    root = Segment(tokens, np.zeros(len(tokens), np.float32))
    replies = [np.array(renderer.choice(prompt, label), dtype=np.int64) for label in labels]
    return Record(name, (root, *[Segment(r, np.ones(len(r), np.float32), 0) for r in replies]))


def given_replies(example: Example) -> tuple[Message, ...]:
    """Of a pair or a list all replies, the best first; or the one that is marked."""
    assert isinstance(example.target, (Pair, Ranked, Marked))
    return example.target.replies


def given_record(renderer: Renderer, example: Example, prompt: Sequence[Message]) -> Record:
    """The same with the replies that the example gives."""
    return replies_record(renderer, example.id, prompt, given_replies(example))


def replies_record(renderer: Renderer, name: str, prompt: Sequence[Message], sides: Sequence[Message]) -> Record:
    """The same with any replies."""
    tokens = np.array(renderer.prompt(prompt), dtype=np.int64)
    replies = [np.array(renderer.reply(prompt, side), dtype=np.int64) for side in sides]
    root = Segment(tokens, np.zeros(len(tokens), np.float32))
    return Record(name, (root, *[Segment(r, np.ones(len(r), np.float32), 0) for r in replies]))
