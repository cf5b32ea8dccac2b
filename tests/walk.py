"""Every command and snippet of README and docs, in order, from a fresh clone, none edited by hand.

    python3 -m tests.walk FOLDER [--pages README.md,docs/data.md] [--without "make demo"]

clones into FOLDER and says how long each took.

Blocks of a page between ``` are commands (or, where lines begin with `$ `, commands and what they print) or
Python. A comment before a block says what differs: `<!-- not run: WHY -->`, or `<!-- goes on -->` for Python
that goes on where the block before ended. Python that begins with `# NAME.py` is that file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "docs/data.md",
    "docs/methods.md",
    "docs/deploy.md",
    "docs/running.md",
    "docs/agreement.md",
)
BLOCK = re.compile(r"(?:<!-- (?P<remark>[^\n]*?) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```", re.M | re.S)


@dataclass
class Step:
    """One thing to do. code: Python; else `text` is a command. prints: what it shows, None = not told."""

    page: str
    line: int
    text: str
    code: bool = False
    prints: list[str] | None = None
    skipped: str = ""


def steps(page: str) -> list[Step]:
    """What a page says to do, in order; what is not run says why in `skipped`."""
    source, found = (ROOT / page).read_text(encoding="utf-8"), []
    for match in BLOCK.finditer(source):
        line = source[: match.start("text")].count("\n") + 1
        remark, kind, text = match["remark"] or "", match["kind"], match["text"]
        if kind == "bibtex":
            continue
        if kind == "python":
            if remark == "goes on":
                text = found[-1].text + "\n" + text
            found.append(Step(page, line, text, code=True, skipped=_why(remark)))
        else:
            found += [Step(page, line, *one, skipped=_why(remark)) for one in _commands(text)]
    return found


def _why(remark: str) -> str:
    return remark.removeprefix("not run: ") if remark.startswith("not run: ") else ""


def _commands(text: str) -> Iterator[tuple[str, bool, list[str] | None]]:
    """(command, False, what it prints) of a block of commands."""
    lines = text.replace("\\\n", " ").splitlines()
    if not any(line.startswith("$ ") for line in lines):
        yield from ((line, False, None) for line in lines if line.strip())
        return
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield lines[start][2:], False, lines[start + 1 : end]


def shape(line: str) -> str:
    """A line without what may differ from machine to machine: numbers, rules and spaces."""
    return " ".join(re.sub(r"-{3,}", "", re.sub(r"\d[\d.,]*", "#", line)).split())


def unlike(expected: list[str], printed: str) -> str:
    """The first expected line that the output lacks, in order; "" where all are there. "..." is any lines."""
    rest = iter([shape(line) for line in printed.splitlines()])
    for line in expected:
        if line.strip() not in ("", "...") and shape(line) not in rest:
            return line
    return ""


def clone(folder: Path) -> Path:
    """A fresh clone with an environment that has been made already: this one."""
    tree = folder / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tree)], check=True)
    (tree / ".venv").symlink_to(sys.prefix)
    made = folder / "env"  # what make takes for installed
    (made / "bin").mkdir(parents=True)
    python = made / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    future = time.time() + 1e6
    for name in (".installed", ".deploy"):
        (made / name).touch()
        os.utime(made / name, (future, future))
    return tree


def do(step: Step, tree: Path, number: int) -> tuple[float, str]:
    """Seconds that a step took, and what went wrong; "" where nothing did."""
    command = ["bash", "-c", step.text]
    if step.code:
        named = re.match(r"# (\w+\.py)\n", step.text)
        path = tree / (named[1] if named else f"snippet{number}.py")
        path.write_text(step.text)
        command = [sys.executable, path.name]
    begin = time.monotonic()
    variables = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VENV": str(tree.parent / "env"),
    }
    done = subprocess.run(
        command,
        cwd=tree,
        env=os.environ | variables | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - begin
    if done.returncode:
        return seconds, f"ended with {done.returncode}: {(done.stderr or done.stdout)[-1500:]}"
    missing = unlike(step.prints or [], done.stdout + done.stderr)
    return seconds, f"did not print {missing!r} but:\n{done.stdout}" if missing else ""


def main() -> None:
    folder, chosen = Path(sys.argv[1]), PAGES
    if "--pages" in sys.argv:
        chosen = tuple(sys.argv[sys.argv.index("--pages") + 1].split(","))
    without = sys.argv[sys.argv.index("--without") + 1] if "--without" in sys.argv else None
    begin = time.monotonic()
    tree = clone(folder)
    print(f"{time.monotonic() - begin:8.1f} s  cloned", flush=True)
    for number, step in enumerate(step for page in chosen for step in steps(page)):
        first = f"{step.page}:{step.line} " + step.text.strip().splitlines()[0][:110]
        if step.text == without:
            step.skipped = "left out"
        if step.skipped:
            print(f"       -    {first}  (not run: {step.skipped})", flush=True)
            continue
        seconds, trouble = do(step, tree, number)
        since = time.monotonic() - begin
        print(f"{seconds:8.1f} s  {first}  (at {since:.0f} s){'  FAILED' if trouble else ''}", flush=True)
        if trouble:
            print(trouble, flush=True)


if __name__ == "__main__":
    main()
