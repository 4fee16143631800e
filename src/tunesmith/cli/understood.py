"""What was understood of the data, on one real row, before anything runs: what is learned stands out, and every line
says how to choose otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

WIDTH = 13  # of the words on the left
MOST_CHARS = 900  # of a piece of the row: its beginning and its end are shown
FORMATS = {"jsonl": "JSON lines", "json": "JSON", "csv": "CSV", "tsv": "CSV", "parquet": "Parquet", "xlsx": "Excel",
           "text": "plain text"}  # fmt: skip
ENCODINGS = {"cp1252": "Windows-1252", "utf-8-sig": "UTF-8"}
LEARNED = "bold green"


def show(facts: Mapping[str, Any], console: Console) -> None:
    """`facts`: of data/understood.py."""
    console.print(Text("What was understood", style="bold"))
    _line(console, "data", Text(_files(facts)))
    for kind, names in facts["spelled"].items():
        by = "by what its rows hold" if kind == "transcripts" else "by its name"
        why = "said" if kind in facts["said"] else by
        _line(console, kind, Text.assemble(names, (f"  ({why})", "dim")))
    if facts["ignored"]:
        _line(console, "not used", Text(", ".join(facts["ignored"])))
    _line(console, "task", Text.assemble(facts["task"], (f"  ({facts['task_why']})", "dim")))
    example = facts["example"]
    learned = Text("what is learned", style=LEARNED)
    of_pair = ", of the two replies the chosen one" if "chosen" in facts["columns"] else ""
    rest = f"; the rest is what comes before it{of_pair}"
    if any(is_learned for _, is_learned in example["pieces"]):
        _line(console, "one row", Text.assemble(example["source"], ", ", learned, rest))
    else:
        _line(console, "one row", Text(f"{example['source']}, what is asked: the replies are sampled, and graded"))
    row = Text()
    for text, is_learned in example["pieces"]:
        # the colour alone does not say it: not on paper, and not to everyone
        row.append(f"⟦{_short(text)}⟧" if is_learned else _short(text), style=LEARNED if is_learned else "dim")
    console.print(row, soft_wrap=True)
    _line(console, "otherwise", Text(_otherwise(facts), style="dim"))
    console.print()


def _line(console: Console, word: str, text: Text) -> None:
    console.print(Text.assemble("  ", (word.ljust(WIDTH), "bold"), text), soft_wrap=True)


def _files(facts: Mapping[str, Any]) -> str:
    found = facts["found"]
    how = [FORMATS.get(found.get("format", ""), found.get("format", ""))]
    if "delimiter" in found:
        how.append("separated by tabs" if found["delimiter"] == "tab" else f"separated by '{found['delimiter']}'")
    if "encoding" in found:
        how.append(ENCODINGS.get(found["encoding"], found["encoding"].upper()))
    if "sheet" in found:
        how.append(f"sheet '{found['sheet']}'")
    files = facts["files"]
    named = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    unit = f"conversations ({facts['messages']} messages)" if facts["messages"] else "rows"
    used = "" if facts["rows"] == facts["accepted"] else f", {facts['rows'] - facts['accepted']} rejected"
    return f"{named} ({', '.join(how)}): {facts['rows']} {unit}{used}"


def _short(text: str) -> str:
    if len(text) <= MOST_CHARS:
        return text
    half = MOST_CHARS // 2
    return f"{text[:half]} [… {len(text) - 2 * half} characters …] {text[-half:]}"


def _otherwise(facts: Mapping[str, Any]) -> str:
    """How to say something else, with names of this very file where it has some to spare."""
    columns, spare = facts["columns"], (facts["ignored"] or ["NAME"])[0]
    if "text" in columns:
        return "--set 'data.reading.separator=\\n\\n' where a blank line stands between two documents of a file"
    if "chosen" in columns:
        return f"--set data.columns.chosen={spare} --set data.columns.rejected=NAME"
    if "messages" in columns:
        target = "--set data.columns.messages=NAME"  # what is to spare is an id, or the like
    elif "conversation" in columns:
        target = "--set 'data.columns.roles={WRITER: assistant}'"
    else:
        kind = next((k for k in ("label", "reply", "facts") if k in columns), "reply")
        target = f"--set data.columns.{kind}={spare}"
    names = columns.get("prompt", ())
    is_plain = names and not any("{" in name for name in names)
    prompt = f" --set 'data.columns.prompt=Text: {{{names[0]}}}'" if is_plain else ""
    return f"{target}{prompt} --set task.name={'chat' if facts['task'] != 'chat' else 'generate'}"
