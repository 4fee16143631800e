"""What an encoder-decoder without a chat template is given: its source as plain text, its target apart.

The source is the turns of the prompt in their order, a blank line between them, as its tokenizer writes a text (T5 puts
an end behind it, BART a beginning before it too); the target is the reply, written in the same way.
"""

from __future__ import annotations

from typing import Any

from tunesmith.errors import ModelError

SAMPLE = "x"
TEMPLATE = (
    "BEGIN{% for message in messages %}"
    "{% if loop.last and message['role'] == 'assistant' and not add_generation_prompt %}"
    "END BEGIN{{ message['content'] + eos_token }}"
    "{% else %}{{ ('' if loop.first else '\\n\\n') + message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}END{% endif %}"
)


def source_template(tokenizer: Any) -> str:
    """A chat template that writes so. Raises ModelError where the tokenizer puts anything else around a text than the
    tokens that begin and end one, or writes targets otherwise."""
    core = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
    whole, target = tokenizer(SAMPLE)["input_ids"], tokenizer(text_target=SAMPLE)["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    begins, ends = bos is not None and whole[:1] == [bos], whole[-1:] == [eos]
    if target != whole or whole != [*[bos] * begins, *core, *[eos] * ends]:
        around = " ".join(map(str, tokenizer.convert_ids_to_tokens(target)))
        raise ModelError(
            f"this encoder-decoder's tokenizer writes {around!r} for the target {SAMPLE!r}: only targets that are "
            "written as sources are, with nothing around them but the tokens that begin and end a text, are learned "
            "(T5, mT5, Flan-T5, BART; not mBART, NLLB, M2M100 or Marian). Use one of these, or a decoder"
        )
    begin, end = ("{{ bos_token }}" * begins, "{{ eos_token }}" * ends)
    return TEMPLATE.replace("END BEGIN", end + begin).replace("BEGIN", begin, 1).replace("END", end)
