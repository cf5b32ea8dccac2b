"""Which processes are asked for, and what is said when they cannot be had."""

from types import SimpleNamespace

import pytest
import torch

from configs.schema import Run
from workflow import processes
from workflow.processes import gatherer, lost_peer, make_fabric, require_same


def torchrun(monkeypatch, local, world):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    monkeypatch.setenv("WORLD_SIZE", str(world))


@pytest.mark.parametrize(("devices", "expected"), [("auto", (1, 1)), ("1", (1, 1)), ("4", (4, 1))])
def test_devices_as_asked(devices, expected):
    assert processes._count(Run(devices=devices)) == expected


@pytest.mark.parametrize("devices", ["auto", "2"])
def test_torchrun_decides(devices, monkeypatch):
    torchrun(monkeypatch, 2, 6)
    assert processes._count(Run(devices=devices)) == (2, 3)


def test_a_number_that_is_not_torchruns_is_refused(monkeypatch):
    torchrun(monkeypatch, 2, 2)
    with pytest.raises(ValueError, match="--devices 3 and torchrun's 2 processes do not agree"):
        processes._count(Run(devices="3"))


def test_choices_are_named():
    with pytest.raises(ValueError, match="--precision '64' is not one of 32-true, bf16-mixed, 16-mixed"):
        make_fabric(Run(device="cpu", precision="64"))
    with pytest.raises(ValueError, match="--device 'gpu9' is not one of auto, .*cpu"):
        make_fabric(Run(device="gpu9"))


def test_one_process_gathers_from_nobody():
    fabric = make_fabric(Run(device="cpu", devices="1"))
    assert gatherer(fabric) is None
    require_same(fabric, "anything", 3)


def test_processes_that_see_other_files_are_told(monkeypatch):
    fabric = SimpleNamespace(world_size=2, to_device=lambda tensor: tensor)
    monkeypatch.setattr(processes, "gatherer", lambda fabric: lambda tensor: [tensor, tensor + 1])
    with pytest.raises(
        ValueError, match=r"do not agree on the step \(5, 6\): do all of them see the same --dest"
    ):
        require_same(fabric, "the step", 5)


def test_a_lost_process_is_told_from_other_errors(monkeypatch):
    monkeypatch.setattr(processes, "several", lambda: True)
    assert lost_peer(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    assert not lost_peer(RuntimeError("shapes do not fit"))
    assert not lost_peer(KeyError("gloo"))


def test_children_that_do_not_end_are_ended(monkeypatch):
    import subprocess
    import sys

    quick, slow = (
        subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"]) for seconds in (0, 60)
    )
    monkeypatch.setattr(processes, "_children", [quick, slow])
    processes.end_children(2.0)
    assert quick.returncode == 0 and slow.returncode < 0
    assert processes._children == []


def test_gathered_values_come_by_rank(monkeypatch):
    def all_gather(parts, tensor):
        for rank, part in enumerate(parts):
            part.copy_(tensor * rank)

    monkeypatch.setattr(processes.distributed, "all_gather", all_gather)
    gathered = gatherer(SimpleNamespace(world_size=3))(torch.tensor([1.0, 2.0]))
    assert [part.tolist() for part in gathered] == [[0, 0], [1, 2], [2, 4]]
