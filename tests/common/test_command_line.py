"""What every script's command line does: near names, completion, commands that can be typed where one is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common import ROOT
from common.command_line import Parser, described, ending
from common.commands import module, script

# methods that score each task and that create_pruned_net.py makes
CREATED = ("fisher", "force", "grasp", "pt", "static")


def made():
    result = Parser(prog="it", description="does it")
    result.add_argument("--layout", choices=("rooms", "streets"), default="rooms", help="which")
    result.add_argument("--share", type=int, default=90, help="percent, 100 % is all".replace("%", "%%"))
    described(result.add_argument("--kind", help="of file"), ("sparse", "onnx"), "100 % dense")
    return result


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--layuot", "rooms"], "there is no flag --layuot; did you mean --layout?"),
        (["--zzz"], "there is no flag --zzz, --help shows what is"),
        (["--layout=room"], "--layout 'room' is not one of rooms, streets; did you mean 'rooms'?"),
        (["stray"], "'stray' belongs to no flag"),
    ],
)
def test_wrong_words_are_one_sentence(words, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        made().parse_args(words)
    assert (end.value.code, capsys.readouterr().err) == (2, f"error: {sentence}\n")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("--size 1x1 is below 32x32"), 2, "error: --size 1x1 is below 32x32"),
        (KeyboardInterrupt(), 130, "stopped: start it again"),
    ],
)
def test_a_command_ends_with_a_sentence_and_a_status(error, code, said, capsys):
    def work():
        raise error

    assert ending(work) == code
    assert capsys.readouterr().err == f"{said}\n"


def test_help_lines_end_with_choices_and_default():
    lines = [" ".join(line.split()) for line in made().format_help().splitlines()]
    assert "--layout TEXT which (rooms, streets; default: rooms)" in lines
    assert "--share INT percent, 100 % is all (default: 90)" in lines
    assert "--kind TEXT of file (sparse, onnx; default: 100 % dense)" in lines


def test_commands_can_be_typed_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert script("launch_training.py") == "python3 launch_training.py"
    assert module("dataloaders.check") == "python3 -m dataloaders.check"
    monkeypatch.chdir(tmp_path)
    assert script("launch_training.py") == f"python3 {ROOT}/launch_training.py"
    assert module("dataloaders.check") == f"PYTHONPATH={ROOT} python3 -m dataloaders.check"


def test_advice_from_another_folder_works_there(tmp_path):
    said = run(sys.executable, str(ROOT / "launch_training.py"), "--data-root", "nowhere", cwd=tmp_path)
    advice = f"`PYTHONPATH={ROOT} python3 -m dataloaders.synthetic DEST --layout nyuv2 --images 24`"
    assert said.returncode == 2 and advice in said.stderr


def test_a_script_without_torch_says_what_to_do(tmp_path):
    # -S: no packages, as in a system's own python
    said = run(sys.executable, "-S", str(ROOT / "launch_training.py"), "--help", cwd=tmp_path)
    assert said.returncode == 2 and said.stdout == ""
    assert said.stderr.startswith(f"error: {sys.executable} has no package torch: ")
    assert f"`source {ROOT}/.venv/bin/activate`" in said.stderr and said.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["comparison.sheet", "agreement.overlap", "benchmarks.evaluation"])
def test_a_module_without_torch_says_what_to_do(name):
    said = run(sys.executable, "-S", "-m", name, "--help", cwd=ROOT)
    assert said.returncode == 2 and said.stdout == ""
    assert said.stderr.startswith(f"error: {sys.executable} has no package torch: ")


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, **more)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("--metho", {"--method"}),
        ("--method disparse_sta", {"disparse_static"}),
        ("--set optim.step_", {"optim.step_every=", "optim.step_factor="}),
        ("--budget ", {"global", "erk", "uniform", "waterfill"}),
    ],
)
def test_shells_complete(typed, offered, tmp_path):
    pytest.importorskip("argcomplete")
    line, answer = f"launch_training.py {typed}", tmp_path / "answer"
    shell = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "IFS": "\n",
        "_ARGCOMPLETE_IFS": "\n",
    }
    run(sys.executable, "launch_training.py", cwd=ROOT, env=os.environ | shell)
    assert {word.strip() for word in answer.read_text().split("\n")} == offered


# presses Tab behind the words that it is given: calls what the shell would call for them
TAB = """
source ~/.bash_completion
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_TYPE=9
COMP_POINT=${#COMP_LINE}
called=$(complete -p -D)
called=${called#*-F }
${called%% *} "$1" "${!#}" "${COMP_WORDS[-2]}" 2> /dev/null
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user's folder where completion is switched on as docs/running.md says."""
    pytest.importorskip("argcomplete")
    if not shutil.which("bash"):
        pytest.skip("no bash")
    folder = tmp_path_factory.mktemp("home")
    switch = "from argcomplete.scripts.activate_global_python_argcomplete import main; main()"
    done = run(sys.executable, "-c", switch, "--user", "--yes", env=os.environ | {"HOME": str(folder)})
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("launch_training.py --check", ["--checkpoint-every"]),
        ("create_pruned_net.py --method disparse_", [f"disparse_{kind}" for kind in CREATED]),
        ("reproduce.py --set dynamic.e", ["dynamic.every="]),
        ("-m dataloaders.synthetic rooms --layout ", ["cityscapes", "nyuv2", "taskonomy"]),
        ("-m dataloaders.prepare nyuv2 x y --cl", ["--classes"]),
    ],
)
def test_bash_completes(typed, offered, home):
    words = ["python3", *typed.split(" ")]
    found = run(
        "bash", "--norc", "-c", TAB, "bash", *words, cwd=ROOT,
        env=os.environ | {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert sorted(word.strip() for word in found.stdout.splitlines()) == offered


def test_scripts_say_that_they_complete():
    modules = ("synthetic", "check", "cache", "prepare/__main__")
    others = [f"dataloaders/{name}.py" for name in modules] + ["agreement/overlap.py"]
    others += [f"comparison/{name}.py" for name in ("sheet", "card", "planned")]
    for path in [*Path(ROOT).glob("*.py"), *(Path(ROOT) / name for name in others)]:
        assert path.read_text().startswith("# PYTHON_ARGCOMPLETE_OK\n"), path.name
