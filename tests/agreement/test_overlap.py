"""Agreement on masks small enough to count by hand."""

import pytest
import torch

from agreement.overlap import between, layer_overlaps, mask_of_file, overlap, own_mask, together


def bits(text):
    return torch.tensor([letter == "1" for letter in text])


def test_two_tasks():
    found = overlap({"a": bits("11100000"), "b": bits("01110000")})
    assert (found.by_all, found.by_any) == (2, 4)
    assert found.agreement == 0.5
    assert found.matrix(["a", "b"]) == [[1.0, 0.5], [0.5, 1.0]]
    assert found.density("a") == 3 / 8


def test_three_tasks_need_all_three():
    # kept by exactly two: positions 1 and 3; by all: position 2; by any: 0 to 4
    found = overlap({"a": bits("111100"), "b": bits("011000"), "c": bits("001110")})
    assert (found.by_all, found.by_any) == (1, 5)
    assert found.agreement == 1 / 5
    assert found.matrix(["a", "b", "c"]) == [[1.0, 2 / 4, 2 / 5], [2 / 4, 1.0, 1 / 4], [2 / 5, 1 / 4, 1.0]]
    assert found.matrix(["c", "a"]) == [[1.0, 2 / 5], [2 / 5, 1.0]]


def test_five_tasks():
    masks = {name: bits("1" * (k + 1) + "0" * (7 - k)) for k, name in enumerate("abcde")}
    found = overlap(masks)
    assert (found.by_all, found.by_any) == (1, 5)
    assert found.matrix("abcde")[0] == [1 / 1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]


def test_chance_is_the_expectation_of_random_masks():
    found = overlap({"a": bits("1100"), "b": bits("0110")})
    assert found.chance == pytest.approx((1 / 4) / (3 / 4))
    dense = overlap({"a": bits("1111"), "b": bits("1111")})
    assert dense.chance == dense.agreement == 1.0


def test_nothing_kept_has_no_agreement():
    found = overlap({"a": bits("0000"), "b": bits("0000")})
    assert found.agreement is None and found.chance is None
    assert found.matrix("ab") == [[None, None], [None, None]]


def test_counts_of_layers_add_up():
    one = overlap({"a": bits("1100"), "b": bits("0110")})
    other = overlap({"a": bits("11"), "b": bits("11")})
    whole = together([one, other])
    assert whole.agreement == 3 / 5
    assert whole.density("a") == 4 / 6
    assert whole.matrix("ab")[0][1] == 3 / 5


def test_layers_are_compared_among_their_owners_only():
    masks = {
        "a": {"trunk": bits("1100"), "branch": bits("10"), "head a": bits("1")},
        "b": {"trunk": bits("1000"), "branch": bits("11"), "head b": bits("1")},
        "c": {"trunk": bits("1000"), "head c": bits("1")},
    }
    found = layer_overlaps(masks)
    assert list(found) == ["trunk", "branch"]
    assert (found["trunk"].agreement, found["branch"].agreement) == (1 / 2, 1 / 2)
    whole = together(found.values())
    assert whole.agreement == 2 / 4
    # c owns no weight of the branch: its pairs count the trunk alone
    assert whole.matrix("abc")[2] == [1 / 2, 1.0, 1.0]
    assert whole.matrix("abc")[0][1] == 2 / 4


def test_own_mask_is_exact_and_breaks_ties_by_position():
    scores = {"one": torch.tensor([3.0, 1.0, 1.0]), "two": torch.tensor([1.0, 1.0, 0.0, 2.0])}
    mask = own_mask(scores, 0.6)  # int(7 * 0.6) == 4
    assert mask["one"].tolist() == [True, True, True]
    assert mask["two"].tolist() == [False, False, False, True]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="keep ratio 0 is not"):
        own_mask({"one": torch.ones(3)}, 0)
    with pytest.raises(ValueError, match="none of its 3 weights"):
        own_mask({"one": torch.ones(3)}, 0.1)
    with pytest.raises(ValueError, match="unequal shapes"):
        overlap({"a": bits("11"), "b": bits("111")})
    with pytest.raises(ValueError, match="at least one task"):
        overlap({})


# ------------------------------------------------------------------ two masks of files
KEPT = torch.tensor([True, True, False, False])


def test_intersection_over_union_by_room():
    one = {"backbone.a.weight": KEPT, "heads.seg.b.weight": KEPT, "heads.sn.b.weight": ~(KEPT | ~KEPT)}
    two = {"backbone.a.weight": KEPT, "heads.seg.b.weight": KEPT.roll(1), "heads.sn.b.weight": KEPT & ~KEPT}
    assert between(one, two) == {
        "all": 3 / 5,
        "backbone": 1.0,
        "heads.seg": 1 / 3,
        "heads.sn": 1.0,
    }


def test_masks_of_different_networks_are_refused():
    with pytest.raises(ValueError, match="differ in layer b.weight"):
        between({"b.weight": KEPT}, {"b.weight": KEPT[:2]})
    with pytest.raises(ValueError, match="differ in layer b.weight"):
        between({"b.weight": KEPT}, {})


def test_files_without_a_mask_are_refused(tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "plain.pth")
    with pytest.raises(ValueError, match="plain.pth holds no mask"):
        mask_of_file(str(tmp_path / "plain.pth"))
