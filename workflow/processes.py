"""Several processes: started, kept together, and ended together.

One process a device, by Fabric (`--devices N`) or by torchrun. All of them compute the same masks from the
same numbers; the first one alone writes files and talks. When one ends with an error, all end: nobody waits
for a message that never comes.
"""

from __future__ import annotations

import atexit
import os
import socket
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
from lightning_fabric.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning_fabric.utilities.distributed import _init_dist_connection, _set_num_threads_if_needed
from torch import Tensor, distributed

from common.choices import not_one_of
from configs.schema import BY_GRADIENTS, PRECISIONS, Config, Run

WITHOUT_FLOAT64 = ("mps",)  # ranks and sums of scores need it
PATIENCE = timedelta(minutes=10)  # a process that is silent for so long is taken for dead
GRACE = 3.0  # seconds that the first process gives the others to end by themselves
LOST = ("closed by peer", "reset by peer", "refused", "gloo", "NCCL", "Timed out", "Broken pipe")
GONE = "another process of this run has ended, --resume goes on from the last checkpoint"
HOME = "127.0.0.1"
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
FIRST = "DISPARSE_FIRST_PROCESS"  # its id, for those that it starts

_children: list[subprocess.Popen] = []  # started by this process
_ending = threading.Event()  # this process ends them itself


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
    # studies are handed to Slurm by reproduce.py; where its commands are installed, a run need not be
    warnings.filterwarnings("ignore", "The `srun` command is available on your system", UserWarning)
    device = run.device
    if device == "auto" and torch.backends.mps.is_available():
        device = "cpu"
    try:
        fabric = Fabric(
            accelerator=device,
            devices=devices,
            num_nodes=nodes,
            strategy=_strategy(nodes) if several else "auto",
            precision=cast(Any, run.precision),
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"--devices {run.devices} of --device {run.device} cannot be used here: {error}"
        ) from error
    fabric.launch()
    return fabric


def check_graphs(fabric: Fabric, config: Config) -> None:
    """ValueError where training's passes are to be CUDA graphs and cannot be."""
    run, weighting = config.run, config.weighting.method
    for what, stands in (
        (f"--device {fabric.device.type}: graphs are CUDA's", fabric.device.type != "cuda"),
        (f"{fabric.world_size} processes", fabric.world_size > 1),
        (f"--precision {run.precision}", run.precision != "32-true"),
        ("--compile", run.compile),
        (f"optim.accumulate={config.optim.accumulate}", config.optim.accumulate > 1),
        (f"--weighting {weighting}, which goes back for each task by itself", weighting in BY_GRADIENTS),
    ):
        if run.cuda_graphs and stands:
            raise ValueError(f"run.cuda_graphs=true does not go with {what}; leave one of them out")


def _check_choice(flag: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(not_one_of(flag, value, choices))


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


def of_all(fabric: Fabric, value: Any) -> list[Any]:
    """Every process's value, by rank; plain values."""
    found: list[Any] = [value] * fabric.world_size
    if fabric.world_size > 1:
        distributed.all_gather_object(found, value)
    return found


# ------------------------------------------------------------------ the start of a run


def _strategy(nodes: int) -> DDPStrategy:
    if nodes > 1:
        return _Processes(timeout=PATIENCE)
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    for variable in INTERFACES if loopback else ():
        os.environ.setdefault(variable, loopback[0])
    # torchrun has a meeting place already
    theirs = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return _Processes(timeout=PATIENCE) if theirs else _AtHome(timeout=PATIENCE)


class _Launcher(_SubprocessScriptLauncher):
    """Starts the other processes; the first one ends with a sentence when another fails, not by SIGKILL."""

    def launch(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[FIRST] = str(os.getpid())
            self._call_children_scripts()
            _children.extend(self.procs)
            atexit.register(end_children, GRACE)
            threading.Thread(target=_watch_children, daemon=True).start()
        elif FIRST in os.environ:
            threading.Thread(target=_end_with_first, args=(int(os.environ[FIRST]),), daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


class _Processes(DDPStrategy):
    """One process a device."""

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)


class _AtHome(_Processes):
    """All on this machine: they meet where no other machine can reach them."""

    def _setup_distributed(self) -> None:
        self._set_world_ranks()
        self._process_group_backend = self._get_process_group_backend()
        assert self.cluster_environment is not None
        first, port = self.global_rank == 0, self.cluster_environment.main_port
        listener = _listen(port) if first else None
        store = distributed.TCPStore(HOME, port, self.world_size, first, PATIENCE, master_listen_fd=listener)
        device = None if self.root_device.type == "cpu" else self.root_device
        _init_dist_connection(
            self.cluster_environment,
            self._process_group_backend,
            timeout=PATIENCE,
            device_id=device,
            store=store,
        )


def _listen(port: int) -> int:
    """A socket, by its number, that listens on this machine's own port. OSError where it is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOME, port))
    except OSError as error:
        raise OSError(f"port {port}, where processes meet, is taken: MASTER_PORT names another") from error
    listener.listen()
    return listener.detach()


# ------------------------------------------------------------------ the end of a run


def _watch_children() -> None:
    """End this process, with a sentence and status 2, soon after one that it started has failed.

    Mostly it notices by itself, by a message that does not come, and says so first.
    """
    while not _ending.wait(0.2):
        if any(child.poll() for child in _children):
            if not _ending.wait(GRACE):
                print(f"error: {GONE}", file=sys.stderr, flush=True)
                end_children()
                os._exit(2)
            return


def end_children(grace: float = 0.0) -> None:
    """End the processes that this one started, after `grace` seconds to end by themselves."""
    deadline = time.monotonic() + grace
    _ending.set()
    for child in _children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    _children.clear()


def _end_with_first(first: int) -> None:
    while os.getppid() == first:
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
