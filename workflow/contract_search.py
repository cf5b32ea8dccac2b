"""The rounds of a contract: prune with the tasks' factors, look, fine-tune where that breaks a limit, look
again, keep or take back.

A round takes the last kept network, at first the dense one, and looks at one half of the validation images;
prune_utils/ascent.py says what comes next. After every round its network, the drops that the search was told
and all else it needs are on disk; the same command goes on from there, and from the last checkpoint inside a
round.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from common.interrupt import STARTED_ANEW
from configs.load import as_tree
from models.multitask import MultiTaskNet
from prune_utils.ascent import Ascent, Round, Trial
from prune_utils.bootstrap import KIND
from prune_utils.contracts import met, sizes_of
from prune_utils.granularity import find_granularity
from prune_utils.latencies import faster_sizes
from prune_utils.masks import Mask, apply, dense_mask
from prune_utils.methods import Method
from prune_utils.plan import Plan
from prune_utils.prune import in_scope, make_mask
from prune_utils.seeds import mix_seed
from prune_utils.voters import Owners
from training.checkpoint import write_file
from training.loop import Diverged, make_optimizer

from .contract_check import (
    check_settings,
    check_validation,
    forgiven,
    read_state,
    require_dense,
)
from .contract_files import ContractFiles
from .contract_latency import check_latency, measured, runtime_of, stated, table_of
from .contract_looks import check_looks
from .contract_report import fingerprint, listed, read_limits, told, write_trace
from .experiment import Experiment
from .files import Options, require_same_images, require_same_method, require_same_settings
from .judging import Fall, Judge, halves, is_lost, judge, kept, look, lost
from .limits import parse_limits
from .networks import Saved, dense_path, load_network, moved, save_network
from .pruning import NumberedBatches, Pruning
from .running import Run, training_plan
from .unseen import has_split


@dataclass
class Work:
    """One search for the network that keeps its limits, and its files."""

    experiment: Experiment
    method: Method
    options: Options
    ascent: Ascent = field(init=False)  # the search, from `begin` on

    def __post_init__(self) -> None:
        self.falls: list[dict[str, Fall]] = []  # of every round
        self.trained: list[bool] = []  # whether every round was fine-tuned
        self.tried: dict[str, Fall] = {}  # of the round that is being tried, and whether it is fine-tuned
        self.training = False
        self.latency: dict[str, Any] | None = None  # the table that is gone by, from `begin` on

    @property
    def files(self) -> ContractFiles:
        return ContractFiles(self.experiment, self.options)

    # ------------------------------------------------------------- what it is about
    @cached_property
    def limits(self) -> dict[str, float]:
        return parse_limits(self.experiment.config.contract.max_drop, self.experiment.tasks)

    @cached_property
    def dense(self) -> Saved:
        """The trained dense network. FileNotFoundError names the command that makes it."""
        given = self.options.init_from
        path = Path(given) if given else dense_path(self.experiment, self.method)
        saved = load_network(self.experiment, path)
        if saved.mask is not None:
            raise ValueError(f"{path} holds a sparse network: limits are against a trained dense one")
        return saved

    @property
    def unit(self) -> str:
        """What sizes count."""
        prune = self.experiment.config.prune
        if prune.ratio_of == "macs":
            return "multiply-adds"
        return "parameters" if find_granularity(prune.granularity).removes else "weights"

    def said(self, size: int) -> str:
        """A size for people, with its latency where that counts."""
        time = "" if self.latency is None else f", {table_of(self.latency)[size]:.3g} ms"
        return f"{size:,} {self.unit}{time}"

    @cached_property
    def fingerprint(self) -> str:
        """Of the dense network."""
        return fingerprint(self.dense.network.state_dict())

    @cached_property
    def places(self) -> tuple[list[int], list[int]]:
        """Of the validation images that the search looks at, and of those for the certificate."""
        return halves(len(self.experiment.records("val")), self.experiment.config.run.seed)

    @cached_property
    def images(self) -> dict[str, dict[str, Any]]:
        """Which images its rounds learn from, and which judge them."""
        return self.experiment.images("train", "val")

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The ladder, before latencies thin it out."""
        settings = self.experiment.config.contract
        return sizes_of(*self._whole_network(), settings.resolution, settings.smallest)

    def _whole_network(self) -> tuple[MultiTaskNet, Plan, Owners]:
        """The dense network, how it is to be pruned, and who owns what of it."""
        pruning = self.pruning(self.dense.network, {})
        return pruning.network, pruning.plan, pruning.electorate.owners

    def make_ascent(self, latency: dict[str, Any] | None) -> Ascent:
        """The search before its first round. ValueError for a table of latencies of another network."""
        settings, sizes = self.experiment.config.contract, self.sizes
        if latency is not None:
            sizes = met(*self._whole_network(), faster_sizes(table_of(latency), sizes[0]))
        return Ascent(
            self.limits, tuple(self.experiment.tasks), sizes, settings.stride, settings.turn, settings.turns
        )

    def check(self) -> None:
        """Raises ValueError or OSError for what cannot work, before anything is computed."""
        experiment = self.experiment
        check_settings(experiment, self.method, self.options)
        check_latency(experiment.config, known=self.files.begun or self.files.finished)
        _ = self.limits
        experiment.check_dest()
        self._check_files()
        check_looks(experiment)
        experiment.check_data("train", "val", *(["test"] if has_split(experiment, "test") else []))
        check_validation(experiment, self.dense, self.limits, self.places)
        self.pruning(self.dense.network, {}).check()
        if runtime_of(experiment.config) is None:
            self.make_ascent(None)

    def _check_files(self) -> None:
        """ValueError where files of something else are in the way, or are no longer what they were."""
        for path in self.files.results:
            if path.exists() and path.samefile(self.dense.path):
                raise ValueError(
                    f"{path} is the dense network, which the contract's would replace: give another --name "
                    "or --dest"
                )
        if self.files.begun:
            path = self.files.state
            state = read_state(path)
            require_same_method(state, self.experiment, str(path))
            require_same_settings(state["settings"], self.experiment, str(path))
            require_same_images(state, self.images, self.experiment, str(path), path)
        elif self.files.finished:
            content = read_limits(self.files.certificate)
            require_same_method(content, self.experiment, str(self.files.certificate))
            require_same_settings(content["config"], self.experiment, str(self.files.certificate))
            known, what = content["dense"].get("sha256"), f"{self.files.certificate} is the contract of"
            require_dense(self.dense.path, self.fingerprint, known, what)
            self._check_delivered(content["network"].get("sha256"))
        elif not self.options.overwrite:
            for path in self.files.results:
                if path.exists():
                    raise ValueError(
                        f"{path} exists already, and no contract of this name does: --overwrite replaces it, "
                        "--name or --dest keeps both"
                    )

    def _check_delivered(self, known: object) -> None:
        """ValueError unless all that the finished contract wrote is there, its network as it was."""
        for path in self.files.results:
            if not path.is_file():
                raise ValueError(f"{path} of {self.files.certificate} is gone: --overwrite makes it anew")
        network = load_network(self.experiment, self.files.network).network
        if fingerprint(network.state_dict()) != known:
            raise ValueError(
                f"{self.files.network} is not the network of {self.files.certificate}: --overwrite "
                "makes it anew"
            )

    # ------------------------------------------------------------------- rounds
    def judge(self, split: str, places: list[int] | None = None) -> Judge:
        """What knows the dense network on images of a split."""
        return judge(self.experiment, self.limits, moved(self.experiment, self.dense.network), split, places)

    @cached_property
    def searching(self) -> Judge:
        """On the half that the search looks at."""
        return self.judge("val", self.places[0])

    @cached_property
    def certifying(self) -> Judge:
        """On the half that it never sees."""
        return self.judge("val", self.places[1])

    def begin(self) -> None:
        """Tell what the images can tell, or take up an earlier search. Old files go last."""
        if self.files.begun:
            self._go_on()
            return
        self.searching.check()
        self.certifying.check()
        self.experiment.say(
            "{} images for the search, {} for the certificate: ".format(*map(len, self.places))
            + f"enough for limits (%) from {listed(self.searching.alone())} on, "
            "for a network whose mistakes are all its own"
        )
        if forgiving := forgiven(self.experiment, self.limits):
            self.experiment.say(
                f"--protocol paper takes {forgiving} over the classes that a network hits at all, so that a "
                "class lost whole is no loss: --protocol metric counts it"
            )
        self.latency = self._latencies()  # which may be those of a contract that is replaced
        self.ascent = self.make_ascent(self.latency)
        self._write_state(replacing=True)  # from here on a stopped command goes on with this search
        STARTED_ANEW.set()
        self._remove_old()

    def _remove_old(self) -> None:
        """Remove what an earlier search of this name left, and write down that it is gone."""
        self.files.remove_rounds()
        for path in self.files.results:
            path.unlink(missing_ok=True)
        self._write_state()

    def _latencies(self) -> dict[str, Any] | None:
        """The stated table, or a measured one; None where sizes are to become small."""
        experiment, runtime = self.experiment, runtime_of(self.experiment.config)
        if runtime is None:
            return None
        given = experiment.config.contract.latencies
        if given is not None:
            return stated(Path(given), runtime)
        network = moved(experiment, load_network(experiment, self.dense.path).network)
        pruning = self.pruning(network, {})

        def pruned(size: int) -> MultiTaskNet:
            mask = self._mask(pruning, size, None)
            found = copy.deepcopy(network)
            if pruning.plan.removes:
                pruning.removal(mask).apply(found)
            else:
                apply(found, mask)
            return found.cpu()

        return measured(experiment, self.sizes, pruned)

    def _go_on(self) -> None:
        """Take up the search that the state tells of. ValueError for one that is none of this command."""
        state = read_state(self.files.state)
        what = f"{self.files.state} was started from"
        require_dense(self.dense.path, self.fingerprint, state.get("dense"), what)
        try:
            self.falls = [
                {name: Fall(*map(float, of[name])) for name in self.limits} for of in state["rounds"]
            ]
            self.trained = [bool(trained) for _, trained in zip(self.falls, state["trained"], strict=True)]
            self.latency = state.get("latency")
            self.ascent = self.make_ascent(self.latency)
            self.ascent.load_state_dict({"drops": [_bounds(of) for of in self.falls]})
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.files.state} is no state of this search: --overwrite starts anew"
            ) from error
        if state.get("replacing"):
            self._remove_old()
        self._remove_past()

    def _write_state(self, replacing: bool = False) -> None:
        """replacing: whether files of an earlier search are still to be removed."""
        rounds = [{name: list(fall) for name, fall in of.items()} for of in self.falls]
        content: dict[str, Any] = {"settings": as_tree(self.experiment.config), "dense": self.fingerprint}
        content |= {"bound": KIND, "method": self.method.name, "images": self.images}
        content |= {"rounds": rounds, "trained": self.trained, "latency": self.latency}
        content |= {"replacing": replacing}
        write_file(self.files.state, content)

    def pruning(self, network: MultiTaskNet, factors: Mapping[str, float]) -> Pruning:
        """The method on a network, with these factors of the tasks, none = 1 each."""
        experiment = self.experiment
        config = experiment.config
        prune = replace(config.prune, ratio=0.0, arbiter="weighted", factors=dict(factors))
        # every kept round trains on batches of its own, a level that is tried again on the same
        seed = mix_seed(config.run.seed, "contract", self._depth) % 2**32
        run = replace(config.run, seed=seed, logger="none")
        asked: dict[str, Any] = {
            "method": self.method.name,
            "max_drop": list(config.contract.max_drop),
            "factors": {task: round(factor, 4) for task, factor in factors.items()},
            "seed": config.run.seed,
            "protocol": config.run.protocol,
        }
        small = replace(experiment, config=replace(config, prune=prune, run=run))
        pruning = Pruning(small, self.method, network, asked, before=self.dense.origin)
        if pruning.plan.removes:
            asked["whole"] = self._whole
        if pruning.plan.counted:  # what a certificate needs to count multiply-adds
            asked |= {"granularity": prune.granularity, "ratio_of": prune.ratio_of}
            asked |= {"uses": pruning.plan.uses, "resolution": list(experiment.evaluation_size())}
        return pruning

    @cached_property
    def _whole(self) -> dict[str, int]:
        """What the dense network costs, of which rounds remove channels one after the other."""
        plan = Pruning(self.experiment, self.method, self.dense.network).plan
        return asdict(plan.channels.whole)

    @property
    def _depth(self) -> int:
        """Kept rounds so far."""
        return sum(kept(of, self.limits) for of in self.falls)

    def attempt(self, trial: Trial) -> dict[str, float]:
        """Prune the last kept network and look at it: the bound of every limit's drop. Where that breaks a
        limit the network is trained, and looked at again.

        Where the settings ask for a moving average, that is what is looked at and kept. NaN, which breaks all
        limits, where the training diverges.
        """
        best, experiment = self.ascent.best, self.experiment
        saved = self.dense if best is None else load_network(experiment, self.files.kept(best.trial.number))
        network = moved(experiment, load_network(experiment, saved.path).network)
        pruning = self.pruning(network, trial.factors)
        mask = self._mask(pruning, trial.keep, saved.mask)
        if pruning.plan.removes:  # a round trains, and leaves, a smaller network
            pruning, mask = pruning.smaller(mask), dense_mask(network)
        steps = 0 if best is None else int(saved.content["step"])
        apply(network, mask)
        self.tried = self._look(network)
        self.training = not kept(self.tried, self.limits)
        if self.training:
            run = self._run(pruning, mask, trial)
            try:
                run.train(resume=True)
            except Diverged:
                self.tried = lost(self.limits)
            else:
                network, steps = run.outcome, steps + run.plan.steps
                apply(network, mask)
                self.tried = self._look(network)
        if kept(self.tried, self.limits):
            save_network(
                pruning.experiment,
                self.files.kept(trial.number),
                network,
                mask=mask,
                certificate=pruning.certify(mask),
                step=steps,
                before=pruning.before,
            )
        return _bounds(self.tried)

    def _look(self, network: MultiTaskNet) -> dict[str, Fall]:
        """What it loses on the search's half."""
        return self.searching.falls(look(self.experiment, network, "val", self.places[0]))

    def _mask(self, pruning: Pruning, keep: int, among: Mask | None) -> Mask:
        """What stays of a network, by the vote of its tasks; among: of these alone, None = of all."""
        names = in_scope(pruning.network, pruning.electorate.owners, pruning.plan)
        left, device = among or dense_mask(pruning.network, names), self.experiment.fabric.device
        left = {name: part.to(device) for name, part in left.items()}
        batches = NumberedBatches(pruning.experiment)
        seed = pruning.experiment.config.run.seed
        return make_mask(
            *(pruning.network, pruning.plan, pruning.electorate, batches, seed), keep=keep, among=left
        )

    def _run(self, pruning: Pruning, mask: Mask, trial: Trial) -> Run:
        plan = training_plan(pruning.experiment, self.method)
        optimizer = make_optimizer(pruning.network, plan)
        sparsifier = pruning.sparsifier(mask, optimizer, plan.steps)
        stem = self.files.stem(trial.number)
        return Run(
            *(pruning.experiment, pruning.network, optimizer, sparsifier, plan, stem),
            pruning=pruning,
            keep_best=False,
            before=pruning.before,
            validate=False,
        )

    def done(self, last: Round) -> None:
        """Write down what came of a round, then drop what belongs to it alone."""
        self.falls.append(self.tried)
        self.trained.append(self.training)
        self._write_state()
        write_trace(self.files.trace, self.ascent, self.falls, self.trained)
        self._remove_past()
        self.experiment.say(told(last, self.tried, self.limits, self.said(last.trial.keep), self.training))
        if not is_lost(self.tried) and all(map(is_lost, self.falls[:-1])):
            self.experiment.say(
                f"its bounds are {listed(self.widths)} above its drops: limits from there on can be "
                "certified to a network as like the dense one as this, where it loses nothing"
            )

    @property
    def widths(self) -> dict[str, float]:
        """How far the bounds of the first round that did not diverge are above its drops: percent."""
        first = next(falls for falls in self.falls if not is_lost(falls))
        return {name: fall.bound - fall.drop for name, fall in first.items()}

    def _remove_past(self) -> None:
        """Remove what finished rounds left, but for the networks of kept ones."""
        kept_ones = (done.trial.number for done in self.ascent.rounds if done.kept)
        self.files.remove_rounds(len(self.falls), kept_ones)


def _bounds(falls: dict[str, Fall]) -> dict[str, float]:
    return {name: fall.bound for name, fall in falls.items()}
