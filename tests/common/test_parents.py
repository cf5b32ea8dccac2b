"""A child that outlives nobody."""

import multiprocessing
import time

import pytest

from common.parents import end_with_parent


def child(pipe):
    end_with_parent()
    pipe.send("ready")
    time.sleep(60)


def parent(way, pipe):
    multiprocessing.get_context(way).Process(target=child, args=(pipe,)).start()
    time.sleep(60)


@pytest.mark.parametrize("way", ["fork", "forkserver"])
def test_a_child_ends_when_its_parent_is_killed(way):
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=parent, args=(way, theirs))
    process.start()
    theirs.close()
    assert ours.poll(60) and ours.recv() == "ready"
    process.kill()
    process.join()
    assert ours.poll(60)  # closed at its other end: nobody is left
    with pytest.raises(EOFError):
        ours.recv()


def test_a_process_that_nobody_started_goes_on():
    end_with_parent()
