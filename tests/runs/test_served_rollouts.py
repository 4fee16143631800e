"""Replies that a server samples with the adapter it was sent. The server of these tests speaks vLLM's requests, and
computes by plain transformers and peft, from what is in the folder; vLLM itself never ran here."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from tests.runs import tiny_runs
from tests.runs.test_preference_runs import Stops, read, rows_of
from tests.runs.test_reinforce_runs import settings, task_file
from transformers import AutoModelForCausalLM

from tunesmith.errors import InputError, Interrupted, PlanError, RecipeError, RunError
from tunesmith.folder import Silent

NAME = "the-base"


@dataclass
class Standin:
    """What vLLM does with these requests. `is_stale`: it goes on with the first adapter, whatever it is sent."""

    model: Path
    is_stale: bool = False
    may_load: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    there: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    moved: list[float] = field(default_factory=list)  # of each adapter, how far it is from none
    opens: threading.Event | None = None  # which the second adapter's replies wait for
    waited: list[bool] = field(default_factory=list)

    def load(self, body: dict[str, Any]) -> tuple[int, Any]:
        if not self.may_load:
            return 404, {"error": {"message": "Not Found"}}
        if not (self.is_stale and self.loaded):
            base = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)
            self.adapted = PeftModel.from_pretrained(base, body["lora_path"]).eval()
            self.moved.append(sum(float(v.abs().sum()) for n, v in self.adapted.named_parameters() if "lora_B" in n))
        self.loaded.append(body["lora_name"])
        self.there[body["lora_name"]] = self.adapted
        return 200, "Success"

    def unload(self, body: dict[str, Any]) -> tuple[int, Any]:
        del self.there[body["lora_name"]]
        return 200, "Success"

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append(body)
        if body["model"] not in self.there:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        if self.opens and body["model"] in self.loaded[1:]:
            self.waited.append(self.opens.wait(60))
        choices = [self.choice(body, k) for k in range(body["n"])]
        return 200, {"choices": choices[::-1]}  # in any order

    @torch.no_grad()
    def choice(self, body: dict[str, Any], index: int) -> dict[str, Any]:
        """Without a cache, token by token."""
        noise = torch.Generator().manual_seed((body["seed"] + index) % 2**63)
        new, nats = list[int](), list[float]()
        while len(new) < body["max_tokens"] and not (new and new[-1] in body["stop_token_ids"]):
            logits = self.there[body["model"]](input_ids=torch.tensor([[*body["prompt"], *new]])).logits[0, -1]
            logp = (logits / body["temperature"]).log_softmax(-1)
            new.append(int(torch.multinomial(logp.exp(), 1, generator=noise)))
            nats.append(float(logp[new[-1]]))
        return {
            "index": index, "text": "", "token_ids": new, "logprobs": {"token_logprobs": nats},
            "finish_reason": "stop" if new[-1] in body["stop_token_ids"] else "length",
        }  # fmt: skip


@contextmanager
def standing_in(server: Standin) -> Iterator[str]:
    """Its address."""
    ways = {"load_lora_adapter": server.load, "unload_lora_adapter": server.unload, "completions": server.complete}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, {"data": [{"id": NAME}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                self.answer(*ways[self.path.rpartition("/")[2]](body))

        def answer(self, status: int, said: Any) -> None:
            raw = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *given: Any) -> None:
            return

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{found.server_address[1]}/v1"
    finally:
        found.shutdown()
        found.server_close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_runs.model_world(tmp_path_factory)
    task_file(folder / "tasks.jsonl")
    return folder


def start(world: Path, name: str, endpoint: str, tell: Any = None, *, resume: bool = False, **more: Any) -> Any:
    said = settings(world, train={"lr": 3e-2})
    said["objective"]["policy"] |= {"server": {"endpoint": endpoint, "model": NAME}, **more.pop("policy", {})}
    return tiny_runs.started(tiny_runs.changed(said, more), world / name, tell, resume=resume)


def mismatches(out: Path) -> list[float]:
    return [r["mismatch_nats"] for r in rows_of(out) if "mismatch_nats" in r]


def test_each_sampling_is_of_the_weights_as_they_are(world: Path) -> None:
    """What the server says of its tokens is what the trainer says of them: at each of the samplings, the second of
    which is of weights that moved. Mutant: a server that keeps the first adapter."""
    server = Standin(world / "model")
    with standing_in(server) as endpoint:
        start(world, "served", endpoint)
    out = world / "served"
    assert len(server.loaded) == len(set(server.loaded)) == len(mismatches(out)) == 2
    assert max(mismatches(out)) < 1e-4
    assert server.moved[0] == 0 < server.moved[1]
    assert not server.there, "adapters are taken away"
    assert all(p.suffix == ".parquet" for p in (out / "rollouts").iterdir())
    assert all(body["n"] == 4 and body["top_k"] == 0 and body["max_tokens"] == 12 for body in server.asked)
    assert len({body["seed"] for body in server.asked}) == len(server.asked) == 6
    sampled = pq.read_table(out / "rollouts" / "update_0000001.parquet").to_pylist()
    assert len({(row["group"], row["text"]) for row in sampled}) > 6
    [why] = [r["why"] for r in read(out / "plan.json")["resolved"] if r["key"] == "objective.policy"]
    assert f"by {NAME} at 127.0.0.1:" in why
    assert "SENT" in why
    stale = Standin(world / "model", is_stale=True)
    with standing_in(stale) as endpoint:
        start(world, "stale", endpoint)
    assert mismatches(world / "stale")[0] < 1e-4
    assert mismatches(world / "stale")[1] > 1e-3


class Opens(Silent):
    """When the second update is made."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None:
        if update == 2:
            self.event.set()


def test_the_trainer_learns_while_the_next_replies_are_sampled(world: Path) -> None:
    """The second sampling's replies come only when both updates of the first are made. Mutant: the trainer waits."""
    opens = Opens()
    server = Standin(world / "model", opens=opens.event)
    with standing_in(server) as endpoint:
        start(world, "ahead", endpoint, opens, policy={"server": {"endpoint": endpoint, "model": NAME, "ahead": True}})
    assert server.waited == [True] * 3
    assert server.moved == [0, 0], "both are of the weights before the first update"
    assert not server.there
    tables = sorted((world / "ahead" / "rollouts").iterdir())
    assert [p.suffix for p in tables] == [".parquet"] * 2
    assert [{row["staleness"] for row in pq.read_table(p).to_pylist()} for p in tables] == [{0}, {2}]
    rows = [r for r in rows_of(world / "ahead") if "loss" in r]
    assert [r.get("staleness") for r in rows] == [None, None, 2, 2]
    assert ["mismatch_nats" in r for r in rows] == [True, False, False, False]
    assert rows[2]["ratio"] != pytest.approx(1, abs=1e-6)  # of weights that moved since


def test_replies_that_were_sampled_are_read_back_by_a_resume(world: Path) -> None:
    server = Standin(world / "model")
    with standing_in(server) as endpoint:
        with pytest.raises(Interrupted):
            start(world, "stopped", endpoint, Stops())
        num = len(server.asked)
    with standing_in(server) as moved:
        assert moved != endpoint
        start(world, "stopped", moved, resume=True)
    assert num == 6
    assert len(server.asked) == 9  # those of the second sampling once more: nothing was learned from them


def test_a_rehearsal_asks_the_server_too(world: Path) -> None:
    """What it cannot do is told before the base is asked anything."""
    server = Standin(world / "model")
    with standing_in(server) as endpoint:
        start(world, "rehearsed", endpoint, train={"rehearsal": True})
    assert [body["n"] for body in server.asked] == [2, *[4] * 6]
    cannot, in_vain = Standin(world / "model", may_load=False), {"rehearsal": True}
    with standing_in(cannot) as endpoint, pytest.raises(InputError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        start(world, "rehearsed_in_vain", endpoint, train=in_vain)
    assert not (world / "rehearsed_in_vain" / "scores").exists()


def test_another_model_is_refused(world: Path) -> None:
    """Mutant: nobody looks."""
    other = tiny_runs.model_folder(world / "other", seed=3)
    with standing_in(Standin(other)) as endpoint, pytest.raises(RunError, match="is not the model that learns"):
        start(world, "other_model", endpoint)


def test_servers_that_cannot_are_named(world: Path) -> None:
    with standing_in(Standin(world / "model", may_load=False)) as endpoint:
        with pytest.raises(InputError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            start(world, "no_adapters", endpoint)
        with pytest.raises(InputError, match=f"no model nobody .* there is: {NAME}"):
            start(world, "no_model", endpoint, policy={"server": {"endpoint": endpoint, "model": "nobody"}})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"policy": {"temperature": 0.7}}, "temperature is 0.7"),
        ({"policy": {"server": {"endpoint": "http://127.0.0.1:1/v1"}}}, "no model"),
        ({"policy": {"server": {"ahead": True}}}, "no endpoint"),
        (
            {
                "policy": {"server": {"endpoint": "http://127.0.0.1:1/v1", "model": NAME, "ahead": True}},
                "train": {"early_stop": {"patience": 1, "on": "score"}},
            },
            "may call off",
        ),
        ({"adapt": {"method": "last_k", "rank": 16}}, "adapt.method is last_k"),
    ],
)
def test_what_cannot_go_together(world: Path, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises((PlanError, RecipeError), match=named):
        start(world, "wrong", "http://127.0.0.1:1/v1", **wrong)
