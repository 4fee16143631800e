"""Templates of prompts: several columns in one, and values that are never read as a template."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.columns import Columns, prompt_of
from tunesmith.data.fill import fill, names_in
from tunesmith.data.ingest import read
from tunesmith.errors import DataError
from tunesmith.recipe import override, parse
from tunesmith.types import Message, Reply

ROW = '{"subject": "S {body} {0.__class__}", "body": "B }} {", "answer": "A", "n": 3}'


def write(folder: Path, *rows: str) -> Path:
    path = folder / "a.jsonl"
    path.write_text("\n".join(rows))
    return path


def test_columns_in_one_prompt(tmp_path: Path) -> None:
    said = Columns(prompt=("Subject: {subject}\n{ body } ({n}) {{x}}",), reply="{answer}!")
    found = read([write(tmp_path, ROW)], said)
    assert found.examples[0].prompt == (Message("user", "Subject: S {body} {0.__class__}\nB }} { (3) {x}"),)
    assert found.examples[0].target == Reply(Message("assistant", "A!"))
    assert found.ignored == ()
    assert found.columns.used() == ("subject", "body", "n", "answer")


def test_a_template_among_columns_and_empty_values(tmp_path: Path) -> None:
    rows = [ROW, '{"subject": null, "body": " ", "answer": "A"}', '{"subject": null, "body": "B", "answer": "A"}']
    found = read([write(tmp_path, *rows)], Columns(prompt=("{subject}: {body}",), reply="answer"))
    assert [e.prompt[0].content for e in found.examples][1] == ": B"
    assert [r.line for r in found.rejected] == [2]
    both = read([write(tmp_path, *rows)], Columns(prompt=("About {subject}", "body"), reply="answer"))
    assert [e.prompt[0].content for e in both.examples][1:] == ["B"], "a template whose columns are empty is left out"


def test_errors_name_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path, ROW)
    with pytest.raises(DataError, match=r"no column 'sbject'; the file has: subject, body, answer, n.*\{\{ and \}\}"):
        read([path], Columns(prompt=("Subject: {sbject}",), reply="answer"))
    for template in ("a { b", "a } b", "{a{b}", "{}"):
        with pytest.raises(DataError, match="of its own at character"):
            read([path], Columns(prompt=(template,), reply="answer"))


@given(st.text(), st.text())
def test_law_values_come_out_as_they_went_in(a: str, b: str) -> None:
    assert fill("{{{a}}}{b}", {"a": a, "b": b}.__getitem__) == "{" + a + "}" + b
    assert names_in("{{{a}}}{b}{a}") == ("a", "b")


def test_templates_can_be_said_on_the_command_line_and_in_a_recipe() -> None:
    for text in (r"Subject: {subject}\n{body}", r'"Subject: {subject}\n{body}"', r'["Subject: {subject}\n{body}"]'):
        key, value = override(f"data.columns.prompt={text}")
        recipe = parse({"data": {"columns": {key.rpartition(".")[2]: value}}})
        assert recipe.data.columns.prompt == ("Subject: {subject}\n{body}",)
    assert override("data.columns.prompt=[a, b]")[1] == ["a", "b"]
    assert override("data.columns.prompt=null")[1] is None
    assert override("data.columns.prompt={subject}")[1] == "{subject}"
    roles = override("data.columns.roles={technician: assistant}")[1]
    assert parse({"data": {"columns": {"roles": roles}}}).data.columns.roles == {"technician": "assistant"}


def test_prompts_of_rows_without_a_target() -> None:
    row = {"subject": "S", "body": "B", "system": "Y"}
    said = Columns(prompt=("{subject}/{body}",), reply="answer", system="system")
    assert prompt_of(row, said) == (Message("system", "Y"), Message("user", "S/B"))
    assert prompt_of(row, Columns(prompt=("subject", "body"), label="x")) == (Message("user", "S\n\nB"),)
    with pytest.raises(ValueError, match="no column 'text'"):
        prompt_of(row, Columns(prompt=("text",), label="x"))
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    columns = Columns(messages="messages")
    assert prompt_of({"messages": chat}, columns) == prompt_of({"messages": chat[:1]}, columns)
    with pytest.raises(ValueError, match="there is no prompt"):
        prompt_of({"messages": chat[1:]}, columns)
    assert prompt_of({"chosen": chat}, Columns(chosen="chosen", rejected="rejected")) == (Message("user", "q"),)
