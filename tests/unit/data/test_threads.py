"""Files with one row per message: conversations out of scattered rows, and no line is lost."""

from __future__ import annotations

import csv
import random
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.columns import Columns, prompt_of
from tunesmith.data.ingest import infer_task, read
from tunesmith.data.rows import Rejected
from tunesmith.data.threads import gather
from tunesmith.types import Message, Reply

COLUMNS = Columns(conversation="id", role="who", content="text")


def table(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def turns(example: object) -> list[tuple[str, str]]:
    prompt, target = example.prompt, example.target  # type: ignore[attr-defined]
    assert isinstance(target, Reply)
    return [(m.role, m.content) for m in (*prompt, target.message)]


def test_a_ticket_export_becomes_conversations(tmp_path: Path) -> None:
    path = table(
        tmp_path / "export.csv", "ticket_id,sender,created_at,message,priority",
        "7,Agent,2024-03-01 09:05,Which one?,high",
        "8,customer,2024-03-01 09:00,Hello,low",
        "7,Customer,2024-03-01 09:00,My clips are gone.,high",
        "7,End-User,2024-03-01 09:01,Help!,high",
        "8,support,2024-03-01 09:10,Good day,low",
        "7,customer,2024-03-01 09:07,The red ones,high",
        "7,bot,2024-03-01 09:08,They are on their way.,high",
        "7,customer,2024-03-01 09:09,Thanks,high",
    )  # fmt: skip
    found = read([path])
    assert (len(found.examples), found.rejected, found.num_rows, found.num_messages) == (2, (), 2, 8)
    assert turns(found.examples[0]) == [
        ("user", "My clips are gone.\n\nHelp!"),
        ("assistant", "Which one?"),
        ("user", "The red ones"),
        ("assistant", "They are on their way."),
    ]
    assert [e.group for e in found.examples] == ["7", "8"]
    assert [e.source.rpartition(":")[2] for e in found.examples] == ["2", "3"], "a line of the conversation"
    assert found.ignored == ("priority",)
    assert infer_task(found.columns, found) == "chat"


def test_without_times_the_file_has_the_order_and_a_greeting_is_context(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv", "conversation_id,role,text", "1,agent,Hello!", "1,client,Hi", "1,agent,How can I help?"
    )
    example = read([path]).examples[0]
    assert turns(example) == [("assistant", "Hello!"), ("user", "Hi"), ("assistant", "How can I help?")]
    assert example.prompt[0].weight == 0


BAD: list[tuple[str, str]] = [
    ("2,Kevin,hello", "line 4: 'Kevin' (column 'role')"),
    ("2,user,only a question", "no assistant turn"),
    (",user,lost", "belongs to no conversation"),
    ("2,user", "2 fields, the header has 3"),
    ("2,user,", "no message of it holds text"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_what_cannot_be_used_is_rejected_with_its_line(tmp_path: Path, row: str, reason: str) -> None:
    found = read([table(tmp_path / "a.csv", "thread_id,role,body", "1,user,q", "1,bot,a", row)])
    assert [(r.line, reason in r.reason) for r in found.rejected] == [(4, True)], found.rejected
    assert len(found.examples) + len(found.rejected) == found.num_rows


def test_writers_can_be_said_and_skipped(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv", "nr;wer;was", "1;Kundin;Wo ist es?", "1;Notiz;intern", "1;Frau Muster;Unterwegs",
        "1;Kundin;Danke",
    )  # fmt: skip
    said = Columns(
        conversation="nr", role="wer", content="was",
        roles={"kundin": "user", "Frau Muster": "assistant", "Notiz": "skip"},
    )  # fmt: skip
    assert turns(read([path], said).examples[0]) == [("user", "Wo ist es?"), ("assistant", "Unterwegs")]


def test_messages_without_text_are_left_out_with_a_notice(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "ticket_id,role,text", "1,user,q", "1,agent,", "1,agent,a")
    found = read([path])
    assert turns(found.examples[0]) == [("user", "q"), ("assistant", "a")]
    assert "1 messages without text" in found.notices[0]


TIMES: list[tuple[list[object], bool]] = [
    (["2024-03-02", "2024-03-01"], True),
    (["2024-03-01T10:00:00Z", "2024-03-01T11:30:00+02:00"], True),
    ([1709300000, 1709200000.5], True),
    (["1709300000", "1709200000"], True),
    ([datetime(2024, 3, 2), datetime(2024, 3, 1)], True),
    (["14/02/2024 10:00", "03/02/2024 10:00"], True),  # only day first fits both
    (["02/14/2024 1:05 PM", "02/03/2024 11:00 AM"], True),
    (["03/02/2024", "02/03/2024"], False),  # February or March?
    (["yesterday", "2024-03-01"], False),
    (["2024-03-02", None], False),
]


@pytest.mark.parametrize(("times", "is_understood"), TIMES)
def test_times(times: list[object], is_understood: bool) -> None:
    """The second message is the earlier one; where that cannot be told, the file's order stays, with a notice."""
    rows = [(2, {"id": 1, "who": "agent", "text": "a", "t": times[0]})]
    rows += [(3, {"id": 1, "who": "user", "text": "q", "t": times[1]})]
    found = gather("f", rows, Columns(conversation="id", role="who", content="text", time="t"))
    assert not isinstance(found.conversations[0], Rejected)
    order = [m["content"] for m in found.conversations[0][1]["text"]]
    assert order == (["q", "a"] if is_understood else ["a", "q"])
    assert len(found.notices) == (not is_understood)


def test_labelled_messages_are_no_conversations(tmp_path: Path) -> None:
    """A file of single messages with labels stays one, though its columns could be a thread's."""
    path = table(tmp_path / "a.csv", "ticket_id,from,text,label", "1,customer,a,x", "2,customer,b,y")
    assert read([path]).columns.label == "label"
    threads = table(tmp_path / "b.csv", "ticket_id,from,text,category", "1,customer,a,x", "1,agent,b,x")
    assert read([threads]).columns.conversation == "ticket_id"


def test_a_missing_column_of_a_said_thread_is_named(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "nr,who,text", "1,user,a")
    with pytest.raises(Exception, match=r"for role none was found among nr, who, text.*--set data.columns.role=NAME"):
        read([path], Columns(conversation="nr"))


def test_the_prompt_of_one_message() -> None:
    assert prompt_of({"id": 1, "who": "user", "text": "q"}, COLUMNS) == (Message("user", "q"),)
    gathered = gather(
        "f", [(1, {"id": 1, "who": "user", "text": "q"}), (2, {"id": 1, "who": "bot", "text": "a"})], COLUMNS
    )
    assert not isinstance(gathered.conversations[0], Rejected)
    assert prompt_of(gathered.conversations[0][1], COLUMNS) == (Message("user", "q"),)


@given(
    st.lists(st.tuples(st.sampled_from(["1", "2", "3", ""]), st.sampled_from(["user", "bot", "who?"])), max_size=30),
    st.integers(0, 5),
)
def test_law_every_line_is_in_one_conversation_or_rejected(lines: list[tuple[str, str]], seed: int) -> None:
    rows = [(n, {"id": key, "who": who, "text": f"<{n}>"}) for n, (key, who) in enumerate(lines, 2)]
    random.Random(seed).shuffle(rows)
    found = gather("f", rows, COLUMNS)
    kept = [c[1] for c in found.conversations if not isinstance(c, Rejected)]
    spoiled = {key for key, who in lines if who == "who?" and key}
    texts = "".join(m["content"] for row in kept for m in row["text"])
    for n, (key, _) in enumerate(lines, 2):
        assert texts.count(f"<{n}>") == (key != "" and key not in spoiled)
    rejected = [c for c in found.conversations if isinstance(c, Rejected)]
    assert len(rejected) == len(spoiled) + sum(key == "" for key, _ in lines)
    assert found.num_messages == len(lines)


def test_the_order_of_the_rows_does_not_matter_where_there_are_times(tmp_path: Path) -> None:
    rows = [
        [f"T{i}", ("user", "agent")[j % 2], f"m{i}.{j}", f"2024-01-01 10:{j:02d}"] for i in range(5) for j in range(4)
    ]
    ids = []
    for seed in (0, 1):
        random.Random(seed).shuffle(rows)
        path = tmp_path / f"{seed}.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["ticket_id", "role", "text", "time"], *rows])
        ids.append({e.id for e in read([path]).examples})
    assert ids[0] == ids[1]
    assert len(ids[0]) == 5
