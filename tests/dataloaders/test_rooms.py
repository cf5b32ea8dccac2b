"""How the files of this room stand to each other; a fourth data set needs a file, a row and a YAML."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.dataloaders import small

ROOT = Path(__file__).resolve().parents[2]

STREET = """
import numpy as np
from dataloaders.base import Layout, Plane
from dataloaders.files import read_colour, read_grey8
from tasks.segmentation import segmentation


def make_tasks(names, data, protocol):
    return {name: segmentation(data.classes) for name in names}


def make_layout(data, protocol):
    def labels(stored):
        return stored[None].astype(np.int64), stored < data.classes

    return Layout(2, Plane(0, read_colour, lambda stored: stored), {"seg": Plane(1, read_grey8, labels)})
"""
ROW = '_ROWS = (\n    DataSet("street", "street.json", ("seg",), "dataloaders.street", "Take photographs."),'
RUN = """
import sys
from dataloaders.cache import main as cache
from dataloaders.check import main as check
words = ["street", sys.argv[1], "--workers", "1"]
sys.exit(check(words) or cache([*words, sys.argv[2]]))
"""


def test_a_fourth_data_set_is_checked_and_cached(tmp_path):
    project, root = tmp_path / "project", tmp_path / "street"
    for room in ("configs", "dataloaders"):
        shutil.copytree(ROOT / room, project / room)
    for room in ("common", "tasks", "prune_utils"):
        (project / room).symlink_to(ROOT / room)
    registry = project / "dataloaders/__init__.py"
    registry.write_text(registry.read_text().replace("_ROWS = (", ROW))
    (project / "dataloaders/street.py").write_text(STREET)
    (project / "configs/street.yaml").write_text("data: {dataset: street, tasks: [seg], classes: 5}\n")
    small.save(root / "0.png", small.numbers(0, 256, (*small.SIZE, 3)))
    small.save(root / "0_labels.png", np.full(small.SIZE, 3, np.uint8))
    (root / "street.json").write_text('{"train": [["0.png", "0_labels.png"]]}')
    done = subprocess.run(
        [sys.executable, "-c", RUN, root, tmp_path / "cache"], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "no file is broken" in done.stdout and "   3 100.00%" in done.stdout
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2


def test_no_file_comes_back_to_itself_by_imports():
    """Imports inside functions count, too."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "dataloaders").rglob("*.py")
    }
    needs = {}
    for name, path in files.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                parts = {f"{node.module}.{alias.name}" for alias in node.names} & set(files)
                found |= parts or {node.module} & set(files)
        needs[name] = found
    while needs:
        leaves = {name for name, found in needs.items() if not found & set(needs)}
        assert leaves, f"a circle among {sorted(needs)}"
        needs = {name: found for name, found in needs.items() if name not in leaves}
