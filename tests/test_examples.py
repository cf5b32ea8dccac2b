import subprocess
import sys
from pathlib import Path

import pytest
import torch

import prune_utils as pu
from examples import detector, own_network

EXAMPLES = Path(own_network.__file__).parent


def test_own_network_goes_all_the_way(tmp_path, capsys):
    with torch.random.fork_rng():
        own_network.main(tmp_path, steps=2)
    net = own_network.ThreeHeads()
    saved = pu.load_sparse(tmp_path / "own.safetensors", net)
    total = 11_166_912 + 512 * 4 + 256  # every convolution of the ResNet-18, and the three heads
    assert pu.size(saved.mask) == total
    assert pu.count(saved.mask) == pu.keep_count(total, 90)
    assert pu.verify(net, saved.mask, saved.certificate)["kept"] == pu.count(saved.mask)
    # the last stage belongs to two of the three tasks
    assert saved.certificate["groups"]["shared by kind+size"]["total"] == 8_388_608
    assert not saved.certificate["warnings"]
    program = torch.export.load(tmp_path / "own.pt2").module()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for task, value in net.eval()(image).items():
        torch.testing.assert_close(program(image)[task], value)
    out = capsys.readouterr().out
    assert all(word in out for word in ("dense", "pruned", "fine-tuned", "ms an image"))


@pytest.mark.slow
def test_the_detector_is_exact():
    with torch.random.fork_rng():
        found = detector.main(steps=1)
    assert found["kept"] == pu.keep_count(found["total"], 80)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "package"), [("lightning", "lightning"), ("trainer", "transformers")])
def test_the_callbacks_run_from_anywhere_in_under_40_lines(name, package, tmp_path):
    pytest.importorskip(package)
    path = EXAMPLES / f"{name}_callback.py"
    assert len(path.read_text().splitlines()) < 40
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'kept':" in done.stdout
