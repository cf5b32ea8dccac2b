"""Several processes: started, kept together, and ended together.

One process a device, by Fabric (`--devices N`) or by torchrun. All of them compute the same masks from the
same numbers; the first one alone writes files and talks. When one ends with an error, all end: nobody waits
for a message that never comes.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import ACCELERATOR_REGISTRY
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, distributed

from configs.schema import Run

WITHOUT_FLOAT64 = ("mps",)  # ranks and sums of scores need it
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
PATIENCE = timedelta(minutes=10)  # a process that is silent for so long is taken for dead
GRACE = 3.0  # seconds that the first process gives the others to end by themselves
LOST = ("closed by peer", "reset by peer", "refused", "gloo", "NCCL", "Timed out", "Broken pipe")

_children: list[subprocess.Popen] = []  # started by this process


def make_fabric(run: Run) -> Fabric:
    """The devices that the settings ask for, with every process started.

    ValueError in one sentence, with the choices, for a device, a number or a precision that is not there.
    """
    _check_choice("--precision", run.precision, PRECISIONS)
    available = [
        name
        for name in ACCELERATOR_REGISTRY
        if ACCELERATOR_REGISTRY[name]["accelerator"].is_available() and name not in WITHOUT_FLOAT64
    ]
    _check_choice("--device", run.device, ("auto", *available))
    devices, nodes = _count(run)
    several = nodes > 1 or devices > 1
    if several:
        # of 1x1 convolutions on channels-last features, whose strides differ in length 1 alone
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    device = run.device
    if device == "auto" and torch.backends.mps.is_available():
        device = "cpu"
    try:
        fabric = Fabric(
            accelerator=device,
            devices=devices,
            num_nodes=nodes,
            strategy=DDPStrategy(timeout=PATIENCE) if several else "auto",
            precision=cast(Any, run.precision),
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"--devices {run.devices} of --device {run.device} cannot be used here: {error}"
        ) from error
    fabric.launch()
    _watch(fabric)
    return fabric


def _check_choice(flag: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{flag} '{value}' is not one of {', '.join(choices)}")


def _count(run: Run) -> tuple[int, int]:
    """Devices of this machine and number of machines; torchrun's own numbers come first."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        if run.devices not in ("auto", str(local)):
            raise ValueError(f"--devices {run.devices} and torchrun's {local} processes do not agree")
        return local, world // local
    if run.devices == "auto":
        return 1, 1  # several processes change what one batch means to norms: only when asked for
    if not run.devices.isdigit() or int(run.devices) < 1:
        raise ValueError(f"--devices '{run.devices}' is neither auto nor a number of at least 1")
    return int(run.devices), 1


def gatherer(fabric: Fabric) -> Callable[[Tensor], list[Tensor]] | None:
    """What takes a tensor to the list of every process's tensor, by rank; None for one process."""
    if fabric.world_size == 1:
        return None

    def gather(tensor: Tensor) -> list[Tensor]:
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(fabric.world_size)]
        distributed.all_gather(parts, tensor)
        return parts

    return gather


def require_same(fabric: Fabric, what: str, value: int) -> None:
    """ValueError unless every process has the same value, e.g. a step: they may see different files."""
    gather = gatherer(fabric)
    values = [int(part) for part in gather(fabric.to_device(torch.tensor([value])))] if gather else [value]
    if len(set(values)) > 1:
        raise ValueError(
            f"the processes do not agree on {what} ({', '.join(map(str, values))}): "
            "do all of them see the same --dest?"
        )


def largest(fabric: Fabric, value: int) -> int:
    """The largest of every process's values, the same for all of them."""
    if fabric.world_size == 1:
        return value
    return int(cast(Tensor, fabric.all_reduce(fabric.to_device(torch.tensor(value)), reduce_op="max")))


# ------------------------------------------------------------------ the end of a run


def _watch(fabric: Fabric) -> None:
    """The first process ends those that it started; they end when it is gone."""
    launcher = fabric.strategy.launcher
    procs = getattr(launcher, "procs", [])
    if procs and not _children:
        _children.extend(procs)
        atexit.register(end_children, GRACE)
    elif fabric.world_size > 1 and fabric.local_rank > 0 and "TORCHELASTIC_RUN_ID" not in os.environ:
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def end_children(grace: float = 0.0) -> None:
    """End the processes that this one started, after `grace` seconds to end by themselves."""
    deadline = time.monotonic() + grace
    for child in _children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    _children.clear()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    message = "error: the first process of this run has ended, --resume goes on from the last checkpoint"
    print(message, file=sys.stderr, flush=True)
    os._exit(1)


def several() -> bool:
    """Whether this process is one of several."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def rank() -> int:
    """The number of this process among all of the run, 0 alone."""
    return distributed.get_rank() if several() else 0


def lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process of this run is gone."""
    return several() and isinstance(error, RuntimeError) and any(word in str(error) for word in LOST)
