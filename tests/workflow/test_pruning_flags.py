"""What a command says of pruning beside the file that it is given: what is scored, what is contradicted."""

from __future__ import annotations

import pytest

from configs.arguments import parse_assignments
from configs.load import load
from prune_utils.methods import METHODS
from tests import tiny
from tests.dataloaders import small
from workflow.experiment import open_experiment
from workflow.files import Options
from workflow.launch import training_run


@pytest.fixture
def experiment(tmp_path):
    """experiment(method, *settings) writes to the test's folder."""
    root = small.nyuv2(tmp_path / "data", 8)

    def make(method, *more):
        flags = parse_assignments([*tiny.RUN, "optim.iterations=2", *more, f"data.root={root}"])
        return open_experiment(load("nyuv2", flags=flags), method, str(tmp_path / "out"), None)

    return make


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("rigl", "the mask never moves: dynamic.until 0.75 of 2 steps is over before dynamic.every 50"),
        ("gmp", ""),
    ],
)
def test_a_run_that_is_too_short_to_move_its_mask_says_so(method, said, experiment, capsys):
    training_run(experiment(method, "dynamic.every=50"), METHODS[method], Options())
    heard = capsys.readouterr().err
    assert said in heard and ("never moves" in heard) == bool(said)
