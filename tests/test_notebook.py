"""iou_visualize.ipynb runs from top to bottom, on its own files and on others, and its outputs are clean."""

import re
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from agreement.analysis import Sample, describe_curve
from agreement.overlap import overlap
from common.files import write_json

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "iou_visualize.ipynb"


def result(tasks):
    """A small agreement file: three layers, two ratios, two seeds; nobody keeps any of the last layer."""
    layers = [
        {"name": f"backbone.{name}", "unit": unit, "stage": stage, "shortcut": "shortcut" in name}
        | {"owners": tasks, "weights": 64}
        for name, unit, stage in (
            ("stem.conv", "stem", "stem"),
            ("stages.1.0.shortcut.0", "stages.1.0", "stages.1"),
            ("stages.1.0.conv2", "stages.1.0", "stages.1"),
        )
    ]

    def sample(keep, seed):
        chance = torch.Generator().manual_seed(seed)
        masks = [
            {task: torch.rand(64, generator=chance) < share for task in tasks} for share in (keep, keep, 0.0)
        ]
        overlaps = {row["name"]: overlap(of) for row, of in zip(layers, masks, strict=True)}
        density = {
            task: {name: of.density(task) for name, of in overlaps.items()} | {f"heads.{task}.conv": keep}
            for task in tasks
        }
        return Sample(overlaps, density, 1 - keep)

    curves = [
        {"keep_ratio": keep} | describe_curve([sample(keep, 0), sample(keep, 1)], layers, tasks)
        for keep in (0.2, 0.6)
    ]
    return {"dataset": "rooms", "tasks": tasks, "seeds": [0, 1], "layers": layers, "curves": curves}


@pytest.mark.timeout(180)
def test_the_notebook_runs_without_warnings(tmp_path, monkeypatch):
    write_json(tmp_path / "three_iou.json", result(["a", "b", "c"]))
    write_json(tmp_path / "two_iou.json", result(["a", "b"]))
    monkeypatch.setenv("IOU_FOLDER", str(tmp_path))
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 1 + 2 + 2 + 1  # bars, pairs of two files, densities of two, sparsity


def test_the_committed_notebook_is_clean():
    assert NOTEBOOK.stat().st_size < 1.5e6
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code)
    for cell in code:
        for output in cell.outputs:
            assert output.output_type in ("display_data", "stream") and output.get("name") != "stderr"
            words = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not re.search(r"(^|[\s'\"])/\w+/", words)  # no path of a machine
