"""What the training loop knows of sparsity: two calls around the optimiser's step, and a state to save.

Whoever prunes implements this (prune_utils.masked.Masked and what builds on it, or your own). One with dense
phases also has `twin`, the state of the whole network at the end of the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class Sparsifier(Protocol):
    """Keeps pruned weights at 0 and may change which weights are pruned."""

    @property
    def mask(self) -> dict[str, Tensor] | None:
        """What is kept now, bool by parameter name; None = the network is dense."""

    @property
    def ready(self) -> bool:
        """Whether the network is as sparse as asked, so that its weights may be the best ones."""

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """Parameter name -> which of its elements the optimiser trains, bool; all of what is not named."""

    def mask_gradients(self) -> None:
        """After backward, before the optimiser's step."""

    def after_step(self, step: int, batch: Any) -> dict[str, float]:
        """After the optimiser's step number `step` (1 is the first): zero again, maybe prune or regrow.

        Returns figures worth logging, {} where nothing changed.
        """

    def may_hold(self, kept: Tensor, first: Tensor) -> bool:
        """Whether a run that began with the mask `first` of a layer may hold `kept` later."""

    def state_dict(self) -> dict:
        """Tensors and plain values only."""

    def to_come(self) -> dict[str, Any]:
        """What a later `state_dict` may hold where the first one has None or {}, by the part's name."""

    def load_state_dict(self, state: dict) -> None: ...


class Dense:
    """The sparsifier of a dense network: nothing to do."""

    mask = None
    ready = True
    trained: Mapping[str, Tensor] = {}

    def mask_gradients(self) -> None:
        pass

    def after_step(self, step: int, batch: Any) -> dict[str, float]:
        return {}

    def may_hold(self, kept: Tensor, first: Tensor) -> bool:
        return False

    def state_dict(self) -> dict:
        return {}

    def to_come(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass
