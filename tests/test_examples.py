from pathlib import Path

import torch

from examples import own_network


def test_own_network_is_pruned_trained_saved_and_loaded(tmp_path, capsys):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own_network.main(tmp_path / "own.pth", steps=2)
    saved = torch.load(tmp_path / "own.pth", weights_only=True)
    total = sum(saved["model"][name].numel() for name in saved["mask"])
    assert total == 11_173_568  # every conv and linear weight
    assert sum(int(kept.sum()) for kept in saved["mask"].values()) == round(0.1 * total) == 1_117_357
    assert all(not saved["model"][name][~kept].any() for name, kept in saved["mask"].items())
    assert list(saved["certificate"]["groups"]) == [
        "backbone",
        "shared by kind+size",
        "head kind",
        "head size",
        "head parts",
    ]
    # the last stage belongs to two of the three tasks
    assert saved["certificate"]["groups"]["shared by kind+size"]["total"] == 8_388_608
    assert "asked 90 %, 1,117,357 weights; kept 1,117,357" in capsys.readouterr().out
    assert len(Path(own_network.__file__).read_text().splitlines()) < 60
