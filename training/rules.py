"""Rules: a weight for each task in every step, from the losses (torchjd's scalarizers) or the gradients.

What a scalarizer makes of the losses is minimised by weighing every task's loss with its derivative, which is
how all of them run here: with several processes, parts of a batch and private weights alike. Each has its
paper's settings; the losses come times their fixed weights. To add one: a line in SCALARIZERS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .weighing import Rule, Seen


class Solver(Protocol):
    """From inner products of gradients to weights; prune_utils.weightings has them."""

    def __call__(self, gram: Tensor) -> Tensor: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class FromGradients:
    """A rule that looks at the inner products of the gradients."""

    sees_gradients, looks_again = True, False

    def __init__(self, solver: Solver) -> None:
        self.solver = solver

    def weigh(self, seen: Seen) -> Tensor:
        assert seen.gram is not None
        return self.solver(seen.gram)

    def look_again(self, losses: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return self.solver.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.solver.load_state_dict(state)


class FromLosses:
    """A scalarizer without a state: [tasks] losses -> a scalar."""

    sees_gradients, looks_again = False, False

    def __init__(self, scalarizer: nn.Module) -> None:
        self.scalarizer: Any = scalarizer.double()

    def weigh(self, seen: Seen) -> Tensor:
        """Its derivative by each of the losses."""
        values = seen.losses.detach().clone().requires_grad_()
        with torch.enable_grad():
            self.scalarizer(values).backward()
        assert values.grad is not None
        return values.grad

    def look_again(self, losses: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class Learned(FromLosses):
    """A scalarizer with one parameter [tasks], learned by an Adam of its own at the network's rate."""

    def __init__(self, scalarizer: nn.Module) -> None:
        super().__init__(scalarizer)
        (self.parameter,) = self.scalarizer.parameters()
        self.optimizer = torch.optim.Adam([self.parameter])

    def weigh(self, seen: Seen) -> Tensor:
        self.optimizer.zero_grad()
        weights = super().weigh(seen)
        self.optimizer.param_groups[0]["lr"] = seen.lr
        self.optimizer.step()
        return weights

    def state_dict(self) -> dict[str, Any]:
        return {"parameter": self.parameter.detach().clone()} | adam_state(self.optimizer, self.parameter)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            self.parameter.copy_(state["parameter"])
        load_adam(self.optimizer, self.parameter, state)


class ByPace(FromLosses):
    """Dynamic weight average. epoch: steps whose mean losses are compared with those of the epoch before."""

    def __init__(self, scalarizer: Any, tasks: int, epoch: int) -> None:
        super().__init__(scalarizer)
        self.tasks, self.epoch = tasks, epoch

    def weigh(self, seen: Seen) -> Tensor:
        weights = super().weigh(seen)
        if self.scalarizer._n_batches >= self.epoch:
            self.scalarizer.step()
        return weights

    def state_dict(self) -> dict[str, Any]:
        dwa = self.scalarizer
        averages = [*dwa._previous_averages, *[torch.zeros(self.tasks).double()] * 2][:2]
        total = torch.zeros(self.tasks).double() if dwa._loss_sum is None else dwa._loss_sum
        known = min(len(dwa._previous_averages), 2)
        return {
            "sum": total.clone(),
            "batches": dwa._n_batches,
            "averages": torch.stack(averages),
            "known": known,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        dwa = self.scalarizer
        dwa._n_batches = int(state["batches"])
        dwa._loss_sum = state["sum"].double() if dwa._n_batches else None
        dwa._previous_averages = list(state["averages"].double())[: min(int(state["known"]), 2)]


class Fast(FromLosses):
    """FAMO: learns from what the step did to the losses of its batch."""

    looks_again = True

    def look_again(self, losses: Tensor) -> None:
        self.scalarizer.update(losses)

    def state_dict(self) -> dict[str, Any]:
        famo = self.scalarizer
        return {"parameter": famo._w.detach().clone()} | adam_state(famo._optimizer, famo._w)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        famo = self.scalarizer
        with torch.no_grad():
            famo._w.copy_(state["parameter"])
        famo._optimizer = torch.optim.Adam([famo._w], lr=famo.lr, weight_decay=famo.weight_decay)
        load_adam(famo._optimizer, famo._w, state)


def adam_state(optimizer: torch.optim.Adam | None, parameter: Tensor) -> dict[str, Any]:
    """Adam's moments and steps of its one parameter, zeros before the first step."""
    known = {} if optimizer is None else optimizer.state.get(parameter, {})
    zeros = torch.zeros_like(parameter, requires_grad=False)
    moments = {name: known.get(name, zeros).clone() for name in ("exp_avg", "exp_avg_sq")}
    return moments | {"steps": int(known["step"]) if known else 0}


def load_adam(optimizer: torch.optim.Adam, parameter: Tensor, state: Mapping[str, Any]) -> None:
    if state["steps"]:
        moments = {name: state[name].to(parameter.dtype) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(float(state["steps"]))} | moments


@dataclass(frozen=True)
class Scalarizer:
    """make(tasks, strength, epoch, references) -> Rule. strength: the paper's number, None = there is none.

    references: of each task in its fixed weight, the loss of a network for it alone; () unless it is needed.
    """

    make: Callable[[int, float, int, tuple[float, ...]], Rule]
    summary: str
    strength: float | None = None
    needs_references: bool = False


def _torchjd(name: str, *arguments: Any, **named: Any) -> Any:
    import torchjd.scalarization

    return getattr(torchjd.scalarization, name)(*arguments, **named)


def _min_max(tasks: int, mu: float, epoch: int, references: tuple[float, ...]) -> Rule:
    inverse = 1 / torch.tensor(references, dtype=torch.float64)
    return FromLosses(_torchjd("STCH", mu, weights=inverse))


SCALARIZERS: dict[str, Scalarizer] = {
    "uncertainty": Scalarizer(
        lambda tasks, *_: Learned(_torchjd("UW", tasks)),
        "a learned variance for each task (Kendall et al., CVPR 2018)",
    ),
    "imtl_l": Scalarizer(
        lambda tasks, *_: Learned(_torchjd("IMTLL", tasks)),
        "a learned scale for each loss (Liu et al., ICLR 2021)",
    ),
    "dwa": Scalarizer(
        lambda tasks, t, epoch, _: ByPace(_torchjd("DWA", t), tasks, epoch),
        "what has fallen least in the last epoch weighs most (Liu et al., CVPR 2019)",
        strength=2.0,
    ),
    "famo": Scalarizer(
        lambda tasks, *_: Fast(_torchjd("FAMO", tasks)),
        "all losses fall at the same rate; one forward pass more (Liu et al., NeurIPS 2023)",
    ),
    "geometric": Scalarizer(
        lambda *_: FromLosses(_torchjd("GeometricMean")),
        "the geometric mean of the losses (Chennupati et al., CVPRW 2019)",
    ),
    "stch": Scalarizer(
        lambda tasks, mu, *_: FromLosses(_torchjd("STCH", mu)),
        "a smooth maximum of the losses (Lin et al., ICML 2024)",
        strength=0.1,
    ),
    "random_weights": Scalarizer(
        lambda *_: FromLosses(_torchjd("Random")),
        "new random weights in every step, the control (Lin et al., TMLR 2022)",
    ),
    "min_max": Scalarizer(
        _min_max,
        "the task that is worst off against its network alone weighs most: max of loss / reference",
        strength=0.1,
        needs_references=True,
    ),
}
