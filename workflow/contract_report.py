"""What a search for a contract tells: lines while it works, a CSV, a picture, a certificate for people."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.figures import COLOURS, DIM, INK, new_figure, plain_axes
from common.files import read_json, replacing
from common.text import table
from configs.load import as_tree
from prune_utils.ascent import Ascent, Round
from prune_utils.bootstrap import KIND
from training.checkpoint import versions

from .contract_latency import table_of
from .experiment import Experiment
from .judging import Fall, is_lost

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# what a certificate must hold to be checked again
FIELDS: dict[str, type] = {
    "name": str,
    "dataset": str,
    "method": str,
    "limits": dict,
    "level": float,
    "resamples": int,
    "seed": int,
    "network": dict,
    "dense": dict,
    "validation": dict,
    "config": dict,
}


def listed(values: Mapping[str, float]) -> str:
    """`seg 0.81, sn 1.2`; what may lose anything is left out."""
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items() if math.isfinite(value))


def told(
    done: Round, falls: Mapping[str, Fall], limits: Mapping[str, float], size: str, trained: bool
) -> str:
    """A round in a line. size: of its network, in words; trained: whether it was fine-tuned."""
    trial = done.trial
    factors = ", ".join(f"{task} {factor:.3g}" for task, factor in trial.factors.items())
    drops = "lost % " + ", ".join(
        f"{name} {falls[name].drop:.3g} (at most {falls[name].bound:.3g} of {limit:g})"
        for name, limit in limits.items()
        if math.isfinite(limit)
    )
    if is_lost(falls):
        drops = "its training diverged (a smaller --lr may help)"
    outcome = f"taken back, broken: {', '.join(done.broken)}" if done.broken else "kept"
    outcome += "" if trained else " without training"
    return f"round {trial.number}: {size}, factors {factors}; {drops}; {outcome}"


def write_trace(
    path: Path, ascent: Ascent, falls: Sequence[Mapping[str, Fall]], trained: Sequence[bool]
) -> Path:
    """Every round as a row: size, sparsity, whether it is kept and was trained, factors, drops, bounds."""
    names, total = list(ascent.limits), ascent.sizes[0]
    header = [
        "round",
        "level",
        "size",
        "sparsity",
        "kept",
        "trained",
        *(f"factor/{task}" for task in ascent.tasks),
    ]
    header += [f"{what}/{name}" for what in ("drop", "bound") for name in names]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for done, of, was in zip(ascent.rounds, falls, trained, strict=True):
            trial = done.trial
            row: list[object] = [trial.number, trial.level, trial.keep, 100 * (1 - trial.keep / total)]
            row += [int(done.kept), int(was), *(trial.factors[task] for task in ascent.tasks)]
            writer.writerow([*row, *(of[name].drop for name in names), *(of[name].bound for name in names)])
    return path


def draw_search(path: Path, ascent: Ascent, falls: Sequence[Mapping[str, Fall]], title: str) -> Path:
    """Three rows over the rounds: sparsity, the tasks' factors, and what part of its limit each bound takes.

    Full marks are kept rounds, empty ones were taken back.
    """
    figure = new_figure(7.5, 7.5)
    figure.suptitle(title, color=INK, fontsize=11)
    sizes, factors, limits = figure.subplots(3, 1, sharex=True)
    total, rounds = ascent.sizes[0], ascent.rounds
    _rows(sizes, rounds, {"sparsity": [100 * (1 - done.trial.keep / total) for done in rounds]})
    sizes.set_ylabel("sparsity, %", color=INK)
    _rows(factors, rounds, {task: [done.trial.factors[task] for done in rounds] for task in ascent.tasks})
    factors.set_ylabel("factor", color=INK)
    known = {name: limit for name, limit in ascent.limits.items() if 0 < limit < math.inf}
    _rows(limits, rounds, {name: [of[name].bound / limit for of in falls] for name, limit in known.items()})
    limits.axhline(1, color=DIM, linewidth=1, linestyle=":")
    limits.set_ylabel("bound / limit", color=INK)
    limits.set_xlabel("round", color=INK)
    limits.xaxis.get_major_locator().set_params(integer=True)
    for axes in (factors, *([limits] if known else [])):
        axes.legend(frameon=False, labelcolor=INK, loc="upper left", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _rows(axes: Axes, rounds: Sequence[Round], curves: Mapping[str, Sequence[float]]) -> None:
    for number, (name, values) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(range(len(values)), values, color=colour, linewidth=1.2, alpha=0.7, label=name)
        for place, (done, value) in enumerate(zip(rounds, values, strict=True)):
            face = colour if done.kept else "white"
            axes.plot(place, value, "o", markersize=4.5, markeredgecolor=colour, markerfacecolor=face)
    plain_axes(axes)


def plain(falls: Mapping[str, Fall]) -> dict[str, dict[str, float]]:
    """Drops and bounds as plain values, by limit."""
    return {name: fall._asdict() for name, fall in falls.items()}


def looks_of(looks: Sequence[tuple[Round, Mapping[str, Fall]]]) -> list[dict[str, Any]]:
    """The networks that were looked at on the certificate's half, as plain values."""
    return [
        {"round": done.trial.number, "kept": done.trial.keep, "drops": plain(falls)} for done, falls in looks
    ]


def question(experiment: Experiment, limits: Mapping[str, float]) -> dict[str, Any]:
    """What a certificate answers: the limits, how they are judged, and every setting."""
    config = experiment.config
    return {
        "name": experiment.name,
        "dataset": config.data.dataset,
        "method": experiment.method,
        "protocol": config.run.protocol,
        "seed": config.run.seed,
        "limits": dict(limits),
        "of": config.prune.ratio_of if config.contract.of == "size" else config.contract.of,
        "granularity": config.prune.granularity,
        "level": config.contract.level,
        "resamples": config.contract.resamples,
        "bound": KIND,
        "config": as_tree(config),
        "versions": versions(),
    }


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict: names, types, shapes and bits, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def read_limits(path: Path) -> dict[str, Any]:
    """A contract's certificate, its limits as numbers; FileNotFoundError or ValueError in one sentence."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: create_pruned_net.py --max-drop writes it")
    content = read_json(path)
    for field, kind in FIELDS.items():
        value = content.get(field) if isinstance(content, dict) else None
        if not isinstance(value, kind):
            raise ValueError(
                f"{path} is no certificate of a contract: field '{field}' is missing or no {kind.__name__}"
            )
    if content.get("bound") != KIND:
        raise ValueError(
            f"{path} has bounds of another kind than this version's, as earlier versions made: "
            "create_pruned_net.py --max-drop with --overwrite makes it anew"
        )
    limits = {name: math.inf if limit is None else limit for name, limit in content["limits"].items()}
    return content | {"limits": limits}


def format_limits(content: Mapping[str, Any]) -> str:
    """The certificate's limits, drops and bounds as aligned text."""
    test, validation = content["test"], content["validation"]["certificate"]
    shown = {f"validation, {validation['images']} images": validation["drops"]}
    if test is not None:
        shown[f"test, {test['images']} images"] = test["drops"]
    header = ["lost, %", "limit", *(word for title in shown for word in (title, "at most"))]
    rows = [
        [
            name,
            _number(limit),
            *(_number(of[name][key]) for of in shown.values() for key in ("drop", "bound")),
        ]
        for name, limit in content["limits"].items()
    ]
    words = f"bounds are one-sided, at level {content['level']:g}"
    if content.get("latency"):
        words = f"{_latency(content)}\n{words}"
    return table(rows, header) + f"\n{words}" + ("" if test is not None else "; the index has no test split")


def _latency(content: Mapping[str, Any]) -> str:
    """What the table says of this size, and of the whole network."""
    known = content["latency"]
    times = table_of(known)
    ours, whole = (times[content["size"][what]] for what in ("kept", "total"))
    return f"{ours:.3g} ms in {known['runtime']}, {whole:.3g} ms with all weights: by the table of latencies"


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"
