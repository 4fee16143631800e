"""Environments that are opened: a class of the user's own, functions that are called, a model that plays the user.

The user's code runs in the sandbox that rewards have (`sandboxed.py`). For each reply a fresh copy plays the episode
again from its beginning, so that nothing of it lives anywhere but in what was said: what an episode broke is whole for
the next, a resume needs no state, and an environment that is not the same twice is found out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from tunesmith.data.turns import is_messages, messages_of, with_tools
from tunesmith.errors import DataError, InputError
from tunesmith.evals import calls, sandbox
from tunesmith.evals.endpoint import Endpoint
from tunesmith.files import sha256_file
from tunesmith.rollouts.asked import Turns, asker
from tunesmith.rollouts.coded import MIB, range_of
from tunesmith.rollouts.environment import Environment, Staging, World
from tunesmith.rollouts.episodes import Episode, Heard, same_again
from tunesmith.rollouts.parts import facts_of, prompt_text
from tunesmith.rollouts.sandboxed import Code, Failed, Sandboxed, Streak
from tunesmith.types import Attempt, Example, Message

Asked, Found = TypeVar("Asked"), TypeVar("Found")

PLAY = """

def tunesmith_play(row, seed, replies):
    import random
    import sys
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
    one = {name}()
    found = [one.reset(row) if hasattr(one, "reset") else None]
    for reply in replies:
        said = one.step(reply)
        if not isinstance(said, tuple) or len(said) != 2:
            raise TypeError(f"step returned {{said!r:.80}}; wanted (observation or None, reward)")
        found.append([said[0], float(said[1])])
    return found


if not isinstance(globals().get("{name}"), type) or not hasattr({name}, "step"):
    raise NameError("there is no class {name} with a method step here")
"""

TOOLS = """

def tunesmith_tools(turns):
    import inspect
    import json
    kinds = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
    kinds |= {kind.__name__: name for kind, name in kinds.items()}
    mine = {n: f for n, f in globals().items() if inspect.isfunction(f) and not n.startswith("_")
            and n != "tunesmith_tools" and f.__module__ == __name__}

    def schema(name, function):
        given = inspect.signature(function).parameters.values()
        parameters = {p.name: {"type": kinds.get(p.annotation, "string")} for p in given}
        needed = [p.name for p in given if p.default is p.empty]
        parameters = {"type": "object", "properties": parameters, "required": needed}
        said = (inspect.getdoc(function) or name).strip()
        return {"type": "function", "function": {"name": name, "description": said, "parameters": parameters}}

    def one(name, arguments):
        if name not in mine:
            return f"error: there is no function {name!r}; there are: {', '.join(mine)}"
        try:
            found = mine[name](**arguments)
            return found if isinstance(found, str) else json.dumps(found, default=str)
        except Exception as error:
            return f"error: {type(error).__name__}: {str(error)[:200]}"

    if turns is None:
        return [schema(*item) for item in mine.items()]
    return [[one(name, arguments) for name, arguments in turn] for turn in turns]
"""
UNREAD = 'error: a call could not be read. Wanted one JSON object: {"name": "…", "arguments": {…}}'
SYSTEM = (
    "You play the user in a conversation with an assistant, and write only what the user says next, in the user's own "
    "words. Stay in your part. When you have what you wanted, or will not get it, write [END] and nothing else."
    "\n{persona}"
)
END = "[END]"


class Boxes:
    """Copies of a sandbox, so that several episodes are answered at once. The first one is started at once, and refused
    where it cannot be."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.num = min(sandbox.MAX_WORKERS, os.cpu_count() or 1)
        self.first = Sandboxed(code)
        self.free: SimpleQueue[Sandboxed] = SimpleQueue()
        self.free.put(self.first)
        self.started = 1

    def all(self, given: Sequence[Sequence[Any]]) -> list[Any]:
        """What the function returns for each; Failed in its place where it gives nothing."""
        while self.started < min(self.num, len(given)):
            self.free.put(Sandboxed(self.code))
            self.started += 1
        with ThreadPoolExecutor(self.started) as pool:
            return list(pool.map(self._one, given))

    def _one(self, given: Sequence[Any]) -> Any:
        box = self.free.get()
        try:
            return box.data(given)
        except Failed as error:
            return error
        finally:
            self.free.put(box)


def boxes_of(asked: Environment, path: Path, code: str, function: str, insist: bool) -> tuple[Boxes, str]:
    isolate, words = sandbox.isolation(insist=insist)
    source = path.read_text(encoding="utf-8") + code
    made = Code(source, str(path), function, asked.timeout_s, asked.memory_mib * MIB, isolate, is_data=True)
    return Boxes(made), words


def file_of(asked: Environment, name: str) -> Path:
    path = Path(name).resolve()
    if not path.is_file():
        raise InputError(f"environment.file is {asked.file!r}; there is no file {path}")
    return path


def seed_of(example: Example) -> int:
    """Of all episodes of a row: replies to it are compared with each other, and meet the same chance."""
    return int.from_bytes(hashlib.sha256(example.id.encode()).digest()[:6], "big")


def row_of(example: Example) -> dict[str, Any]:
    attempt = Attempt(example, "", True, 0)
    return {"prompt": prompt_text(attempt), **facts_of(attempt)}


class Own:
    """A class of the user's: `reset(row)` gives the prompt, `step(reply)` what follows and a reward."""

    def __init__(self, asked: Environment, staging: Staging) -> None:
        self.asked = asked
        file, _, name = asked.file.rpartition(":")
        if not file or not name.isidentifier():
            raise InputError(f"environment.file is {asked.file!r}; wanted FILE.py:CLASS")
        path = file_of(asked, file)
        self.boxes, words = boxes_of(asked, path, PLAY.format(name=name), "tunesmith_play", staging.insist)
        self.low, self.high = range_of(self.boxes.first.facts["range"], path)
        self.files: Mapping[str, str] = {str(path): sha256_file(path)}
        self.words = f"{asked.file}, in a sandbox: {words}"
        self._path, self._streak = path, Streak(str(path), grades=False)
        self._begun: dict[str, Example] = {}  # by id, as `reset` made it

    def begin(self, examples: Sequence[Example]) -> list[Example]:
        fresh = {e.id: e for e in examples if e.id not in self._begun}
        found = self.boxes.all([[row_of(e), seed_of(e), []] for e in fresh.values()])
        for example, said in zip(fresh.values(), found, strict=True):
            if isinstance(said, Failed):
                raise DataError(f"{self._path}: reset of {example.source or example.id}: {said}")
            self._begun[example.id] = replace(example, prompt=self._prompt(example, said[0]))
        return [self._begun[e.id] for e in examples]

    def _prompt(self, example: Example, said: Any) -> tuple[Message, ...]:
        try:
            return example.prompt if said is None else turns_of(said)
        except ValueError as error:
            raise DataError(f"{self._path}: reset of {example.source or example.id}: {error}") from None

    def hear(self, episodes: Sequence[Episode]) -> list[Heard]:
        given = [[row_of(e.example), seed_of(e.example), [t.text for t in e.turns]] for e in episodes]
        return [self._heard(e, said) for e, said in zip(episodes, self.boxes.all(given), strict=True)]

    def _heard(self, episode: Episode, said: Any) -> Heard:
        try:
            if isinstance(said, Failed):
                raise said
            steps = said[1:]
            same_again([t.heard.raw for t in episode.turns[:-1]], steps[:-1], str(self._path))
            then, reward = steps[-1]
            total = episode.own + reward
            if not self.low <= total <= self.high:
                raise Failed(
                    f"an episode came to {total:g}; wanted {self.low:g} to {self.high:g}: RANGE = (least, most)"
                )
            heard = Heard(() if then is None else turns_of(then), reward, raw=steps[-1])
        except (Failed, ValueError) as error:
            self._streak.failed(str(error))
            return Heard(why=f"the environment failed: {error}", has_failed=True)
        self._streak.passed()
        return heard


def turns_of(said: Any) -> tuple[Message, ...]:
    """A text as a turn of the user; or messages. ValueError for anything else."""
    if isinstance(said, str) and said.strip():
        return (Message("user", said),)
    if not is_messages(said):
        raise ValueError(f"{said!r:.80} is neither a text nor a list of messages")
    found = messages_of(said, "observation")
    if found[-1].role == "assistant":
        raise ValueError("the last message is the assistant's, and it is the model that answers")
    return found


class Tools:
    """Functions of the user's file. A reply that calls some is followed by what they return; one without a call is the
    answer, and the end."""

    low = high = 0.0

    def __init__(self, asked: Environment, staging: Staging) -> None:
        self.asked, path = asked, file_of(asked, asked.file)
        self.boxes, words = boxes_of(asked, path, TOOLS, "tunesmith_tools", staging.insist)
        [self.tools] = self.boxes.all([[None]])
        if isinstance(self.tools, Failed):
            raise InputError(f"{path}: {self.tools}")
        if not self.tools:
            raise InputError(f"{path} has no function to call: each function without a leading _ is one")
        names = ", ".join(tool["function"]["name"] for tool in self.tools)
        self.files: Mapping[str, str] = {str(path): sha256_file(path)}
        self.words = f"calls of {names} ({asked.file}), in a sandbox: {words}"
        self._path = path

    def begin(self, examples: Sequence[Example]) -> list[Example]:
        return [replace(e, prompt=with_tools(e.prompt, self.tools, "environment.file")) for e in examples]

    def hear(self, episodes: Sequence[Episode]) -> list[Heard]:
        made = [self._calls(e) for e in episodes]
        calling = [k for k, turns in enumerate(made) if turns[-1]]
        given = [[[[(c["name"], c["arguments"]) for c in turn] for turn in made[k]]] for k in calling]
        found = dict(zip(calling, self.boxes.all(given), strict=True)) if calling else {}
        return [self._heard(e, made[k][-1], found.get(k)) for k, e in enumerate(episodes)]

    def _calls(self, episode: Episode) -> list[list[calls.Call]]:
        """Of each reply; none of one whose functions failed, which are not tried again."""
        *earlier, last = episode.turns
        return [calls.calls_in(t.text) if t.heard.raw is not None else [] for t in earlier] + [
            calls.calls_in(last.text)
        ]

    def _heard(self, episode: Episode, called: list[calls.Call], said: Any) -> Heard:
        if not called:
            is_tried = looks_like_a_call(episode.turns[-1].text)
            return Heard((Message("tool", UNREAD),)) if is_tried else Heard(why="answered")
        if isinstance(said, Failed):  # a function that hangs or takes too much: the model is told
            return Heard(tuple(Message("tool", f"error: {said}") for _ in called), calls=as_calls(called))
        before = [t.heard.raw for t in episode.turns[:-1]]
        again = [new for old, new in zip(before, said) if old is not None]
        same_again([old for old in before if old is not None], again, str(self._path))
        results = tuple(
            Message("tool", text or "(nothing)", extra={"name": c["name"]}) for c, text in zip(called, said[-1])
        )
        return Heard(results, calls=as_calls(called), raw=said[-1])


def as_calls(called: Iterable[calls.Call]) -> tuple[dict[str, Any], ...]:
    return tuple({"type": "function", "function": dict(call)} for call in called)


def looks_like_a_call(text: str) -> bool:
    """Whether a reply in which no call can be read was meant to be one."""
    return "tool_call" in text.lower() or ("{" in text and '"name"' in text)


@dataclass(frozen=True, slots=True)
class User:
    """A model that plays the user, asked with the conversation as it stands, at temperature 0; nothing twice."""

    asked: Environment
    ask: Callable[[Sequence[Turns]], list[str]]
    words: str
    low: float = 0.0
    high: float = 0.0
    files: Mapping[str, str] = field(default_factory=dict)

    def begin(self, examples: Sequence[Example]) -> list[Example]:
        return list(examples)

    def hear(self, episodes: Sequence[Episode]) -> list[Heard]:
        said = self.ask([self._question(e) for e in episodes])
        return [
            Heard(why="the user ended it")
            if END in text or not text.strip()
            else Heard((Message("user", text.strip()),))
            for text in said
        ]

    def _question(self, episode: Episode) -> Turns:
        """The conversation with the parts changed: the model that plays the user is an assistant to its server."""
        facts = {k: v for k, v in row_of(episode.example).items() if k not in ("prompt", "reference")}
        persona = self.asked.persona + (f"\nWhat you know: {json.dumps(facts, default=str)}" if facts else "")
        turned = {"user": "assistant", "assistant": "user"}
        spoken = [Message(turned[m.role], m.content) for m in episode.said if m.role in turned]
        return (
            Message("system", SYSTEM.format(persona=persona)), Message("user", "(The conversation begins.)"), *spoken
        )  # fmt: skip


def user(asked: Environment, staging: Staging) -> User:
    assert asked.endpoint is not None
    endpoint = Endpoint(asked.endpoint, asked.model, asked.api_key_env)
    ask = asker(endpoint, "environment", asked.timeout_s, sandbox.MAX_WORKERS, staging.kept)
    return User(asked, ask, f"{asked.model} at {endpoint.host} plays the user; what is said is SENT there")


def opened(asked: Environment, staging: Staging) -> World | None:
    """None where nothing answers a reply."""
    match asked.kind:
        case "python":
            return Own(asked, staging)
        case "tools":
            return Tools(asked, staging)
        case "user":
            return user(asked, staging)
    return None
