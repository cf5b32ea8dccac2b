"""Which compiled engine is loaded: what its name tells, and an installed package that has none that fits."""

import platform
import sys
import warnings

import pytest
import torch

from prune_utils.deploy import build
from prune_utils.deploy.build import PACKAGE, installed, variant_here


@pytest.mark.parametrize(
    ("python", "pytorch", "fits"),
    [
        (("3", "11", "7"), "2.14.1", True),
        (("3", "11", "9"), "2.14.1+cu130", True),
        (("3", "12", "7"), "2.14.1", False),
        (("3", "11", "7"), "2.14.0", False),
    ],
)
def test_a_module_fits_what_pip_takes_its_wheel_for(monkeypatch, python, pytorch, fits):
    """Any patch version of Python's minor one, any build of PyTorch's version (wheel.py)."""
    monkeypatch.setattr(platform, "python_version_tuple", lambda: ("3", "11", "2"))
    monkeypatch.setattr(torch, "__version__", "2.14.1+cpu")
    module = variant_here().module
    monkeypatch.setattr(platform, "python_version_tuple", lambda: python)
    monkeypatch.setattr(torch, "__version__", pytorch)
    assert (variant_here().module == module) == fits


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of an installed package."""
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    return folder


def test_an_installed_package_without_a_module_that_fits_says_so_once(package, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    build.sparse_engine.cache_clear()
    try:
        with pytest.warns(UserWarning) as said:
            assert build.sparse_engine() is None and build.sparse_engine() is None
    finally:
        build.sparse_engine.cache_clear()
    lines = [str(warning.message) for warning in said if PACKAGE in str(warning.message)]
    assert len(lines) == 1 and lines[0].startswith("the installed package disparse_engine has no module for ")


@pytest.fixture
def nothing_built(monkeypatch, tmp_path):
    """No engine is installed, nor in the cache; the one that the tests use is forgotten meanwhile."""
    monkeypatch.setattr(build, "installed", lambda: None)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    build.sparse_engine.cache_clear()
    yield
    build.sparse_engine.cache_clear()


@pytest.mark.parametrize("error", [RuntimeError("no home\nhere"), RuntimeError(), OSError(28, "No space")])
def test_what_cannot_be_built_is_dense_and_says_why(nothing_built, monkeypatch, error):
    def fails():
        raise error

    monkeypatch.setattr(build, "cache_folder", fails)
    reason = {"": "RuntimeError"}.get(str(error), str(error).partition("\n")[0])
    with pytest.warns(UserWarning) as said:
        assert build.sparse_engine() is None
    line = f"the sparse engine cannot be built ({reason}): it runs dense convolutions"
    assert [str(warning.message) for warning in said] == [line]


@pytest.mark.parametrize(
    ("command", "found"),
    [(f"{sys.executable} g++", True), ("no-such gcc", False), ("'open", False), ("", False)],
)
def test_a_compiler_may_be_called_with_words(nothing_built, monkeypatch, command, found):
    asked = []

    def compiled(folder, variant):
        asked.append(folder)
        raise RuntimeError("tried")

    monkeypatch.setattr(build, "compile_engine", compiled)
    monkeypatch.setenv("CXX", command)
    with pytest.warns(UserWarning, match="tried" if found else rf"no C\+\+ compiler '{command}'"):
        assert build.sparse_engine() is None
    assert bool(asked) == found


def test_what_fits_is_taken_and_nothing_is_said(package):
    (package / f"{variant_here().module}.so").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert installed() == package / f"{variant_here().module}.so"
