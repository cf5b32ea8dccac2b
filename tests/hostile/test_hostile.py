"""Hostile files by rule: each ends in one clear sentence, or is read as the clean file is.

Every field of every format below is missing, of another type or shape, extreme, NaN, deep or full of escape
codes. A hundred of the cases, the same ones every time, are the short form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.hostile.faults import Case, cases, sample
from tests.hostile.formats import FORMATS, Format, same

ALL = [(of, case) for of in FORMATS for case in cases(of.clean(), of.tensors, of.deep)]
LONGEST = 600  # characters of a sentence


def complaint(of: Format, case: Case, folder: Path) -> str:
    """What is wrong with how the program takes this file; "" for nothing."""
    clean, expected = known(of, folder)
    try:
        of.write(folder / of.file, case.content(clean))
    except (TypeError, ValueError, RecursionError, OverflowError):
        return ""  # no program could have written it
    try:
        found = of.read(folder / of.file)
    except (ValueError, OSError) as error:
        return unclear(str(error), of, case)
    except Exception as error:
        return f"a traceback: {type(error).__name__}: {error}"
    return "" if of.legal(case.path, case.fault) or same(found, expected) else "taken silently"


CLEAN: dict[str, tuple[Any, Any]] = {}


def known(of: Format, folder: Path) -> tuple[Any, Any]:
    """A format's clean content, and what its reader makes of it."""
    if of.name not in CLEAN:
        clean = of.clean()
        of.write(folder / of.file, clean)
        CLEAN[of.name] = clean, of.read(folder / of.file)
    return CLEAN[of.name]


def unclear(sentence: str, of: Format, case: Case) -> str:
    if not sentence.isprintable():
        return f"prints what a terminal acts on: {sentence!r}"
    if of.file not in sentence and case.path and of.name != "settings":
        return f"does not name the file: {sentence}"
    if len(sentence) > LONGEST:
        return f"takes {len(sentence)} characters: {sentence[:100]} ..."
    names = [key for key in case.path if isinstance(key, str)]
    names += ["task"] * (case.path[:2] == ("data", "tasks"))  # their names are looked up as tasks
    if "deep" in case.fault and ("too deep" in sentence or "not valid" in sentence):
        return ""  # such a file has no fields: nothing could read so far
    if names and not any(name in sentence for name in names):
        return f"does not name the field: {sentence}"
    return ""


def complaints(chosen: list[tuple[Format, Case]], folder: Path) -> list[str]:
    found = [(of, case, complaint(of, case, folder)) for of, case in chosen]
    return [f"{of.name}, {case.name}: {wrong}" for of, case, wrong in found if wrong]


SLOW_TO_READ = 4  # cases of a format that takes a tenth of a second each in the short form


def short_form() -> list[tuple[Format, Case]]:
    """A hundred cases of all formats, always the same ones; fewer where reading is slow."""
    slow, quick = [], []
    for of in FORMATS:
        own = [pair for pair in ALL if pair[0] is of]
        if of.tensors or of.name in ("settings", "sparse"):
            slow += sample(own, SLOW_TO_READ, seed=0)
        else:
            quick += own
    return slow + sample(quick, 100 - len(slow), seed=0)


def test_a_sample_of_hostile_files(tmp_path):
    chosen = short_form()
    assert len(chosen) == 100 and not complaints(chosen, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("of", FORMATS, ids=lambda of: of.name)
def test_hostile_files(of, tmp_path):
    assert not complaints([(other, case) for other, case in ALL if other is of], tmp_path)


def test_there_are_enough_of_them():
    assert len(ALL) >= 1000 and len({of.name for of, _ in ALL}) == len(FORMATS)
