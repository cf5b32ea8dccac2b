"""Files that are written whole or not at all (`replacing` lives in the library, which needs it too)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from prune_utils.files import PARTIAL, remove_partial, replacing

__all__ = ["PARTIAL", "read_json", "remove_partial", "replacing", "write_json"]


def read_json(path: Path) -> Any:
    """What a JSON file holds (a byte order mark is passed over).

    OSError where it cannot be opened, ValueError for anything but JSON.
    """
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
