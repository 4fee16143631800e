"""What a template puts around a reply, and so what of a rendering is the reply.

Where the rendering of prompt and assistant turn begins with the served prompt, the reply is the rest, up to and
including the end of turn: that carries GPT-OSS's channel headers, Qwen3's empty think block and tool calls. Elsewhere
(DeepSeek-R1 serves `<think>`, its history has none) it is the content and the end of turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tunesmith.data.controls import Controls
from tunesmith.data.template import ChatTemplate
from tunesmith.errors import DataError, ModelError
from tunesmith.types import Message

PROBE = "tunesmithprobe"  # letters only: no template or tokenizer treats it in a special way
THINK_OPEN = re.compile(r"<think>\s*$")
REASONING = ("reasoning_content", "thinking", "reasoning")


class Frame:
    """Worked out once per template, from one rendered reply."""

    def __init__(self, tokenizer: Any, template: ChatTemplate, controls: Controls) -> None:
        self._template, self._controls = template, controls
        asked = (Message("user", "x"),)
        try:
            prompt = template.render(asked, is_prompt=True)
            full = template.render((*asked, Message("assistant", f"  {PROBE}  ")), is_prompt=False)
        except DataError as error:
            raise ModelError(f"the model's chat template cannot render a question and a reply: {error}") from error
        if not prompt:
            raise ModelError("the model's chat template renders a user's message as nothing. Use another template.")
        if PROBE not in full:
            raise ModelError("the model's chat template leaves the assistant's reply out. Use another template.")
        self.trims = f"  {PROBE}" not in full or f"{PROBE}  " not in full
        tail = template.render((*asked, Message("assistant", PROBE)), is_prompt=False).rpartition(PROBE)[2]
        end = controls.first_in(tail)
        self.writes_end = end is not None
        self.end_text = end.group() if end else tokenizer.eos_token
        if not self.end_text:
            raise ModelError(
                "the chat template writes no end of turn and the tokenizer has no end-of-text token: the model would "
                "never stop."
            )
        self.end_id = int(tokenizer.convert_tokens_to_ids(self.end_text))
        self.suffix = tail[: end.start()] if end else tail  # between the content and the end of turn
        self.prefix = self.reply(asked, prompt, Message("assistant", PROBE)).partition(PROBE)[0]

    def reply(self, before: Sequence[Message], prompt: str, message: Message) -> str:
        """The reply as text, with its end of turn, to be tokenised behind `prompt`. Both have been shielded."""
        full = self._template.render((*before, message), is_prompt=False)
        rest = full[len(prompt) :] if full.startswith(prompt) else ""
        if not rest:
            return self._from_content(prompt, message)
        if not self.writes_end:
            return rest.removesuffix(self.suffix) + self.end_text
        end = rest.find(self.end_text)
        if end >= 0:
            return rest[: end + len(self.end_text)]
        last = self._controls.last_in(rest)  # another end for this kind of turn: GPT-OSS's <|call|>, Llama's <|eom_id|>
        if last is None:
            return rest.rstrip() + self.end_text
        return rest[: last.end()]

    def _from_content(self, prompt: str, message: Message) -> str:
        if message.extra.get("tool_calls"):
            raise DataError(
                "the model's chat template does not render a tool call behind the served prompt, so it cannot be "
                "learned. "
                "Give the turn the weight 0, or take a model whose template does."
            )
        content = message.content.strip() if self.trims else message.content
        if THINK_OPEN.search(prompt):
            content = _closing_thought(content, message)
        return content + self.suffix + self.end_text


def _closing_thought(content: str, message: Message) -> str:
    """The served prompt has opened a thought: the reply goes on inside of it, and closes it."""
    if "</think>" in content:
        return content.lstrip().removeprefix("<think>").removeprefix("\n")
    reasoning = next((str(message.extra[name]) for name in REASONING if message.extra.get(name)), "")
    return f"{reasoning.strip()}\n</think>\n\n{content}"
