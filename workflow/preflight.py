"""Every phase change of a command on a few samples, before the hours that a late failure costs.

First samples, first checkpoint, best weights, drop and grow, end of the schedule, a kill, the resumption, the
final files, the best weights read back and evaluated.
"""

from __future__ import annotations

from dataclasses import replace

from prune_utils.methods import Method

from .estimate import check_disk, report, scoring_row, training_rows
from .experiment import Experiment
from .plans import full_plan, rounds_plan
from .rehearsal import LONG, Rehearsal, Rhythm, in_small
from .weights import Options, dense_path, rewind_path


def rehearse_launch(
    experiment: Experiment, method: Method | None, options: Options, rhythm: Rhythm
) -> Rehearsal:
    """`launch` in small. Raises what would go wrong."""
    from .commands import launch, training_run

    needed = [] if method is None or options.init_from else [experiment.pruned_path]
    with in_small(experiment, method, rhythm, needed) as rehearsal:
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
    with in_small(experiment, method, rhythm, needed) as rehearsal:
        small = rehearsal.experiment
        given = Options(options.init_from, export_published=_inside(small, options.export_published))
        with rehearsal.phase("weights to start from"):
            pruning = prepare_pruning(small, method, given)
        mask = rehearsal.scores(pruning)
        if pruning.plan.retrain:
            rehearsal.run_until_killed(rounds_run(pruning, mask))
        with rehearsal.phase("sparse network written"):
            create(small, method, replace(given, resume=True))
        rehearsal.note_sizes()
        if pruning.plan.retrain:
            rehearsal.evaluate(small.pruned_path)
        else:
            with rehearsal.phase("sparse network read back"):
                small.load_network(small.pruned_path)
    return rehearsal


def _inside(small: Experiment, export: str | None) -> str | None:
    return str(small.dest / "published.pth") if export else None


def preflight_create(experiment: Experiment, method: Method, options: Options) -> str:
    """Rehearse `create` with all that it touches; the text says what it will take. Raises what would fail."""
    from .commands import refuse_create

    refuse_create(experiment, options)
    rehearsal = rehearse_create(experiment, method, options, LONG)
    rounds = method.rounds if experiment.config.prune.rounds is None else experiment.config.prune.rounds
    row, seconds = scoring_row(experiment, rehearsal, 1 if method.retrain else rounds)
    work, plan = [row], None
    if method.retrain:
        plan = rounds_plan(experiment, method)
        rows, more = training_rows(experiment, method, rehearsal, plan)
        work, seconds = [*work, *rows], seconds + more
    return report(experiment, rehearsal, work, seconds, check_disk(experiment, rehearsal, plan))


def preflight_launch(experiment: Experiment, method: Method | None, options: Options) -> str:
    """Rehearse `launch` with all that it touches; the text says what it will take. Raises what would fail."""
    from .commands import refuse_launch

    refuse_launch(experiment, options)
    rehearsal = rehearse_launch(experiment, method, options, LONG)
    plan = full_plan(experiment, method)
    work, seconds = training_rows(experiment, method, rehearsal, plan)
    return report(experiment, rehearsal, work, seconds, check_disk(experiment, rehearsal, plan))
