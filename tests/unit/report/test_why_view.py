"""Where it fails and what moved, on the page and in Markdown; hostile names stay text."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.report.run_folders import make

from tunesmith.report import card, html
from tunesmith.report.why_view import why

FOUND = {
    "metric": "accuracy",
    "topics": [
        {"name": "late, parcel", "example_ids": ["a", "b"], "score": 0.2, "gap": -0.5, "interval": [-0.7, -0.3]},
        {"name": "<script>x", "example_ids": ["c"], "score": 0.8, "gap": 0.3, "interval": [-0.1, 0.6]},
    ],
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
