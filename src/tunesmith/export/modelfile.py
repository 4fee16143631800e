"""Ollama's Modelfile: its TEMPLATE made from what the chat template renders, and held against it.

The frame around each turn is read off rendered conversations, written in Go's template language, and rendered again: a
chat template that does more than put fixed text around turns gives another text somewhere, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.errors import DataError, ModelError
from tunesmith.export import go_template
from tunesmith.export.go_template import literal
from tunesmith.types import Message

Render = Callable[[Sequence[Message], bool], str]  # (turns, whether the text ends where the model goes on)

S, U, V, A, B = (Message(r, f"{r} text {n}") for r, n in zip(("system", *("user",) * 2, *("assistant",) * 2), "12345"))
CONVERSATIONS = (
    (U,), (S, U), (U, A, V), (S, U, A, V), (U, A, V, B, U), (S, U, A, V, B, U),
    (Message("system", 'Be brief.\n\nUse "quotes", {braces} and ünïcode.'), Message("user", "A line.\nAnother: 1 < 2")),
)  # fmt: skip
MOST_CONTEXT_TOKENS = 8192  # Ollama reserves memory for all of num_ctx


@dataclass(frozen=True, slots=True)
class Frame:
    """Fixed text around turns. A system message stands before the first turn, or inside a user turn (`system_in`)."""

    opening: str  # where there is no system message
    system: tuple[str, str] | None
    system_in: str  # "" | "first" | "last" user turn
    user: tuple[str, str]
    assistant: tuple[str, str]
    asking: str  # after the last turn, where the model goes on

    def template(self) -> str:
        """In Go's language, over .System and .Messages as Ollama gives them."""
        user, system = [literal(x) for x in self.user], [literal(x) for x in self.system or ("", "")]
        before = literal(self.opening)
        inside = ""
        if self.system is not None and self.system_in:
            # Turns alternate, so the first user turn has index 0, or 1 behind a system message.
            place = "(lt $i 2)" if self.system_in == "first" else "(eq (len (slice $.Messages $i)) 1)"
            inside = f"{{{{ if and $.System {place} }}}}{system[0]}{{{{ $.System }}}}{system[1]}{{{{ end }}}}"
        elif self.system is not None:
            before = f"{{{{ if .System }}}}{system[0]}{{{{ .System }}}}{system[1]}{{{{ else }}}}{before}{{{{ end }}}}"
        turns = (
            f'{{{{ if eq .Role "user" }}}}{user[0]}{inside}{{{{ .Content }}}}{user[1]}'
            f'{{{{ else if eq .Role "assistant" }}}}{literal(self.assistant[0])}{{{{ .Content }}}}'
            f"{literal(self.assistant[1])}{{{{ end }}}}"
        )
        return f"{before}{{{{ range $i, $_ := .Messages }}}}{turns}{{{{ end }}}}{literal(self.asking)}"


def refused(why: str) -> ModelError:
    return ModelError(
        f"Ollama: the model's chat template cannot be said as a TEMPLATE: {why}. Export `--to gguf` and use a program "
        "that reads the chat template in the file (llama.cpp's server, LM Studio, llama-cpp-python)."
    )


def around(text: str, *parts: Message) -> list[str]:
    """What stands between these contents."""
    found, rest = [], text
    for part in parts:
        before, middle, rest = rest.partition(part.content)
        if not middle:
            raise refused(f"it drops or changes a {part.role} message")
        found.append(before)
    return [*found, rest]


def shared_start(a: str, b: str) -> str:
    length = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return a[:length]


def frame_of(render: Render) -> Frame:
    """The frame that the template puts around turns, from small conversations.

    Where a turn ends is read off a conversation that ends there; a template that ends one differently (Phi-3 adds an
    end of text) is cut at what its turns have in common.
    """
    user_end = around(render((U,), False), U)[1]
    head, tail = around(render((U,), True), U)
    assistant_end = around(render((U, A), False), U, A)[2]
    first, middle, between, _ = around(render((U, A, V), True), U, A, V)
    if head != first:
        raise refused("the first user turn is framed by what follows it")
    if not (tail.startswith(user_end) and middle.startswith(user_end)):
        user_end = shared_start(tail, middle)
    if not (between.startswith(assistant_end) and head.endswith(between.removeprefix(assistant_end))):
        assistant_end = between.removesuffix(shared_start(between[::-1], head[::-1])[::-1])
    user_start, assistant_start = between.removeprefix(assistant_end), middle.removeprefix(user_end)
    opening = head.removesuffix(user_start)
    system, where = system_of(render, opening, user_start)
    return Frame(
        opening, system, where, (user_start, user_end), (assistant_start, assistant_end), tail.removeprefix(user_end)
    )


def system_of(render: Render, opening: str, user_start: str) -> tuple[tuple[str, str] | None, str]:
    """What stands around a system message, and in which user turn it stands ("": before all turns)."""
    try:
        text = render((S, U, A, V), True)
    except DataError:  # the template has no system role: the Modelfile gets none
        return None, ""
    if text.find(S.content) > text.find(U.content):
        before, join = around(render((S, U), True), S, U)[:2]
        return (before.removeprefix(opening + user_start), join), "last"
    before, join = around(text, S, U)[:2]
    if join.endswith(user_start) and user_start:
        return (before, join.removesuffix(user_start)), ""
    if before.startswith(opening + user_start):
        return (before.removeprefix(opening + user_start), join), "first"
    raise refused("its system message stands in no place that is known here")


def as_ollama(messages: Sequence[Message]) -> dict[str, object]:
    """What Ollama hands to a TEMPLATE (its template.go): .System, and all .Messages."""
    turns = [{"Role": m.role, "Content": m.content} for m in messages]
    return {"System": "\n\n".join(m.content for m in messages if m.role == "system"), "Messages": turns}


def ollama_template(render: Render, bos: str) -> str:
    """The TEMPLATE, checked on conversations. `bos`: text of a token that llama.cpp puts before every prompt itself."""
    frame = frame_of(render)
    outer = None if frame.system is None or frame.system_in else frame.system
    starts = [frame.opening, *([outer[0]] if outer else [])]
    if not all(text.startswith(bos) for text in starts):
        raise refused(f"the tokenizer puts {bos!r} before a prompt, and the template does not")
    system = (outer[0].removeprefix(bos), outer[1]) if outer else frame.system
    template = replace(frame, opening=frame.opening.removeprefix(bos), system=system).template()
    for messages in CONVERSATIONS:
        if messages[0].role == "system" and frame.system is None:
            continue
        if bos + go_template.render(template, as_ollama(messages)) != render(messages, True):
            raise refused(f"the conversation {', '.join(m.role for m in messages)} comes out as another text")
    return template


def quoted(text: str, what: str) -> str:
    """A text of several lines in a Modelfile."""
    if '"""' in text:
        raise ModelError(f'Ollama: {what} holds """, which a Modelfile cannot say; take the quotes out')
    return f'"""{text}"""'


def write_modelfile(
    path: Path, gguf: str, template: str, instruction: str, stops: Sequence[str], context_tokens: int | None
) -> None:
    """Greedy as it was measured: Ollama's own default would also push away from words that were used before."""
    lines = [f"FROM ./{gguf}", f"TEMPLATE {quoted(template, 'the template')}"]
    if instruction:
        lines.append(f"SYSTEM {quoted(instruction, 'the instruction')}")
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    if context_tokens is not None:
        lines.append(f"PARAMETER num_ctx {min(context_tokens, MOST_CONTEXT_TOKENS)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
