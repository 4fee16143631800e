"""The embedded model writes rows behind a real local endpoint, as a larger one elsewhere would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.runs import served
from tests.runs.mistakes import typed

SEEDS = (
    ("The kettle leaks at the bottom and I want my money back.", "refund"),
    ("Where is the parcel that I ordered two weeks ago?", "delivery"),
    ("Please send me the invoice of last month again.", "invoice"),
    ("The lamp arrived with a broken switch, can you replace it?", "exchange"),
)


def interpreter(*words: str, **options: Any) -> subprocess.Popen[str]:
    """A fork of this process, whose threads have multiplied, could not."""
    return subprocess.Popen([sys.executable, "-m", "tunesmith.cli.main", *words], **options)


def test_it_rewords_rows_and_says_what_it_made_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps({"text": t, "label": name}) + "\n" for t, name in SEEDS))
    with served.server(Path("smollm2-135m-instruct"), started=interpreter) as there:
        model = f"{there.url}#smollm2-135m-instruct"
        words = ["synthesise", "rows.jsonl", "--kind", "paraphrase", "--model", model, "--num", "2"]
        said = typed([*words, "--requests", "8", "--max-tokens", "48", "--out", "more.jsonl", "--json"])
    assert said.code == 0, said.text
    made = [json.loads(line) for line in Path("more.jsonl").read_text().splitlines()]
    told = json.loads(said.out)
    print(told, made)
    assert made
    labels = {f"rows.jsonl:{k}": label for k, (_, label) in enumerate(SEEDS, 1)}
    for row in made:
        assert row["synthetic"] == "paraphrase"
        assert row["label"] == labels[row["made_from"][0]]
        assert row["text"] not in {text for text, _ in SEEDS}
