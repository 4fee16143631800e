"""A model's chat template: messages to the text that is served.

Templates are untrusted code: they run in transformers' sandbox and see plain data only. What they raise becomes an
error with the way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2

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
MAX_RENDERED_CHARS = 2**26  # a template that writes more than this for one conversation is broken or hostile
# What untrusted template code can raise besides jinja2's own errors.
_RAISED = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


class ChatTemplate:
    """The template's text and the tokenizer whose special tokens it writes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.text = _template_of(tokenizer)

    def render(self, messages: Sequence[Message], *, is_prompt: bool) -> str:
        """The conversation as text; `is_prompt`: it ends where the model goes on."""
        dicts = [message.as_dict() for message in messages]
        tools = dicts[0].pop("tools", None) if dicts else None
        try:
            text = self._tokenizer.apply_chat_template(
                dicts, tools=tools, chat_template=self.text, tokenize=False, add_generation_prompt=is_prompt
            )
        except _RAISED as error:
            raise DataError(self._refused(messages, error)) from error
        if len(text) > MAX_RENDERED_CHARS:
            raise ModelError(
                f"the model's chat template wrote {len(text)} characters for one conversation. Use another template."
            )
        return str(text)

    def _refused(self, messages: Sequence[Message], error: Exception) -> str:
        said = f"the model's chat template refuses the conversation ({', '.join(m.role for m in messages)}): {error}."
        roles = {m.role for m in messages}
        if roles & {"system", "developer"} and "system" in str(error).lower():
            return f"{said} It has no system role: put that text at the head of the first user message."
        if roles - {"user", "assistant", "system"}:
            return f"{said} Use the roles system, user and assistant, or a model whose template knows the others."
        return f"{said} Most want user and assistant in turn: change the messages, or the model."


def _template_of(tokenizer: Any) -> str:
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
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("x")["input_ids"][:1] == [bos]
    return ("{{ bos_token }}" if adds_bos else "") + FALLBACK
