"""Criteria: how much a voter needs a weight, from the weight and the gradients of the voter's loss.

What it is told of the gradients is the criterion's choice of a measure (measures.py): sums over the batches
of |g| (signs must not cancel), of g (they may), of g^2, ... Because w is the same in every batch,
|w| * sum |g| is the sum over batches of |w g| (the gradient with respect to a mask at 1; Lee et al., SNIP,
ICLR 2019). To add a criterion: write a function of the same form in a new file, and a line in CRITERIA.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .channelwise import Channelwise, group_magnitude
from .measures import Measure, absolute, curvature, flow, signed, squared
from .ranking import descending
from .text import not_one_of

Saliency = Callable[[Tensor, Tensor | None, torch.Generator], Tensor]


@dataclass(frozen=True)
class Criterion:
    """saliency(weight, gradient, generator) -> tensor of the weight's shape, larger = more worth keeping.

    weight: detached, not to be written; the whole tensor of a layer. gradient: what the measure says of it,
    None without one; may be overwritten, so that the result needs no memory of its own. generator: draws in
    main memory. measure: see measures.py; None = no gradient is needed and no batch is read. batches: how
    many are read at most, None = all there are.
    channels: how masks of whole channels are scored instead, by one voter: (network, grain) -> scores by the
    first layer that makes them.
    """

    saliency: Saliency
    formula: str
    measure: Measure | None = None
    batches: int | None = None
    channels: Callable[[nn.Module, Channelwise], dict[str, Tensor]] | None = None

    @property
    def needs_gradient(self) -> bool:
        """Whether batches are read."""
        return self.measure is not None


def times_magnitude(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    """|w| times the size of the sum."""
    return _known(gradient).abs_().mul_(weight.abs())


def times_weight(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    """Signed: below 0 where the weight does harm."""
    return _known(gradient).mul_(weight)


def times_square(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    return _known(gradient).mul_(square(weight, None, generator))


def itself(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    return _known(gradient)


def magnitude(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    return weight.abs()


def square(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    """In float32 or better."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32)).square()


def lamp(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    """w^2 / the sum of the squares that are not smaller in the layer (of equals, the earlier ones); float64.

    In [0, 1], and 1 for every layer's largest weight. Lee et al., "Layer-adaptive sparsity for the
    magnitude-based pruning", ICLR 2021, equation 3.
    """
    squares = weight.reshape(-1).double().square()
    order = descending(squares)
    ranked = squares[order]
    scores = torch.empty_like(squares)
    scores[order] = torch.where(ranked > 0, ranked / ranked.cumsum(0), 0.0)
    return scores.reshape(weight.shape)


def noise(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    return torch.rand(weight.shape, generator=generator).to(weight.device)


def _known(gradient: Tensor | None) -> Tensor:
    if gradient is None:
        raise ValueError("this saliency needs a sum of gradients: name one as the criterion's `measure`")
    return gradient


CRITERIA: dict[str, Criterion] = {
    "snip": Criterion(times_magnitude, "sum |w g|", absolute),
    "snip_signed": Criterion(times_magnitude, "|sum w g|", signed),
    "taylor": Criterion(times_square, "w^2 sum |g|", absolute),
    # the diagonal of the empirical Fisher information, times the number of batches, which ranks alike
    "fisher": Criterion(times_square, "w^2 sum g^2", squared),
    "gradient": Criterion(itself, "sum |g|", absolute),
    # without w the squared gradient falls by 2 w (H g), to first order: kept is what the flow needs most
    "grasp": Criterion(times_weight, "w (H g)", curvature),
    "synflow": Criterion(times_magnitude, "|w| dR/d|w|", flow, batches=1),
    "magnitude": Criterion(magnitude, "|w|"),
    "lamp": Criterion(lamp, "w^2 / sum of the squares not smaller in its layer"),
    "group_magnitude": Criterion(
        square,
        "w^2, of a channel by the mean over all that hang together as it does",
        channels=group_magnitude,
    ),
    "random": Criterion(noise, "noise"),
}
"""Criteria by the name that `criterion=` takes, each with its formula."""


def find_criterion(name: str) -> Criterion:
    """The criterion of that name. Raises ValueError with the choices."""
    if name not in CRITERIA:
        raise ValueError(not_one_of("criterion", name, sorted(CRITERIA)))
    return CRITERIA[name]
