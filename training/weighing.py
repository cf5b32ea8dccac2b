"""How the tasks' losses are weighed against each other in training, and what was seen of their gradients.

The fixed weights of the objective come first; a Rule gives each task one more, in every step, from the losses
or from the inner products of the tasks' gradients. Those are of the weights that several tasks share and the
mask keeps, and of all processes together. Who brings a rule: rules.py, or whoever trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from common.gramian import cosines

Gradients = Sequence[Mapping[str, Tensor]]  # of each task: parameter name -> gradient


class Seen(NamedTuple):
    """What a rule may look at in step number `step`; float64, in main memory, the same in all processes.

    losses: [tasks], times their fixed weights. gram: inner products [tasks, tasks] of the gradients of those,
    None for a rule that asks for none. lr: the learning rate of the step.
    """

    step: int
    losses: Tensor
    gram: Tensor | None
    lr: float


class Rule(Protocol):
    """Gives every task a weight. It is asked only in steps whose batch holds every task.

    sees_gradients: whether it looks at the inner products; its weights are then for shared parameters alone.
    looks_again: whether it wants to hear the losses of the same batch after the step.
    """

    sees_gradients: bool
    looks_again: bool

    def weigh(self, seen: Seen) -> Tensor:
        """Weights [tasks], finite. May draw from torch's stream, which is seeded by the step."""

    def look_again(self, losses: Tensor) -> None:
        """losses: as those of the step, after it."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and whole numbers, of the same shapes always."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Weighing:
    """The weighing of one run. Without a rule the objective's fixed weights are all there is.

    tasks: in the objective's order. shared: names of the parameters that several tasks own. every: steps
    between measurements of the gradients for the record, where the rule does not look at them anyway; 0 =
    never. They change no result.
    """

    def __init__(
        self,
        tasks: Sequence[str] = (),
        shared: frozenset[str] = frozenset(),
        rule: Rule | None = None,
        every: int = 0,
    ) -> None:
        self.tasks, self.shared, self.rule, self.every = tuple(tasks), shared, rule, every
        self.measured = self.conflicting = 0
        self.pairs = {f"{one}-{two}": 0 for one, two in combinations(self.tasks, 2)}
        self.figures: dict[str, float] = {}  # of the step at hand
        self.weighed = False  # whether the rule was asked in the step at hand

    def begin(self) -> None:
        """A step begins."""
        self.figures.clear()
        self.weighed = False

    def measures(self, step: int) -> bool:
        """Whether a step of its own is taken for the record alone."""
        sees = self.rule is not None and self.rule.sees_gradients
        return bool(
            self.every and not sees and len(self.tasks) > 1 and self.shared and step % self.every == 0
        )

    def weigh(self, seen: Seen, seed: int) -> Tensor:
        """The rule's weights [tasks]; all 1 without a rule, and where there is nothing finite to go by."""
        useless = seen.gram is not None and not (seen.gram.isfinite().all() and seen.gram.any())
        if self.rule is None or useless or not seen.losses.isfinite().all():
            return torch.ones_like(seen.losses)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            weights = self.rule.weigh(seen)
        if not weights.isfinite().all():
            raise ValueError(f"the tasks' weights are {weights.tolist()} in step {seen.step}: not finite")
        self.weighed = True
        self.figures |= {f"weight/{n}": float(w) for n, w in zip(self.tasks, weights, strict=True)}
        return weights

    def note(self, gram: Tensor) -> None:
        """Count a step's conflicts: pairs of gradients more than a right angle apart."""
        if not gram.isfinite().all():
            return
        angles = cosines(gram)
        places = combinations(range(len(self.tasks)), 2)
        found = {name: float(angles[place]) for name, place in zip(self.pairs, places, strict=True)}
        for name, cosine in found.items():
            self.pairs[name] += cosine < 0
        self.measured += 1
        self.conflicting += any(cosine < 0 for cosine in found.values())
        self.figures |= {f"cosine/{name}": cosine for name, cosine in found.items()}
        self.figures["conflicting_share"] = self.conflicting / self.measured

    @property
    def summary(self) -> dict[str, Any] | None:
        """Steps whose gradients were looked at, and in how many some pair, and each pair, conflicted."""
        if not self.measured:
            return None
        return {"steps": self.measured, "conflicting": self.conflicting, "pairs": dict(self.pairs)}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        counts = {"measured": self.measured, "conflicting": self.conflicting, "pairs": dict(self.pairs)}
        return counts | {"rule": {} if self.rule is None else self.rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.measured, self.conflicting = state["measured"], state["conflicting"]
        self.pairs = dict(state["pairs"])
        if self.rule is not None:
            self.rule.load_state_dict(state["rule"])


def combined(
    gradients: Gradients, weights: Sequence[float], shared: frozenset[str] | None
) -> dict[str, Tensor]:
    """The weighted sum of the tasks' gradients, by parameter. shared: weigh these alone, None = all."""
    total: dict[str, Tensor] = {}
    for of, weight in zip(gradients, weights, strict=True):
        for name, gradient in of.items():
            part = gradient * weight if shared is None or name in shared else gradient
            total[name] = total[name] + part if name in total else part
    return total
