"""Taskonomy from small downloads in the official orders of folders."""

import json
import os

import cv2
import numpy as np
import pytest

from dataloaders.conventions import official_name
from dataloaders.prepare.__main__ import main
from dataloaders.prepare.taskonomy import DOMAINS, TINY, read_splits


def download(folder, building, views=2, order="{building}/{domain}", label=3):
    """The files of a building; labels: half `label`, a quarter 1, a quarter void."""
    seg = np.full((8, 8), label, np.uint8)
    seg[:, :2], seg[:, 2:4] = 0, 1
    for domain in DOMAINS:
        place = folder / order.format(building=building, domain=domain)
        place.mkdir(parents=True, exist_ok=True)
        plane = seg if domain == "segment_semantic" else np.full((8, 8), 7, np.uint16)
        for view in range(views):
            cv2.imwrite(str(place / official_name(f"point_{view}_view_0", domain)), plane)


def run(folder, dest, *options):
    return main(["taskonomy", str(folder), str(dest), "--workers", "1", *options])


def test_index_links_and_weights(tmp_path):
    source, dest = tmp_path / "official", tmp_path / "out"
    download(source, "hanson")
    download(source, "ihlen", views=1)
    assert run(source, dest) == 0
    index = json.loads((dest / "taskonomy.json").read_text())
    assert {split: len(records) for split, records in index.items()} == {"train": 2, "test": 1}
    assert index["test"][0][1] == "ihlen/segment_semantic/point_0_view_0_domain_segmentsemantic.png"
    linked = dest / "rgb/taskonomy/hanson/point_1_view_0_domain_rgb.png"
    assert linked.stat().st_ino == (source / "hanson/rgb/point_1_view_0_domain_rgb.png").stat().st_ino
    weights = np.load(dest / "semseg_prior_factor.npy")
    assert weights.dtype == np.float32 and weights.shape == (17,)
    np.testing.assert_allclose(weights[:4], [1.5, 1, 0.75, 1])  # 16 and 32 pixels, median 24


@pytest.mark.parametrize(
    "order", ["{domain}/taskonomy/{building}", "{domain}/{building}", "{building}_{domain}/{domain}"]
)
def test_other_orders_of_folders(tmp_path, order):
    download(tmp_path / "official", "hanson", order=order)
    assert run(tmp_path / "official", tmp_path / "out", "--copy") == 0
    copied = tmp_path / "out/normal/taskonomy/hanson/point_0_view_0_domain_normal.png"
    assert copied.stat().st_nlink == 1


def test_incomplete_views_are_left_out(tmp_path, capsys):
    download(tmp_path / "official", "hanson", views=3)
    os.remove(tmp_path / "official/hanson/normal/point_1_view_0_domain_normal.png")
    assert run(tmp_path / "official", tmp_path / "out") == 0
    assert "1 views lack a domain" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out/taskonomy.json").read_text())["train"]) == 2


def test_files_that_broke_off_cost_their_view(tmp_path, capsys):
    download(tmp_path / "official", "hanson", views=3)
    building = tmp_path / "official/hanson"
    whole = building / "rgb/point_0_view_0_domain_rgb.png"
    whole.write_bytes(whole.read_bytes()[:-20])
    (building / "depth_zbuffer" / official_name("point_2_view_0", "depth_zbuffer")).write_bytes(b"")
    assert run(tmp_path / "official", tmp_path / "out") == 1
    said = capsys.readouterr().out
    assert "2 records are left out:" in said and f"{whole} is no complete PNG picture" in said
    assert len(json.loads((tmp_path / "out/taskonomy.json").read_text())["train"]) == 1


def test_splits_from_files(tmp_path):
    table = tmp_path / "splits.csv"
    text = "id,train,val,test\r\na, 1,0,0\r\nb,0,1,0\r\nc ,0,0,1\r\nd,0,0,0\r\n\r\n"
    table.write_bytes(b"\xef\xbb\xbf" + text.encode())  # as spreadsheets save it
    assert read_splits(table) == {"train": ["a"], "val": ["b"], "test": ["c"]}
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["a"], "test": ["c"]}))
    assert read_splits(tmp_path / "splits.json") == {"train": ["a"], "test": ["c"]}
    (tmp_path / "twice.json").write_text(json.dumps({"train": ["a"], "test": ["a"]}))
    with pytest.raises(ValueError, match="building a into more than one split"):
        read_splits(tmp_path / "twice.json")
    assert [len(TINY[split]) for split in ("train", "val", "test")] == [25, 5, 5]


def test_mistakes_are_one_line(tmp_path, capsys):
    download(tmp_path / "official", "nowhere")
    assert run(tmp_path / "official", tmp_path / "a") == 2
    error = capsys.readouterr().err
    assert "no training building" in error and "nowhere" in error and error.count("\n") == 1
    download(tmp_path / "wrong", "hanson", label=18)
    assert run(tmp_path / "wrong", tmp_path / "b") == 2
    assert "holds id 18" in capsys.readouterr().err
    assert run(tmp_path / "missing", tmp_path / "c") == 2
    assert "missing does not exist" in capsys.readouterr().err
