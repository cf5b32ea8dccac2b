"""Agreement files are checked before anything is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agreement.reading import read_result
from tests.hostile.faults import copied
from tests.hostile.formats import agreement

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("dataset", ["nyuv2", "taskonomy"])
def test_files_of_the_program_are_read(dataset):
    path = ROOT / "docs/agreement" / f"{dataset}_iou.json"
    assert read_result(path) == json.loads(path.read_text())


CURVE = agreement()["curves"][0]
WRONG = {
    "field 'curves.0.sparsity' is 1.5, not a share": ("sparsity", 1.5),
    "field 'curves.0.layers' has not one value for each": ("layers", CURVE["layers"] * 2),
    "field 'curves.0.pairs.tasks' are other tasks": ("pairs", CURVE["pairs"] | {"tasks": ["a"]}),
    "field 'curves.0.density' is of other tasks": ("density", {"seg": {}}),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_does_not_fit_is_named(said, tmp_path):
    name, value = WRONG[said]
    content = copied(agreement())
    content["curves"][0][name] = value
    path = tmp_path / "nyuv2_iou.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"nyuv2_iou.json is a damaged agreement file: {said}"):
        read_result(path)
