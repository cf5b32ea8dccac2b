"""The early weights of a dense run: whose they are, where they lie, who returns to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from configs.arguments import parse_assignments
from configs.load import load
from prune_utils.methods import METHODS
from tests import tiny
from tests.dataloaders import small
from workflow.create import create
from workflow.experiment import open_experiment
from workflow.files import Options
from workflow.launch import check_rewind_step, launch, refuse_launch
from workflow.networks import new_network, rewind_path, rewound, save_network

FIRST = "backbone.stem.conv.weight"


@pytest.fixture
def experiment(tmp_path):
    """experiment(method, name, *settings) writes to the test's folder."""
    root = small.nyuv2(tmp_path / "data", 8)

    def make(method="baseline", name=None, *more):
        flags = parse_assignments([*tiny.RUN, "optim.iterations=2", *more, f"data.root={root}"])
        return open_experiment(load("nyuv2", flags=flags), method, str(tmp_path / "out"), name)

    return make


def kept_early(run, path=None):
    """Early weights of a dense run, and its last ones, without training it."""
    network = new_network(run)
    save_network(run, path or rewind_path(run, run.name), network)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 1
    save_network(run, run.final_path, network)
    return {name: value - 1 for name, value in network.state_dict().items()}


def test_every_dense_run_keeps_its_own(experiment):
    launch(experiment(), None, Options())
    launch(experiment("baseline", "other", "run.seed=1"), None, Options())
    for name, seed in (("nyuv2_baseline", 0), ("other", 1)):
        content = torch.load(experiment().dest / f"rewind_{name}_step0.pth", weights_only=True)
        expected = new_network(experiment("baseline", None, f"run.seed={seed}")).state_dict()
        assert content["name"] == name and torch.equal(content["state"][FIRST], expected[FIRST])


def test_the_dense_file_says_whose_weights_are_returned_to(experiment):
    one, other = experiment(), experiment("baseline", "other", "run.seed=1")
    first, second = kept_early(one), kept_early(other)
    lth = experiment("lth")
    for dense, expected in ((one, first), (other, second)):
        create(lth, METHODS["lth"], Options(init_from=str(dense.final_path), overwrite=True))
        content = torch.load(lth.pruned_path, weights_only=True)
        kept = content["mask"][FIRST]
        torch.testing.assert_close(content["state"][FIRST][kept], expected[FIRST][kept])


def test_they_lie_beside_the_dense_file(experiment, tmp_path):
    elsewhere = replace(experiment("baseline", "other"), dest=tmp_path / "elsewhere")
    expected = kept_early(elsewhere)
    found = rewound(experiment("lth"), elsewhere.final_path)
    torch.testing.assert_close(found[FIRST], expected[FIRST])
    rewind_path(elsewhere, "other").unlink()
    with pytest.raises(FileNotFoundError) as error:
        rewound(experiment("lth"), elsewhere.final_path)
    advice = f"--method baseline --dest {elsewhere.dest} --name other`"
    assert "there are no early weights" in str(error.value) and advice in str(error.value)


def test_those_of_another_run_are_refused(experiment):
    """As an earlier version left them, which had one name for all."""
    one, other = experiment(), experiment("baseline", "other")
    kept_early(one)
    kept_early(other, rewind_path(one, one.name))
    with pytest.raises(
        ValueError, match="early weights of the run other, and .* is of the run nyuv2_baseline"
    ):
        rewound(experiment("lth"), one.final_path)


def test_they_are_not_replaced_unasked(experiment):
    run = experiment()
    save_network(run, rewind_path(run, run.name), new_network(run))
    with pytest.raises(ValueError, match="rewind_nyuv2_baseline_step0.pth exists already: --overwrite"):
        refuse_launch(run, Options())
    refuse_launch(run, Options(overwrite=True))
    refuse_launch(run, Options(resume=True))  # of this run, which was killed before its first checkpoint
    with pytest.raises(ValueError, match="step0.pth was started with run.seed=0, this command says 1"):
        refuse_launch(experiment("baseline", None, "run.seed=1"), Options(resume=True))
    refuse_launch(experiment("set"), Options())


def test_a_step_that_is_never_reached_is_refused(experiment):
    check_rewind_step(experiment("baseline", None, "prune.rewind_step=2").config)
    with pytest.raises(ValueError, match="^--rewind-step 3 is after the end .* 2 steps: choose from 0 to 2$"):
        check_rewind_step(experiment("baseline", None, "prune.rewind_step=3").config)
