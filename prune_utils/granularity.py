"""Granularity: what is kept or pruned together, or in what pattern, for hardware that skips no single weight.

A weight tensor is seen as parts. Parts of `whole` granularities (a kernel, a block) are the units that are
ranked: a unit's score is the sum of its weights' scores, its cost that of its weights. The others rank single
weights and keep the same number in every part: N of M neighbours along the input channels (Mishra et al.,
"Accelerating Sparse Deep Neural Networks", 2021), a constant fan-in of every output neuron (Lasby et al.,
"Dynamic Sparse Training with Structured Sparsity", ICLR 2024). A layer that a granularity does not divide
stays dense.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .budgets import Budget, Pool
from .ratios import CHOICES, fixed_ratio, neighbours
from .roles import ATTENTION, CONV, LINEAR, RECURRENT, TRANSPOSED
from .text import not_one_of

INPUTS_SECOND = (CONV, LINEAR, RECURRENT, ATTENTION)  # kinds whose weights are [outputs, inputs, ...]


@dataclass(frozen=True)
class Granularity:
    """The granularity "weight": every weight is a unit. The others say how they cut a tensor into parts.

    whole: a part is kept or pruned as one; False: weights are ranked one by one.
    aligned: where a channel stands in its layer decides about its parts, so that exports keep the channels.
    moves: whether a mask of single weights that moves in training can stay of this granularity.
    removes: the units leave the network, which is smaller afterwards (removing.py); its masks have no parts.
    """

    name: str = "weight"
    whole: bool = True
    aligned: bool = False
    moves: bool = False
    removes: bool = False
    too_little = "less than the next unit"  # what is left over of a budget

    @property
    def ratio(self) -> float | None:
        """The percentage that it removes of what it divides, None = any."""
        return None

    def divides(self, shape: Sequence[int]) -> bool:
        """Whether a weight of this shape (a roles.Shape) has such parts."""
        return True

    def size(self, shape: Sequence[int]) -> int:
        """Weights of a part."""
        return 1

    def parts(self, values: Tensor) -> Tensor:
        """A weight-shaped tensor -> [..., size], one row a part."""
        return values.unsqueeze(-1)

    def joined(self, parts: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of `parts`."""
        return parts.reshape(shape)

    def in_units(
        self, budget: Budget, shapes: Mapping[str, Sequence[int]], costs: Mapping[str, int]
    ) -> Budget:
        """The budget with what each pool of one layer keeps made whole. costs: of a unit, by layer."""
        return whole_units(budget, costs)

    def flaw(self, kept: Tensor) -> str:
        """What is wrong with a layer's mask, "" if it has this granularity."""
        parts = self.parts(kept)
        broken = int((parts.any(-1) & ~parts.all(-1)).count_nonzero())
        return f"keeps only a part of {broken:,} of its {self.name}s" if broken else ""

    def said(self, kept: int, parts: int) -> str:
        """The certificate's line of parts. kept: parts that hold a kept weight."""
        return f"{kept:,} of {parts:,} units ({self.name}) are kept"


@dataclass(frozen=True)
class Kernel(Granularity):
    """One k x k slice of a convolution per pair of output and input channel; of matrices a single weight.

    A weight of three dimensions that is no convolution's (bilinear, fused experts) has neither.
    """

    name: str = "kernel"

    def divides(self, shape: Sequence[int]) -> bool:
        return len(shape) != 3 or getattr(shape, "kind", CONV) in (CONV, TRANSPOSED)

    def size(self, shape: Sequence[int]) -> int:
        return math.prod(shape[2:])

    def parts(self, values: Tensor) -> Tensor:
        return values.flatten(2) if values.dim() > 2 else values.unsqueeze(-1)


@dataclass(frozen=True)
class Block(Granularity):
    """`outputs` consecutive output channels x `inputs` consecutive input channels at one kernel position."""

    name: str = "block:4x1"
    aligned: bool = True
    outputs: int = 4
    inputs: int = 1

    def divides(self, shape: Sequence[int]) -> bool:
        return _reads_second(shape) and not shape[0] % self.outputs and not shape[1] % self.inputs

    def size(self, shape: Sequence[int]) -> int:
        return self.outputs * self.inputs

    def parts(self, values: Tensor) -> Tensor:
        rows, columns = values.shape[0] // self.outputs, values.shape[1] // self.inputs
        cut = values.reshape(rows, self.outputs, columns, self.inputs, -1)
        return cut.permute(0, 2, 4, 1, 3).flatten(3)

    def joined(self, parts: Tensor, shape: Sequence[int]) -> Tensor:
        return parts.unflatten(3, (self.outputs, self.inputs)).permute(0, 3, 1, 4, 2).reshape(shape)

    def flaw(self, kept: Tensor) -> str:
        if not self.divides(kept.shape):
            block = f"{self.outputs} x {self.inputs}"
            return f"has {tuple(kept.shape)} weights, which blocks of {block} do not divide"
        return super().flaw(kept)


@dataclass(frozen=True)
class Neighbours(Granularity):
    """Of `of` neighbours along the input channels, at one output channel and kernel position, `keep` stay."""

    name: str = "2:4"
    whole: bool = False
    aligned: bool = True
    keep: int = 2
    of: int = 4

    @property
    def ratio(self) -> float | None:
        return fixed_ratio(self.name)

    def divides(self, shape: Sequence[int]) -> bool:
        return _reads_second(shape) and not shape[1] % self.of

    def size(self, shape: Sequence[int]) -> int:
        return self.of

    def parts(self, values: Tensor) -> Tensor:
        return values.reshape(values.shape[0], values.shape[1] // self.of, self.of, -1).transpose(2, 3)

    def joined(self, parts: Tensor, shape: Sequence[int]) -> Tensor:
        return parts.transpose(2, 3).reshape(shape)

    def in_units(
        self, budget: Budget, shapes: Mapping[str, Sequence[int]], costs: Mapping[str, int]
    ) -> Budget:
        """A pool on its way to the last round keeps a whole number of every group, rounded up."""
        rounded = []
        for pool in budget:
            total = sum(math.prod(shapes[name]) for name in pool.names)
            each = -(-pool.keep * self.of // total)
            rounded.append(Pool(pool.names, each * total // self.of))
        return tuple(rounded)

    def flaw(self, kept: Tensor) -> str:
        if kept.dim() < 2 or kept.shape[1] % self.of:
            return f"has {tuple(kept.shape)} weights, whose inputs are no multiple of {self.of}"
        wrong = int((self.parts(kept).sum(-1) != self.keep).count_nonzero())
        return f"keeps another number than {self.keep} in {wrong:,} groups of {self.of}" if wrong else ""

    def said(self, kept: int, parts: int) -> str:
        return f"{parts:,} groups of {self.of} neighbours along the input channels keep {self.keep} each"


@dataclass(frozen=True)
class FanIn(Granularity):
    """Every output neuron of a layer keeps the same number of its inputs, or none where it was ablated."""

    name: str = "fanin"
    whole: bool = False
    moves: bool = True
    too_little = "in no layer enough for one more input of every neuron"

    def divides(self, shape: Sequence[int]) -> bool:
        return _reads_second(shape)

    def size(self, shape: Sequence[int]) -> int:
        return math.prod(shape[1:])

    def parts(self, values: Tensor) -> Tensor:
        return values.flatten(1)

    def in_units(
        self, budget: Budget, shapes: Mapping[str, Sequence[int]], costs: Mapping[str, int]
    ) -> Budget:
        """One more weight for every neuron of a layer is what its pool grows by; each keeps one at least.

        Raises ValueError where there are fewer weights to keep than neurons.
        """
        rows = {name: shapes[name][0] for pool in budget for name in pool.names}
        return whole_units(budget, rows, at_least=1)

    def flaw(self, kept: Tensor) -> str:
        if not self.divides(kept.shape):
            return f"has {tuple(kept.shape)} weights, which have no inputs"
        inputs = kept.flatten(1).sum(1)
        counts = inputs[inputs > 0]
        if bool((counts == counts[:1]).all()):
            return ""
        return f"has neurons of {int(counts.min())} and of {int(counts.max())} inputs"

    def said(self, kept: int, parts: int) -> str:
        return f"{kept:,} of {parts:,} output neurons keep inputs, each as many as the others of its layer"


WEIGHT = Granularity()


def find_granularity(name: str) -> Granularity:
    """The granularity of that name. Raises ValueError with the choices.

    >>> find_granularity("block:4x1").size((8, 3, 3, 3)), find_granularity("2:4").ratio
    (4, 50.0)
    """
    plain: dict[str, Granularity] = {
        "weight": WEIGHT,
        "kernel": Kernel(),
        "fanin": FanIn(),
        "channel": Granularity("channel", removes=True),
    }
    if isinstance(name, str) and name in plain:
        return plain[name]
    pattern = neighbours(name)
    if pattern:
        return Neighbours(name, keep=pattern[0], of=pattern[1])
    block = re.fullmatch(r"block:([1-9]\d{0,3})x([1-9]\d{0,3})", str(name))
    if block and int(block[1]) * int(block[2]) > 1:
        return Block(name, outputs=int(block[1]), inputs=int(block[2]))
    raise ValueError(f"{not_one_of('granularity', str(name), CHOICES)} (or any other N:M, block:AxB)")


def whole_units(budget: Budget, costs: Mapping[str, int], at_least: int = 0) -> Budget:
    """The budget with a whole number of units in every pool of one layer.

    costs: of a unit, by layer. at_least: units that a layer keeps. The sum stays, but for less than the
    cheapest unit of a layer that is cut short. Raises ValueError where `at_least` asks for more than the sum.
    """
    single = {pool.names[0]: pool.keep for pool in budget if len(pool.names) == 1}
    if all(costs[name] == 1 for name in single) and not at_least:
        return budget
    keeps = {name: max(keep // costs[name], at_least) * costs[name] for name, keep in single.items()}
    left = sum(single.values()) - sum(keeps.values())
    while left < 0:  # what `at_least` lent comes from those that keep most above it, in units
        name = max(keeps, key=lambda name: keeps[name] // costs[name])
        if keeps[name] // costs[name] <= at_least:
            asked = sum(costs.values()) * at_least
            raise ValueError(
                f"{sum(single.values()):,} weights to keep are fewer than the {asked:,} output neurons that "
                "keep an input each: use a lower ratio"
            )
        keeps[name] -= costs[name]
        left += costs[name]
    for name in sorted(keeps, key=lambda name: (keeps[name] - single[name]) / costs[name]):
        # a unit that its layer was cut short by is given back where it fits
        if keeps[name] < single[name] and costs[name] <= left:
            keeps[name] += costs[name]
            left -= costs[name]
    return tuple(Pool(pool.names, keeps[pool.names[0]]) if len(pool.names) == 1 else pool for pool in budget)


@dataclass(frozen=True)
class Grain:
    """A granularity with the cost of its units.

    uses: multiply-adds of one weight, by parameter name, where a budget counts them; None = it counts
    weights.
    """

    granularity: Granularity = WEIGHT
    uses: Mapping[str, int] | None = None

    @property
    def plain(self) -> bool:
        """Whether a unit is one weight, and costs one."""
        return self.granularity == WEIGHT and self.uses is None

    @property
    def singles(self) -> bool:
        """Whether what is ranked and chosen are single weights."""
        return self.granularity == WEIGHT or not self.granularity.whole

    @property
    def by_weights(self) -> Grain:
        """The same parts, which cost their weights."""
        return Grain(self.granularity)

    def weight_cost(self, name: str) -> int:
        """Of one weight of a layer."""
        return 1 if self.uses is None else self.uses[name]

    def unit_cost(self, name: str, shape: Sequence[int]) -> int:
        """Of a unit that is kept or pruned as one."""
        size = 1 if self.singles else self.granularity.size(shape)
        return size * self.weight_cost(name)

    def unit_costs(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """Layer -> cost of one of its units."""
        return {name: self.unit_cost(name, shape) for name, shape in shapes.items()}

    def costs(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """Layer -> cost of all its weights."""
        return {name: math.prod(shape) * self.weight_cost(name) for name, shape in shapes.items()}

    def cost(self, mask: Mapping[str, Tensor]) -> int:
        """Of what a mask keeps."""
        return sum(int(kept.count_nonzero()) * self.weight_cost(name) for name, kept in mask.items())

    def unit_scores(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores of units: sums over their weights, float64; of single weights as they are."""
        if self.singles:
            return dict(scores)
        return {name: self.granularity.parts(of).sum(-1, dtype=torch.float64) for name, of in scores.items()}

    def units(self, mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The units that a mask keeps, or that are candidates: those of which all weights are."""
        if self.singles:
            return dict(mask)
        return {name: self.granularity.parts(kept).all(-1) for name, kept in mask.items()}

    def spread(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        """Units of a layer (bool) -> its mask."""
        if self.singles:
            return units
        size = self.granularity.size(shape)
        parts = units.unsqueeze(-1).expand(*units.shape, size)
        return self.granularity.joined(parts, shape).contiguous()

    def masked(
        self,
        units: Mapping[str, Tensor],
        shapes: Mapping[str, Sequence[int]],
        device: torch.device | None = None,
    ) -> dict[str, Tensor]:
        """The mask over layers of these shapes that keeps these units."""
        return {name: self.spread(units[name], shape) for name, shape in shapes.items()}

    def best_of_parts(self, standings: Tensor, keep: int) -> Tensor:
        """The mask of a layer that keeps the `keep` weights of the smallest standing in every part, ties by
        position."""
        parts = self.granularity.parts(standings)
        best = parts.argsort(dim=-1, stable=True)[..., :keep]
        kept = torch.zeros_like(parts, dtype=torch.bool).scatter_(-1, best, True)
        return self.granularity.joined(kept, standings.shape).contiguous()


WEIGHTS = Grain()  # single weights, each of cost 1


def check_parts(granularity: Granularity, mask: Mapping[str, Tensor]) -> None:
    """Raises ValueError that names the first layer whose mask is not of this granularity."""
    for name, kept in mask.items() if granularity != WEIGHT else ():
        wrong = granularity.flaw(kept) if kept.numel() else "has no weights"
        if wrong:
            raise ValueError(f"the mask is not of granularity {granularity.name}: layer {name!r} {wrong}")


def count_parts(granularity: Granularity, mask: Mapping[str, Tensor]) -> tuple[int, int]:
    """(parts that hold a kept weight, all parts)."""
    kept = sum(int(granularity.parts(of).any(-1).count_nonzero()) for of in mask.values())
    return kept, sum(of.numel() // granularity.size(of.shape) for of in mask.values())


def _reads_second(shape: Sequence[int]) -> bool:
    """Whether outputs stand first and inputs second, as granularities over channels need it."""
    return len(shape) >= 2 and getattr(shape, "kind", LINEAR) in INPUTS_SECOND
