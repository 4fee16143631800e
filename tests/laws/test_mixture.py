"""Laws of several sources: the shares that were asked for come out, a resume draws the same rows, none comes too often.

Each is held to a mutant that breaks it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runs import tiny_runs

from tunesmith import mixed
from tunesmith.data import ingest, mixture
from tunesmith.data.columns import Columns
from tunesmith.data.feed import FileFeed
from tunesmith.data.mixture import Mixing, Mixture, Part, Source, Template, quotas
from tunesmith.data.stored import Chosen
from tunesmith.data.traits import key
from tunesmith.errors import DataError, RecipeError
from tunesmith.recipe import parse
from tunesmith.types import Record, Reply, Segment

SIZES = (10, 100, 10_000)
SOURCES = tuple(Source(name, (f"{name}.jsonl",)) for name in "abc")


def by_hand(sizes: tuple[int, ...], cap: float, temperature: float) -> np.ndarray:
    """rate_i of FLAN and T5."""
    rate = np.array([min(n, cap) ** (1 / temperature) for n in sizes])
    return rate / rate.sum()


@pytest.mark.parametrize("cap", [None, 3000, 50])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 1e9])
def test_quotas_are_flans_rates(cap: int | None, temperature: float) -> None:
    total = 5000
    found = np.array(quotas(SIZES, SOURCES, Mixing(cap, temperature, total)))
    assert found.sum() == total
    assert np.abs(found - total * by_hand(SIZES, cap or np.inf, temperature)).max() < 1
    if cap:  # mutants: no cap; a cap behind the temperature
        assert np.abs(found - total * by_hand(SIZES, np.inf, temperature)).max() > 1 or temperature == 1e9
        late = np.minimum(np.array(SIZES) ** (1 / temperature), cap)
        assert np.abs(found - total * late / late.sum()).max() > 1 or temperature in (1.0, 1e9)


def test_an_epoch_has_all_rows_up_to_the_cap() -> None:
    assert quotas(SIZES, SOURCES, Mixing()) == list(SIZES)
    assert quotas(SIZES, SOURCES, Mixing(cap=50)) == [10, 50, 50]


def test_weights_are_shares_whatever_the_sizes() -> None:
    sources = [replace(s, weight=w) for s, w in zip(SOURCES, (3, 1, 1))]
    assert quotas(SIZES, sources, Mixing(rows=1000)) == [600, 200, 200]
    with pytest.raises(DataError, match="source b has less than half an example in an epoch of 20"):
        quotas(SIZES, [replace(s, weight=w) for s, w in zip(SOURCES, (98, 1, 1))], Mixing(rows=20))


def of_sizes(*sizes_and_quotas: tuple[int, int], seed: int = 3) -> Mixture:
    ends = np.cumsum([0, *(n for n, _ in sizes_and_quotas)]).tolist()
    parts = [Part("abc"[k], ends[k], ends[k + 1], q) for k, (_, q) in enumerate(sizes_and_quotas)]
    return Mixture(tuple(parts), seed)


def spread(drawn: Callable[[int], np.ndarray], part: Part, epochs: int) -> int:
    """How much more often one of its rows came than another."""
    times = np.bincount(np.concatenate([drawn(e) for e in range(epochs)]), minlength=part.stop)[part.begin : part.stop]
    return int(times.max() - times.min())


@pytest.mark.parametrize("epochs", [1, 3, 10])
def test_no_row_comes_again_before_all_others_of_its_source(epochs: int) -> None:
    made = of_sizes((7, 20), (50, 20), (1000, 30))
    assert [spread(made.drawn, part, epochs) <= 1 for part in made.parts] == [True] * 3
    for part in made.parts:
        each = [((made.drawn(e) >= part.begin) & (made.drawn(e) < part.stop)).sum() for e in range(epochs)]
        assert each == [part.quota] * epochs
    if epochs > 1:  # mutants: every epoch the same rows; rows drawn with repetition
        assert spread(lambda e: made.drawn(0), made.parts[2], epochs) > 1
        draw = np.random.default_rng(0)
        assert spread(lambda e: draw.integers(0, 7, 20), made.parts[0], epochs) > 1
        assert set(made.drawn(0).tolist()) != set(made.drawn(1).tolist())


def test_sources_and_seeds_draw_apart() -> None:
    same = of_sizes((40, 20), (40, 20))
    a, b = np.split(same.drawn(0).astype(int), 2)
    assert a.tolist() != (b - 40).tolist()
    assert of_sizes((40, 20), seed=1).drawn(0).tolist() != of_sizes((40, 20), seed=2).drawn(0).tolist()


def records(num: int, length: int, learned: int, name: str) -> list[Record]:
    weights = np.array([0.0] * (length - learned) + [1.0] * learned, np.float32)
    return [Record(f"{name}{i}", (Segment(np.arange(length) + i, weights),)) for i in range(num)]


ROWS = [*records(7, 20, 10, "a"), *records(50, 30, 1, "b")]


def feed(made: Mixture | None = None, epochs: int = 3, seed: int = 3) -> FileFeed:
    return FileFeed(ROWS, 200, 100, epochs, seed, mixture=made or of_sizes((7, 14), (50, 20)))


def given(some: FileFeed, num: int) -> list[tuple[str, ...]]:
    return [tuple(sorted(n for batch in some.update() for n in batch.example_ids)) for _ in range(num)]


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_a_resume_draws_the_rows_that_would_have_come(stop: int) -> None:
    whole = given(feed(), feed().num_updates)
    first, second = feed(), feed()
    assert given(first, stop) == whole[:stop]
    second.load(first.state())
    assert given(second, second.num_updates - stop) == whole[stop:]
    others = (of_sizes((7, 15), (50, 20)), of_sizes((7, 14), (50, 20), seed=4))
    for other in others:  # mutants: another share, another draw
        with pytest.raises(DataError, match="not those of the saved run"):
            feed(other).load(first.state())


@pytest.mark.parametrize("num", [1, 5, None])
def test_shares_are_counted_of_what_was_given(num: int | None) -> None:
    asked = feed()
    num = num or asked.num_updates
    counts = Counter(name for names in given(feed(), num) for name in names)
    a, b = (sum(n for name, n in counts.items() if name[0] == which) for which in "ab")
    found = asked.shares(num)
    assert [(s.name, s.num_rows, s.num_drawn) for s in found] == [("a", 7, a), ("b", 50, b)]
    assert found[0].learned_frac == pytest.approx(10 * a / (10 * a + b))
    assert found[0].token_frac == pytest.approx(20 * a / (20 * a + 30 * b))
    assert asked.num_seen(num) == len(counts)
    assert {r.example_id for r in asked.seen(num)} == set(counts)
    if num == asked.num_updates:
        assert (a, b) == (3 * 14, 3 * 20)
        assert f"{3 * 14} examples of 7 rows, each seen 6 times" in found[0].words


def test_without_sources_an_epoch_is_all_rows_as_before() -> None:
    plain = FileFeed(ROWS, 200, 100, 2, 3)
    assert plain.shares(1) == []
    assert sorted(n for names in given(plain, plain.updates_per_epoch) for n in names) == sorted(
        r.example_id for r in ROWS
    )


# -- how rows are read -----------------------------------------------------------------------------------------------


def source_file(folder: Path, num: int = 60) -> Path:
    rows = [{"q": f"What is {i % 30} and 1?", "a": i % 30 + 1, "how": f"{i % 30} goes up by 1."} for i in range(num)]
    return tiny_runs.written(folder / "sums.jsonl", rows)


def test_each_row_has_one_phrasing_and_equal_questions_the_same(tmp_path: Path) -> None:
    templates = (
        Template("{q} Just the number.", "{a}"),
        Template("{q} Step by step.", "{how} So {a}"),
        Template("Q: {q}"),
    )
    part = ingest.Part([source_file(tmp_path)], Columns(reply="a"), templates)
    found = list(ingest.read_parts([part], mixture_reading()).examples)
    ways = {"Just the number.": "{a}", "Step by step.": "{how} So {a}", "Q: ": "{a}"}
    phrased = [next(way for way in ways if way in e.prompt[0].content) for e in found]
    assert phrased[:30] == phrased[30:]  # rows i and i + 30 ask the same
    assert min(Counter(phrased).values()) >= 8  # of 20 each
    for i, (way, example) in enumerate(zip(phrased, found)):
        number = str(i % 30 + 1)
        reply = f"{i % 30} goes up by 1. So {number}" if way == "Step by step." else number
        assert isinstance(example.target, Reply)
        assert example.target.text == reply
    assert len({key(e) for e in found}) == 30


def mixture_reading() -> Any:
    return parse({}).data.reading


def test_sources_are_read_by_their_own_columns_and_labels_become_replies(tmp_path: Path) -> None:
    labels = tiny_runs.labelled_file(tmp_path / "labels.jsonl", 12)
    parts = [ingest.Part([source_file(tmp_path)], Columns(prompt=("q",), reply="a"), name="sums"),
             ingest.Part([labels], Columns(), name="labels")]  # fmt: skip
    found = ingest.read_parts(parts, mixture_reading())
    assert found.ends == (60, 72)
    assert {type(e.target) for e in found.examples} == {Reply}
    assert found.notices == ("source sums: reads q, a; not used: how", "source labels: reads text, label")
    assert ingest.task_of(found.columns, found)[0] == "generate"


def test_shots_are_other_rows_that_were_learned_from_and_are_not_learned_again(tmp_path: Path) -> None:
    read = ingest.read([source_file(tmp_path)], Columns(prompt=("q",), reply="a")).examples
    train = Chosen(read, np.arange(40))
    source = Source("sums", shots=3, shots_frac=0.5)
    made = [mixed.with_shots(e, train, source, 5) for e in train]
    learned = {e.prompt[0].content for e in train}
    with_some = [e for e in made if len(e.prompt) > 1]
    assert 10 <= len(with_some) <= 30
    for example in with_some:
        asked = [m.content for m in example.prompt if m.role == "user"]
        assert len(asked) == len(set(asked)) == 4
        assert set(asked) <= learned
        assert {m.weight for m in example.prompt if m.role == "assistant"} == {0.0}
    assert made == [mixed.with_shots(e, train, source, 5) for e in train]
    assert [e.id for e in made] == [e.id for e in train]
    alone = replace(source, shots_frac=0.0)
    assert [mixed.with_shots(e, train, alone, 5) for e in train] == list(train)


def test_plain_texts_and_replies_do_not_mix(tmp_path: Path) -> None:
    texts = tiny_runs.written(tmp_path / "texts.jsonl", [{"text": "a long text"}])
    parts = [ingest.Part([source_file(tmp_path)], Columns(prompt=("q",), reply="a"), name="sums"),
             ingest.Part([texts], Columns(text="text"), name="texts")]  # fmt: skip
    with pytest.raises(DataError, match="source texts: of all sources either each holds plain texts or none"):
        ingest.read_parts(parts, mixture_reading())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"mixing": {"cap": 5}}, "there is none"),
        ({"train": ["a.csv"], "sources": [{"files": "b.csv"}]}, "make data.train a source too"),
        ({"sources": [{"name": "a"}]}, r"data.sources\[0\].files names no file"),
        ({"sources": [{"files": "a.csv", "weight": 0}]}, "weight is 0"),
        (
            {"sources": [{"files": "a.csv", "wieght": 1}]},
            r"data.sources\[0\].wieght: did you mean .*weight",
        ),
        ({"sources": [{"files": "a.csv", "columns": {"promt": "x"}}]}, "columns.promt"),
        ({"sources": [{"files": "a.csv", "weight": 1}, {"files": "b.csv"}]}, "some of data.sources have a weight"),
        ({"sources": [{"files": "a.csv", "weight": 1}], "mixing": {"cap": 9}}, "cap and temperature are about sizes"),
        ({"sources": [{"files": "a.csv"}, {"files": "b/a.csv"}]}, "two of one name"),
        ({"sources": [{"files": "a.csv", "shots_frac": 2}]}, "a share from 0 to 1"),
        ({"sources": [{"files": "a.csv", "templates": [{"prompt": "hello"}]}]}, "all rows would ask the same"),
        ({"sources": [{"files": "a.csv"}], "mixing": {"temperature": 0}}, "data.mixing.temperature is 0"),
    ],
)
def test_what_nothing_would_read_is_refused(data: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse({"data": data})


def test_a_recipe_takes_one_for_a_list_of_one() -> None:
    source = {"files": "a.csv", "columns": {"prompt": "q"}, "templates": {"prompt": "{q}?"}}
    [found] = parse({"data": {"sources": source}}).data.sources
    assert (found.files, found.columns.prompt, found.templates) == (("a.csv",), ("q",), (Template("{q}?"),))
    assert mixture.named(found) == "a"
