"""Law: what is learned stands in the context in which it is served, token by token, for real chat templates."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from tests.data.chat import FAMILIES, tokenizer

from tunesmith.data.render import Renderer
from tunesmith.data.tree import merge
from tunesmith.types import Example, Message, Record, Reply, Segment

KINDS = ("bytes", "metaspace")
NO_SYSTEM = {"gemma"}
# History is not rendered as it was served and answered: thoughts dropped, other ends of turn, no end of turn
NOT_A_PREFIX = {"alpaca", "deepseek_r1", "glm4", "gpt_oss", "nemotron", "qwen3"}
TURNS = [
    ("system", "Be brief. "),
    ("user", " Where is my order 48 < 52? "),
    ("assistant", "On its way,\n\nas the fox said.  "),
    ("user", "Why?"),
    ("assistant", "Because."),
    ("user", "ok\n"),
    ("assistant", " The end, at last."),
]

Learned = dict[tuple[int, ...], float]  # all tokens up to and including a learned one -> its weight


def conversation(name: str, *, system: bool) -> list[Message]:
    turns = TURNS if system and name not in NO_SYSTEM else TURNS[1:]
    return [Message(role, content) for role, content in turns]


def example(messages: Sequence[Message]) -> Example:
    return Example("e-1", tuple(messages[:-1]), Reply(messages[-1]))


def served(name: str, kind: str, messages: Sequence[Message]) -> list[int]:
    dicts = [{"role": m.role, "content": m.content} for m in messages]
    return list(tokenizer(name, kind).apply_chat_template(dicts, add_generation_prompt=True)["input_ids"])


def learned_of(record: Record) -> Learned:
    """Every learned token of a tree, named by the whole path that leads to it; a path met twice fails."""
    found: Learned = {}
    ends: list[tuple[int, ...]] = []
    for segment in record.segments:
        path = ends[segment.parent] if segment.parent >= 0 else ()
        for token, weight in zip(segment.tokens.tolist(), segment.weights.tolist()):
            path = (*path, token)
            if weight:
                assert path not in found, "a token is learned twice"
                found[path] = weight
        ends.append(path)
    return found


def law(name: str, kind: str, messages: Sequence[Message], replies: dict[int, list[int]]) -> Learned:
    """What must be learned: each reply's tokens, each behind the served prompt and the reply so far."""
    wanted: Learned = {}
    for at, reply in replies.items():
        prompt = served(name, kind, messages[:at])
        wanted |= {(*prompt, *reply[: k + 1]): messages[at].weight for k in range(len(reply))}
    return wanted


def replies_of(renderer: Renderer, messages: Sequence[Message]) -> dict[int, list[int]]:
    return {i: renderer.reply(messages[:i], m) for i, m in enumerate(messages) if m.role == "assistant" and m.weight}


def test_there_are_at_least_20_families() -> None:
    assert len(FAMILIES) >= 20


@pytest.mark.parametrize(("name", "kind"), list(product(FAMILIES, KINDS)))
def test_every_learned_turn_stands_behind_its_served_prompt(name: str, kind: str) -> None:
    renderer = Renderer(tokenizer(name, kind), max_tokens=4096)
    for system in (True, False):
        messages = conversation(name, system=system)
        record = renderer.record(example(messages))
        replies = replies_of(renderer, messages)
        assert learned_of(record) == law(name, kind, messages, replies)
        assert renderer.records([example(messages)]).records[0].num_learned == record.num_learned
        for at, reply in replies.items():
            assert renderer.prompt(messages[:at]) == served(name, kind, messages[:at])
            assert reply[-1] == renderer.stop_ids[0]
            assert reply[:-1].count(renderer.stop_ids[0]) == 0
            assert renderer.text(reply).strip() == messages[at].content.strip()


@pytest.mark.parametrize("name", FAMILIES)
def test_history_that_is_a_prefix_gives_one_segment(name: str) -> None:
    """With byte-level tokens; ▁ before a text can make another first token in history than in the reply."""
    renderer = Renderer(tokenizer(name), 4096)
    record = renderer.record(example(conversation(name, system=False)))
    assert (len(record.segments) > 1) == (name in NOT_A_PREFIX)
    if name.startswith("mistral"):  # the system prompt moves to the last user message, and out of history
        assert len(renderer.record(example(conversation(name, system=True))).segments) > 1


EXACT = {
    "chatml": "Yes.<|im_end|>",
    "llama2": " Yes. </s>",
    "llama3_1": "Yes.<|eot_id|>",
    "gemma": "Yes.<end_of_turn>",
    "phi3": "Yes.<|end|>",
    "qwen3": "<think>\n\n</think>\n\nYes.<|im_end|>",
    "gpt_oss": "<|channel|>final<|message|>Yes.<|return|>",
    "glm4": "\nYes.<|endoftext|>",
    "deepseek_r1": "\n</think>\n\nYes.<｜end▁of▁sentence｜>",
    "vicuna": " Yes.</s>",
    "zephyr": "Yes.</s>",
    "starchat": "\nYes.<|end|>",
    "alpaca": "Yes.</s>",
    "nemotron": "Yes.</s>",
    "command_r": "Yes.<|END_OF_TURN_TOKEN|>",
}


@pytest.mark.parametrize("name", EXACT)
def test_the_reply_as_text_worked_out_by_hand(name: str) -> None:
    chat = tokenizer(name)
    renderer = Renderer(chat, 4096)
    reply = renderer.reply([Message("user", "Is it?")], Message("assistant", "Yes."))
    assert chat.decode(reply) == EXACT[name]


def test_reasoning_is_learned_where_the_template_serves_it() -> None:
    asked = [Message("user", "Is it?")]
    thought = Message("assistant", "Yes.", extra={"reasoning_content": "Hm."})
    inline = Message("assistant", "<think>\nHm.\n</think>\n\nYes.")
    for name, message, wanted in [
        ("qwen3", thought, "<think>\nHm.\n</think>\n\nYes.<|im_end|>"),
        ("qwen3", inline, "<think>\nHm.\n</think>\n\nYes.<|im_end|>"),
        ("deepseek_r1", thought, "Hm.\n</think>\n\nYes.<｜end▁of▁sentence｜>"),
        ("deepseek_r1", inline, "Hm.\n</think>\n\nYes.<｜end▁of▁sentence｜>"),
        (
            "gpt_oss",
            thought,
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
        ),
    ]:
        renderer = Renderer(tokenizer(name), 4096)
        reply = renderer.reply(asked, message)
        assert tokenizer(name).decode(reply) == wanted
        assert renderer.text(reply) == "Yes."


def test_tool_calls_are_learned_up_to_their_own_end_of_turn() -> None:
    calls = [{"type": "function", "function": {"name": "find", "arguments": {"order": 4}}}]
    messages = [Message("user", "Where?"), Message("assistant", "", extra={"tool_calls": calls})]
    for name, wanted in [
        ("qwen2_5", '<tool_call>\n{"name": "find", "arguments": {"order": 4}}\n</tool_call><|im_end|>'),
        ("gpt_oss", '<|channel|>commentary to=functions.find <|constrain|>json<|message|>{"order": 4}<|call|>'),
        ("llama3_1", '{"name": "find", "parameters": {"order": 4}}<|eot_id|>'),
    ]:
        reply = Renderer(tokenizer(name), 4096).reply(messages[:1], messages[1])
        assert tokenizer(name).decode(reply).lstrip("\n") == wanted


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_multiply_and_a_turn_of_weight_0_is_context(name: str) -> None:
    messages = conversation(name, system=False)
    messages[1] = Message("assistant", messages[1].content, weight=0.0)
    messages[3] = Message("assistant", messages[3].content, weight=0.5)
    renderer = Renderer(tokenizer(name), 4096)
    heavy = Example("e-1", tuple(messages[:-1]), Reply(messages[-1]), weight=3.0)
    wanted = {path: 3 * w for path, w in law(name, "bytes", messages, replies_of(renderer, messages)).items()}
    assert learned_of(renderer.record(heavy)) == wanted
    assert set(wanted.values()) == {1.5, 3.0}


# Mutants: renderings as other tools make them. The law must see each of them.


def shifted(record: Record, by: int) -> Record:
    segments = tuple(Segment(s.tokens, np.roll(s.weights, by), s.parent) for s in record.segments)
    return Record(record.example_id, segments)


def without_end(record: Record, end: int) -> Record:
    segments = tuple(Segment(s.tokens, np.where(s.tokens == end, 0, s.weights), s.parent) for s in record.segments)
    return Record(record.example_id, segments)


def whole_as_prefix(name: str, messages: Sequence[Message], replies: dict[int, list[int]]) -> Record:
    """One rendering of the whole conversation, in which each reply's content is looked up and learned."""
    chat = tokenizer(name)
    text = chat.apply_chat_template([m.as_dict() for m in messages], tokenize=False)
    ids = chat(text, add_special_tokens=False, return_offsets_mapping=True)
    weights = np.zeros(len(ids["input_ids"]), np.float32)
    at = 0
    for i in replies:
        content = messages[i].content.strip()
        at = text.index(content, at)
        for n, (a, b) in enumerate(ids["offset_mapping"]):
            if a >= at and b <= at + len(content):
                weights[n] = 1
        end = int(np.flatnonzero(weights)[-1]) + 1
        if end < len(weights):
            weights[end] = 1  # the token behind it, as its end of turn
        at += len(content)
    return Record("mutant", merge([(np.array(ids["input_ids"]), weights)]))


@pytest.mark.parametrize("name", FAMILIES)
def test_mutants_fail_the_law(name: str) -> None:
    messages = conversation(name, system=False)
    renderer = Renderer(tokenizer(name), 4096)
    replies = replies_of(renderer, messages)
    wanted = law(name, "bytes", messages, replies)
    record = renderer.record(example(messages))
    last_only = [Message(m.role, m.content, 0.0 if m.role == "assistant" else 1.0) for m in messages[:-1]] + [
        messages[-1]
    ]
    assert learned_of(renderer.record(example(last_only))) != wanted
    assert learned_of(shifted(record, 1)) != wanted
    assert learned_of(shifted(record, -1)) != wanted
    assert learned_of(without_end(record, renderer.stop_ids[0])) != wanted
    if name in NOT_A_PREFIX:
        assert learned_of(whole_as_prefix(name, messages, replies)) != wanted


def test_the_trie_learns_what_the_paths_learn_and_nothing_twice() -> None:
    """Random paths over two tokens, so that they share much: what is learned is the union of the paths'."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        paths = []
        for _ in range(rng.integers(1, 6)):
            tokens = rng.integers(0, 2, rng.integers(2, 9))
            weights = (rng.random(len(tokens)) < 0.4).astype(np.float32) * 2
            paths.append((tokens, weights))
        wanted: Learned = {}
        for tokens, weights in paths:
            for k in np.flatnonzero(weights):
                wanted[tuple(tokens[: k + 1].tolist())] = 2.0
        record = Record("e", merge(paths))
        assert learned_of(record) == wanted
        prefixes = {tuple(t[: k + 1].tolist()) for t, _ in paths for k in range(len(t))}
        assert record.num_tokens == len(prefixes), "a token that paths share is stored twice"
        assert all(s.parent < i for i, s in enumerate(record.segments))
