"""The command line of every script and module: short help first, near names, shell completion.

`--help` shows the common flags, `--help-all` all of them; each line ends with the choices and the default.
An error is one sentence and status 2. Where the optional package argcomplete is installed, shells complete
flags, names and files (docs/running.md says how to switch it on).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from .choices import nearest, not_one_of, printable

PLAIN: tuple[object, ...] = (None, False, [], (), "", argparse.SUPPRESS)  # defaults that say nothing


class Lines(argparse.RawDescriptionHelpFormatter):
    """Help lines that end with the choices and the default."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        more = _more(action).replace("%", "%%")
        return f"{text} ({more})" if more else text

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], Any]:
        # choices stand at the end of the line, not where the value goes
        shown = default_metavar if action.metavar is None else action.metavar
        return lambda count: shown if isinstance(shown, tuple) else (shown,) * count

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return str(getattr(action.type, "__name__", "text")).removeprefix("parse_").upper()


def _more(action: argparse.Action) -> str:
    """What a help line says beside its text: "a, b; default: a"."""
    names, default = getattr(action, "names", action.choices), getattr(action, "unset", None)
    if default is None and action.default not in PLAIN and not isinstance(action, _HELPS):
        default = str(action.default)
    parts = [", ".join(map(str, names))] if names else []
    if callable(default):
        default = default()
    return "; ".join([*parts, f"default: {default}"] if default else parts)


def described(
    action: argparse.Action, names: Iterable[str] = (), unset: str | Callable[[], str] | None = None
) -> None:
    """Say more about a flag that is checked later than by the parser.

    names: its choices, for help and shells. unset: what happens without it; a function is called when help is
    shown.
    """
    vars(action).update({"names": tuple(names)} if names else {}, **({"unset": unset} if unset else {}))
    if names:
        vars(action)["completer"] = lambda **_: tuple(names)


class _HelpAll(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: Any, *_: Any) -> None:
        print(parser.full_help(), end="")
        parser.exit()


_HELPS = (argparse._HelpAction, _HelpAll)


class Parser(argparse.ArgumentParser):
    """Reads --num_batches as --num-batches; an error is one sentence and status 2.

    common: flags that `--help` shows; none = there is nothing else to show. more: what only `--help-all`
    shows at its end.
    """

    def __init__(
        self, *words: Any, common: Sequence[str] = (), more: Callable[[], str] | None = None, **options: Any
    ) -> None:
        helps = options.pop("add_help", True)
        given: dict[str, Any] = {"formatter_class": Lines, "allow_abbrev": False, "prog": _called()} | options
        super().__init__(*words, **given | {"add_help": False})
        self.common, self.more = tuple(common), more
        if helps:
            self.add_argument("-h", "--help", action="help", help="show this and exit")
        if common:
            self.add_argument("--help-all", action=_HelpAll, help="show every flag and setting")

    def format_help(self) -> str:
        if not self.common:
            return self.full_help()
        known = {name: action for action in self._actions for name in action.option_strings or [action.dest]}
        shown = [known[name] for name in self.common]
        formatter = self._get_formatter()
        formatter.add_usage(f"{self.prog} [FLAGS]", [], [])
        formatter.add_text(self.description)
        formatter.start_section("common flags")
        formatter.add_arguments(shown)
        formatter.end_section()
        rest = len([action for action in self._actions if action not in shown])
        formatter.add_text(f"--help-all shows {rest} more flags, by group, and every setting.")
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def full_help(self) -> str:
        """All flags by group, and what `more` has to say."""
        text = super().format_help()
        return f"{text}\n{self.more()}\n" if self.more else text

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args([_dashed(word) for word in args], namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        if "_ARGCOMPLETE" in os.environ:  # a shell asks what may follow; this ends the process
            import argcomplete

            argcomplete.autocomplete(self)
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            unknown = next((word for word in rest if word.startswith("-")), rest[0]).partition("=")[0]
            flags = [name for action in self._actions for name in action.option_strings]
            near = nearest(unknown, flags)
            self.error(
                f"there is no flag {unknown}{f'; did you mean {near}?' if near else ', --help shows what is'}"
                if unknown.startswith("-")
                else f"'{unknown}' belongs to no flag"
            )
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = "/".join(action.option_strings) or action.metavar or action.dest
            self.error(not_one_of(str(what), str(value), map(str, action.choices)))

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _called() -> str:
    """How this program was called."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return f"python3 -m {spec.name.removesuffix('.__main__')}"
    return f"python3 {sys.argv[0]}"


def _dashed(word: str) -> str:
    if not word.startswith("--"):
        return word
    flag, sign, value = word.partition("=")
    return flag.replace("_", "-") + sign + value


def ending(work: Callable[[], int]) -> int:
    """The exit status of a command: its own, 2 after one sentence about a mistake, 130 after Ctrl-C."""
    try:
        return work()
    except KeyboardInterrupt:
        print("stopped: start it again", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ValueError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
