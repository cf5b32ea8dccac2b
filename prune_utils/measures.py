"""Measures: what a criterion is told of the gradients, by voter and owned weight.

Most are sums over the batches of some function of the gradient. `curvature` is the product of Hessian and
gradient (GraSP, Wang et al., ICLR 2020) and alone needs a second backward pass; `flow` (SynFlow, Tanaka et
al., NeurIPS 2020) looks at no data and no loss. A measure is a function of a Survey; write your own likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .copying import copied
from .data import Forward, predict
from .masks import Scores
from .parameters import find_parameters, unwrap
from .shards import sharded
from .voters import Batch, Loss, Voter


@dataclass(frozen=True)
class Survey:
    """What a measure may use.

    sums(voters, what): by voter and owned weight, the sum over all batches (of all processes) of what(dL/dw);
    `what` gives a tensor of its own. batches, forward: as `score` takes them.
    """

    model: nn.Module
    voters: Sequence[Voter]
    batches: Iterable[tuple[int, Batch]] | Mapping[str, Iterable[Batch]]
    sums: Callable[[Sequence[Voter], Callable[[Tensor], Tensor]], dict[str, Scores]]
    forward: Forward | None = None


Measure = Callable[[Survey], dict[str, Scores]]
"""What a criterion is told of the gradients: (survey) -> by voter and owned weight."""


def absolute(survey: Survey) -> dict[str, Scores]:
    """sum |g|: signs do not cancel between batches."""
    return survey.sums(survey.voters, torch.abs)


def signed(survey: Survey) -> dict[str, Scores]:
    """sum g: the gradient of the loss of all batches together."""
    return survey.sums(survey.voters, torch.clone)


def squared(survey: Survey) -> dict[str, Scores]:
    """sum g^2, one gradient per batch."""
    return survey.sums(survey.voters, torch.square)


def _refuse_shards(survey: Survey) -> None:
    if sharded(survey.model):
        raise ValueError(
            "this criterion differentiates twice, or a copy, which sharded networks do not allow: choose one "
            "of a single backward pass, such as snip"
        )


def curvature(survey: Survey) -> dict[str, Scores]:
    """H g with the Hessian and the gradient of all batches together: the gradient of <g, constant g>.

    Reads the batches twice; its memory is that of a graph through the backward pass.
    Raises ValueError for an iterator, which can be read once.
    """
    _refuse_shards(survey)
    if isinstance(survey.batches, Iterator):
        raise ValueError("this criterion reads the batches twice: pass a list, not an iterator")
    towards = signed(survey)
    weights = find_parameters(survey.model, {name for voter in survey.voters for name in voter.owns})

    def slope_of(loss: Loss, direction: Scores) -> Loss:
        def slope(predictions: Any, targets: Any) -> Tensor | None:
            value = loss(predictions, targets)
            if value is None:
                return None
            leaves = [weights[name] for name in direction]
            found = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True)
            parts = [
                (gradient * direction[name]).sum()
                for name, gradient in zip(direction, found, strict=True)
                if gradient is not None
            ]
            return sum(parts, start=0.0 * value)  # a loss without curvature has the product 0

        return slope

    def along(voter: Voter) -> Voter:
        direction = towards[voter.name]
        # along one direction the slope of a sum is the sum of its parts' slopes
        parts = {task: slope_of(part, direction) for task, part in voter.parts.items()}
        return replace(voter, loss=slope_of(voter.loss, direction), parts=parts)

    return survey.sums([along(voter) for voter in survey.voters], torch.clone)


def flow(survey: Survey) -> dict[str, Scores]:
    """dR/d|w|, R = the sum of all outputs for an input of ones, every parameter and buffer made absolute.

    In evaluation mode: no dropout, and norms do not mix examples; in float64, and where the network does not
    run so because it converts its input, in its own precision. Of the batches only the shape of the first
    input is used; where that is indices (int32, int64), its first example is the input. Every voter is told
    the same: there is no task in it.
    Raises ValueError where there is no batch, or the flow exceeds the precision.
    """
    _refuse_shards(survey)
    batches = survey.batches
    if isinstance(batches, Mapping):
        batches = ((0, batch) for of in batches.values() for batch in of)
    batch = next(iter(batches), (0, None))[1]
    if batch is None:
        raise ValueError("scoring needs at least one batch, and there is none")
    ones = (_ones(batch[0]), None) if survey.forward is None else _ones(batch)
    names = {name for voter in survey.voters for name in voter.owns}

    def total_of(network: nn.Module, ones: Any) -> tuple[dict[str, Tensor], Tensor]:
        with torch.no_grad():
            for tensor in (*network.parameters(), *network.buffers()):
                if tensor.is_floating_point():
                    tensor.abs_()
        leaves = {name: weight.requires_grad_() for name, weight in find_parameters(network, names).items()}
        made = predict(unwrap(network), ones, survey.forward)
        return leaves, torch.stack([part.sum() for part in _tensors(made)]).sum()

    with torch.enable_grad():
        try:
            leaves, total = total_of(copied(survey.model).double().eval(), _double(ones))
        except Exception:  # float32 meets float64, or the network looks at the type itself
            leaves, total = total_of(copied(survey.model).eval(), ones)
        if not total.is_meta and not total.isfinite():  # no |w| dR/d|w| exceeds R
            kind = str(total.dtype).removeprefix("torch.")
            raise ValueError(f"the flow through the network is not finite in {kind}")
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    flows = {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }
    return {
        voter.name: {name: flows[name].clone() for name in flows if name in voter.owns}
        for voter in survey.voters
    }


def _ones(inputs: Any) -> Any:
    """The same structure with every floating tensor full of ones; of a plain tensor [N, ...] one example, of
    indices as they are."""
    if isinstance(inputs, Tensor):
        if inputs.dtype in (torch.int32, torch.int64):
            return inputs[:1]
        return torch.ones_like(inputs[:1], dtype=_floating(inputs))
    return _like(inputs, lambda t: torch.ones_like(t) if t.is_floating_point() else t)


def _floating(inputs: Tensor) -> torch.dtype:
    return inputs.dtype if inputs.is_floating_point() else torch.get_default_dtype()


def _double(inputs: Any) -> Any:
    return _like(inputs, lambda t: t.double() if t.is_floating_point() else t)


def _like(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(inputs, Tensor):
        return change(inputs)
    if isinstance(inputs, Mapping):
        return {key: _like(value, change) for key, value in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return type(inputs)(_like(value, change) for value in inputs)
    return inputs


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """Every floating tensor of an output, whatever holds it."""
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from _tensors(value)
    elif isinstance(outputs, (list, tuple)):
        for value in outputs:
            yield from _tensors(value)
