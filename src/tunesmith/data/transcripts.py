"""Dialogues written into one text ("Human: … Assistant: …", or in ChatML), as turns. As they stand the model's template
would be put around the marks of another one, and both be learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.data.chatml import BEGIN, in_column, is_whole
from tunesmith.data.columns import Columns
from tunesmith.data.fill import is_template
from tunesmith.data.turns import MARK, SPEAKERS, turns_in

NEARLY_ALL = 0.95  # of the rows


def told(columns: Columns, sample: Sequence[Mapping[str, Any]]) -> Columns:
    """With the columns of pairs and marked replies that hold transcripts, unless they are said."""
    asked = read_of(columns)
    if columns.transcripts is not None or not asked:
        return columns
    found = tuple(name for name in asked if is_transcript([row.get(name) for row in sample]))
    return replace(columns, transcripts=found)


def read_of(columns: Columns) -> list[str]:
    """The columns that hold what was said; of labels and of documents none, since these are about a dialogue."""
    replies = [columns.reply if columns.mark else None, columns.chosen, columns.rejected]
    named = [name for name in replies if name is not None and not is_template(name)]
    if not named:
        return []
    alone = columns.prompt if columns.prompt and len(columns.prompt) == 1 and not is_template(columns.prompt[0]) else ()
    return [*alone, *named]


def is_chat(values: Sequence[Any]) -> bool:
    """Whether every one of these texts is ChatML and nothing else, and an assistant speaks in all. One text that is not
    is enough to leave them all as they are: else who writes markers into a row would speak in its turns."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    return bool(texts) and all(
        is_whole(text) and any(turn["role"] == "assistant" for turn in in_column(text)) for text in texts
    )


def is_transcript(values: Sequence[Any]) -> bool:
    """Whether nearly all of these texts begin with a speaker's name, and an assistant speaks in some, or is
    called upon to. In ChatML they are all, and nothing else."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    if any(BEGIN in text for text in texts):
        return all(is_whole(text) for text in texts)
    begun = sum(bool(turns_in(text)) for text in texts)
    is_answered = any(SPEAKERS[name] == "assistant" for text in texts for name in MARK.findall(text))
    return is_answered and begun >= NEARLY_ALL * len(texts)


def notes(columns: Columns, said: Columns, sample: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a person should know of it: that texts were cut, or could be."""
    if said.transcripts is None and columns.transcripts:
        names = " and ".join(map(repr, columns.transcripts))
        holds = "hold" if len(columns.transcripts) > 1 else "holds"
        return [
            f"{names} {holds} dialogues as text (such as {marks(columns.transcripts, sample)}): they were cut into "
            "turns, which the model's own template marks. To learn them as they are: --set data.columns.transcripts=[]"
        ]
    chat = columns.messages
    if chat is not None and is_chat([row.get(chat) for row in sample]):
        return [
            f"{chat!r} holds ChatML and nothing else in all {len(sample)} rows looked at: it is read as turns, which "
            "the model's own template marks, and a row that is no ChatML is left out and listed. To learn it as it is: "
            f"--set data.columns.text={chat}"
        ]
    prompt = columns.prompt or ()
    if said.transcripts is None and columns.reply is not None and len(prompt) == 1 and not is_template(prompt[0]):
        values = [row.get(prompt[0]) for row in sample]
        if is_transcript(values) and all(not str(value).strip() or is_asked(str(value)) for value in values):
            return [
                f"{prompt[0]!r} holds dialogues as text (such as {marks(prompt, sample)}), which the template puts "
                f"into one turn of the user. To cut them into turns: --set data.columns.transcripts=[{prompt[0]}]"
            ]
    return []


def is_asked(text: str) -> bool:
    """Whether the assistant is to go on behind it."""
    turns = turns_in(text)
    return bool(turns) and turns[-1]["role"] == "user"


def marks(names: Sequence[str], sample: Sequence[Mapping[str, Any]]) -> str:
    """The speakers' names as they stand in the first rows."""
    texts = [str(row.get(name) or "") for row in sample for name in names]
    if any(BEGIN in text for text in texts):
        return f"{BEGIN}user"
    found = dict.fromkeys(f"{name}:" for text in texts for name in MARK.findall(text))
    return " ".join(list(found)[:2])
