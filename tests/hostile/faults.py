"""Hostile values by rule: for every field of a nested value, what it may be replaced by.

A field is a path of keys and places. `cases` names each fault, so that a failing one can be repeated alone:
"state/heads.seg.0.conv1.weight: NaN". Leaves out damage to bytes, which tests of the readers hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Path = tuple[Any, ...]
FORGED = "\x1b[31mred\nerror: all is well"
DEEP = 3000  # more levels than Python's stack has
MISSING = object()


@dataclass(frozen=True)
class Case:
    """One fault: the field, its name, and the value that stands there instead."""

    path: Path
    fault: str
    value: Any

    @property
    def name(self) -> str:
        return f"{'/'.join(map(str, self.path))}: {self.fault}"

    def content(self, clean: Any) -> Any:
        """The clean content with this fault."""
        if not self.path:
            return self.value
        content = copied(clean)
        place = content
        for key in self.path[:-1]:
            place = place[key]
        if self.value is MISSING:
            del place[self.path[-1]]
        else:
            place[self.path[-1]] = self.value
        return content


@dataclass(frozen=True)
class Raw(Case):
    """One fault of a file that is no nested value: `value` is the whole file, `path` where it is wrong."""

    def content(self, clean: Any) -> Any:
        return self.value


def copied(value: Any) -> Any:
    """The same containers anew, with the same leaves in them."""
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    return [copied(part) for part in value] if isinstance(value, list) else value


def nested(depth: int, kind: type) -> Any:
    """Lists in lists, or dictionaries in dictionaries."""
    value: Any = kind()
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


def fields(value: Any, below: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field with its value, outer ones first; of long lists the first two, of many tensors one a kind.

    Readers treat the tensors of a state dict alike, so one of each kind and number of dimensions stands for
    all of them; the last one of the dictionary is looked at too.
    """
    yield below, value
    parts = list(value.items()) if isinstance(value, dict) else []
    if len(parts) > 8 and all(isinstance(part, torch.Tensor) for _, part in parts):
        kinds = {(part.dtype, part.ndim): (key, part) for key, part in reversed(parts)}
        parts = list(kinds.values()) + [
            part for part in parts[-1:] if part[0] not in {key for key, _ in kinds.values()}
        ]
    if len(parts) > 8 and all(isinstance(part, dict) for _, part in parts):  # one of each kind, as of tensors
        parts = list({str(sorted(part)): (key, part) for key, part in parts}.values())
    parts = list(enumerate(value))[:2] if isinstance(value, list | tuple) else parts
    for key, part in parts:
        yield from fields(part, (*below, key))


def cases(clean: Any, tensors: bool = False, deep: int = DEEP) -> list[Case]:
    """Every fault of every field of the content; the content as a whole is replaced too."""
    found = []
    for path, value in fields(clean):
        if path and not isinstance(path[-1], int):  # a list without one of its parts is another good list
            found.append(Case(path, "missing", MISSING))
        if isinstance(value, torch.Tensor):
            found += [Case(path, name, bad) for name, bad in bad_tensors(value).items()]
        found += [Case(path, name, bad) for name, bad in bad_values(value, tensors, deep).items()]
    return found


def bad_values(value: Any, tensors: bool, deep: int) -> dict[str, Any]:
    """Plain values of other types, extreme ones, deep ones, and texts that terminals act on."""
    found = {
        "nothing": None,
        "a text": "text",
        "an empty text": "",
        "escape codes": FORGED,
        "true": True,
        "a negative number": -1,
        "a fraction": 0.5,
        "a huge number": 10**30,
        "NaN": float("nan"),
        "infinity": float("inf"),
        "an empty list": [],
        "an empty dictionary": {},
        "a list of lists": [[1], [2]],
        "deep lists": nested(deep, list),
        "deep dictionaries": nested(deep, dict),
    }
    if tensors:
        found["a tensor"] = torch.ones(2, 7)  # of no shape that a network has
    return {name: bad for name, bad in found.items() if not _same(bad, value) and not _good(name, value)}


def bad_tensors(value: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tensors of other shapes, types and layouts, and with numbers that are none."""
    other = torch.zeros(*value.shape, 2, dtype=value.dtype)
    found = {
        "one dimension more": other,
        "no element": value.new_zeros(0),
        "a scalar": value.new_zeros(()),
        "complex": torch.zeros(value.shape, dtype=torch.complex64),
        "on no device": torch.empty(value.shape, dtype=value.dtype, device="meta"),
        "sparse": torch.zeros(value.shape, dtype=value.dtype).to_sparse(),
    }
    if value.is_floating_point():
        found |= {
            "whole numbers": torch.ones(value.shape, dtype=torch.int64),
            "true and false": torch.ones(value.shape, dtype=torch.bool),
            "all NaN": torch.full_like(value, float("nan")),
            "all infinite": torch.full_like(value, float("inf")),
        }
    else:
        found |= {"floats": torch.full(value.shape, 0.5)}
    return found


def _good(fault: str, value: Any) -> bool:
    """Whether the fault is none: another text where a text stands, another number in 0..1 for one."""
    kinds = {"a text": str, "true": bool, "a fraction": float}
    return fault in kinds and type(value) is kinds[fault]


def _same(one: Any, two: Any) -> bool:
    if type(one) is not type(two) or isinstance(one, torch.Tensor | np.ndarray | dict | list):
        return isinstance(one, dict | list) and type(one) is type(two) and not one and not two
    return one == two


def sample(found: list[Any], count: int, seed: int) -> list[Any]:
    """`count` of the cases, always the same for a seed."""
    order = np.random.default_rng(seed).permutation(len(found))[:count]
    return [found[place] for place in sorted(order.tolist())]
