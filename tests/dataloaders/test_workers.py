"""What a worker sets up for itself leaves results alone and works on any system."""

import ctypes
import os
import signal

import cv2
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from configs.schema import Data
from dataloaders import workers
from dataloaders.streams import evaluation_batches
from tests.dataloaders.small import nyuv2
from tests.dataloaders.test_cache import opened


def test_prepare_takes_one_thread():
    before = cv2.getNumThreads()
    try:
        workers.prepare(0)
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)


def test_without_processes_as_many_threads_as_pytorch_takes(tmp_path):
    before, threads = cv2.getNumThreads(), torch.get_num_threads()
    data = Data(dataset="nyuv2", root=str(nyuv2(tmp_path)), classes=40, tasks=("seg",), num_workers=0)
    records = opened(data)
    try:
        torch.set_num_threads(1)
        evaluation_batches(records, data)
        assert cv2.getNumThreads() == 1
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(before)


def test_other_c_libraries_are_left_alone(monkeypatch):
    asked = []

    def library(name):
        asked.append(name)
        return object()

    monkeypatch.setattr(ctypes, "CDLL", library)
    workers.keep_freed_memory()
    assert asked == [None]


class Deadly(Dataset):
    """The process that fetches item 3 is killed."""

    def __len__(self):
        return 8

    def __getitem__(self, place):
        if place == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return place


def test_a_killed_process_is_one_sentence():
    before = signal.getsignal(signal.SIGCHLD)
    loader = DataLoader(Deadly(), batch_size=1, num_workers=1)
    with pytest.raises(
        OSError, match=r"^a loader process was ended by signal 9, .* use fewer loader processes"
    ):
        list(workers.parcels(loader))
    assert signal.getsignal(signal.SIGCHLD) in (before, signal.SIG_DFL)


@pytest.mark.parametrize(
    "said",
    [
        "unable to open shared memory object </torch_7_1> in read-write mode: Read-only file system (30)",
        "unable to write to file </torch_7_1_0>: No space left on device (28)",
    ],
)
def test_no_shared_memory_is_one_sentence(said):
    def loader():
        yield 1
        raise RuntimeError(said)

    with pytest.raises(OSError, match=r"^shared memory \(/dev/shm\) is too small, full or cannot be written"):
        list(workers.parcels(loader()))


def test_other_errors_stay_what_they_are():
    def loader():
        yield 1
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(workers.parcels(loader()))
