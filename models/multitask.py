"""The multitask network: a shared backbone, private continuations where asked for, one head per task.

It says which parameters each task owns; pruning reads that and nothing else about the architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.choices import not_one_of
from common.resizing import resize

from .aspp import HIDDEN, Head
from .resnet import Backbone, backbone_units, scaled


class MultiTaskNet(nn.Module):
    """DeepLab-ResNet with a head per task (67.6 M parameters for NYUv2 at width 1).

    channels: task name -> output channels; the order is the order of the heads.
    backbone: resnet18 or resnet34. width: factor on every hidden width.
    branch_after: name of the last shared unit ("stem", "stages.2.3", ...); what follows exists once per task.
    channels_last: compute with features in channels-last memory order; weights keep theirs. Shapes are the
        same, values too but for rounding and, in training, which features dropout draws.
    shapes: of tensors that have lost channels, by name.

    forward: image [N, 3, H, W] -> {task: [N, channels, h, w]}, h and w about H / 8 and W / 8.
    """

    def __init__(
        self,
        channels: dict[str, int],
        backbone: str = "resnet34",
        width: float = 1.0,
        branch_after: str | None = None,
        channels_last: bool = False,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("a network needs at least one task")
        self.description: dict[str, Any] = {
            "channels": dict(channels),
            "backbone": backbone,
            "width": width,
            "branch_after": branch_after,
        }
        self.layout = torch.channels_last if channels_last else torch.preserve_format
        units = backbone_units(backbone, width)
        names = [unit.name for unit in units]
        if branch_after is not None and branch_after not in names:
            raise ValueError(not_one_of("branch-after", branch_after, names))
        shared = len(units) if branch_after is None else names.index(branch_after) + 1
        self.backbone = Backbone(units[:shared])
        private = units[shared:]
        self.branches = nn.ModuleDict({task: Backbone(private) for task in channels} if private else {})
        hidden = scaled(HIDDEN, width)
        self.heads = nn.ModuleDict(
            {task: Head(units[-1].outputs, hidden, count) for task, count in channels.items()}
        )
        if shapes:
            self.cut(shapes)

    def cut(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Gives tensors the shapes that they have without some channels; their values are to be loaded."""
        resize(self, shapes)
        self.describe(shapes)

    def describe(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Tells in the description of which shapes tensors are now."""
        known = self.description.get("shapes", {})
        self.description["shapes"] = known | {name: list(shape) for name, shape in shapes.items()}

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.heads)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.backbone(image.to(memory_format=self.layout))
        return {
            task: head(self.branches[task](features) if task in self.branches else features)
            for task, head in self.heads.items()
        }

    def owners(self) -> dict[str, frozenset[str]]:
        """Parameter name -> the tasks whose output depends on it. A test compares it with autograd."""
        everyone = frozenset(self.heads)
        owners = {}
        for name, _ in self.named_parameters():
            room, task = name.split(".")[:2]
            owners[name] = everyone if room == "backbone" else frozenset({task})
        return owners
