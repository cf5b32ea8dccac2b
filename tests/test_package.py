"""The wheel: the library alone, installed beside a user's own packages of the same names as our rooms."""

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import prune_utils

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

OWN = """\
import sys, tempfile, pathlib
import prune_utils
assert "torch" not in sys.modules, "importing the library costs no torch"
import models.net, tasks, torch
assert pathlib.Path(models.__file__).parent.parent == pathlib.Path.cwd()

torch.manual_seed(0)
model = models.net.Net()
x = torch.randn(8, 3, 12, 12)
losses = {"a": lambda out, _: out["a"].square().mean(), "b": lambda out, _: out["b"].abs().mean()}
batch = (x, None)
owners = prune_utils.owners_from_graph(model, losses, batch)
scores = prune_utils.score(model, prune_utils.task_voters(losses, owners), [(0, batch)], "snip")
shapes = {name: weight.shape for name, weight in prune_utils.prunable(model).items()}
keep = prune_utils.keep_count(sum(shape.numel() for shape in shapes.values()), 90)
mask = prune_utils.choose(scores, prune_utils.global_budget(shapes, keep), "unanimous")
prune_utils.apply(model, mask)
assert prune_utils.count(mask) == keep
certificate = prune_utils.certificate(mask, owners, {"ratio": 90})
with tempfile.TemporaryDirectory() as folder:
    path = prune_utils.save_sparse(pathlib.Path(folder) / "net.safetensors", model, mask, certificate)
    twin = models.net.Net()
    assert prune_utils.mask_hash(prune_utils.load_sparse(path, twin).mask) == certificate["hash"]
for name, value in model.state_dict().items():
    assert torch.equal(value, twin.state_dict()[name])
from prune_utils.deploy import build
assert (build.SOURCES / "sparse_conv.cpp").is_file()
print(prune_utils.__version__, prune_utils.__file__)
"""

NET = """\
import tasks
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.heads = nn.ModuleDict({task: nn.Conv2d(8, 2, 1) for task in tasks.NAMES})

    def forward(self, x):
        features = self.trunk(x)
        return {task: head(features) for task, head in self.heads.items()}
"""


def names(requirements):
    return {re.split(r"[<>=!~ ]", line)[0]: line for line in requirements}


def test_the_library_asks_for_what_the_requirements_pin():
    """Versions stand in pyproject.toml for the library and in requirements.txt for the programs."""
    listed = [line for line in (ROOT / "requirements.txt").read_text().split("\n") if line]
    assert set(names(PROJECT["dependencies"])) == {"torch", "numpy", "safetensors"}
    for requirement in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["report"]:
        assert requirement in listed
    for extra in ("deploy", "weighting", "channels"):
        lines = (ROOT / f"requirements-{extra}.txt").read_text().split("\n")
        assert sorted(line for line in lines if line[:1].isalpha()) == sorted(
            PROJECT["optional-dependencies"][extra]
        )


@pytest.mark.slow
def test_the_wheel_works_beside_a_users_own_packages(tmp_path):
    def run(*words, cwd=tmp_path):
        done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "outputs", "data", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    flags = ("--no-deps", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "wheel", source, "--no-build-isolation", "-w", tmp_path, *flags)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"disparse-{prune_utils.__version__}-py3-none-any.whl"
    inside = zipfile.ZipFile(wheel).namelist()
    assert {Path(name).parts[0].split("-")[0] for name in inside} == {"prune_utils", "disparse"}
    assert {"prune_utils/py.typed", "prune_utils/deploy/csrc/sparse_conv.cpp"} <= set(inside)

    # torch is large: the environment borrows this one's packages, and has no package of ours but the wheel
    run(sys.executable, "-m", "venv", "venv")
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", wheel, *flags)
    own = tmp_path / "own"
    for name, content in (
        ("models/__init__.py", ""),
        ("models/net.py", NET),
        ("tasks/__init__.py", "NAMES = ('a', 'b')\n"),
        ("main.py", OWN),
    ):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(content)
    version, where = run(python, "main.py", cwd=own).split()
    assert version == prune_utils.__version__
    assert Path(where).is_relative_to(packages)
