"""Every benchmark in turn; their tables replace those in docs/performance.md.

It takes about half an hour on two cores, and wants a machine that does nothing else: every table starts with
the load average.

usage: python3 -m benchmarks.all [--only masks,startup]
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from common.command_line import Parser

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
COMMANDS = {
    "startup": "benchmarks.startup --rounds 3",
    "masks": "benchmarks.masks --rounds 2",
    "crop": "benchmarks.masks --rounds 1 --case nyuv2 --crop 321",
    "choosing": "benchmarks.choosing --rounds 1",
    "training": "benchmarks.training --steps 20",
    "throughput": "benchmarks.throughput --rounds 1 --steps 3",
    "small": "benchmarks.throughput --crop 64 --batch 16 --steps 8 --rounds 1 --ways "
    "default,channels-first,adam-in-parts,all-taps,torch-dropout",
    "evaluation": "benchmarks.evaluation",
    "loaders": "benchmarks.loaders",
    "growth": "benchmarks.growth --rounds 1",
}


def put_in(page: str, name: str, text: str) -> str:
    """The page with the table between the marks of `name` replaced. ValueError where there are none."""
    command = f"<!-- not run: benchmarks.all does it -->\n```\n$ python3 -m {COMMANDS[name]}\n"
    block = f"<!-- {name} -->\n{command}{text.strip()}\n```\n<!-- end of {name} -->"
    marks = re.compile(f"<!-- {name} -->.*?<!-- end of {name} -->", re.DOTALL)
    page, found = marks.subn(lambda _: block, page)
    if found != 1:
        raise ValueError(f"the page has {found} places for the table {name!r}, not one")
    return page


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(COMMANDS), help="some of: " + ", ".join(COMMANDS))
    asked = parser.parse_args()
    for name in asked.only.split(","):
        if name not in COMMANDS:
            parser.error(f"benchmark {name!r} is not one of {', '.join(COMMANDS)}")
        begin = time.perf_counter()
        command = [sys.executable, "-m", *COMMANDS[name].split()]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        PAGE.write_text(put_in(PAGE.read_text(encoding="utf-8"), name, done.stdout), encoding="utf-8")
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
