"""What iou_analysis.py leaves behind: JSON, the plain text of the published code, a PNG, tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.figures import write_figure
from common.files import replacing, write_json
from common.text import percent, table
from models.published import published_name

from .figures import agreement_bars, bars_of

Files = list[tuple[Path, str]]


def paths(folder: Path, stem: str) -> dict[str, Path]:
    """The files of one analysis, by their ending."""
    return {kind: folder / f"{stem}.{kind}" for kind in ("json", "txt", "png")}


def write(result: dict, where: Mapping[str, Path]) -> Files:
    """Write all three, once all are made; returns what holds what."""
    curves = range(len(result["curves"]))
    bars, text = agreement_bars([bars_of(result, curve) for curve in curves]), plain_text(result)
    write_json(where["json"], result)
    with replacing(where["txt"]) as path:
        path.write_text(text, encoding="utf-8")
    write_figure(bars, where["png"])
    return [
        (where["json"], "everything: curves, pairs, densities, watershed"),
        (where["txt"], "agreement by layer in the published form"),
        (where["png"], "the same as bars"),
    ]


def plain_text(result: Mapping) -> str:
    """{published layer name: agreement} of the first keep ratio, shortcuts left out, as Python text."""
    tasks, curve = tuple(result["tasks"]), result["curves"][0]
    values = {
        published_name(f"{row['name']}.weight", tasks).removesuffix(".weight"): value["mean"]
        for row, value in zip(result["layers"], curve["layers"], strict=True)
        if not row["shortcut"]
    }
    return repr(values)


def tables(result: Mapping) -> str:
    """For the terminal: agreement by layer, pairs over the whole backbone, and a line for each keep ratio."""
    curves, seeds = result["curves"], len(result["seeds"])
    parts = [_layers(result), _pairs(result)] if len(result["tasks"]) > 2 else [_layers(result)]
    rows = [
        (
            f"{curve['keep_ratio']:g}",
            f"{curve['sparsity']:.2%}",
            percent(curve["overall"]["mean"]),
            f"{percent(curve['overall']['low'])} to {percent(curve['overall']['high'])}",
            percent(curve["chance"]),
            curve["watershed"]["layer"] or "none",
            f"{round(curve['watershed']['confidence'] * seeds)} of {seeds}",
        )
        for curve in curves
    ]
    header = ("keep ratio", "sparsity", "agreement", "over seeds", "random", "watershed", "seeds that say so")
    return "\n\n".join([*parts, table(rows, header), "\n".join(map(_advice, curves))])


def _layers(result: Mapping) -> str:
    curve = result["curves"][0]
    mark = curve["watershed"]["layer"]
    rows = [
        (
            row["name"] + _remark(row, mark),
            percent(value["mean"]),
            f"{percent(value['low'])} to {percent(value['high'])}",
            percent(value["chance"]),
            *(f"{curve['density'][task].get(row['name'], 0.0):.2%}" for task in result["tasks"]),
        )
        for row, value in zip(result["layers"], curve["layers"], strict=True)
    ]
    header = ("layer", "agreement", "over seeds", "random", *(f"kept by {t}" for t in result["tasks"]))
    return f"each task keeps {curve['keep_ratio']:.2%} of its weights\n\n" + table(rows, header)


def _remark(row: Mapping, mark: str | None) -> str:
    if row["name"] == mark:
        return " (watershed)"
    return " (shortcut)" if row["shortcut"] else ""


def _pairs(result: Mapping) -> str:
    pairs = result["curves"][0]["pairs"]
    rows = [
        (task, *map(percent, cells)) for task, cells in zip(pairs["tasks"], pairs["overall"], strict=True)
    ]
    return table(rows, ("pairs, whole backbone", *pairs["tasks"]))


def _advice(curve: Mapping) -> str:
    """What follows for the network, in one line."""
    found, at = curve["watershed"], f"keep ratio {curve['keep_ratio']:g}"
    if found["layer"] is None:
        return f"{at}: no watershed, no layer stands out to branch at"
    if found["branch_after"] is None:
        return f"{at}: the tasks part in the first unit, {found['layer']}; no shared backbone follows"
    doubt = "" if found["confidence"] > 0.5 else " (uncertain: half of the seeds or more say otherwise)"
    return f"{at}: the tasks part at {found['layer']}: --branch-after {found['branch_after']}{doubt}"
