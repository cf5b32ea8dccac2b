"""The exponential moving average of a network's weights along a run, evaluated and kept in their place.

It sits nearer the middle of what the last steps wander about (Polyak and Juditsky, SIAM J. Control and
Optimization, 1992; Tarvainen and Valpola, NeurIPS 2017). Training itself never sees it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


class Average:
    """`network` here is a copy of the one that is trained, with averaged parameters and buffers.

    decay: in [0, 1); after the update of step t the average is d times itself plus 1 - d times the weights,
    d = min(decay, (1 + t) / (10 + t)), so that a short run does not remember its initialisation.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._averaged = AveragedModel(network, multi_avg_fn=self._mix, use_buffers=True)
        self._averaged.update_parameters(network)  # the first only copies

    @property
    def network(self) -> nn.Module:
        return self._averaged.module

    def update(self, network: nn.Module, mask: Mapping[str, Tensor]) -> None:
        """Take in the weights as they are after a step.

        mask: weight name -> what is kept now, bool; the average is 0 elsewhere, whatever was kept earlier.
        """
        self._averaged.update_parameters(network)
        with torch.no_grad():
            for name, weight in self.network.named_parameters():
                if name in mask:
                    weight.mul_(mask[name])

    def state_dict(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Tensor], steps: int) -> None:
        """Go on from the average after so many steps."""
        self.network.load_state_dict(state)
        self._averaged.n_averaged.fill_(steps + 1)

    @torch.no_grad()
    def _mix(self, averages: Tensors, weights: Tensors, updates: Tensor | int) -> None:
        """updates: how often the average was set before, its first copy included."""
        if not averages[0].is_floating_point():  # counters
            torch._foreach_copy_(averages, weights)
            return
        step = int(updates)
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(averages, weights, 1 - decay)
