"""The judge over real HTTP: a server in this process answers as a chat model would, and as a bad one would."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from tunesmith.errors import InputError, RunError
from tunesmith.evals import judge as judges
from tunesmith.evals.endpoint import Endpoint
from tunesmith.evals.judge import Contest, Kept, Vote, preferred, read_votes, trust
from tunesmith.evals.knobs import JudgeBy

Reply = tuple[int, dict[str, str], str]  # status, headers, body


def completion(text: str) -> Reply:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@contextmanager
def server(reply: Callable[[dict[str, Any], dict[str, str]], Reply]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(address, the bodies that were sent to it)."""
    seen: list[dict[str, Any]] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(body)
            status, headers, text = reply(body, dict(self.headers))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *given: Any) -> None:
            return

    found = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{found.server_address[1]}/v1", seen
    finally:
        found.shutdown()
        found.server_close()


def asked_of(body: dict[str, Any]) -> dict[str, str]:
    return json.loads(body["messages"][1]["content"])


def longer(body: dict[str, Any], headers: dict[str, str]) -> Reply:
    asked = asked_of(body)
    better = "tie" if len(asked["A"]) == len(asked["B"]) else "A" if len(asked["A"]) > len(asked["B"]) else "B"
    return completion(f'Let me see.\n```json\n{{"why": "it says {{more}}", "better": "{better}"}}\n```')


def first(body: dict[str, Any], headers: dict[str, str]) -> Reply:
    return completion('{"better": "A"}')


CONTESTS = [
    Contest("a", "Name a colour.", "red", "dark red"),
    Contest("b", "Name a fruit.", "a ripe pear", "pear"),
    Contest("c", "Name a town.", "Ulm ", "Ulm"),
    Contest("d", "Name a river.", "Elbe", "Oder"),
]


def votes_of(address: str, path: Path, **changes: Any) -> list[Vote]:
    by = JudgeBy(endpoint=address, model="j", **changes)
    return judges.judge(CONTESTS, by, Endpoint(address, "j"), Kept(path), lambda done, of: None)


def test_both_orders_and_what_is_sent(tmp_path: Path) -> None:
    with server(longer) as (address, seen):
        votes = votes_of(address, tmp_path / "judge.jsonl", rubric="The longer one.")
    assert [v.tuned for v in votes] == [1, 0, 0.5, 0.5]
    assert [v.side for v in votes] == ["tuned", "base", "tie", "tie"]
    assert len(seen) == 6  # equal answers are not asked
    assert [asked_of(b)["A"] for b in seen[:2]] == ["red", "dark red"]
    assert all(b["temperature"] == 0 and b["model"] == "j" for b in seen)
    assert "The longer one." in seen[0]["messages"][0]["content"]
    assert "base" not in json.dumps(seen[0]).lower().replace("base_", "")  # not told whose answer it is
    found = trust(votes, {})
    assert (found.num_cases, found.num_asked, found.both_orders_agree, found.first_place) == (4, 3, 1, 0.5)


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    path = tmp_path / "scores" / "judge.jsonl"
    with server(longer) as (address, seen):
        before = votes_of(address, path)
        path.write_text(path.read_text() + '{"key": "cut o')
        assert votes_of(address, path) == before
        assert len(seen) == 6
        votes_of(address, path, rubric="Another one.")
        assert len(seen) == 12


def test_a_judge_that_likes_the_first_place_is_found_out(tmp_path: Path) -> None:
    with server(first) as (address, _):
        votes = votes_of(address, tmp_path / "j")
    assert [v.tuned for v in votes] == [0.5] * 4  # both orders even it out
    found = trust([*votes] * 10, {})
    assert found.first_place == 1
    assert found.both_orders_agree == 0
    assert "biased by position" in found.notes()[0]
    assert "nobody checked the judge" in found.notes()[-1]


def test_replies_that_cannot_be_read_are_ties_and_counted(tmp_path: Path) -> None:
    with server(lambda body, headers: completion("I like both.")) as (address, _):
        votes = votes_of(address, tmp_path / "j")
    assert [v.tuned for v in votes] == [0.5] * 4
    found = trust(votes, {})
    assert found.num_unreadable == 6
    assert found.first_place is None
    assert "6 replies of the judge could not be read" in " ".join(found.notes())


@pytest.mark.parametrize(
    ("reply", "side"),
    [('{"better": "A"}', "A"), ('{"better": " b "}', "B"), ('{"why": "x", "better": "TIE"}', "tie"), ("A", None),
     ('{"better": "C"}', None), ('{"x": {"better": "B"}}', "B"), ('{"better": ["A"]}', None), ("{" * 5000, None)],
)  # fmt: skip
def test_what_a_reply_prefers(reply: str, side: str | None) -> None:
    assert preferred(reply) == side


def test_what_may_pass_is_tried_again_and_the_rest_is_not() -> None:
    trouble = iter([(503, {}, "busy"), (429, {"Retry-After": "7"}, "slow down"), (200, {}, "no json")])
    pauses: list[float] = []
    with server(lambda body, headers: next(trouble, None) or completion("hello")) as (address, seen):
        assert Endpoint(address, "j").ask("s", "u", time.monotonic() + 60, pauses.append) == "hello"
        assert len(seen) == 4
    assert pauses == [1, 7, 4]
    with server(lambda body, headers: (404, {}, '{"error": {"message": "no such model"}}')) as (address, seen):
        with pytest.raises(InputError, match="404: no such model"):
            Endpoint(address, "j").ask("s", "u", time.monotonic() + 60, pauses.append)
        assert len(seen) == 1
    with pytest.raises(RunError, match="no answer in 6 tries"):  # nobody listens there any more
        Endpoint(address, "j").ask("s", "u", time.monotonic() + 60, lambda s: None)
    with pytest.raises(RunError, match="in the time that was given"):
        Endpoint(address, "j").ask("s", "u", time.monotonic(), lambda s: None)


def test_the_key_is_sent_from_the_environment_and_kept_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "made-up-key-of-a-test"
    monkeypatch.setenv("JUDGE_KEY", key)
    heard: list[str] = []

    def reply(body: dict[str, Any], headers: dict[str, str]) -> Reply:
        heard.append(headers.get("Authorization", ""))
        return longer(body, headers)

    with server(reply) as (address, _):
        endpoint = Endpoint(address, "j", "JUDGE_KEY")
        path = tmp_path / "judge.jsonl"
        judges.judge(CONTESTS, JudgeBy(address, "j"), endpoint, Kept(path), lambda done, of: None)
    assert set(heard) == {f"Bearer {key}"}
    assert key not in path.read_text() + repr(endpoint)
    with server(lambda body, headers: (401, {}, f"bad key {headers['Authorization']}")) as (address, _):
        with pytest.raises(InputError) as caught:
            Endpoint(address, "j", "JUDGE_KEY").ask("s", "u", time.monotonic() + 9)
        assert "401" in str(caught.value)
        assert key not in str(caught.value)
    with server(longer) as (there, seen):
        away = {"Location": f"{there}/chat/completions"}
        with server(lambda body, headers: (307, away, "")) as (address, _), pytest.raises(InputError, match="307"):
            Endpoint(address, "j", "JUDGE_KEY").ask("s", "u", time.monotonic() + 9)
        assert seen == []  # a redirect is not followed


@pytest.mark.parametrize(
    ("address", "key", "words"),
    [("ftp://x/v1", None, "no address of an API"), ("http://user:pw@x/v1", None, "no address of an API"),
     ("http://example.org/v1", "JUDGE_KEY", "unencrypted"), ("https://example.org/v1", "NOT_SET", "which is empty")],
)  # fmt: skip
def test_addresses_that_are_refused(monkeypatch: pytest.MonkeyPatch, address: str, key: str, words: str) -> None:
    monkeypatch.setenv("JUDGE_KEY", "x")
    with pytest.raises(InputError, match=words) as caught:
        Endpoint(address, "j", key)
    assert "pw" not in str(caught.value)


def test_agreement_with_people(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    path.write_text("example_id,vote\na,tuned\nb,tuned\nb,Base\nb,base\nd,tie\nd,tuned\nd,base\nelse,tie\n")
    people = read_votes(path)
    assert people == {"a": "tuned", "b": "base", "d": "tie", "else": "tie"}
    votes = [Vote("a", 1, 1), Vote("b", 1, 1), Vote("c", 0.5, 0.5), Vote("d", 0, 1)]
    found = trust(votes, people)
    pairs = [("tuned", "tuned"), ("tuned", "base"), ("tie", "tie")]
    assert (found.num_people, found.agreement) == (3, pytest.approx(2 / 3))
    assert found.kappa == pytest.approx(cohen_kappa_score(*zip(*pairs)))
    # by hand: observed 2/3; chance (2*1 + 1*1 + 0*1)/9 = 3/9
    assert found.kappa == pytest.approx((2 / 3 - 1 / 3) / (1 - 1 / 3))
    assert judges.cohens_kappa([("tie", "tie")] * 3) is None
    path.write_text("example_id,vote\na,better\n")
    with pytest.raises(InputError, match=r"votes.csv:2: example_id is 'a' and vote is 'better'"):
        read_votes(path)


def test_a_judge_that_cannot_be_read_decides_nothing() -> None:
    unread = [Vote(str(k), None, None) for k in range(3)]
    assert trust([Vote("a", 1, 1)] * 12 + unread, {}).is_readable
    assert not trust([Vote("a", 1, 1)] * 11 + unread, {}).is_readable
