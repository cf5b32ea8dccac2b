"""The engine as a wheel: compiled once, installed where there is no compiler.

    python3 -m prune_utils.deploy.wheel DIR

The wheel `disparse_engine` holds a module for every set of vector instructions of this machine's kind of
processor; the library takes the one that the processor at hand has. It belongs to this version of PyTorch, in
any build, to this minor version of Python and to this library, which says so where it does not fit.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..text import first_line
from .build import PACKAGE, Variant, compile_engine, needed

VARIANTS = {  # machine -> what its processors may have
    "x86_64": (Variant("AVX2"), Variant("AVX512"), Variant("AVX512", bf16=True)),
    "aarch64": (Variant("DEFAULT"),),
}
SETUP = """from setuptools import Distribution, setup


class Compiled(Distribution):
    def has_ext_modules(self):
        return True


setup(
    name="{name}",
    version="{version}",
    description="The CPU engine of disparse for unstructured sparsity, compiled",
    packages=["{package}"],
    package_data={{"{package}": ["*.so"]}},
    install_requires=["torch=={torch}"],
    python_requires=">={python},<{next}",
    distclass=Compiled,
)
"""


def write_wheel(dest: Path, variants: Sequence[Variant] | None = None) -> Path:
    """Compile the variants (None = all of this machine's kind) and write the wheel into a folder.

    ValueError in one sentence where something cannot be compiled or packed.
    """
    chosen = VARIANTS.get(platform.machine(), (Variant("DEFAULT"),)) if variants is None else variants
    dest.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "source" / PACKAGE
        package.mkdir(parents=True)
        (package / "__init__.py").write_text('"""Compiled engines, which prune_utils.deploy loads."""\n')
        for variant in chosen:
            print(
                f"compiling for {variant.capability}{' with bf16' if variant.bf16 else ''}", file=sys.stderr
            )
            try:
                compile_engine(package, variant, f"{variant.module}.so")
            except (RuntimeError, OSError) as error:
                raise ValueError(
                    f"the engine cannot be compiled for {variant.capability}: {first_line(error)}"
                ) from error
        return _packed(package.parent, dest)


def _packed(source: Path, dest: Path) -> Path:
    major, minor = sys.version_info[:2]
    words = {"name": PACKAGE.replace("_", "-"), "version": __version__, "package": PACKAGE}
    pytorch, python = needed()
    (source / "setup.py").write_text(
        SETUP.format(**words, torch=pytorch, python=python, next=f"{major}.{minor + 1}")
    )
    before = set(dest.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "--quiet", "-w", str(dest)], capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise ValueError(f"pip wheel failed: {lines[-1]} (it needs setuptools: pip install setuptools)")
    made = sorted(set(dest.glob(f"{PACKAGE}-{__version__}-*.whl")), key=lambda path: path.stat().st_mtime)
    return (sorted(set(made) - before) or made)[-1]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python3 -m prune_utils.deploy.wheel",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dest", metavar="DIR", type=Path, help="folder for the wheel, made if missing")
    asked = parser.parse_args(words)
    print(write_wheel(asked.dest))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
