"""Freed memory goes back to the system: making an engine takes many times what the engine holds."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back() -> None:
    """Return what was freed, where the C library can be asked to (glibc); elsewhere it decides by itself."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
