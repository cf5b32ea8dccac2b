"""What a command may write: whose files are in the way, and which settings a resumed run must share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from re import fullmatch
from typing import Any

from common.choices import printable
from common.interrupt import STARTED_ANEW
from configs.load import as_tree, result_settings, shown
from training.checkpoint import check_fields, is_own, read_file
from training.resume import OtherRun, checkpoint_paths

from .experiment import Experiment

Files = list[tuple[Path, str]]  # written by a command, and what each holds
REPLACED = "--overwrite replaces it, --name or --dest keeps both"
SHA256 = "[0-9a-f]{64}"
GOES_ON = "--overwrite replaces it, --resume goes on with a run, --name or --dest keeps both"


@dataclass(frozen=True)
class Options:
    """What the command line says beside settings.

    said: the settings of pruning that it gives by itself (pruning.py), for a file that was made with others.
    """

    init_from: str | None = None
    overwrite: bool = False
    resume: bool = False
    export_published: str | None = None
    said: Mapping[str, Any] | None = None


def refuse_existing(paths: Iterable[Path], options: Options, advice: str = REPLACED) -> None:
    """ValueError for the first file that is there already, unless it may be replaced. advice: what helps."""
    for path in paths:
        if path.exists() and not options.overwrite:
            raise ValueError(f"{path} exists already: {advice}")


def refuse_other_run(experiment: Experiment, paths: list[Path], stem: str, options: Options) -> None:
    """ValueError for the first file of another run, unless it may be replaced.

    With --resume those of the same run may be there, of the same method and settings. stem: of its
    checkpoints. paths: what the run writes; --init-from may name none of them.
    """
    for path in paths:
        if options.init_from and path.exists() and path.samefile(options.init_from):
            raise ValueError(
                f"--init-from {options.init_from} is a file of {experiment.name} itself, which would be "
                "lost: give another --name or --dest"
            )
    if options.resume and options.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite starts anew: give one of them alone")
    checkpoints = checkpoint_paths(experiment.dest, stem)
    if not options.resume:
        refuse_existing([*paths, *checkpoints], options, GOES_ON)
    elif not checkpoints:
        for path in paths:
            if path.suffix == ".pth" and path.is_file():
                _require_own(experiment, path)


def remove_replaced(experiment: Experiment, paths: Iterable[Path], options: Options) -> None:
    """Before the first step, remove what --overwrite replaces: a run that is killed soon is not to be taken
    for the earlier one, which was finished."""
    if options.overwrite:
        for path in paths if experiment.fabric.is_global_zero else ():
            path.unlink(missing_ok=True)
        STARTED_ANEW.set()


def begun(experiment: Experiment, path: Path, stem: str, options: Options) -> bool:
    """Whether --resume finds something to go on from: a checkpoint, or the last file of the run itself."""
    return options.resume and (path.is_file() or bool(checkpoint_paths(experiment.dest, stem)))


def finished_before(experiment: Experiment, path: Path, stem: str, options: Options) -> bool:
    """Whether --resume has nothing left to do: the last file of the run is there, and no checkpoint."""
    return options.resume and path.is_file() and not checkpoint_paths(experiment.dest, stem)


def _require_own(experiment: Experiment, path: Path) -> None:
    """ValueError unless the file was made by the method and with the settings of this experiment."""
    content = read_file(path)
    if not is_own(content):
        raise ValueError(f"{path} was not made by this program: --overwrite replaces it")
    require_same_method(check_fields(content, path), experiment, str(path))
    require_same_settings(content["config"], experiment, str(path))


def require_same_method(content: dict[str, Any], experiment: Experiment, what: str) -> None:
    """OtherRun where a file is of another method; ValueError where it says none that could be.

    Files of earlier versions do not tell the method, and are taken at their word.
    """
    method = content.get("method", experiment.method)
    if not isinstance(method, str) or not method.isprintable():
        raise ValueError(f"field 'method' is {printable(repr(method))[:80]}, no name")
    if method != experiment.method:
        raise OtherRun(
            f"{what} was started with --method {method}, this command says {experiment.method}: "
            "resume with the same method, or start anew with --overwrite alone"
        )


def require_same_settings(before: dict[str, Any], experiment: Experiment, what: str) -> None:
    """OtherRun names the first setting that can change the result and is not what it was."""
    was = result_settings(before)
    for section, fields in result_settings(as_tree(experiment.config)).items():
        for field, value in fields.items():
            if was[section].get(field) != value:
                old = shown(was[section].get(field))
                raise OtherRun(
                    f"{what} was started with {section}.{field}={old}, this command says "
                    f"{shown(value)}: resume with the same settings, or start anew with --overwrite alone"
                )


def require_same_images(
    content: dict[str, Any],
    now: Mapping[str, Mapping[str, Any]],
    experiment: Experiment,
    what: str,
    path: Path,
) -> None:
    """OtherRun where what is gone on with had other images than there are now. ValueError for what says
    nothing of them; files of earlier versions, without the field, are taken at their word.

    content: of the file `path`; now: as `Experiment.images` gives it.
    """
    if "images" not in content:
        return
    said = content["images"]
    if not isinstance(said, dict) or set(said) != set(now) or not all(map(_counts_images, said.values())):
        raise ValueError(
            f"{path}: field 'images' does not hold count and sha256 of the images of {', '.join(now)}"
        )
    root = experiment.config.data.root
    for split, here in now.items():
        if said[split] == here:
            continue
        count = said[split]["count"]
        was = f"with {count} images in split {split!r}, and {root} has {here['count']}"
        if count == here["count"]:
            was = f"on other images of split {split!r} than those of {root}"
        raise OtherRun(
            f"{what} was started {was}: resume on the same data, or start anew with --overwrite alone"
        )


def _counts_images(value: object) -> bool:
    """Whether it is what Experiment.images says of a split."""
    if not isinstance(value, dict) or set(value) != {"count", "sha256"}:
        return False
    count, digest = value["count"], value["sha256"]
    return type(count) is int and count >= 0 and isinstance(digest, str) and bool(fullmatch(SHA256, digest))
