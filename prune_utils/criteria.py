"""Criteria: how much a voter needs a weight, from the weight and the gradients of the voter's loss.

`gradient` is sum over batches of |dL/dw|: absolute values, so that signs do not cancel. Because w is the same
in every batch, |w| * sum |g| is the sum over batches of |w g| (the gradient with respect to a mask at 1; Lee
et al., SNIP, ICLR 2019). To add a criterion: write a function of the same form in a new file, and a line in
CRITERIA. Left out: criteria that need another forward pass than the voter's (GraSP, SynFlow).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Saliency = Callable[[Tensor, Tensor | None, torch.Generator], Tensor]


@dataclass(frozen=True)
class Criterion:
    """saliency(weight, gradient, generator) -> tensor of the weight's shape, larger = more worth keeping.

    weight: detached, not to be written. gradient: sum of |dL/dw|, or None unless `needs_gradient`; may be
    overwritten, so that the result needs no memory of its own. generator: draws in main memory.
    """

    saliency: Saliency
    needs_gradient: bool
    formula: str


def snip(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    return gradient.mul_(weight.abs())


def taylor(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    return gradient.mul_(weight.square())


def gradient(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    return gradient


def magnitude(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    return weight.abs()


def noise(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    return torch.rand(weight.shape, generator=generator).to(weight.device)


CRITERIA: dict[str, Criterion] = {
    "snip": Criterion(snip, needs_gradient=True, formula="|w g|"),
    "taylor": Criterion(taylor, needs_gradient=True, formula="w^2 |g|"),
    "gradient": Criterion(gradient, needs_gradient=True, formula="|g|"),
    "magnitude": Criterion(magnitude, needs_gradient=False, formula="|w|"),
    "random": Criterion(noise, needs_gradient=False, formula="noise"),
}


def find_criterion(name: str) -> Criterion:
    """The criterion of that name. Raises ValueError with the choices."""
    if name not in CRITERIA:
        raise ValueError(f"criterion {name!r} is not one of {', '.join(sorted(CRITERIA))}")
    return CRITERIA[name]
