"""Every method as a row of data. A new method is a new row; no code asks for a method by name.

Importing this file costs no torch: the scripts read the names for their help pages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from .text import not_one_of


@dataclass(frozen=True)
class Method:
    """How a sparse network comes about. Names refer to the registries of criteria, voters, budgets, courses.

    setup: "static" (mask before training), "pretrained" (mask from a trained dense network), "dynamic" (the
        mask moves during training), "gradual" (the network becomes sparse during training).
    criterion: what the mask is made from; None = the data set's setting for trained networks.
    voters: "tasks" (each task ranks its own weights), "joint" (the weighted sum of the losses), or a name in
        WEIGHTINGS (weightings.py: that sum in weights that the tasks' gradients give).
    start: weights that training begins with: "init", "dense" (the trained network's) or "rewound" (the
        trained network's initial ones). training: "full" or "finetune" length and learning rate.
    starts: whether training begins "sparse" or "dense".
    score_init: "own" = scored with the network's own weights; None = as the setting `score_init` says.
    rounds: steps to the budget; retrain: the network trains between them; revive: what one round prunes may
        return in the next.
    course: what happens to the mask in training, a name in COURSES (courses.py). pace: of a gradual course, a
        name in PACES; rhythm: start, end and every of its events, as fractions of the run.
    grow, grow_voters: criterion and voters of growth, of courses that regrow.
    granularity: what is kept or pruned together; another than "weight" is the only one that the method takes.
    """

    name: str
    setup: str
    criterion: str | None
    summary: str
    voters: str = "joint"
    budget: str = "global"
    start: str = "init"
    training: str = "full"
    starts: str = "sparse"
    score_init: str | None = "own"
    rounds: int = 1
    retrain: bool = False
    revive: bool = False
    course: str = "hold"
    pace: str = "cubic"
    rhythm: tuple[float, float, float] = (0.1, 0.75, 0.01)
    grow: str | None = None
    grow_voters: str = "joint"
    granularity: str = "weight"

    @property
    def by_itself(self) -> bool:
        """Whether training needs no mask that was made before."""
        return self.course != "hold"

    @property
    def needs_dense(self) -> bool:
        """Whether a trained dense network must be there first."""
        return self.setup == "pretrained"


_static = partial(Method, setup="static")
_tuned = partial(Method, setup="pretrained", start="dense", training="finetune")
# the first mask of a dynamic run is random at the budget's densities
_dynamic = partial(Method, setup="dynamic", criterion="random", budget="erk", course="regrow")
_gradual = partial(Method, setup="gradual", course="gradual", starts="dense")
_force = partial(_static, criterion="snip_signed", rounds=60, revive=True, score_init=None)

_ROWS = (
    _static(
        "disparse_static",
        criterion="snip",
        voters="tasks",
        score_init=None,
        summary="each task ranks its weights by |w g| before training",
    ),
    _static(
        "snip",
        criterion="snip",
        score_init=None,
        summary="|w g| of the summed loss, before training",
    ),
    _static("random", criterion="random", summary="a random mask before training"),
    _static("magnitude", criterion="magnitude", summary="the largest initial weights"),
    _static(
        "synflow",
        criterion="synflow",
        rounds=100,
        summary="the flow of an input of ones, in 100 rounds: no data and no task",
    ),
    _static(
        "grasp",
        criterion="grasp",
        score_init=None,
        summary="w (H g) of the summed loss: what the gradient's size needs",
    ),
    _static(
        "disparse_grasp",
        criterion="grasp",
        voters="tasks",
        score_init=None,
        summary="each task ranks its weights by w (H g)",
    ),
    _force(
        "force",
        summary="|w g| of the summed loss in 60 rounds, what was pruned may return",
    ),
    _force(
        "disparse_force",
        voters="tasks",
        summary="each task ranks its weights by |w g| in 60 rounds, what was pruned may return",
    ),
    _tuned(
        "disparse_pt",
        criterion=None,
        voters="tasks",
        summary="each task ranks the weights of the trained dense network, then fine-tuning",
    ),
    _tuned("random_pt", criterion="random", summary="a random mask on the trained dense network"),
    _tuned("lamp", criterion="lamp", summary="layer-adaptive magnitude of the trained network"),
    _tuned("fisher", criterion="fisher", summary="w^2 g^2 of the summed loss, trained network"),
    _tuned(
        "disparse_fisher",
        criterion="fisher",
        voters="tasks",
        summary="each task ranks the weights of the trained dense network by w^2 g^2",
    ),
    _tuned(
        "imp",
        criterion="magnitude",
        rounds=11,
        retrain=True,
        summary="iterative magnitude pruning of the trained dense network, training between the rounds",
    ),
    Method(
        "lth",
        setup="pretrained",
        criterion="magnitude",
        start="rewound",
        summary="lottery ticket: magnitude of the trained dense network, initial weights, trained again",
    ),
    _dynamic(
        "disparse_dynamic",
        grow="gradient",
        grow_voters="tasks",
        summary="sparse throughout: drop by magnitude, grow what any task wants",
    ),
    _dynamic(
        "rigl",
        grow="gradient",
        summary="sparse throughout: grow by the gradient of the summed loss",
    ),
    _dynamic("set", grow="random", summary="sparse throughout: grow at random"),
    _dynamic(
        "srigl",
        grow="gradient",
        granularity="fanin",
        summary="as rigl, with equally many inputs for every neuron of a layer, or none",
    ),
    Method(
        "top_kast",
        setup="dynamic",
        criterion="magnitude",
        budget="uniform",
        course="top_kast",
        rhythm=(0.0, 0.75, 0.005),
        summary="sparse forward, somewhat denser update: the largest weights, whoever they are now",
    ),
    _gradual("gmp", criterion="magnitude", summary="gradually by magnitude while it trains"),
    _gradual("lamp_gmp", criterion="lamp", summary="gradually by layer-adaptive magnitude"),
    _gradual(
        "disparse_gmp",
        criterion="snip",
        voters="tasks",
        summary="gradually, each task ranking what is left by |w g|: only what no task needs goes",
    ),
    _gradual(
        "granet",
        criterion="magnitude",
        grow="gradient",
        summary="gradually by magnitude, regrowing a part by gradient",
    ),
    _gradual(
        "disparse_granet",
        criterion="snip",
        voters="tasks",
        grow="gradient",
        grow_voters="tasks",
        summary="gradually, each task ranking what is left and what comes back",
    ),
    _gradual(
        "ac_dc",
        criterion="magnitude",
        pace="alternating",
        rhythm=(0.1, 0.85, 0.05),
        summary="dense and sparse phases in turn, the largest weights in each sparse one",
    ),
)

METHODS: dict[str, Method] = {row.name: row for row in _ROWS}
"""Rows by the name that `method=` takes."""


def method(name: str) -> Method:
    """The row of that name. Raises ValueError with the choices."""
    if name not in METHODS:
        raise ValueError(not_one_of("method", name, METHODS))
    return METHODS[name]


def retraining(row: Method, rounds: int | None) -> Method:
    """The row of a method that trains the network between its rounds, whether it always does or not.

    rounds: None = the method's own. Raises ValueError where there is nothing to train, or no time to.
    """
    if row.retrain:
        return row
    if row.setup != "pretrained":
        raise ValueError(
            f"retrain goes on training a trained network between the rounds, and method {row.name} starts "
            "from none: choose disparse_pt or another method of trained networks"
        )
    if (rounds or row.rounds) < 2:
        raise ValueError(
            f"retrain needs rounds to train between: rounds 2 or more, not {rounds or row.rounds}"
        )
    return replace(row, retrain=True)
