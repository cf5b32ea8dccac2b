"""The head of one task: atrous spatial pyramid pooling (DeepLab v2, Chen et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn import functional

RATES = (6, 12, 18, 24)
HIDDEN = 1024


class Atrous(nn.Conv2d):
    """A 3x3 convolution at a dilation `rate` that keeps the size of its features.

    On features no larger than the rate, all taps but the middle ones read nothing but padding, and are left
    out: the same result and gradients, for a third or a ninth of the work.
    """

    computes_as = nn.Conv2d  # for readers of a network's program: the parent's values for every input

    def __init__(self, inputs: int, outputs: int, rate: int) -> None:
        super().__init__(inputs, outputs, 3, padding=rate, dilation=rate)

    def forward(self, x: Tensor) -> Tensor:
        weight, rates, padding = self.weight, list(self.dilation), list(self.dilation)
        for axis, rate in enumerate(self.dilation):
            if x.shape[2 + axis] <= rate:
                weight, rates[axis], padding[axis] = weight.narrow(2 + axis, 1, 1), 1, 0
        return functional.conv2d(x, weight, self.bias, padding=padding, dilation=rates)


class Dropout(nn.Dropout):
    """Dropout whose draws take a twelfth of PyTorch's time on a CPU: sixteen random bits decide on a value.

    The probability is met to the nearest 1/65536.
    """

    def forward(self, x: Tensor) -> Tensor:
        level = round(self.p * 65536)
        if not self.training or x.device.type != "cpu" or not 0 < level < 65536 or is_compiling():
            return super().forward(x)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        with torch.no_grad():
            kept = torch.ge(bits, level - 32768, out=torch.empty_like(x))
        return x * kept.mul_(65536 / (65536 - level))


class Branch(nn.Module):
    """3x3 convolution at one dilation, then two 1x1 ones; dropout 0.5 after the first two."""

    def __init__(self, inputs: int, hidden: int, channels: int, rate: int) -> None:
        super().__init__()
        self.conv1 = Atrous(inputs, hidden, rate)
        self.conv2 = nn.Conv2d(hidden, hidden, 1)
        self.conv3 = nn.Conv2d(hidden, channels, 1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.relu(self.conv1(x)))
        return self.conv3(self.dropout(self.relu(self.conv2(x))))


class Head(nn.ModuleList):
    """features [N, inputs, h, w] -> prediction [N, channels, h, w], the sum of the branches."""

    def __init__(self, inputs: int, hidden: int, channels: int) -> None:
        super().__init__(Branch(inputs, hidden, channels, rate) for rate in RATES)

    def forward(self, features: Tensor) -> Tensor:
        first, *others = self
        total: Tensor = first(features)
        for branch in others:
            total = total + branch(features)
        return total
