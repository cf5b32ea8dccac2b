"""The backbone: a ResNet with dilated last stages, output at 1/8 of the image (DeepLab, Chen et al. 2017).

A backbone is a row of named units (the stem, then the residual blocks), so that a network can share the first
units between its tasks and keep the rest private. Leaves out bottleneck blocks and ImageNet class heads.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from common.choices import not_one_of

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
WIDTHS, STRIDES, DILATIONS = (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4)


class Unit(NamedTuple):
    """One unit of the backbone: its place (None = the stem), and what a block needs to be built."""

    place: tuple[int, int] | None
    inputs: int
    outputs: int
    stride: int = 1
    dilation: int = 1

    @property
    def name(self) -> str:
        return "stem" if self.place is None else f"stages.{self.place[0]}.{self.place[1]}"

    @property
    def opens_stage(self) -> bool:
        """Whether this is the first block of a stage after the first, with a convolution as its shortcut."""
        return self.place is not None and self.place[0] > 0 and self.place[1] == 0


def scaled(channels: int, width: float) -> int:
    """A layer's channels at a width factor, at least 4."""
    return max(4, round(channels * width))


def backbone_units(backbone: str, width: float) -> list[Unit]:
    """The units of a backbone in order; ValueError for an unknown one or a width outside (0, 4]."""
    if backbone not in BLOCKS:
        raise ValueError(not_one_of("backbone", backbone, BLOCKS))
    if not 0 < width <= 4:
        raise ValueError(f"width {width} is not in (0, 4]")
    units = [Unit(None, 3, scaled(WIDTHS[0], width))]
    for stage, (blocks, channels, stride, dilation) in enumerate(
        zip(BLOCKS[backbone], WIDTHS, STRIDES, DILATIONS, strict=True)
    ):
        for block in range(blocks):
            step = stride if block == 0 else 1
            units.append(Unit((stage, block), units[-1].outputs, scaled(channels, width), step, dilation))
    return units


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016); later stages open with a 1x1 one."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        _, inputs, outputs, stride, dilation = unit
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, dilation, dilation, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = None
        if unit.opens_stage:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        return functional.relu(out + (x if self.shortcut is None else self.shortcut(x)), inplace=True)


def _stem(unit: Unit) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(unit.inputs, unit.outputs, 7, 2, 3, bias=False),
            norm=nn.BatchNorm2d(unit.outputs),
            relu=nn.ReLU(inplace=True),
            pool=nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        )
    )


class Backbone(nn.Module):
    """Some consecutive units of a backbone. Parameters: `stem.conv`, `stages.{stage}.{block}.conv1`, ...

    forward: image [N, 3, H, W] (or the features before the first unit) -> features [N, C, h, w].
    """

    def __init__(self, units: list[Unit]) -> None:
        super().__init__()
        self.units = tuple(units)
        blocks = [unit for unit in units if unit.place is not None]
        if len(blocks) < len(units):
            self.stem = _stem(units[0])
        self.stages = nn.ModuleDict()
        for unit in blocks:
            _, stage, block = unit.name.split(".")
            if stage not in self.stages:
                self.stages[stage] = nn.ModuleDict()
            self.stages.get_submodule(stage).add_module(block, Block(unit))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.units:
            x = self.get_submodule(unit.name)(x)
        return x
