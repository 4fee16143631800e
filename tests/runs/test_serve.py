"""`tunesmith serve` as a process, asked by OpenAI's own client and by raw sockets."""

from __future__ import annotations

import http.client
import importlib.util
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.runs import served, tiny_runs

from tunesmith.errors import InputError
from tunesmith.opened import open_run
from tunesmith.types import Message

QUESTION: list[Any] = [{"role": "user", "content": "fox 7: what is it?"}]
TURNS = [Message("user", "fox 7: what is it?")]
LONG = 1500  # tokens; seconds of work for the tiny model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.reply_run(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[served.Server]:
    with served.server(run, "--seats", "4") as found:
        yield found


@pytest.fixture(scope="module")
def client(server: served.Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=120)


def text(client: openai.OpenAI, **changes: Any) -> str:
    answer = client.chat.completions.create(**{"model": "tuned", "messages": QUESTION, "max_tokens": 12, **changes})
    assert answer.choices[0].message.content is not None
    return answer.choices[0].message.content


def raw(server: served.Server, body: bytes | None = None, path: str = "/v1/chat/completions", **headers: str) -> Any:
    """(status, body) of a request as written; `headers` with _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    said = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    connection.request("GET" if body is None else "POST", path, body, said)
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


def test_models(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["replies", "tuned", "base"]
    assert client.models.retrieve("tuned").owned_by == "tunesmith"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-5'"):
        client.models.retrieve("gpt-5")


def test_answers_are_those_of_the_run(client: openai.OpenAI, run: Path) -> None:
    """Base and tuned, greedy, with the run's own longest answer: what `Opened.complete` writes in this process."""
    opened = open_run(run)
    for name, who in (("tuned", "tuned"), ("base", "base"), ("replies", "tuned")):
        wanted = opened.complete(who, [TURNS])[0]
        answer = client.chat.completions.create(model=name, messages=QUESTION)
        assert answer.choices[0].message.content == wanted.text
        assert answer.choices[0].finish_reason == ("stop" if wanted.stopped else "length")
        assert answer.model == name
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(opened.prompt(TURNS))
        assert answer.usage.completion_tokens == len(wanted.tokens)
    system: list[Any] = [{"role": "developer", "content": "Say fox."}, *QUESTION]
    assert text(client, messages=system, max_tokens=6) == (
        opened.complete("tuned", [[Message("system", "Say fox."), *TURNS]], opened.limits(max_new_tokens=6))[0].text
    )


def test_a_stream_is_the_same_answer(client: openai.OpenAI) -> None:
    for changes in ({}, {"temperature": 1.4, "seed": 3}, {"temperature": 1.4, "seed": 3, "n": 3}):
        asked: dict[str, Any] = {"model": "tuned", "messages": QUESTION, "max_tokens": 40, **changes}
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        parts = {choice.index: "" for choice in whole.choices}
        ends = {}
        for choice in (choice for chunk in chunks for choice in chunk.choices):
            parts[choice.index] += choice.delta.content or ""
            ends |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
        assert parts == {c.index: c.message.content for c in whole.choices}
        assert ends == {c.index: c.finish_reason for c in whole.choices}
        assert chunks[-1].usage == whole.usage
        assert chunks[0].system_fingerprint == whole.system_fingerprint
        assert len(chunks) > 5


def test_logprobs(client: openai.OpenAI, run: Path) -> None:
    opened = open_run(run)
    wanted = opened.complete("tuned", [TURNS], opened.limits(max_new_tokens=8))[0]
    asked: dict[str, Any] = {"model": "tuned", "messages": QUESTION, "max_tokens": 8, "logprobs": True}
    answer = client.chat.completions.create(**asked, top_logprobs=3).choices[0]
    assert answer.logprobs is not None
    rows = answer.logprobs.content
    assert rows is not None
    assert [r.logprob for r in rows] == pytest.approx(list(wanted.logp[: len(rows)]), abs=1e-4)
    assert all(len(r.top_logprobs) == 3 for r in rows)
    assert all(r.top_logprobs[0].token == r.token for r in rows), "greedy takes the likeliest"
    assert bytes(b for r in rows for b in r.bytes or []).decode("utf-8", "replace") == wanted.text
    stream = client.chat.completions.create(**asked, stream=True)
    streamed = [r for chunk in stream for c in chunk.choices if c.logprobs for r in c.logprobs.content or []]
    assert [(r.token, r.logprob) for r in streamed] == [(r.token, r.logprob) for r in rows]
    assert client.chat.completions.create(model="tuned", messages=QUESTION, max_tokens=2).choices[0].logprobs is None


def test_stop_texts_end_an_answer(client: openai.OpenAI) -> None:
    whole = text(client, max_tokens=40)
    stop = whole[8:11]
    assert len(stop) == 3
    cut = client.chat.completions.create(
        model="tuned", messages=QUESTION, max_tokens=40, stop=["nowhere in it", stop]
    ).choices[0]
    assert cut.message.content == whole.partition(stop)[0]
    assert cut.finish_reason == "stop"
    stream = client.chat.completions.create(model="tuned", messages=QUESTION, max_tokens=40, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == cut.message.content


def test_a_response_format_is_followed(client: openai.OpenAI) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
              "additionalProperties": False}  # fmt: skip
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = client.chat.completions.create(model="tuned", messages=QUESTION, max_tokens=40, response_format=form)
    assert json.loads(answer.choices[0].message.content or "") in ({"ok": True}, {"ok": False})
    form["json_schema"]["schema"] = {"type": "nope"}
    with pytest.raises(openai.BadRequestError, match="the JSON schema cannot be followed"):
        client.chat.completions.create(model="tuned", messages=QUESTION, response_format=form)


def test_seeds(client: openai.OpenAI) -> None:
    def drawn(**changes: Any) -> str:
        return text(client, temperature=1.5, max_tokens=20, **changes)

    assert drawn(seed=1) == drawn(seed=1)
    assert drawn(seed=-5) == drawn(seed=-5)
    assert len({drawn(seed=s) for s in range(4)}) > 1
    assert len({drawn() for _ in range(4)}) > 1
    assert text(client) == text(client)
    assert drawn(top_p=1e-9, seed=1) == drawn(top_p=1e-9, seed=2), "only the likeliest token is left"


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    "penalty": ({"presence_penalty": 0.5}, "presence_penalty"),
    "format": ({"response_format": {"type": "grammar"}}, "response_format"),
    "unknown": ({"extra_body": {"best_of": 2}}, "best_of"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "content",
    ),
    "role": ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "role"),
    "no message": ({"messages": []}, "messages"),
    "its own": ({"messages": [*QUESTION, {"role": "assistant", "content": "x"}]}, "last message"),
    "hot": ({"temperature": 3}, "temperature"),
    "top_p": ({"top_p": 0}, "top_p"),
    "n": ({"n": 9}, "n is 9"),
    "stops": ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    "empty stop": ({"stop": ""}, "stop"),
    "top": ({"top_logprobs": 2}, "needs logprobs"),
    "tokens": ({"max_tokens": 0}, "max_tokens"),
    "two limits": ({"max_tokens": 3, "max_completion_tokens": 4}, "differ"),
    "context": ({"max_tokens": 100_000}, "context of 2048"),
    "long prompt": ({"messages": [{"role": "user", "content": "fox dog " * 3000}]}, "context is 2048"),
    "seed": ({"extra_body": {"seed": "x"}}, "seed"),
    "flag": ({"extra_body": {"logprobs": 1}}, "logprobs"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(client: openai.OpenAI, mistake: str) -> None:
    changes, word = MISTAKES[mistake]
    with pytest.raises(openai.BadRequestError) as found:
        text(client, **changes)
    assert word in found.value.message
    assert found.value.type == "invalid_request_error"


def test_fields_that_ask_for_nothing_pass(client: openai.OpenAI) -> None:
    plain: dict[str, Any] = {"presence_penalty": 0, "tools": [], "response_format": {"type": "text"}, "user": "ann"}
    echoed = {"role": "assistant", "content": "the fox", "refusal": None, "annotations": []}
    assert text(client, **plain) == text(client)
    assert isinstance(text(client, messages=[*QUESTION, echoed, *QUESTION]), str)
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "fox 7: "}, {"type": "text", "text": "what is it?"}]}
    ]
    assert text(client, messages=parts) == text(client)


def test_bodies_that_are_no_request(server: served.Server) -> None:
    for body, status, word in (
        (b"", 400, "not JSON"),
        (b"[1]", 400, "no JSON object"),
        (b"{" * 100_000, 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"model": "tuned", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "surrogate"),
        (b'{"model": "tuned", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}', 400, "temperature"),
        (b'{"model": 7, "messages": [{"role": "user", "content": "x"}]}', 400, "model"),
        (b'{"messages": []}', 400, "model is missing"),
        (b" " * (2**20 + 1), 413, "larger than"),
    ):
        found, reply = raw(server, body)
        assert (found, word in reply["error"]["message"]) == (status, True), reply
        assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert raw(server, b"{}", Content_Type="text/plain")[0] == 415
    assert raw(server, b"{}", path="/v1/responses")[0] == 404
    assert raw(server)[0] == 405
    assert raw(server, path="/health") == (200, {"status": "ok"})


def test_a_page_in_a_browser_gets_nothing(server: served.Server) -> None:
    good = json.dumps({"model": "tuned", "messages": QUESTION, "max_tokens": 1}).encode()
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"evil.example:{server.port}"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {"Host": "["},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": f"http://127.0.0.1:{server.port}.evil.example"},
    ):
        status, reply = raw(server, good, **headers)
        assert status == 403, (headers, reply)
    for host in (f"localhost:{server.port}", "127.0.0.1", f"[::1]:{server.port}"):
        assert raw(server, good, Host=host)[0] == 200, host
    own = f"127.0.0.1:{server.port}"
    assert raw(server, good, Host=own, Origin=f"http://{own}")[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("OPTIONS", "/v1/chat/completions")
    assert not [name for name, _ in connection.getresponse().getheaders() if name.lower().startswith("access-control")]


def test_requests_side_by_side_get_their_own_answers(client: openai.OpenAI) -> None:
    words = ["fox", "dog", "clips", "May"]
    asked = [[{"role": "user", "content": f"{word} 3: what is it?"}] for word in words]
    alone = [text(client, messages=messages) for messages in asked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda messages: text(client, messages=messages), asked))
    assert together == alone


def test_one_too_many_is_told_to_come_back_and_who_leaves_frees_the_seat(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tuned",
        "messages": QUESTION,
        "max_tokens": LONG,
        "temperature": 2,
        "stream": True,
    }
    streams = [client.chat.completions.create(**asked, seed=i) for i in range(4)]
    with pytest.raises(openai.RateLimitError, match="4 requests are waiting"):
        text(client)
    began = time.monotonic()
    for stream in streams:
        stream.close()
    patient = client.with_options(max_retries=20)
    assert text(patient, max_tokens=2)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_stops_its_answer(server: served.Server, client: openai.OpenAI, *, stream: bool) -> None:
    """All seats are taken by requests whose clients leave without a word: the next one waits for none of them."""
    asked = {"model": "tuned", "messages": QUESTION, "max_tokens": LONG // 2, "temperature": 2, "seed": 1, "n": 4}
    began = time.monotonic()
    client.chat.completions.create(**asked)  # type: ignore[call-overload]
    whole_s = time.monotonic() - began
    body = json.dumps({**asked, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    began = time.monotonic()
    for _ in range(4):
        with socket.create_connection(("127.0.0.1", server.port)) as door:
            door.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            time.sleep(0.1)
    assert text(client.with_options(max_retries=20), max_tokens=2)
    assert time.monotonic() - began < 0.6 * whole_s + 1, f"an answer that is read to its end takes {whole_s:.1f} s"


def test_a_key_is_wanted_where_one_is_set(run: Path) -> None:
    with served.server(run, "--timeout-s", "0.5", key="a secret") as server:
        good = openai.OpenAI(base_url=server.url, api_key="a secret", max_retries=0)
        assert text(good, max_tokens=2)
        for key in ("another", "", "a secre", "ä"):
            assert raw(server, b"{}", Authorization=f"Bearer {key}".encode().decode("latin-1"))[0] == 401
        assert raw(server, path="/v1/models")[0] == 401
        assert raw(server, path="/health")[0] == 200
        with pytest.raises(openai.AuthenticationError, match="API key"):
            openai.OpenAI(base_url=server.url, api_key="wrong", max_retries=0).models.list()
        with pytest.raises(openai.InternalServerError, match="timeout-s"):  # 504, and the client is told not to retry
            text(good.with_options(max_retries=5), max_tokens=LONG + 500, temperature=2, n=8, seed=1)
        stream = good.chat.completions.create(
            model="tuned", messages=QUESTION, max_tokens=LONG + 500, temperature=2, n=8, seed=1, stream=True
        )
        with pytest.raises(openai.APIError, match="timeout-s"):
            list(stream)


def test_ctrl_c_ends_it_in_the_middle_of_an_answer(run: Path) -> None:
    with served.server(run) as server:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        stream = client.chat.completions.create(
            model="tuned", messages=QUESTION, max_tokens=LONG, temperature=2, stream=True
        )
        next(stream)
        assert server.stop() == 0
        time.sleep(0.2)
        assert "stopped" in server.said[-1]
        said = "".join(server.said)
        assert "Traceback" not in said, said


def test_a_model_without_a_run(tmp_path: Path) -> None:
    model = tiny_runs.model_folder(tmp_path / "plain")
    with served.server(model) as server:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        assert [m.id for m in client.models.list()] == ["plain", "base"]
        assert text(client, model="plain") == text(client, model="base")
        with pytest.raises(openai.NotFoundError, match="there is: plain, base"):
            text(client)


def test_a_padded_model_answers(tmp_path: Path) -> None:
    with served.server(tiny_runs.model_folder(tmp_path / "falcon", "falcon")) as server:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        whole = text(client, model="base")
        stream = client.chat.completions.create(model="base", messages=QUESTION, max_tokens=12, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole
        once, again, other = (text(client, model="base", temperature=1, seed=seed) for seed in (1, 1, 2))
        assert once == again
        assert once not in (whole, other)
        if importlib.util.find_spec("llguidance"):
            form = {"type": "json_schema", "json_schema": {"name": "who", "schema": {"enum": ["fox", "dog"]}}}
            assert text(client, model="base", response_format=form) in ('"fox"', '"dog"')
        with pytest.raises(openai.BadRequestError, match="padded"):
            text(client, model="base", logprobs=True, top_logprobs=1)


def test_mistakes_of_the_command(run: Path, server: served.Server) -> None:
    assert server.process.poll() is None, server.said  # else its port is free, and the command below would serve on it
    for words, message in (
        ([str(run), "--host", "0.0.0.0"], "--expose"),
        ([str(run), "--host", "0.0.0.0", "--expose"], "--api-key"),
        ([str(run), "--host", "0.0.0.0", "--api-key", "x"], "--expose"),
        ([str(run), "--port", str(server.port)], "--port"),
        ([str(run), "--port", "70000"], "--port"),
        ([str(run), "--host", "no.such.host.invalid", "--expose", "--api-key", "x"], "cannot listen"),
        ([str(run), "--api-key", ""], "API key is empty"),
        (["nowhere"], "not known"),
    ):
        done = served.invoked("serve", *words)
        assert isinstance(done.exception, InputError), done.output
        assert message in str(done.exception)
