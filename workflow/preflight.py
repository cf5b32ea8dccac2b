"""Every phase change of a command on a few samples, before the hours that a late failure costs.

First samples, first checkpoint, best weights, drop and grow, end of the schedule, a kill, the resumption, the
final files, the best weights read back and evaluated: with the user's own data, weights and settings, in a
folder that goes away. The scripts call this, then the work; the work itself knows of no preflight.
"""

from __future__ import annotations

import io
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from common.interrupt import Interrupted
from common.lock import Held, locked
from common.text import duration
from configs.schema import Config
from prune_utils.masks import Mask
from prune_utils.methods import Method

from .create import create, prepare_pruning, refuse_create, rounds_run, rounds_stem
from .estimate import Cost, Measured, check_disk, report, scoring_row, training_rows
from .evaluate import evaluate_network
from .experiment import Experiment
from .files import Options, begun
from .launch import launch, refuse_launch, training_run, training_stem
from .networks import dense_path, load_network, rewind_path
from .pruning import Pruning
from .running import Run, rounds_plan, training_plan

SMALL_CROP = 97  # pixels, in the short form


@dataclass(frozen=True)
class Rhythm:
    """A run in small: a mask change every `every` steps, a checkpoint every `save`, killed in step `kill`."""

    steps: int
    every: int
    until: int
    save: int
    kill: int
    samples: int
    batches: int


SHORT = Rhythm(steps=3, every=1, until=2, save=2, kill=3, samples=2, batches=1)
LONG = Rhythm(steps=8, every=2, until=4, save=4, kill=5, samples=8, batches=3)


# ---------------------------------------------------------------- what the scripts call
def before_create(experiment: Experiment, method: Method, options: Options) -> None:
    """Try `create` briefly where it trains, unless the settings say no or it goes on with a run."""
    refuse_create(experiment, options)
    again = begun(experiment, experiment.pruned_path, rounds_stem(experiment), options)
    if method.retrain and experiment.config.run.preflight and not again:
        preflight = preflight_of_create(experiment, method, options, SHORT)
        _say_well(experiment, preflight)
        check_disk(experiment, preflight.measured, rounds_plan(experiment, method))


def before_launch(experiment: Experiment, method: Method | None, options: Options) -> None:
    """Try `launch` briefly, unless the settings say no or it goes on with a run."""
    refuse_launch(experiment, options)
    again = begun(experiment, experiment.final_path, training_stem(experiment), options)
    if experiment.config.run.preflight and not again:
        preflight = preflight_of_launch(experiment, method, options, SHORT)
        _say_well(experiment, preflight)
        check_disk(experiment, preflight.measured, training_plan(experiment, method))


class Told(NamedTuple):
    """What a preflight says: for people, and "command" and "evaluation" (on the test split) in seconds."""

    text: str
    seconds: dict[str, float]


def _told(experiment: Experiment, measured: Measured, work: list[Cost], need: int) -> Told:
    try:
        images = len(experiment.records("test"))
    except ValueError:  # the index has no such split
        images = 0
    seconds = {"command": sum(taken for _, taken in work), "evaluation": images * measured.seconds_per_image}
    return Told(report(experiment, measured, work, need), seconds)


def _say_well(experiment: Experiment, preflight: Preflight) -> None:
    taken = duration(sum(preflight.measured.seconds.values()))
    experiment.say(f"preflight: every phase works ({taken}); the work begins")


def preflight_create(experiment: Experiment, method: Method, options: Options) -> Told:
    """Try `create` with all that it touches, and say what it will take. Raises what would fail."""
    refuse_create(experiment, options)
    measured = preflight_of_create(experiment, method, options, LONG).measured
    rounds = method.rounds if experiment.config.prune.rounds is None else experiment.config.prune.rounds
    work, plan = [scoring_row(experiment, measured, rounds)], None
    if method.retrain:
        plan = rounds_plan(experiment, method)
        work += training_rows(experiment, method, measured, plan)
    return _told(experiment, measured, work, check_disk(experiment, measured, plan))


def preflight_launch(experiment: Experiment, method: Method | None, options: Options) -> Told:
    """Try `launch` with all that it touches, and say what it will take. Raises what would fail."""
    refuse_launch(experiment, options)
    measured = preflight_of_launch(experiment, method, options, LONG).measured
    plan = training_plan(experiment, method)
    work = training_rows(experiment, method, measured, plan)
    return _told(experiment, measured, work, check_disk(experiment, measured, plan))


# ----------------------------------------------------------------------- the preflights
def preflight_of_create(
    experiment: Experiment, method: Method, options: Options, rhythm: Rhythm
) -> Preflight:
    """`create` in small. Raises what would go wrong."""
    needed = [] if options.init_from or not method.needs_dense else [dense_path(experiment, method)]
    if method.start == "rewound":
        needed.append(rewind_path(experiment))
    with in_small(experiment, method, rhythm, needed) as preflight:
        small, given = preflight.experiment, preflight.options(options)
        with preflight.phase("weights to start from"):
            pruning = prepare_pruning(small, method, given)
        mask = preflight.scores(pruning)
        if pruning.plan.retrain:
            preflight.run_until_killed(rounds_run(pruning, mask))
        with preflight.phase("sparse network written"):
            create(small, method, replace(given, resume=True))
        preflight.note_sizes()
        if pruning.plan.retrain:
            preflight.evaluate(small.pruned_path)
        else:
            with preflight.phase("sparse network read back"):
                load_network(small, small.pruned_path)
    return preflight


def preflight_of_launch(
    experiment: Experiment, method: Method | None, options: Options, rhythm: Rhythm
) -> Preflight:
    """`launch` in small. Raises what would go wrong."""
    needed = [] if method is None or options.init_from else [experiment.pruned_path]
    with in_small(experiment, method, rhythm, needed) as preflight:
        small, given = preflight.experiment, preflight.options(options)
        preflight.first_samples("train", experiment.config.run.select_on)
        with preflight.phase("weights to start from"):
            run, _ = training_run(small, method, given)
        preflight.run_until_killed(run)
        with preflight.phase("resumed to the end, final files"):
            launch(small, method, replace(given, resume=True))
        preflight.evaluate(small.best_path)
    return preflight


@dataclass
class Preflight:
    """An experiment in small, and what it showed."""

    experiment: Experiment
    rhythm: Rhythm
    measured: Measured
    bar: tqdm

    def options(self, given: Options) -> Options:
        """Those of the command, with its exported file in the folder that goes away."""
        inside = str(self.experiment.dest / "published.pth") if given.export_published else None
        return Options(given.init_from, export_published=inside, said=given.said)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; ValueError and OSError in it say where they happened, naming the own folder."""
        begin = time.monotonic()
        self.bar.set_description_str(f"preflight: {name}")
        try:
            yield
        except (ValueError, OSError) as error:
            small, own = self.experiment.dest, self.experiment.dest.parent
            text = str(error).replace(str(small), str(own))
            raise ValueError(f"{text} (found by the preflight: {name})") from error
        except Interrupted as stop:
            raise Interrupted(stop.code - 128, "stopped in the preflight") from None
        self.measured.seconds[name] = time.monotonic() - begin

    def note_sizes(self) -> None:
        """Bytes of the files written so far, the largest of every kind."""
        sizes = self.measured.sizes
        for path in self.experiment.dest.iterdir():
            if path.is_file() and not path.is_symlink():
                sizes[path.suffix] = max(sizes.get(path.suffix, 0), path.stat().st_size)

    def first_samples(self, *splits: str) -> None:
        """Read and check them."""
        with self.phase("data"):
            self.experiment.check_data(*splits)
            for split in splits:
                next(iter(self.experiment.evaluation_stream(split)), None)

    def run_until_killed(self, run: Run) -> None:
        """Train until the rhythm's step, and no further, as if the machine had failed."""
        with self.phase("training, evaluation, checkpoint"), closing(run.steps()) as steps:
            for step in steps:
                self.measured.steps[step] = time.monotonic()
                if step == self.rhythm.kill:
                    break
        self.note_sizes()

    def scores(self, pruning: Pruning) -> Mask:
        """Make the mask of a few batches; the long form also times one."""
        with self.phase("scores of the first batches, mask"):
            begin = time.monotonic()
            mask = pruning.make_mask()
            taken = time.monotonic() - begin
        batches = self.experiment.config.prune.num_batches
        if self.rhythm is LONG and batches > 1:
            config = self.experiment.config
            config = replace(config, prune=replace(config.prune, num_batches=1))
            begin = time.monotonic()
            replace(pruning, experiment=replace(self.experiment, config=config)).make_mask()
            alone = time.monotonic() - begin
            self.measured.seconds_per_batch = max(0.0, taken - alone) / (batches - 1)
            taken = alone
        self.measured.seconds_fixed = max(0.0, taken - self.measured.seconds_per_batch)
        return mask

    def evaluate(self, path: Path) -> None:
        """Read the weights back and evaluate them."""
        split = self.experiment.config.run.select_on
        with self.phase("weights read back, evaluated"):
            begin = time.monotonic()
            saved = load_network(self.experiment, path)
            loaded = time.monotonic()
            evaluate_network(self.experiment, saved, split)
        # read twice when it was checked: about as long as writing it once
        self.measured.seconds_per_byte = (loaded - begin) / path.stat().st_size
        images = len(self.experiment.records(split))
        self.measured.seconds_per_image = (time.monotonic() - loaded) / images
        self.note_sizes()


@contextmanager
def in_small(
    experiment: Experiment, method: Method | None, rhythm: Rhythm, needed: list[Path]
) -> Iterator[Preflight]:
    """The experiment in small, in a folder of its own that is removed; a terminal shows the phase. needed:
    files to be read."""
    experiment.check_dest()
    first = experiment.fabric.is_global_zero
    with ExitStack() as stack:
        own = stack.enter_context(_own_folder(experiment, needed)) if first else None
        small = replace(
            experiment,
            config=_small_config(experiment.config, method, rhythm, experiment.fabric.world_size),
            dest=Path(experiment.fabric.broadcast(str(own))),
            samples=rhythm.samples,
        )
        line: dict[str, Any] = {"bar_format": "{desc} ({elapsed})", "leave": False, "file": sys.stderr}
        bar = stack.enter_context(tqdm(disable=None if first else True, **line))
        stack.enter_context(redirect_stderr(io.StringIO()))
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # the work warns; one that is heard here would not be heard again
        yield Preflight(small, rhythm, Measured(rhythm.steps), bar)
        experiment.fabric.barrier()


@contextmanager
def _own_folder(experiment: Experiment, needed: list[Path]) -> Iterator[Path]:
    """A folder in the experiment's that no other process uses, with links to the files; gone afterwards."""
    with ExitStack() as stack:
        for number in count(1):
            folder = experiment.dest / f".preflight_{experiment.name}_{number}"
            with suppress(Held):
                stack.enter_context(locked(experiment.dest, folder.name[1:]))
                break
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
        folder.mkdir()
        for path in needed:
            if path.is_file():
                (folder / path.name).symlink_to(path.absolute())
        yield folder


def _small_config(config: Config, method: Method | None, rhythm: Rhythm, world: int) -> Config:
    """The user's settings, but short. The long form keeps the batch size, and so the memory it takes."""
    data, prune, run = config.data, config.prune, config.run
    if rhythm is SHORT:
        batch, crop = min(data.batch_size, 2 * world), min(data.crop, SMALL_CROP)
        data = replace(data, num_workers=0, batch_size=batch, crop=crop)
    own_rounds = method.rounds if method else 1
    rounds = own_rounds if prune.rounds is None else prune.rounds
    return replace(
        config,
        data=data,
        optim=replace(config.optim, iterations=rhythm.steps),
        finetune=replace(config.finetune, iterations=rhythm.steps),
        dynamic=replace(config.dynamic, every=rhythm.every, until=rhythm.until),
        gradual=replace(config.gradual, start=rhythm.every, every=rhythm.every, end=rhythm.until),
        prune=replace(
            prune,
            num_batches=min(prune.num_batches, rhythm.batches),
            rounds=min(rounds, 3),
            round_iterations=rhythm.every,
        ),
        run=replace(
            config.run,
            eval_every=rhythm.save,
            checkpoint_every=rhythm.save,
            compile=config.run.compile and rhythm is not SHORT,
            logger="tensorboard" if run.logger == "tensorboard" else "none",  # services hear of work alone
            curves=False,
        ),
    )
