"""Collect results into one table, by setup, with seeds, the change against dense, and paired verdicts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import replacing
from common.text import files_table
from configs.arguments import Parser
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
    result = Parser(
        description=__doc__,
        epilog=EXAMPLES + terminal.load_plugins(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("folders", nargs="+", metavar="DIR", help="result files are looked for below these")
    result.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="Python file that registers your own"
    )
    result.add_argument("--dataset", help="only results on this data set")
    result.add_argument("--ratio", type=float, help="only this sparsity, percent, and the dense network")
    result.add_argument("--split", help="only results on this split")
    result.add_argument("--protocol", help="only networks trained in this protocol")
    result.add_argument(
        "--mix", default="", metavar="FIELDS", help="may differ: dataset,protocol,split,ratio"
    )
    result.add_argument(
        "--metric-protocol", metavar="NAME", help="paper or metric, default: as the results were trained"
    )
    result.add_argument("--published", action="store_true", help="also show the paper's figures (at 90 %%)")
    result.add_argument(
        "--against", metavar="LABEL", help="method to compare with (dense); none = no verdicts"
    )
    result.add_argument("--measure", metavar="NAME", help="judge by delta (default), 'seg mIoU', ... or all")
    result.add_argument("--format", default="terminal", metavar="NAME", help="terminal, markdown, latex, csv")
    result.add_argument("--write", metavar="STEM", help="also write STEM.md, STEM.tex and STEM.csv")
    result.add_argument("--html", metavar="FILE", help="write everything as one page for a browser instead")
    result.add_argument(
        "--panels", type=int, default=0, metavar="N", help="with --html: predictions on so many images"
    )
    return result.parse_args()


def write_page(results: list[Result], path: Path, panels: int) -> None:
    try:
        import plotly  # noqa: F401
    except ImportError:
        raise ValueError("--html needs plotly: `python3 -m pip install -r requirements-report.txt`") from None
    from comparison.page.build import page

    text = page(results, f"{', '.join(sorted({r.dataset for r in results}))}: {len(results)} results", panels)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(files_table(f"compared {len(results)} results.", [(path, "the report page, for any browser")]))


def main() -> None:
    asked = arguments()
    if asked.format not in ("terminal", *ENDINGS):
        raise ValueError(f"--format '{asked.format}' is not one of terminal, {', '.join(ENDINGS)}")

    if asked.panels < 0:
        raise ValueError(f"--panels {asked.panels} is not a number of images, 0 or more")

    from comparison.report import Options, report
    from comparison.results import read_results, select

    wanted = {field: getattr(asked, field) for field in ("dataset", "protocol", "split", "ratio")}
    results = select(read_results(asked.folders), wanted)
    if asked.html:
        write_page(results, Path(asked.html), asked.panels)
        return
    mix = tuple(field.strip() for field in asked.mix.split(",") if field.strip())
    made = report(results, Options(asked.metric_protocol, mix, asked.published, asked.against, asked.measure))
    coloured = {"colour": sys.stdout.isatty()} if asked.format == "terminal" else {}
    print(made.text(asked.format, **coloured))
    if asked.write:
        files = []
        for form, ending in ENDINGS.items():
            path = Path(asked.write + ending)
            with replacing(path) as temporary:
                temporary.write_text(made.text(form) + "\n", encoding="utf-8")
            files.append((path, f"the same as {form}"))
        print(files_table(f"compared {len(results)} results.", files))


if __name__ == "__main__":
    terminal.run(main)
