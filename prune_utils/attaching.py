"""Hooks that hold a mask by themselves: on gradients as backward makes them, on optimisers around their step.

Nothing hangs on modules, so that copies of the network (averages, torch.save) carry no hooks along.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor, nn

from .isolation import looking
from .lookup import find_weight


class Holder(Protocol):
    """What the hooks need of a mask that is held: `Masked` and those that are like it."""

    model: nn.Module
    step: int
    batch: Any
    figures: dict[str, float]

    @property
    def weights(self) -> dict[str, nn.Parameter]: ...
    def mask_gradient(self, name: str) -> None: ...
    def settle(self) -> None: ...
    def detach(self) -> None: ...
    def zero_pruned(self, names: Iterable[str] | None = None) -> None: ...
    def after_step(self, step: int, batch: Any) -> dict[str, float]: ...


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimiser inside a trainer's wrapper (which shows it as `optimizer`).

    Raises ValueError for anything else.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            f"{type(optimizer).__name__} is not a torch.optim.Optimizer, whose step can be followed: call "
            "mask_gradients() before its step and after_step(step, batch) after it, step = 1, 2, ..."
        )
    return optimizer


class Attachment:
    """The hooks of one mask; `open` sets them, `close` takes them away."""

    def __init__(self, masked: Holder, optimizers: Sequence[Any]) -> None:
        if not optimizers:
            raise ValueError("attach needs the optimizers that train the network")
        self.masked = masked
        self.optimizers = tuple(unwrapped(optimizer) for optimizer in optimizers)
        self._given = tuple(optimizers)
        self._weights = masked.weights
        # at the last look: the weights of the mask that each optimiser trains, and all that it trains
        self._held: list[dict[str, nn.Parameter]] = [{} for _ in self.optimizers]
        self._sizes = [0 for _ in self.optimizers]
        for number in range(len(self.optimizers)):
            self._look(number)
        if not any(self._held):
            raise ValueError(
                "the optimizers hold no weight of the mask: make them from the parameters of the pruned "
                "network, after it was loaded and moved"
            )
        # name -> (gradient, version) that is masked already
        self._masked: dict[str, tuple[int, int]] = {}
        self._handles: list[Any] = []

    def open(self) -> None:
        self._replace()
        for name, weight in self._weights.items():
            if weight.is_floating_point():
                hook, frozen = partial(self._after_backward, name), not weight.requires_grad
                weight.requires_grad_(True)  # else no hook can be set, for the time when it is unfrozen
                self._handles.append(weight.register_post_accumulate_grad_hook(hook))
                weight.requires_grad_(not frozen)
        for number, optimizer in enumerate(self.optimizers):
            self._handles.append(optimizer.register_step_pre_hook(partial(self._before_step, number)))
            self._handles.append(optimizer.register_step_post_hook(partial(self._after_step, number)))
            outer = self._given[number]
            if outer is not optimizer and hasattr(outer, "_optimizer_step_post_hooks"):
                # an optimiser around another (Lookahead) may write after the step of the inner one
                self._handles.append(outer.register_step_post_hook(partial(self._after_outer_step, number)))
        _open.add(self)

    def _replace(self) -> None:
        """Detaches the masks that hold these weights. Raises ValueError where one holds others beside."""
        mine = {id(weight) for weight in self._weights.values()}
        for other in list(_open):
            shared = [name for name, weight in other._weights.items() if id(weight) in mine]
            if 0 < len(shared) < len(other._weights):
                raise ValueError(
                    f"another mask is attached to {shared[0]!r} of this network, and to weights beside: "
                    "detach it first"
                )
            if shared:
                other.masked.detach()

    def _look(self, number: int) -> None:
        """Notes the weights that an optimiser trains, where parameters came to it since the last look."""
        groups = self.optimizers[number].param_groups
        size = sum(len(group["params"]) for group in groups)
        if size != self._sizes[number]:
            theirs = {id(weight) for group in groups for weight in group["params"]}
            weights = self.masked.weights.items()
            self._held[number] |= {name: weight for name, weight in weights if id(weight) in theirs}
            self._sizes[number] = size

    def close(self) -> None:
        _open.discard(self)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _after_backward(self, name: str, weight: Tensor) -> None:
        if looking(self.masked.model):
            return
        if find_weight(self.masked.model, name) is weight:  # not while shards are gathered
            self.masked.mask_gradient(name)
            self._masked[name] = _version(weight)

    def _before_step(self, number: int, *step: Any) -> None:
        """Gradients that did not come from backward, or were written since, are masked as well."""
        self.masked.settle()
        self._look(number)
        for name, held in self._held[number].items():
            weight = find_weight(self.masked.model, name)
            if weight is not held:
                raise ValueError(
                    f"{name!r} of the network is not the parameter that the optimizer trains (loaded with "
                    "assign=True?): detach, make the optimizers anew, attach again"
                )
            if weight.grad is not None and self._masked.get(name) != _version(weight):
                self.masked.mask_gradient(name)

    def _after_step(self, number: int, *step: Any) -> None:
        self._masked.clear()  # gradients of the next step may be put there by hand, into the same tensors
        if number < len(self.optimizers) - 1:
            self.masked.zero_pruned(self._held[number])
        else:
            self.masked.figures = self.masked.after_step(self.masked.step + 1, self.masked.batch)

    def _after_outer_step(self, number: int, *step: Any) -> None:
        self.masked.zero_pruned(self._held[number])


_open: WeakSet[Attachment] = WeakSet()  # those whose hooks are set


def _version(weight: Tensor) -> tuple[int, int]:
    return id(weight.grad), weight.grad._version if weight.grad is not None else 0
