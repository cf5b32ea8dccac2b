"""Run a network in the middle of training, leave no trace of it, and see all of its graph.

Reentrant checkpointing and compiled code hide weights from autograd. Inside `untouched` the first is replaced
by checkpointing that is not reentrant, which computes the same and saves the same memory, and the second runs
eagerly; `reached_leaves` refuses a graph that hides something all the same. Functions of a network's own
(reversible layers) may run a backward pass of their own inside; what that reaches is seen by running it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from .shards import settle

# autograd nodes that stand for a part of the network whose weights they do not show
HIDING = {
    "CheckpointFunctionBackward": "reentrant checkpointing; call checkpoint(..., use_reentrant=False)",
    "CompiledFunctionBackward": "a compiled graph; give the network that is not compiled",
}


_looking: list[nn.Module] = []  # networks that are inside `untouched` now
OWN_FUNCTION = torch.autograd.function.BackwardCFunction  # node of a torch.autograd.Function in Python


@contextmanager
def untouched(model: nn.Module, differentiate: Iterable[Tensor] = ()) -> Iterator[None]:
    """Train mode and gradients inside; afterwards modes, buffers, requires_grad and random streams are as
    before. Inside, cuDNN picks algorithms that repeat themselves: equal commands must give equal masks.

    Inside there is no `.grad`, and what the network itself may write there is dropped; afterwards each is the
    tensor that it was. `differentiate`: leaves that must require a gradient inside, also when the user froze
    them.
    """
    settle(model)
    gradients = [(weight, weight.grad) for weight in model.parameters()]
    buffers = [
        (module, name, buffer, _memory(buffer).clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    # an adapter that is merged and leaves its layer again leaves it rounded
    merging = [
        (weight, weight.detach().clone())
        for module in model.modules()
        if type(module).train is not nn.Module.train
        for weight in module.parameters(recurse=False)
    ]
    frozen = [leaf for leaf in differentiate if not leaf.requires_grad]
    devices = _numbered_devices(model)
    kind = {"device_type": devices[0].type} if devices else {}
    try:
        with (
            same_modes(model),
            torch.random.fork_rng(devices=[device.index for device in devices], **kind),
            _same_streams(),
            _repeatable(),
            torch.enable_grad(),
            _eagerly(),
            _checkpoints_in_sight(),
        ):
            for leaf in frozen:
                leaf.requires_grad_(True)
            for weight, _ in gradients:
                weight.grad = None
            model.train()
            _looking.append(model)
            yield
    finally:
        if model in _looking:
            _looking.remove(model)
        settle(model)
        for weight, gradient in gradients:
            weight.grad = gradient
        for leaf in frozen:
            leaf.requires_grad_(False)
        with torch.no_grad():
            for weight, value in merging:
                weight.data.copy_(value)
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer
                _memory(buffer).copy_(before)


def _memory(tensor: Tensor) -> Tensor:
    """The tensor without the repetitions of `expand`, which cannot be written to."""
    if tensor.layout == torch.strided:
        for axis in range(tensor.dim()):
            if tensor.stride(axis) == 0 and tensor.shape[axis] > 1:
                tensor = tensor.narrow(axis, 0, 1)
    return tensor


@contextmanager
def same_modes(model: nn.Module) -> Iterator[None]:
    """Afterwards every module is in training or evaluation mode as before, told by its own `train`: adapters
    merge into their layer in evaluation mode, and leave it again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.train(training)
        for module, training in modes:  # as of a layer that stays in evaluation mode, whatever it is told
            module.training = training


@contextmanager
def _same_streams() -> Iterator[None]:
    """The streams of Python and NumPy are afterwards as before."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _repeatable() -> Iterator[None]:
    """cuDNN picks algorithms that repeat themselves. Not `torch.backends.cudnn.flags`, whose defaults turn
    cuDNN off."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def looking(model: nn.Module) -> bool:
    """Whether the backward pass at hand is one of ours, whose gradients no hook may change."""
    return any(each is model for each in _looking)


def reached_leaves(value: Tensor, among: Iterable[Tensor] = ()) -> list[Tensor]:
    """The leaves that a value depends on, from a walk over its graph; call inside `untouched`.

    among: leaves that a function of the network's own may hide; a graph with such a function is run backward
    once, and what that reaches counts too. Otherwise nothing is computed.
    Raises ValueError, naming it, for a node that hides a part of the graph.
    """
    if value.grad_fn is None:
        return [value] if value.requires_grad else []
    leaves: dict[int, Tensor] = {}
    own = ""
    for node in _nodes(value):
        for hiding, what in HIDING.items():
            if hiding in type(node).__name__:
                raise ValueError(f"the graph hides weights behind {what} ({type(node).__name__})")
        if isinstance(node, OWN_FUNCTION):
            own = type(node).__name__
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            leaves[id(leaf)] = leaf
    hidden = [leaf for leaf in among if id(leaf) not in leaves] if own else []
    if hidden:
        return [*leaves.values(), *_reached_backward(value, hidden, list(leaves.values()), own)]
    return list(leaves.values())


def reached_shards(value: Tensor, among: Iterable[Tensor]) -> list[Tensor]:
    """The same for sharded parameters, whose graph shows what was gathered of them: those that a backward
    pass gives a gradient. Their `.grad` is None before and after."""
    value.backward(retain_graph=True)
    reached = [leaf for leaf in among if leaf.grad is not None]
    for leaf in among:
        leaf.grad = None
    return reached


def runs_own_functions(value: Tensor) -> bool:
    """Whether the graph of a value has functions of the network's own, which may hide weights."""
    return any(isinstance(node, OWN_FUNCTION) for node in _nodes(value))


def _nodes(value: Tensor) -> Iterator[Any]:
    """Every node of the graph once."""
    ahead, known = [value.grad_fn], {value.grad_fn}
    while ahead:
        node = ahead.pop()
        if node is None:
            continue
        yield node
        for following, _ in node.next_functions:
            if following not in known:
                known.add(following)
                ahead.append(following)


def _reached_backward(
    value: Tensor, hidden: Sequence[Tensor], seen: Sequence[Tensor], function: str
) -> list[Tensor]:
    """Those of the hidden leaves that a backward pass inside the backward pass reaches. seen: the other
    leaves, for whose sake all of the graph is run."""
    reached: dict[int, Tensor] = {}

    def note(leaf: Tensor, gradient: Tensor | None) -> None:
        reached[id(leaf)] = leaf

    handles = [leaf.register_hook(partial(note, leaf)) for leaf in hidden]
    try:
        torch.autograd.grad(value, [*hidden, *seen], retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        raise ValueError(
            f"the graph may hide weights in the network's own {function}, whose backward pass fails: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return list(reached.values())


def _eagerly() -> AbstractContextManager[Any]:
    """Compiled code runs as it was written, if anything has been compiled."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


class _OpenCheckpoint:
    """Stands in for the autograd function of reentrant checkpointing."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(
            function, *args, use_reentrant=False, preserve_rng_state=preserve
        )


@contextmanager
def _checkpoints_in_sight() -> Iterator[None]:
    home: Any = torch.utils.checkpoint
    before = home.CheckpointFunction
    home.CheckpointFunction = _OpenCheckpoint
    try:
        yield
    finally:
        home.CheckpointFunction = before


def seed_streams(model: nn.Module, seed: int) -> None:
    """Seeds the default streams of Python, NumPy, main memory and the model's devices, no others; call inside
    `untouched`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    for device in _numbered_devices(model):
        backend = torch.get_device_module(device)
        with backend.device(device):
            backend.manual_seed(seed)


def _numbered_devices(model: nn.Module) -> list[torch.device]:
    """Accelerators that hold parameters; main memory and the meta device carry no number."""
    return sorted({p.device for p in model.parameters() if p.device.index is not None}, key=str)
