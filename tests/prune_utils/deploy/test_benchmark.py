"""What the benchmark counts and draws; no test asks how fast anything is."""

import pytest
import torch

from prune_utils.deploy import benchmark, charts, measuring, runtimes
from prune_utils.deploy.graph import read_network
from prune_utils.deploy.plain import PlainNet
from tests.prune_utils.deploy.networks import random_image, random_network
from training.checkpoint import versions, write_file


def row(label, kind, median):
    times = {"median": median, "low": median - 1, "high": median + 2, "best": median - 1, "runs": 9}
    return {"runtime": label, "kind": kind, "batch": 1, "threads": 2, "milliseconds": times, "memory": 5.0}


ROWS = [row("PyTorch", "fp32", 90.0), row("OpenVINO", "fp32", 60.0), row("b", "bf16", 50.0)]


def test_speed_is_compared_with_the_fastest_of_each_kind():
    rows = [*ROWS, row(runtimes.OURS, "ours", 20.0)]
    assert measuring.speedup(rows, "fp32") == 3.0
    assert measuring.speedup(rows, "bf16") == 2.5
    assert measuring.speedup(ROWS, "fp32") is None


def test_operations_are_those_of_the_convolutions():
    network, _ = random_network(2, density=0.2)
    image = random_image(0, 2, 34, 27)
    net, counted = PlainNet(read_network(network)), {"all": 0, "kept": 0}

    def count(layer, inputs, output):
        pixels = output.numel() // output.shape[1]
        counted["all"] += layer.weight.numel() * pixels
        counted["kept"] += int(torch.count_nonzero(layer.weight)) * pixels

    for layer in net.layers.values():
        layer.register_forward_hook(count)
    with torch.no_grad():
        net(image)
    found = measuring.kept_operations(network, image)
    assert found == pytest.approx({name: value / 1e9 for name, value in counted.items()})


def test_a_runtime_is_measured_against_the_networks_own_outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "RUNS", (3, 3))
    network, mask = random_network(2, density=0.1)
    content = dict.fromkeys(("certificate", "config"), {}) | {"format": 1, "name": "n", "step": 0}
    content |= {"network": network.description, "state": network.state_dict(), "mask": mask}
    write_file(tmp_path / "n.pth", content | {"versions": versions()})
    cases = [(1, torch.get_num_threads(), 33), (2, torch.get_num_threads(), 33)]
    rows = measuring.measure_here(str(tmp_path / "n.pth"), runtimes.OURS, cases)
    assert [found["batch"] for found in rows] == [1, 2]
    for found in rows:
        assert found["difference"] < 1e-4
        assert found["milliseconds"]["runs"] == 3
        assert 0 < found["operations"]["kept"] < found["operations"]["all"]


def test_sparsity_counts_the_zeros_of_convolutions():
    state = {"a.weight": torch.tensor([0.0, 1, 0, 0]).reshape(1, 1, 2, 2), "norm.bias": torch.zeros(9)}
    assert benchmark.sparsity({"state": state}) == 75.0


def test_pictures_are_drawn(tmp_path):
    case = {"title": "batch 1, 2 threads", "rows": ROWS, "limit": 10.0}
    bars = charts.latency_bars([case, case | {"limit": None}], "a network", tmp_path / "bars.png")
    curve = charts.speed_curve([(90.0, 20.0), (0.0, 80.0)], ROWS, "curve", tmp_path / "curve.png")
    for path in (bars, curve):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_unknown_runtimes_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="runtime 'TVM' is not one of PyTorch, "):
        runtimes.find_runtime("TVM")
    with pytest.raises(ValueError, match="runtime 'TVM' is not one of PyTorch, "):
        benchmark.main(["none.pth", "--only", "TVM"])
