"""Weightings: from the inner products of the tasks' gradients to a weight for each task.

All are those of torchjd (Jacobian descent in PyTorch, torchjd.org), an extra of this library. The weighted
sum of the gradients is a direction that helps every task, or treats them alike, each in its own way. To add
one: a line in WEIGHTINGS. `weighted_voter` lets all tasks vote as one, by their losses in such weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from .data import Forward
from .gramian import gramian
from .scoring import task_gradients
from .seeds import mix_seed
from .text import not_one_of
from .voters import Batch, Electorate, Voter, joint_voter

Weigher = Callable[[Tensor], Tensor]  # Gramian [tasks, tasks], float64 -> weights [tasks]
INSTALL = 'python3 -m pip install "torchjd[full]>=0.18,<0.19"'


@dataclass(frozen=True)
class Weighting:
    """make(tasks, strength) -> Weigher. strength: the one number that the paper leaves open, as its default;
    None = there is none. needs: packages beside torchjd. stateful: each answer depends on those before.
    """

    make: Callable[[int, float], Weigher]
    summary: str
    strength: float | None = None
    needs: tuple[str, ...] = ()
    stateful: bool = False


def _torchjd(name: str, *arguments: Any, **named: Any) -> Any:
    import torchjd.aggregation

    return getattr(torchjd.aggregation, name)(*arguments, **named)


def _ones(tasks: int) -> Tensor:
    # what does not conflict is added up, as the sum of the losses adds it
    return torch.ones(tasks, dtype=torch.float64)


class NashWeigher:
    """torchjd's NashMTL takes the gradients themselves; a root of the Gramian has the same inner products."""

    def __init__(self, tasks: int) -> None:
        self.inner = _torchjd("NashMTL", n_tasks=tasks).weighting

    def __call__(self, gram: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(gram)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are solving a parameterized problem")
            return self.inner(vectors * values.clamp(min=0).sqrt())

    def state_dict(self) -> dict[str, Any]:
        return {"alpha": torch.as_tensor(self.inner.prvs_alpha).double(), "solved": int(self.inner.step)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.reset()
        if state["solved"]:
            self.inner.prvs_alpha = state["alpha"].double().numpy().copy()
            self.inner._init_optim_problem()
            self.inner.step = float(state["solved"])


WEIGHTINGS: dict[str, Weighting] = {
    "upgrad": Weighting(
        lambda tasks, _: _torchjd("UPGradWeighting", _ones(tasks)),
        "each gradient projected until it harms no task, then added (Quinton and Rey, 2024)",
        needs=("quadprog", "qpsolvers"),
    ),
    "dualproj": Weighting(
        lambda tasks, _: _torchjd("DualProjWeighting", _ones(tasks)),
        "the sum projected until it harms no task (Lopez-Paz and Ranzato, NeurIPS 2017)",
        needs=("quadprog", "qpsolvers"),
    ),
    "pcgrad": Weighting(
        lambda tasks, _: _torchjd("PCGradWeighting"),
        "conflicting parts of each gradient removed, in random order (Yu et al., NeurIPS 2020)",
    ),
    "cagrad": Weighting(
        lambda tasks, c: _torchjd("CAGradWeighting", c=c),
        "the worst task's gain within a ball around the mean (Liu et al., NeurIPS 2021)",
        strength=0.4,
        needs=("cvxpy", "clarabel"),
    ),
    "nash_mtl": Weighting(
        lambda tasks, _: NashWeigher(tasks),
        "the tasks' bargaining solution (Navon et al., ICML 2022)",
        needs=("cvxpy", "ecos"),
        stateful=True,
    ),
    "imtl_g": Weighting(
        lambda tasks, _: _torchjd("IMTLGWeighting"),
        "equal projections on all gradients (Liu et al., ICLR 2021)",
    ),
    "aligned_mtl": Weighting(
        lambda tasks, _: _torchjd("AlignedMTLWeighting", _ones(tasks)),
        "principal components of the gradients of equal size (Senushkin et al., CVPR 2023)",
    ),
    "mgda": Weighting(
        lambda tasks, _: _torchjd("MGDAWeighting"),
        "the shortest convex combination (Sener and Koltun, NeurIPS 2018)",
    ),
    "fairgrad": Weighting(
        lambda tasks, alpha: _torchjd("FairGradWeighting", alpha=alpha),
        "alpha-fair shares of the gain (Ban and Ji, ICML 2024)",
        strength=1.0,
        needs=("scipy",),
    ),
}
"""Weightings of the tasks by name."""


def find_weighting(name: str) -> Weighting:
    """The weighting of that name, its packages looked for. Raises ValueError with the choices, or what to
    install."""
    if name not in WEIGHTINGS:
        raise ValueError(not_one_of("weighting", name, WEIGHTINGS))
    require(name, WEIGHTINGS[name].needs)
    return WEIGHTINGS[name]


def require(name: str, needs: tuple[str, ...] = ()) -> None:
    """Raises ValueError where torchjd, or what a weighting needs beside it, is not installed."""
    for package in ("torchjd", *needs):
        if find_spec(package) is None:
            raise ValueError(f"weighting {name!r} needs the package {package}: {INSTALL}")


def weighted_voter(
    name: str,
    model: nn.Module,
    electorate: Electorate,
    batches: Iterable[tuple[int, Batch]] | Mapping[str, Iterable[Batch]],
    *,
    seed: int = 0,
    forward: Forward | None = None,
    names: Iterable[str] | None = None,
) -> Voter:
    """The sum of the tasks' losses as the only voter, each in its fixed weight times that of a weighting.

    The weighting sees the inner products of the gradients of all batches together, over the weights among
    `names` (None = all) that several tasks own.
    Raises ValueError as `score` and Solver do, and where no weight is shared or all gradients are 0.
    """
    solver = Solver(name, len(electorate.losses))
    among = set(electorate.owners) if names is None else set(names)
    shared = [weight for weight, tasks in electorate.owners.items() if len(tasks) > 1 and weight in among]
    if not shared:
        raise ValueError(f"weighting {name!r} compares gradients of shared weights, and no weight is shared")
    voters = [voter.among(shared) for voter in electorate.voters("tasks")]
    found = task_gradients(model, voters, batches, seed=seed, gather=electorate.gather, forward=forward)
    fixed = torch.tensor([electorate.weights[task] for task in found], dtype=torch.float64)
    gram = gramian(list(found.values()), shared) * fixed * fixed[:, None]
    if not gram.any():
        raise ValueError(f"weighting {name!r} finds no direction: all gradients of shared weights are 0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed(seed, name))
        weights = dict(zip(found, (fixed * solver(gram)).tolist(), strict=True))
    return joint_voter(electorate.losses, weights, electorate.owners)


class Solver:
    """A weighting for some number of tasks, asked again and again. strength: None = the paper's."""

    def __init__(self, name: str, tasks: int, strength: float | None = None) -> None:
        """Raises ValueError for an unknown name or a missing package."""
        row = find_weighting(name)
        value = row.strength if strength is None else strength
        self.name = name
        self.weigher = row.make(tasks, 0.0 if value is None else value)

    def __call__(self, gram: Tensor) -> Tensor:
        """Weights [tasks], float64, for finite inner products [tasks, tasks].

        Raises ValueError where the solver gives up.
        """
        try:
            weights = self.weigher(gram.double()).detach().double().cpu()
        except Exception as error:
            known = isinstance(error, ValueError | ArithmeticError) or "cvxpy" in type(error).__module__
            if not known:
                raise
            raise ValueError(f"weighting {self.name!r} finds no weights: {error}") from error
        if not weights.isfinite().all():
            raise ValueError(f"weighting {self.name!r} finds no weights: they are not finite")
        return weights

    def state_dict(self) -> dict[str, Any]:
        """What the next answer depends on beside its inner products: tensors and whole numbers."""
        return getattr(self.weigher, "state_dict", dict)()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        if state:
            self.weigher.load_state_dict(state)  # type: ignore[attr-defined]
