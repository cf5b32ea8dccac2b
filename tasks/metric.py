"""What scores are computed from: states that are sums, so that batches, images and processes add up.

torchmetrics has such a base class too, and imports all its metrics with it, torchvision and scipy for some:
1.5 to 2.9 s and 100 to 260 MB in every command. Left out: states that do not add up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class Metric(nn.Module):
    """States that begin at 0; a subclass adds to them in `update` and computes scores from them in `compute`.

    What is registered otherwise, such as a buffer, is constant.
    """

    def __init__(self) -> None:
        super().__init__()
        self._states: list[str] = []

    def add_state(self, name: str, zeros: Tensor) -> None:
        """From now on the attribute `name` is a state of this shape and type."""
        self.register_buffer(name, zeros, persistent=False)
        self._states.append(name)

    @property
    def states(self) -> dict[str, Tensor]:
        """The states by name, themselves."""
        return {name: getattr(self, name) for name in self._states}

    def reset(self) -> None:
        """All states become 0."""
        for name, state in self.states.items():
            setattr(self, name, torch.zeros_like(state))

    def add_up(self) -> None:
        """The states become the sums over all processes, which must all call this; once, before `compute`."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        for name, state in self.states.items():
            parts = [torch.empty_like(state) for _ in range(distributed.get_world_size())]
            distributed.all_gather(parts, state.contiguous())
            setattr(self, name, torch.stack(parts).sum(0))

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Adds a batch."""
        raise NotImplementedError

    def compute(self) -> Any:
        """The scores of all that was added."""
        raise NotImplementedError
