"""Progress: how far the loss of every voter has come down, and how loudly it may ask for new weights.

A loss over its first value, divided by the mean of these over the voters, is the relative inverse training
rate of GradNorm (Chen et al., ICML 2018, section 3.2). Who is behind has a rate above 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .arbiters import Arbiter
from .voters import Gather, Loss, Voter

MEMORY = 0.9  # weight of a loss's average so far: one batch says little
LARGEST = 4.0  # factor, and one over the smallest


class Progress:
    """Hears the losses of the voters while they vote.

    strength: factors are rates to this power, at least 0. seen: voter -> [first loss, its average], float64.
    gather: a tensor of every process, None = there is one process; a loss is the mean over all of them.
    """

    def __init__(self, voters: tuple[Voter, ...], strength: float, gather: Gather | None = None) -> None:
        self._heard: dict[str, list[Tensor]] = {voter.name: [] for voter in voters}
        self.voters = tuple(
            replace(voter, loss=_heard(voter.loss, self._heard[voter.name])) for voter in voters
        )
        self.strength, self.gather = strength, gather
        self.seen: dict[str, Tensor] = {}

    def note(self, device: torch.device) -> None:
        """What was heard since the last call joins the averages. device: of the processes' exchange.

        Raises ValueError for a voter whose first loss is not above 0, against which nothing can be measured.
        """
        sums = torch.tensor(
            [[float(sum(losses)), float(len(losses))] for losses in self._heard.values()],
            dtype=torch.float64,
        ).to(device)
        for losses in self._heard.values():
            losses.clear()
        if self.gather is not None:
            sums = torch.stack(tuple(self.gather(sums))).sum(0)
        for voter, (total, number) in zip(self._heard, sums.tolist(), strict=True):
            if not number:  # no label in this batch
                continue
            loss = total / number
            first, average = self.seen.get(voter, torch.tensor([loss, loss])).tolist()
            if not first > 0:
                raise ValueError(
                    f"growth by progress measures the loss of voter {voter!r} against its first value, and "
                    f"that is {first:g}, not above 0"
                )
            average += (1 - MEMORY) * (loss - average)
            self.seen[voter] = torch.tensor([first, average], dtype=torch.float64)

    def factors(self) -> dict[str, float]:
        """Voter -> relative inverse training rate to the power of `strength`, from 1/4 to 4; 1 on average
        where strength is 1. Voters that had no label so far are left out."""
        rates = {voter: float(average / first) for voter, (first, average) in self.seen.items()}
        mean = sum(rates.values()) / len(rates) if rates else 1.0
        powers = {voter: (rate / mean) ** self.strength if mean else 1.0 for voter, rate in rates.items()}
        return {voter: min(max(power, 1 / LARGEST), LARGEST) for voter, power in powers.items()}

    def weighed(self, rule: Arbiter) -> Arbiter:
        """The arbiter, with its voters' factors times those of their progress."""
        ours = self.factors()
        return replace(rule, factors={**rule.factors, **{v: rule.factor(v) * ours[v] for v in ours}})

    def to_come(self) -> dict[str, Tensor]:
        """What `seen` may hold at most, as of a checkpoint."""
        return {voter: torch.zeros(2, dtype=torch.float64) for voter in self._heard}

    def load(self, seen: Mapping[str, Any]) -> None:
        """Takes over what another had seen. Raises ValueError for losses that are not finite or a first that
        is not above 0."""
        for voter, pair in seen.items():
            if not bool(pair.isfinite().all()) or not pair[0] > 0 or pair[1] < 0:
                raise ValueError(f"losses {pair.tolist()} of voter {voter!r} are none that progress is of")
        self.seen = {voter: pair.clone() for voter, pair in seen.items()}


def _heard(loss: Loss, kept: list[Tensor]) -> Loss:
    def heard(predictions: Any, targets: Any) -> Tensor | None:
        value = loss(predictions, targets)
        if value is not None:
            kept.append(value.detach())
        return value

    return heard
