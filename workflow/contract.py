"""A contract for every task: the smallest network that keeps a limit for each.

The rounds (contract_search.py) look at one half of the validation images. The other half is looked at once,
at the end: kept networks in the order of how certain they are on the first half, each smaller than those
before it, up to the first that breaks a limit on the second. The last before that is the result, and is
measured on the test split. Tests in an order that other data fixed need no correction for their number
(Maurer, Hothorn, Lehmacher, 1995).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from common.files import write_json
from models.multitask import MultiTaskNet
from prune_utils.ascent import Round, search
from prune_utils.methods import Method
from prune_utils.report import format_certificate

from .contract_looks import looks_path, note_look
from .contract_report import (
    draw_search,
    fingerprint,
    format_limits,
    looks_of,
    plain,
    question,
    read_limits,
    write_trace,
)
from .contract_search import Work
from .experiment import Experiment
from .files import Files, Options
from .judging import Fall, broken, is_lost, kept, look, to_certify
from .networks import Saved, load_network, moved, save_network
from .origin import origin
from .unseen import has_split


class Unkept(Exception):
    """Limits that cannot be kept: one sentence, with the best that was reached."""


def contract_name(dataset: str, method: str) -> str:
    """The stem of the files of a contract."""
    return f"{dataset}_{method}_contract"


def fulfil(experiment: Experiment, method: Method, options: Options) -> tuple[str, Files]:
    """Search for the network, certify it, write it; the report as text, and the files.

    Raises ValueError or OSError for what cannot work, before any training; Unkept where no smaller network
    keeps the limits.
    """
    work = Work(experiment, method, options)
    work.check()
    if work.files.finished:
        work.files.remove_rounds()  # whose removal was interrupted
        return report(work), [(path, "made before, unchanged") for path in work.files.results]
    work.begin()
    best = search(work.ascent, work.attempt, work.done)
    write_trace(work.files.trace, work.ascent, work.falls, work.trained)
    draw_search(work.files.picture, work.ascent, work.falls, experiment.name)
    if best is None:
        nearest, name = work.ascent.nearest()
        raise Unkept(sentence(work, nearest, name, work.falls[nearest.trial.number]))
    return finish(work)


def finish(work: Work) -> tuple[str, Files]:
    """Certify, write, and remove what the rounds left. Unkept where nothing can be certified."""
    looks: list[tuple[Round, dict[str, Fall]]] = []
    if earlier := note_look(work.experiment, work.fingerprint):
        work.experiment.say(
            f"validation images were looked at to certify {earlier} other contract{'s' * (earlier > 1)} of "
            f"this dense network before ({looks_path(work.experiment)}): the level is that of one look"
        )
    for done in in_order(work):
        network, _ = _kept(work, done)
        falls = work.certifying.falls(look(work.experiment, network, "val", work.places[1]))
        looks.append((done, falls))
        if not kept(falls, work.limits):
            break
    certified = [seen for seen in looks if kept(seen[1], work.limits)]
    if not certified:
        first, falls = looks[0]
        name = broken(falls, work.limits)[0]
        raise Unkept(uncertified(work, first, name, falls[name]))
    best, falls = certified[-1]
    _write(work, best, falls, looks, earlier)
    work.files.state.unlink()
    work.files.remove_rounds()
    seen = looks_path(work.experiment), "contracts that have looked at the certificate's half"
    return report(work), [*work.files.results.items(), seen]


def in_order(work: Work) -> list[Round]:
    """The rounds whose networks are to be looked at on the certificate's half."""
    rounds = [
        (done, done.trial.keep, work.falls[done.trial.number]) for done in work.ascent.rounds if done.kept
    ]
    return to_certify(rounds, work.limits)


def _kept(work: Work, done: Round) -> tuple[MultiTaskNet, Saved]:
    saved = load_network(work.experiment, work.files.kept(done.trial.number))
    return moved(work.experiment, saved.network), saved


def _write(
    work: Work,
    best: Round,
    falls: dict[str, Fall],
    looks: list[tuple[Round, dict[str, Fall]]],
    earlier: int,
) -> None:
    """The network and its certificate; measures the test split, where there is one.

    earlier: other contracts of the dense network that had looked at the certificate's half before.
    """
    experiment = work.experiment
    config = experiment.config
    network, saved = _kept(work, best)
    proof = saved.content["certificate"]
    size, whole = best.trial.keep, work.ascent.sizes[0]
    reached = 100 * (1 - size / whole)
    reached = reached if reached >= 1 else 0.0  # settings know no ratio between
    prune = replace(config.prune, ratio=reached, arbiter="weighted", factors=dict(best.trial.factors))
    save_network(
        replace(experiment, config=replace(config, prune=prune)),
        experiment.pruned_path,
        network,
        mask=saved.mask,
        certificate=proof,
        step=saved.content["step"],
        before=saved.origin,
    )
    found = {
        "network": _named(work, experiment.pruned_path, network),
        "dense": _named(work, work.dense.path, work.dense.network),
        **weights_left(proof),
        "size": {"kept": size, "total": whole, "counts": work.unit},
        "latency": work.latency,
        "factors": best.trial.factors,
        "finetune": {
            "iterations_a_round": config.finetune.iterations,
            "rounds": len(work.ascent.rounds),
            "rounds_trained": sum(work.trained),
            "iterations_behind_these_weights": saved.content["step"],
        },
        "widths": work.widths,
        "validation": {
            "search": {"images": len(work.places[0]), "drops": plain(work.falls[best.trial.number])},
            "certificate": {
                "images": len(work.places[1]),
                "drops": plain(falls),
                "looks": looks_of(looks),
                "looked_before": earlier,
            },
        },
        "test": _test(work, network),
        "remarks": origin(saved.origin, config),
    }
    write_json(work.files.certificate, question(experiment, work.limits) | found)


def weights_left(proof: dict[str, Any]) -> dict[str, float]:
    """What is left of the dense network, by a certificate: weights of the mask, or, where channels were
    removed, all parameters. sparsity: percent."""
    if "removed" not in proof:
        return {"kept": proof["kept"], "total": proof["total"], "sparsity": proof["ratio"]}
    kept, total = (proof["removed"][when]["params"] for when in ("after", "before"))
    return {"kept": kept, "total": total, "sparsity": 100 * (1 - kept / total)}


def _named(work: Work, path: Path, network: MultiTaskNet) -> dict[str, str]:
    """A network's file, as seen from the certificate where it lies beside it, and what is in it."""
    beside = path.resolve().parent == work.experiment.dest.resolve()
    return {
        "file": path.name if beside else str(path.resolve()),
        "sha256": fingerprint(network.state_dict()),
    }


def _test(work: Work, network: MultiTaskNet) -> dict[str, Any] | None:
    if not has_split(work.experiment, "test"):
        return None
    return {
        "images": len(work.experiment.records("test")),
        "drops": plain(work.judge("test").falls(look(work.experiment, network, "test"))),
    }


def report(work: Work) -> str:
    """What was found, for people."""
    proof = load_network(work.experiment, work.files.network).content["certificate"]
    return f"{format_certificate(proof)}\n\n{format_limits(read_limits(work.files.certificate))}"


def uncertified(work: Work, first: Round, name: str, fall: Fall) -> str:
    """Why nothing is certified, though networks kept the limits on the search's half."""
    others = sum(done.kept for done in work.ascent.rounds) - 1
    rest = (
        f"; {others} more that kept the limits there come behind it, and are not looked at" if others else ""
    )
    return (
        f"no network is certified for the limit of {work.limits[name]:g} % for '{name}': the most certain "
        f"one on the search's half, {work.said(first.trial.keep)}, loses {fall.drop:.3g} % on the "
        f"certificate's half of the validation images, at level {work.experiment.config.contract.level:g} at "
        f"most {fall.bound:.3g} %{rest}"
    )


def sentence(work: Work, best: Round, name: str, falls: dict[str, Fall]) -> str:
    """Why nothing is kept: the limit that broke, and by how much in the best that was tried."""
    drop, bound = falls[name]
    config = work.experiment.config
    start = f"no smaller network keeps the limit of {work.limits[name]:g} % for '{name}':"
    size, length = work.said(best.trial.keep), f"with {config.finetune.iterations} iterations a round"
    if is_lost(falls):
        return (
            f"{start} of the best that was tried, {size}, the training {length} diverged "
            "(a smaller --lr may help)"
        )
    return (
        f"{start} the best that was tried, {size}, {length}, loses {drop:.3g} % on the search's half of the "
        f"validation images, at level {config.contract.level:g} at most {bound:.3g} %"
    )
