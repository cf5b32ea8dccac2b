"""The exponential moving average of a network's weights along a run, evaluated and kept in their place.

It sits nearer the middle of what the last steps wander about (Polyak and Juditsky, SIAM J. Control and
Optimization, 1992; Tarvainen and Valpola, NeurIPS 2017). Training itself never sees it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn


class Average:
    """`network` here is a copy of the one that is trained, with averaged parameters and buffers.

    decay: in [0, 1); after the update of step t the average is d times itself plus 1 - d times the weights,
    d = min(decay, (1 + t) / (10 + t)), so that a short run does not remember its initialisation.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """network: changes its weights in place as long as it is averaged."""
        self.decay, self._steps = decay, 0
        self.network = copy.deepcopy(network)
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        values = [pair for pair in pairs if pair[0].is_floating_point()]
        self._values, self._now = [value for value, _ in values], [now for _, now in values]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._weights = dict(self.network.named_parameters())

    @torch.no_grad()
    def update(self, mask: Mapping[str, Tensor]) -> None:
        """Take in the weights as they are after a step.

        mask: weight name -> what is kept now, bool; the average is 0 elsewhere, whatever was kept earlier.
        """
        self._steps += 1
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._values, self._now, 1 - decay)
        for counter, now in self._counters:
            counter.copy_(now)
        for name, kept in mask.items():
            self._weights[name].mul_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Tensor], steps: int) -> None:
        """Go on from the average after so many steps."""
        self.network.load_state_dict(state)
        self._steps = steps


def _tensors(network: nn.Module) -> list[Tensor]:
    return list(chain(network.parameters(), network.buffers()))
