"""Hostile files by rule: each ends in one clear sentence, or is read as the clean file is.

Every field of every format below is missing, of another type or shape, extreme, NaN, deep or full of escape
codes. A hundred of the cases, the same ones every time, are the short form. All of them, with what came of
them (-s), and one format alone:

    python3 -m pytest -m "" -s tests/hostile
    python3 -m pytest -m "" -s tests/hostile -k "hostile_files and cache"
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import checkpoints, evaluated, formats, locks, planes
from tests.hostile.faults import Case, sample
from tests.hostile.formats import Format, same

FORMATS = (*formats.FORMATS, *evaluated.FORMATS, *planes.FORMATS, *checkpoints.FORMATS, *locks.FORMATS)
LONGEST = 600  # characters of a sentence
# no program could write it; refused by a good sentence; read as the clean file; read otherwise, and no fault
ENDS = ("not written", "refused", "as clean", "no fault")


@cache
def every(of: Format) -> Sequence[Case]:
    return of.cases()


def end_of(of: Format, case: Case, folder: Path) -> str:
    """One of ENDS, or what is wrong with how the program takes this file."""
    clean, expected = known(of, folder)
    try:
        of.write(folder / of.file, case.content(clean))
    except (TypeError, ValueError, RecursionError, OverflowError, struct.error):
        return "not written"
    try:
        found = of.read(folder / of.file)
    except (ValueError, OSError) as error:
        return unclear(str(error), of, case) or "refused"
    except Exception as error:
        return f"a traceback: {type(error).__name__}: {error}"
    if same(found, expected):
        return "as clean"
    return "no fault" if of.legal(case.path, case.fault) else "taken silently"


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
    if (of.said or of.file) not in sentence and case.path and of.name != "settings":
        return f"does not name the file: {sentence}"
    if len(sentence) > LONGEST:
        return f"takes {len(sentence)} characters: {sentence[:100]} ..."
    names = list(of.words(case))
    names += ["task"] * (case.path[:2] == ("data", "tasks"))  # their names are looked up as tasks
    if "deep" in case.fault and ("too deep" in sentence or "not valid" in sentence):
        return ""  # such a file has no fields: nothing could read so far
    if names and not any(name in sentence for name in names):
        return f"does not name the field: {sentence}"
    return ""


def judged(chosen: Sequence[tuple[Format, Case]], folder: Path) -> tuple[Counter, list[str]]:
    """How many cases came to each end, and the complaints."""
    ends, complaints = Counter(dict.fromkeys(ENDS, 0)), []
    for of, case in chosen:
        place = folder / str(FORMATS.index(of))
        place.mkdir(exist_ok=True)
        end = end_of(of, case, place)
        if end in ENDS:
            ends[end] += 1
        else:
            complaints.append(f"{of.name}, {case.name}: {end}")
    return ends, complaints


SLOW_TO_READ = 2  # cases of a format that takes a tenth of a second each in the short form


def short_form() -> list[tuple[Format, Case]]:
    """A hundred cases of all formats, always the same ones; few where reading is slow."""
    slow, quick = [], []
    for of in (of for of in FORMATS if of.quick_to_make):
        own = [(of, case) for case in every(of)]
        if of.slow:
            slow += sample(own, SLOW_TO_READ, seed=0)
        else:
            quick += own
    return slow + sample(quick, 100 - len(slow), seed=0)


def test_a_sample_of_hostile_files(tmp_path):
    chosen = short_form()
    ends, complaints = judged(chosen, tmp_path)
    assert len(chosen) == 100 and not complaints
    assert ends["not written"] < 20


@pytest.mark.slow
@pytest.mark.parametrize("of", FORMATS, ids=lambda of: of.name)
def test_hostile_files(of, tmp_path):
    begin = time.monotonic()
    ends, complaints = judged([(of, case) for case in every(of)], tmp_path)
    told = ", ".join(f"{number} {end}" for end, number in ends.items())
    seconds = time.monotonic() - begin
    print(f"{of.name}: {len(every(of))} cases: {told}, {len(complaints)} complaints; {seconds:.0f} s")
    assert not complaints
    assert ends["refused"] or of.name in ("lock", "times")  # else it is not the file that is read
    assert ends["refused"] + ends["as clean"] + ends["no fault"] > len(every(of)) / 2


def test_there_are_enough_of_them():
    assert len({of.name for of in FORMATS}) == len(FORMATS)
    assert sum(len(every(of)) for of in FORMATS if of.quick_to_make) >= 5000
