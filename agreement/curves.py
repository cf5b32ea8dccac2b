"""From the tasks' masks of several seeds to the plain values of a file: curves, pairs, watershed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, pstdev

from agreement.layers import Overlap, together
from agreement.watershed import consensus, largest_step, mean_curve, watershed
from models.multitask import MultiTaskNet
from prune_utils.masks import prunable


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


def describe_layers(network: MultiTaskNet, names: Sequence[str]) -> list[dict]:
    """What is known of each shared layer: unit of the trunk, stage, owners, shortcut or not."""
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
    """The last unit of the trunk that ends before a layer; None if the layer is in the first unit."""
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
