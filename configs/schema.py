"""Every setting of a run, as frozen dataclasses; the YAML files beside this one fill them.

Settings hold plain values only. What a method does by default (criterion, budget, ...) stands in its row of
prune_utils/methods.py: a None here means "as the method says". All else that is known about a setting (range,
flag, whether it changes the result) stands with its field: configs/fields.py says how.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from common.names import PROTOCOLS

from .fields import NOT_NEGATIVE, POSITIVE, SHARE, Range, at_least, between, one_of, setting


@dataclass(frozen=True)
class Data:
    """Where the samples are and how they are read."""

    dataset: str = "nyuv2"
    root: str = setting("", "data-root", "folder that holds the data set and its index", changes_result=False)
    tasks: tuple[str, ...] = setting(
        (),
        "tasks",
        "train any subset, such as seg,sn",
        range=Range(lambda value: len(value) >= 1, "at least one task"),
    )
    classes: int = setting(40, "classes", "segmentation classes", range=at_least(2))
    crop: int = setting(321, range=at_least(16, " pixels"))  # side of the square training crop
    size: int | None = setting(None, range=at_least(16, " pixels"))  # Taskonomy: planes resized, nearest
    scale: tuple[float, ...] = setting(  # factor of the image's size, uniform
        (0.5, 1.5),
        range=Range(
            lambda value: len(value) == 2 and 0 < value[0] <= value[1] < inf, "two factors, smaller first"
        ),
    )
    # probability of a horizontal flip
    hflip: float = setting(0.5, range=between(0, 1, "a probability"), aliases=("mirror",))
    batch_size: int = setting(
        16, "batch-size", "images in a training batch, over all devices", range=at_least(1)
    )
    # the paper protocol averages over these batches; runs that are compared may differ in it
    eval_batch_size: int = setting(1, range=at_least(1), changes_result=False, travels=True)
    num_workers: int = setting(
        2, "num-workers", "loader processes; changes speed only", range=at_least(0), changes_result=False
    )
    val_fraction: float = setting(  # of train, where the index has no val split
        0.05, range=Range(lambda value: 0 < value < 1, "between 0 and 1")
    )
    skip_unreadable: int = setting(
        0, "skip-unreadable", "broken samples to replace before stopping", range=at_least(0), travels=False
    )
    cache: str | None = setting(None, "cache", "folder for decoded images, built once", changes_result=False)


@dataclass(frozen=True)
class Model:
    """The network. branch_after None = the whole backbone is shared."""

    backbone: str = setting("resnet34", "backbone", "resnet18 or resnet34")
    width: float = setting(1.0, "width", "factor on every hidden width")
    branch_after: str | None = setting(None, "branch-after", "last shared unit, e.g. stages.2.3")
    backbone_weights: str | None = setting(
        None, "backbone-weights", "start of the backbone: imagenet, or a torchvision file", travels=False
    )


ITERATIONS = ("max-iters", "training iterations")


@dataclass(frozen=True)
class Optim:
    """Adam and its step schedule. `iterations` is the length of a run from scratch."""

    lr: float = setting(1e-3, "lr", "learning rate", range=POSITIVE)
    weight_decay: float = setting(5e-4, range=NOT_NEGATIVE)
    iterations: int = setting(20000, *ITERATIONS, range=at_least(1, " (--max-iters)"))
    step_every: int = setting(4000, range=at_least(1))
    step_factor: float = setting(0.5, range=SHARE)
    accumulate: int = setting(1, "accumulate", "parts that a batch is computed in", range=at_least(1))


@dataclass(frozen=True)
class Finetune:
    """Training after pruning a trained network."""

    iterations: int = setting(1000, *ITERATIONS, range=at_least(1, " (--max-iters)"))
    lr: float = setting(1e-5, "lr", "learning rate", range=POSITIVE)


@dataclass(frozen=True)
class Prune:
    """How masks are made. None = the method's own choice."""

    ratio: float = setting(
        90.0,
        "ratio",
        "sparsity, percent of the prunable weights removed (90)",
        range=Range(
            lambda value: value == 0 or 1 <= value < 100,
            "a percentage: 0, or from 1 to below 100",
            lambda value: f": did you mean {100 * value:g}?" if 0 < value < 1 else "",
        ),
    )
    keep_ratio: float | None = setting(
        None, "keep-ratio", "share kept by each task (published rule)", range=SHARE
    )
    num_batches: int = setting(50, "num-batches", "batches that scores are taken on", range=at_least(1))
    batch_size: int | None = setting(None, range=at_least(1))  # None = data.batch_size
    criterion: str | None = setting(None, "criterion", "saliency, default: the method's")
    pt_criterion: str = "magnitude"  # this data set's criterion for trained networks
    voters: str | None = setting(
        None,
        "voters",
        "whose scores: tasks, joint, or the losses summed in weights of upgrad, pcgrad, ... (as --weighting)",
    )
    budget: str | None = setting(None, "budget", "global, erk or uniform, default: the method's")
    arbiter: str = setting("unanimous", "arbiter", "unanimous, weighted, majority, intersection or share")
    scope: str = setting(
        "all", "scope", "all, or backbone: only shared weights", range=one_of("all", "backbone")
    )
    protect: tuple[str, ...] = setting((), "protect", "layers kept dense, patterns such as 'heads.*.conv3'")
    rounds: int | None = setting(
        None, "rounds", "score again this many times on the way down", range=at_least(1)
    )
    round_iterations: int = setting(
        100, "round-iterations", "imp: training between rounds", range=at_least(1)
    )
    shuffle: bool = setting(False, "shuffle", "permute each layer's mask (a control)")
    # static scores are taken on a copy: xavier (published code) or own
    score_init: str = setting("xavier", range=one_of("xavier", "own"))
    # of a trained network; None = the last under the paper protocol, as published, the best under metric
    start_from: str | None = setting(
        None,
        "start-from",
        "weights of the dense run that are pruned: best or final",
        range=one_of("best", "final"),
    )
    rewind_step: int = setting(
        0, "rewind-step", "lth: return to this step of the dense run", range=at_least(0)
    )
    start_mask: str | None = setting(
        None, "start-mask", "dynamic: first mask by this method that prunes before training"
    )
    factors: dict[str, float] = field(default_factory=dict)  # task -> what its rank fractions are divided by


@dataclass(frozen=True)
class Dynamic:
    """Prune and regrow during training. `until` and `every` below 1 are fractions of the run."""

    until: float = setting(15000, range=POSITIVE)
    every: float = setting(50, range=POSITIVE)
    fraction: float = setting(0.5, range=between(0, 1, "between 0 and 1"))
    # weight of the votes on growth before, in a moving average
    memory: float = setting(0.0, range=Range(lambda value: 0 <= value < 1, "from 0 to below 1"))


@dataclass(frozen=True)
class Gradual:
    """Become sparse during training. start, end and every below 1 are fractions of the run, None = the
    method's own."""

    start: float | None = setting(None, range=NOT_NEGATIVE)
    end: float | None = setting(None, range=POSITIVE)
    every: float | None = setting(None, range=POSITIVE)
    fraction: float = setting(0.5, range=between(0, 1, "between 0 and 1"))  # first drop, where it regrows
    # top_kast: share of all weights that is trained beside the kept ones
    backward: float = setting(0.1, range=between(0, 1, "between 0 and 1"))


@dataclass(frozen=True)
class Weighting:
    """How the tasks' losses are weighed in training, beside their fixed `loss_weights`."""

    method: str = setting(
        "fixed",
        "weighting",
        "how tasks are weighed: fixed; from their gradients: upgrad, dualproj, pcgrad, cagrad, nash_mtl, "
        "imtl_g, aligned_mtl, mgda, fairgrad; from their losses: uncertainty, imtl_l, dwa, famo, geometric, "
        "stch, random_weights, min_max",
    )
    # the one number that some leave open (docs/methods.md), None = the paper's
    strength: float | None = setting(None, range=POSITIVE)
    references: dict[str, float] = field(
        default_factory=dict
    )  # min_max: task -> loss of a network for it alone
    conflicts_every: int = setting(
        0,
        "conflicts-every",
        "look at the tasks' gradients every so many steps, for the record (0 = where the weighting does)",
        range=at_least(0),
        changes_result=False,
    )


@dataclass(frozen=True)
class Run:
    """Seed, protocol, rhythm and machine. channels_last None = only on a CPU, where it is faster."""

    seed: int = setting(
        0,
        "seed",
        "everything random follows from it",
        # random streams are numbered seed * 4e9 + step, below 2 ** 64
        range=between(0, 2**32 - 1, "from 0 to 4294967295"),
    )
    protocol: str = setting(
        "paper",
        "protocol",
        "paper (published numbers) or metric (right units)",
        group="data",
        range=one_of(*PROTOCOLS),
    )
    eval_every: int = setting(
        500, "eval-every", "iterations between evaluations", group="training", range=at_least(1)
    )
    log_every: int = setting(50, range=at_least(1), changes_result=False)
    checkpoint_every: int = setting(
        500,
        "checkpoint-every",
        "iterations between checkpoints",
        group="training",
        range=at_least(1),
        changes_result=False,
    )
    select_on: str = setting("val", "select-on", "split that chooses the best weights", group="training")
    precision: str = setting(
        "32-true", "precision", "32-true, bf16-mixed or 16-mixed; saliencies stay 32-bit", travels=False
    )
    device: str = setting(
        "auto", "device", "auto, cpu, cuda: an accelerator of Lightning Fabric", changes_result=False
    )
    devices: str = setting("auto", "devices", "how many of them, one process each (1)", changes_result=False)
    compile: bool = setting(False, "compile", "torch.compile the network in training", changes_result=False)
    channels_last: bool | None = setting(None, travels=False)
    preflight: bool = setting(True, changes_result=False)  # try every training in small first


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
    gradual: Gradual = field(default_factory=Gradual)
    weighting: Weighting = field(default_factory=Weighting)
    run: Run = field(default_factory=Run)


# section -> group of its flags in --help, where the field names no other
GROUPS = {
    "data": "data",
    "model": "network",
    "optim": "training",
    "finetune": "training",
    "prune": "pruning",
    "weighting": "training",
    "run": "machine",
}
