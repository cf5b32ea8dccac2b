"""What the benchmark counts and draws; no test asks how fast anything is."""

import json
import sys

import pytest
import torch

from prune_utils import load_sparse, save_sparse
from prune_utils.deploy import benchmark, charts, measuring, runtimes
from tests.prune_utils.deploy.networks import random_image, random_network


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
    counted = {"all": 0, "kept": 0}

    def count(layer, inputs, output):
        pixels = output.numel() // output.shape[1]
        counted["all"] += layer.weight.numel() * pixels
        counted["kept"] += int(torch.count_nonzero(layer.weight)) * pixels

    found = measuring.kept_operations(network, image)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network(image)
    assert found == pytest.approx({name: value / 1e9 for name, value in counted.items()})


def test_a_runtime_is_measured_against_the_networks_own_outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "RUNS", (3, 3))
    path = save_sparse(tmp_path / "n.safetensors", *random_network(2, density=0.1))
    cases = [(1, torch.get_num_threads(), 33), (2, torch.get_num_threads(), 33)]
    rows = measuring.measure_here(str(path), runtimes.OURS, cases, f"{__name__}:load")
    assert [found["batch"] for found in rows] == [1, 2]
    for found in rows:
        assert found["difference"] < 1e-4
        assert found["milliseconds"]["runs"] == 3
        assert 0 < found["operations"]["kept"] < found["operations"]["all"]


def load(path):
    """A user's function that reads a file of theirs."""
    network, _ = random_network(0)
    load_sparse(path, network)
    return network


def test_sparsity_counts_the_zeros_of_weights():
    layer = torch.nn.Conv2d(1, 1, 2)
    layer.weight.data = torch.tensor([0.0, 1, 0, 0]).reshape(1, 1, 2, 2)
    assert benchmark.sparsity(torch.nn.Sequential(layer, torch.nn.BatchNorm2d(9))) == 75.0


def test_functions_that_are_not_there_are_named():
    with pytest.raises(ValueError, match="'nowhere:load' names no function"):
        measuring.load_by("nowhere:load", "net.pth")


def test_pictures_are_drawn(tmp_path):
    case = {"title": "batch 1, 2 threads", "rows": ROWS, "limit": 10.0}
    bars = charts.latency_bars([case, case | {"limit": None}], "a network", tmp_path / "bars.png")
    curve = charts.speed_curve([(90.0, 20.0), (0.0, 80.0)], ROWS, "curve", tmp_path / "curve.png")
    for path in (bars, curve):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_unknown_runtimes_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="runtime 'TVM' is not one of pytorch, "):
        runtimes.find_runtime("TVM")
    with pytest.raises(ValueError, match="runtime 'TVM' is not one of PyTorch, "):
        benchmark.main(["none.pth", "--only", "TVM"], loader=f"{__name__}:load")


def measured(path, label, cases, loader):
    known = {"operations": {"kept": 1.0}, "peak": 1.0, "difference": 0.0}
    return [row(label, "ours", 20.0) | known]


def test_what_was_measured_is_kept_where_no_picture_can_be_drawn(tmp_path, monkeypatch):
    def fails(*given):
        raise ValueError("no room for a picture")

    monkeypatch.setattr(benchmark, "measure", measured)
    monkeypatch.setattr(benchmark, "latency_bars", fails)
    files = [str(save_sparse(tmp_path / f"{n}.safetensors", *random_network(0, n / 10))) for n in (1, 2)]
    words = [*files, "--only", runtimes.OURS, "--batch", "1", "--threads", "1"]
    words += ["--dest", str(tmp_path / "new")]
    with pytest.raises(ValueError, match="no room for a picture"):
        benchmark.main(words, loader=f"{__name__}:load")
    found = json.loads((tmp_path / "new" / "1_speed.json").read_text())
    assert [each["runtime"] for each in found["rows"]] == [runtimes.OURS] and len(found["curve"]) == 2
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(benchmark, "measure", fails)
    with pytest.raises(ValueError, match="this needs the package matplotlib: python3 -m pip install"):
        benchmark.main(words, loader=f"{__name__}:load")
