"""llama.cpp through llama-cpp-python: the one file that knows it. It is an extra (`tunesmith[llamacpp]`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

LONGEST_PIECE = 32  # bytes; `token_to_piece` of llama-cpp-python


def is_here() -> bool:
    return importlib.util.find_spec("llama_cpp") is not None


class LlamaCpp:
    """A GGUF file as llama.cpp computes it, on the CPU, with a float32 cache."""

    def __init__(self, path: Path, num_tokens: int) -> None:
        import llama_cpp

        self._own = llama_cpp
        self._model: Any = llama_cpp.Llama(
            str(path), n_ctx=num_tokens, n_batch=num_tokens, n_gpu_layers=0, logits_all=True, verbose=False,
            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
        )  # fmt: skip

    def tokens(self, text: str) -> list[int]:
        """Token ids of rendered text, control tokens read as such."""
        return list(self._model.tokenize(text.encode("utf-8"), add_bos=False, special=True))

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """[N, V] float32 behind every token."""
        self._model.reset()
        self._model.eval(list(tokens))
        return torch.from_numpy(np.array(self._model.scores[: len(tokens)], dtype=np.float32))

    def rendered(self, messages: Any) -> str:
        """What llama-cpp-python makes of a conversation by the template in the file."""
        said = self._model.metadata
        vocab = self._own.llama_model_get_vocab(self._model.model)
        texts = {
            name: self._own.llama_vocab_get_text(vocab, i).decode("utf-8") if i >= 0 else ""
            for name, i in (("eos", self._model.token_eos()), ("bos", self._model.token_bos()))
        }
        form = self._own.llama_chat_format.Jinja2ChatFormatter(
            template=said["tokenizer.chat_template"], eos_token=texts["eos"], bos_token=texts["bos"]
        )
        return str(form(messages=messages).prompt)

    def is_stop(self, token: int) -> bool:
        vocab = self._own.llama_model_get_vocab(self._model.model)
        return bool(self._own.llama_vocab_is_eog(vocab, token))

    def greedy(self, prompt: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        """The tokens of a greedy answer; the stop token, when one comes, is the last."""
        found: list[int] = []
        for token in self._model.generate(list(prompt), temp=0.0, repeat_penalty=1.0):
            found.append(int(token))
            if self.is_stop(token) or len(found) == max_new_tokens:
                break
        return tuple(found)

    def shows(self, tokens: Sequence[int]) -> bool:
        """Whether the binding writes these tokens whole: it leaves out those of 32 bytes and more."""
        vocab = self._own.llama_model_get_vocab(self._model.model)
        return all(len(self._own.llama_vocab_get_text(vocab, t)) < LONGEST_PIECE for t in tokens)

    def chat(self, messages: list[dict[str, Any]], max_new_tokens: int) -> tuple[str, bool]:
        """(text, whether it stopped by itself) of a greedy answer, asked as a program would."""
        done = self._model.create_chat_completion(
            messages, temperature=0.0, max_tokens=max_new_tokens, repeat_penalty=1.0
        )
        choice = done["choices"][0]
        return str(choice["message"]["content"]), choice["finish_reason"] == "stop"

    def close(self) -> None:
        self._model.close()
