"""The commands on a GPU as on a CPU: every kind of training from start to scores, and masks that are equal.

Every test also runs with the CPU as its own device, which shows that it can pass; `make test-cuda` runs them
where a GPU is.
"""

from __future__ import annotations

import json
import signal

import pytest
import torch

from common.interrupt import Interrupted
from configs.arguments import parse_assignments
from configs.load import load
from prune_utils.methods import METHODS
from tests.test_cuda import DEVICES
from tests.test_scripts import assert_zero_outside, call, kept, place, saved  # noqa: F401  place is a fixture
from workflow.experiment import open_experiment
from workflow.files import Options
from workflow.launch import training_run

SMALL = ("--set", "run.preflight=false", "--set", "model.width=0.0625")
# what touches the device in a way of its own: the row, the flags of its training, percent that it keeps
WAYS = {
    "static": ("disparse_static", (), 10),
    "dynamic": ("disparse_dynamic", (), 10),
    "earlier votes": ("disparse_dynamic", ("--set", "dynamic.memory=0.5"), 10),
    "progress": ("disparse_dynamic", ("--set", "dynamic.progress=1"), 10),
    "gradual": ("disparse_gmp", (), 10),
    "rounds": ("disparse_static", ("--rounds", "3"), 10),
    "averaged": ("snip", ("--ema-decay", "0.9"), 10),
    "weighed": ("snip", ("--weighting", "mgda"), 10),
    "bfloat16": ("disparse_static", ("--precision", "bf16-mixed"), 10),
    "float16": ("disparse_dynamic", ("--precision", "16-mixed"), 10),
    "recorded": ("disparse_dynamic", ("--set", "run.cuda_graphs=true"), 10),
    "2:4": ("disparse_static", ("--granularity", "2:4"), 50),
    "kernels": ("disparse_static", ("--granularity", "kernel"), 10),
}


def on(device: str) -> tuple[str, ...]:
    return ("--device", device)


@DEVICES
@pytest.mark.parametrize("way", WAYS)
def test_from_start_to_scores(way, device, place, tmp_path):  # noqa: F811
    method, flags, keep = WAYS[way]
    if device == "cpu" and way in ("float16", "recorded"):
        pytest.skip("a GPU's own")
    if way == "weighed":
        pytest.importorskip("torchjd")
    name = f"{way.replace(' ', '_').replace(':', '_')}_{device}"
    words = ("--method", method, "--ratio", str(100 - keep), "--name", name, *flags, *SMALL, *on(device))
    if method != "disparse_gmp":
        call(place, "create_pruned_net.py", *words)
    call(place, "launch_training.py", *words)
    content = saved(place / "out" / f"best_{name}.pth")
    assert content["certificate"]["kept"] == kept(content)
    assert_zero_outside(content)
    assert all(value.device.type == "cpu" for value in content["state"].values())
    call(place, "eval_pruned_net.py", "--name", name, *on(device), evaluate=True)
    result = json.loads((place / "out" / f"{name}.json").read_text())
    assert result["images"] == 2 and result["certificate"]["kept"] == kept(content)


@DEVICES
def test_channels_leave_the_network(device, place):  # noqa: F811
    pytest.importorskip("torch_pruning")
    unit = ("--granularity", "channel", "--ratio", "50", "--rounds", "2")
    words = (*unit, "--name", f"fewer_{device}", *SMALL, *on(device))
    call(place, "create_pruned_net.py", *words)
    call(place, "launch_training.py", *words)
    call(place, "eval_pruned_net.py", "--name", f"fewer_{device}", *on(device), evaluate=True)
    removed = json.loads((place / "out" / f"fewer_{device}.json").read_text())["certificate"]["removed"]
    assert removed["after"]["params"] <= removed["before"]["params"] / 2


@DEVICES
@pytest.mark.parametrize("method", ["baseline", "disparse_gmp"])
def test_a_resumed_run_ends_where_the_other_does(method, device, place, tmp_path):  # noqa: F811
    rhythm = ["run.checkpoint_every=1", f"run.device={device}", "optim.ema_decay=0.5", "run.preflight=false"]
    flags = parse_assignments([*rhythm, f"data.root={place / 'rooms'}"])

    def make(folder):
        config = load("nyuv2", [str(place / "tiny.yaml")], flags)
        experiment = open_experiment(config, method, str(tmp_path / folder), "90")
        return training_run(experiment, METHODS.get(method), Options())[0]

    whole, stopped = make("whole"), make("stopped")
    whole.train()
    with pytest.raises(Interrupted):
        for step in stopped.steps():
            if step == 2:
                signal.raise_signal(signal.SIGTERM)
    again = make("stopped")
    again.train(resume=True)
    # on a GPU sums run in any order
    close = {"rtol": 0, "atol": 0} if device == "cpu" else {"rtol": 1e-2, "atol": 1e-3}
    for name, value in whole.outcome.state_dict().items():
        torch.testing.assert_close(again.outcome.state_dict()[name], value, **close)


@DEVICES
def test_a_contract_is_searched_and_checked(device, many_rooms, place, tmp_path):  # noqa: F811
    words = ("--data-root", str(many_rooms), "--dest", str(tmp_path), *on(device))
    few = ("resolution=8", "stride=4", "smallest=20", "resamples=99", "turns=0")
    settings = [word for of in few for word in ("--set", f"contract.{of}")]
    call(place, "launch_training.py", "--method", "baseline", *words, *SMALL)
    call(place, "create_pruned_net.py", *words, "--max-drop", "seg.err=500,sn.mean=500", *settings, *SMALL)
    contract = tmp_path / "nyuv2_disparse_pt_contract_limits.json"
    found = json.loads(contract.read_text())
    assert 0 < found["kept"] < found["total"]
    call(place, "eval_pruned_net.py", *words, "--contract", str(contract), "--split", "val", evaluate=True)
