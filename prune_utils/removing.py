"""Whole channels removed by the tasks' vote: what is left is an ordinary, smaller, dense network.

A channel's score for a task is the sum of the scores of all weights that write or read it; every task ranks
the channels that hold a weight of its own, and the channel that every owner could best do without goes first.
Costs are counted anew after every removal, because a channel's neighbours become cheaper with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .arbiters import Arbiter
from .budgets import keep_count
from .channels import Axis, Channels, find_channels
from .choosing import standings
from .deploy.comparing import worst_difference
from .masks import Scores
from .resizing import all_shapes, put

TOLERANCE = 1e-5  # share of an output's range by which the smaller network may differ from the masked one
Call = Callable[[nn.Module, tuple[Any, ...]], Any]


@dataclass(frozen=True)
class Size:
    """What a network costs. channels: outputs of all convolutions and linear layers that can be pruned."""

    params: int
    macs: int
    channels: int


@dataclass(frozen=True)
class Removal:
    """What goes: tensor name and axis -> indices. before, after: sizes; asked: of `of`, what was to be kept.

    widths: layer -> (channels, those that stay), of the first layer of each set that hangs together. whole:
    layers whose channels could not go -> why.
    """

    gone: dict[Axis, tuple[int, ...]]
    before: Size
    after: Size
    of: str
    asked: int
    widths: dict[str, tuple[int, int]]
    whole: dict[str, str] = field(default_factory=dict)

    @torch.no_grad()
    def cut(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by name (a state dict, masks, scores) without what goes."""
        made = dict(state)
        for (name, axis), indices in self.gone.items():
            if name in made:
                rest = torch.ones(made[name].shape[axis], dtype=torch.bool)
                rest[list(indices)] = False
                made[name] = made[name].index_select(axis, rest.nonzero().flatten().to(made[name].device))
        return made

    @torch.no_grad()
    def zeroed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors in their old shapes, 0 where something goes."""
        made = {name: value.clone() for name, value in state.items()}
        for (name, axis), indices in self.gone.items():
            if name in made:
                made[name].index_fill_(axis, torch.tensor(indices, device=made[name].device), 0)
        return made

    def apply(self, model: nn.Module) -> None:
        """Takes the channels out of a network, in place. Optimizers of its parameters are to be made anew."""
        found = dict(model.named_parameters()) | dict(model.named_buffers())
        names = {name for name, _ in self.gone}
        put(model, self.cut({name: found[name].detach() for name in found if name in names}))

    def changed(self, model: nn.Module) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that were cut, of a network from which the channels are gone."""
        shapes = all_shapes(model)
        return {name: shapes[name] for name in dict.fromkeys(name for name, _ in self.gone)}


def choose_channels(
    model: nn.Module,
    example: tuple[Any, ...],
    scores: Mapping[str, Scores],
    uses: Mapping[str, int],
    ratio: float,
    of: str = "params",
    *,
    arbiter: str | Arbiter = "unanimous",
    multiple: int = 1,
    protect: Iterable[str] = (),
    call: Call | None = None,
) -> Removal:
    """Which channels go: the fewest, worst first, after which the ratio is met.

    scores: by voter and weight. uses: multiply-adds of a weight in one forward pass, by name (weight_uses).
    ratio: percent of all parameters (of="params"), or of the multiply-adds (of="macs"), that are removed.
    multiple: of what remains of a layer's channels, where it did not have fewer. Every layer keeps so many.
    Raises ValueError for a ratio that no removal meets, or a network whose channels cannot be followed.
    """
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise ValueError(f"channel multiple {multiple!r} is not a whole number of at least 1")
    found, whole = find_channels(model, example, protect, call)
    if not found:
        raise ValueError("no channel of this network can be removed: " + _listed(whole))
    theirs = {voter: channel_scores(found, of_voter) for voter, of_voter in scores.items()}
    standing = standings(theirs, arbiter)
    order = [
        (float(value), place, unit)
        for place, channels in enumerate(found)
        if channels.name in standing
        for unit, value in enumerate(standing[channels.name].tolist())
    ]
    budget = _Budget(model, found, uses, of, multiple)
    before = budget.size()
    asked = keep_count(getattr(before, of), ratio)
    for _, place, unit in sorted(order, reverse=True):  # ties: the later goes first
        if getattr(budget, of) <= asked:
            break
        budget.remove(place, unit)
    if getattr(budget, of) > asked:
        left = 100 * (1 - getattr(budget, of) / getattr(before, of))
        raise ValueError(
            f"ratio {ratio:g} of {of} cannot be met: {left:.2f} % go where every layer keeps its {multiple} "
            "channels and the outputs are whole"
        )
    widths = {
        channels.name: (len(channels.units) * channels.width, count * channels.width)
        for channels, count in zip(found, budget.counts, strict=True)
    }
    return Removal(budget.gone(), before, budget.size(), of, asked, widths, whole)


def channel_scores(found: Iterable[Channels], scores: Scores) -> Scores:
    """Scores of a voter's channels, float64: sums over the weights that write or read them.

    A weight that does both counts for both. Of channels that hold no weight of the voter there are none.
    """
    sums: dict[Axis, Tensor] = {}
    made: Scores = {}
    for channels in found:
        total = torch.zeros(len(channels.units), dtype=torch.float64)
        owned = [axis for axis in channels.units[0] if axis[0] in scores]
        for name, axis in owned:
            if (name, axis) not in sums:
                score = scores[name].double().cpu()
                sums[name, axis] = score.movedim(axis, 0).flatten(1).sum(1) if score.dim() > 1 else score
            along = sums[name, axis]
            for unit, places in enumerate(channels.units):
                total[unit] += along[list(places[name, axis])].sum()
        if owned:
            made[channels.name] = total
    return made


class _Budget:
    """What is left of a network, counted exactly, while channels go one by one."""

    def __init__(
        self, model: nn.Module, found: list[Channels], uses: Mapping[str, int], of: str, multiple: int
    ) -> None:
        self.found, self.of, self.uses = found, of, uses
        self.shapes = {name: list(value.shape) for name, value in model.named_parameters()}
        self.turned = {
            f"{name}.weight"
            for name, layer in model.named_modules()
            if isinstance(layer, nn.modules.conv._ConvTransposeNd)
        }
        self.params = sum(prod(shape) for shape in self.shapes.values())
        self.macs = sum(count * prod(self.shapes[name]) for name, count in uses.items())
        self.counts = [len(channels.units) for channels in found]
        # units in which a layer shrinks, so that its channels stay a multiple
        self.steps = [multiple // gcd(multiple, channels.width) for channels in found]
        self.waiting: list[list[int]] = [[] for _ in found]
        self.done: list[tuple[int, int]] = []

    def size(self) -> Size:
        outputs = sum(
            shape[1 if name in self.turned else 0] for name, shape in self.shapes.items() if name in self.uses
        )
        return Size(self.params, self.macs, outputs)

    def remove(self, place: int, unit: int) -> None:
        """Removes a unit, with those that waited for it where a layer shrinks by several."""
        step, count, waiting = self.steps[place], self.counts[place], self.waiting[place]
        block = count % step or step
        if count - block < min(step, count):
            return
        waiting.append(unit)
        if len(waiting) < block:
            return
        for each in waiting:
            self._take(place, each)
        waiting.clear()

    def _take(self, place: int, unit: int) -> None:
        for (name, axis), indices in self.found[place].units[unit].items():
            if name not in self.shapes:  # a buffer
                continue
            shape = self.shapes[name]
            before = prod(shape)
            shape[axis] -= len(indices)
            less = before - prod(shape)
            self.params -= less
            self.macs -= less * self.uses.get(name, 0)
        self.counts[place] -= 1
        self.done.append((place, unit))

    def gone(self) -> dict[Axis, tuple[int, ...]]:
        gone: dict[Axis, set[int]] = {}
        for place, unit in self.done:
            for axis, indices in self.found[place].units[unit].items():
                gone.setdefault(axis, set()).update(indices)
        return {axis: tuple(sorted(indices)) for axis, indices in gone.items()}


@torch.no_grad()
def check_removal(
    model: nn.Module, removal: Removal, example: tuple[Any, ...], call: Call | None = None
) -> float:
    """How far the smaller network's outputs are from those of the network with the channels at 0: the largest
    difference as a share of an output's range, in float64.

    Raises ValueError where that is more than rounding: the channels do not hang together as they were traced.
    """
    smaller, masked = (copy.deepcopy(model).double().eval() for _ in range(2))
    removal.apply(smaller)
    masked.load_state_dict(removal.zeroed(masked.state_dict()))
    given = pytree.tree_map_only(
        Tensor, lambda value: value.double() if value.is_floating_point() else value, example
    )
    try:
        made = [network(*given) if call is None else call(network, given) for network in (smaller, masked)]
    except RuntimeError as error:
        raise ValueError(f"the network does not run without these channels: {error}") from error
    for ours, theirs in zip(*map(pytree.tree_leaves, made), strict=True):
        if isinstance(theirs, Tensor) and ours.shape != theirs.shape:
            raise ValueError(f"an output of shape {tuple(theirs.shape)} became {tuple(ours.shape)}")
    off = worst_difference(*made)
    if not off <= TOLERANCE:
        raise ValueError(
            f"without these channels an output is off by {off:.1e} of its range: they do not hang together "
            "as torch-pruning traced them (a shuffle of channels, for example); `protect` keeps layers whole"
        )
    return off


def _listed(whole: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in list(whole.items())[:3])
