"""Builds the sparse convolution (csrc/) at first use and keeps it in the user's cache folder.

A module that was built before and installed as a package (wheel.py) is taken instead. Names of modules hold
a digest of the sources, the vector instructions and what a wheel is pinned to (PyTorch's version and Python's
minor one), so nothing stale is ever loaded.
Without a compiler the caller falls back to dense convolutions.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from ..text import first_line

NAME = "sparse_conv"
LIBRARY = f"{NAME}.so"
PACKAGE = "disparse_engine"  # of a wheel with engines that were built before
SOURCES = Path(__file__).with_name("csrc")
_INSTRUCTIONS = {  # as torch names them -> what the compiler is told
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mf16c"),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
}


class Variant(NamedTuple):
    """A set of vector instructions. capability: as torch names it. bf16: AVX512-BF16 as well."""

    capability: str
    bf16: bool = False

    @property
    def flags(self) -> list[str]:
        """What the compiler is told."""
        named = [f"-DCPU_CAPABILITY_{self.capability}", f"-DCPU_CAPABILITY={self.capability}"]
        chosen = [*_INSTRUCTIONS[self.capability], *named] if self.capability in _INSTRUCTIONS else []
        return ["-O3", "-fopenmp", "-ffp-contract=fast", *(["-mavx512bf16"] if self.bf16 else []), *chosen]

    @property
    def module(self) -> str:
        """The module's name, without its suffix: it tells all that its code depends on."""
        known = [*needed(), str(torch.compiled_with_cxx11_abi()), platform.machine(), *self.flags]
        digest = hashlib.sha256(" ".join(known).encode())
        for source in sorted(SOURCES.iterdir()):
            digest.update(source.read_bytes())
        return f"{NAME}_{digest.hexdigest()[:16]}"


def needed() -> tuple[str, str]:
    """The versions that a module is built for: PyTorch's without its build ("+cpu"), Python's minor one."""
    return torch.__version__.split("+")[0], ".".join(platform.python_version_tuple()[:2])


def variant_here() -> Variant:
    """The instructions that torch uses on this processor."""
    capability = torch.backends.cpu.get_cpu_capability()
    return Variant(capability, capability == "AVX512" and torch.cpu._is_avx512_bf16_supported())


def cache_folder() -> Path:
    """Where the engine built here lies: below TORCH_EXTENSIONS_DIR, or else the user's cache folder."""
    root = (
        os.environ.get("TORCH_EXTENSIONS_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    )
    return Path(root) / "disparse" / variant_here().module


def installed() -> Path | None:
    """The engine for this processor in an installed package, None (said) where that has none that fits."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None:
        return None
    for folder in found.submodule_search_locations or ():
        library = Path(folder) / f"{variant_here().module}.so"
        if library.is_file():
            return library
    pytorch, python = needed()
    warnings.warn(
        f"the installed package {PACKAGE} has no module for this library with PyTorch {pytorch}, "
        f"Python {python} and {variant_here().capability}: it is not used",
        stacklevel=2,
    )
    return None


def compile_engine(folder: Path, variant: Variant, name: str = LIBRARY) -> Path:
    """Writes the shared library into `folder`, whole or not at all; RuntimeError or OSError."""
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
                extra_cflags=variant.flags,
                extra_ldflags=["-fopenmp"],
                build_directory=workshop,
                is_python_module=False,
            )
            return next(Path(workshop).glob("*.so")).replace(folder / name)
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
    try:
        return _load(installed() or _built())
    except (RuntimeError, OSError, ImportError) as error:
        warnings.warn(
            f"the sparse engine cannot be built ({first_line(error)}): it runs dense convolutions",
            stacklevel=2,
        )
        return None


def _built() -> Path:
    """The engine in the cache folder, compiled now where it is not there yet; RuntimeError or OSError."""
    folder = cache_folder()
    library = folder / LIBRARY
    if library.exists():
        return library
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(_program(compiler)) is None:
        raise RuntimeError(f"no C++ compiler '{compiler}'")
    print(f"building the sparse engine once into {folder} (about half a minute)", file=sys.stderr)
    return compile_engine(folder, variant_here())


def _program(command: str) -> str:
    """What a command runs, such as ccache of "ccache g++"."""
    try:
        return next(iter(shlex.split(command)), command)
    except ValueError:  # an open quote
        return command
