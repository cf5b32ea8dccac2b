"""Files that are written whole or not at all (`replacing` lives in the library, which needs it too)."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from prune_utils.files import PARTIAL, remove_partial, replacing

__all__ = [
    "PARTIAL",
    "check_apart",
    "check_file",
    "check_folder",
    "read_json",
    "remove_partial",
    "replacing",
    "write_json",
]


def check_folder(folder: str | Path, said: str) -> None:
    """OSError unless files can be written to a folder, which may still have to be made.

    said: how the user named it, e.g. "--dest".
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(f"{said} {folder} cannot be a folder: {place} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"{said} {folder} cannot be written: no permission for {place}")


def check_file(path: str | Path, said: str) -> None:
    """OSError unless a file of this name can be written, or written anew."""
    if Path(path).is_dir():
        raise IsADirectoryError(f"{said} {path} is a folder, not the name of a file")
    try:
        check_folder(Path(path).parent, "its folder")
    except OSError as error:
        raise type(error)(f"{said} {path} cannot be written: {error}") from None


def check_apart(
    path: str | Path | None, said: str, *sources: str | Path | None, what: str = "the network itself"
) -> None:
    """ValueError where a file to be written is one that is read; None = not asked, nor is the path "". what:
    the sources are."""
    if not path:
        return
    for source in (source for source in sources if source is not None):
        if Path(path).exists() and Path(source).exists() and Path(path).samefile(source):
            raise ValueError(f"{said} {path} is {what}, which would be lost: name another file")


def read_json(path: Path) -> Any:
    """What a JSON file holds (a byte order mark is passed over).

    OSError where it cannot be opened, ValueError for anything but JSON.
    """
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):  # reading would never end
        raise ValueError(f"{path} is not a JSON file: it is a pipe, a socket or a device")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError(f"{path} is not a JSON file: its lists and objects are nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from None


def write_json(path: Path, content: dict[str, Any]) -> Path:
    """Strict JSON: nan and infinity become null, tuples lists. OSError names the file."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
