"""R2, R3, R4, R13, R14, R18: what is left of checkpoints when a disk fails, lies, rots, or learning goes on."""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.faults.conftest import Counted
from tests.faults.disks import Broken, Durable, breaking, laid_out
from tests.laws.sessions import ADAPTS, base_of, records

from tunesmith import files
from tunesmith.data.feed import FileFeed
from tunesmith.engine import checkpoint
from tunesmith.engine.checkpoint import Checkpoint, Saver, checkpoint_name, newest, spent
from tunesmith.engine.loop import State, train
from tunesmith.engine.memory import KEPT, RETURNED
from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import RunError
from tunesmith.files import sweep
from tunesmith.folder import RunFolder, Silent
from tunesmith.objectives.sft import SFT
from tunesmith.stopping import Stop
from tunesmith.teach import go_on


def learner() -> tuple[Session, State, FileFeed]:
    session = Session(base_of())
    feed = FileFeed(records(), update_tokens=64, micro_tokens=48, epochs=3, seed=3)
    session.create("t", Spec(ADAPTS["lora"], seed=5))
    return session, State("t", SFT(), Schedule("cosine", 0.2), 1e-2, feed.num_updates), feed


@pytest.fixture(scope="module")
def copies() -> list[Checkpoint]:
    """The states after updates 1, 2 and 3."""
    session, state, feed = learner()
    found = []
    for update in (1, 2, 3):
        train(session, state, feed, update)
        found.append(checkpoint.taken(session, state, feed))
    return found


def loads_as(path: Path, copy: Checkpoint) -> bool:
    tensors = checkpoint.load_file(path / checkpoint.TENSORS)
    return all(torch.equal(t, tensors[n]) for n, t in copy.tensors.items())


def assert_old_or_new(folder: Path, old: Checkpoint, new: Checkpoint) -> None:
    """After the next start: one of the two, whole, and the next save goes well."""
    sweep(folder)
    path, _ = newest(folder)
    assert path is not None
    assert any(path.name == checkpoint_name(c.update) and loads_as(path, c) for c in (old, new))
    checkpoint.write(folder, new)
    assert newest(folder)[0] == folder / checkpoint_name(new.update)
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def saved(folder: Path, copy: Checkpoint) -> None:
    """As the thread does it, rotation and all, with nothing kept but the newest."""
    saver = Saver(folder, 1)
    saver._write(copy, None)
    saver.check()


@pytest.mark.parametrize("dies", [False, True], ids=["fails once", "dies"])
@pytest.mark.parametrize("replaced", [False, True], ids=["new name", "name taken"])
def test_a_failure_at_every_call_of_a_save(
    copies: list[Checkpoint], tmp_path: Path, counted: Counted, dies: bool, replaced: bool
) -> None:
    """`name taken`: the save of an update that is there, as after a resume from an older checkpoint."""
    old, new = copies[0], copies[1]

    def fresh(name: str) -> Path:
        folder = tmp_path / name
        checkpoint.write(folder, old)
        if replaced:
            checkpoint.write(folder, new)
        return folder

    with breaking(Broken(-1, 0)) as disk:
        saved(fresh("count"), new)
    num = 0
    for number in (errno.EIO, errno.ENOSPC):
        for at in range(len(disk.seen)):
            folder = fresh(f"at_{number}_{at}")
            with breaking(Broken(at, number, dies)) as broken:
                try:
                    saved(folder, new)
                except OSError:
                    num += 1
            if len(broken.seen) <= at:
                break
            assert_old_or_new(folder, old, new)
    assert num >= 20
    who, name = "a dying" if dies else "a living", "its name was taken" if replaced else "a new name"
    counted("R2", f"{num} failures of {who} process in fsync, rename, unlink, mkdir, open ({name}): old or new loads")


def test_a_write_that_stops_after_any_number_of_bytes(
    copies: list[Checkpoint], tmp_path: Path, counted: Counted
) -> None:
    """The kernel's own refusal, in the middle of the library that writes tensors."""
    old, new = copies[0], copies[1]
    size = (checkpoint.write(tmp_path / "size", new) / checkpoint.TENSORS).stat().st_size
    folder = tmp_path / "checkpoints"
    checkpoint.write(folder, old)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    limits = [0, 1, 7, 8, 9, *range(100, size, size // 24), size - 1]
    for limit in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError) as refused:
                saved(folder, new)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert refused.value.errno == errno.EFBIG
        assert [p.name for p in folder.iterdir()] == [checkpoint_name(1)]
    assert_old_or_new(folder, old, new)
    counted("R2", f"{len(limits)} saves cut off by the kernel after 0 to {size - 1} bytes: the old one loads")


def power_cuts(folder: Path, new: Checkpoint, scratch: Path) -> tuple[int, list[str]]:
    """(states in which the machine may wake up, what is wrong in them)."""
    disk = Durable(folder)
    with disk.watching():
        saved(folder, new)
    disk.image()
    wrong = []
    for number, pair in enumerate(disk.images):
        for kind, image in zip(("eager", "lazy"), pair):
            woken = laid_out(image, scratch / f"{kind}_{number}")
            woken.mkdir(parents=True, exist_ok=True)
            sweep(woken)
            path, skipped = newest(woken)
            if path is None or skipped:
                wrong.append(f"{kind} {number}: {path} {skipped}")
            elif number == len(disk.images) - 1 and path.name != checkpoint_name(new.update):
                wrong.append(f"{kind}: lost after it was reported as saved")
    return 2 * len(disk.images), wrong


def test_the_power_goes_at_any_moment(copies: list[Checkpoint], tmp_path: Path, counted: Counted) -> None:
    folder = tmp_path / "checkpoints"
    checkpoint.write(folder, copies[0])
    num, wrong = power_cuts(folder, copies[1], tmp_path)
    assert wrong == []
    counted("R3", f"{num} states after a loss of power, un-fsynced bytes dropped: whole; the new one once reported")


@pytest.mark.parametrize("forgotten", ["files", "parent"])
def test_mutant_a_sync_that_is_left_out_is_seen(
    copies: list[Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    folder = tmp_path / "checkpoints"
    checkpoint.write(folder, copies[0])
    plain = files.sync
    skips: Callable[[Path], bool] = (lambda p: p.is_file()) if forgotten == "files" else (lambda p: p == folder)
    monkeypatch.setattr(files, "sync", lambda path: None if skips(path) else plain(path))
    assert power_cuts(folder, copies[1], tmp_path)[1]


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def swap(path: Path, rng: random.Random) -> None:
    """With the file of the same name in another checkpoint: a stale manifest, or another update's state."""
    other = path.parent.parent / checkpoint_name(rng.choice([1, 2])) / path.name
    path.write_bytes(other.read_bytes())


DAMAGES: tuple[Callable[[Path, random.Random], object], ...] = (
    flip,
    truncate,
    swap,
    lambda path, rng: path.write_bytes(b""),
    lambda path, rng: path.unlink(),
    lambda path, rng: path.write_bytes(rng.randbytes(path.stat().st_size)),
    lambda path, rng: path.write_text(rng.choice(["{}", "[]", "null", "1", '{"state.json": 1}'])),
)


def test_two_hundred_corruptions(copies: list[Checkpoint], tmp_path: Path, counted: Counted) -> None:
    whole = tmp_path / "whole"
    for copy in copies:
        checkpoint.write(whole, copy)
    rng = random.Random(4)
    names = (checkpoint.TENSORS, checkpoint.FACTS, "manifest.json")
    for number in range(200):
        folder = tmp_path / "damaged"
        shutil.copytree(whole, folder)
        last, name = folder / checkpoint_name(3), names[number % 3]
        if number % 20 == 19:  # a folder that took another's name
            shutil.rmtree(last)
            shutil.copytree(folder / checkpoint_name(2), last)
            name = "state.json"
        else:
            DAMAGES[number % len(DAMAGES)](last / name, rng)
        path, skipped = newest(folder)
        assert path == folder / checkpoint_name(2), (number, name)
        [said] = skipped
        assert said.startswith(checkpoint_name(3))
        assert name in said or "manifest.json" in said or name == "manifest.json", (number, said)
        shutil.rmtree(folder)
    counted("R4", "200 corruptions (flipped, cut, empty, missing, swapped, stale, renamed): all seen and named")


def test_nothing_starts_again_in_silence(copies: list[Checkpoint], tmp_path: Path, counted: Counted) -> None:
    session, state, feed = learner()
    folder = RunFolder(tmp_path, Silent(), Stop(print))
    for copy in copies:
        flip(checkpoint.write(tmp_path / "checkpoints", copy) / checkpoint.TENSORS, random.Random(0))
    with pytest.raises(RunError, match=re.escape("none of the checkpoints")) as refused:
        go_on(folder, session, state, feed)
    assert all(f"{checkpoint_name(c.update)}: state.safetensors" in str(refused.value) for c in copies)
    assert "remove that folder" in str(refused.value)
    counted("R4", "none whole: an error that names each, and what to do")


def test_a_checkpoint_of_other_settings_is_refused(copies: list[Checkpoint], tmp_path: Path) -> None:
    path = checkpoint.write(tmp_path, copies[0])
    session, state, feed = learner()
    state.lr = 2e-2
    with pytest.raises(RunError, match="another learning rate"):
        checkpoint.load(path, session, state, feed)


def test_order_comes_from_the_update(copies: list[Checkpoint], tmp_path: Path, counted: Counted) -> None:
    rng = random.Random(1)
    for copy in copies:
        checkpoint.write(tmp_path, copy)
    for _ in range(20):
        for path in tmp_path.rglob("*"):
            os.utime(path, (rng.randrange(2**32), rng.randrange(2**32)))
        assert newest(tmp_path) == (tmp_path / checkpoint_name(3), [])
    assert checkpoint.updates_in(tmp_path) == [3, 2, 1]
    (tmp_path / checkpoint_name(12_345_678)).mkdir()
    assert checkpoint.updates_in(tmp_path)[0] == 12_345_678
    counted("R13", "20 scrambles of all times of files: the newest by its update is used")


def test_what_is_never_rotated_away(copies: list[Checkpoint], tmp_path: Path, counted: Counted) -> None:
    rng = random.Random(2)
    for _ in range(500):
        whole = rng.sample(range(100), rng.randint(1, 12))
        best, pinned = rng.choice([None, *whole]), set(rng.sample(whole, rng.randint(0, len(whole))))
        most = rng.randint(0, 4)
        left = set(whole) - set(spent(whole, most, best, pinned))
        assert max(whole) in left
        assert pinned | ({best} - {None}) <= left
        assert len(left) <= max(1, most) + len(pinned) + 1
    saver = Saver(tmp_path, 1)
    saver._write(copies[0], None)
    (tmp_path / checkpoint_name(1) / checkpoint.PINNED).touch()
    for copy in copies[1:]:
        saver._write(copy, 2)
        saver.check()
    assert checkpoint.updates_in(tmp_path) == [3, 2, 1]  # the newest, the best, the pinned
    flip(tmp_path / checkpoint_name(3) / checkpoint.TENSORS, random.Random(0))
    Saver(tmp_path, 1)._write(copies[1], None)
    assert newest(tmp_path)[0] == tmp_path / checkpoint_name(2)  # the only whole one but for the pinned
    counted("R14", "500 rotations drawn at random: the newest, the best and the pinned stay")


def test_a_save_never_sees_later_weights(tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    session, state, feed = learner()
    train(session, state, feed, 2)
    expected = checkpoint.taken(session, state, feed)
    may_write = threading.Event()
    plain = checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *args: (may_write.wait(60), plain(*args))[1])
    saver = Saver(tmp_path, 2)
    saver.save(session, state, feed)
    train(session, state, feed, 5)  # while it waits
    for master in session.tenants["t"].masters.values():
        master.zero_()
    may_write.set()
    saver.wait()
    assert loads_as(tmp_path / checkpoint_name(2), expected)
    counted("R18", "3 updates and zeroed weights between a save and its writing: the checkpoint holds neither")


def test_where_memory_is_short_a_save_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there when the next update begins, and took no memory: what is written are the tensors that learn."""
    session, state, feed = learner()
    saver, plain, never = Saver(tmp_path, 2), checkpoint.write, threading.Event()
    shares: list[bool] = []

    def slow(folder: Path, made: Checkpoint) -> Path:
        theirs = {t.data_ptr() for t in session.tenants["t"].masters.values()}
        theirs |= {t.data_ptr() for kept in session.tenants["t"].optimizer.state.values() for t in kept.values()}
        shares.append(theirs == {t.data_ptr() for t in made.tensors.values()})
        never.wait(0.2)
        return plain(folder, made)

    monkeypatch.setattr(checkpoint, "write", slow)
    for waits in (False, True):
        session.freed = RETURNED if waits else KEPT
        train(session, state, feed, state.update + 1)
        saver.save(session, state, feed)
        assert (tmp_path / checkpoint_name(state.update)).is_dir() == waits
    assert saver.waited_s >= 0.2
    assert shares == [False, True]
    assert loads_as(tmp_path / checkpoint_name(state.update), checkpoint.taken(session, state, feed))


def test_a_failure_of_the_writer_surfaces(tmp_path: Path) -> None:
    session, state, feed = learner()
    (tmp_path / "taken").write_text("a file where the folder should be")
    saver = Saver(tmp_path / "taken", 2)
    saver.save(session, state, feed)
    with pytest.raises(OSError):
        saver.wait()
    saver.check()  # said once
