"""A rehearsal: every phase change of a command on a few samples, before the hours that a late failure costs.

The user's own data, weights and settings, in a folder of its own inside the user's, which is gone afterwards:
first samples, first checkpoint, best weights, drop and grow, end of the schedule, a kill, the resumption, the
final files, the best weights read back and evaluated.
"""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from configs.schema import Config
from prune_utils.methods import Method

from .evaluation import evaluate_network
from .experiment import Experiment
from .weights import Options, dense_path, rewind_path


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


class Killed(Exception):
    """The rehearsed run ends here, as if the machine had failed."""


@dataclass
class Rehearsal:
    """An experiment in small. `seconds` by phase; `steps`: when each step of the first part was done."""

    experiment: Experiment
    rhythm: Rhythm
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[int, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; ValueError and OSError in it say where they happened."""
        begin = time.monotonic()
        try:
            yield
        except (ValueError, OSError) as error:
            raise ValueError(f"{error} (found by the preflight: {name})") from error
        self.seconds[name] = time.monotonic() - begin

    def at_step(self, step: int) -> None:
        """Told of every step until the kill."""
        self.steps[step] = time.monotonic()
        if step == self.rhythm.kill:
            raise Killed

    def note_sizes(self) -> None:
        """Bytes of the files written so far, the largest of every kind."""
        for path in self.experiment.dest.iterdir():
            if path.is_file() and not path.is_symlink():
                kind = path.suffix
                self.sizes[kind] = max(self.sizes.get(kind, 0), path.stat().st_size)

    def first_samples(self, *splits: str) -> None:
        """Read and check them."""
        with self.phase("data"):
            self.experiment.check_data(*splits)
            for split in splits:
                stream = self.experiment.evaluation_stream(split)
                next(iter(stream), None)

    def run_until_killed(self, run: Callable) -> None:
        with self.phase("training, evaluation, checkpoint"), suppress(Killed):
            run(False, self.at_step)
        self.note_sizes()

    def evaluate(self, path: Path) -> None:
        """Read the weights back and evaluate them."""
        with self.phase("weights read back, evaluated"):
            saved = self.experiment.load_network(path)
            evaluate_network(self.experiment, saved, self.experiment.config.run.select_on)
        self.note_sizes()


def rehearse_launch(
    experiment: Experiment, method: Method | None, options: Options, rhythm: Rhythm
) -> Rehearsal:
    """`launch` in small. Raises what would go wrong."""
    from .commands import launch, training_run

    needed = [] if method is None or options.init_from else [experiment.pruned_path]
    with _small(experiment, method, rhythm, needed) as rehearsal:
        small, select_on = rehearsal.experiment, experiment.config.run.select_on
        rehearsal.first_samples("train", select_on)
        given = Options(options.init_from, export_published=_inside(small, options.export_published))
        with rehearsal.phase("weights to start from"):
            run, _ = training_run(small, method, given)
        rehearsal.run_until_killed(run)
        with rehearsal.phase("resumed to the end, final files"):
            launch(small, method, replace(given, resume=True))
        rehearsal.evaluate(small.best_path)
    return rehearsal


def rehearse_create(experiment: Experiment, method: Method, options: Options, rhythm: Rhythm) -> Rehearsal:
    """`create` in small. Raises what would go wrong."""
    from .commands import create, prepare_pruning, rounds_run

    needed = [] if options.init_from or not method.needs_dense else [dense_path(experiment, method)]
    if method.start == "rewound":
        needed.append(rewind_path(experiment, experiment.config.prune.rewind_step))
    with _small(experiment, method, rhythm, needed) as rehearsal:
        small = rehearsal.experiment
        given = Options(options.init_from, export_published=_inside(small, options.export_published))
        with rehearsal.phase("weights to start from"):
            pruning = prepare_pruning(small, method, given)
        with rehearsal.phase("scores of the first batches, mask"):
            mask = pruning.make_mask()
        if pruning.plan.retrain:
            rehearsal.run_until_killed(rounds_run(pruning, mask))
        with rehearsal.phase("sparse network written"):
            create(small, method, replace(given, resume=True))
        rehearsal.note_sizes()
        with rehearsal.phase("sparse network read back"):
            small.load_network(small.pruned_path)
    return rehearsal


def _inside(small: Experiment, export: str | None) -> str | None:
    return str(small.dest / "published.pth") if export else None


@contextmanager
def _small(
    experiment: Experiment, method: Method | None, rhythm: Rhythm, needed: list[Path]
) -> Iterator[Rehearsal]:
    """The experiment in small, in a folder of its own that is removed; silent. needed: files to be read."""
    experiment.check_dest()
    folder = experiment.dest / f".preflight_{experiment.name}"
    first = experiment.fabric.is_global_zero
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    experiment.fabric.barrier()
    small = replace(
        experiment,
        config=_small_config(experiment.config, method, rhythm, experiment.fabric.world_size),
        dest=folder,
        samples=rhythm.samples,
    )
    try:
        if first:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for path in needed:
                if path.is_file():
                    (folder / path.name).symlink_to(path.absolute())
        experiment.fabric.barrier()
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            yield Rehearsal(small, rhythm)
        experiment.fabric.barrier()
    finally:
        if first:
            shutil.rmtree(folder, ignore_errors=True)
            for path in made[1:]:
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()


def _small_config(config: Config, method: Method | None, rhythm: Rhythm, world: int) -> Config:
    """The user's settings, but short. The long form keeps the batch size, and so the memory it takes."""
    data, prune = config.data, config.prune
    if rhythm is SHORT:
        data = replace(data, batch_size=min(data.batch_size, 2 * world), num_workers=0)
    own_rounds = method.rounds if method else 1
    rounds = own_rounds if prune.rounds is None else prune.rounds
    return replace(
        config,
        data=data,
        optim=replace(config.optim, iterations=rhythm.steps),
        finetune=replace(config.finetune, iterations=rhythm.steps),
        dynamic=replace(config.dynamic, every=rhythm.every, until=rhythm.until),
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
            preflight=False,
        ),
    )
