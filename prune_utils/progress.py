"""Progress: how far the loss of every voter has come down, and how loudly it may ask for new weights.

A loss over its first value, divided by the mean of these over the voters, is the relative inverse training
rate of GradNorm (Chen et al., ICML 2018, section 3.2). Who is behind has a rate above 1.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .arbiters import Arbiter
from .gathering import gather_all, several
from .voters import Gather, Loss, Voter

MEMORY = 0.9  # weight of a loss's average so far: one batch says little
LARGEST = 4.0  # factor, and one over the smallest
FAR = 300.0  # no logarithm of a loss or rate that counts is beyond it


@dataclass
class Heard:
    """A loss that keeps its values until they are noted."""

    loss: Loss
    values: list[Tensor] = field(default_factory=list)

    def __call__(self, predictions: Any, targets: Any) -> Tensor | None:
        value = self.loss(predictions, targets)
        if isinstance(value, Tensor):
            self.values.append(value.detach())
        return value


class Progress:
    """Hears the losses of the voters while they vote.

    strength: factors are rates to this power, at least 0. seen: voter -> logarithms of its first loss and of
    the average of its losses, [2] float64. gather: a tensor of every process, None = those of
    torch.distributed, if there are several; a loss is the mean over all of them.
    """

    def __init__(self, voters: tuple[Voter, ...], strength: float, gather: Gather | None = None) -> None:
        self._heard = {voter.name: Heard(voter.loss) for voter in voters}
        self.voters = tuple(replace(voter, loss=self._heard[voter.name]) for voter in voters)
        self.strength, self.gather = strength, gather
        self.seen: dict[str, Tensor] = {}

    def note(self, voted: Collection[str], device: torch.device) -> None:
        """What was heard since the last call joins the averages, of those that had something to say.

        voted: names of these, the same in every process. device: of the processes' exchange. Raises
            ValueError for a first loss that is not above 0, and for a later one below 0: such losses have no
            ratio.
        """
        heard = [[float(value) for value in of.values] for of in self._heard.values()]
        for of in self._heard.values():
            of.values.clear()
        sums = torch.tensor([[sum(of), len(of)] for of in heard], dtype=torch.float64, device=device)
        gather = gather_all if self.gather is None and several() else self.gather
        if gather is not None:
            sums = torch.stack(tuple(gather(sums))).sum(0)
        for voter, (total, number) in zip(self._heard, sums.tolist(), strict=True):
            if voter in voted and number:
                self._note(voter, total / number)

    def _note(self, voter: str, loss: float) -> None:
        before = self.seen.get(voter)
        fits, needed = (loss > 0, "above 0") if before is None else (loss >= 0, "of at least 0")
        if not fits or loss == math.inf:
            raise ValueError(
                f"growth by progress measures every loss against its first, and that of voter {voter!r} is "
                f"{loss:g}: it needs losses {needed}"
            )
        if before is None:
            self.seen[voter] = torch.tensor([math.log(loss)] * 2, dtype=torch.float64)
        else:
            average = MEMORY * before[1].exp() + (1 - MEMORY) * loss
            self.seen[voter] = torch.stack((before[0], average.log()))

    def factors(self) -> dict[str, float]:
        """Voter -> relative inverse training rate to the power of `strength`, within 1/4 and 4. Voters that
        had no label so far are left out."""
        if not self.seen:
            return {}
        first, average = torch.stack(tuple(self.seen.values())).T
        rates = average - first
        powers = self.strength * (rates - rates.logsumexp(0) + math.log(len(rates)))
        most = math.log(LARGEST)
        return dict(zip(self.seen, powers.clamp(-most, most).exp().tolist(), strict=True))

    def weighed(self, rule: Arbiter) -> Arbiter:
        """The arbiter, with its voters' factors times those of their progress."""
        ours = {voter: rule.factor(voter) * factor for voter, factor in self.factors().items()}
        return replace(rule, factors={**rule.factors, **ours})

    def to_come(self) -> dict[str, Tensor]:
        """What `seen` may hold at most, as of a checkpoint."""
        return {voter: torch.zeros(2, dtype=torch.float64) for voter in self._heard}

    def load(self, seen: Mapping[str, Tensor]) -> None:
        """Takes over what another had seen; any finite numbers are logarithms."""
        self.seen = {voter: pair.double().cpu().clamp(-FAR, FAR) for voter, pair in seen.items()}
