"""The plain way, as published multitask pruning code goes about it: what the benchmarks measure ours against.

A copy of the network multiplies every weight by a mask parameter; each task runs its own forward and backward
pass through the whole of it; each task's mask is its scores above its own threshold (a keep ratio per task);
the masks are merged layer by layer and put into the network as torch.nn.utils.prune hooks. Layers are told
apart by their names. Written for the benchmarks; nothing in the program uses it.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from models.multitask import MultiTaskNet

Losses = Mapping[str, Callable]
LAYERS = (nn.Conv2d, nn.Linear)


def layers_of(network: nn.Module) -> dict[str, Any]:
    """The layers with a weight; Any, as masks and hooks are put into them by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}


def owned_by(task: str, layer: str) -> bool:
    return layer.startswith("backbone.") or layer.startswith(f"heads.{task}.")


def _masked_forward(self: Any, x: Tensor) -> Tensor:
    weight = self.weight * self.weight_mask
    return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def masked_copy(network: nn.Module) -> nn.Module:
    """A copy with Xavier weights that do not learn, each multiplied by a parameter of ones that does."""
    twin = copy.deepcopy(network)
    for layer in layers_of(twin).values():
        layer.weight_mask = nn.Parameter(torch.ones_like(layer.weight))
        nn.init.xavier_normal_(layer.weight)
        layer.weight.requires_grad = False
        layer.forward = types.MethodType(_masked_forward, layer)
    return twin


def score(
    twin: nn.Module, losses: Losses, batches: Sequence, leaf: str = "weight_mask"
) -> dict[str, dict[str, Tensor]]:
    """Per task and layer: sum over the batches of |dL / d leaf|, the mask or the hooked "weight_orig"."""
    sums: dict[str, dict[str, Tensor]] = {task: {} for task in losses}
    for image, targets in batches:
        for task, loss in losses.items():
            twin.zero_grad()
            loss(twin(image), targets).backward()
            for name, layer in layers_of(twin).items():
                if owned_by(task, name):
                    found = torch.abs(getattr(layer, leaf).grad.data)
                    sums[task][name] = sums[task][name] + found if name in sums[task] else found
    return sums


def choose(scores: Mapping[str, dict[str, Tensor]], keep_ratio: float) -> dict[str, dict[str, Tensor]]:
    """Per task and layer, int32: 1 where the score is among the task's best share `keep_ratio`."""
    masks = {}
    for task, of in scores.items():
        everything = torch.cat([torch.flatten(score) for score in of.values()])
        total = torch.sum(everything)
        everything.div_(total)
        threshold = torch.topk(everything, int(len(everything) * keep_ratio), sorted=True)[0][-1]
        masks[task] = {name: ((score / total) >= threshold).int() for name, score in of.items()}
    return masks


def put_in(network: nn.Module, masks: Mapping[str, dict[str, Tensor]]) -> None:
    """The union of the tasks' masks, as pruning hooks of every layer."""
    layers = layers_of(network)
    hook([(layer, "weight") for layer in layers.values()])
    for name, layer in layers.items():
        unwanted = torch.ones_like(layer.weight_mask, dtype=torch.bool)
        for of in masks.values():
            if name in of:
                unwanted &= ~of[name].bool()
        layer.weight_mask.data = ~unwanted
        layer.weight = layer.weight_orig * layer.weight_mask


def hook(parameters: list) -> None:
    """Pruning hooks that prune nothing yet."""
    prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=0)


def hook_mask(network: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Put a mask (parameter name -> bool) into a network as torch.nn.utils.prune does."""
    for name, layer in layers_of(network).items():
        prune.custom_from_mask(layer, "weight", mask[f"{name}.weight"])


def regrow(network: MultiTaskNet, losses: Losses, batch: tuple, parts: int, drop: float) -> None:
    """One update of a dynamic mask: drop the smallest weights, grow by every task's dense gradient.

    network: with hooks. A second network is built, filled and differentiated for every task and part of the
    batch; each task grows a full quota in each layer, and the wishes are united.
    """
    twin = copy_without_mask(network)
    sums = score(twin, losses, split(batch, parts), "weight_orig")
    layers = layers_of(network)
    for name, layer in layers.items():
        active = int(layer.weight_mask.sum())
        quota = int(active * drop)
        prune.l1_unstructured(layer, "weight", amount=quota)
        grown = torch.zeros_like(layer.weight_mask)
        for of in sums.values():
            if name in of and quota:
                wish = of[name] * (layer.weight_mask == 0)
                threshold = torch.topk(wish.flatten(), quota, sorted=True)[0][-1]
                grown = torch.maximum(grown, ((wish >= threshold) & (wish > 0)).to(grown.dtype))
        layer.weight_mask.data = torch.maximum(layer.weight_mask, grown)


def copy_without_mask(network: MultiTaskNet) -> MultiTaskNet:
    """A copy whose masks are ones."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    twin = MultiTaskNet(**network.description)
    twin.layout = network.layout
    for layer in layers_of(twin).values():
        prune.identity(layer, "weight")
    twin.load_state_dict(state)
    for layer in layers_of(twin).values():
        layer.weight_mask = torch.ones_like(layer.weight)
    return twin.train()


def split(batch: tuple, parts: int) -> list[tuple]:
    image, targets = batch
    size = len(image) // parts
    crops = [slice(i * size, (i + 1) * size) for i in range(parts)]
    return [
        (image[at], {name: type(t)(t.value[at], t.valid[at]) for name, t in targets.items()}) for at in crops
    ]
