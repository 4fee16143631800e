"""What was understood is said before anything runs: as facts, and on one real row with what is learned marked."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console
from tests.data.chat import tokenizer

from tunesmith.cli import understood as view
from tunesmith.data.audit import audit, summary_lines
from tunesmith.data.columns import Columns
from tunesmith.data.ingest import read
from tunesmith.data.render import Renderer
from tunesmith.data.split import split
from tunesmith.types import Example, Label, Message


def audited(path: Path, columns: Columns | None = None) -> dict:
    ingested = read([path], columns)
    test = Example("t-1", (Message("user", "held out"),), Label("ask"))
    parts = split(ingested.examples, 0.0, 0.0, "salt", given={"test": [test]})
    return audit(ingested, parts, Renderer(tokenizer("chatml"), 8000).records(parts.train))


def shown(facts: dict, *, is_terminal: bool = False) -> str:
    out = io.StringIO()
    colours = "standard" if is_terminal else None
    console = Console(file=out, force_terminal=is_terminal, width=80, highlight=False, color_system=colours)  # type: ignore[arg-type]
    view.show(facts, console)
    return out.getvalue()


def test_a_said_template_and_an_inferred_label(tmp_path: Path) -> None:
    path = tmp_path / "mail.csv"
    path.write_bytes("subject;body;label;no\nCafé;Where is it?;ask;1\nHi;I will pay;buy;2\n".encode("cp1252"))
    found = audited(path, Columns(prompt=("About {subject}:\n{body}",)))
    facts = found["understood"]
    assert json.loads(json.dumps(facts))["columns"]["prompt"] == ["About {subject}:\n{body}"]
    assert facts["found"] == {"format": "csv", "encoding": "cp1252", "delimiter": ";"}
    assert (facts["said"], facts["ignored"], facts["task"]) == (["prompt"], ["no"], "classify")
    assert facts["example"]["source"] == f"{path}:2"
    learned = [text for text, is_learned in facts["example"]["pieces"] if is_learned]
    assert learned == ["ask<|im_end|>"]
    text = shown(facts)
    for part in (
        "mail.csv (CSV, separated by ';', Windows-1252): 2 rows\n",
        "prompt       'About {subject}:\\n{body}'  (said)",
        "label        label  (by its name)",
        "not used     no",
        "classify  (the column 'label' holds labels)",
        "About Café:\nWhere is it?",
        "⟦ask<|im_end|>⟧",
        "--set data.columns.label=no",
    ):
        assert part in text, part
    assert "\x1b" not in text
    lines = summary_lines(found)
    assert lines[0] == "columns    prompt = 'About {subject}:\\n{body}', label = label; not used: no"
    assert any("read as Windows-1252" in line for line in lines if line.startswith("note"))


def test_learned_text_is_coloured_and_long_context_is_shortened(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "begin " + "[red]x[/red] " * 100 + "end", "completion": "yes"}))
    text = shown(audited(path)["understood"], is_terminal=True)
    assert "\x1b[1;32m⟦yes" in text
    assert "characters …]" in text
    assert "begin [red]x[/red]" in text, "markup in the data stays text"
    assert "end<|im_end|>" in text


def test_conversations_say_how_many_messages_they_came_from(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("ticket_id,role,text\n1,user,q\n1,agent,a\n2,user,x\n")
    found = audited(path)
    assert "1 rejected" in shown(found["understood"])
    assert "2 conversations (3 messages)" in shown(found["understood"])
    assert "--set 'data.columns.roles={WRITER: assistant}'" in shown(found["understood"])
    assert "rows       2 conversations (of 3 lines) read = 1 accepted + 1 rejected" in summary_lines(found)
