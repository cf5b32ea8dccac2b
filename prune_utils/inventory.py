"""Every layer of a network with its weights, owners and multiply-adds: what pictures and tables show.

Works on any network that takes an image batch and returns {task: tensor}: it runs on the meta device,
where nothing is computed. Who owns a layer is asked of autograd, never of its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .copying import copied
from .masks import layer_name, prunable
from .multiply_adds import weight_uses
from .voters import Owners, owners_from_graph


@dataclass(frozen=True)
class Layer:
    """One prunable layer. kept: weights of `total`; positions: output positions of one image.

    A weight of a convolution is multiplied once at every output position (its padding included), of a
    transposed one at every input position, of a linear layer for every row, so multiply-adds = weights *
    positions. Of other weights (recurrent, attention, foreign) nobody counts: positions are 0.
    """

    name: str
    owners: tuple[str, ...]
    kept: int
    total: int
    positions: int

    @property
    def density(self) -> float:
        return self.kept / self.total


@dataclass(frozen=True)
class Group:
    """Layers with the same owners, summed. macs: multiply-adds for one image, kept and of the dense layer."""

    name: str
    layers: tuple[Layer, ...]

    @property
    def kept(self) -> int:
        return sum(layer.kept for layer in self.layers)

    @property
    def total(self) -> int:
        return sum(layer.total for layer in self.layers)

    @property
    def kept_macs(self) -> int:
        return sum(layer.kept * layer.positions for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.total * layer.positions for layer in self.layers)


def survey(model: nn.Module, shape: tuple[int, ...]) -> tuple[dict[str, int], Owners]:
    """Output positions for one image, by weight, and owners of every prunable weight.

    shape: of the input batch, [N, C, H, W]. The model itself stays as and where it is.
    """
    twin = copied(model).to("meta")
    image = torch.empty(shape, device="meta")
    uses = weight_uses(twin, (image, None))
    with torch.no_grad():
        tasks = list(twin.eval()(image))
    losses = {task: lambda said, _, task=task: said[task].sum() for task in tasks}
    positions = {name: count // shape[0] for name, count in uses.items()}
    return positions, owners_from_graph(twin, losses, (image, None))


def inventory(model: nn.Module, mask: Mapping[str, Tensor] | None, shape: tuple[int, ...]) -> list[Layer]:
    """The prunable layers of a model under a mask (None, and layers that it does not name: dense)."""
    positions, owners = survey(model, shape)
    kept = {name: int(of.count_nonzero()) for name, of in (mask or {}).items()}
    return [
        Layer(
            layer_name(name),
            tuple(sorted(owners.get(name, ()))),
            kept.get(name, weight.numel()),
            weight.numel(),
            positions.get(name, 0),
        )
        for name, weight in prunable(model).items()
    ]


def groups(layers: list[Layer]) -> list[Group]:
    """Layers by owners: those that most tasks share first, otherwise in the order of the layers."""
    everybody = {task for layer in layers for task in layer.owners}
    found: dict[tuple[str, ...], list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.owners, []).append(layer)
    ordered = sorted(found.items(), key=lambda item: -len(item[0]))
    return [Group(_title(owners, everybody), tuple(of)) for owners, of in ordered]


def _title(owners: tuple[str, ...], everybody: set[str]) -> str:
    if len(owners) == 1:
        return f"only {owners[0]}"
    if not owners:
        return "no task"
    return "all tasks" if len(owners) == len(everybody) else " + ".join(owners)


def markdown(layers: list[Layer]) -> str:
    """The groups, the total and every layer as two Markdown tables."""
    rows = [_markdown_row(group.name, group) for group in groups(layers)]
    rows.append(_markdown_row("**together**", Group("", tuple(layers))))
    head = ["owned by", "weights", "kept", "density", "multiply-adds", "kept", "share"]
    lines = _markdown_table(head, rows)
    rows = [
        _markdown_row(f"`{layer.name}`", Group("", (layer,)), [group.name])
        for group in groups(layers)
        for layer in group.layers
    ]
    return "\n".join([*lines, "", *_markdown_table(["layer", "owned by", *head[1:]], rows), ""])


def _markdown_row(name: str, group: Group, more: list[str] | None = None) -> list[str]:
    return [
        name,
        *(more or []),
        f"{group.total:,}",
        f"{group.kept:,}",
        f"{group.kept / group.total:.2%}",
        amount(group.macs),
        amount(group.kept_macs),
        f"{group.kept_macs / group.macs:.2%}" if group.macs else "-",
    ]


def _markdown_table(head: list[str], rows: list[list[str]]) -> list[str]:
    texts = sum(not column.endswith(("by", "layer")) for column in head)
    rule = ["---"] * (len(head) - texts) + ["---:"] * texts
    return ["| " + " | ".join(row) + " |" for row in [head, rule, *rows]]


def amount(number: float) -> str:
    """1234567 -> '1.23 M'; '0' to '999' as they are."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:g}"
