"""Optional packages, asked for where they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def need(name: str) -> ModuleType:
    """The package, or a ValueError that says how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        name = package.replace("_", "-")
        raise ValueError(f"this needs the package {package}: python3 -m pip install {name}") from error
