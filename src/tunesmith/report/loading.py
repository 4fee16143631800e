"""Python that loads an exported classifier with nothing of ours, for its model card."""

from __future__ import annotations

import json
from collections.abc import Sequence


def load_classifier(labels: Sequence[str], base: str, why: str, *, is_adapter: bool) -> list[str]:
    """Lines of Markdown. `base`: what the adapter was made on, and `why` it has to be that."""
    opener = "from transformers import AutoModelForSequenceClassification, AutoTokenizer"
    if is_adapter:
        body = [
            "from peft import PeftModel",
            opener,
            "",
            'folder = "."  # this folder',
            f"base_folder = {json.dumps(base)}  # {why}",
            f"labels = {json.dumps(list(labels), ensure_ascii=False)}",
            "base = AutoModelForSequenceClassification.from_pretrained(base_folder, id2label=dict(enumerate(labels)))",
            "model = PeftModel.from_pretrained(base, folder)",
        ]
    else:
        body = [
            opener,
            "",
            'folder = "."  # this folder',
            "model = AutoModelForSequenceClassification.from_pretrained(folder)",
        ]
    body += [
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        'inputs = tokenizer("…", truncation=True, return_tensors="pt")',
        "print(model.config.id2label[int(model(**inputs).logits.argmax())])",
    ]
    return ["```python", *body, "```", ""]
