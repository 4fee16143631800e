"""What answers a reply: a class of one's own, functions that are called, a model that plays the user."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.evals.test_judge import Reply, completion, server

from tunesmith.errors import InputError, RecipeError, RunError
from tunesmith.rollouts import worlds
from tunesmith.rollouts.environment import Environment, Staging, World, check
from tunesmith.rollouts.episodes import TOKENS, TURNS, Bounds, Episode, graded, play
from tunesmith.types import Completion, Example, Grade, Message, Task

END = 2
GAME = """
import random

RANGE = (0, 3)


class Game:
    def reset(self, row):
        self.row, self.dice = row, random.randint(1, 10**9)
        return f"What comes behind {row['word']}? ({self.dice})"

    def step(self, reply):
        if reply == "raise":
            raise ValueError("never seen")
        if reply == "hang":
            while True:
                pass
        if reply == "too much":
            return None, 9
        if reply == "odd":
            return None
        if reply == self.row["answer"]:
            return None, 2
        return f"not {reply}; the die says {random.randint(1, 10**9)}", 0.25
"""


def example(number: int = 0, **facts: object) -> Example:
    return Example(
        f"e{number}", (Message("user", "q"),), Task({"word": "a", "answer": "b", **facts}), source=f"r:{number}"
    )


def own(folder: Path, text: str = GAME, **more: object) -> World:
    (folder / "game.py").write_text(text)
    asked = Environment("python", f"{folder}/game.py:Game", timeout_s=1.0, **more)  # type: ignore[arg-type]
    found = worlds.opened(asked, Staging())
    assert found is not None
    return found


def played(
    world: World, replies: Sequence[Sequence[str]], most: Bounds | None = None, cut: tuple[int, int] | None = None
) -> list[Episode]:
    """Each episode says its own replies, a token each; `cut`: which reply of which episode does not end."""
    begun = world.begin([example(k) for k in range(len(replies))])
    episodes = [Episode(e, e.prompt, (9, 9, k)) for k, e in enumerate(begun)]

    def sample(live: Sequence[Sequence[int]], turn: int) -> list[Completion]:
        found = []
        for tokens in live:
            is_cut = cut == (tokens[2], turn)
            end = () if is_cut else (END,)
            found.append(Completion((5, *end), (-0.5,) * (1 + len(end)), replies[tokens[2]][turn], not is_cut))
        return found

    play(
        episodes, world.hear, sample, lambda said, then, ends: [7] * (3 if ends else 4), most or Bounds(4, 100, 2, END)
    )
    return episodes


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> World:
    return own(tmp_path_factory.mktemp("game"))


def test_an_episode_goes_on_until_its_environment_ends_it(game: World) -> None:
    one, two, three = played(game, [["x", "b"], ["b"], ["x", "y", "z", "w"]])
    assert one.before[0].content.startswith("What comes behind a? (")
    assert [t.heard.reward for t in one.turns] == [0.25, 2]
    assert (one.ended, one.stopped, one.own) == ("over", True, 2.25)
    assert (two.spans, two.tokens, two.logp) == ([2], [5, END], [-0.5, -0.5])
    assert (one.spans, one.tokens) == ([2, 3, 2], [5, END, 7, 7, 7, 5, END])
    assert len(one.logp) == 4  # of its own tokens alone
    assert (three.ended, three.stopped, len(three.turns)) == (TURNS, False, 4)
    assert len(three.spans) == 7  # nothing is put behind the last reply
    assert one.attempt().text == "b"
    assert [m.role for m in one.attempt().example.prompt] == ["user", "assistant", "user"]
    assert json.loads(one.rows())[0]["then"][0]["content"].startswith("not x; the die says ")


def test_chance_is_of_the_row_and_the_same_again(game: World, tmp_path: Path) -> None:
    """Episodes of a row meet the same chance, other rows another one, and another process the same."""
    first, second = played(game, [["x", "b"], ["x", "b"]])
    assert first.turns[0].heard.then != second.turns[0].heard.then
    again, _ = played(own(tmp_path), [["x", "b"], ["x", "b"]])
    assert again.turns == first.turns
    assert again.before == first.before


def test_a_clock_is_found_out(tmp_path: Path) -> None:
    world = own(tmp_path, GAME.replace('random.randint(1, 10**9)}", 0.25', "__import__('time').time()}\", 0.25"))
    with pytest.raises(RunError, match="is not the same twice: for reply 1"):
        played(world, [["x", "y", "z", "w"]])


@pytest.mark.parametrize(
    ("reply", "said"),
    [("raise", "ValueError: never seen (line 14)"), ("hang", "no answer within 1 s"), ("too much", "came to 9"),
     ("odd", "step returned None")],
)  # fmt: skip
def test_an_environment_that_fails_ends_its_episode_alone(game: World, reply: str, said: str) -> None:
    bad, good = played(game, [[reply], ["b"]])
    assert said in bad.ended
    grades = graded([bad, good], [Grade(0.5), Grade(0.5)], game.low)
    assert [(g.value, g.is_graded) for g in grades] == [(0.5, False), (2.5, True)]
    assert grades[0].parts == {"environment": 0}


def test_limits_end_an_episode_and_say_so(game: World) -> None:
    [cut] = played(game, [["x", "y", "b"]], cut=(0, 1))
    assert (cut.ended, cut.stopped, cut.spans) == ("over", True, [2, 3, 1, 4, 2])  # it is heard as it is, and ended
    [full] = played(game, [["x", "y", "z", "w"]], Bounds(4, 8, 2, END))
    assert (full.ended, full.spans) == (TOKENS, [2, 3, 2])
    assert len(full.tokens) <= 8


def test_what_cannot_be_an_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no class Game with a method step"):
        own(tmp_path, "class Other:\n    pass\n")
    with pytest.raises(InputError, match=r"wanted FILE.py:CLASS"):
        worlds.opened(Environment("python", "game.py"), Staging())
    for asked, said in (
        (Environment(turns=3), "environment.turns is not read by kind none"),
        (Environment("tools", "x.py", persona="me"), "environment.persona is not read by kind tools"),
        (Environment("python"), "needs environment.file"), (Environment("user"), "needs environment.endpoint"),
        (Environment("python", "x.py:G", turns=0), "environment.turns is 0"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=said):
            check(asked, has_reward=True)
    with pytest.raises(RecipeError, match="gives no reward by itself"):
        check(Environment("tools", "x.py"), has_reward=False)


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_functions_are_called_and_answer_by_tool_messages(tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text(
        'SEEN = []\n\n\ndef add(a: int, b: int = 1):\n    """Adds."""\n    SEEN.append(a)\n    return a + b\n\n\n'
        "def seen():\n    return SEEN\n\n\ndef hang():\n    while True:\n        pass\n"
    )
    world = worlds.opened(Environment("tools", str(tmp_path / "tools.py"), timeout_s=1.0), Staging())
    assert isinstance(world, worlds.Tools)
    assert world.tools[0]["function"] == {
        "name": "add", "description": "Adds.", "parameters": {
            "type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    }  # fmt: skip
    replies = [
        [call("add", a=2, b=3) + call("nothing"), call("seen"), "it is 5"],
        ['<tool_call>{"name": "add", "argum', call("add", c=1), "no"], [call("hang"), call("seen"), "!"], ["42"],
    ]  # fmt: skip
    one, two, three, four = played(world, replies)
    assert one.before[0].extra["tools"] == world.tools
    said = [[m.content for t in e.turns for m in t.heard.then] for e in (one, two, three, four)]
    assert said[0] == ["5", "error: there is no function 'nothing'; there are: add, seen, hang", "[2]"]
    assert said[1][0].startswith("error: a call could not be read")
    assert said[1][1].startswith("error: TypeError")
    assert said[2] == ["error: no answer within 1 s", "[]"]  # and it is not called again
    assert said[3] == []
    assert {e.ended for e in (one, two, three, four)} == {"answered"}
    assert [m.role for m in one.said][:4] == ["user", "assistant", "tool", "tool"]
    assert [c["function"]["name"] for c in one.said[1].extra["tool_calls"]] == ["add", "nothing"]


def test_a_model_plays_the_user_and_is_asked_once(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], headers: dict[str, str]) -> Reply:
        turns = body["messages"]
        return completion("[END]" if turns[-1]["content"] == "sorted" else f"and then? {len(turns)}")

    with server(answer) as (address, asked):
        setting = Environment("user", endpoint=address, model="m", persona="You lost a parcel.")
        kept = tmp_path / "kept.jsonl"
        for _ in range(2):
            world = worlds.opened(setting, Staging(kept=kept))
            assert world is not None
            [one] = played(world, [["hm", "sorted"]])
            assert (one.ended, one.stopped) == ("the user ended it", True)
            assert [m.content for t in one.turns for m in t.heard.then] == ["and then? 4"]
        assert len(asked) == 2  # the second time nothing is
    first = asked[0]["messages"]
    assert "You lost a parcel." in first[0]["content"]
    assert [m["role"] for m in first] == ["system", "user", "assistant", "user"]  # the parts are changed
