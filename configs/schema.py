"""Every setting of a run, as frozen dataclasses; the YAML files beside this one fill them.

Settings hold plain values only. What a method does by default (criterion, budget, ...) stands in its row of
prune_utils/methods.py: a None here means "as the method says".
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Data:
    """Where the samples are and how they are read."""

    dataset: str = "nyuv2"
    root: str = ""  # folder that holds the index file
    tasks: tuple[str, ...] = ()  # subset of the data set's tasks
    classes: int = 40  # segmentation classes
    crop: int = 321  # side of the square training crop, pixels
    size: int | None = None  # Taskonomy: every plane is resized to size x size, nearest
    scale: tuple[float, ...] = (0.5, 1.5)  # zoom factor, uniform
    mirror: float = 0.5  # probability
    batch_size: int = 16
    eval_batch_size: int = 1
    num_workers: int = 2
    val_fraction: float = 0.05  # of train, where the index has no val split
    skip_unreadable: int = 0  # this many broken samples may be replaced, the next one stops the run
    cache: str | None = None  # folder for decoded planes


@dataclass(frozen=True)
class Model:
    backbone: str = "resnet34"
    width: float = 1.0
    branch_after: str | None = None  # last shared layer; None = the whole trunk is shared
    backbone_weights: str | None = None  # trunk starts from "imagenet" or from a torchvision ResNet file


@dataclass(frozen=True)
class Optim:
    """Adam and its step schedule. `iterations` is the length of a run from scratch."""

    lr: float = 1e-3
    weight_decay: float = 5e-4
    iterations: int = 20000
    step_every: int = 4000
    step_factor: float = 0.5
    accumulate: int = 1  # one optimiser step per this many parts of a batch


@dataclass(frozen=True)
class Finetune:
    """Training after pruning a trained network."""

    iterations: int = 1000
    lr: float = 1e-5


@dataclass(frozen=True)
class Prune:
    """How masks are made. None = the method's own choice."""

    ratio: float = 90.0  # percent of the prunable weights that are removed
    keep_ratio: float | None = None  # the published code's rule: share kept by each task, ratio follows
    num_batches: int = 50
    batch_size: int | None = None  # None = data.batch_size
    criterion: str | None = None
    pt_criterion: str = "magnitude"  # this data set's criterion for trained networks
    budget: str | None = None  # global, erk, uniform
    arbiter: str = "unanimous"
    scope: str = "all"  # all, backbone
    protect: tuple[str, ...] = ()  # patterns of layer names that stay dense
    rounds: int | None = None
    round_iterations: int = 100  # imp: training between two rounds
    shuffle: bool = False
    score_init: str = "xavier"  # static scores are taken on a copy: xavier (published code) or own
    rewind_step: int = 0  # lth: weights return to this step of the dense run


@dataclass(frozen=True)
class Dynamic:
    """Prune and regrow during training. `until` and `every` below 1 are fractions of the run."""

    until: float = 15000
    every: float = 50
    fraction: float = 0.5


@dataclass(frozen=True)
class Run:
    seed: int = 0
    protocol: str = "paper"  # paper, metric
    eval_every: int = 500  # iterations between two evaluations
    log_every: int = 50
    checkpoint_every: int = 500
    select_on: str = "val"  # split that chooses the best weights
    precision: str = "32-true"
    device: str = "auto"  # Fabric accelerator
    devices: str = "auto"  # one; under torchrun its number of processes
    compile: bool = False
    channels_last: bool | None = None  # memory order of features; None = only on a CPU, where it is faster
    preflight: bool = True  # rehearse every training in small first


@dataclass(frozen=True)
class Config:
    """One experiment. loss_weights: task -> weight in the training loss."""

    data: Data = field(default_factory=Data)
    loss_weights: dict[str, float] = field(default_factory=dict)
    model: Model = field(default_factory=Model)
    optim: Optim = field(default_factory=Optim)
    finetune: Finetune = field(default_factory=Finetune)
    prune: Prune = field(default_factory=Prune)
    dynamic: Dynamic = field(default_factory=Dynamic)
    run: Run = field(default_factory=Run)
