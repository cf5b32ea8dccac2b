"""A user's own method, from a plugin: on the help page, in a run, in a table."""

import pytest
import torch

from prune_utils import ARBITERS, BUDGETS, CRITERIA, METHODS
from tests.comparison.examples import write
from tests.scripts import TINY, call

MINE = """
import prune_utils as pu

pu.register("fourth", criterion=pu.Criterion(lambda weight, *more: weight.square().square(), "w^4"))
pu.register(method=pu.Method("w4", setup="static", criterion="fourth", summary="largest w^4"))
"""


@pytest.fixture
def mine(tmp_path):
    """A plugin; what it registers is gone afterwards."""
    saved = [(registry, dict(registry)) for registry in (ARBITERS, BUDGETS, CRITERIA, METHODS)]
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    yield str(path)
    for registry, before in saved:
        registry.clear()
        registry.update(before)


@pytest.mark.parametrize("script", ["create_pruned_net.py", "reproduce.py", "compare_runs.py"])
def test_help_lists_what_a_plugin_has_registered(script, mine, capsys):
    said = call(script, [f"--plugin={mine}", "--help"], capsys)
    assert said.code == 0 and f"{mine}: criterion fourth, method w4" in said.out
    assert "plugins have registered" not in call(script, ["--help"], capsys).out


def test_a_plugins_method_makes_a_mask(mine, rooms, tmp_path, capsys):
    words = [*TINY.split(), "--data-root", str(rooms), "--dest", str(tmp_path), "--method", "w4"]
    assert call("create_pruned_net.py", [*words, "--plugin", mine], capsys).code == 0
    certificate = torch.load(tmp_path / "nyuv2_w4_90.pth", weights_only=True)["certificate"]
    assert certificate["asked"]["criterion"] == "fourth" and certificate["kept"] == certificate["asked_keep"]


def test_a_table_groups_a_plugins_method_by_its_setup(mine, tmp_path, capsys):
    for method in ("snip", "w4"):
        write(tmp_path, method, 0, (20.0, 4.0, 0.5))
    plain = call("compare_runs.py", [str(tmp_path)], capsys).out
    known = call("compare_runs.py", [str(tmp_path), "--plugin", mine], capsys).out
    assert any(line.startswith("other") for line in plain.splitlines()) and "w4" in plain
    assert not any(line.startswith("other") for line in known.splitlines()) and "w4" in known
