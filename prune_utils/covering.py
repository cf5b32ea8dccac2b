"""Coverage: which parameters a ratio speaks of, which not, and why.

Considered is what multiplies the input (roles.py). Embeddings, tied and frozen weights, norms, biases and
tables are left alone unless `include` asks for them; `exclude` leaves out more. Both take patterns of names
(`decoder.*`) or a predicate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn

from .data import Forward, predict
from .granularity import WEIGHT, Granularity
from .isolation import untouched
from .parameters import Held, held_parameters, unwrap
from .roles import EXPERTS, PRODUCT, TABLE, Role, Shape, role_of
from .shards import sharded
from .tracing import multiplied

Predicate = Callable[[str, nn.Parameter, nn.Module], bool]
Choice = str | Iterable[str] | Predicate | None  # patterns of names, or predicate(name, parameter, layer)

TIED, FROZEN, EXCLUDED, UNOWNED, INTEGER = "tied", "frozen", "excluded", "unowned", "not floating point"
OUT_OF_SCOPE, EMPTY = "out of scope", "without elements"
UNDIVIDED = "left dense, not divided by granularity"
WARN_BELOW = 0.9  # share of all parameters


@dataclass(frozen=True)
class Entry:
    """One parameter. names: all that it has, the first one first; reason: why not considered, "" if it is."""

    names: tuple[str, ...]
    shape: Shape
    kind: str
    reason: str = ""

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def considered(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class Coverage:
    """Every parameter of a network once, in the network's order."""

    entries: tuple[Entry, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What is considered."""
        return tuple(entry.name for entry in self.entries if entry.considered)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shapes of what is considered, for a budget."""
        return {entry.name: entry.shape for entry in self.entries if entry.considered}

    @property
    def parameters(self) -> int:
        """Elements of all parameters."""
        return sum(entry.size for entry in self.entries)

    @property
    def considered(self) -> int:
        """Elements of what is considered."""
        return sum(entry.size for entry in self.entries if entry.considered)

    @property
    def share(self) -> float:
        """considered / parameters."""
        return self.considered / self.parameters if self.parameters else 0.0

    def left_out(self) -> dict[str, dict[str, int]]:
        """reason -> names joined by " = " -> elements."""
        found: dict[str, dict[str, int]] = {}
        for entry in self.entries:
            if not entry.considered:
                found.setdefault(entry.reason, {})[" = ".join(entry.names)] = entry.size
        return found

    def without(self, names: Iterable[str], reason: str) -> Coverage:
        """The same coverage with these considered weights left out."""
        gone = set(names)
        return Coverage(
            tuple(
                replace(entry, reason=reason) if entry.considered and entry.name in gone else entry
                for entry in self.entries
            )
        )


def coverage(
    model: nn.Module,
    include: Choice = None,
    exclude: Choice = None,
    *,
    batches: Iterable[Any] = (),
    forward: Forward | None = None,
) -> Coverage:
    """Which parameters are considered, and why the others are not.

    include: considered although they are embeddings, tied, frozen, tables, ..., if they have elements;
        exclude: left out, whatever include says. One pattern, several, or predicate(name, parameter, layer
        that holds it).
    batches: a forward pass over each tells for certain which bare parameters of unknown layer classes
        multiply data; without them names and dimensions decide. forward: forward(network, batch) for a
        network that does not take `batch[0]`.
    Raises ValueError: a lazy layer, a pattern that matches nothing, an included weight that shares its memory
        with another parameter.

    >>> found = coverage(nn.Sequential(nn.Embedding(10, 4), nn.LSTM(4, 8), nn.Linear(8, 2, bias=False)))
    >>> found.names
    ('1.weight_ih_l0', '1.weight_hh_l0', '2.weight')
    >>> f"{found.share:.3f}", found.left_out()["embedding"]
    ('0.794', {'0.weight': 40})
    """
    held = held_parameters(model)
    roles = [role_of(each) for each in held]
    batches = list(batches)
    # what a sharded network does cannot be watched: there names and dimensions decide
    if batches and not all(role.known for role in roles) and not sharded(model):
        roles = _traced(model, held, roles, batches, forward)
    wanted, unwanted = _chooser(include, held, "include"), _chooser(exclude, held, "exclude")
    entries = []
    for each, role in zip(held, roles, strict=True):
        reason = EXCLUDED if unwanted(each) else "" if wanted(each) else _reason(each, role)
        if not reason and each.twin:
            raise ValueError(
                f"{each.name!r} and {each.twin!r} share their memory as two parameters, whose gradients are "
                "apart: make them one (b.weight = a.weight), or do not include them"
            )
        reason = reason if each.parameter.numel() else EMPTY
        entries.append(Entry(tuple(each.names), _shape(each.parameter, role), role.kind, reason))
    return Coverage(tuple(entries))


def prunable(
    model: nn.Module,
    include: Choice = None,
    exclude: Choice = None,
    *,
    batches: Iterable[Any] = (),
    forward: Forward | None = None,
) -> dict[str, nn.Parameter]:
    """The considered weights by name, in the model's order; arguments as of `coverage`.

    Names are those that the network has without wrappers (DDP, torch.compile, ...).
    """
    names = set(coverage(model, include, exclude, batches=batches, forward=forward).names)
    return {each.name: each.parameter for each in held_parameters(model) if each.name in names}


def weight_shapes(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, Shape]:
    """Shapes that know their matrices (for ERK), of these weights or of all prunable ones, in the model's
    order."""
    wanted = set(prunable(model) if names is None else names)
    return {
        each.name: _shape(each.parameter, role_of(each))
        for each in held_parameters(model)
        if wanted.intersection(each.names)
    }


def _shape(parameter: nn.Parameter, role: Role) -> Shape:
    return Shape(parameter.shape, role.kind if role.weight else PRODUCT, role.blocks)


def _reason(held: Held, role: Role) -> str:
    if not role.weight:
        return role.kind
    if not held.parameter.is_floating_point():
        return INTEGER
    if held.tied:
        return TIED
    return "" if held.parameter.requires_grad else FROZEN


def _chooser(choice: Choice, held: Sequence[Held], what: str) -> Callable[[Held], bool]:
    if choice is None:
        return lambda each: False
    if callable(choice):
        return lambda each: bool(choice(each.name, each.parameter, each.holders[0].layer))
    if not isinstance(choice, Iterable):
        raise ValueError(f"{what} {choice!r} is neither patterns of names nor a predicate")
    patterns = (choice,) if isinstance(choice, str) else tuple(choice)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for each in held for name in each.names):
            names = ", ".join(each.name for each in held[:3])
            raise ValueError(
                f"{what} pattern {pattern!r} matches no parameter; parameters are named {names}, ..."
            )
    return lambda each: any(fnmatchcase(name, pattern) for name in each.names for pattern in patterns)


def _traced(
    model: nn.Module,
    held: Sequence[Held],
    roles: Sequence[Role],
    batches: Sequence[Any],
    forward: Forward | None,
) -> list[Role]:
    """The roles with those that are guesses settled by what the forward passes do."""
    unsure = {each.name: each.parameter for each, role in zip(held, roles, strict=True) if not role.known}
    constants = [*model.parameters(), *model.buffers()]
    used: dict[str, bool] = {}
    with untouched(model), torch.no_grad():
        for batch in batches:
            seen = multiplied(partial(predict, unwrap(model), batch, forward), unsure, constants)
            used = {name: used.get(name, False) or seen.get(name, False) for name in {**used, **seen}}
    return [_settled(role, used.get(each.name)) for each, role in zip(held, roles, strict=True)]


def _settled(role: Role, multiplies: bool | None) -> Role:
    if multiplies is None:  # known, or not used in these batches
        return role
    if multiplies:
        return Role(role.kind if role.kind == EXPERTS else PRODUCT, role.blocks)
    return Role(TABLE)


def covered_by(coverage: Coverage, names: Iterable[str], granularity: Granularity = WEIGHT) -> Coverage:
    """The coverage of a mask: what it names is considered, whatever else could have been is out of scope, or
    not divided by the granularity."""
    masked = set(names)
    entries = []
    for entry in coverage.entries:
        inside = bool(masked.intersection(entry.names))
        outside = OUT_OF_SCOPE if granularity.divides(entry.shape) else f"{UNDIVIDED} {granularity.name}"
        reason = "" if inside else outside if entry.considered else entry.reason
        entries.append(replace(entry, reason=reason))
    return Coverage(tuple(entries))
