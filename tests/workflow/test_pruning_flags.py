"""What a command says of pruning beside the file that it is given: what is scored, what is contradicted."""

from __future__ import annotations

import pytest
import torch

from configs.arguments import parse_assignments
from configs.load import load
from prune_utils.methods import METHODS
from tests import tiny
from tests.dataloaders import small
from workflow.create import create, prepare_pruning
from workflow.experiment import open_experiment
from workflow.files import Options
from workflow.launch import training_run
from workflow.networks import new_network, save_network
from workflow.pruning import Pruning, said_of_pruning

PRUNE = ("prune.num_batches=1",)


@pytest.fixture
def experiment(tmp_path):
    """experiment(method, *settings) writes to the test's folder."""
    root = small.nyuv2(tmp_path / "data", 8)

    def make(method, *more):
        flags = parse_assignments([*tiny.RUN, "optim.iterations=2", *PRUNE, *more, f"data.root={root}"])
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


# --------------------------------------------------------------------- what is scored
def trained(experiment, path):
    """A file of weights that are all positive, which Xavier's are not."""
    network = new_network(experiment)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(weight.abs() + 0.1)
    save_network(experiment, path, network)
    return network


def test_weights_from_a_file_are_scored_as_they_are(experiment, tmp_path):
    static = experiment("snip")
    network = trained(static, tmp_path / "file.pth")
    given = Options(init_from=str(tmp_path / "file.pth"))
    asked = [prepare_pruning(static, METHODS["snip"], o).plan.score_init for o in (Options(), given)]
    assert asked == ["xavier", "own"]
    create(static, METHODS["snip"], given)
    made = torch.load(static.pruned_path, weights_only=True)
    assert made["certificate"]["asked"]["score_init"] == "own"
    assert made["config"]["prune"]["score_init"] == "xavier"  # what resumed commands compare
    own = experiment("snip", "prune.score_init=own")
    expected = Pruning(own, METHODS["snip"], network).make_mask()
    assert all(torch.equal(made["mask"][name], kept) for name, kept in expected.items())


def test_so_they_are_for_a_first_mask(experiment, tmp_path):
    asked = experiment("rigl", "prune.start_mask=snip")
    trained(asked, tmp_path / "file.pth")
    for options, said in ((Options(), "xavier"), (Options(init_from=str(tmp_path / "file.pth")), "own")):
        run, _ = training_run(asked, METHODS["rigl"], options)
        assert run.pruning.plan.score_init == said


# --------------------------------------------------------------------- what is contradicted
MADE = {"method": "snip", "ratio": 90.0, "protocol": "paper"}


@pytest.mark.parametrize(
    ("setting", "was", "words"),
    [
        ("budget=erk", "global", "--budget global, this command says --budget erk: give both"),
        ("criterion=fisher", "snip", "--criterion snip, this command says --criterion fisher"),
        ("voters=tasks", "joint", "--voters joint, this command says --voters tasks"),
        ("arbiter=share", "unanimous", "--arbiter unanimous, this command says --arbiter share"),
        ("scope=backbone", "all", "--scope all, this command says --scope backbone"),
        (
            "protect=[stem, 'heads.*']",
            ("stem",),
            r"--protect stem, this command says --protect stem,heads.\*",
        ),
        ("protect=stem", (), "--protect none, this command says --protect stem"),
        ("trunk_share=0.5", None, "--trunk-share none, this command says --trunk-share 0.5"),
        ("shuffle=true", False, "--shuffle false, this command says --shuffle true"),
        ("keep_ratio=0.1", None, "--keep-ratio none, this command says --keep-ratio 0.1"),
        ("rounds=3", 1, "--rounds 1, this command says --rounds 3"),
    ],
)
def test_a_command_that_says_otherwise_than_the_file_is_refused(setting, was, words, experiment):
    flags = parse_assignments([f"prune.{setting}", "prune.score_init=own"])
    name = setting.partition("=")[0]
    asked = experiment("snip", f"prune.{setting}")
    said = said_of_pruning(asked.config, flags)
    assert list(said) == [name]
    pruning = Pruning(asked, METHODS["snip"], new_network(asked), made=True)
    made = MADE | {name: was}
    with pytest.raises(ValueError, match=f"^f.pth was made with .*{words}"):
        pruning.check_certificate({"asked": made}, "f.pth", said)
    pruning.check_certificate({"asked": made}, "f.pth")  # a file of settings may have it for other methods
    for fits in (MADE, MADE | {name: said[name]}, MADE | {name: pruning.plan.asked[name]}):
        pruning.check_certificate({"asked": fits}, "f.pth", said)


def test_training_is_told_what_its_command_says(experiment):
    static = experiment("random")
    create(static, METHODS["random"], Options())
    training_run(static, METHODS["random"], Options(said={"budget": "global", "shuffle": False}))
    with pytest.raises(ValueError, match="nyuv2_random_90.pth was made with --shuffle false, this command"):
        training_run(static, METHODS["random"], Options(said={"shuffle": True}))
