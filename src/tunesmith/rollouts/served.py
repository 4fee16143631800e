"""Replies sampled by a server of vLLM, which is given the adapter anew before each sampling.

The requests are those of vLLM's pages "LoRA Adapters" and "OpenAI-Compatible Server" (0.10.2 or newer): the adapter is
loaded from the run's folder under a new name, and taken away behind the sampling. Tokens go out, and tokens come back
with the log-probability of each, so that no text is cut into tokens twice. What a server samples is not promised to be
the same again with the same seeds: what came is kept in the run's folder, as all rollouts are.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from tunesmith.errors import InputError
from tunesmith.evals.endpoint import WAIT_S, Endpoint, ask_all
from tunesmith.files import publish_folder
from tunesmith.generate.limits import Limits
from tunesmith.types import Completion

MOST_BYTES = 2**28  # of the replies to a prompt, with their log-probabilities
HELD = "tunesmith-"  # how adapters are named, here and there
FAR_NATS = 0.2  # a token, on average: more than kernels and precisions differ, less than another model


@dataclass
class Server:
    """`export`: writes the adapter as it is now into a folder. `folder`: which the server sees under the same path."""

    endpoint: Endpoint  # with the base's name there
    export: Callable[[Path], Sequence[str]]  # and what the server would not take of it
    folder: Path
    ahead: bool = False  # samples for the next update while the trainer learns
    name: str = ""  # of the adapter, while it is held

    @property
    def said(self) -> str:
        return f"{self.endpoint.model} at {self.endpoint.host}"

    @contextmanager
    def holding(self, update: int) -> Iterator[None]:
        """The server samples with the weights as they are now, until the end."""
        self.name = f"{HELD}{update}-{secrets.token_hex(4)}"
        final = self.folder / self.name
        try:
            breaches: list[str] = []
            publish_folder(lambda out: breaches.extend(self.export(out)), final)
            if breaches:
                raise InputError(f"vLLM cannot load this adapter: {'; '.join(breaches)}. Sample here, or change adapt")
            self._load(final.resolve())
            yield
            self._tell("unload_lora_adapter", {"lora_name": self.name})
        finally:
            self.name = ""
            shutil.rmtree(final, ignore_errors=True)

    def _load(self, final: Path) -> None:
        try:
            self._tell("load_lora_adapter", {"lora_name": self.name, "lora_path": str(final)})
        except InputError as error:
            raise InputError(
                f"{error}. vLLM has to be started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora and a "
                f"--max-lora-rank that has room for adapt.rank, and to see {final.parent} under this path"
            ) from None

    def _tell(self, to: str, body: dict[str, Any]) -> None:
        self.endpoint.patiently(lambda s: self.endpoint.post(body, s, to), soon())

    def sample(
        self, prompts: Sequence[Sequence[int]], limits: Limits, decode: Callable[[Sequence[int]], str]
    ) -> list[Completion]:
        """As the engine's own sampler: completions in the order of the prompts. Equal ones that follow each other are
        one request."""
        assert self.name, "the server holds no adapter"
        asked: dict[str, dict[str, Any]] = {}
        for _, rows in groupby(range(len(prompts)), lambda row: tuple(prompts[row])):
            first, *others = rows
            asked[str(first)] = self._request(prompts[first], 1 + len(others), limits, first)
        found: dict[str, list[Completion]] = {}
        ask_all(lambda body: self._answer(body, decode), asked, found.__setitem__, at_once=max(1, limits.rows))
        return [one for key in asked for one in found[key]]

    def _request(self, prompt: Sequence[int], num: int, limits: Limits, row: int) -> dict[str, Any]:
        """All that a server would take from its own settings is said."""
        return {
            "model": self.name, "prompt": list(prompt), "n": num, "max_tokens": limits.max_new_tokens,
            "temperature": limits.temperature, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
            "seed": limits.seed_of(row), "stop_token_ids": list(limits.stop_ids), "logprobs": 0,
            "return_token_ids": True, "return_tokens_as_token_ids": True, "add_special_tokens": False,
        }  # fmt: skip

    def _answer(self, body: dict[str, Any], decode: Callable[[Sequence[int]], str]) -> list[Completion]:
        send = lambda s: completions_in(self.endpoint.post(body, s, "completions", MOST_BYTES), body["n"], decode)
        return self.endpoint.patiently(send, soon(), WAIT_S)


def check(endpoint: Endpoint) -> Endpoint:
    """Itself. InputError where the server does not have the base."""
    names = endpoint.patiently(lambda s: models_in(endpoint.post(None, s, "models")), soon())
    if endpoint.model not in names:
        raise InputError(
            f"{endpoint.host} has no model {endpoint.model} (objective.policy.server.model); there is: "
            f"{', '.join(names) or 'none'}"
        )
    return endpoint


def soon() -> float:
    return time.monotonic() + WAIT_S


def models_in(raw: bytes) -> list[str]:
    try:
        return [str(model["id"]) for model in json.loads(raw)["data"]]
    except (KeyError, TypeError, ValueError):
        raise ValueError("what came back is no list of models") from None


def completions_in(raw: bytes, num: int, decode: Callable[[Sequence[int]], str]) -> list[Completion]:
    """ValueError where it is not what was asked for."""
    try:
        choices = sorted(json.loads(raw)["choices"], key=lambda choice: choice["index"])
        read = [(c["token_ids"], c["logprobs"]["token_logprobs"], c["finish_reason"] == "stop") for c in choices]
        found = [Completion(tuple(map(int, t)), tuple(map(float, nats)), decode(t), is_end) for t, nats, is_end in read]
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            "what came back are no completions with token_ids and logprobs (vLLM has them from 0.10.2 on)"
        ) from None
    if len(found) != num or any(len(c.tokens) != len(c.logp) or not c.tokens for c in found):
        raise ValueError(f"{num} completions were asked for, with a log-probability of each token")
    return found
