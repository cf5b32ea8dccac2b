"""A setting that nobody reads would be a promise that nobody keeps."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from configs.schema import Config

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("workflow", "dataloaders", "prune_utils", "training")
SETTINGS = [
    (section, field.name)
    for section, kind in get_type_hints(Config).items()
    if is_dataclass(kind)
    for field in fields(kind)
]


@pytest.fixture(scope="module")
def source():
    return "\n".join(path.read_text() for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))


@pytest.mark.parametrize("section, field", SETTINGS)
def test_setting_is_read(section, field, source):
    holders = rf"(?:config\.{section}|{section}|config|settings|data|model|run|length)"
    assert re.search(rf"\b{holders}\.{field}\b", source), f"{section}.{field} is read nowhere"
