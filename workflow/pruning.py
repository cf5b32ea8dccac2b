"""A method applied to a network of an experiment: its mask, its certificate, its sparsifier.

One path for every method: what differs stands in the method's row (prune_utils/methods.py), never in an `if`
on a name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from configs.arguments import flag_value
from configs.schema import Config
from models.multitask import MultiTaskNet
from prune_utils.channelwise import link
from prune_utils.courses import Course, changes, check_growth, make_sparsifier, rhythm
from prune_utils.criteria import find_criterion
from prune_utils.granularity import WEIGHT
from prune_utils.masked import Masked
from prune_utils.masks import Mask, prunable
from prune_utils.methods import Method
from prune_utils.multiply_adds import weight_uses
from prune_utils.plan import Plan, make_plan
from prune_utils.prune import check_plan, make_budgets, make_mask, make_scorer
from prune_utils.removing import Removal, check_removal, removal_of
from prune_utils.report import certificate
from prune_utils.resizing import hollow
from prune_utils.rounds import Rounds
from prune_utils.voters import Electorate

from .experiment import Experiment
from .networks import start_from
from .processes import gatherer

# settings that decide what the scored batches show; with the seed, enough to take the scores again
SEEN = ("crop", "size", "scale", "hflip", "val_fraction")
# settings that decide which weights a mask keeps: a command that trains it must not say others
CHOOSING = (
    *("budget", "criterion", "voters", "arbiter", "scope", "protect"),
    *("trunk_share", "shuffle", "keep_ratio", "rounds"),
)


def said_of_pruning(config: Config, flags: Mapping[str, Any]) -> dict[str, Any]:
    """What a command line says by itself of how its mask is chosen. flags: its settings, by section."""
    said = {name: getattr(config.prune, name) for name in flags.get("prune", {}) if name in CHOOSING}
    return {name: value for name, value in said.items() if value is not None}


def flags_of(said: Mapping[str, Any]) -> str:
    """What `said_of_pruning` gives, as a command line says it.

    >>> flags_of({"budget": "erk", "protect": ("stem", "heads.*")})
    '--budget erk --protect stem,heads.*'
    """
    words = [f"--{name.replace('_', '-')} {flag_value(_plain(value))}" for name, value in said.items()]
    return " ".join(words)


class NumberedBatches:
    """The batches that scores are taken on; can be read again and again, always the same.

    Process r of n has the batches r, n + r, ... Where the last ones do not suffice for all, the others get a
    batch without a valid pixel: no gradient, and nobody waits in vain. ValueError, at their end, for a task
    that none of them holds.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    def __iter__(self) -> Iterator[tuple[int, tuple]]:
        count, fabric = self.experiment.config.prune.num_batches, self.experiment.fabric
        known = torch.zeros(len(self.experiment.tasks), device=fabric.device)
        with tqdm(total=count, desc="scoring", unit="batch", disable=not fabric.is_global_zero) as bar:
            for number, batch in self.experiment.numbered_batches(count):
                yield number, batch
                known += torch.stack([batch[1][name].valid.any() for name in self.experiment.tasks])
                bar.update(min(fabric.world_size, count - bar.n))
        if fabric.world_size > 1:
            known = cast(Tensor, fabric.all_reduce(known, reduce_op="sum"))
        for name, batches in zip(self.experiment.tasks, known.tolist(), strict=True):
            if not batches:
                raise ValueError(
                    f"task '{name}' has no target in any of the {count} batches that scores are taken on: "
                    "a larger --num-batches may find some, --tasks leaves the task out"
                )


@dataclass(frozen=True)
class Pruning:
    """A method applied to one network of an experiment.

    asked: what its certificates say was asked for; None = what the plan says. before: the origin in the file
    that the network is from. made: whether its mask is there already, so that no channels are looked for.
    given: whether somebody names the file of its weights, so that scores are taken on these.
    """

    experiment: Experiment
    method: Method
    network: MultiTaskNet
    asked: dict[str, Any] | None = None
    before: Sequence[str] = ()
    made: bool = False
    given: bool = False

    @cached_property
    def plan(self) -> Plan:
        """The method's row and the settings in one. ValueError for what does not go together."""
        settings = self.experiment.config.prune
        settings = replace(settings, score_init="own") if self.given else settings
        plan = make_plan(self.method, settings)
        if plan.counted:
            plan = replace(plan, uses=weight_uses(*self._on_paper))
        if plan.removes and not self.made:
            network, (image, _) = self._on_paper
            plan = replace(plan, linked=link(network, (image,), plan.protect))
        return plan

    @cached_property
    def _on_paper(self) -> tuple[MultiTaskNet, tuple[Tensor, None]]:
        """The network and one image of evaluation, with shapes and without values: nothing is computed."""
        with torch.device("meta"):
            image = torch.empty(1, 3, *self.experiment.evaluation_size())
        return hollow(self.network), (image, None)

    @cached_property
    def electorate(self) -> Electorate:
        """Every task with its loss, its weight in the sum, and what it owns."""
        objective, owners = self.experiment.objective, self.network.owners()
        return Electorate(
            objective.losses,
            objective.weights,
            {name: owners[name] for name in prunable(self.network)},
            gatherer(self.experiment.fabric),
        )

    def check(self) -> None:
        """ValueError or OSError for settings or data that cannot work, before any work is done."""
        config = self.experiment.config
        check_growth(self.method, config.dynamic)
        check_plan(self.network, self.plan, self.electorate.owners)
        if find_criterion(self.plan.criterion).needs_gradient:
            self.experiment.check_data("train")
        if self.plan.retrain:
            self.experiment.check_data("train", config.run.select_on)

    def check_certificate(
        self, proof: dict[str, Any] | None, source: str, said: Mapping[str, Any] | None = None
    ) -> None:
        """ValueError where a sparse network was made for another method, ratio or protocol than this one's,
        or chosen otherwise than the command says.

        proof: its certificate; published networks have none and are taken at their word. said: what the
        command line itself says of how masks are chosen (`said_of_pruning`).
        """
        made = proof["asked"] if proof else {}
        if "max_drop" in made:
            raise ValueError(
                f"{source} is the network of a contract, fine-tuned and certified as it is: further training "
                "makes another network, which --max-drop with a larger finetune.iterations looks for itself"
            )
        if made:  # what files of earlier versions do not say
            made = {"granularity": WEIGHT.name, "ratio_of": "params"} | made
        now: dict[str, Any] = {"granularity": self.plan.granularity, "ratio_of": self.plan.ratio_of}
        now |= {"method": self.plan.method, "ratio": self.plan.ratio}
        now |= {"protocol": self.experiment.config.run.protocol} | dict(said or {})
        for name, value in now.items():
            was, asked = _plain(made.get(name, value)), _plain(value)
            if was != asked:
                flag = name.replace("_", "-")
                raise ValueError(
                    f"{source} was made with --{flag} {flag_value(was)}, "
                    f"this command says --{flag} {flag_value(asked)}: "
                    "give both commands the same, or make the sparse network again with --overwrite"
                )

    def make_mask(self) -> Mask:
        """The method's mask; of a method that trains between its rounds, the first round's.

        Of a granularity that removes channels it covers all that holds one, and they leave it by `smaller`.
        """
        batches = NumberedBatches(self.experiment)
        return make_mask(self.network, self.plan, self.electorate, batches, self.experiment.config.run.seed)

    def removal(self, mask: Mask) -> Removal:
        """The channels that a mask prunes; the network is left as it is.

        ValueError where it would compute something else without them than masked.
        """
        rows, columns = self.experiment.evaluation_size()
        generator = torch.Generator().manual_seed(self.experiment.config.run.seed)
        image = torch.randn(1, 3, rows, columns, generator=generator)
        removal = removal_of(self.plan.channels, mask, self.plan.channels.keep(self.plan.ratio))
        check_removal(self.network, removal, (self.experiment.fabric.to_device(image),))
        return removal

    def smaller(self, mask: Mask) -> Pruning:
        """The same of a network that has lost the channels that a mask prunes.

        In place, so that this one is not to be used again.
        """
        removal = self.removal(mask)
        known = self._planned() if self.asked is None else self.asked
        asked = {"whole": asdict(removal.before)} | known
        removal.apply(self.network)
        self.network.describe(removal.changed(self.network))
        return replace(self, asked=asked, made=True)

    @property
    def starts(self) -> str:
        """What training begins with where it makes the mask, for people."""
        return {"dense": "dense", "sparse": f"{self.plan.budget} densities"}[self.plan.starts]

    def certify(self, mask: Mask) -> dict[str, Any]:
        """The certificate of a mask of this method."""
        asked = self._planned() if self.asked is None else self.asked
        return certificate(mask, self.electorate.owners, asked, self.network)

    def _planned(self) -> dict[str, Any]:
        config = self.experiment.config
        asked = self.plan.asked | {"seed": config.run.seed, "protocol": config.run.protocol}
        gradual = self.method.course == "gradual"
        if gradual:
            asked["rhythm"] = list(rhythm(self.method, config.gradual))
        if find_criterion(self.plan.criterion).needs_gradient:
            asked["batches"] = config.gradual.num_batches if gradual else config.prune.num_batches
            own = gradual and asked["batches"] == 1  # the batch of the step
            asked["batch_size"] = (None if own else config.prune.batch_size) or config.data.batch_size
            asked |= {name: getattr(config.data, name) for name in SEEN}
        if self.plan.counted:
            asked["resolution"] = list(self.experiment.evaluation_size())
        if self.method.needs_dense:
            asked["start_from"] = start_from(config)
        return asked

    def rounds(self, first: Mask) -> Rounds:
        """Prune a little, train, prune again: how the method gets from its first mask to its budget."""
        several = self.plan.rounds > 1
        later = make_budgets(self.network, self.plan, self.electorate.owners)[1:] if several else ()
        config, gather, plan = self.experiment.config, self.electorate.gather, self.plan
        batches = NumberedBatches(self.experiment)
        score = make_scorer(self.network, plan, self.electorate, batches, config.run.seed)
        return Rounds(
            *(self.network, first, later, config.prune.round_iterations, gather),
            score=score,
            arbiter=plan.weigh,
            grain=plan.grain,
        )

    def sparsifier(self, mask: Mask, optimizer: Optimizer, steps: int) -> Masked:
        """What holds the mask, or moves it, during `steps` steps of training; zeroes pruned weights now."""
        config, fabric = self.experiment.config, self.experiment.fabric
        shared = replace(self.electorate, losses=self.experiment.objective.shared(fabric))
        return make_sparsifier(
            Course(
                self.network,
                mask,
                optimizer,
                self.method,
                self.plan,
                shared,
                steps,
                config.run.seed,
                config.dynamic,
                config.gradual,
                self._numbered(),
            )
        )

    def _numbered(self) -> dict[str, Any]:
        """The batches that prunings in training rank weights on, where that is not the one of the step.

        Raises ValueError for several processes, which share a step's batch.
        """
        config = self.experiment.config
        count = config.gradual.num_batches
        by_gradients = find_criterion(self.plan.criterion).needs_gradient
        if count == 1 or self.method.course != "gradual" or not by_gradients:
            return {}
        if self.experiment.fabric.world_size > 1:
            raise ValueError(f"gradual.num_batches {count} works on one device: leave --devices out")
        prune = replace(config.prune, num_batches=count)
        scored = replace(self.experiment, config=replace(config, prune=prune))
        return {"numbered": NumberedBatches(scored)}


def _plain(value: Any) -> Any:
    """A setting as files hold it."""
    return list(value) if isinstance(value, tuple) else value


def mask_changes(experiment: Experiment, method: Method, steps: int) -> int:
    """How often the mask changes in a run of so many steps, as the settings say."""
    return changes(method, steps, experiment.config.dynamic, experiment.config.gradual)
