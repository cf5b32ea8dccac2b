"""What a worker sets up for itself leaves results alone and works on any system."""

import ctypes

import cv2

from dataloaders import workers


def test_prepare_takes_one_thread():
    before = cv2.getNumThreads()
    try:
        workers.prepare(0)
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)


def test_other_c_libraries_are_left_alone(monkeypatch):
    asked = []

    def library(name):
        asked.append(name)
        return object()

    monkeypatch.setattr(ctypes, "CDLL", library)
    workers.keep_freed_memory()
    assert asked == [None]
