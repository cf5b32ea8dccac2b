"""One call from a network, its losses and some batches to a smaller network, without some of its channels.

    removal = prune_utils.remove_channels(model, losses, batches, ratio=50)

The network is afterwards an ordinary dense one of the same class: train it, save it, make it sparse on top.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from .arbiters import Arbiter
from .covering import Choice
from .data import Forward, read_batches
from .methods import method as find_method
from .plan import Settings, make_plan
from .preparing import example_of, prepare
from .prune import make_mask
from .removing import Removal, check_removal, removal_of
from .voters import Loss


def remove_channels(
    model: nn.Module,
    losses: Mapping[str, Loss],
    batches: Iterable[Any] | Mapping[str, Iterable[Any]],
    ratio: float,
    of: str = "params",
    *,
    method: str = "disparse_static",
    multiple: int = 1,
    forward: Forward | None = None,
    loss_weights: Mapping[str, float] | None = None,
    seed: int = 0,
    arbiter: str | Arbiter = "unanimous",
    factors: Mapping[str, float] | None = None,
    criterion: str | None = None,
    voters: str | None = None,
    protect: Iterable[str] = (),
    include: Choice = None,
    exclude: Choice = None,
    score_init: str = "own",
    num_batches: int | None = None,
) -> Removal:
    """Removes the channels that no task needs, in place: one goes only if all tasks that it serves let it go.

    ratio: percent of all parameters that go (of="params"), or of the multiply-adds in a forward pass of the
        first batch (of="macs"); met to one channel. multiple: what remains of a layer's channels is a
        multiple of this. method: a row that makes its mask before training, or of a trained network.
    protect: patterns of layers that keep their channels. So do layers whose weight `exclude` names, or is
        frozen and not named by `include`; what they read of others may go. The outputs' channels always stay.
    losses, batches, forward, loss_weights, arbiter, factors, criterion, voters, include, exclude: as of
        `sparsify`.
    Optimizers and masks of the network are to be made afterwards.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    >>> losses = {"a": lambda out, true: out[:, 0].abs().mean(), "b": lambda out, true: out[:, 1].std()}
    >>> removal = remove_channels(net, losses, [(torch.randn(2, 3, 9, 9), None)], ratio=40)
    >>> net[0].out_channels, removal.before.params, removal.after.params, removal.asked
    (4, 258, 130, 155)

    Raises ValueError in one sentence, the network untouched: no torch-pruning, a network that it cannot
        follow, a ratio that cannot be met, and what `sparsify` refuses.
    """
    settings = Settings(
        ratio=ratio,
        criterion=criterion,
        arbiter=arbiter,
        factors=factors or {},
        protect=protect,
        score_init=score_init,
        voters=voters,
        granularity="channel",
        ratio_of=of,
        channel_multiple=multiple,
    )
    plan = make_plan(find_method(method), settings)
    if plan.retrain:
        raise ValueError(
            f"remove_channels removes at once, and method {method} trains between rounds: choose another "
            "method, and call again for the smaller network after some training"
        )
    taken = read_batches(batches, losses, num_batches)
    if not taken.first:
        raise ValueError("removing channels needs at least one batch, and there is none")
    plan, electorate = prepare(
        *(model, plan, losses, taken.given, taken.first),
        forward=forward,
        loss_weights=loss_weights,
        include=include,
        exclude=exclude,
    )
    mask = make_mask(model, plan, electorate, taken.numbered, seed, forward)
    removal = removal_of(plan.channels, mask, plan.channels.keep(ratio))
    check_removal(model, removal, *example_of(taken.first[0], forward))
    removal.apply(model)
    return removal
