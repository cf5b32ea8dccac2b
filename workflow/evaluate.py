"""Evaluate a saved network: a table, a JSON beside the weights, pictures."""

from __future__ import annotations

from argparse import Namespace
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from common.choices import not_one_of, printable
from common.commands import script
from common.files import read_json, write_json
from common.names import BASELINE, network_file, ratio_text, result_file
from configs.load import (
    Tree,
    as_tree,
    carried,
    load,
    quoted,
    result_settings,
    shown,
    trained,
)
from configs.schema import Config, Prune
from dataloaders import DATASETS as DATA_SETS
from training.checkpoint import check_fields, is_own, read_file, versions
from training.evaluate import evaluate, format_scores
from training.panels import write_panels

from .experiment import Experiment, experiment_name, open_experiment
from .files import Files
from .networks import Saved, load_network
from .origin import origin
from .saved import read_saved
from .unseen import check_unseen

METHOD = "disparse_static"  # where neither the command line nor the file names one


def open_saved(asked: Namespace, given: Tree) -> tuple[Experiment, Saved]:
    """The experiment and the network that the command line names.

    given: what --config files and flags say. An own file brings its name, its method and what describes the
    network, its tasks, protocol and training; `given` lies over that, but for the weights of the losses, and
    ValueError says where it contradicts it. Where the data lies and how the machine works is never taken from
    a file. FileNotFoundError names the command that makes the file.
    """
    ratio = float(given.get("prune", {}).get("ratio", Prune.ratio))
    method, base = asked.method or METHOD, None
    name = asked.name or experiment_name(asked.dataset, method, ratio)
    path = Path(asked.weights) if asked.weights else Path(asked.dest) / f"best_{name}.pth"
    path = network_file(path)
    if not path.is_file():
        wanted = "" if method == BASELINE else f" --ratio {ratio_text(ratio)}"
        wanted += f" --name {asked.name}" if asked.name else ""
        raise FileNotFoundError(
            f"there is no network {path}: `{script('launch_training.py')} --dataset {asked.dataset} "
            f"--method {method}{wanted} --dest {asked.dest}` trains it, --weights names another file"
        )
    content = read_saved(path) if path.suffix == ".safetensors" else read_file(path)
    if is_own(content):
        check_fields(content, path)
        base = _settings_of(content, path, asked.dataset)
        found = content.get("method", asked.method)
        if found is None:
            raise ValueError(f"{path} does not say of which method it is (field 'method'): --method NAME")
        method = found
        if asked.weights:
            name = asked.name or content["name"]
        given = {section: fields for section, fields in given.items() if section != "loss_weights"}
    config = load(asked.dataset, flags=given, base=base)
    if base is not None:
        _require_as_trained(path, content, asked.method, config)
    experiment = open_experiment(config, method, asked.dest, name)
    return experiment, load_network(experiment, path, content)


def _settings_of(content: dict, path: Path, dataset: str) -> Tree:
    """What later commands take over of the settings in a network's file; ValueError where they are none."""
    made_for = content["config"].get("data")
    made_for = made_for.get("dataset") if isinstance(made_for, dict) else made_for
    if made_for != dataset:
        raise ValueError(
            f"{path} is a network for {shown(made_for)}, not for {dataset}: --dataset {shown(made_for)}"
            if isinstance(made_for, str) and made_for in DATA_SETS
            else f"{path}: field 'config' has {quoted(made_for)} in the place of a data set (data.dataset)"
        )
    try:
        base = carried(content["config"])
        config = load(dataset, base=base)
        for task in config.data.tasks:
            if task not in config.loss_weights:
                raise ValueError(f"loss_weights has no weight for task '{printable(task)[:80]}'")
            if task not in DATA_SETS[dataset].task_names:
                raise ValueError(not_one_of("task", task[:80], DATA_SETS[dataset].task_names))
        for name in ("backbone", "width"):
            built, said = content["network"].get(name), getattr(config.model, name)
            if built != said:
                raise ValueError(f"model.{name} is {shown(said)}, field 'network' says {shown(built)}")
    except ValueError as error:
        raise ValueError(f"{path}: field 'config': {printable(str(error))}") from None
    return base


def _require_as_trained(path: Path, content: dict, method: str | None, config: Config) -> None:
    """ValueError for a flag that would put another label on the network's scores than it was trained with."""
    made = result_settings(content["config"])
    labels = {
        "method": (content.get("method", method), method or content.get("method")),
        "protocol": (made["run"]["protocol"], config.run.protocol),
        "seed": (made["run"]["seed"], config.run.seed),
    }
    if content["mask"] is not None:
        labels["ratio"] = (made["prune"]["ratio"], config.prune.ratio)
    for flag, (was, said) in labels.items():
        if was != said:
            raise ValueError(f"{path} was made with --{flag} {was}, this command says {said}: leave it out")


class Engined(nn.Module):
    """A network run by one of the engines of prune_utils/deploy/: "dense", "sparse" or "onnx"."""

    def __init__(self, saved: Saved, engine: str) -> None:
        super().__init__()
        from prune_utils.deploy.engines import wrap

        self.run = wrap(saved.network, saved.mask, engine)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.run(image)


def held(experiment: Experiment, saved: Saved, split: str) -> AbstractContextManager[None]:
    """Inside, no other process writes the scores of this name on this split; ValueError says who does."""
    beside = replace(experiment, dest=saved.path.parent, name=result_file(experiment.name, split))
    return beside.held()


def evaluate_network(
    experiment: Experiment,
    saved: Saved,
    split: str,
    pictures: int = 0,
    engine: str | None = None,
    overwrite: bool = False,
) -> tuple[str, Files]:
    """Scores of a saved network on a split, as text; written beside the weights, with pictures.

    The file is {name}.json for the test split, {name}_{split}.json for others.
    engine: runs the network ("dense", "sparse", "onnx"), None = PyTorch as in training.
    overwrite: also replace a file that answers another question, else a ValueError before the work.
    """
    replace(experiment, dest=saved.path.parent).check_dest()  # results go beside the weights
    if split == "val" and saved.content.get("config"):  # published files do not tell what they saw
        check_unseen(experiment, saved, "name another --split")
    fabric = experiment.fabric
    path = saved.path.parent / result_file(experiment.name, split)
    question = _question(experiment, saved, split, engine)
    if path.exists() and not overwrite:
        _require_same_question(path, question)
    network: nn.Module = Engined(saved, engine) if engine else fabric.to_device(saved.network)
    loader = experiment.evaluation_stream(split)
    progress = partial(tqdm, desc=f"evaluating on {split}", unit="batch", disable=not fabric.is_global_zero)
    scores = evaluate(
        network,
        experiment.tasks,
        loader,
        fabric=fabric,
        loss_weights=experiment.objective.weights,
        progress=progress,
        constants=True,
    )
    files: Files = []
    if fabric.is_global_zero:
        write_json(path, question | _result(experiment, saved, split, scores))
        files.append((path, "scores, protocols, split, certificate, settings"))
        folder = saved.path.parent / f"{experiment.name}_{split}_pictures"
        caption = ", ".join(origin(saved.origin, experiment.config))
        if pictures > 0:
            shown = experiment.whole_stream(split)
            panels = write_panels(
                network, experiment.tasks, shown, folder, pictures, fabric=fabric, caption=caption
            )
            files.append((folder, f"{len(panels)} pictures: input, targets, predictions"))
    return format_scores(scores, experiment.tasks, _notes(experiment, saved, split)), files


def _question(experiment: Experiment, saved: Saved, split: str, engine: str | None) -> dict[str, Any]:
    """What a result answers: which network on which samples, for which tasks, run by what."""
    records = experiment.records(split)
    return {
        "dataset": experiment.config.data.dataset,
        "method": experiment.method,
        "protocol": experiment.config.run.protocol,
        "split": split,
        "weights": saved.path.name,
        "engine": engine or "torch",
        "tasks": list(experiment.tasks),
        "data_root": str(records.root.resolve()),
        "samples": len(records),
        "first_sample": str(records.entries[0].files[records.layout.image.column]),
        "eval_batch_size": experiment.config.data.eval_batch_size,
    }


def _require_same_question(path: Path, question: dict[str, Any]) -> None:
    """ValueError where a file is there that does not hold the answer to the same question, older perhaps."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
        raise ValueError(f"{path} exists and holds no scores: --overwrite replaces it, --name keeps both")
    data = content["config"].get("data") if isinstance(content.get("config"), dict) else None
    batches = {"eval_batch_size": data["eval_batch_size"]} if data and "eval_batch_size" in data else {}
    known = {"tasks": list(content["metrics"])} | batches | content
    for field, now in question.items():
        was = known.get(field, now)  # earlier versions wrote less
        if was != now:
            raise ValueError(
                f"{path} holds other scores ({field.replace('_', ' ')} {was}, now {now}): "
                "--overwrite replaces it, --name keeps both"
            )


def _notes(experiment: Experiment, saved: Saved, split: str) -> list[str]:
    """What a reader of the scores must know."""
    notes = [f"trained in the {experiment.config.run.protocol} protocol; scores of the {split} split"]
    words = origin(saved.origin, experiment.config)
    notes += [f"these are scores of: {', '.join(words)}"] if words else []
    return notes + [f"{name}: {task.note}" for name, task in experiment.tasks.items() if task.note]


def _conflicts(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """In how many of the steps whose gradients training looked at tasks were in conflict, and the share."""
    return None if found is None else found | {"share": found["conflicting"] / found["steps"]}


def _result(experiment: Experiment, saved: Saved, split: str, scores: dict[str, Any]) -> dict[str, Any]:
    """Everything else that a number needs to be understood later."""
    config, made = experiment.config, saved.content.get("config")
    return {
        "name": experiment.name,
        "seed": config.run.seed,
        "step": saved.content.get("step"),
        "images": scores["images"],
        "task_images": scores["task_images"],
        "notes": _notes(experiment, saved, split),
        "remarks": origin(saved.origin, config),
        "loss": scores["loss"],
        "metrics": scores["metrics"],
        "constant": scores["constant"],
        "counts": scores["counts"],
        "directions": {
            task: {name: direction._asdict() for name, direction in row.directions.items()}
            for task, row in experiment.tasks.items()
        },
        "certificate": saved.content.get("certificate"),
        "conflicts": _conflicts(saved.content.get("conflicts")),
        # of the training; what evaluation alone decides stands beside it
        "config": as_tree(config) if made is None else _as_trained(config, made),
        "evaluated": {"precision": config.run.precision, "device": experiment.fabric.device.type},
        "versions": versions(),
        "weights_versions": _made(saved.content.get("versions")),
    }


def _as_trained(config: Config, made: Tree) -> Tree:
    """The settings of an evaluation, those that trained the network as its file has them."""
    own = trained(made)
    return {section: fields | own.get(section, {}) for section, fields in as_tree(config).items()}


def _made(versions: Any) -> dict[str, str]:
    """What wrote the weights, and on which kind of device, as far as their file says it."""
    said = versions if isinstance(versions, dict) else {}
    known = {name: said.get(name) for name in ("python", "torch", "threads", "instructions", "device")}
    return {name: printable(what[:80]) for name, what in known.items() if isinstance(what, str)}
