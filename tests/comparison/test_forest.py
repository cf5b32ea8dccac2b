"""The picture of a tier: labels in lines, a panel for each measure, nothing of a tier that lacks a run."""

import cv2

from comparison import planned
from comparison.forest import wrapped

from .test_planned import pilot, plan, tier  # noqa: F401  plan is a fixture


def test_a_label_is_broken_before_a_setting():
    assert wrapped("snip") == "snip"
    label = "disparse_gmp:gradual.every=0.05:gradual.num_batches=10:voters=joint"
    assert wrapped(label).split("\n") == [
        "disparse_gmp:gradual.every=0.05",
        ":gradual.num_batches=10",
        ":voters=joint",
    ]


def test_a_tier_is_drawn_when_it_is_complete(plan, tmp_path, capsys):  # noqa: F811
    words = [str(plan), str(tmp_path / "out"), "--pages", str(tmp_path / "drawn")]
    pilot(tmp_path / "out")
    assert planned.main(words) == 0
    assert not list((tmp_path / "drawn").iterdir())
    tier(tmp_path / "out")
    capsys.readouterr()
    assert planned.main(words) == 0
    path = tmp_path / "drawn" / "tier_1.png"
    assert str(path) in capsys.readouterr().out
    assert (cv2.imread(str(path)) < 100).any()
    page = (tmp_path / "drawn" / "tier_1.md").read_text()
    assert page.startswith("# nyuv2, 90 %, 2 seeds: tier 1\n") and "(tier_1.png)" in page
    assert "primary family at a glance" in page and "claims" not in page


def test_a_file_in_the_folders_place_is_refused(plan, tmp_path, capsys):  # noqa: F811
    tier(tmp_path / "out")
    (tmp_path / "drawn").write_text("")
    assert planned.main([str(plan), str(tmp_path / "out"), "--pages", str(tmp_path / "drawn")]) == 2
    assert "--pages" in capsys.readouterr().err
