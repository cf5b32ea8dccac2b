"""Channels as what is kept or pruned together: their scores, their costs, and masks of whole channels.

A channel's score for a task is the sum of the scores of all weights that write or read it; every task ranks
the channels that hold a weight of its own, and the channel that every owner could best do without goes first.
Costs are counted anew after every removal, because a channel's neighbours become cheaper with it.

A mask of channels covers every parameter that holds one, norms and biases too, so that a network masked by it
computes, and learns, what it would without these channels (but for what dropout draws). They leave it at
last (removing.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from .budgets import Budget, Pool, keep_count
from .channels import Axis, Channels, find_channels
from .granularity import Grain, find_granularity
from .parameters import parameters_by_name


@dataclass(frozen=True)
class Size:
    """What a network costs. channels: outputs of all convolutions and linear layers that can be pruned."""

    params: int
    macs: int
    channels: int


@dataclass(frozen=True)
class Linked:
    """The channels of a network that may go, and all that their removal is counted by.

    whole: layers whose channels may not go -> why. shapes: of every parameter. turned: weights whose outputs
    stand second. names: of every parameter and buffer that has several, by the first.
    """

    channels: tuple[Channels, ...]
    whole: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    turned: frozenset[str]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def link(
    model: nn.Module,
    example: tuple[Any, ...],
    protect: Iterable[str] = (),
    call: Callable[[nn.Module, tuple[Any, ...]], Any] | None = None,
    kept: Mapping[str, str] | None = None,
) -> Linked:
    """What hangs together in a network. Arguments and errors as of `find_channels`; ValueError too where no
    channel may go, and for a network inside a wrapper, whose tensors have other names than its own."""
    plain = parameters_by_name(model)
    for name, _ in model.named_parameters(remove_duplicate=False):
        if name not in plain:
            raise ValueError(
                f"parameter {name!r} is inside a wrapper (DataParallel, torch.compile, ...), and channels "
                "leave the network itself: pass that, and wrap it afterwards"
            )
    found, whole = find_channels(model, example, protect, call, kept)
    if not found:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(whole.items())[:3])
        raise ValueError(f"no channel of this network can be removed: {listed}")
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    turned = (
        f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, _ConvTransposeNd)
    )
    return Linked(tuple(found), whole, shapes, frozenset(turned), several_names(model))


def several_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """First name -> all names, of the parameters and buffers that have several: those of a layer that is
    registered more than once."""
    found: dict[int, list[str]] = {}
    for named in (model.named_parameters, model.named_buffers):
        for name, value in named(remove_duplicate=False):
            found.setdefault(id(value), []).append(name)
    return {names[0]: tuple(names) for names in found.values() if len(names) > 1}


@dataclass(frozen=True, kw_only=True)
class Channelwise(Grain):
    """Whole channels of a network, which cost what its rest no longer costs without them.

    counts: multiply-adds of one weight, by name. of: what a budget counts, "params" or "macs". multiple: of
    what remains of a layer's channels, where it did not have fewer; every layer keeps so many.
    """

    linked: Linked
    counts: Mapping[str, int]
    of: str
    multiple: int

    @cached_property
    def whole(self) -> Size:
        """What the network costs with all its channels."""
        return _Left(self).size()

    def keep(self, ratio: float) -> int:
        """What may stay of all parameters or multiply-adds. Raises ValueError for a ratio that no removal
        meets."""
        total = getattr(self.whole, self.of)
        keep, least = keep_count(total, ratio), self.least()
        if least > keep:
            raise ValueError(
                f"ratio {ratio:g} of {self.of} cannot be met: {100 * (1 - least / total):.2f} % go where "
                f"every layer keeps its {self.multiple} channels and the outputs are whole"
            )
        return keep

    def least(self, names: Iterable[str] | None = None) -> int:
        """What is left where everything goes that may. names: parameters of which a channel must hold some to
        go; None = any."""
        left = _Left(self)
        for place, channels in enumerate(self.linked.channels):
            if names is None or any(name in names for name, _ in channels.axes):
                for unit in range(len(channels.units)):
                    left.remove(place, unit)
        return left.spent

    def budget(self, keep: int) -> Budget:
        """One pool of all parameters that hold a channel."""
        names = dict.fromkeys(name for each in self.linked.channels for name, _ in each.axes)
        return (Pool(tuple(name for name in names if name in self.linked.shapes), keep),)

    def cost(self, mask: Mapping[str, Tensor]) -> int:
        """Of the network without the channels that a mask prunes."""
        return self.counted(mask).spent

    def unit_scores(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores of a voter's channels by the first layer that makes them, float64: sums over the weights
        that write or read them.

        A weight that does both counts for both. Of channels that hold no weight of the voter there are none.
        Scores of channels, which some criteria give, are taken as they are.
        """
        sums: dict[Axis, Tensor] = {}
        made: dict[str, Tensor] = {}
        for channels in self.linked.channels:
            if channels.name in scores:
                made[channels.name] = scores[channels.name].double().cpu()
                continue
            owned = [axis for axis in channels.axes if axis[0] in scores]
            total = torch.zeros(len(channels.units), dtype=torch.float64)
            for name, axis in owned:
                if (name, axis) not in sums:
                    sums[name, axis] = along(scores[name].double().cpu(), axis).sum(1)
                total += _sums(sums[name, axis], (name, axis), channels)
            if owned:
                made[channels.name] = total
        return made

    def units(self, mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The channels that a mask keeps, by the first layer that makes them, bool; of a layer of which the
        mask holds nothing, all."""
        found: dict[Axis, list[bool]] = {}

        def kept(unit: Mapping[Axis, Sequence[int]]) -> bool:
            held = next((axis for axis in unit if axis[0] in mask), None)
            if held is None:
                return True
            if held not in found:
                found[held] = along(mask[held[0]], held[1]).any(1).tolist()
            return found[held][unit[held][0]]

        return {
            channels.name: torch.tensor([kept(unit) for unit in channels.units])
            for channels in self.linked.channels
        }

    def masked(
        self,
        units: Mapping[str, Tensor],
        shapes: Mapping[str, Sequence[int]],
        device: torch.device | None = None,
    ) -> dict[str, Tensor]:
        mask = {name: torch.ones(tuple(of), dtype=torch.bool, device=device) for name, of in shapes.items()}
        for (name, axis), indices in self._left(units).gone().items():
            if name in mask:
                mask[name].index_fill_(axis, torch.tensor(indices, device=device), False)
        return mask

    def best(
        self, standings: Mapping[str, Tensor], keep: int, there: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The channels that stay where the worst go, one after the other, until at most `keep` is left.

        standings: by layer and channel, small = wanted; what has none stays. there: channels that are left
        to choose from. Of equals the later goes first. Raises ValueError where too much would be left.
        """
        left = self._left(there)
        order = [
            (value, place, unit)
            for place, channels in enumerate(self.linked.channels)
            if channels.name in standings
            for unit, value in enumerate(standings[channels.name].tolist())
            if there[channels.name][unit]
        ]
        for _, place, unit in sorted(order, reverse=True):
            if left.spent <= keep:
                break
            left.remove(place, unit)
        if left.spent > keep:
            raise ValueError(
                f"{keep:,} of {self.of} cannot be met: {left.spent:,} are left where every layer keeps its "
                f"{self.multiple} channels, and what no task owns stays"
            )
        alive = {name: kept.clone() for name, kept in there.items()}
        for place, unit in left.done:
            alive[self.linked.channels[place].name][unit] = False
        return alive

    def counted(self, mask: Mapping[str, Tensor]) -> _Left:
        """What is left of the network without the channels that a mask prunes."""
        return self._left(self.units(mask))

    def _left(self, there: Mapping[str, Tensor]) -> _Left:
        left = _Left(self)
        for place, channels in enumerate(self.linked.channels):
            for unit in (~there[channels.name]).nonzero().flatten().tolist():
                left.take(place, unit)
        return left


def channel_grain(linked: Linked, uses: Mapping[str, int], of: str, multiple: int) -> Channelwise:
    """Raises ValueError for a multiple that is none."""
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise ValueError(f"channel multiple {multiple!r} is not a whole number of at least 1")
    return Channelwise(find_granularity("channel"), linked=linked, counts=uses, of=of, multiple=multiple)


@torch.no_grad()
def group_magnitude(model: nn.Module, grain: Channelwise) -> dict[str, Tensor]:
    """The mean over the weights that hold a channel of the sum of its squares there, in units of the mean of
    that over all channels that are left where it is. Norms have weights too. By first layer, float64.

    Source: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, as torch-pruning's
    `GroupMagnitudeImportance` computes it by default, which leaves out depthwise convolutions and PReLU.
    """
    weights = dict(model.named_parameters())
    made = {}
    for channels in grain.linked.channels:
        axes = [axis for axis in channels.axes if axis[0].rpartition(".")[2] == "weight"]
        total = torch.zeros(len(channels.units), dtype=torch.float64)
        for name, axis in axes:
            squares = along(weights[name].detach().double().cpu().square(), axis).sum(1)
            total += _sums(squares, (name, axis), channels)
        left = total[total > 0]  # what was pruned before is 0
        made[channels.name] = total / len(axes) / (left.mean() / len(axes) if len(left) else 1.0)
    return made


def along(values: Tensor, axis: int) -> Tensor:
    """[length of the axis, everything else]."""
    return values.movedim(axis, 0).reshape(values.shape[axis], -1)


def _sums(values: Tensor, axis: Axis, channels: Channels) -> Tensor:
    """Of every unit the sum of the values, by index along the axis; 0 for one that it does not hold."""
    return torch.stack([values[list(unit.get(axis, ()))].sum() for unit in channels.units])


class _Left:
    """What is left of a network, counted exactly, while channels go one by one."""

    def __init__(self, grain: Channelwise) -> None:
        self.grain, self.found = grain, grain.linked.channels
        self.shapes = {name: list(shape) for name, shape in grain.linked.shapes.items()}
        self.params = sum(prod(shape) for shape in self.shapes.values())
        self.macs = sum(count * prod(self.shapes[name]) for name, count in grain.counts.items())
        self.counts = [len(channels.units) for channels in self.found]
        # units in which a layer shrinks, so that its channels stay a multiple
        self.steps = [grain.multiple // gcd(grain.multiple, channels.width) for channels in self.found]
        self.waiting: list[list[int]] = [[] for _ in self.found]
        self.done: list[tuple[int, int]] = []

    @property
    def spent(self) -> int:
        """Of the budget."""
        return self.macs if self.grain.of == "macs" else self.params

    def size(self) -> Size:
        outputs = sum(
            shape[1 if name in self.grain.linked.turned else 0]
            for name, shape in self.shapes.items()
            if name in self.grain.counts
        )
        return Size(self.params, self.macs, outputs)

    def remove(self, place: int, unit: int) -> None:
        """Removes a unit, with those that waited for it where a layer shrinks by several."""
        step, count, waiting = self.steps[place], self.counts[place], self.waiting[place]
        block = count % step or step
        if count - block < min(step, count):
            return
        if self._empties(place, [*waiting, unit]):
            return
        waiting.append(unit)
        if len(waiting) < block:
            return
        for each in waiting:
            self.take(place, each)
        waiting.clear()

    def _empties(self, place: int, units: Iterable[int]) -> bool:
        """Whether nothing would be left of a tensor, as of a branch that reads some of the channels."""
        lost = Counter[Axis]()
        for unit in units:
            lost.update({axis: len(indices) for axis, indices in self.found[place].units[unit].items()})
        return any(
            name in self.shapes and self.shapes[name][axis] <= many for (name, axis), many in lost.items()
        )

    def take(self, place: int, unit: int) -> None:
        """Removes a unit, whatever is left of its layer."""
        for (name, axis), indices in self.found[place].units[unit].items():
            if name not in self.shapes:  # a buffer
                continue
            shape = self.shapes[name]
            before = prod(shape)
            shape[axis] -= len(indices)
            less = before - prod(shape)
            self.params -= less
            self.macs -= less * self.grain.counts.get(name, 0)
        self.counts[place] -= 1
        self.done.append((place, unit))

    def gone(self) -> dict[Axis, tuple[int, ...]]:
        """Tensor name and axis -> indices that go."""
        gone: dict[Axis, set[int]] = {}
        for place, unit in self.done:
            for axis, indices in self.found[place].units[unit].items():
                gone.setdefault(axis, set()).update(indices)
        return {axis: tuple(sorted(indices)) for axis, indices in gone.items()}
