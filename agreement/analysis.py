"""How far the tasks of an experiment want the same weights: masks of every task, counted layer by layer.

Each task ranks the weights that it owns, as the method of `METHOD` does, and keeps the best of them; the
agreement of these masks says how deep a shared trunk pays. One scoring pass a seed serves all keep ratios.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agreement.layers import layer_overlaps, own_mask
from configs.load import as_tree
from prune_utils.masks import Mask, count, layer_name, prunable, size
from prune_utils.methods import method
from prune_utils.prune import INITS
from prune_utils.scoring import score
from training.checkpoint import versions
from workflow.experiment import Experiment
from workflow.pruning import NumberedBatches, Pruning

from .curves import Sample, describe_curve, describe_layers

METHOD = "disparse_static"  # whose scores these are
NUM_BATCHES = {"taskonomy": 200}  # of the published analysis; elsewhere the data set's own setting
FORMAT = 1


@dataclass(frozen=True)
class Analysis:
    """What is asked: keep ratios of every task, in (0, 1], one curve each; seeds; trained weights or None."""

    keep_ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    init_from: str | None = None


def analyse(experiment: Experiment, analysis: Analysis) -> dict:
    """The whole result in plain values, as it is written to JSON (docs/agreement.md says what is where).

    Raises ValueError for fewer than two tasks, a keep ratio that is none, or a sparse network to start from.
    """
    if len(experiment.tasks) < 2:
        raise ValueError(f"agreement needs at least two tasks, there is only {', '.join(experiment.tasks)}")
    samples = [_measure(experiment, analysis, seed) for seed in analysis.seeds]
    network, plan = samples[0][0], samples[0][1]
    layers = describe_layers(network, list(samples[0][2][0].overlaps))
    config = experiment.config
    return {
        "format": FORMAT,
        "dataset": config.data.dataset,
        "tasks": list(experiment.tasks),
        "protocol": config.run.protocol,
        "weights": Path(analysis.init_from).name if analysis.init_from else None,
        "criterion": plan.criterion,
        "score_init": plan.score_init,
        "num_batches": config.prune.num_batches,
        "batch_size": config.prune.batch_size or config.data.batch_size,
        "seeds": list(analysis.seeds),
        "network": network.description,
        "layers": layers,
        "curves": [
            {"keep_ratio": keep}
            | describe_curve([of[index] for _, _, of in samples], layers, list(experiment.tasks))
            for index, keep in enumerate(analysis.keep_ratios)
        ],
        "config": as_tree(config),
        "versions": versions(),
    }


def _measure(experiment: Experiment, analysis: Analysis, seed: int):
    """network, plan and one Sample a keep ratio, of one seed."""
    config = experiment.config
    experiment = replace(experiment, config=replace(config, run=replace(config.run, seed=seed)))
    row = method(METHOD)
    if analysis.init_from:
        row = replace(row, score_init="own")  # trained weights are scored as they are
        saved = experiment.load_network(Path(analysis.init_from))
        if saved.mask is not None:
            raise ValueError(f"{saved.path} holds a sparse network: agreement is measured on a dense one")
        network = saved.network
    else:
        network = experiment.new_network()
    pruning = Pruning(experiment, row, experiment.fabric.to_device(network))
    scores = score(
        INITS[pruning.plan.score_init](pruning.network, seed),
        pruning.electorate.voters("tasks"),
        NumberedBatches(experiment),
        pruning.plan.criterion,
        seed=seed,
        gather=pruning.electorate.gather,
    )
    order = list(prunable(network))
    samples = [
        _sample({task: own_mask(of, keep) for task, of in scores.items()}, order)
        for keep in analysis.keep_ratios
    ]
    return network, pruning.plan, samples


def _sample(masks: Mapping[str, Mask], order: Sequence[str]) -> Sample:
    found = layer_overlaps(masks)
    overlaps = {layer_name(name): found[name] for name in order if name in found}
    private = [{name: kept for name, kept in mask.items() if name not in found} for mask in masks.values()]
    kept = sum(one.by_any for one in overlaps.values()) + sum(map(count, private))
    total = sum(map(size, private)) + sum(max(one.owned.values()) for one in overlaps.values())
    density = {
        task: {layer_name(name): count({name: of}) / of.numel() for name, of in mask.items()}
        for task, mask in masks.items()
    }
    return Sample(overlaps, density, 1 - kept / total)
