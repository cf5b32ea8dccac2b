"""Which processes are asked for, and what is said when they cannot be had."""

import multiprocessing
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from configs.schema import Config, Optim, Run, Weighting
from workflow import processes
from workflow.processes import check_graphs, gatherer, largest, lost_peer, make_fabric, require_same


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


GPU = SimpleNamespace(device=torch.device("cuda"), world_size=1)


@pytest.mark.parametrize(
    ("fabric", "changes", "what"),
    [
        (SimpleNamespace(device=torch.device("cpu"), world_size=1), {}, "--device cpu: graphs are CUDA's"),
        (SimpleNamespace(device=torch.device("cuda"), world_size=2), {}, "2 processes"),
        (GPU, {"run": Run(cuda_graphs=True, precision="bf16-mixed")}, "--precision bf16-mixed"),
        (GPU, {"run": Run(cuda_graphs=True, compile=True)}, "--compile"),
        (GPU, {"optim": Optim(accumulate=2)}, "optim.accumulate=2"),
        (GPU, {"weighting": Weighting(method="mgda")}, "--weighting mgda, which"),
    ],
)
def test_graphs_are_refused_where_nothing_records_or_replays_them(fabric, changes, what):
    asked = replace(Config(run=Run(cuda_graphs=True)), **changes)
    with pytest.raises(
        ValueError, match=f"run.cuda_graphs=true does not go with {what}.*leave one of them out"
    ):
        check_graphs(fabric, asked)
    check_graphs(fabric, replace(asked, run=replace(asked.run, cuda_graphs=False)))


def test_graphs_of_whole_batches_on_one_gpu_may_be_recorded():
    check_graphs(GPU, Config(run=Run(cuda_graphs=True)))
    check_graphs(GPU, Config(run=Run(cuda_graphs=True), weighting=Weighting(method="famo")))


def test_a_machine_with_slurms_commands_says_nothing_of_them(tmp_path, monkeypatch, recwarn):
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    make_fabric(Run(device="cpu", devices="1"))
    assert not [warning for warning in recwarn if "srun" in str(warning.message)]


def test_one_process_gathers_from_nobody():
    fabric = make_fabric(Run(device="cpu", devices="1"))
    assert gatherer(fabric) is None and largest(fabric, 3) == 3
    require_same(fabric, "anything", 3)


def talk(rank, store, answers):
    """One of three processes: gathers, takes the largest, and says on which step it is."""
    from datetime import timedelta

    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{store}", timedelta(seconds=60), world_size=3, rank=rank)
    fabric = SimpleNamespace(world_size=3, to_device=lambda tensor: tensor, all_reduce=all_reduce)
    gathered = gatherer(fabric)(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T * rank)  # not contiguous
    said = [part.tolist() for part in gathered], largest(fabric, (5, 7, 6)[rank])
    require_same(fabric, "the step", 4)
    try:
        require_same(fabric, "the step", 5 if rank == 2 else 4)
    except ValueError as error:
        answers.put((rank, *said, str(error)))
    distributed.destroy_process_group()


def all_reduce(tensor, reduce_op):
    from torch import distributed

    distributed.all_reduce(tensor, getattr(distributed.ReduceOp, reduce_op.upper()))
    return tensor


def test_processes_gather_by_rank_and_notice_where_they_differ(tmp_path):
    context = multiprocessing.get_context("fork")  # starting anew would import everything three times
    answers = context.SimpleQueue()
    three = [context.Process(target=talk, args=(rank, tmp_path / "store", answers)) for rank in range(3)]
    for process in three:
        process.start()
    for process in three:
        process.join(120)
    assert [process.exitcode for process in three] == [0, 0, 0]
    found = sorted(answers.get() for _ in three)
    assert [rank for rank, *_ in found] == [0, 1, 2]
    for _, gathered, most, error in found:
        assert gathered == [[[0, 0], [0, 0]], [[1, 3], [2, 4]], [[2, 6], [4, 8]]]
        assert most == 7
        assert error == (
            "the processes do not agree on the step (4, 4, 5): do all of them see the same --dest?"
        )


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
