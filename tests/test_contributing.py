"""CONTRIBUTING.md's additions, typed into a copy of the tree as its text says, then used and tested there.

One copy gets all four; each alone in a copy of its own is slow. All of a copy runs in one process.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.dataloaders.small import numbers, nyuv2, save
from tests.scripts import TINY

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("A criterion", "A method", "A task", "A data set")
EDIT = re.compile(
    r"(?P<what>Create|In)\s+`(?P<path>[^`]+)`(?:,\s+(?P<how>below|above|instead\s+of)\s+`(?P<line>[^`]+)`)?:"
    r"\n\n```\w+\n(?P<text>.*?)```\n",
    re.DOTALL,
)
# what a newcomer types next, and which tests of the tables must then still pass
USES = {
    "A criterion": [
        "create_pruned_net.py --method disparse_static --criterion fourth_power",
        "launch_training.py --method disparse_static",
        "eval_pruned_net.py --method disparse_static",
    ],
    "A method": [
        "create_pruned_net.py --method erk_votes",
        "launch_training.py --method erk_votes",
        "eval_pruned_net.py --method erk_votes",
        "launch_training.py -h",
    ],
    "A task": [
        "create_pruned_net.py --method disparse_static --tasks seg,sn,outline --name lines",
        "launch_training.py --method disparse_static --tasks seg,sn,outline --name lines",
        "eval_pruned_net.py --method disparse_static --name lines",
    ],
    "A data set": [
        "create_pruned_net.py --dataset streets --method disparse_static",
        "launch_training.py --dataset streets --method disparse_static",
        "eval_pruned_net.py --dataset streets --method disparse_static",
    ],
}
SHORT = "--set optim.iterations=4 --set prune.num_batches=1 --set run.preflight=false"
TABLES = [
    "prune_utils/test_methods.py",
    "tasks/test_registry.py",
    "configs",
    "dataloaders/test_dataloaders.py",
    "dataloaders/test_nyuv2.py",
    "test_imports.py",
]


class Edit(NamedTuple):
    """One block of the text. how: "create", or where the text goes, seen from the line."""

    path: str
    how: str
    line: str
    text: str

    def apply(self, root: Path) -> None:
        path = root / self.path
        if self.how == "create":
            assert not path.exists(), f"{self.path} is there already"
            path.write_text(self.text)
            return
        lines = path.read_text().splitlines(keepends=True)
        places = [number for number, line in enumerate(lines) if line.startswith(self.line)]
        assert places, f"{self.path} has no line {self.line!r}"
        first = places[0]
        last = first + (self.how != "above")
        lines[first if self.how != "below" else last : last] = [self.text]
        path.write_text("".join(lines))


def edits(section: str) -> list[Edit]:
    """What the text of a section says to type, in its order."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (part,) = re.findall(rf"^## {section}\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    found = [
        Edit(m["path"], "create" if m["what"] == "Create" else m["how"].split()[0], m["line"], m["text"])
        for m in EDIT.finditer(part)
    ]
    assert len(found) == part.count("```") // 2 > 0, f"a block of {section!r} has no place to go"
    return found


def copy_with(sections: tuple[str, ...], folder: Path) -> Path:
    """A copy of the tree in which the sections' text was typed, and a tiny folder of each data set."""
    leave = shutil.ignore_patterns(".*", "__pycache__", "docs", "outputs", "data", "*.ipynb", "build")
    tree = Path(shutil.copytree(ROOT, folder / "tree", ignore=leave))
    for section in sections:
        for edit in edits(section):
            edit.apply(tree)
    return tree


def streets(root: Path) -> Path:
    records = [[f"{plane}/{k}.png" for plane in ("image", "classes", "edges")] for k in range(4)]
    for k, (image, classes, strength) in enumerate(records):
        save(root / image, numbers(k, 256, (40, 48, 3)))
        save(root / classes, numbers(k, 12, (40, 48)))
        save(root / strength, numbers(k, 256, (40, 48)))
    (root / "streets.json").write_text(json.dumps({"train": records[1:], "test": records[:1]}))
    return root


# run in the copy: the scripts one after the other, then tests
DRIVER = """
import runpy, sys
import pytest, torch
torch.set_num_threads(1)
commands, tests = eval(sys.argv[1])
for words in commands:
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            sys.exit(f"{' '.join(words)} ended with {end.code}")
sys.exit(pytest.main(["-x", "-p", "no:cacheprovider", *tests]))
"""


def commands(section: str, folder: Path) -> list[list[str]]:
    """The section's uses as words, with tiny settings and the tiny data set that fits."""
    data = "streets" if section == "A data set" else "nyuv2"
    where = ["--data-root", str(folder / data), "--dest", str(folder / "out")]
    found = []
    for use in USES[section]:
        script, *words = use.split()
        settings = [*TINY.split(), *SHORT.split()] if script != "eval_pruned_net.py" else ["--device", "cpu"]
        found.append([script, *words, *settings, *where])
    return found


def type_and_use(sections: tuple[str, ...], folder: Path) -> None:
    tree = copy_with(sections, folder)
    nyuv2(folder / "nyuv2")
    streets(folder / "streets")
    for words in (["check", "--fix"], ["format"]):
        subprocess.run([sys.executable, "-m", "ruff", *words, "-q", "."], cwd=tree, check=True)
    work = [words for section in sections for words in commands(section, folder)]
    tests = [f"tests/{name}" for name in TABLES]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, repr((work, tests))], cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-4000:]
    assert " passed" in done.stdout


def test_all_additions_together(tmp_path):
    type_and_use(SECTIONS, tmp_path)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"nyuv2_erk_votes_90.json", "lines.json", "streets_disparse_static_90.json"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_each_addition_alone(section, tmp_path):
    type_and_use((section,), tmp_path)
