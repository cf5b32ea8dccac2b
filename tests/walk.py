"""Every command and snippet of README and docs, in order, from a fresh clone, none edited by hand.

    python3 -m tests.walk FOLDER

clones into FOLDER and says how long each took. What is not run is rehearsed: a command of this program by its
own parser (tests/parsed.py), make by its dry run, pytest by collecting, lists of packages by being there. So
is every command inside a sentence, between single `.

Blocks of a page between ``` are commands (or, where lines begin with `$ `, commands and what they print) or
Python. A comment before a block says what differs: `<!-- not run: WHY -->`, `<!-- long: HOW LONG -->` for
what runs with --long only, or `<!-- goes on -->` for Python that goes on where the block before ended.
Python that begins with `# NAME.py` is that file.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from common.choices import not_one_of
from common.command_line import Parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "docs/data.md",
    "docs/methods.md",
    "docs/granularity.md",
    "docs/deploy.md",
    "docs/running.md",
    "docs/agreement.md",
    "docs/library.md",
    "docs/networks.md",
    "docs/mtcnn.md",
    "docs/results.md",
    "docs/study.md",
    "docs/performance.md",
    "docs/contract.md",
)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
COMMAND = re.compile(r"(python3|make|torchrun|\w+\.py) [^.]")
WRITTEN = re.compile(r"--(?:png|markdown|curves|html|out) (\S+)")  # flags whose file is there afterwards
STANDS_FOR = {
    "N": "2",
    "M": "disparse_static",
    "FILE": "outputs/first/best_nyuv2_disparse_static_90.pth",
}  # letters in sentences -> a word of that kind
BLOCK = re.compile(r"(?:<!-- (?P<remark>[^\n]*?) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```", re.M | re.S)


@dataclass
class Step:
    """One thing to do. code: Python; else `text` is a command. prints: what it shows, None = not told.
    skipped: why it is not run but rehearsed; long: the same, unless one has the time."""

    page: str
    line: int
    text: str
    code: bool = False
    prints: list[str] | None = None
    skipped: str = ""
    long: str = ""


def steps(page: str) -> list[Step]:
    """What a page says to do, in order; what is not run says why in `skipped` or `long`."""
    source, found = (ROOT / page).read_text(encoding="utf-8"), []
    end = 0
    for match in BLOCK.finditer(source):
        found += _spans(page, source, end, match.start())
        end = match.end()
        line = source[: match.start("text")].count("\n") + 1
        remark, kind, text = match["remark"] or "", match["kind"], match["text"]
        if kind == "bibtex":
            continue
        skipped, long = (_after(start, remark) for start in ("not run: ", "long: "))
        if kind == "python":
            if remark == "goes on":
                text = next(step.text for step in reversed(found) if step.code) + "\n" + text
            found.append(Step(page, line, text, code=True, skipped=skipped, long=long))
        else:
            found += [Step(page, line, *one, skipped, long) for one in _commands(text)]
    return [*found, *_spans(page, source, end, len(source))]


def _after(start: str, remark: str) -> str:
    return remark.removeprefix(start) if remark.startswith(start) else ""


def _spans(page: str, source: str, begin: int, end: int) -> Iterator[Step]:
    """The commands inside sentences."""
    for match in SPAN.finditer(source, begin, end):
        text = " ".join(match[1].split())
        if COMMAND.match(text) and "..." not in text:
            line = source[: match.start()].count("\n") + 1
            yield Step(page, line, text, skipped="in a sentence")


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


def rehearsal(text: str) -> list[str]:
    """What tries a command without doing it."""
    words = [STANDS_FOR.get(word, word).split("|")[0] for word in shlex.split(text, comments=True)]
    while "=" in words[0]:  # variables of the environment
        words.pop(0)
    if words[0] == "torchrun":
        words = ["python3", *words[words.index(next(word for word in words if word.endswith(".py"))) :]]
    if words[0].endswith(".py"):
        words.insert(0, "python3")
    if words[0] == "make":
        return ["make", "-n", *words[1:]]
    if words[:3] == ["python3", "-m", "pip"]:
        return ["ls", *(name for flag, name in pairwise(words) if flag == "-r")]
    if words[:3] == ["python3", "-m", "pytest"]:
        return [sys.executable, *words[1:], "--collect-only", "-q"]
    if words[:2] == ["python3", "-c"]:
        return [sys.executable, "-c", "import sys; compile(sys.argv[1], '-c', 'exec')", words[2]]
    if words[0] == "python3":
        return [sys.executable, "-m", "tests.parsed", *words[1:]]
    raise ValueError(f"nothing tries {text!r} without doing it")


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
    seconds, trouble, printed = _call(command, tree)
    missing = "" if trouble else unlike(step.prints or [], printed)
    if missing:
        return seconds, f"did not print {missing!r} but:\n{printed}"
    for name in WRITTEN.findall(step.text):
        if not trouble and not (tree / name).exists():
            trouble = f"did not write {name}"
    return seconds, trouble


def rehearse(step: Step, tree: Path) -> tuple[float, str]:
    """The same for a step that is not run."""
    if step.code:
        compile(step.text, step.page, "exec")
        return 0.0, ""
    seconds, trouble, _ = _call(rehearsal(step.text), tree)
    # what was not run before has left no files: the words were read all the same
    return seconds, "" if re.search(
        "error: (there is no file|data folder .* does not exist)", trouble
    ) else trouble


def _call(command: list[str], tree: Path) -> tuple[float, str, str]:
    """Seconds that a command took in the clone, what went wrong, what it printed."""
    variables = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VENV": str(tree.parent / "env"),
        "PYTHONPATH": str(tree),
    }
    begin = time.monotonic()
    done = subprocess.run(command, cwd=tree, env=os.environ | variables, capture_output=True, text=True)
    seconds = time.monotonic() - begin
    trouble = (
        f"ended with {done.returncode}: {(done.stderr or done.stdout)[-1500:]}" if done.returncode else ""
    )
    return seconds, trouble, done.stdout + done.stderr


def main() -> None:
    parser = Parser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to clone into")
    parser.add_argument("--pages", default=",".join(PAGES), metavar="LIST", help="the pages to walk")
    parser.add_argument("--without", metavar="COMMAND", help="a command to try and not run")
    parser.add_argument("--long", action="store_true", help="run what takes long, too")
    asked = parser.parse_args()
    pages = asked.pages.split(",")
    for page in pages:
        if not (ROOT / page).is_file():
            parser.error(not_one_of("--pages", page, PAGES))
    if (asked.folder / "clone").exists():
        parser.error(f"{asked.folder} holds a clone already: name another FOLDER")
    begin, failed = time.monotonic(), 0
    tree = clone(asked.folder)
    print(f"{time.monotonic() - begin:8.1f} s  cloned", flush=True)
    for number, step in enumerate(step for page in pages for step in steps(page)):
        first = f"{step.page}:{step.line} " + step.text.strip().splitlines()[0][:110]
        why = "left out" if step.text == asked.without else step.skipped
        if step.long and not asked.long:
            why = f"takes {step.long}"
        seconds, trouble = rehearse(step, tree) if why else do(step, tree, number)
        since = time.monotonic() - begin
        first += f"  (tried, not run: {why})" if why else f"  (at {since:.0f} s)"
        print(f"{seconds:8.1f} s  {first}{'  FAILED' if trouble else ''}", flush=True)
        if trouble:
            failed += 1
            print(trouble, flush=True)
    sys.exit(f"{failed} failed" if failed else 0)


if __name__ == "__main__":
    main()
