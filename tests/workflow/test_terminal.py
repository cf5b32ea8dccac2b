import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from configs.schema import Data
from workflow import terminal
from workflow.terminal import check_data, check_files

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_there_passes(tmp_path):
    file = tmp_path / "weights.pth"
    file.touch()
    check_files(None, str(file))
    check_data(Data(root=str(tmp_path)))


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*other.pth"):
        check_files(None, str(tmp_path / "other.pth"))
    with pytest.raises(FileNotFoundError, match="data folder .*nowhere does not exist: Get NYUv2"):
        check_data(Data(root=str(tmp_path / "nowhere")))


SCRIPTS = ["launch_training", "create_pruned_net", "eval_pruned_net", "iou_analysis", "reproduce"]
QUICK = [(script, words) for script in SCRIPTS for words in (["--help"], ["--set", "optim.speed=3"])]
QUICK += [(script, ["--data-root", "nowhere"]) for script in SCRIPTS[:2] + SCRIPTS[3:4]]
QUICK += [("eval_pruned_net", ["--weights", "nowhere.pth"])]


LATE = [
    (script, ["--dest", dest, "--data-root", "."], "--dest file")
    for script in ("launch_training", "create_pruned_net", "iou_analysis", "reproduce")
    for dest in ("file", "file/deep")
]
LATE += [
    (script, ["--export-published", path, "--data-root", "."], "the file ")
    for script in ("launch_training", "create_pruned_net")
    for path in ("file/net.pth", "folder")
]
LATE += [("export_net", ["--format", "onnx"], "--format onnx needs the package onnx:")]
LATE += [("eval_pruned_net", ["--engine", "onnx"], "--engine onnx needs the package onnx:")]
LATE += [
    (
        "eval_pruned_net",
        ["--engine", "dense", "--precision", "bf16-mixed"],
        "--engine dense computes in 32 bits",
    )
]
LATE += [("iou_analysis", ["--data-root", "."], "needs the package matplotlib:")]


@pytest.mark.parametrize(("script", "words", "said"), LATE, ids=lambda part: str(part).strip("[]"))
def test_what_cannot_work_in_the_end_is_said_at_the_beginning(script, words, said, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    missing = said.partition("package ")[2].rstrip(":")
    code = (
        "import sys, runpy, importlib.util as u\n"
        f"find = u.find_spec; u.find_spec = lambda name: None if name == {missing!r} else find(name)\n"
        f"sys.argv = ['{script}.py', *{words}]\n"
        f"try: runpy.run_path({str(ROOT / script)!r} + '.py', run_name='__main__')\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)\n"
    )
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    error, loaded = done.stderr.splitlines()
    assert (done.returncode, loaded) == (2, "False")
    assert error.startswith("error: ") and said in error
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize(("script", "words"), QUICK, ids=lambda part: str(part).strip("[]"))
def test_answers_without_importing_torch(script, words, tmp_path):
    code = (
        f"import sys, runpy; sys.argv = ['{script}.py', *{words}]\n"
        f"try: runpy.run_path({str(ROOT / script)!r} + '.py', run_name='__main__')\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (0 if words == ["--help"] else 2)
    assert done.stderr.splitlines()[-1] == "False"


PATIENT = """
import sys, time
from workflow import terminal

def main():
    try:
        print("ready", flush=True)
        for _ in range(6000):  # one long sleep would be slept out where the signal comes just before it
            time.sleep(0.01)
    finally:
        print("tidied", flush=True)

terminal.run(main)
"""


SAME = "launch_training.py --overwrite --seed 1"
LIMITED = "create_pruned_net.py --max-drop a=1 --overwrite"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (SAME, "launch_training.py --seed 1 --resume"),
        ("launch_training.py --resume", "launch_training.py --resume"),
        (LIMITED, None),
        ("create_pruned_net.py --max-drop=a=1 --overwrite", None),
        ("eval_pruned_net.py --overwrite", "eval_pruned_net.py --overwrite"),
    ],
)
def test_what_goes_on_is_not_told_to_start_anew(words, said, monkeypatch, capsys):
    monkeypatch.setattr(terminal.sys, "argv", words.split())
    terminal.STARTED_ANEW.set()
    terminal._say_again("stopped")
    assert capsys.readouterr().err == f"stopped; to go on: python3 {said or f'{words} --resume'}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [(SAME, SAME), (LIMITED, LIMITED), (f"{LIMITED} --resume", f"{LIMITED} --resume")]
    + [("launch_training.py --seed 1", "launch_training.py --seed 1 --resume")],
)
def test_what_has_replaced_nothing_yet_is_to_be_asked_for_again(words, said, monkeypatch, capsys):
    """--resume alone would hand out what --overwrite was to replace."""
    monkeypatch.setattr(terminal.sys, "argv", words.split())
    terminal.STARTED_ANEW.clear()
    terminal._say_again("stopped")
    assert capsys.readouterr().err == f"stopped; to go on: python3 {said}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
@pytest.mark.parametrize(("name", "more"), [("launch_training.py", " --resume"), ("compare_runs.py", "")])
def test_whatever_is_stopped_tidies_up_and_says_how_to_go_on(number, name, more, tmp_path):
    (tmp_path / name).write_text(PATIENT)
    command = [sys.executable, name, "--dest", "a b"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + number, "tidied\n")
    assert said == f"stopped; to go on: python3 {name} --dest 'a b'{more}\n"
