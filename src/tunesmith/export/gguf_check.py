"""A GGUF file is done when what reads it gives what the session gave: the file itself, transformers, and llama.cpp.

Rounding to 16 or 8 bits moves logits a little, so greedy texts may part at a near tie. What is held instead: the
logits behind each prompt are close, and every token that the session chose, its stop too, is (nearly) the best here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from gguf import GGUFReader
from torch import Tensor
from transformers import AutoModelForCausalLM

from tunesmith.errors import RunError
from tunesmith.export import llamacpp
from tunesmith.export.verify import GAP, Expected
from tunesmith.export.vocabulary import Vocabulary
from tunesmith.models.bars import no_bars

# Of the logits' own spread (their standard deviation over the vocabulary): root mean square difference behind a prompt.
CLOSE = {"f32": 2e-3, "f16": 2e-2, "q8_0": 0.15}
BROKEN = "\ufffd"  # bytes that are no character; programs show them differently


@dataclass(frozen=True, slots=True)
class Asked:
    """The conversations behind `expected.prompts`, as programs send them, and as the session rendered and answered."""

    expected: Expected
    conversations: tuple[list[dict[str, Any]], ...]
    rendered: tuple[str, ...]
    answers: tuple[str, ...]


class Reader(Protocol):
    def logits(self, tokens: Sequence[int]) -> Tensor: ...


class Transformers:
    """A GGUF file as transformers reads it: dequantised to float32."""

    @no_bars()
    def __init__(self, path: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()

    @torch.no_grad()
    def logits(self, tokens: Sequence[int]) -> Tensor:
        return self.model(input_ids=torch.tensor([list(tokens)])).logits[0].float()


def failed(what: str) -> RunError:
    return RunError(
        f"the GGUF file is not the model that was measured: {what}. It was not kept; please report it with the run "
        "folder."
    )


def compare(who: str, reader: Reader, expected: Expected, quant: str) -> dict[str, Any]:
    """Facts: the largest relative difference, the largest gap, how many greedy answers are the same token by token."""
    assert expected.dtype == torch.float32, "a GGUF file is held against what its weights give in float32"
    close = CLOSE[quant]
    apart, gap, same = 0.0, 0.0, 0
    for prompt, completion, wanted_V in zip(expected.prompts, expected.completions, expected.logits):
        reply = completion.tokens
        found_NV = reader.logits([*prompt, *reply[:-1]])[len(prompt) - 1 :]
        spread = float(wanted_V.std())
        apart = max(apart, float((found_NV[0] - wanted_V).square().mean().sqrt()) / spread)
        chosen = found_NV.gather(1, torch.tensor(reply)[:, None])[:, 0]
        here = float((found_NV.amax(1) - chosen).max()) / spread
        gap, same = max(gap, here), same + (here == 0.0)
    if not apart <= close or not gap <= GAP * close:
        raise failed(
            f"read by {who}, logits differ by {apart:.2g} of their spread (at most {close:.2g} is rounding) and a "
            f"token that was chosen is {gap:.2g} below the best (at most {GAP * close:.2g})"
        )
    return {"logit_diff": apart, "gap": gap, "num_same": same, "num_prompts": len(expected.prompts)}


def check_metadata(path: Path, vocabulary: Vocabulary, template: str, stop_ids: Sequence[int]) -> None:
    """The file says of tokens, template and stops what the session goes by."""
    fields = GGUFReader(path).fields

    def said(name: str) -> Any:
        return fields[name].contents() if name in fields else None

    if said("tokenizer.chat_template") != template:
        raise failed("its chat template is another one")
    stops = {said(f"tokenizer.ggml.{k}_token_id") for k in ("eos", "eot")} - {None}
    if stops != set(stop_ids):
        raise failed(f"its stops are {sorted(stops)}, the run's are {sorted(stop_ids)}")
    wanted = {
        "tokens": vocabulary.tokens, "token_type": vocabulary.kinds, "merges": vocabulary.merges or None,
        "pre": vocabulary.pre, "add_bos_token": vocabulary.add_bos,
    }  # fmt: skip
    for name, value in wanted.items():
        found = said(f"tokenizer.ggml.{name}")
        if (tuple(found) if isinstance(found, list) else found) != value:
            raise failed(f"its tokenizer.ggml.{name} is not the tokenizer's")


def check_llamacpp(path: Path, asked: Asked, quant: str) -> dict[str, Any]:
    """Template, tokens, logits, stops and answers of llama.cpp itself."""
    expected = asked.expected
    longest = max(map(len, expected.prompts)) + 2 * expected.max_new_tokens + 8
    model = llamacpp.LlamaCpp(path, longest)
    for stop in expected.stop_ids:
        if not model.is_stop(stop):
            raise failed(f"llama.cpp does not stop at token {stop}")
    for messages, prompt, text in zip(asked.conversations, expected.prompts, asked.rendered):
        if model.rendered(messages) != text:
            raise failed("llama.cpp renders a conversation to another text")
        if (found := tuple(model.tokens(text))) != prompt:
            at = next((i for i, (a, b) in enumerate(zip(found, prompt)) if a != b), min(len(found), len(prompt)))
            raise failed(f"llama.cpp cuts a prompt into other tokens, from token {at} on")
    facts = compare("llama.cpp", model, expected, quant)
    same = sum(
        model.greedy(prompt, expected.max_new_tokens) == completion.tokens
        for prompt, completion in zip(expected.prompts, expected.completions)
    )
    if facts["num_same"] == len(expected.prompts):  # no rounding decided a token: what a program hears is the same too
        if same < len(expected.prompts):
            raise failed(f"llama.cpp goes on otherwise in {len(expected.prompts) - same} answers, or does not stop")
        for messages, text, completion in zip(asked.conversations, asked.answers, expected.completions):
            said, ended = model.chat(messages, expected.max_new_tokens)
            plain = BROKEN not in text and model.shows(completion.tokens)
            if plain and (said.strip(), ended) != (text.strip(), completion.stopped):
                raise failed(f"llama.cpp's chat answers {said!r} where the session answered {text!r}")
    model.close()
    return {**facts, "num_same_answers": same}


def check_gguf(path: Path, vocabulary: Vocabulary, template: str, asked: Asked, quant: str) -> dict[str, Any]:
    """Facts of every comparison that could be made here. Raises RunError at a difference."""
    check_metadata(path, vocabulary, template, asked.expected.stop_ids)
    facts: dict[str, Any] = {"metadata": "same"}
    scaled = "rope_freqs.weight" in {t.name for t in GGUFReader(path).tensors}
    if scaled and not llamacpp.is_here():
        raise RunError(
            "this model scales its rotary positions, which transformers does not read from GGUF, so only llama.cpp can "
            "check the file: pip install 'tunesmith[llamacpp]', then export again"
        )
    if not scaled:
        facts["transformers"] = compare("transformers", Transformers(path), asked.expected, quant)
    facts["llama.cpp"] = check_llamacpp(path, asked, quant) if llamacpp.is_here() else "not installed"
    return facts
