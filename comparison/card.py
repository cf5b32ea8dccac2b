# PYTHON_ARGCOMPLETE_OK
"""`python3 -m comparison.card FILE`: a saved network described in a page, and a folder that can be published.

The page says what the network is, what it was trained on, what it scores (with intervals where several seeds
were run), what its certificate proves, how fast it was measured to be, what it is not good for, and whose
terms the data have. `--hub DIR` writes the layout of a Hugging Face hub repository: README.md (the page, with
its head in YAML), model.safetensors (kept values and packed positions, the certificate in its header) and
config.json. `workflow.saved.load_network(DIR)` loads it back, `eval_pruned_net.py --weights DIR` scores it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from common.command_line import Parser, ending
from common.files import check_apart, read_json, replacing, write_json
from common.names import HUB_CONFIG, HUB_MODEL, network_file
from common.text import files_table
from prune_utils.report import format_certificate
from workflow.saved import read_saved, write_saved

from .entries import gather
from .grid import decimals, heading, number, spread
from .report import setups
from .results import ROWS_OWN, SEED, Result, differing_settings, label_of, read_results
from .verdicts import LEVEL, quantile

TERMS = {
    "nyuv2": "NYU Depth V2 (Silberman et al., ECCV 2012): published for research, without a stated licence.",
    "cityscapes": "Cityscapes (Cordts et al., CVPR 2016): non-commercial use only; see its terms.",
    "taskonomy": "Taskonomy (Zamir et al., CVPR 2018): research and education only; see its terms.",
}


def card(
    content: Mapping[str, Any],
    results: Sequence[Result] = (),
    speed: Mapping[str, Any] | None = None,
    terms: str | None = None,
) -> str:
    """The page as Markdown with its YAML head.

    content: the fields of a saved network. results: what results_of finds, its own first. speed: what
    prune_utils.deploy.benchmark wrote. terms: of the data, None = as known.
    """
    sections = {
        content["name"]: _what(content),
        "Data": _data(content, results, terms),
        "Scores": _scores(results),
        "Certificate": _certified(content),
        "Speed": _speed(speed),
        "Limits": _limits(content, results),
        "Use": _use(content),
    }
    body = "\n\n".join(
        f"{'#' if place == 0 else '##'} {title}\n\n{text}"
        for place, (title, text) in enumerate(sections.items())
    )
    return f"---\n{yaml.safe_dump(_head(content, results), sort_keys=False)}---\n\n{body}\n"


def _head(content: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """The metadata that hubs read."""
    config = content["config"]
    found: dict[str, Any] = {
        "library_name": "pytorch",
        "license": "other",
        "tags": ["multitask-learning", "pruning", "sparsity", *content["network"]["channels"]],
        "datasets": [config["data"]["dataset"]],
    }
    metrics = [
        {"type": f"{column.task} {column.metric}", "value": value}
        for result in results[:1]
        for column, value in result.values[result.protocol].items()
        if math.isfinite(value)
    ]
    if metrics:
        dataset = {"type": results[0].dataset, "name": results[0].dataset, "split": results[0].split}
        task = {"type": "multitask", "name": ", ".join(content["network"]["channels"])}
        entry = {"task": task, "dataset": dataset, "metrics": metrics}
        found["model-index"] = [{"name": content["name"], "results": [entry]}]
    return found


def _what(content: Mapping[str, Any]) -> str:
    network, config, mask = content["network"], content["config"], content["mask"]
    tasks = ", ".join(f"{task} ({count} outputs)" for task, count in network["channels"].items())
    weights = sum(value.numel() for value in content["state"].values() if value.is_floating_point())
    lines = [
        f"One network for {len(network['channels'])} tasks: {tasks}.",
        f"{network['backbone']}, width {network['width']:g}, {weights:,} values in all.",
    ]
    if mask:
        cert = content["certificate"]
        method = content.get("method", "not told")
        if "removed" in cert:
            left, whole = (cert["removed"][when]["channels"] for when in ("after", "before"))
            lines.append(f"{whole - left:,} of its {whole:,} channels were removed (`{method}`).")
        lines.append(
            f"{cert['ratio']:.4g} % of its prunable weights are exactly 0 (`{method}`): "
            f"{cert['kept']:,} of {cert['total']:,} are kept."
        )
    else:
        lines.append("It is dense: nothing is pruned.")
    steps = f"step {content['step']:,} of its training" if content["step"] else "before any training"
    return " ".join([*lines, f"The weights are those of {steps}, seed {config['run']['seed']}."])


def _data(content: Mapping[str, Any], results: Sequence[Result], terms: str | None) -> str:
    data, run = content["config"]["data"], content["config"]["run"]
    remarks = list(dict.fromkeys(remark for result in results for remark in result.remarks or ()))
    lines = [
        f"Data set `{data['dataset']}`, tasks {', '.join(data['tasks'])}, {data['classes']} classes, crops "
        f"of {data['crop']} pixels, protocol `{run['protocol']}`; weights chosen on `{run['select_on']}`."
    ]
    if remarks:
        lines.append(f"Apart from the data set's usual settings: {', '.join(remarks)}.")
    lines.append(
        "Terms of the data: " + (terms or TERMS.get(data["dataset"], "not known; ask whoever made the data."))
    )
    return "\n\n".join(lines)


def _scores(results: Sequence[Result]) -> str:
    if not results:
        return "None: no result of these weights lies beside the network. `eval_pruned_net.py` writes one."
    first = results[0]
    (entry,) = gather(results, first.protocol, setups())
    rows = [
        "| measure | mean | 95 % interval | seeds | best constant answer |",
        "| --- | --- | --- | --- | --- |",
    ]
    for column, by_seed in entry.values.items():
        values = [value for value in by_seed.values() if math.isfinite(value)]
        mean, deviation = spread(values)
        digits = decimals(column, [mean])
        interval = "one seed: none"
        if len(values) > 1:
            reach = quantile(LEVEL, len(values) - 1) * deviation / math.sqrt(len(values))
            interval = f"{mean - reach:.{digits}f} .. {mean + reach:.{digits}f}"
        constant, _ = spread(list(entry.constant.get(column, {}).values()))
        cells = (
            heading(column),
            number(mean, math.nan, digits),
            interval,
            str(len(values)),
            number(constant, math.nan, digits),
        )
        rows.append(f"| {' | '.join(cells)} |")
    note = f"On `{first.split}`, scored in protocol `{first.protocol}`; Student's interval over seeds."
    return "\n".join([*rows, "", note])


def _certified(content: Mapping[str, Any]) -> str:
    if not content["certificate"]:
        return "A dense network has none."
    return f"```\n{format_certificate(content['certificate'])}\n```"


def _speed(speed: Mapping[str, Any] | None) -> str:
    if speed is None:
        return "Not measured: `python3 -m prune_utils.deploy.benchmark` does, `--speed FILE` shows it here."
    rows = ["| runtime | batch | threads | median ms | deciles |", "| --- | --- | --- | --- | --- |"]
    for row in speed["rows"]:
        time = row["milliseconds"]
        rows.append(
            f"| {row['runtime']} | {row['batch']} | {row['threads']} | {time['median']:.1f} | "
            f"{time['low']:.1f} to {time['high']:.1f} |"
        )
    return "\n".join(rows)


def _limits(content: Mapping[str, Any], results: Sequence[Result]) -> str:
    warnings = content["certificate"]["warnings"] if content["certificate"] else []
    notes = dict.fromkeys(note for result in results for note in result.notes)
    lines = [
        "Trained and scored on one data set: other cameras, places and label sets were not tried.",
        "Zeros make the file small everywhere; they make it fast only in a runtime that skips them.",
        *warnings,
        *notes,
    ]
    return "\n".join(f"- {line}" for line in lines)


def _use(content: Mapping[str, Any]) -> str:
    dataset = content["config"]["data"]["dataset"]
    return (
        "With the code of this project:\n\n"
        "```python\nfrom workflow.saved import load_network\n\n"
        'network = load_network("FOLDER")  # a torch.nn.Module: image -> {task: prediction}\n```\n\n'
        f"```\npython3 eval_pruned_net.py --dataset {dataset} --weights FOLDER --data-root DATA\n```"
    )


def results_of(content: Mapping[str, Any], folders: Sequence[Path], split: str) -> list[Result]:
    """Results below the folders: that of these weights, and of the same experiment with other seeds, trained
    alike. None where that of these weights is not among them."""
    try:
        found = read_results(folders)
    except ValueError as error:
        if "no result lies below" in str(error):
            return []
        raise
    dataset, run = content["config"]["data"]["dataset"], content["config"]["run"]
    ratio = content["config"]["prune"]["ratio"] if content["mask"] else None
    label = label_of(content["name"], dataset, content.get("method", ""), ratio)
    wanted = (dataset, label, ratio, split, run["protocol"])
    same = [r for r in found if (r.dataset, r.label, r.ratio, r.split, r.protocol) == wanted]
    own = [r for r in same if r.seed == run["seed"] and r.step in (None, content["step"])]
    others = [r for r in same if r.seed != run["seed"] and own and _trained_alike(own[0], r)]
    return own + sorted(others, key=lambda result: result.seed)


def _trained_alike(own: Result, other: Result) -> bool:
    """Whether both are of the same settings, and of weights chosen in the same way."""
    apart = ROWS_OWN if own.ratio is None else SEED  # a dense network is not pruned
    same = not differing_settings([own, other], apart)
    return own.made.get("weights") == other.made.get("weights") and same


def write_hub(content: dict[str, Any], text: str, folder: Path, half: bool = False) -> list[tuple[Path, str]]:
    """The three files of a hub repository. ValueError if the folder holds another network or page."""
    place = folder / HUB_MODEL
    if place.exists() and read_saved(place)["name"] != content["name"]:
        raise ValueError(f"{folder} holds another network: give --hub a folder of its own")
    others = [name for name in ("README.md", HUB_CONFIG) if (folder / name).exists()]
    if others and not place.exists():
        raise ValueError(f"{folder} holds {others[0]} and no network: give --hub a folder of its own")
    write_saved(content, place, half)
    plain = {field: content[field] for field in ("name", "network", "certificate", "config", "step")}
    write_json(folder / HUB_CONFIG, {"model_type": "disparse-multitask", **plain})
    _write(folder / "README.md", text)
    return [
        (place, "kept values, packed positions, certificate"),
        (folder / HUB_CONFIG, "how the network is built, its certificate and settings"),
        (folder / "README.md", "the card"),
    ]


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main(words: list[str] | None = None) -> int:
    """The command; exit status 0, or 2 after one sentence about what is wrong."""
    parser = Parser(prog="python3 -m comparison.card", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", metavar="FILE", help="a saved network, .pth or .safetensors")
    parser.add_argument(
        "--results",
        nargs="+",
        metavar="DIR",
        help="where its results lie (beside FILE)",
    )
    parser.add_argument("--split", default="test", help="split whose scores are shown")
    parser.add_argument("--speed", metavar="FILE", help="NAME_speed.json of prune_utils.deploy.benchmark")
    parser.add_argument("--terms", metavar="TEXT", help="terms of the data, where they are not those known")
    parser.add_argument("--hub", metavar="DIR", help="also write the layout of a hub repository")
    parser.add_argument("--half", action="store_true", help="with --hub: kept weights in 16 bits")
    parser.add_argument("--out", metavar="FILE", help="where the card goes (FILE.md, or DIR/README.md)")
    asked = parser.parse_args(words)

    def work() -> int:
        if asked.half and not asked.hub:
            raise ValueError("--half is for the network of --hub DIR: give it, or leave it out")
        named = Path(asked.file)
        path = network_file(named)
        name = named.resolve().name if named.is_dir() else named.stem  # a folder's name has no ending
        beside = None if asked.hub else named.parent / f"{name}.md"
        out = Path(asked.out) if asked.out else beside
        hub = Path(asked.hub) / HUB_MODEL if asked.hub else None
        check_apart(hub, "--hub", path)
        check_apart(out, "--out", path, hub)
        content = read_saved(path)
        if not isinstance(content["config"], dict):
            raise ValueError(f"{path} does not say how it was trained: it has no field 'config'")
        results = results_of(content, [Path(f) for f in asked.results or [path.parent]], asked.split)
        shown = (asked.speed, *(result.path for result in results))
        check_apart(out, "--out", *shown, what="a file that is shown")
        text = card(content, results, _read_speed(asked.speed), asked.terms)
        files = write_hub(content, text, Path(asked.hub), asked.half) if asked.hub else []
        if out is not None:
            _write(out, text)
            files.append((out, "the card"))
        print(files_table(f"described {path} with {len(results)} results.", files))
        return 0

    return ending(work)


def _read_speed(path: str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    content = read_json(Path(path))
    try:
        _speed(content)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is not what prune_utils.deploy.benchmark writes") from None
    return content


if __name__ == "__main__":
    sys.exit(main())
