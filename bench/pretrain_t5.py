"""A tiny T5 made from nothing but a text: pre-trained by span corruption, so that there is an encoder-decoder to tune.

    python bench/pretrain_t5.py TEXT OUT [--pairs ROWS.jsonl]

TEXT is a file of UTF-8, gzipped or not; OUT a new folder for the model; ROWS will hold rows to tune it on: a line of
the text in lower case and without points and digits, and the line as it stands there.

Span corruption (src/tunesmith/data/spans.py), loop, objective, optimizer and forward pass are the package's own. The
last lines of the text are held out; the loss on them before and after is printed and appended to
results/pretrain_t5.jsonl.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tunesmith.data.pack import forest
from tunesmith.data.spans import Spans
from tunesmith.engine.loop import State, train
from tunesmith.engine.optim import AdamW
from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.evals.score import mean_nll
from tunesmith.models.adapters import Adapt
from tunesmith.models.load import load
from tunesmith.objectives.sft import SFT
from tunesmith.types import Forest

NUM_SENTINELS, VOCABULARY, WINDOW, ROWS, HELD_OUT = 32, 1024, 96, 32, 0.05
RESULTS = Path(__file__).parent / "results" / "pretrain_t5.jsonl"


def tokenizer_of(text: str) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE that puts an end behind a text, as T5's does."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{n}>" for n in range(NUM_SENTINELS))]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[AddedToken(s, special=True, normalized=False) for s in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(text.split("\n\n"), trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=special[3:],
    )


@dataclass
class Windows:
    """A feed: update n is ROWS windows, drawn by seed and n alone, each corrupted anew."""

    tokens: np.ndarray
    spans: Spans
    position: int = 0
    told: Mapping[str, float] = field(default_factory=dict)

    @property
    def updates_per_epoch(self) -> int:
        return -(-len(self.tokens) // (ROWS * WINDOW))

    def update(self) -> list[Forest]:
        rng = np.random.default_rng([self.spans.seed, self.position])
        starts = rng.integers(0, len(self.tokens) - WINDOW, ROWS)
        rows = [
            self.spans.drawn(f"{self.position}-{n}", self.tokens[s : s + WINDOW], 1.0, epoch=0)
            for n, s in enumerate(starts)
        ]
        self.position += 1
        return [forest(rows, share_prefix=False)]

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def load(self, state: dict[str, Any]) -> None:
        self.position = int(state["position"])


def random_t5(words: transformers.PreTrainedTokenizerFast, out: Path) -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(words), d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    config.decoder_start_token_id = 0
    transformers.T5ForConditionalGeneration(config).save_pretrained(out)
    words.save_pretrained(out)


def restored_rows(text: str, path: Path) -> None:
    """Rows of a task that can be learned in minutes: a line in lower case and without points, and the line itself."""
    lines = dict.fromkeys(x for x in text.splitlines() if 20 <= len(x) <= 60 and not x.endswith(":"))
    chosen = np.random.default_rng(0).permutation(sorted(lines))[:3000]
    rows = [{"prompt": re.sub(r"[^a-z' ]", "", x.lower()), "completion": str(x)} for x in chosen.tolist()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(said: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--pairs", type=Path)
    asked = parser.parse_args(said)
    if asked.text is None or asked.out is None:
        parser.print_usage()  # `make bench` runs every script, and brings no text
        return
    raw = asked.text.read_bytes()
    text = (gzip.decompress(raw) if asked.text.suffix == ".gz" else raw).decode()
    if asked.pairs:
        restored_rows(text, asked.pairs)
    cut = int((1 - HELD_OUT) * len(text))
    words = tokenizer_of(text[:cut])
    spans = [Spans.of(words, ([], [words.eos_token_id]), seed) for seed in (0, 1)]
    learned, unseen = (np.array(words(t, add_special_tokens=False)["input_ids"]) for t in (text[:cut], text[cut:]))
    if len(unseen) <= WINDOW:
        parser.error(f"the last {HELD_OUT:.0%} of TEXT, held out, are {len(unseen)} tokens; wanted more than {WINDOW}")
    with tempfile.TemporaryDirectory() as scratch:
        random_t5(words, Path(scratch))
        base = load(scratch)
    session = Session(base)
    session.create("t5", Spec(Adapt("full"), AdamW(weight_decay=0.0)))
    held = [batch for n in range(8) for batch in Windows(unseen, spans[1], n).update()]
    before = mean_nll(held, session.logprobs(None, held))
    feed = Windows(learned, spans[0])
    state = State("t5", SFT(), Schedule("cosine", 0.1), 3e-3, asked.updates)
    began = time.process_time()

    def tell(update: int, facts: dict[str, float]) -> None:
        if update % 50 == 0:
            print(f"{update}: loss {facts['loss']:.3f}, {time.process_time() - began:.0f} s of a core", flush=True)

    train(session, state, feed, asked.updates, [tell])
    cpu_s = time.process_time() - began
    after = mean_nll(held, session.logprobs("t5", held))
    with session.borrowed("t5") as model:
        model.save_pretrained(asked.out)
    words.save_pretrained(asked.out)
    line = {
        "date": datetime.now(UTC).date().isoformat(), "text": asked.text.name, "updates": asked.updates,
        "tokens_per_update": ROWS * WINDOW, "num_weights": base.model.num_parameters(), "cpu_s": round(cpu_s, 1),
        "held_out_nats_per_token": [round(before, 3), round(after, 3)],
        "device": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(line)


if __name__ == "__main__":
    main()
