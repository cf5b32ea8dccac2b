"""Builds the sparse convolution (csrc/) at first use and keeps it in the user's cache folder.

The folder's name holds a digest of the sources, PyTorch's version and the vector instructions, so nothing
stale is ever loaded. Without a compiler the caller falls back to dense convolutions.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

NAME = "sparse_conv"
LIBRARY = f"{NAME}.so"
SOURCES = Path(__file__).with_name("csrc")
_INSTRUCTIONS = {  # as torch names them -> what the compiler is told
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mf16c"),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
}


def cache_folder() -> Path:
    """Where the built engine lies: below TORCH_EXTENSIONS_DIR if that is set, else the user cache folder."""
    root = (
        os.environ.get("TORCH_EXTENSIONS_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    )
    digest = hashlib.sha256(
        "".join([torch.__version__, platform.python_version(), platform.machine(), *_flags()]).encode()
    )
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    return Path(root) / "disparse" / f"{NAME}_{digest.hexdigest()[:16]}"


def _flags() -> list[str]:
    capability = torch.backends.cpu.get_cpu_capability()
    flags = ["-O3", "-fopenmp", "-ffp-contract=fast"]
    if capability == "AVX512" and torch.cpu._is_avx512_bf16_supported():
        flags.append("-mavx512bf16")
    if capability in _INSTRUCTIONS:
        flags += [
            *_INSTRUCTIONS[capability],
            f"-DCPU_CAPABILITY_{capability}",
            f"-DCPU_CAPABILITY={capability}",
        ]
    return flags


def _compile(folder: Path) -> None:
    """Writes the shared library into `folder`, whole or not at all."""
    from torch.utils.cpp_extension import load

    folder.mkdir(parents=True, exist_ok=True)
    path, jobs = os.environ.get("PATH", ""), os.environ.get("MAX_JOBS")
    # ninja installed into this environment is found even where the environment is not activated
    os.environ["PATH"] = os.pathsep.join([path, str(Path(sys.executable).parent)])
    os.environ["MAX_JOBS"] = "1"
    try:
        with tempfile.TemporaryDirectory(dir=folder) as workshop:
            load(
                NAME,
                [str(SOURCES / "sparse_conv.cpp")],
                extra_cflags=_flags(),
                extra_ldflags=["-fopenmp"],
                build_directory=workshop,
                is_python_module=False,
            )
            next(Path(workshop).glob("*.so")).replace(folder / LIBRARY)
    finally:
        os.environ["PATH"] = path
        if jobs is None:
            del os.environ["MAX_JOBS"]
        else:
            os.environ["MAX_JOBS"] = jobs


def _load(library: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(NAME, library)
    if spec is None or spec.loader is None:
        raise ImportError(f"{library} is no extension module of this Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def sparse_engine() -> ModuleType | None:
    """The compiled module with its class SparseConv, or None (said once) where it cannot be built."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        warnings.warn(
            f"no C++ compiler '{compiler}': the sparse engine runs dense convolutions", stacklevel=2
        )
        return None
    folder = cache_folder()
    try:
        if not (folder / LIBRARY).exists():
            print(f"building the sparse engine once into {folder} (about half a minute)", file=sys.stderr)
            _compile(folder)
        return _load(folder / LIBRARY)
    except (RuntimeError, OSError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        warnings.warn(
            f"the sparse engine cannot be built ({reason}): it runs dense convolutions", stacklevel=2
        )
        return None
