"""Run a network in the middle of training and leave no trace of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def untouched(model: nn.Module, differentiate: Iterable[Tensor] = ()) -> Iterator[None]:
    """Train mode and gradients inside; afterwards modes, buffers, requires_grad and random streams are as
    before. Inside, cuDNN picks algorithms that repeat themselves: equal commands must give equal masks.

    `.grad` stays as it is as long as the caller uses torch.autograd.grad. `differentiate`: leaves that must
    require a gradient inside, also when the user froze them.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    frozen = [leaf for leaf in differentiate if not leaf.requires_grad]
    devices = _numbered_devices(model)
    kind = {"device_type": devices[0].type} if devices else {}
    try:
        with (
            torch.random.fork_rng(devices=[device.index for device in devices], **kind),
            torch.backends.cudnn.flags(deterministic=True, benchmark=False),
            torch.enable_grad(),
        ):
            for leaf in frozen:
                leaf.requires_grad_(True)
            model.train()
            yield
    finally:
        for leaf in frozen:
            leaf.requires_grad_(False)
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer
                buffer.copy_(before)


def seed_streams(model: nn.Module, seed: int) -> None:
    """Seeds the default streams of main memory and of the model's devices, no others; call inside
    `untouched`."""
    torch.default_generator.manual_seed(seed)
    for device in _numbered_devices(model):
        backend = torch.get_device_module(device)
        with backend.device(device):
            backend.manual_seed(seed)


def _numbered_devices(model: nn.Module) -> list[torch.device]:
    """Accelerators that hold parameters; main memory and the meta device carry no number."""
    return sorted({p.device for p in model.parameters() if p.device.index is not None}, key=str)
