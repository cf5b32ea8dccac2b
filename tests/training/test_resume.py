"""Checkpoints: the last two kept, the newest good one found, none of another run touched."""

import copy

import pytest
import torch
from torch import nn

from training.resume import (
    FIELDS,
    OtherRun,
    check_optimizer,
    checkpoint_paths,
    latest_checkpoint,
    load_optimizer,
    remove_checkpoints,
    save_checkpoint,
)

CONTENT = dict.fromkeys(FIELDS)


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
    assert "lacks 'outcome'" in said[0]


def test_one_that_a_run_cannot_go_on_from_is_passed_over_and_another_run_is_told(folder):
    said = []

    def check(content, path):
        if content["step"] == 15:
            raise ValueError("its mask is another")

    assert latest_checkpoint(folder, "run[1]", said.append, check)["step"] == 10
    assert said == ["passing over a checkpoint: its mask is another"]

    def other(content, path):
        raise OtherRun("it was started with another seed")

    with pytest.raises(OtherRun, match="another seed"):
        latest_checkpoint(folder, "run[1]", said.append, other)


def test_a_step_that_is_not_that_of_the_name_is_passed_over(folder):
    newest, older = checkpoint_paths(folder, "run[1]")
    older.replace(newest)
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        latest_checkpoint(folder, "run[1]", lambda text: None)


@pytest.fixture
def stepped():
    """Adam over two parameters after one step, and its state dict."""
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.5, fused=True)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer, copy.deepcopy(optimizer.state_dict())


def test_an_own_state_is_taken_over_and_its_settings_are_not(stepped):
    optimizer, saved = stepped
    saved["param_groups"][0]["lr"] = 7.0
    saved["state"][0]["exp_avg"].fill_(3)
    check_optimizer(optimizer, saved, 1)
    load_optimizer(optimizer, saved)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.state_dict()["state"][0]["exp_avg"].tolist() == [[3, 3, 3]] * 2


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("exp_avg", torch.ones(1), r"'exp_avg' of parameter 0 has shape \(1,\), .* \(2, 3\)"),
        ("exp_avg_sq", torch.ones(4, 5), "'exp_avg_sq' of parameter 0 has shape"),
        ("exp_avg_sq", -torch.ones(2, 3), "'exp_avg_sq' of parameter 0 is negative"),
        ("exp_avg", torch.ones(2, 3).double(), "is of type torch.float64"),
        ("exp_avg", torch.ones(2, 3).int(), "holds whole numbers"),
        ("exp_avg", torch.full((2, 3), torch.nan), "holds NaN"),
        ("exp_avg", None, "is a NoneType, not a tensor"),
        ("step", torch.ones(2), "'step' of parameter 0 has shape"),
        ("step", torch.tensor(9.0), "'step' of parameter 0 is 9 after 1 steps"),
        ("momentum", torch.ones(2, 3), "of parameter 0 is not that of Adam"),
    ],
)
def test_what_the_fused_kernel_would_trust_is_refused(name, value, words, stepped):
    optimizer, saved = stepped
    saved["state"][0][name] = value
    with pytest.raises(ValueError, match=words):
        check_optimizer(optimizer, saved, 1)


@pytest.mark.parametrize("saved", [None, {}, {"state": {}}, {"state": {0: {}, 1: {}, 2: {}}}])
def test_the_state_of_other_parameters_is_refused(saved, stepped):
    with pytest.raises(ValueError, match="not that of this network's parameters"):
        check_optimizer(stepped[0], saved, 1)


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
