"""Where it fails and what moved, on the page and in Markdown; hostile names stay text."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.report.page_reader import form_faults, read_page
from tests.unit.report.run_folders import make

from tunesmith.report import card, html
from tunesmith.report.why_view import moving, tags, why

FOUND = {
    "metric": "accuracy",
    "topics": [
        {"name": "late, parcel", "example_ids": ["a", "b"], "score": 0.2, "gap": -0.5, "interval": [-0.7, -0.3]},
        {"name": "<script>x", "example_ids": ["c"], "score": 0.8, "gap": 0.3, "interval": [-0.1, 0.6]},
    ],
    "errors": {
        "metric": "accuracy",
        "under": 1.0,
        "is_whole": True,
        "looked_at": "label",
        "num_cases": 10,
        "num_base": 6,
        "num_tuned": 3,
        "num_unnamed": 0,
        "num_more": 0,
        "kinds": [
            {
                "name": "delivery taken for <b>refund",
                "sentence": "",
                "example_ids": ["id0003", "id0008", "id0009"],
                "base_ids": ["id0004", "id0008", "id0009"],
                "share": 1.0,
                "interval": [0.4, 1.0],
                "num_cured": 1,
                "num_caused": 1,
                "change": 0.0,
                "change_interval": [-0.3, 0.3],
            },
            {
                "name": "empty",
                "sentence": "nothing was written",
                "example_ids": [],
                "base_ids": ["id0005"],
                "share": 0.0,
                "interval": [0.0, 0.6],
                "num_cured": 1,
                "num_caused": 0,
                "change": -0.1,
                "change_interval": [-0.2, -0.01],
            },
        ],
    },
    "layers": [
        {"layer": "", "relative": 0.0, "largest": "model.norm.weight"},
        {"layer": "3", "relative": 0.0123, "largest": "model.layers.3.mlp.up_proj"},
    ],
}


def test_a_weak_topic_is_said_in_words() -> None:
    view = why(FOUND)
    assert "worse than elsewhere, beyond chance, where the prompt is about late, parcel." in view.said
    assert [t.tone for t in view.topics] == ["bad", ""]
    assert [row[:3] for row in view.layers] == [
        ("outside the layers", "0%", "norm.weight"), ("layer 3", "1.2%", "layers.3.mlp.up_proj"),
    ]  # fmt: skip
    even = {**FOUND, "topics": FOUND["topics"][1:]}
    assert why(even).said == "In no topic does the tuned model do worse than elsewhere beyond chance."
    assert why({"topics": [], "layers": []}).said.startswith("The cases are too few")


EXPLAINED = {
    "example_id": "id0008", "source": "inbox.csv:10", "prompt": "Where is it?", "reference": "delivery",
    "base_output": "refund", "tuned_output": "refund", "num_compared": 4,
    "spans": [{"text": "Where", "drop": 2.0}, {"text": " is", "drop": 0.5}, {"text": " <i>it?", "drop": -0.1}],
    "check": {"num_spans": 1, "top_drop": 2.0, "random_drop": 0.4, "random_as_strong": 1, "num_random": 10},
    "pulls": [
        {"source": "inbox.csv:3", "prompt": "my money <u>", "reply": "refund", "cosine": 0.8},
        *[{"source": f"inbox.csv:{k}", "prompt": "x", "reply": "y", "cosine": 0.3 - 0.2 * k} for k in range(1, 4)],
    ],
}  # fmt: skip


def test_kinds_of_error_are_said_and_open_their_cases(tmp_path: Path) -> None:
    view = why(FOUND)
    assert view.errors.startswith("3 of 10 cases fail with the tuned model, 6 with the base.")
    assert "Tuning cured, beyond chance: empty." in view.errors
    assert "caused, beyond" not in view.errors
    assert [(k.tone, k.num_tuned, k.share) for k in view.kinds] == [("", 3, "100% (40% to 100%)"), ("good", 0, "–")]
    assert tags(FOUND)["id0008"] == ["k0", "k0b"]
    run = make(tmp_path / "run")
    (run / "understanding.json").write_text(json.dumps(FOUND))
    text = html.write(run).read_text()
    assert form_faults(text) == []
    page = read_page(text)
    assert len([a for _, a in page.tags if a.get("data-search") == "id0008" and a["href"] == "#case-id0008"]) == 1
    tagged = [a["data-tags"].split() for a in page.having("article", class_="case")]
    assert [sum(tag in row for row in tagged) for tag in ("k0", "k0b", "k1", "k1b")] == [3, 3, 0, 1]
    card.write_report(run)
    assert "fail with the tuned model" in (run / "report.md").read_text()


def test_what_moved_an_answer_stands_on_its_case(tmp_path: Path) -> None:
    view = moving(EXPLAINED)
    assert [p.strength for p in view.pieces] == [2, 1, 0]
    assert [row[0] for row in view.pulls] == ["+0.80", "+0.10", "−0.30"]
    assert "1 of 10 random choices did as much." in view.said
    weak = {**EXPLAINED, "check": {**EXPLAINED["check"], "random_as_strong": 5}}
    assert moving(weak).said.endswith("So the marked words explain nothing.")
    assert moving({**EXPLAINED, "check": None}).said.startswith("The prompt is too short")
    run = make(tmp_path / "run")
    (run / "understanding.json").write_text(json.dumps(FOUND))
    (run / "explained").mkdir()
    (run / "explained" / "id0008.json").write_text(json.dumps(EXPLAINED))
    text = html.write(run).read_text()
    assert form_faults(text) == []
    assert text.count('<details class="moved">') == 1
    assert "<u>" not in text
    assert "<i>" not in text
    assert "What moved the answer, of 1 case:" in read_page(text).words


def test_page_and_markdown(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    assert "Where it fails" not in html.write(run).read_text()
    (run / "understanding.json").write_text(json.dumps(FOUND))
    page = html.write(run).read_text()
    assert '<section id="fails"' in page
    assert '<a href="#fails">' in page
    assert "<script>x" not in page
    card.write_report(run)
    text = (run / "report.md").read_text()
    assert "## Where it fails" in text
    assert "- about late, parcel: 0.200 on 2 cases" in text
