"""Every setting of a run, as frozen dataclasses; the YAML files beside this one fill them.

Settings hold plain values only. What a method does by default (criterion, budget, ...) stands in its row of
prune_utils/methods.py: a None here means "as the method says". All else that is known about a setting (range,
flag, whether it changes the result) stands with its field: configs/fields.py says how.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from common.granularity import CHOICES, RATIO_OF
from common.names import PROTOCOLS

from .fields import NOT_NEGATIVE, POSITIVE, SHARE, Range, Setting, at_least, between, one_of, setting

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
BY_GRADIENTS = (
    "upgrad", "dualproj", "pcgrad", "cagrad", "nash_mtl", "imtl_g", "aligned_mtl", "mgda", "fairgrad",
)  # fmt: skip
BY_LOSSES = (
    "uncertainty", "imtl_l", "dwa", "famo", "geometric", "stch", "random_weights", "min_max",
)  # fmt: skip
METHODS_OWN = "the method's own"
CRITERIA = (
    "snip",
    "snip_signed",
    "taylor",
    "fisher",
    "gradient",
    "grasp",
    "synflow",
    "magnitude",
    "lamp",
    "group_magnitude",
    "random",
)


@dataclass(frozen=True)
class Data:
    """Where the samples are and how they are read."""

    dataset: str = "nyuv2"
    root: str = setting("", "data-root", "folder that holds the data set and its index", changes_result=False)
    tasks: tuple[str, ...] = setting(
        (),
        "tasks",
        "train any subset, such as seg,sn",
        range=Range(lambda value: len(value) == len(set(value)) >= 1, "at least one task, none twice"),
    )
    classes: int = setting(40, "classes", "segmentation classes", range=at_least(2))
    crop: int = setting(321, help="side of the square training crop", range=at_least(16, " pixels"))
    size: int | None = setting(
        None,
        help="side to which all files are resized",
        range=at_least(16, " pixels"),
        evaluated=True,
        unset="as they are",
    )
    scale: tuple[float, ...] = setting(
        (0.5, 1.5),
        help="factor of the image's size, uniform between",
        range=Range(
            lambda value: len(value) == 2 and 0 < value[0] <= value[1] < inf, "two factors, smaller first"
        ),
    )
    hflip: float = setting(
        0.5, help="horizontal flips", range=between(0, 1, "a probability"), aliases=("mirror",)
    )
    batch_size: int = setting(
        16, "batch-size", "images in a training batch, over all devices", range=at_least(1)
    )
    # the weights of a step do not depend on it, so runs go on with another; averages of the paper protocol
    # and the loss that chooses the best weights are over these batches, which results say by themselves
    eval_batch_size: int = setting(
        1, help="images in a batch of evaluation", range=at_least(1), changes_result=False, travels=True
    )
    num_workers: int = setting(
        2, "num-workers", "loader processes; changes speed only", range=at_least(0), changes_result=False
    )
    val_fraction: float = setting(
        0.05,
        "val-share",
        "share of train to validate on, where the index has no val split; 0 = none, with --select-on test",
        range=Range(lambda value: 0 <= value < 1, "from 0 to below 1"),
    )
    allow_overlap: bool = setting(
        False,
        "allow-overlap",
        "go on though images are in a training split and in one that is scored on",
        changes_result=False,
    )
    skip_unreadable: int = setting(
        0, "skip-unreadable", "broken samples to pass over before stopping", range=at_least(0), travels=False
    )
    cache: str | None = setting(
        None, "cache", "folder for decoded images, built once", changes_result=False, unset="no cache"
    )


@dataclass(frozen=True)
class Model:
    """The network. branch_after None = the whole backbone is shared."""

    backbone: str = setting("resnet34", "backbone", "residual network", choices=("resnet18", "resnet34"))
    width: float = setting(1.0, "width", "factor on every hidden width")
    branch_after: str | None = setting(
        None, "branch-after", "last shared unit, e.g. stages.2.3", unset="all of the backbone is shared"
    )
    backbone_weights: str | None = setting(
        None,
        "backbone-weights",
        "imagenet, or a torchvision file",
        travels=False,
        unset="a new initialisation",
    )


ITERATIONS = ("max-iters", "training iterations: from scratch / after pruning a trained network")
LR = ("lr", "learning rate: from scratch / after pruning a trained network")


@dataclass(frozen=True)
class Optim:
    """Adam and its step schedule. `iterations` is the length of a run from scratch."""

    lr: float = setting(1e-3, *LR, range=POSITIVE)
    weight_decay: float = setting(5e-4, help="of Adam", range=NOT_NEGATIVE)
    iterations: int = setting(20000, *ITERATIONS, range=at_least(1, " (--max-iters)"))
    step_every: int = setting(4000, help="iterations between cuts of the learning rate", range=at_least(1))
    step_factor: float = setting(0.5, help="what it is multiplied by then", range=SHARE)
    accumulate: int = setting(1, "accumulate", "parts that a batch is computed in", range=at_least(1))
    ema_decay: float = setting(
        0.0,
        "ema-decay",
        "keep the exponential moving average of the weights instead of the last ones, 0 = none",
        range=Range(lambda value: 0 <= value < 1, "from 0 to below 1"),
    )


@dataclass(frozen=True)
class Finetune:
    """Training after pruning a trained network."""

    iterations: int = setting(1000, *ITERATIONS, range=at_least(1, " (--max-iters)"))
    lr: float = setting(1e-5, *LR, range=POSITIVE)


@dataclass(frozen=True)
class Prune:
    """How masks are made. None = the method's own choice."""

    ratio: float = setting(
        90.0,
        "ratio",
        "sparsity: percent of the prunable weights to remove",
        range=Range(
            lambda value: value == 0 or 1 <= value < 100,
            "a percentage: 0, or from 1 to below 100",
            lambda value: f": did you mean {100 * value:g}?" if 0 < value < 1 else "",
        ),
    )
    granularity: str = setting(
        "weight",
        "granularity",
        "what is kept or pruned together; N:M fixes the ratio",
        choices=CHOICES,
    )
    ratio_of: str = setting(
        "params",
        "ratio-of",
        "what the ratio counts: weights, or multiply-adds",
        range=one_of(*RATIO_OF),
    )
    channel_multiple: int = setting(
        1,
        "channel-multiple",
        "granularity channel: what is left of a layer's channels is a multiple of this",
        range=at_least(1),
    )
    keep_ratio: float | None = setting(
        None,
        "keep-ratio",
        "share kept by each task, the published rule",
        range=SHARE,
        unset="--ratio decides",
    )
    num_batches: int = setting(50, "num-batches", "batches that scores are taken on", range=at_least(1))
    batch_size: int | None = setting(
        None, help="images in a batch that is scored", range=at_least(1), unset="data.batch_size"
    )
    criterion: str | None = setting(None, "criterion", "saliency", choices=CRITERIA, unset=METHODS_OWN)
    pt_criterion: str = setting("magnitude", help="the criterion for trained networks", choices=CRITERIA)
    voters: str | None = setting(
        None,
        "voters",
        "whose scores and, of tasks and joint, growth; the others are the losses summed in their weights",
        choices=("tasks", "joint", *BY_GRADIENTS),
        unset=METHODS_OWN,
    )
    budget: str | None = setting(
        None,
        "budget",
        "where weights may stay",
        choices=("global", "erk", "uniform", "waterfill"),
        unset=METHODS_OWN,
    )
    trunk_share: float | None = setting(
        None,
        "trunk-share",
        "share of what is kept (of --ratio-of) that is in layers of several tasks",
        range=Range(lambda value: 0 < value < 1, "above 0 and below 1"),
        unset="as the budget has it",
    )
    arbiter: str = setting(
        "unanimous",
        "arbiter",
        "which owners must keep a shared weight",
        choices=("unanimous", "weighted", "majority", "intersection", "share"),
    )
    scope: str = setting(
        "all",
        "scope",
        "which weights are prunable; backbone: the shared ones",
        range=one_of("all", "backbone"),
    )
    protect: tuple[str, ...] = setting(
        (), "protect", "layers kept dense, patterns such as 'heads.*.conv3'", unset="none"
    )
    rounds: int | None = setting(
        None, "rounds", "score in so many steps on the way down", range=at_least(1), unset=METHODS_OWN
    )
    retrain: bool = setting(
        False,
        "retrain",
        "train after each round of a method that starts from a trained network, as imp does",
    )
    round_iterations: int = setting(
        100, "round-iterations", "imp and --retrain: training after each round", range=at_least(1)
    )
    shuffle: bool = setting(False, "shuffle", "permute each layer's mask (a control)")
    score_init: str = setting(
        "xavier",
        help="what static scores are taken on: new weights, or the network's (always with --init-from)",
        range=one_of("xavier", "own"),
    )
    start_from: str | None = setting(
        None,
        "start-from",
        "weights of the dense run that are pruned",
        range=one_of("best", "final"),
        unset="final in the paper protocol, best in metric",
    )
    rewind_step: int = setting(
        0, "rewind-step", "lth: return to this step of the dense run", range=at_least(0)
    )
    start_mask: str | None = setting(
        None,
        "start-mask",
        "dynamic: first mask by this method that prunes before training",
        unset=METHODS_OWN,
    )
    factors: dict[str, float] = field(  # task -> what its rank fractions are divided by
        default_factory=dict, metadata={"setting": Setting(help="arbiter weighted: factor of each task")}
    )


@dataclass(frozen=True)
class Contract:
    """A limit for every task: the smallest network that keeps them all is searched for (docs/contract.md)."""

    max_drop: tuple[str, ...] = setting(
        (),
        "max-drop",
        "percent that each task may lose: seg=1,sn=2 or all=2; seg.mIoU=1 one measure; depth=none any",
        travels=False,
        unset="none, --ratio decides",
    )
    of: str = setting(
        "size",
        "of",
        "what becomes small: size, as --ratio-of counts it, or latency:RUNTIME",
        range=Range(
            lambda value: value == "size" or value.startswith("latency:"), "size, or latency:RUNTIME"
        ),
        travels=False,
    )
    latencies: str | None = setting(
        None,
        help="file with the table of latencies, such as an earlier certificate",
        travels=False,
        unset="measured once",
    )
    level: float = setting(
        0.95,
        "level",
        "at which the bound of a drop must be inside its limit, one-sided",
        range=Range(lambda value: 0.5 <= value < 1, "from 0.5 to below 1"),
        travels=False,
    )
    resamples: int = setting(999, help="of the images, for a bound", range=at_least(19), travels=False)
    resolution: float = setting(
        2.5,
        help="percent of the weights by which neighbouring sizes differ",
        range=Range(lambda value: 0 < value < 100, "above 0 and below 100"),
        travels=False,
    )
    smallest: float = setting(
        0.1,
        help="percent of the weights at which the search ends",
        range=Range(lambda value: 0 < value < 100, "above 0 and below 100"),
        travels=False,
    )
    stride: int = setting(
        16, help="sizes that a round goes down, until a limit breaks", range=at_least(1), travels=False
    )
    turn: float = setting(
        1.5,
        help="what a task's factor is multiplied by where its limit breaks",
        range=Range(lambda value: 1 < value < inf, "above 1 and finite"),
        travels=False,
    )
    turns: int = setting(4, help="how often, 0 = all factors stay 1", range=at_least(0), travels=False)


@dataclass(frozen=True)
class Dynamic:
    """Prune and regrow during training. `until` and `every` below 1 are fractions of the run."""

    until: float = setting(
        15000, help="last change of the mask, iteration or share of the run", range=POSITIVE
    )
    every: float = setting(50, help="between changes, iterations or share of the run", range=POSITIVE)
    fraction: float = setting(
        0.5, help="of a layer's weights moved by the first change", range=between(0, 1, "between 0 and 1")
    )
    memory: float = setting(
        0.0,
        help="weight of earlier votes on growth, in a moving average",
        range=Range(lambda value: 0 <= value < 1, "from 0 to below 1"),
    )
    salient: float = setting(
        0.3,
        help="granularity fanin: neurons with a smaller share of salient weights lose all, 0 = none do",
        range=between(0, 1, "between 0 and 1"),
    )
    drop: str = setting(
        "magnitude",
        help="criterion of what goes; by gradients the voters of growth decide about it",
        choices=CRITERIA,
    )
    progress: float = setting(
        0.0,
        help="tasks whose loss fell less than the others' ask louder what grows, by its ratio to this power",
        range=NOT_NEGATIVE,
    )


@dataclass(frozen=True)
class Gradual:
    """Become sparse during training. start, end and every below 1 are fractions of the run, None = the
    method's own."""

    start: float | None = setting(
        None, help="first pruning, iteration or share of the run", range=NOT_NEGATIVE, unset=METHODS_OWN
    )
    end: float | None = setting(None, help="last pruning", range=POSITIVE, unset=METHODS_OWN)
    every: float | None = setting(None, help="between prunings", range=POSITIVE, unset=METHODS_OWN)
    fraction: float = setting(
        0.5, help="first drop, where weights regrow", range=between(0, 1, "between 0 and 1")
    )
    num_batches: int = setting(
        1, help="batches that a pruning ranks weights on; 1 = that of its step", range=at_least(1)
    )
    backward: float = setting(
        0.1, help="top_kast: share trained beside the kept weights", range=between(0, 1, "between 0 and 1")
    )


@dataclass(frozen=True)
class Weighting:
    """How the tasks' losses are weighed in training, beside their fixed `loss_weights`."""

    method: str = setting(
        "fixed",
        "weighting",
        "how tasks are weighed",
        choices=("fixed", *BY_GRADIENTS, *BY_LOSSES),
    )
    strength: float | None = setting(
        None, help="the number that some leave open (docs/methods.md)", range=POSITIVE, unset="the paper's"
    )
    references: dict[str, float] = field(
        default_factory=dict,
        metadata={"setting": Setting(help="min_max: loss of a network for each task alone")},
    )
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
        "conventions: published numbers, or right units",
        group="data",
        range=one_of(*PROTOCOLS),
    )
    eval_every: int = setting(
        500, "eval-every", "iterations between evaluations", group="training", range=at_least(1)
    )
    log_every: int = setting(
        50, help="iterations between figures written down", range=at_least(1), changes_result=False
    )
    checkpoint_every: int = setting(
        500,
        "checkpoint-every",
        "iterations between checkpoints",
        group="training",
        range=at_least(1),
        changes_result=False,
    )
    select_on: str = setting(
        "val", "select-on", "split that chooses the best weights", group="training", choices=("val", "test")
    )
    precision: str = setting(
        "32-true",
        "precision",
        "of training and evaluation; saliencies stay 32-bit",
        travels=False,
        choices=PRECISIONS,
    )
    device: str = setting(
        "auto",
        "device",
        "accelerator of Lightning Fabric",
        changes_result=False,
        choices=("auto", "cpu", "cuda"),
    )
    devices: str = setting(
        "auto", "devices", "how many of them, one process each; auto is one", changes_result=False
    )
    compile: bool = setting(False, "compile", "torch.compile the network in training", changes_result=False)
    cuda_graphs: bool = setting(
        False,
        help="record a step's passes and replay them: one GPU, 32 bits, whole batches",
        changes_result=False,
    )
    channels_last: bool | None = setting(
        None, help="memory order of features", travels=False, unset="only on a CPU"
    )
    preflight: bool = setting(True, help="every training runs in small first", changes_result=False)
    logger: str = setting(
        "tensorboard",
        "logger",
        "where figures and pictures are shown, beside the CSV",
        group="training",
        range=one_of("tensorboard", "wandb", "mlflow", "none"),
        changes_result=False,
    )
    curves: bool = setting(True, help="draw the learning curves at the end", changes_result=False)


@dataclass(frozen=True)
class Config:
    """One experiment. loss_weights: task -> weight in the training loss."""

    data: Data = field(default_factory=Data)
    loss_weights: dict[str, float] = field(default_factory=dict)
    model: Model = field(default_factory=Model)
    optim: Optim = field(default_factory=Optim)
    finetune: Finetune = field(default_factory=Finetune)
    prune: Prune = field(default_factory=Prune)
    contract: Contract = field(default_factory=Contract)
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
    "contract": "contract",
    "weighting": "training",
    "run": "machine",
}
