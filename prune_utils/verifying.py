"""Whether a network is what its certificate says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .granularity import WEIGHT, Grain, check_parts, find_granularity
from .lookup import find_values
from .masks import Mask, count, layer_counts, layer_name, mask_hash, overall, size


@torch.no_grad()
def verify(model: nn.Module, mask: Mask, certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Compares a network and its mask with the certificate: every layer's counts, the zeros, the mask's hash.

    model: may be wrapped, in another precision, an average of the weights, or quantised.
    Returns kept, total, hash, pruned (total - kept: so many weights were found to be exactly 0), and zeros:
        exact zeros among all weights that the mask covers, of which kept ones may be some (a weight that has
        just been grown is 0). zeros - pruned is the number of those.
    Raises ValueError that names the first layer that is not what the certificate says.
    """
    layers = certificate["layers"]
    names = {layer_name(name): name for name in mask}
    missing = [layer for layer in layers if layer not in names]
    if missing:
        raise ValueError(f"layer {missing[0]!r} of the certificate is not in the mask")
    zeros = sum(
        _check_layer(find_values(model, name), layer, mask[name], layers.get(layer))
        for layer, name in names.items()
    )
    check_granularity(certificate, mask)
    digest = mask_hash(mask)
    if digest != certificate["hash"]:
        raise ValueError(
            "the counts of all layers are those of the certificate, but other weights are kept: the mask's "
            f"hash is {digest[:16]}, the certificate says {certificate['hash'][:16]}"
        )
    kept, total = count(mask), size(mask)
    return {"kept": kept, "pruned": total - kept, "total": total, "hash": digest, "zeros": zeros}


def check_certificate(certificate: Mapping[str, Any], mask: Mapping[str, Tensor]) -> None:
    """ValueError that names the first field of a certificate which is not what the mask itself says.

    Counts, shares and the hash are computed from the mask; fields that the certificate lacks are passed over.
    """
    if not size(mask):
        raise ValueError("the mask covers no weight")
    found = overall(mask) | {"hash": mask_hash(mask) if "hash" in certificate else None}
    for field, value in found.items():
        if field in certificate and not _equal(certificate[field], value):
            plain = isinstance(certificate[field], str | int | float)
            claimed = ascii(certificate[field])[:70] if plain else f"a {type(certificate[field]).__name__}"
            raise ValueError(f"field '{field}' of the certificate is {claimed}, the mask says {value}")
    check_granularity(certificate, mask)
    layers = layer_counts(mask)
    said = certificate.get("layers", layers)
    if not isinstance(said, Mapping) or said.keys() != layers.keys():
        raise ValueError("field 'layers' of the certificate names other layers than the mask")
    for layer, counts in layers.items():
        figures = said[layer]
        if (
            not isinstance(figures, Mapping)
            or figures.keys() != counts.keys()
            or any(type(figures[key]) is not int or figures[key] != counts[key] for key in counts)
        ):
            raise ValueError(
                f"layer {layer!r} of 'layers' in the certificate is not what the mask says: {counts}"
            )


def check_asked(certificate: Mapping[str, Any], mask: Mapping[str, Tensor]) -> None:
    """ValueError where the mask keeps another number than was asked for: of single weights another one at
    all, of units and multiply-adds more, or so many fewer that each layer could keep one unit more.

    Nothing is asked of what the granularity keeps in every part.
    """
    keep, asked = certificate["asked_keep"], certificate["asked"]
    granularity = find_granularity(asked.get("granularity", WEIGHT.name))
    if keep is None or not granularity.whole:
        return
    macs = asked.get("ratio_of", "params") == "macs"
    grain = Grain(granularity, asked["uses"] if macs else None)
    kept, shapes = grain.cost(mask), {name: of.shape for name, of in mask.items()}
    spare = sum(unit - 1 for unit in grain.unit_costs(shapes).values())
    if not keep - spare <= kept <= keep:
        what = "multiply-adds" if macs else "weights"
        raise ValueError(
            f"the mask keeps {kept:,} {what}, and ratio {asked['ratio']:g} asks for {keep:,}: it was "
            "changed, or not made for this ratio"
        )


def check_granularity(certificate: Mapping[str, Any], mask: Mapping[str, Tensor]) -> None:
    """ValueError that names the first layer whose mask has not the granularity that was asked for."""
    asked = certificate.get("asked")
    name = asked.get("granularity", WEIGHT.name) if isinstance(asked, Mapping) else WEIGHT.name
    check_parts(find_granularity(name), mask)


def _equal(said: object, value: int | float | str) -> bool:
    if isinstance(value, float):
        return isinstance(said, float) and math.isclose(said, value, rel_tol=1e-9, abs_tol=1e-9)
    return type(said) is type(value) and said == value


def _check_layer(values: Tensor | None, layer: str, kept: Tensor, said: Mapping[str, int] | None) -> int:
    """Zeros of a layer. Raises ValueError where it is not what the certificate says."""
    if said is None:
        raise ValueError(f"layer {layer!r} of the mask is not in the certificate")
    if values is None:
        raise ValueError(f"layer {layer!r} of the certificate is not in the network")
    if values.shape != kept.shape:
        raise ValueError(
            f"layer {layer!r} has shape {tuple(values.shape)} in the network, {tuple(kept.shape)} in the mask"
        )
    is_kept, total = int(kept.count_nonzero()), kept.numel()
    if (is_kept, total) != (said["kept"], said["total"]):
        raise ValueError(
            f"layer {layer!r} keeps {is_kept:,} of {total:,} weights, the certificate says "
            f"{said['kept']:,} of {said['total']:,}"
        )
    alive = int(values[~kept.to(values.device)].count_nonzero())  # NaN counts
    if alive:
        raise ValueError(f"layer {layer!r} holds {alive:,} weights other than 0 where the mask prunes")
    return total - int(values.count_nonzero())
