"""What should not stand in anybody's text: the control tokens and turn markers of chat templates, of whatever model,
and characters that nobody sees.
"""

from __future__ import annotations

import re

CONTROL = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|startoftext|begin_of_text|end_of_text|eot_id|eom_id|start_header_id"
    r"|end_header_id|python_tag|system|user|assistant|end|eos|bos|pad|channel|message|start|return|call|tool)\|>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|\[/?(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
    r"|<｜[^｜\n]{1,40}｜>|(?m:^|(?<=\s))</?s>(?=\s|\Z)|<(?:bos|eos)>"
)
TURN = re.compile(r"^\s*(?:###\s*(?:instruction|response|input|human|assistant|user|system)\s*:?|<(?:human|bot)>:)\s*$",
                  re.IGNORECASE | re.MULTILINE)  # fmt: skip
# Bidirectional overrides, tag characters, zero-width spaces and joiners between letters that never join
HIDDEN = re.compile(
    r"[\u202a-\u202e\u2066-\u2069\U000e0001\U000e0020-\U000e007f]|(?<=[A-Za-z])[\u200b\u2060\ufeff](?=[A-Za-z])"
)


def control(text: str) -> re.Match[str] | None:
    if ("<" in text or "[" in text) and (found := CONTROL.search(text)):
        return found
    return TURN.search(text) if "#" in text or "<" in text else None


def hidden(text: str) -> re.Match[str] | None:
    return None if text.isascii() else HIDDEN.search(text)
