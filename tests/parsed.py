"""A command's own parser, and nothing behind it: whether every flag and setting of a command line is right.

    python3 -m tests.parsed SCRIPT.py WORD ...
    python3 -m tests.parsed -m MODULE WORD ...

runs the command up to where its words are read. One that has --dry-run or --print-config goes on as if that
had been said, which reads settings and names as well; every other ends there.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from typing import Any

from common.command_line import Parser

LOOKED: list[str] = []  # parsers that have read a command line
ASK = ("dry_run", "print_config")  # what a command has that does nothing but look


def stop_behind(parser: type[argparse.ArgumentParser]) -> None:
    """From here on, reading a whole command line ends the process, or asks for what only looks."""
    read = parser.parse_args

    def look(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        found = read(self, args, namespace)
        LOOKED.append(self.prog)
        asked = next((name for name in ASK if hasattr(found, name)), None)
        if asked is None:
            sys.exit(0)
        setattr(found, asked, True)
        return found

    parser.parse_args = look  # type: ignore[method-assign, assignment]


def main() -> None:
    words = sys.argv[1:]
    module = words[0] == "-m"
    words = words[1:] if module else words
    for parser in (argparse.ArgumentParser, Parser):
        stop_behind(parser)
    sys.argv = words
    if module:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")
    if not LOOKED:
        sys.exit("the command read no words")


if __name__ == "__main__":
    main()
