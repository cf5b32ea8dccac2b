"""Lists of numbers and seeds as they stand on a command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def parse_numbers(flag: str, text: str, kind: type[Number]) -> list[Number]:
    """'1,2' -> [1, 2]. ValueError names the flag, unless they are different numbers of at least 0."""
    try:
        found = [kind(word) for word in text.split(",") if word.strip()]
    except ValueError:
        found = []
    if not found or len(set(found)) < len(found) or not all(number >= 0 for number in found):
        needs = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{flag} needs different {needs}, separated by commas, not '{text}'")
    return found


def parse_seeds(text: str, first: int = 0) -> list[int]:
    """'3' -> three seeds from the first on; '1,5' -> these two; '4,' -> this one. ValueError as above."""
    found = parse_numbers("--seeds", text, int)
    if "," in text:
        return found
    if not found[0]:
        raise ValueError("--seeds 0 asks for no seed at all")
    return list(range(first, first + found[0]))


def seeds_text(seeds: Iterable[int]) -> str:
    """What `parse_seeds` reads as exactly these: '1,5', and '4,' for one."""
    text = ",".join(map(str, seeds))
    return text if "," in text else f"{text},"
