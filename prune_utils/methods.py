"""Every method as a row of data. A new method is a new row; no code asks for a method by name.

Importing this file costs no torch: the scripts read the names for their help pages.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """How a sparse network comes about. Names refer to the registries of criteria, voters, budgets.

    setup: "static" (mask before training), "pretrained" (mask from a trained dense network), "dynamic" (the
        mask moves during training).
    criterion: what the mask is made from; None = the data set's setting for trained networks.
    voters: "tasks" (each task ranks its own weights) or "joint" (the weighted sum of the losses).
    start: weights that training begins with: "init", "dense" (the trained network's) or "rewound" (the
        trained network's initial ones). training: "full" or "finetune" length and learning rate.
    score_init: "own" = scored with the network's own weights; None = as the setting `score_init` says.
    rounds: steps to the budget; retrain: the network trains between them.
    grow, grow_voters: criterion and voters of growth, dynamic only.
    """

    name: str
    setup: str
    criterion: str | None
    summary: str
    voters: str = "joint"
    budget: str = "global"
    start: str = "init"
    training: str = "full"
    score_init: str | None = "own"
    rounds: int = 1
    retrain: bool = False
    grow: str | None = None
    grow_voters: str = "joint"

    @property
    def needs_dense(self) -> bool:
        """Whether a trained dense network must be there first."""
        return self.setup == "pretrained"


_STATIC = {"setup": "static"}
_TUNED = {"setup": "pretrained", "start": "dense", "training": "finetune"}
# the first mask of a dynamic run is random at the budget's densities
_DYNAMIC = {"setup": "dynamic", "criterion": "random", "budget": "erk"}

_ROWS = (
    Method(
        "disparse_static",
        criterion="snip",
        voters="tasks",
        score_init=None,
        summary="each task ranks its weights by |w g| before training",
        **_STATIC,
    ),
    Method(
        "snip",
        criterion="snip",
        score_init=None,
        summary="|w g| of the summed loss, before training",
        **_STATIC,
    ),
    Method("random", criterion="random", summary="a random mask before training", **_STATIC),
    Method("magnitude", criterion="magnitude", summary="the largest initial weights", **_STATIC),
    Method(
        "disparse_pt",
        criterion=None,
        voters="tasks",
        summary="each task ranks the weights of the trained dense network, then fine-tuning",
        **_TUNED,
    ),
    Method("random_pt", criterion="random", summary="a random mask on the trained dense network", **_TUNED),
    Method(
        "imp",
        criterion="magnitude",
        rounds=11,
        retrain=True,
        summary="iterative magnitude pruning of the trained dense network, training between the rounds",
        **_TUNED,
    ),
    Method(
        "lth",
        setup="pretrained",
        criterion="magnitude",
        start="rewound",
        summary="lottery ticket: magnitude of the trained dense network, initial weights, trained again",
    ),
    Method(
        "disparse_dynamic",
        grow="gradient",
        grow_voters="tasks",
        summary="sparse throughout: drop by magnitude, grow what any task wants",
        **_DYNAMIC,
    ),
    Method(
        "rigl",
        grow="gradient",
        summary="sparse throughout: grow by the gradient of the summed loss",
        **_DYNAMIC,
    ),
    Method("set", grow="random", summary="sparse throughout: grow at random", **_DYNAMIC),
)

METHODS: dict[str, Method] = {row.name: row for row in _ROWS}


def method(name: str) -> Method:
    """The row of that name. Raises ValueError with the choices."""
    if name not in METHODS:
        raise ValueError(f"method {name!r} is not one of {', '.join(METHODS)}")
    return METHODS[name]
