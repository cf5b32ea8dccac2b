"""Masked: holds a network to a mask while it trains.

A pruned weight is 0 in the parameter, its gradient is masked after backward, and the weight is zeroed again
after the optimiser's step, because weight decay and momentum would revive it. `attach` does both by hooks;
whoever has a loop of their own may call `mask_gradients` and `after_step` instead, with the same result bit
for bit. No second copy of the weights: one byte of bookkeeping (a bool) per weight, and the weights are
looked up by name at each use, so that a network may be loaded anew, moved, converted or wrapped in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .attaching import Attachment
from .lookup import find_weight
from .masks import Mask, apply, check_mask, check_strided, count, size
from .report import certificate
from .shards import is_shard, part, part_like, settle, whole_like
from .verifying import check_asked, verify
from .voters import Owners
from .zeroing import zero_pruned


class Masked:
    """Keeps pruned weights at 0: after `attach(optimizer)` by itself, or by `mask_gradients` before and
    `after_step` after every optimiser step.

    step: finished steps, 1-based. figures: what the last change of the mask gave to log, {} before any.
    batch: the batch of the step at hand, set by whoever attaches a mask that moves; None = unknown.
    """

    moves = False  # whether the mask changes after a step
    parts: tuple[str, ...] = ("mask",)  # what a saved state must hold

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        *,
        owners: Owners | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        """Zeroes the pruned weights. Weights that the mask does not name are left alone.

        owners, asked: for the certificate, as `certificate` takes them; None = not known.
        Raises ValueError, naming the layer, when the mask does not fit.
        """
        check_mask(model, mask)
        self.model = model
        self.owners: Owners = {} if owners is None else owners
        self.asked = dict(asked or {})
        weights = {name: find_weight(model, name) for name in mask}
        self._sharded = any(map(is_shard, weights.values()))
        # of a sharded weight this process's part
        self._kept: Mask = {
            name: part_like(kept, weights[name]).to(weights[name].device, copy=True)
            for name, kept in mask.items()
        }
        self._certificate: dict[str, Any] | None = None
        self._attachment: Attachment | None = None
        self.step = 0
        self.figures: dict[str, float] = {}
        self.batch: Any = None
        apply(model, mask)

    @property
    def mask(self) -> Mask:
        """What is kept now (a copy); of a sharded network whole, which all processes must ask for."""
        return {name: kept.clone() for name, kept in self._whole().items()}

    def _whole(self) -> Mask:
        if not self._sharded:
            return self._kept
        return {name: whole_like(self._kept[name], weight) for name, weight in self.weights.items()}

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """Which elements of a weight the optimiser trains, by name: those kept. Not to be written."""
        return self._kept

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The network's present parameters that the mask covers, by name. Raises ValueError for one that is
        gone."""
        self.settle()
        return {name: find_weight(self.model, name) for name in self._kept}

    @property
    def ready(self) -> bool:
        """Whether the mask has the size that it will end with."""
        return True

    @property
    def density(self) -> float:
        """Kept weights / weights that the mask covers."""
        mask = self._whole()
        return count(mask) / size(mask)

    @property
    def certificate(self) -> dict[str, Any]:
        """What was asked and what the mask keeps now, in plain values (prune_utils.certificate)."""
        if self._certificate is None:
            self._certificate = certificate(
                self._whole(), self.owners, self.asked, getattr(self.owners, "coverage", self.model)
            )
        return self._certificate

    def verify(self, model: nn.Module | None = None) -> dict[str, Any]:
        """Whether the network is what the certificate says; see `prune_utils.verify`.

        model: another network of the same layers, e.g. an average of the weights; None = the masked one.
        Raises ValueError that names the first layer that is not; and, from the last change of its size on,
            for a mask that keeps another number than the ratio asks for.
        """
        self.settle()
        if self.ready:
            check_asked(self.certificate, self._whole())
        return verify(self.model if model is None else model, self._whole(), self.certificate)

    def attach(self, *optimizers: Any) -> Masked:
        """From now on nothing need be called: pruned gradients are 0 as soon as backward has made them,
        before anybody clips them, and pruned weights are 0 after every optimiser's step. Returns self.

        optimizers: every optimiser that trains this network; a step ends with the step of the last one.
        A mask of these weights that was attached before is detached: the newest holds. Masks of other weights
        of the network stay.
        Raises ValueError: none given, not a torch optimiser, one that this mask cannot go with, attached
            already, or another mask holds some of these weights and others beside.
        """
        if self._attachment is not None:
            raise ValueError(
                "the mask is attached already: detach it first, or give all optimizers in one call"
            )
        attachment = Attachment(self, optimizers)
        self.check_optimizers(attachment.optimizers)
        attachment.open()
        self._attachment = attachment
        return self

    def detach(self) -> None:
        """Takes the hooks away. The weights stay as they are, and are held no longer."""
        if self._attachment is not None:
            self._attachment.close()
            self._attachment = None

    def check_optimizers(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Raises ValueError for an optimizer that this mask cannot go with."""
        for optimizer in optimizers:
            if self.moves and isinstance(optimizer, torch.optim.LBFGS):
                raise ValueError(
                    "LBFGS keeps one history of all weights together, which goes wrong where a mask moves: "
                    "use an optimizer with state for each weight, or a method whose mask stays"
                )

    @property
    def attached(self) -> bool:
        """Whether hooks hold the mask."""
        return self._attachment is not None

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Call after backward and before anything that reads gradients (unscaling, clipping, the step)."""
        for name in self._kept:
            self.mask_gradient(name)

    @torch.no_grad()
    def mask_gradient(self, name: str) -> None:
        """The same for one weight. Raises ValueError for a gradient in sparse storage."""
        gradient = find_weight(self.model, name).grad
        if gradient is None:
            return
        check_strided(name, gradient)
        zero_pruned(part(gradient), self._kept_of(name, gradient))

    @torch.no_grad()
    def after_step(self, step: int, batch: Any) -> dict[str, float]:
        """Call after the optimiser's step. step: finished steps, 1-based. Returns figures to log."""
        self.zero_pruned()
        self.step = step
        return {}

    @torch.no_grad()
    def zero_pruned(self, names: Iterable[str] | None = None) -> None:
        """Pruned weights become 0, whatever they were. names: of the mask's weights, None = all."""
        self.settle()
        for name in self._kept if names is None else names:
            weight = find_weight(self.model, name)
            zero_pruned(part(weight), self._kept_of(name, weight))

    def may_hold(self, kept: Tensor, first: Tensor) -> bool:
        """Whether a run that began with the mask `first` of a layer may hold `kept` later."""
        return torch.equal(kept, first)

    def settle(self) -> None:
        """Of a sharded network every parameter is its shard again."""
        if self._sharded:
            settle(self.model)

    def state_dict(self) -> dict[str, Any]:
        """The mask and how far it has come; tensors and plain values only."""
        return {"mask": self.mask, "step": self.step}

    def to_come(self) -> dict[str, Any]:
        """What a later `state_dict` may hold where the first one has None or {}: by the part's name the whole
        of it. None is replaced by all of it, {} is filled bit by bit."""
        return {}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the mask and zeroes what it prunes. Raises ValueError, before anything is changed, when
        it does not fit, and for the state of another kind."""
        self.check_state(state)
        self._set_mask(state["mask"])
        self.zero_pruned()
        self.step = int(state.get("step", 0))

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for a state that this cannot take over."""
        for name in self.parts:
            if name not in state:
                raise ValueError(
                    f"saved state lacks {name!r}, which a {type(self).__name__} has: it is of another kind"
                )
        check_mask(self.model, state["mask"])
        missing = sorted(set(self._kept) ^ set(state["mask"]))
        if missing:
            raise ValueError(f"saved mask and network differ in layer {missing[0]!r}")

    def _set_mask(self, mask: Mapping[str, Tensor]) -> None:
        for name, kept in mask.items():
            if self._sharded:
                kept = part_like(kept, find_weight(self.model, name))
            self._kept[name].copy_(kept)
        self._certificate = None

    def _kept_of(self, name: str, like: Tensor) -> Tensor:
        """The mask of a weight, on the device where the weight is now."""
        if self._kept[name].device != like.device:
            self._kept[name] = self._kept[name].to(like.device)
        return self._kept[name]
