"""Work spread over processes is the work of one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tests.data.chat import tokenizer

from tunesmith.data.spread import spread


def named(piece: int) -> bytes:
    return f"{piece}:{'x' * 3000 * (piece % 70)}".encode()


@pytest.mark.parametrize(("num", "workers"), [(0, 2), (1, 4), (7, 3), (100, 2)])
def test_pieces_come_in_their_order(num: int, workers: int) -> None:
    assert list(spread(named, num, workers)) == [named(n) for n in range(num)]


def test_other_processes_do_the_work() -> None:
    made = [int(piece) for piece in spread(lambda n: str(os.getpid()).encode(), 6, 3)]
    assert made[:3] == made[3:]
    assert len({*made, os.getpid()}) == 4


def test_an_error_is_raised_here_behind_what_was_made() -> None:
    def make(piece: int) -> bytes:
        if piece == 3:
            raise ValueError("piece 3")
        return named(piece)

    found = spread(make, 5, 2)
    assert [next(found) for _ in range(3)] == [named(n) for n in range(3)]
    with pytest.raises(ValueError, match="piece 3"):
        next(found)


def test_what_a_process_that_was_ended_leaves_is_made_here() -> None:
    here = os.getpid()

    def make(piece: int) -> bytes:
        if piece >= 2 and os.getpid() != here:
            os._exit(9)
        return named(piece)

    assert list(spread(make, 9, 2)) == [named(n) for n in range(9)]


def test_tokenizers_that_ran_on_threads_do_not_wait_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    known, texts = tokenizer("chatml").backend_tokenizer, ["one", "two", "three"] * 20
    known.encode_batch_fast(texts)

    def ended(*_: object) -> None:
        raise TimeoutError("a worker waits for threads that it does not have")

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(30)
    try:
        found = list(spread(lambda n: str(known.encode_batch_fast(texts[: n + 2])[-1].ids).encode(), 4, 2))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert found == [str(known.encode(texts[n + 1]).ids).encode() for n in range(4)]


def test_nobody_is_left_behind_and_nobody_runs_ahead(tmp_path: Path) -> None:
    """A pipe holds some pieces; a process that nobody listens to waits, and ends with the iterator."""

    def make(piece: int) -> bytes:
        (tmp_path / str(piece)).write_text(str(os.getpid()))
        return b"x" * 2**20

    found = spread(make, 1000, 2)
    next(found)
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) < 10
    pids = {int(p.read_text()) for p in tmp_path.iterdir()}
    found.close()  # type: ignore[attr-defined]
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
