"""Which shared weights of a sparse network only some of its tasks wanted, and what it costs to drop the rest.

The vote is held again: the same scores from the same data as when the network was made. It must give the
file's mask, or nothing is dropped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from common.choices import printable
from configs.load import Tree, carried, load, merge
from models.multitask import MultiTaskNet
from prune_utils.masks import Mask, Scores
from prune_utils.methods import method
from prune_utils.plan import INITS
from prune_utils.ranking import rank_fractions
from prune_utils.scoring import score
from training.checkpoint import load_state
from training.evaluate import evaluate

from .create import prepare_pruning
from .experiment import Experiment, open_experiment
from .files import Options
from .networks import moved
from .pruning import SEEN, NumberedBatches, Pruning

# what a certificate says was asked for -> the setting that asks for it
CERTIFIED = {
    "seed": "run.seed",
    "protocol": "run.protocol",
    "batches": "prune.num_batches",
    "batch_size": "prune.batch_size",
    **{name: f"data.{name}" for name in SEEN},
    **{
        name: f"prune.{name}"
        for name in ("ratio", "keep_ratio", "criterion", "voters", "budget", "arbiter", "scope", "protect")
    },
    **{name: f"prune.{name}" for name in ("rounds", "granularity", "ratio_of", "trunk_share")},
    **{name: f"prune.{name}" for name in ("shuffle", "score_init", "start_from")},
}
# what a certificate must say was asked for, where one vote is to be held again
ONE_VOTE: dict[str, Any] = {
    "budget": "global",
    "arbiter": "unanimous",
    "factors": None,
    "rounds": 1,
    "retrain": False,
    "shuffle": False,
    "protect": [],
    "floor": 0.0,
    "trunk_share": None,
    "granularity": "weight",
    "ratio_of": "params",
    "channel_multiple": 1,
}


def reopen(content: dict, dest: Path, data_root: str | None) -> Experiment:
    """The experiment in which a saved network was made: what its certificate says was asked for.

    The file's own settings are those of its last command, training for example; they only fill gaps of older
    certificates. data_root: where the data is, None = where the data set's YAML says.
    """
    asked = (content["certificate"] or {}).get("asked", {})
    flags: Tree = {"data": {"root": data_root}} if data_root else {}
    for name, place in CERTIFIED.items():
        if name in asked:
            section, field = place.split(".")
            flags = merge(flags, {section: {field: asked[name]}})
    config = load(content["config"]["data"]["dataset"], (), flags, base=carried(content["config"]))
    return open_experiment(config, asked.get("method", content["method"]), str(dest), content["name"])


def voted_mask(scores: dict[str, Scores], mask: Mask, present: tuple[str, ...]) -> Mask:
    """The kept weights that a present task voted for, where the unanimous rule on `scores` gives `mask`.

    scores: task -> layer -> score; a task votes for the weights that rank among its best, as far down as the
    mask goes. ValueError where the votes of all tasks do not give the mask.
    """
    ranks = {task: rank_fractions(of) for task, of in scores.items()}
    best = {name: torch.stack([of[name] for of in ranks.values() if name in of]).amin(dim=0) for name in mask}
    edge = max((float(best[name][kept].max()) for name, kept in mask.items() if kept.any()), default=0.0)
    # equal ranks of different tasks at the very edge: position decides which are kept, so mask has its say
    if any(bool(((best[name] < edge) & ~kept).any()) for name, kept in mask.items()):
        raise ValueError("the votes on this data do not give the network's mask: it was made from other data")
    return {
        name: kept & torch.stack([ranks[t][name] <= edge for t in present if name in ranks[t]]).any(dim=0)
        if any(name in ranks[task] for task in present)
        else kept
        for name, kept in mask.items()
    }


def check_vote(pruning: Pruning, asked: dict[str, Any]) -> None:
    """ValueError where a network was not made by one vote of the tasks. asked: what its certificate says."""
    plan = pruning.plan
    if plan.voters != "tasks" or pruning.method.by_itself:
        raise ValueError(
            f"method {plan.method} holds no vote of the tasks: every kept weight is wanted by all"
        )
    for name, needed in ONE_VOTE.items():
        said = asked.get(name, getattr(plan, name))  # earlier versions did not tell all
        said = list(said) if isinstance(said, tuple) else said
        if said != needed:
            raise ValueError(
                "--only-voted holds again one global, unanimous vote, "
                f"this network was made otherwise: with {name} {printable(str(said))[:80]}"
            )


def _scores(pruning: Pruning) -> dict[str, Scores]:
    experiment, plan = pruning.experiment, pruning.plan
    seed = experiment.config.run.seed
    network = INITS[plan.score_init](pruning.network, seed, pruning.electorate.owners)
    batches = NumberedBatches(experiment)
    voters = pruning.electorate.voters(plan.voters)
    return score(network, voters, batches, plan.criterion, seed=seed, gather=pruning.electorate.gather)


def only_voted(content: dict, experiment: Experiment, present: tuple[str, ...]) -> dict:
    """The saved network without the shared weights that no present task voted for."""
    if content["mask"] is None:
        raise ValueError("the network is dense: nobody voted")
    pruning = prepare_pruning(experiment, method(content["method"]), Options())
    check_vote(pruning, content["certificate"]["asked"])
    scores = {task: {name: part.cpu() for name, part in of.items()} for task, of in _scores(pruning).items()}
    mask = voted_mask(scores, content["mask"], present)
    state = {name: value * mask[name] if name in mask else value for name, value in content["state"].items()}
    return content | {"state": state, "mask": mask}


def scores_of(content: dict, experiment: Experiment, tasks: tuple[str, ...], split: str) -> dict:
    """Task -> protocol -> metric -> value of a saved network on a split, of these tasks."""
    network = MultiTaskNet(**content["network"])
    load_state(network, content["state"], content["name"])
    chosen = {name: task for name, task in experiment.tasks.items() if name in tasks}
    network = moved(experiment, network)
    found = evaluate(network, chosen, experiment.evaluation_stream(split), fabric=experiment.fabric)
    return found["metrics"]


def comparison(before: dict, after: dict, protocol: str) -> list[tuple[str, str, str]]:
    """Rows (task metric, before, after) of one protocol."""
    return [
        (f"{task} {name}", f"{value:.4f}", f"{after[task][protocol][name]:.4f}")
        for task, found in before.items()
        for name, value in found[protocol].items()
    ]
