"""Checkpoints: the last two kept, the newest good one found, none of another run touched."""

import pytest

from training.resume import checkpoint_paths, latest_checkpoint, remove_checkpoints, save_checkpoint

CONTENT = dict.fromkeys(("best", "settings", "network", "optimizer", "sparsifier"))


@pytest.fixture
def folder(tmp_path):
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, "run[1]", step, CONTENT)
    save_checkpoint(tmp_path, "run[1]_2", 5, CONTENT)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_two_are_kept(folder):
    assert [path.name for path in checkpoint_paths(folder, "run[1]")] == [
        "run[1].step00000015.ckpt",
        "run[1].step00000010.ckpt",
    ]
    assert len(names(folder)) == 3


def test_a_damaged_one_is_passed_over_aloud(folder):
    newest = checkpoint_paths(folder, "run[1]")[0]
    newest.write_bytes(newest.read_bytes()[:-30])
    said = []
    assert latest_checkpoint(folder, "run[1]", said.append)["step"] == 10
    assert len(said) == 1 and str(newest) in said[0] and "damaged" in said[0]


def test_what_is_no_checkpoint_is_passed_over(folder):
    save_checkpoint(folder, "run[1]", 20, {"best": None})
    said = []
    assert latest_checkpoint(folder, "run[1]", said.append)["step"] == 15
    assert "lacks 'settings'" in said[0]


def test_none_readable_is_an_error_and_none_at_all_is_not(folder):
    for path in checkpoint_paths(folder, "run[1]"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 2 checkpoints of run"):
        latest_checkpoint(folder, "run[1]", lambda text: None)
    assert latest_checkpoint(folder, "another") is None


def test_removal_spares_other_runs(folder):
    (folder / ".run[1].step00000020.ckpt.77.part").touch()
    remove_checkpoints(folder, "run[1]", after=10)
    assert names(folder) == ["run[1].step00000010.ckpt", "run[1]_2.step00000005.ckpt"]
    remove_checkpoints(folder, "run[1]")
    assert names(folder) == ["run[1]_2.step00000005.ckpt"]
