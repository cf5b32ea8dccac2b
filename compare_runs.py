# PYTHON_ARGCOMPLETE_OK
"""Collect results into one table, by setup, with seeds, the change against dense, and paired verdicts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common.choices import not_one_of
from common.command_line import Parser, described
from common.files import check_apart, replacing
from common.names import PROTOCOLS
from common.text import files_table
from configs.load import DATASETS
from workflow import terminal

if TYPE_CHECKING:
    from comparison.results import Result

EXAMPLES = """\
examples:
  python3 compare_runs.py outputs
  python3 compare_runs.py outputs/study --ratio 90 --against random --measure all
  python3 compare_runs.py outputs --ratio 90 --published --format latex
  python3 compare_runs.py outputs --ratio 95 --write tables/at95    (.md .tex .csv)
  python3 compare_runs.py outputs --html report.html --panels 4    (opens without a network)
  python3 compare_runs.py outputs --mix ratio,split   (any of dataset, protocol, split, ratio side by side)"""
ENDINGS = {"markdown": ".md", "latex": ".tex", "csv": ".csv"}


def arguments() -> argparse.Namespace:
    result = Parser(description=__doc__, epilog=EXAMPLES + terminal.load_plugins())
    result.add_argument("folders", nargs="+", metavar="DIR", help="result files are looked for below these")
    result.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="Python file that registers your own"
    )
    described(result.add_argument("--dataset", help="only results on this data set"), DATASETS)
    result.add_argument("--ratio", type=float, help="only this sparsity, percent, and the dense network")
    result.add_argument("--split", help="only results on this split")
    described(result.add_argument("--protocol", help="only networks trained in this protocol"), PROTOCOLS)
    result.add_argument(
        "--mix", default="", metavar="FIELDS", help="may differ: dataset,protocol,split,ratio"
    )
    measured = result.add_argument("--metric-protocol", metavar="NAME", help="conventions of the scores")
    described(measured, PROTOCOLS, "as the results were trained")
    result.add_argument("--published", action="store_true", help="also show the paper's figures (at 90 %%)")
    against = result.add_argument(
        "--against", metavar="LABEL", help="method to compare with; none = no verdicts"
    )
    described(against, unset="dense")
    measure = result.add_argument("--measure", metavar="NAME", help="judge by delta, 'seg mIoU', ... or all")
    described(measure, unset="delta")
    form = result.add_argument("--format", default="terminal", metavar="NAME", help="of the table")
    described(form, ("terminal", *ENDINGS))
    result.add_argument("--write", metavar="STEM", help="also write STEM.md, STEM.tex and STEM.csv")
    result.add_argument("--html", metavar="FILE", help="one page for a browser, instead of the table here")
    result.add_argument(
        "--panels", type=int, default=0, metavar="N", help="with --html: predictions on so many images"
    )
    result.add_argument("--curves", metavar="FILE", help="also draw the runs' learning curves, a PNG")
    return result.parse_args()


def write_page(results: list[Result], path: Path, panels: int) -> Path:
    """Everything as one page for a browser. ValueError where plotly is missing."""
    try:
        import plotly  # noqa: F401
    except ImportError:
        raise ValueError("--html needs plotly: `python3 -m pip install -r requirements-report.txt`") from None
    from comparison.page.build import page

    text = page(results, f"{', '.join(sorted({r.dataset for r in results}))}: {len(results)} results", panels)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def curves_file(result: Result) -> Path:
    """Where launch_training.py keeps the learning curves of the run behind a result."""
    return result.path.parent / f"{result.name}_training.csv"


def check_targets(asked: argparse.Namespace, results: list[Result]) -> None:
    """ValueError where a file to be written is a result, or the learning curves of its run."""
    targets = [("--html", asked.html), ("--curves", asked.curves)]
    targets += [("--write", asked.write + ending) for ending in ENDINGS.values() if asked.write]
    read = [file for result in results for file in (result.path, curves_file(result))]
    for said, path in targets:
        check_apart(path, said, *read, what="a file of these runs")


def draw(results: list[Result], path: Path) -> Path:
    """The learning curves of the runs behind these results, one picture."""
    from comparison.results import mixed
    from training.curves import draw_curves, read_curves

    seeds = len({result.seed for result in results}) > 1
    apart = [field for field in mixed(results) if field != "ratio"]  # which stands in every title
    runs, protocols = {}, {}
    for result in results:
        ratio = "" if result.ratio is None else f" {result.ratio:g} %"
        marks = "".join(f" [{getattr(result, field)}]" for field in apart)
        title = f"{result.label}{ratio}{marks}" + (f", seed {result.seed}" if seeds else "")
        runs[title] = read_curves(curves_file(result))
        protocols[title] = result.protocol
    return draw_curves(runs, path, protocols)


def main() -> None:
    asked = arguments()
    if asked.format not in ("terminal", *ENDINGS):
        raise ValueError(not_one_of("--format", asked.format, ("terminal", *ENDINGS)))

    if asked.panels < 0:
        raise ValueError(f"--panels {asked.panels} is not a number of images, 0 or more")
    if asked.panels and not asked.html:
        raise ValueError(f"--panels {asked.panels} is for the page of --html FILE: give it, or leave it out")
    if asked.html and asked.format != "terminal":
        raise ValueError(
            f"--html shows no table here, --format {asked.format} is for one: leave it out, --write writes "
            "every format"
        )

    from comparison.report import Options, report
    from comparison.results import read_results, select

    if asked.html and not asked.write:
        for flag in ("metric_protocol", "mix", "published", "against", "measure"):
            if getattr(asked, flag):
                said = f"--{flag.replace('_', '-')}"
                raise ValueError(
                    f"--html shows everything as it was trained, {said} is for tables: leave it out"
                )
    wanted = {field: getattr(asked, field) for field in ("dataset", "protocol", "split", "ratio")}
    found = read_results(asked.folders)
    check_targets(asked, found)
    results = select(found, wanted)
    mix = tuple(field.strip() for field in asked.mix.split(",") if field.strip())
    options = Options(asked.metric_protocol, mix, asked.published, asked.against, asked.measure)
    made = report(results, options) if asked.write or not asked.html else None  # which a page does not need
    files = []
    if asked.html:
        path = write_page(results, Path(asked.html), asked.panels)
        files.append((path, "the report page, for any browser"))
    elif made:
        coloured = {"colour": sys.stdout.isatty()} if asked.format == "terminal" else {}
        print(made.text(asked.format, **coloured))
    if asked.curves:
        path = draw(results, Path(asked.curves))
        files.append((path, "learning curves: validation loss and first measure of every task"))
    if asked.write and made:
        for form, ending in ENDINGS.items():
            path = Path(asked.write + ending)
            with replacing(path) as temporary:
                temporary.write_text(made.text(form) + "\n", encoding="utf-8")
            files.append((path, f"the same as {form}"))
    if files:
        print(files_table(f"compared {len(results)} results.", files))


if __name__ == "__main__":
    terminal.run(main)
