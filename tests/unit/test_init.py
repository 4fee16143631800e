"""What `init` sees in a file and proposes: columns, task, group, sizes, and what it warns of."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith import init as init_module
from tunesmith.errors import InputError
from tunesmith.evals.probes import PROBES
from tunesmith.fit import CHARS_PER_TOKEN, GUARD_TOKENS, Machine, Sizes, whole_s, within
from tunesmith.guards import MAX_NEW_TOKENS
from tunesmith.init import MOST_QUESTIONS, Proposal, Question, Wish, propose, recipe_text, settings, words_of
from tunesmith.models.here import Here
from tunesmith.recipe import parse

SLOW = Machine("cpu", 4, 16.0, 1e11)
SMALL = Here("smollm2-135m-instruct", 134_515_008, 8192)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outside: which models lie on this machine, how fast it is."""
    monkeypatch.setattr(init_module, "machine", lambda: SLOW)
    monkeypatch.setattr(init_module, "models_here", lambda: [SMALL])
    monkeypatch.setattr(init_module, "named", lambda name: SMALL if name == SMALL.name else None)


def table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def tickets(num: int = 400, **more: Any) -> list[dict[str, Any]]:
    teams = ("billing", "shipping", "returns")
    return [
        {
            "Ticket No": f"T-{i:05}",
            "Customer": f"customer{i % 90}",
            "Subject": f"about my order number {i}",
            "Message": f"hello there, this is the long text number {i} about {teams[i % 3]}",
            "Team": teams[i % 3],
            **more,
        }
        for i in range(num)
    ]


def values(made: Proposal) -> dict[str, Any]:
    return {key: value for key, (value, _) in made.chosen.items()}


def test_a_ticket_export_with_names_of_its_own(tmp_path: Path) -> None:
    made = propose(Wish(table(tmp_path / "t.csv", tickets(), ";")))
    found = values(made)
    assert found["data.columns.label"] == "Team"
    assert found["data.columns.prompt"] == ["Subject: {Subject}\nMessage: {Message}"]
    assert found["data.columns.group"] == "Customer"
    assert found["task.name"] == "classify"
    assert made.example is not None
    assert made.example.prompt[0].content.startswith("Subject: about my order number 0\nMessage: hello")
    assert made.answer == "billing"
    assert made.understood == "400 examples: from 'Subject' and 'Message' to one of 3 labels in 'Team'"


def test_known_names_stay_as_they_are(tmp_path: Path) -> None:
    rows = [{"document": f"a text of some length, number {i}", "summary": f"the text {i}"} for i in range(60)]
    found = values(propose(Wish(table(tmp_path / "s.csv", rows))))
    assert (found["data.columns.prompt"], found["data.columns.reply"]) == (["document"], "summary")
    assert found["task.name"] == "summarise"


def test_answers_of_few_kinds_are_labels(tmp_path: Path) -> None:
    rows = [{"question": f"is {i} an even number?", "answer": ("yes", "no")[i % 2]} for i in range(100)]
    found = values(propose(Wish(table(tmp_path / "q.csv", rows))))
    assert (found["data.columns.label"], found["task.name"]) == ("answer", "classify")
    said = values(propose(Wish(str(tmp_path / "q.csv"), task="generate")))
    assert (said["data.columns.reply"], said["task.name"]) == ("answer", "generate")


def test_conversations_need_no_columns(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps({"messages": [*turns, {"role": "user", "content": str(i)}, turns[1]]}) + "\n"
                            for i in range(30)))  # fmt: skip
    made = propose(Wish(str(path)))
    assert values(made)["data.columns.messages"] == "messages"
    assert values(made)["task.name"] == "chat"


def test_what_is_said_wins(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", tickets())
    wish = Wish(path, "Message", ("Subject",), "generate", "none", "owner/name", 5)
    found = values(propose(wish))
    assert found["data.columns.reply"] == "Message"
    assert found["data.columns.prompt"] == ["Subject"]
    assert "data.columns.group" not in found
    assert (found["task.name"], found["model"]) == ("generate", "owner/name")


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"target": "Teams"}, "no column 'Teams'; the file has: Ticket No, Customer"),
        ({"prompt": ("Body",)}, "there is no column 'Body'"),
        ({"target": "Team", "prompt": ("Team",)}, "no column is left"),
        ({"task": "guess"}, "no task 'guess'; wanted one of classify"),
        ({"task": "classify", "target": "Message"}, None),
        ({"task": "pretrain"}, "pretrain learns one column of texts (--target)"),
        ({"group": "Client"}, "no column 'Client'"),
        ({"model": "gpt-5"}, "no model 'gpt-5'"),
        ({"minutes": -3}, "wanted a number above 0"),
        ({"data": "none.csv"}, "none.csv"),
        ({"data": None}, "which file?"),
    ],
)
def test_mistakes(tmp_path: Path, wish: dict[str, Any], message: str | None) -> None:
    path = table(tmp_path / "t.csv", tickets())
    said = Wish(**{"data": path, **wish})
    if message is None:
        assert any("hardly labels" in note for note in propose(said).notes)
        return
    with pytest.raises(InputError) as raised:
        propose(said)
    assert message in str(raised.value)


def test_pairs_are_taken_as_they_are_or_one_column_of_them(tmp_path: Path) -> None:
    rows = [{"prompt": f"say {i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(60)]
    path = table(tmp_path / "p.csv", rows)
    found = values(propose(Wish(path)))
    assert (found["task.name"], found["data.columns.rejected"]) == ("preferences", "rejected")
    assert values(propose(Wish(path, target="chosen", prompt=("prompt",))))["data.columns.reply"] == "chosen"


def note_of(tmp_path: Path, rows: list[dict[str, Any]], **wish: Any) -> str:
    return "\n".join(propose(Wish(table(tmp_path / "n.csv", rows), **wish)).notes)


def test_notes_in_plain_words(tmp_path: Path) -> None:
    def labelled(labels: list[str]) -> list[dict[str, Any]]:
        return [{"text": f"a sentence of words {i}", "label": name} for i, name in enumerate(labels)]

    assert "3 of 5 labels have fewer than 5 rows ('c', 'd', 'e')" in note_of(
        tmp_path, labelled(["a"] * 30 + ["b"] * 30 + ["c", "d", "e"])
    )
    assert "'Refund' and 'refund' look like one" in note_of(tmp_path, labelled(["Refund", "refund", "other"] * 20))
    assert "95% of the rows are 'a'" in note_of(tmp_path, labelled(["a"] * 95 + ["b"] * 5))
    assert "examples are too few" in note_of(tmp_path, labelled(["a", "b"] * 10))
    same = [{"text": "one and the same text", "label": name} for name in ("a", "b") * 40]
    assert "1 texts stand there with different labels" in note_of(tmp_path, same)
    scored = [{"text": f"a sentence of words {i}", "score": i / 7} for i in range(200)]
    assert "'score' holds numbers" in note_of(tmp_path, scored, target="score")
    long = [{"question": f"what is {i}?", "answer": "words " * (4000 if i % 2 else 4)} for i in range(80)]
    assert "40 of 80 examples may have more than 4096 tokens" in note_of(tmp_path, long)
    gaps = [{"subject": "" if i % 2 else f"a subject line {i}", "body": f"some words here {i}", "label": "ab"[i % 2]}
            for i in range(80)]  # fmt: skip
    assert "'subject' is empty in 40 of 80 rows" in note_of(tmp_path, gaps)


def test_no_id_and_no_label_is_an_input(tmp_path: Path) -> None:
    made = propose(Wish(table(tmp_path / "t.csv", tickets(Channel="mail"))))
    assert "Ticket No" not in str(values(made)["data.columns.prompt"])
    assert "Channel" not in str(values(made)["data.columns.prompt"])


def test_at_most_six_questions_and_the_proposal_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question there is: a file that is not named, unknown columns, a text target, two models."""
    other = Here("owner/other", 300_000_000, 4096)
    monkeypatch.setattr(init_module, "models_here", lambda: [SMALL, other])
    rows = [{**row, "Solution": f"we did what number {i} wanted, thank you"} for i, row in enumerate(tickets())]
    path = table(tmp_path / "t.csv", [{k: v for k, v in row.items() if k != "Team"} for row in rows])
    asked: list[Question] = []

    def person(question: Question, number: int) -> str:
        asked.append(question)
        assert number == len(asked)
        return question.default or path

    made = propose(Wish(), person)
    assert len(asked) == MOST_QUESTIONS
    quiet = propose(Wish(path))
    assert values(made) == values(quiet)
    assert values(made)["data.columns.reply"] == "Solution"
    assert all(question.wrong(question.default) is None for question in asked[1:])


def test_answers_count(tmp_path: Path) -> None:
    answers = {"give back": "Customer", "given": "Message", "belong": "none", "minutes": "2"}

    def person(question: Question, number: int) -> str:
        return next((a for words, a in answers.items() if words in question.text), question.default)

    found = values(propose(Wish(table(tmp_path / "t.csv", tickets())), person))
    assert found["data.columns.label"] == "Customer"
    assert found["data.columns.prompt"] == ["Message"]
    assert found["evals.max_cases"] == 60


def test_the_recipe_says_what_was_chosen_and_parses(tmp_path: Path) -> None:
    made = propose(Wish(table(tmp_path / "t.csv", tickets())))
    text = recipe_text(made, "recipe.yaml")
    assert parse(yaml.safe_load(text)) == parse(settings(made))
    assert "# rank: 16  # LoRA: size of the added matrices" in text
    assert "$schema=recipe.schema.json" in text
    assert not any(line.startswith("# yaml-language-server") for line in text.splitlines()), "no editor may obey it yet"
    assert max(map(len, text.splitlines())) <= 120
    freed = text.replace("# rank: 16 ", "rank: 8 ").replace("# max_new_tokens: null", "max_new_tokens: 9")
    assert parse(yaml.safe_load(freed)).adapt.rank == 8
    assert parse(yaml.safe_load(freed)).evals.max_new_tokens == 9


def test_sizes_follow_the_number_of_rows() -> None:
    few = Sizes(100, ("train",), (50,) * 100, 10, 0, 5, 0.3)
    assert few.num_learned == 60
    assert few.max_tokens(None) == 512
    assert Sizes(100, ("train",), (3000,) * 100, 10, 0, 5, 0.3).max_tokens(2048) == 2048
    assert Sizes(100, ("train", "test", "dev"), (50,) * 100, 10, 0, 5, 0.3).num_learned == 100


def test_time_by_hand() -> None:
    """1e9 weights at 6e12 operations a second: 1 ms a trained token; 1000 examples of 100 tokens, once, are 100 s."""
    where, model = Machine("cuda", 2, 80, 6e12), Here("m", 10**9, 4096)
    data = Sizes(1000, ("train", "test", "dev"), (100,) * 1000, 0.0, 0, 1, 0.1)
    answers = 2 * 1e9 * 100 / 6e12 * (2 * 100 + 3 * 48)
    beside = 2 * 1e9 / 6e12 * (2 * (45_000 + 3 * 13_000) + 4 * 48 * 100)  # guard probes; losses of train and dev rows
    assert whole_s(where, model, data) == pytest.approx(60 + 100 + answers + beside)
    uncut = {key: value for key, value, _ in within(where, model, data, 3600)}
    assert uncut == {"evals.max_cases": 400}
    cut = {key: value for key, value, _ in within(where, model, data, 120)}
    assert cut["train.max_updates"] == 20  # the fewest; all would be 24
    assert cut["evals.guards"] == "quick"
    assert within(where, model, data, 30)[0][:2] == ("evals.guards", "off")


def test_guard_tokens_are_those_of_the_items() -> None:
    """By characters, with 25 tokens of a template around each; a probe that grows shows here."""
    items = [(p, i) for p in PROBES for i in p.items()]
    chars = sum(len(p.asks) + len("".join([i.get("q", ""), *i.get("a", ()), i.get("text", "")])) for p, i in items)
    read, written = GUARD_TOKENS
    assert read == pytest.approx(chars / CHARS_PER_TOKEN + 25 * len(items), rel=0.1)
    assert written == pytest.approx(MAX_NEW_TOKENS * sum(p.how == "answer" for p, _ in items), rel=0.05)


def test_files_that_hold_nothing_to_learn(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match=r"empty\.csv: there are no rows"):
        propose(Wish(str(tmp_path / "empty.csv")))
    with pytest.raises(InputError, match="has the one column 'note'"):
        propose(Wish(table(tmp_path / "one.csv", [{"note": "some words"}] * 40)))
    said = propose(
        Wish(table(tmp_path / "one.csv", [{"note": f"words {n}"} for n in range(40)]), "note", task="pretrain")
    )
    assert (said.chosen["task.name"][0], said.chosen["data.columns.text"][0]) == ("pretrain", "note")
    (tmp_path / "book.txt").write_text("A text.")
    with pytest.raises(InputError, match="chat is not for these rows"):
        propose(Wish(str(tmp_path / "book.txt"), task="chat"))


def test_lists_of_labels_under_any_name_are_labels(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"body": f"text {n}", "tags": ["a", "b"][: n % 3]}) + "\n" for n in range(40)))
    found = values(propose(Wish(str(path), "tags", task="multilabel")))
    assert (found["task.name"], found["data.columns.label"]) == ("multilabel", "tags")


def test_an_input_that_may_be_empty_is_no_news(tmp_path: Path) -> None:
    rows = [{"instruction": f"say the number {i}", "input": "", "output": f"it is {i}"} for i in range(400)]
    assert note_of(tmp_path, rows) == ""


def test_words_of_a_column() -> None:
    assert words_of("Customer ID") == ["customer", "id", "customer_id"]
    assert words_of("customerId")[0] == "customer"
    assert words_of("label") == ["label", "label"]
