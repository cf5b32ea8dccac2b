"""Agreement of two masks."""

import pytest
import torch

from agreement.overlap import mask_of_file, overlap

KEPT = torch.tensor([True, True, False, False])


def test_intersection_over_union_by_room():
    one = {"backbone.a.weight": KEPT, "heads.seg.b.weight": KEPT, "heads.sn.b.weight": ~(KEPT | ~KEPT)}
    two = {"backbone.a.weight": KEPT, "heads.seg.b.weight": KEPT.roll(1), "heads.sn.b.weight": KEPT & ~KEPT}
    assert overlap(one, two) == {
        "all": 3 / 5,
        "backbone": 1.0,
        "heads.seg": 1 / 3,
        "heads.sn": 1.0,
    }


def test_masks_of_different_networks_are_refused():
    with pytest.raises(ValueError, match="differ in layer b.weight"):
        overlap({"b.weight": KEPT}, {"b.weight": KEPT[:2]})
    with pytest.raises(ValueError, match="differ in layer b.weight"):
        overlap({"b.weight": KEPT}, {})


def test_files_without_a_mask_are_refused(tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "plain.pth")
    with pytest.raises(ValueError, match="plain.pth holds no mask"):
        mask_of_file(str(tmp_path / "plain.pth"))
