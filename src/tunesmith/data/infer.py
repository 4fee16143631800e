"""Which columns a file's names, and what its first rows hold, say is what. What the user said wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.data.chatml import BEGIN, in_column
from tunesmith.data.columns import Columns
from tunesmith.data.marks import column_of
from tunesmith.data.names import CONTENT, CONVERSATION, LABELLED, MESSAGES, PAIRS, PLAIN, REPLIES, ROLE, TIME
from tunesmith.data.profile import is_number
from tunesmith.data.ranking import columns_of
from tunesmith.data.rows import Row, parse_json
from tunesmith.data.transcripts import is_chat, told
from tunesmith.errors import DataError, did_you_mean

ASKING = ("system", "developer", "user")  # who speaks in a prompt that nobody answered yet
TARGETS = ("messages", "text", "reply", "label", "chosen", "ranked", "conversation")


def infer(names: Iterable[str], said: Columns, sample: Sequence[Row] = ()) -> Columns:
    """The columns to read. `sample`: some rows, to tell apart what names alone do not. DataError names what was found
    and what is wanted.
    """
    found = tuple(names)
    _check_said(found, said)
    known = {name.strip().lower(): name for name in reversed(found)}
    threaded = any((said.conversation, said.role, said.content, said.time))
    is_said = any(getattr(said, name) for name in ("prompt", "rejected", *TARGETS[:-1]))
    if threaded and not is_said:
        target = _thread(said, known, found)
    elif is_said:
        target = _said_target(said, known)
    else:
        target = _inferred_target(known, sample)
    if target is None:
        example = found[0] if found else "NAME"
        raise DataError(
            f"the columns {', '.join(map(repr, found)) or '(none)'} are none that are known. Wanted: messages; prompt "
            "+ completion; instruction + input + output; text + label; question + answer; document + summary; source + "
            "target; conversation_id + role + text … Rename them, or say which column is the prompt and which the "
            f"reply or the label: --set data.columns.prompt={example} --set data.columns.label=NAME (or reply=NAME). "
            f"Prompts alone, to learn from a reward: --set data.columns.prompt={example} --set data.columns.facts=[]. "
            f"A text to go on with as it is, without a prompt: --set data.columns.text={example}."
        )
    merged = replace(said, **target)
    if not is_said and merged.mark is None and (merged.reply or merged.messages):
        merged = replace(merged, mark=column_of(known, sample))
    merged = replace(
        merged,
        group=said.group or known.get("group") or merged.conversation,
        weight=said.weight or known.get("weight"),
        system=said.system or known.get("system"),
        tools=said.tools or known.get("tools") or known.get("functions"),
    )
    merged = told(merged, sample)
    return merged if merged.facts is not None else replace(merged, facts=_facts(merged, found, sample))


def _check_said(found: tuple[str, ...], said: Columns) -> None:
    missing = [name for name in said.used() if name not in found]
    if missing:
        raise DataError(
            f"there is no column {', '.join(map(repr, missing))}; the file has: {', '.join(found) or 'none'}. Name "
            f"one of these.{did_you_mean(missing[0], found)}"
            + (" Braces that are text are doubled: {{ and }}." if _in_template(missing, said) else "")
        )
    targets = [name for name in TARGETS if getattr(said, name) is not None]
    if said.mark and not (said.reply or said.messages or len(targets) == 0):
        raise DataError(f"the column mark was named beside {targets[0]}. A mark says of a reply whether it is good.")
    if bool(said.chosen) != bool(said.rejected):
        raise DataError("only one of the columns chosen and rejected was named. A pair needs both.")
    if len(targets) > 1:
        raise DataError(f"the columns {' and '.join(targets)} were named, and each of them is the target. Name one.")
    if said.text and (said.prompt or said.system or said.tools):
        raise DataError("the column text was named, and one that stands before an answer. A plain text has no prompt.")
    if said.facts and targets and targets != ["messages"]:
        raise DataError(f"the columns facts and {targets[0]} were named, and each of them is the target. Name one.")


def _in_template(missing: list[str], said: Columns) -> bool:
    return any("{" in text for text in (*(said.prompt or ()), said.reply or "")) and not any(
        name in (said.prompt or ()) for name in missing
    )


def _said_target(said: Columns, known: Mapping[str, str]) -> dict[str, Any] | None:
    """What stands for prompt and target where the user named at least one of them."""
    if said.messages or said.text or (said.prompt is not None and (said.reply or said.label or said.facts is not None)):
        return {}
    if (said.chosen and said.rejected) or said.ranked:
        return {} if said.prompt else {"prompt": _pair_prompt(known)}
    tables = [(p, reply, "reply") for p, reply in REPLIES] + [((p,), label, "label") for p, label in LABELLED]
    for prompts, target, kind in tables:
        prompt = said.prompt or tuple(
            known[p] for p in prompts if p in known and known[p] not in (said.reply, said.label)
        )
        if not prompt or (said.prompt is None and prompts[0] not in known):
            continue
        if said.reply or said.label:
            return {"prompt": prompt}
        if target in known and known[target] not in Columns(prompt=prompt).used():
            return {"prompt": prompt, kind: known[target]}
    return None


def _inferred_target(known: Mapping[str, str], sample: Sequence[Row]) -> dict[str, Any] | None:
    for name in MESSAGES:
        if name in known and any(_is_messages(row.get(known[name])) for row in sample):
            return {"messages": known[name]}
    for prompt_tables, chosen, rejected in PAIRS:
        is_there = chosen in known and rejected in known
        if is_there and (chosen == "chosen" or not _are_numbers(sample, known[chosen], known[rejected])):
            prompt = next((tuple(known[p] for p in ps if p in known) for ps in prompt_tables if ps[0] in known), None)
            return {"prompt": prompt, "chosen": known[chosen], "rejected": known[rejected]}
    ranking = columns_of(known, sample)
    if ranking is not None and (prompt := _pair_prompt(known)) is not None:
        return {"prompt": prompt, **ranking}
    thread = _thread(Columns(), known, None)
    if thread is not None and _talks(sample, thread["conversation"], thread["role"]):
        return thread
    for prompts, reply in REPLIES:
        if prompts[0] in known and reply in known:
            return {"prompt": tuple(known[p] for p in prompts if p in known), "reply": known[reply]}
    for text, label in LABELLED:
        if text in known and label in known:
            return {"prompt": (known[text],), "label": known[label]}
    if thread is not None:
        return thread
    for name in known.values():
        if is_chat([row.get(name) for row in sample]):
            return {"messages": name}
    if len(known) == 1 and (only := next(iter(known))) in PLAIN:
        return {"text": known[only]}
    if len(known) == 1 and "prompt" in known:
        return {"prompt": (known["prompt"],), "facts": ()}
    return next(({"messages": known[name]} for name in MESSAGES if name in known), None)


def _pair_prompt(known: Mapping[str, str]) -> tuple[str, ...] | None:
    candidates = [ps for prompts, _, _ in PAIRS for ps in prompts]
    return next((tuple(known[p] for p in ps if p in known) for ps in candidates if ps[0] in known), None)


def _are_numbers(sample: Sequence[Row], *names: str) -> bool:
    """Whether the columns hold numbers alone: votes, and no replies."""
    values = [row[name] for row in sample for name in names if row.get(name) is not None]
    return bool(values) and all(is_number(str(value)) for value in values)


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith(("[", BEGIN)))


def _thread(said: Columns, known: Mapping[str, str], found: tuple[str, ...] | None) -> dict[str, Any] | None:
    """The columns of a file with one row per message. `found`: the file's columns, where it was said to be one."""
    tables = {"conversation": CONVERSATION, "role": ROLE, "content": CONTENT, "time": TIME}
    thread: dict[str, Any] = {}
    for kind, names in tables.items():
        taken = set(thread.values())
        known_name = next((known[name] for name in names if name in known and known[name] not in taken), None)
        thread[kind] = getattr(said, kind) or known_name
    missing = [kind for kind in ("conversation", "role", "content") if thread[kind] is None]
    if missing and found is not None:
        raise DataError(
            f"one row per message needs the columns conversation, role and content; for {' and '.join(missing)} none "
            f"was found among {', '.join(found)}. Say it, as in --set data.columns.{missing[0]}=NAME."
        )
    return None if missing else thread


def _talks(sample: Sequence[Row], conversation: str, role: str) -> bool:
    """Whether several messages of one conversation, by more than one writer, are among the rows."""
    writers: dict[Any, set[str]] = {}
    for row in sample:
        if row.get(conversation) is not None:
            writers.setdefault(str(row[conversation]), set()).add(str(row.get(role)))
    return any(len(who) > 1 for who in writers.values())


def _facts(columns: Columns, found: tuple[str, ...], sample: Sequence[Row]) -> tuple[str, ...] | None:
    """OpenAI's file for reinforcement: conversations that end before the answer, beside what a grader needs. Where
    nothing stands beside them, they are prompts alone if nobody answers in any: ()."""
    if columns.messages is None:
        return None
    chats = [roles for row in sample if (roles := _roles(row.get(columns.messages)))]  # of rows that can be read
    if not chats or not all(roles[-1] in ("user", "tool") for roles in chats):
        return None
    rest = tuple(name for name in found if name not in columns.used() and name != "parallel_tool_calls")
    is_answered = any(role not in ASKING for roles in chats for role in roles)
    return None if is_answered and not rest else rest


def _roles(value: Any) -> list[Any]:
    """Who speaks, message by message; nobody where it cannot be read."""
    if isinstance(value, str):
        try:
            value = in_column(value) if value.lstrip().startswith(BEGIN) else parse_json(value)
        except ValueError:
            return []
    is_list = isinstance(value, list) and value and isinstance(value[-1], Mapping)
    return [message.get("role") if isinstance(message, Mapping) else None for message in value] if is_list else []
