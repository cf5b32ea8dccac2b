"""A lock that dies with its process."""

import json
import multiprocessing
import os
import signal
import socket
import time

import pytest

from common import lock
from common.lock import Held, locked

CONTEXT = multiprocessing.get_context("fork")


def hold(folder, ready):
    with locked(folder, "a"):
        ready.set()
        time.sleep(60)


def holder(folder):
    """A process that holds the lock and does not let go."""
    ready = CONTEXT.Event()
    child = CONTEXT.Process(target=hold, args=(folder, ready))
    child.start()
    assert ready.wait(30)
    return child


def test_the_second_is_told_who_holds_it_and_the_file_goes(tmp_path):
    child = holder(tmp_path)
    try:
        words = rf"a is in use by process {child.pid} on {socket.gethostname()} since \d{{4}}-.*--dest"
        with pytest.raises(Held, match=words), locked(tmp_path, "a"):
            pass
        with locked(tmp_path, "b"):
            assert (tmp_path / ".b.lock").exists()
        assert not (tmp_path / ".b.lock").exists()
    finally:
        child.kill()
        child.join()


def test_a_killed_holder_is_taken_over_at_once(tmp_path):
    child = holder(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert json.loads((tmp_path / ".a.lock").read_text())["pid"] == child.pid
    with locked(tmp_path, "a"):
        assert json.loads((tmp_path / ".a.lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_does_not_keep_what_its_dead_parent_held(tmp_path):
    def parent(pipe):
        with locked(tmp_path, "a"):
            worker = os.fork()
            if not worker:
                time.sleep(60)
            pipe.send(worker)
            time.sleep(60)

    ours, theirs = CONTEXT.Pipe()
    child = CONTEXT.Process(target=parent, args=(theirs,))
    child.start()
    worker = ours.recv()
    child.kill()
    child.join()
    try:
        with locked(tmp_path, "a"):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_process_does_not_hold_a_lock_twice_and_frees_it_after_an_error(tmp_path):
    with locked(tmp_path, "a"), pytest.raises(Held), locked(tmp_path, "a"):
        pass
    with pytest.raises(RuntimeError), locked(tmp_path, "a"):
        raise RuntimeError
    with locked(tmp_path, "a"):
        pass


def test_another_host_is_believed_while_its_heart_beats(tmp_path):
    path = tmp_path / ".a.lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "since": "2030-01-01 00:00:00"}))
    with pytest.raises(Held, match="process 7 on elsewhere since 2030"), locked(tmp_path, "a"):
        pass
    old = time.time() - lock.STALE - 5
    os.utime(path, (old, old))
    with locked(tmp_path, "a"):
        assert json.loads(path.read_text())["host"] == socket.gethostname()


def test_what_a_file_says_of_its_holder_reaches_no_terminal(tmp_path):
    said = {"host": "\x1b[31mred\n" + 200 * "x", "pid": 7, "since": "now\nerror: all is well"}
    (tmp_path / ".a.lock").write_text(json.dumps(said))
    with pytest.raises(Held) as error, locked(tmp_path, "a"):
        pass
    assert str(error.value).isprintable() and "process 7 on \\x1b[31mred" in str(error.value)
    assert len(str(error.value)) < 300


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    path = tmp_path / ".a.lock"
    with locked(tmp_path, "a"):
        os.utime(path, (0, 0))
        until = time.monotonic() + 30
        while path.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", '{"host": 1}', '{"host": "x", "pid": 1, "y": 1}', "[" * 4000,
        '{"host": "x", "pid": "1", "since": "now"}', '{"host": "x", "pid": 1, "since": {}}',
    ],
)  # fmt: skip
def test_a_file_that_nobody_wrote_holds_nothing(tmp_path, content):
    (tmp_path / ".a.lock").write_text(content)
    with locked(tmp_path, "a"):
        pass


def race(folder, start, counts):
    """Add 1 to a number in a file under the lock, as fast as the other process does."""
    wins = 0
    while wins < 50:
        start.wait()
        try:
            with locked(folder, "a"):
                path = folder / "number"
                before = int(path.read_text())
                time.sleep(0.001)
                path.write_text(str(before + 1))
                wins += 1
        except Held:
            time.sleep(0.0005)
    counts.put(wins)


def test_of_two_that_race_one_wins_each_time(tmp_path):
    (tmp_path / "number").write_text("0")
    start, counts = CONTEXT.Event(), CONTEXT.Queue()
    children = [CONTEXT.Process(target=race, args=(tmp_path, start, counts)) for _ in range(2)]
    for child in children:
        child.start()
    start.set()
    for child in children:
        child.join(120)
    assert [counts.get(timeout=10) for _ in children] == [50, 50]
    assert (tmp_path / "number").read_text() == "100"  # nobody was inside with another


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with locked(tmp_path / "x" / "y", "a"):
        assert (tmp_path / "x" / "y" / ".a.lock").exists()
    assert not (tmp_path / "x").exists()
    with locked(tmp_path / "x" / "y", "a"):
        (tmp_path / "x" / "mine").write_text("")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file", "a"):
        pass
