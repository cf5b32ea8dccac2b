"""Names and form of the published weights (formats: "Published checkpoints"), in and out.

Published files are plain state dicts in torch.nn.utils.prune form: `weight_orig` and `weight_mask` (float or
int) where a layer is pruned, tasks numbered in the data set's order, maybe a leading `module.`.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from common.tensors import flaw, not_plain

State = dict[str, Tensor]

_OURS_TO_THEIRS = (
    (r"^backbone\.stem\.conv\.", "backbone.conv1."),
    (r"^backbone\.stem\.norm\.", "backbone.bn1."),
    (r"^backbone\.stages\.(\d+)\.0\.shortcut\.", r"backbone.ds.\1."),
    (r"^backbone\.stages\.(\d+)\.(\d+)\.norm(\d)\.", r"backbone.blocks.\1.\2.bn\3."),
    (r"^backbone\.stages\.(\d+)\.(\d+)\.", r"backbone.blocks.\1.\2."),
)


def published_name(name: str, tasks: tuple[str, ...]) -> str:
    """Our parameter or buffer name in the published spelling; ValueError where that has no place for it."""
    for pattern, replacement in _OURS_TO_THEIRS:
        translated, hits = re.subn(pattern, replacement, name)
        if hits:
            return translated
    match = re.match(r"heads\.([^.]+)\.(\d)\.(.*)", name)
    if match is None:
        raise ValueError(
            f"'{name}' has no name in the published form, which knows one backbone and one head per task"
        )
    return f"task{tasks.index(match[1]) + 1}_fc1_c{match[2]}.{match[3]}"


def to_published(state: State, mask: State | None, tasks: tuple[str, ...]) -> State:
    """Our dense state dict and mask (None = dense) -> the published form, masks as float32."""
    published = {}
    for name, value in state.items():
        theirs = published_name(name, tasks)
        if mask is not None and name in mask:
            published[f"{theirs}_orig"] = value
            published[f"{theirs}_mask"] = mask[name].to(torch.float32)
        else:
            published[theirs] = value
    return published


def is_published(state: State) -> bool:
    """Whether a state dict carries the published names."""
    return any(re.match(r"(module\.)?backbone\.(conv1|blocks)\.", name) for name in state)


def from_published(state: State, ours: State, tasks: tuple[str, ...]) -> tuple[State, State | None]:
    """A published state dict -> (our dense state dict with pruned weights 0, mask bool or None).

    ours: a state dict of the network that shall receive it, for names and shapes.
    ValueError names the first tensor that is missing, of another shape, or unknown.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    result, mask = {}, {}
    for name, own in ours.items():
        theirs = published_name(name, tasks)
        pruned = f"{theirs}_orig" in state
        value = state.pop(f"{theirs}_orig" if pruned else theirs, None)
        if value is None and name.endswith("num_batches_tracked"):
            value = torch.zeros_like(own)
        if value is None:
            raise ValueError(f"tensor '{theirs}' is missing, {name} needs it with shape {tuple(own.shape)}")
        wrong = flaw(value, own)
        if wrong:
            raise ValueError(f"tensor '{theirs}{'_orig' if pruned else ''}' {wrong}")
        if pruned:
            kept = state.pop(f"{theirs}_mask", None)
            if kept is None:
                raise ValueError(f"tensor '{theirs}_mask' is missing, the network's is {tuple(own.shape)}")
            wrong = not_plain(kept) or flaw(kept.to(own.dtype), own)
            if wrong or not ((kept == 0) | (kept == 1)).all():
                raise ValueError(f"tensor '{theirs}_mask' {wrong or 'holds other numbers than 0 and 1'}")
            mask[name] = kept != 0
            value = torch.where(mask[name], value, torch.zeros_like(value))
        result[name] = value.to(own.dtype)
    if state:
        raise ValueError(
            f"tensor '{next(iter(state))}' is not part of this network ({len(state)} such tensors)"
        )
    return result, mask or None
