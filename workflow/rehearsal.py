"""An experiment in small: the user's own data, weights and settings, a few steps, a folder that goes away."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from configs.schema import Config
from prune_utils.masks import Mask
from prune_utils.methods import Method

from .evaluation import evaluate_network
from .experiment import Experiment
from .pruning import Pruning


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


SMALL_CROP = 97  # pixels, in the short form


class Killed(Exception):
    """The rehearsed run ends here, as if the machine had failed."""


@dataclass
class Rehearsal:
    """An experiment in small, and what it showed.

    seconds: by phase. steps: when each step until the kill was done. sizes: of the
    largest file of every kind, bytes.
    """

    experiment: Experiment
    rhythm: Rhythm
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[int, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    seconds_per_image: float = 0.0  # of evaluation
    seconds_per_batch: float = 0.0  # of scoring
    seconds_fixed: float = 0.0  # of a mask without batches
    seconds_per_byte: float = 0.0  # of writing a network

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; ValueError and OSError in it say where they happened, naming the own folder."""
        begin = time.monotonic()
        try:
            yield
        except (ValueError, OSError) as error:
            rehearsed, own = self.experiment.dest, self.experiment.dest.parent
            text = str(error).replace(str(rehearsed), str(own))
            raise ValueError(f"{text} (found by the preflight: {name})") from error
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
            begin = time.monotonic()
            saved = self.experiment.load_network(path)
            loaded = time.monotonic()
            split = self.experiment.config.run.select_on
            evaluate_network(self.experiment, saved, split)
        # read twice when it was checked: about as long as writing it once
        self.seconds_per_byte = (loaded - begin) / path.stat().st_size
        self.seconds_per_image = (time.monotonic() - loaded) / len(self.experiment.records(split))
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
            self.seconds_per_batch = max(0.0, taken - alone) / (batches - 1)
            taken = alone
        self.seconds_fixed = max(0.0, taken - self.seconds_per_batch)
        return mask


@contextmanager
def in_small(
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
        few = {"batch_size": min(data.batch_size, 2 * world), "crop": min(data.crop, SMALL_CROP)}
        data = replace(data, num_workers=0, **few)
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
