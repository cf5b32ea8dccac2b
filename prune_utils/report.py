"""The certificate of a pruned network: what was asked, what was achieved, and where the weights are.

Plain values only, so that it travels in checkpoints and JSON files; `format_certificate` shows it on a
terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import nn

from .budgets import keep_count
from .covering import WARN_BELOW, Coverage, coverage, covered_by
from .granularity import WEIGHT, Grain, Granularity, count_parts, find_granularity
from .masks import Mask, layer_counts, layer_name, mask_hash, overall
from .roles import TRANSPOSED
from .text import table
from .voters import Owners

LISTED = 3  # names that a line shows
SAID_ELSEWHERE = ("ratio", "uses", "resolution", "whole")  # of what was asked
USUAL = {"granularity": WEIGHT.name, "ratio_of": "params", "channel_multiple": 1}  # and goes without saying
STARVED = 0.1  # a shared layer below this share of the overall density is worth a warning


def certificate(
    mask: Mask, owners: Owners, asked: Mapping[str, Any], network: nn.Module | Coverage | None = None
) -> dict[str, Any]:
    """What the mask keeps, in plain values.

    "pruned" is total - kept, to one weight, and each of them is exactly 0 in the network (`verify` looks).

    owners: tasks of every weight. asked: the plan as a dict (dataclasses.asdict), with whatever else should
        be on record: batches, seed, ... Without a ratio in it, nothing was asked exactly.
    network: what tells about all parameters, the network or its `coverage`; None = the coverage that the
        owners carry (`owners_from_graph`). Without any, the field "of_all" is None and the text says so.
    Weights that the mask does not name are dense and counted in "of_all" alone.
    """
    known = network if network is not None else getattr(owners, "coverage", None)
    known = coverage(known) if isinstance(known, nn.Module) else known
    layers, whole = layer_counts(mask), overall(mask)
    granularity = find_granularity(asked.get("granularity", WEIGHT.name))
    grain = _grain(mask, asked, granularity)
    of_all = None if known is None else _of_all(covered_by(known, mask, granularity), whole["pruned"])
    tasks = sorted({task for name in mask for task in owners.get(name, ())})
    groups: dict[str, list[str]] = {}
    for name in mask:
        groups.setdefault(_group(owners.get(name, frozenset()), tasks), []).append(layer_name(name))
    owned = {task: [layer_name(name) for name in mask if task in owners.get(name, ())] for task in tasks}
    exact = asked.get("keep_ratio") is None and asked.get("ratio") is not None and not granularity.removes
    return {
        "asked": _plain(asked),
        "asked_keep": keep_count(_total(mask, grain), asked["ratio"]) if exact else None,
        **whole,
        **(_removed(known, asked) if granularity.removes else _structure(mask, asked, granularity)),
        "groups": {group: _sum(layers, names) for group, names in _ordered(groups).items()},
        "tasks": {task: _sum(layers, names) for task, names in owned.items()},
        "layers": layers,
        "hash": mask_hash(mask),
        "of_all": of_all,
        "warnings": [
            *_uncovered(of_all),
            *_idle(getattr(owners, "idle", ())),
            *_warnings(layers, {layer_name(n) for n in mask if len(owners.get(n, ())) > 1}, whole["density"]),
        ],
    }


def format_certificate(cert: Mapping[str, Any]) -> str:
    """The certificate as aligned plain text, without the per-layer counts."""
    rows = [_row(group, counts) for group, counts in cert["groups"].items()]
    rows += [_row(f"task {task}, all it owns", counts) for task, counts in cert["tasks"].items()]
    rows.append(_row("together", cert))
    lines = [
        f"sparsity {cert['ratio']:.4f} %" + _asked(cert),
        "",
        table(rows, ("", "kept", "total", "density"), rule=False),
        "",
    ]
    lines.append(f"pruned {cert['total'] - cert['kept']:,} of {cert['total']:,} weights, each exactly 0")
    lines += _structure_lines(cert)
    lines.append(_settings(cert["asked"]))
    lines.append(f"mask {cert['hash'][:16]}")
    lines += _of_all_lines(cert)
    lines += [f"warning: {warning}" for warning in cert["warnings"]]
    return "\n".join(lines)


def _grain(mask: Mask, asked: Mapping[str, Any], granularity: Granularity) -> Grain:
    """What the asked ratio counts."""
    return Grain(granularity, asked["uses"] if asked.get("ratio_of", "params") == "macs" else None)


def _total(mask: Mask, grain: Grain) -> int:
    return sum(grain.costs({name: kept.shape for name, kept in mask.items()}).values())


def _structure(mask: Mask, asked: Mapping[str, Any], granularity: Granularity) -> dict[str, Any]:
    """Units and multiply-adds; {} where single weights are counted."""
    found: dict[str, Any] = {}
    if granularity != WEIGHT:
        kept, total = count_parts(granularity, mask)
        found["units"] = {"granularity": granularity.name, "kept": kept, "total": total}
    counted = Grain(WEIGHT, asked.get("uses"))
    if counted.uses is not None and all(name in counted.uses for name in mask):
        found["macs"] = {"kept": counted.cost(mask), "total": _total(mask, counted)}
    return found


def _removed(known: Coverage | None, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What left the network, where `asked` says how large it was ("whole")."""
    whole, uses = asked.get("whole"), asked.get("uses")
    if known is None or not whole or not uses:
        return {}
    shapes = {entry.name: entry.shape for entry in known.entries if entry.name in uses}
    left = {
        "params": known.parameters,
        "macs": sum(count * prod(shapes[name]) for name, count in uses.items() if name in shapes),
        "channels": sum(shape[shape.kind == TRANSPOSED] for shape in shapes.values()),
    }
    ratio = asked.get("ratio")
    keep = None if ratio is None else keep_count(whole[asked["ratio_of"]], ratio)
    return {"removed": {"of": asked["ratio_of"], "asked_keep": keep, "before": dict(whole), "after": left}}


def _removed_lines(found: Mapping[str, Any]) -> list[str]:
    lines = []
    words = {"channels": "channels, outputs of all layers", "params": "parameters", "macs": "multiply-adds"}
    for what, text in words.items():
        left, whole = found["after"][what], found["before"][what]
        line = f"{left:,} of {whole:,} {text} are left, {100 * (1 - left / whole):.4f} % are removed"
        if what == found["of"] and found["asked_keep"] is not None:
            line += f" ({found['asked_keep']:,} asked; {found['asked_keep'] - left:,} left over)"
        lines.append(line)
    return lines


def _structure_lines(cert: Mapping[str, Any]) -> list[str]:
    if "removed" in cert:
        return _removed_lines(cert["removed"])
    lines, units, macs = [], cert.get("units"), cert.get("macs")
    if units:
        lines.append(find_granularity(units["granularity"]).said(units["kept"], units["total"]))
    if macs:
        gone = 100 * (1 - macs["kept"] / macs["total"])
        size = " x ".join(map(str, cert["asked"].get("resolution", ())))
        where = f" for an image of {size}" if size else ""
        lines.append(
            f"multiply-adds of these{where}: {macs['kept']:,} of {macs['total']:,}, {gone:.4f} % fewer"
        )
    return lines


def _of_all(covered: Coverage, pruned: int) -> dict[str, Any]:
    """The same pruned weights as a part of all parameters, and what the ratio does not speak of."""
    return {
        "parameters": covered.parameters,
        "considered": covered.considered,
        "share": covered.share,
        "pruned": pruned,
        "sparsity": pruned / covered.parameters,
        "left_out": covered.left_out(),
    }


def _of_all_lines(cert: Mapping[str, Any]) -> list[str]:
    if "of_all" not in cert:  # of a file written before there was such a field
        return []
    if cert["of_all"] is None:
        return ["share of all parameters: not known, no network was given"]
    found = cert["of_all"]
    lines = [
        f"of all {found['parameters']:,} parameters {found['share']:.2%} are considered; "
        f"{found['pruned']:,} are pruned, {found['sparsity']:.4%} of all"
    ]
    return lines + [f"not considered, {reason}: {_listed(of)}" for reason, of in found["left_out"].items()]


def _listed(sizes: Mapping[str, int]) -> str:
    """The largest by name, the rest by number."""
    names = sorted(sizes, key=lambda name: -sizes[name])
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{sum(sizes.values()):,} in " + ", ".join(names[:LISTED]) + more


def _uncovered(of_all: Mapping[str, Any] | None) -> list[str]:
    if of_all is None or of_all["share"] >= WARN_BELOW:
        return []
    reasons = {reason: sum(of.values()) for reason, of in of_all["left_out"].items()}
    largest = sorted(reasons, key=lambda reason: -reasons[reason])[:LISTED]
    parts = ", ".join(f"{reason} {reasons[reason] / of_all['parameters']:.2%}" for reason in largest)
    return [
        f"the ratio speaks of {of_all['share']:.2%} of all parameters only; not considered are {parts}: "
        "`include` takes patterns of what to consider as well"
    ]


def _idle(tasks: Sequence[str]) -> list[str]:
    if not tasks:
        return []
    return [f"no considered weight is owned by {', '.join(tasks)}, which has no say: all of it is left alone"]


def _group(tasks: frozenset[str], everybody: Sequence[str]) -> str:
    if len(tasks) > 1:
        return "backbone" if len(tasks) == len(everybody) else f"shared by {'+'.join(sorted(tasks))}"
    return f"head {next(iter(tasks))}" if tasks else "no task's"


def _ordered(groups: dict[str, list[str]]) -> dict[str, list[str]]:
    """Backbone first, partly shared weights next, heads after them."""
    kinds = ("backbone", "shared", "head")
    return dict(sorted(groups.items(), key=lambda item: [not item[0].startswith(kind) for kind in kinds]))


def _sum(layers: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> dict[str, int]:
    return {key: sum(layers[name][key] for name in names) for key in ("kept", "total")}


def _warnings(layers: Mapping[str, Mapping[str, int]], shared: set[str], density: float) -> list[str]:
    warnings = []
    empty = [name for name, counts in layers.items() if counts["kept"] == 0]
    starved = [
        name
        for name, counts in layers.items()
        if name in shared and name not in empty and counts["kept"] < STARVED * density * counts["total"]
    ]
    remedy = "budget erk or 12 rounds may help, in the library floor=0.1, too"
    if empty:
        warnings.append(f"no weight is left in {', '.join(empty)}: {remedy}")
    if starved:
        names = ", ".join(f"{name} ({layers[name]['kept'] / layers[name]['total']:.3%})" for name in starved)
        warnings.append(f"shared layers are below a tenth of the overall density: {names}: {remedy}")
    return warnings


def _asked(cert: Mapping[str, Any]) -> str:
    asked = cert["asked"]
    if "removed" in cert:
        return " of what is left without the channels that were removed"
    if cert["asked_keep"] is not None:
        what, kept = "weights", cert["kept"]
        if asked.get("ratio_of", "params") == "macs":
            what, kept = "multiply-adds", cert["macs"]["kept"]
        left = cert["asked_keep"] - kept
        why = find_granularity(asked.get("granularity", WEIGHT.name)).too_little
        over = f"; {left:,} left over, {why}" if left > 0 else ""
        return f" (asked {asked['ratio']:g} %, {cert['asked_keep']:,} {what}; kept {kept:,}{over})"
    if asked.get("keep_ratio") is not None:
        return f" (asked keep ratio {asked['keep_ratio']:g} for every task)"
    return ""


def _settings(asked: Mapping[str, Any]) -> str:
    shown = {
        key: value
        for key, value in asked.items()
        if value not in (None, False, [], "") and key not in SAID_ELSEWHERE and value != USUAL.get(key)
    }
    return "  ".join(
        f"{key.replace('_', ' ')} {','.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in shown.items()
    )


def _row(name: str, counts: Mapping[str, Any]) -> tuple[str, ...]:
    density = counts["kept"] / counts["total"] if counts["total"] else 0.0
    return name, f"{counts['kept']:,}", f"{counts['total']:,}", f"{density:.2%}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
