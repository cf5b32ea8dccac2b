"""How the scripts begin and end: what the disk alone can tell is said before torch is imported, and a user's
mistake is one sentence instead of a traceback.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NoReturn

from common.choices import not_one_of, printable
from common.command_line import Parser
from common.files import check_file, check_folder
from common.interrupt import ONE_REQUEST, STARTED_ANEW, Interrupted
from common.names import BASELINE, network_file
from configs.schema import Data
from dataloaders import DATASETS
from dataloaders.index import existing_folder
from prune_utils.methods import METHODS, Method

DEBUG = "DISPARSE_DEBUG"  # set it to see the traceback behind an error
RESUMED = ("create_pruned_net.py", "launch_training.py")  # with --resume; the others do the same again
PATIENCE = 5.0  # seconds that another process than the first waits before it speaks


def check_files(*files: str | None) -> None:
    """FileNotFoundError for a file that the command line names and that is not there; None = not named.

    A folder with a network in it (as `comparison.card --hub` writes) is there.
    """
    for file in files:
        if file is not None and not network_file(Path(file)).is_file():
            raise FileNotFoundError(f"there is no file {file}")


def check_targets(dest: str, *files: str | None) -> None:
    """OSError unless the folder and the files that a command is to write can be written; None = not asked."""
    check_folder(dest, "--dest")
    for file in files:
        if file is not None:
            check_file(file, "the file")


def check_packages(what: str, *names: str) -> None:
    """ValueError, saying how to install it, for an optional package that is not there; `what` needs it."""
    for name in names:
        if find_spec(name) is None:
            raise ValueError(f"{what} needs the package {name}: python3 -m pip install {name}")


def check_data(data: Data) -> None:
    """FileNotFoundError, saying how to get the data, for a data folder that is not there."""
    existing_folder(data.root, DATASETS[data.dataset].how_to_get)


def load_plugins() -> str:
    """Run the user's own files, which the command line names, before any other word of it is looked at.

    They register criteria, budgets, arbiters and methods. Returns lines about them for the help page, "" for
    none. FileNotFoundError or ValueError for one that is missing or fails.
    """
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--plugin", action="append", default=[])
    files, lines = first.parse_known_args()[0].plugin, []
    if files:
        from prune_utils.registering import load_plugin

        lines = [f"  {file}: {', '.join(load_plugin(file)) or 'nothing'}" for file in files]
    return "\n".join(["\n\nplugins have registered:", *lines]) if lines else ""


def find_method(name: str) -> Method | None:
    """The row of that name, None for the dense network; ValueError with the choices."""
    if name not in METHODS and name != BASELINE:
        raise ValueError(not_one_of("method", name, (BASELINE, *METHODS)))
    return METHODS.get(name)


def run(main: Callable[[], None]) -> None:
    """Call a script's main. ValueError and OSError are the user's to mend: one sentence, status 2.

    Of several processes the first one speaks; when it fails it ends the others.
    """
    STARTED_ANEW.clear()
    try:
        with _told():
            main()
    except Interrupted as stop:
        if _rank():
            sys.exit(0)  # not a failure: whoever watches this process must not end the first one
        _say_again(str(stop))
        sys.exit(stop.code)
    except KeyboardInterrupt as stop:
        if not _rank():
            _say_again("stopped")
        sys.exit(128 + getattr(stop, "number", signal.SIGINT))
    except BrokenPipeError:  # whoever read our output, head for example, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None or os.environ.get(DEBUG):
            _end_others()
            raise
        _fail(sentence)


def unmet(sentence: str) -> NoReturn:
    """End a script that did its work and found that what was asked is not so: one sentence, status 1."""
    print(f"error: {printable(sentence)}", file=sys.stderr)
    sys.exit(1)


class _Told(KeyboardInterrupt):
    """A signal to end that nobody inside waited for; `number` of it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _told() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP unwind what is under way as Ctrl-C does: no half folder stays. A later
    second one ends the process at once; one that is ignored, as nohup does, stays ignored."""

    told: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if told and time.monotonic() - told[0] < ONE_REQUEST:
            return
        if told:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        told.append(time.monotonic())
        raise _Told(number)

    wanted = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL
    ]
    if threading.current_thread() is not threading.main_thread():
        wanted = []
    for number in wanted:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in wanted:
            signal.signal(number, signal.SIG_DFL)


def _say_again(what: str) -> None:
    """What happened, and the command that goes on: the same where --overwrite has replaced nothing yet."""
    words = list(sys.argv)
    again = "--overwrite" in words and "--resume" not in words and not STARTED_ANEW.is_set()
    if Path(words[0]).name in RESUMED and not again:
        # a contract takes both; else --overwrite has done its work, and would start anew
        if not any(word.split("=")[0] == "--max-drop" for word in words):
            words = [word for word in words if word != "--overwrite"]
        words += [] if "--resume" in words else ["--resume"]
    print(f"{what}; to go on: {shlex.join(['python3', *words])}", file=sys.stderr)


def _sentence(error: Exception) -> str | None:
    """What to say about an error that is not a fault of this program; None for one that is."""
    if isinstance(error, (ValueError, OSError)):
        return printable(" ".join(str(error).split()))  # file names may hold what a terminal acts on
    if "torch" not in sys.modules:
        return None
    import torch

    from .processes import GONE, lost_peer

    if isinstance(error, torch.OutOfMemoryError):
        return "the device has too little memory: --accumulate 2 (4, 8, ...) computes a batch in parts"
    if lost_peer(error):
        return GONE
    return None


def _fail(sentence: str) -> None:
    number = _rank()
    if number:
        time.sleep(PATIENCE)  # the first process mostly finds the same, says so and ends this one
    print(f"error (process {number}): {sentence}" if number else f"error: {sentence}", file=sys.stderr)
    _end_others()
    if _several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)  # the usual end would wait for processes that wait for this one
    sys.exit(2)


def _rank() -> int:
    if "workflow.processes" not in sys.modules:
        return 0
    from .processes import rank

    return rank()


def _several() -> bool:
    if "workflow.processes" not in sys.modules:
        return False
    from .processes import several

    return several()


def _end_others() -> None:
    if "workflow.processes" in sys.modules:
        from .processes import end_children

        end_children()
