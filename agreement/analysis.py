"""How far the tasks of an experiment want the same weights: masks of every task, counted layer by layer.

Each task ranks the weights that it owns, as the method of `METHOD` does, and keeps the best of them; the
agreement of these masks says how deep a shared backbone pays. One scoring pass a seed serves all keep ratios.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev

from configs.load import as_tree
from models.multitask import MultiTaskNet
from prune_utils.masks import Mask, Scores, count, layer_name, prunable, size
from prune_utils.methods import method
from prune_utils.plan import INITS, Plan
from prune_utils.scoring import score
from training.checkpoint import versions
from workflow.experiment import Experiment
from workflow.networks import load_network, new_network
from workflow.pruning import NumberedBatches, Pruning

from .overlap import Overlap, layer_overlaps, own_mask, together
from .watershed import consensus, largest_step, mean_curve, watershed

METHOD = "disparse_static"  # whose scores these are
FORMAT = 1


@dataclass(frozen=True)
class Analysis:
    """What is asked: keep ratios of every task, in (0, 1], one curve each; seeds; trained weights or None."""

    keep_ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    init_from: str | None = None


@dataclass(frozen=True)
class Sample:
    """One seed at one keep ratio. overlaps: by shared layer; density: task -> layer -> share that it keeps.

    sparsity: of the whole network, if it kept what any task keeps.
    """

    overlaps: dict[str, Overlap]
    density: dict[str, dict[str, float]]
    sparsity: float

    @property
    def agreement(self) -> list[float | None]:
        return [one.agreement for one in self.overlaps.values()]


def analyse(experiment: Experiment, analysis: Analysis) -> dict:
    """The whole result in plain values, as it is written to JSON (docs/agreement.md says what is where).

    Of a sparse network everything refers to the weights that it keeps.
    Raises ValueError for fewer than two tasks, or a keep ratio that is none.
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


def _measure(
    experiment: Experiment, analysis: Analysis, seed: int
) -> tuple[MultiTaskNet, Plan, list[Sample]]:
    """network, plan and one Sample a keep ratio, of one seed."""
    config = experiment.config
    experiment = replace(experiment, config=replace(config, run=replace(config.run, seed=seed)))
    row, kept = method(METHOD), None
    if analysis.init_from:
        row = replace(row, score_init="own")  # trained weights are scored as they are
        saved = load_network(experiment, Path(analysis.init_from))
        network, kept = saved.network, saved.mask
    else:
        network = new_network(experiment)
    experiment.fabric.to_device(network)
    pruning = Pruning(experiment, row, network)
    scores = score(
        INITS[pruning.plan.score_init](pruning.network, seed, pruning.electorate.owners),
        pruning.electorate.voters("tasks"),
        NumberedBatches(experiment),
        pruning.plan.criterion,
        seed=seed,
        gather=pruning.electorate.gather,
    )
    if kept is not None:
        scores = {task: among_kept(of, kept) for task, of in scores.items()}
    order = list(prunable(network))
    samples = [
        _sample({task: own_mask(of, keep) for task, of in scores.items()}, order)
        for keep in analysis.keep_ratios
    ]
    return network, pruning.plan, samples


def among_kept(scores: Scores, mask: Mask) -> Scores:
    """The scores of kept weights alone, one vector a layer; layers that keep nothing are left out.

    >>> import torch
    >>> mask = {"u": torch.tensor([[True, False], [True, True]]), "v": torch.tensor([False])}
    >>> among_kept({"u": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "v": torch.tensor([5.0])}, mask)
    {'u': tensor([1., 3., 4.])}
    """
    there = {name: mask[name].to(score.device) for name, score in scores.items()}
    return {name: score[there[name]] for name, score in scores.items() if there[name].any()}


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


# ------------------------------------------------------------------ plain values of a file
def describe_layers(network: MultiTaskNet, names: Sequence[str]) -> list[dict]:
    """What is known of each shared layer: unit of the backbone, stage, owners, shortcut or not."""
    owners, sizes = network.owners(), {name: weight.numel() for name, weight in prunable(network).items()}
    units = [unit.name for unit in network.backbone.units]
    rows = []
    for name in names:
        unit = next(unit for unit in units if name.startswith(f"backbone.{unit}."))
        rows.append(
            {
                "name": name,
                "unit": unit,
                "stage": unit.rpartition(".")[0] or unit,
                "shortcut": ".shortcut." in name,
                "owners": sorted(owners[f"{name}.weight"]),
                "weights": sizes[f"{name}.weight"],
            }
        )
    return rows


def describe_curve(samples: Sequence[Sample], layers: list[dict], tasks: list[str]) -> dict:
    """One keep ratio: mean and band over the seeds, pairs, densities and the watershed."""
    curves = [sample.agreement for sample in samples]
    wholes = [together(sample.overlaps.values()) for sample in samples]
    places: dict[str, list[int]] = {}
    for i, row in enumerate(layers):
        places.setdefault(row["stage"], []).append(i)
    overlaps = [list(sample.overlaps.values()) for sample in samples]
    return {
        "sparsity": fmean(sample.sparsity for sample in samples),
        "overall": _spread([whole.agreement for whole in wholes]),
        "chance": _mean([whole.chance for whole in wholes]),
        "layers": [
            _spread([curve[i] for curve in curves]) | {"chance": _mean([of[i].chance for of in overlaps])}
            for i in range(len(layers))
        ],
        "pairs": {
            "tasks": tasks,
            "overall": _mean_matrix([whole.matrix(tasks) for whole in wholes]),
            "stages": {
                stage: _mean_matrix([together(of[i] for i in at).matrix(tasks) for of in overlaps])
                for stage, at in places.items()
            },
            "layers": [_mean_matrix([of[i].matrix(tasks) for of in overlaps]) for i in range(len(layers))],
        },
        "density": {
            task: {
                name: fmean(sample.density[task][name] for sample in samples)
                for name in samples[0].density[task]
            }
            for task in tasks
        },
        "watershed": _watershed(curves, layers),
    }


def _watershed(curves: Sequence[Sequence[float | None]], layers: Sequence[dict]) -> dict:
    """Where the agreement breaks off. Shortcuts run beside other layers, so they are left out."""
    line = [i for i, row in enumerate(layers) if not row["shortcut"]]
    curves = [[curve[i] for i in line] for curve in curves]
    found, confidence = consensus(curves)
    step = largest_step(mean_curve(curves))
    names = [layers[i]["name"] for i in line]
    by_seed = [watershed(curve) for curve in curves]
    return {
        "layer": None if found is None else names[found],
        "confidence": confidence,
        "by_seed": [None if index is None else names[index] for index in by_seed],
        "branch_after": None if found is None else branch_after(layers, names[found]),
        "largest_step": None if step is None else asdict(step) | {"layer": names[step.index]},
    }


def branch_after(layers: Sequence[Mapping], layer: str) -> str | None:
    """The last unit of the backbone that ends before a layer; None if the layer is in the first unit."""
    units = list(dict.fromkeys(row["unit"] for row in layers))
    inside = next(row["unit"] for row in layers if row["name"] == layer)
    place = units.index(inside)
    return units[place - 1] if place else None


def _mean(values: Sequence[float | None]) -> float | None:
    return mean_curve([[value] for value in values])[0]


def _spread(values: Sequence[float | None]) -> dict:
    """Mean, standard deviation, range over the seeds, and every seed's value; None where there is none."""
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (None, None)
    deviation = pstdev(known) if known else None
    return {"mean": _mean(values), "std": deviation, "low": low, "high": high, "by_seed": list(values)}


def _mean_matrix(matrices: Sequence[list[list[float | None]]]) -> list[list[float | None]]:
    return [[_mean(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]
