"""A model's chat template: messages to the text that is served.

Templates are untrusted code: they run in a process of their own (`rendering.py`) and see plain data only. What they
raise becomes an error with the way out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tunesmith.data.rendering import Refused, renderer_of
from tunesmith.data.source import source_template
from tunesmith.errors import DataError, ModelError
from tunesmith.types import Message

# For tokenizers without a chat template (base models). Exported with the artifact, so that serving uses the same.
FALLBACK = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '### Assistant:\\n' + message['content'] + eos_token + '\\n\\n' }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% else %}{{ '### User:\\n' + message['content'] + '\\n\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
REASONING = ("reasoning_content", "thinking", "reasoning")  # names that templates know a thought by


class ChatTemplate:
    """The template's text and the tokenizer whose special tokens it writes. `layout`: of the model."""

    def __init__(self, tokenizer: Any, layout: str = "forest") -> None:
        self._tokenizer = tokenizer
        self._ahead: dict[tuple[tuple[int, ...], bool], tuple[Sequence[Message], str]] = {}
        self.text = _template_of(tokenizer, layout)

    def render(self, messages: Sequence[Message], *, is_prompt: bool) -> str:
        """The conversation as text; `is_prompt`: it ends where the model goes on."""
        ahead = self._ahead.get((tuple(map(id, messages)), is_prompt))
        if ahead is not None:
            return ahead[1]
        variables = self._variables(messages, is_prompt=is_prompt)
        try:
            return self._rendered(variables)
        except Refused as error:
            raise DataError(self._refused(messages, error)) from error

    def ahead(self, asked: Sequence[tuple[Sequence[Message], bool]]) -> None:
        """Renders these together, which is quicker, and has them ready for `render` of the very same messages, until
        the next call. They are held, so that no other message has the identity of one of them."""
        texts = renderer_of(self.text).render_all([self._variables(m, is_prompt=p) for m, p in asked]) if asked else []
        self._ahead = {
            (tuple(map(id, messages)), is_prompt): (messages, text)
            for (messages, is_prompt), text in zip(asked, texts)
            if text is not None
        }

    def _variables(self, messages: Sequence[Message], *, is_prompt: bool) -> dict[str, Any]:
        dicts = [{k: v for k, v in message.as_dict().items() if v is not None} for message in messages]
        tools = dicts[0].pop("tools", None) if dicts else None
        return {
            **self._tokenizer.special_tokens_map,
            "messages": [_with_thought(message) for message in dicts],
            "tools": tools,
            "documents": None,
            "add_generation_prompt": is_prompt,
        }

    def _rendered(self, variables: dict[str, Any]) -> str:
        """Some templates (DeepSeek's) put the arguments of a call behind other text, and so want them as text."""
        try:
            return renderer_of(self.text).render(variables)
        except Refused:
            written = [_with_written(message) for message in variables["messages"]]
            if written == variables["messages"]:
                raise
            return renderer_of(self.text).render({**variables, "messages": written})

    def _refused(self, messages: Sequence[Message], error: Exception) -> str:
        said = f"the model's chat template refuses the conversation ({', '.join(m.role for m in messages)}): {error}."
        roles = {m.role for m in messages}
        if roles & {"system", "developer"} and "system" in str(error).lower():
            return f"{said} It has no system role: put that text at the head of the first user message."
        if roles - {"user", "assistant", "system"}:
            return f"{said} Use the roles system, user and assistant, or a model whose template knows the others."
        return f"{said} Most want user and assistant in turn: change the messages, or the model."


def _with_thought(message: dict[str, Any]) -> dict[str, Any]:
    """A thought under each of the names that a template may read it by, as transformers hands it on."""
    thought = next((message[name] for name in REASONING if message.get(name) is not None), None)
    return message if thought is None else {"thinking": thought, **message, "reasoning_content": thought}


def _with_written(message: dict[str, Any]) -> dict[str, Any]:
    """The arguments of calls as JSON text."""
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [_written(call) for call in calls]} if isinstance(calls, list) else message


def _written(call: Any) -> Any:
    called = call.get("function") if isinstance(call, dict) else None
    if not isinstance(called, dict) or not isinstance(called.get("arguments"), dict):
        return call
    return {**call, "function": {**called, "arguments": json.dumps(called["arguments"], ensure_ascii=False)}}


def _template_of(tokenizer: Any, layout: str) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template:
            raise ModelError(
                f"the tokenizer has the chat templates {', '.join(template)} and no 'default' one. Set one as its "
                "default."
            )
        template = template["default"]
    if template is not None:
        return str(template)
    if tokenizer.eos_token is None:
        raise ModelError("the tokenizer has neither a chat template nor an end-of-text token. Set one of them.")
    if layout == "seq2seq":
        return source_template(tokenizer)
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("x")["input_ids"][:1] == [bos]
    return ("{{ bos_token }}" if adds_bos else "") + FALLBACK
