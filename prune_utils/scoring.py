"""Saliency of every weight for every voter: one forward pass per batch, one backward pass per voter.

The network is left as it was found: `.grad`, batch-norm statistics, modes, requires_grad and random streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from .criteria import find_criterion
from .data import Forward, loss_value, predict, targets_of
from .gathering import gather_for
from .isolation import runs_own_functions, seed_streams, untouched
from .masks import Scores, check_strided
from .measures import Survey
from .parameters import find_parameters, unwrap
from .seeds import generator, mix_seed
from .shards import is_shard, part, whole, whole_like
from .text import not_one_of
from .voters import Batch, Gather, Voter, total


def score(
    model: nn.Module,
    voters: Sequence[Voter],
    batches: Iterable[tuple[int, Batch]] | Mapping[str, Iterable[Batch]],
    criterion: str,
    *,
    seed: int = 0,
    gather: Gather | None = None,
    forward: Forward | None = None,
    silent: str = "refuse",
    values: Mapping[str, Tensor] | None = None,
) -> dict[str, Scores]:
    """Scores by voter and weight, for the weights that the voter owns; float32 or better.

    batches: (number, batch) pairs, e.g. `enumerate(loader)`, or, where every task has batches of its own, a
        mapping task -> iterable of them. A batch is (input, targets), or anything that `forward` takes.
        Dropout of a batch is seeded by (seed, number). Not read by criteria without gradients.
    criterion: a name in CRITERIA.
    gather: the gradients of all processes, given this one's, when several share the batches; None = those of
        torch.distributed, if there are several, each of which must call this with as many batches. If process
        r of n has the batches r, n + r, ..., the sums are those of one process alone, to the last bit.
    forward: forward(network, batch) -> predictions, None = network(batch[0]).
    silent: what happens to a voter that has nothing to say, because none of its batches holds its task (every
        loss None) or all its scores are equal. "refuse": ValueError; "abstain": it is no key of the result.
    values: the weights that the saliencies are of, by name; None = the network's own. Those before pruning,
        for pruned weights that may return.
    Of a sharded network (FSDP2) the scores are whole in every process, and the gradient of a batch is the
    mean over the processes: give all of them the same batches for the scores of one process.
    Raises ValueError: no batch, a gradient or score that is not finite (names voter, batch and layer), a
        voter with nothing to say, a loss that is no single value, an unknown criterion, a weight that the
        network does not have.
    """
    rule = find_criterion(criterion)
    if silent not in SILENT:
        raise ValueError(not_one_of("silent", silent, SILENT))
    weights = find_parameters(model, dict.fromkeys(name for voter in voters for name in voter.owns))
    owned = {voter.name: [name for name in weights if name in voter.owns] for voter in voters}
    sums: dict[str, Scores] = {}
    missed: set[str] = set()
    if rule.measure is not None:
        survey = Survey(
            model,
            voters,
            batches,
            lambda voters, what: _gradient_sums(
                model, weights, voters, owned, _steps(voters, batches), missed, what, seed, gather, forward
            ),
            forward,
        )
        sums = rule.measure(survey)
    scores: dict[str, Scores] = {}
    with torch.no_grad():
        for voter in voters:
            draws = generator(seed, criterion, voter.name)
            gradients = sums.pop(voter.name, {})
            found = {
                name: rule.saliency(
                    whole(weights[name].detach()) if values is None else values[name],
                    whole_like(gradients.pop(name), weights[name]) if name in gradients else None,
                    draws,
                )
                for name in owned[voter.name]
            }
            nothing = _nothing_to_say(found, voter.name)
            if voter.name in missed:
                nothing = "its loss is None in every batch"
            if nothing and owned[voter.name] and silent == "refuse":
                raise ValueError(
                    f"voter {voter.name!r} has nothing to say: {nothing}; score it on batches that hold its "
                    "labels, or leave the task out"
                )
            if not nothing or silent == "refuse":
                scores[voter.name] = found
    return scores


SILENT = ("refuse", "abstain")


def task_gradients(
    model: nn.Module,
    voters: Sequence[Voter],
    batches: Iterable[tuple[int, Batch]] | Mapping[str, Iterable[Batch]],
    *,
    seed: int = 0,
    gather: Gather | None = None,
    forward: Forward | None = None,
    what: Callable[[Tensor], Tensor] = torch.clone,
) -> dict[str, Scores]:
    """The gradient of each voter's loss of all batches together, for the weights that it owns.

    what: summed over the batches is what(gradient), a tensor of its own, instead of the gradient itself.
    Arguments and errors are those of `score`; the network is left untouched.
    """
    weights = find_parameters(model, dict.fromkeys(name for voter in voters for name in voter.owns))
    owned = {voter.name: [name for name in weights if name in voter.owns] for voter in voters}
    steps, missed = _steps(voters, batches), set[str]()
    return _gradient_sums(model, weights, voters, owned, steps, missed, what, seed, gather, forward)


def _nothing_to_say(scores: Scores, voter: str) -> str:
    """Why these scores order no weights, "" if they do. Raises ValueError for a score that is not finite."""
    low, high = math.inf, -math.inf
    for name, of in scores.items():
        if of.is_meta:
            return ""
        if of.numel():
            least, most = (float(edge) for edge in torch.aminmax(of))
            if not math.isfinite(least) or not math.isfinite(most):
                raise ValueError(f"scores are not finite: voter {voter!r}, layer {name!r}")
            low, high = min(low, least), max(high, most)
    if low == high == 0:
        return "all its scores are 0"
    alone = sum(of.numel() for of in scores.values()) == 1
    return f"all its scores are {low:g}" if low == high and not alone else ""


# per voter what to run in one step: (batch, loss) pairs, whose values are added up
Step = dict[str, list[tuple[Batch, Any]]]


def _steps(
    voters: Sequence[Voter], batches: Iterable[tuple[int, Batch]] | Mapping[str, Iterable[Batch]]
) -> Iterator[tuple[int, Step]]:
    """Numbered steps. Where every task has batches of its own, a step takes one of each that is left."""
    if not isinstance(batches, Mapping):
        for number, batch in batches:
            yield number, {voter.name: [(batch, voter.loss)] for voter in voters}
        return
    for voter in voters:
        unknown = sorted(set(voter.by_task) - set(batches))
        if unknown:
            raise ValueError(f"task {unknown[0]!r} has no batches; there are {', '.join(batches)}")
    for number, row in enumerate(zip_longest(*batches.values(), fillvalue=_NONE)):
        step = {task: batch for task, batch in zip(batches, row, strict=True) if batch is not _NONE}
        yield (
            number,
            {
                voter.name: [(step[task], loss) for task, loss in voter.by_task.items() if task in step]
                for voter in voters
            },
        )


_NONE = object()


def _gradient_sums(
    model: nn.Module,
    weights: dict[str, nn.Parameter],
    voters: Sequence[Voter],
    owned: dict[str, list[str]],
    steps: Iterable[tuple[int, Step]],
    missed: set[str],
    what: Callable[[Tensor], Tensor],
    seed: int,
    gather: Gather | None,
    forward: Forward | None,
) -> dict[str, Scores]:
    """Per voter and owned weight: sum over the batches of what(dL/dw), such as |dL/dw|.

    missed: gets the names of the voters that had no loss in any batch.
    """
    gather = gather_for(model, gather)
    sums: dict[str, Scores] = {voter: {} for voter in owned}
    spread = any(map(is_shard, weights.values()))
    voters = [voter for voter in voters if owned[voter.name]]
    seen, heard = 0, set[str]()
    with untouched(model, weights.values()):
        for number, step in steps:
            seed_streams(model, mix_seed(seed, number))
            losses = _losses(unwrap(model), step, [voter.name for voter in voters], forward, gather)
            heard.update(losses)
            while losses:
                voter = next(iter(losses))
                leaves = {name: weights[name] for name in owned[voter]}
                if spread:
                    _add_parts(sums[voter], leaves, what, losses.pop(voter), bool(losses))
                    model.zero_grad(set_to_none=True)
                    continue
                run = list(leaves.values())
                if runs_own_functions(losses[voter]):  # which run only on the way to leaves that they show
                    run += [leaf for leaf in model.parameters() if leaf.requires_grad]
                with _adding(sums[voter], leaves, what, gather):
                    # pop: the dict held the last reference, what no later voter needs goes with its loss;
                    # not backward(), which would write `.grad`
                    torch.autograd.grad(
                        losses.pop(voter),
                        run,
                        retain_graph=bool(losses),
                        allow_unused=True,
                    )
                _require_finite(sums[voter], leaves, f"voter {voter!r}, batch {number}")
            seen += 1
    if not seen:
        raise ValueError("scoring needs at least one batch, and there is none")
    missed.update(voter.name for voter in voters if voter.name not in heard)
    return {
        voter: {
            name: of.pop(name).contiguous() if name in of else _zeros(part(weights[name]))
            for name in owned[voter]
        }
        for voter, of in sums.items()
    }


def _losses(
    model: nn.Module, step: Step, voters: Sequence[str], forward: Forward | None, gather: Gather | None
) -> dict[str, Tensor]:
    """The losses of the voters that have one in this step; each batch runs through the network once."""
    predictions: dict[int, Any] = {}
    losses = {}
    for voter in voters:
        values = []
        for batch, loss in step[voter]:
            if id(batch) not in predictions:
                predictions[id(batch)] = predict(model, batch, forward)
            value = loss(predictions[id(batch)], targets_of(batch))
            values.append(loss_value(f"voter {voter!r}", value))
        value = total(values)
        if value is not None:
            losses[voter] = value
        elif gather is not None:
            raise ValueError(
                f"loss of voter {voter!r} is None on one of several processes: return 0 times a prediction"
            )
    return losses


def _add_parts(
    sums: Scores, leaves: Mapping[str, Tensor], what: Callable[[Tensor], Tensor], loss: Tensor, again: bool
) -> None:
    """Adds what(mean gradient of all processes) to the sums, each process for its shard. again: the graph is
    needed once more. A sharded parameter is no leaf of the graph: its gradient is known in `.grad` alone."""
    loss.backward(retain_graph=again)
    for name, leaf in leaves.items():
        if leaf.grad is not None:
            _add(sums, name, what(_exact(part(leaf.grad))))
            leaf.grad = None


@contextmanager
def _adding(
    sums: Scores, leaves: Mapping[str, Tensor], what: Callable[[Tensor], Tensor], gather: Gather | None
) -> Iterator[None]:
    """Inside, a backward pass adds what(gradient) to the sums as soon as it is known, and holds none.

    A weight that the pass does not reach adds nothing.
    """

    def add(name: str, gradient: Tensor | None) -> Tensor | None:
        if gradient is None:  # of a function that passes none on
            return None
        check_strided(name, gradient)
        for each in [gradient] if gather is None else gather(gradient):
            _add(sums, name, what(_exact(each)))
        # what autograd keeps in the gradient's place: its shape, without its memory
        return gradient.new_zeros(()).expand_as(gradient)

    handles = [leaf.register_hook(partial(add, name)) for name, leaf in leaves.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _require_finite(sums: Scores, names: Iterable[str], where: str) -> None:
    """Raises ValueError that tells the first of the names whose sum is not finite."""
    flags = [torch.isfinite(total.sum()) for total in sums.values() if not total.is_meta]
    # one wait for the device
    if flags and not torch.stack([flag.to(flags[0].device) for flag in flags]).all():
        for name in names:
            # the sum of finite values may still overflow: ask every element before complaining
            if name in sums and not torch.isfinite(sums[name]).all():
                raise ValueError(f"gradient is not finite: {where}, layer {name!r}")


def _add(sums: Scores, name: str, part: Tensor) -> None:
    """sums[name] += part, a tensor of its own."""
    if name not in sums:
        sums[name] = part  # memory order stays the gradient's until all are added
    else:
        sums[name].add_(part)


def _exact(gradient: Tensor) -> Tensor:
    """The gradient in the precision of the sums: float16 has no square of 1e-4."""
    return gradient.to(_sum_dtype(gradient))


def _zeros(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight, dtype=_sum_dtype(weight), memory_format=torch.contiguous_format)


def _sum_dtype(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)
