"""What the training loop knows of sparsity: two calls around the optimiser's step, and a state to save.

Whoever prunes implements this (prune_utils.masks.Masked, Regrowth, Rounds, or your own).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class Sparsifier(Protocol):
    """Keeps pruned weights at 0 and may change which weights are pruned. moves: whether it ever does."""

    moves: bool

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

    def load_state_dict(self, state: dict) -> None: ...


class Dense:
    """The sparsifier of a dense network: nothing to do."""

    ready = True
    moves = False
    trained: Mapping[str, Tensor] = {}

    def mask_gradients(self) -> None:
        pass

    def after_step(self, step: int, batch: Any) -> dict[str, float]:
        return {}

    def may_hold(self, kept: Tensor, first: Tensor) -> bool:
        return False

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass
