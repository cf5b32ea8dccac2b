"""README and docs: what they say to type works from a fresh clone and prints what they show (slow)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs.arguments import FLAGS, SWITCHES
from tests.walk import PAGES, ROOT, clone, do, rehearsal, rehearse, shape, steps, unlike

OTHERS = {"--find-links"}  # flags of programs that are not ours: pip


def test_every_page_is_walked():
    assert sorted([*(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")), "README.md"]) == sorted(
        PAGES
    )


def test_every_flag_on_a_page_is_one():
    code = "".join(path.read_text() for path in ROOT.rglob("*.py") if ".venv" not in path.parts)
    known = {f"--{name}" for name in FLAGS | SWITCHES} | set(re.findall(r'"(--[a-z][a-z-]*)"', code)) | OTHERS
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        named = set(re.findall(r"(?<![\w<!-])--[a-z][a-z_-]*[a-z]", text))
        assert not {flag for flag in named if flag.replace("_", "-") not in known}, page


@pytest.mark.parametrize(
    ("said", "tried"),
    [
        ("A=3 python3 create_pruned_net.py --seed N  # why", "-m tests.parsed create_pruned_net.py --seed 2"),
        ("torchrun --nproc-per-node 2 launch_training.py -h", "-m tests.parsed launch_training.py -h"),
        ("python3 -m pytest -m slow tests", "-m pytest -m slow tests --collect-only -q"),
        ("eval_pruned_net.py --engine dense|onnx", "-m tests.parsed eval_pruned_net.py --engine dense"),
    ],
)
def test_what_is_not_run_is_tried(said, tried):
    assert rehearsal(said) == [sys.executable, *tried.split()]


def test_what_is_tried_without_python():
    assert rehearsal("make docs") == ["make", "-n", "docs"]
    assert rehearsal("python3 -m pip install -r a.txt -r b.txt") == ["ls", "a.txt", "b.txt"]
    with pytest.raises(ValueError, match="nothing tries 'rm -r x' without doing it"):
        rehearsal("rm -r x")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("launch_training.py --method baseline --lr 3 --print-config", 0, "optim.lr"),
        (
            "launch_training.py --method baseline --lrr 3",
            2,
            "error: there is no flag --lrr; did you mean --lr?",
        ),
        ("launch_training.py --method baseline --lr x", 2, "error: --lr needs a number, not 'x'"),
        ("reproduce.py --methods snipe", 2, "error: method 'snipe' is not one of"),
        ("compare_runs.py no/such/folder", 0, ""),
        ("-m dataloaders.synthetic no/such/folder --layout nyu", 2, "error: --layout 'nyu' is not one of"),
        ("-m common.text", 1, "the command read no words"),
    ],
)
def test_a_command_is_read_and_not_done(words, status, said, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.parsed", *words.split()], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == status and said in done.stdout + done.stderr
    assert not (ROOT / "no").exists()


def test_blocks_become_steps():
    readme = steps("README.md")
    texts = [step.text for step in readme]
    assert texts[:2] == ["make demo"] * 2 and [step.skipped for step in readme[:2]] == ["in a sentence", ""]
    code = [step for step in readme if step.code]
    assert len(code) == 2 and code[1].text.startswith(code[0].text)
    create = next(step for step in readme if step.text.startswith("python3 create_pruned_net.py"))
    assert create.prints[0].startswith("sparsity 90.0000 %")
    assert any(step.skipped for step in readme)


def test_outputs_are_compared_by_shape():
    shown = ["sparsity 90 % (kept 1,234)", "...", "", "backbone  29,805  16.98%"]
    printed = "sparsity 90.0000 % (kept 99)\nanything\n\nbackbone   1   2%\nmore"
    assert unlike(shown, printed) == ""
    assert unlike([*shown, "head"], printed) == "head"
    assert unlike(["more", "anything"], printed) == "anything"  # in order
    assert shape("--------  ---") == ""


def test_a_file_of_a_command_that_was_not_run_is_not_missed():
    step = next(step for step in steps("docs/running.md") if step.text == "eval_pruned_net.py --weights FILE")
    assert rehearse(step, ROOT)[1] == ""
    step.text = "eval_pruned_net.py --wieghts FILE"
    assert "error: there is no flag --wieghts; did you mean --weights?" in rehearse(step, ROOT)[1]


def test_commands_in_sentences_are_found():
    agreement = [step.text for step in steps("docs/agreement.md") if step.skipped == "in a sentence"]
    assert agreement == ["launch_training.py --branch-after stages.1.3"]


def test_modules_that_the_pages_call_do_something():
    called = {
        match[1] for page in PAGES for step in steps(page) for match in re.finditer(r"-m ([\w.]+)", step.text)
    }
    ours = {ROOT.joinpath(*name.split(".")) for name in called}
    files = [
        next(filter(Path.is_file, (path / "__main__.py", path.with_suffix(".py"))), None) for path in ours
    ]
    named = [path for path in files if path]
    assert len(named) > 20
    assert not [path for path in named if '\nif __name__ == "__main__":\n' not in path.read_text()]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_command_and_snippet_works_from_a_fresh_clone(tmp_path):
    tree, troubles = clone(tmp_path), []
    todo = [step for page in PAGES for step in steps(page)]
    for number, step in enumerate(todo):
        _, trouble = rehearse(step, tree) if step.skipped or step.long else do(step, tree, number)
        troubles += [f"{step.page}:{step.line} {step.text}\n{trouble}"] if trouble else []
    assert not troubles, "\n".join(troubles)
