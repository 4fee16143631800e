"""Python that loads an exported folder with nothing of ours, for its model card."""

from __future__ import annotations

import json

from tunesmith.files import BASE_CONFIG
from tunesmith.report.facts import Facts, StartingModel

KINDS = {
    "seq2seq": "AutoModelForSeq2SeqLM", "rows": "AutoModelForSequenceClassification", "masked": "AutoModelForMaskedLM",
    "scores": "AutoModelForSequenceClassification",
}  # fmt: skip
WRITES = (
    'messages = [{"role": "user", "content": "…"}]  # put the prompt as in training',
    'asked = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}',
    "inputs = tokenizer.apply_chat_template(messages, **asked)",
    "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=128)[0], skip_special_tokens=True))",
)
GIVES_CLASSES = (
    'inputs = tokenizer("…", truncation=True, return_tensors="pt")',
    "print(model.config.id2label[int(model(**inputs).logits.argmax())])",
)
TELLS_HIDDEN = (
    'inputs = tokenizer(f"… {tokenizer.mask_token} …", return_tensors="pt")',
    "hidden = inputs.input_ids[0] == tokenizer.mask_token_id",
    "print(tokenizer.decode(model(**inputs).logits[0, hidden].argmax(-1)))",
)
GIVES_SEVERAL = (
    GIVES_CLASSES[0],
    "logits = model(**inputs).logits[0]",
    "print([model.config.id2label[k] for k in (logits > 0).nonzero()[:, 0].tolist()])  # each above probability 0.5",
)


GIVES_SCORES = (
    'turns = [{"role": "user", "content": "…"}, {"role": "assistant", "content": "a reply"}]',
    "text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()  # it ends with the end of turn",
    'inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")',
    "print(float(model(**inputs).logits))  # more is better",
)
DOES = {"rows": GIVES_CLASSES, "masked": TELLS_HIDDEN, "scores": GIVES_SCORES}


def loading(facts: Facts, base: StartingModel, *, is_adapter: bool, is_longer: bool) -> list[str]:
    """Lines of Markdown. `is_longer`: an adapter for a longer context."""
    kind = KINDS.get(facts.opened_as, "AutoModelForCausalLM")
    name = "path/to/the/base" if base.note else base.base_model or base.name or "the base model"
    why = "the base with the digest below, not the hub's weights: they differ" if base.note else "the base"
    before, more = [], ""
    if is_longer:
        before = [f'config = AutoConfig.from_pretrained(f"{{folder}}/{BASE_CONFIG}")  # with the longer context']
        more = ", config=config"
    elif facts.by_head:
        labels = list((facts.serving or {}).get("labels") or ())
        before = [
            f"labels = {json.dumps(labels, ensure_ascii=False)}",
            'given = {"id2label": dict(enumerate(labels)), "ignore_mismatched_sizes": True}',
        ]
        more = ", **given"
    elif facts.opened_as == "scores":
        more = ", num_labels=1"
    if is_adapter:
        body = [
            "from peft import PeftModel",
            f"from transformers import {'AutoConfig, ' if is_longer else ''}{kind}, AutoTokenizer",
            "",
            'folder = "."  # this folder',
            f"base_folder = {json.dumps(name)}  # {why}",
            *before,
            f"base = {kind}.from_pretrained(base_folder{more})",
            "model = PeftModel.from_pretrained(base, folder)",
        ]
    else:
        body = [
            f"from transformers import {kind}, AutoTokenizer",
            "",
            'folder = "."  # this folder',
            f"model = {kind}.from_pretrained(folder)",
        ]
    does = DOES.get(facts.opened_as, WRITES)
    if facts.by_head and (facts.serving or {}).get("task") == "multilabel":
        does = GIVES_SEVERAL
    body += ["tokenizer = AutoTokenizer.from_pretrained(folder)", *does]
    return ["```python", *body, "```", ""]
