"""What a run takes over from its checkpoint, and what it refuses by the name of the field."""

from __future__ import annotations

import copy
import math
from contextlib import closing

import pytest
import torch

from configs.arguments import parse_assignments
from configs.load import load
from dataloaders.base import BrokenSample
from dataloaders.streams import permutation
from prune_utils.methods import METHODS
from tests import tiny
from tests.dataloaders import small
from training.resume import OtherRun
from workflow.experiment import open_experiment
from workflow.files import Options
from workflow.launch import training_run

SETTINGS = (*tiny.RUN, "data.scale=[1,1]", "run.checkpoint_every=3", "optim.iterations=6")


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """make_run(method, *settings) is a run of six steps on tiny pictures, saved after the third."""
    tmp_path = tmp_path_factory.mktemp("runs")
    root = small.nyuv2(tmp_path / "data", 8)

    def make(method, *more, dest="out"):
        flags = parse_assignments([*SETTINGS, f"data.root={root}", *more])
        experiment = open_experiment(load("nyuv2", flags=flags), method, str(tmp_path / dest), None)
        return training_run(experiment, METHODS.get(method), Options())[0]

    return make


def stopped(run):
    """The run's content after its third step, as it stands in its checkpoint, and the file."""
    with closing(run.steps()) as steps:
        assert [next(steps) for _ in range(5)] == [0, 1, 2, 3, 4]
    path = run.experiment.dest / f"{run.stem}.step00000003.ckpt"
    return torch.load(path, weights_only=True), path


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("disparse_dynamic", ("dynamic.memory=0.5", "dynamic.progress=1", "dynamic.every=1")),
        ("ac_dc", ("gradual.start=1", "gradual.every=1", "gradual.end=5")),
        ("baseline", ("weighting.method=famo",)),
    ],
)
def test_what_a_run_has_gathered_by_then_is_taken_over(method, more, make_run):
    """The memory of votes, the dense twin, a weighing's state: nothing that a new run has."""
    whole = make_run(method, *more, dest="whole")
    whole.train()
    stopped(make_run(method, *more))
    again = make_run(method, *more)
    assert list(again.steps(resume=True)) == [4, 5, 6]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    if "dynamic.progress=1" in more:
        seen = (run.sparsifier.progress.seen for run in (whole, again))
        for one, other in zip(*map(dict.values, seen), strict=True):
            assert torch.equal(one, other)
    assert again.best_loss == whole.best_loss


def test_a_checkpoint_of_another_method_is_not_gone_on_from(make_run):
    state, path = stopped(make_run("set", dest="other"))
    assert (state["method"], state["broken"]) == ("set", [[]])
    torch.save(state | {"method": "rigl"}, path)
    with pytest.raises(
        OtherRun, match="^nyuv2_set_90_training was started with --method rigl, .* says set: "
    ):
        next(make_run("set", dest="other").steps(resume=True))
    torch.save({name: state[name] for name in state if name not in ("method", "broken")}, path)
    with closing(make_run("set", dest="other").steps(resume=True)) as steps:  # as earlier versions wrote it
        assert next(steps) == 4


def test_images_that_could_not_be_read_count_on(make_run, tmp_path):
    """The allowance is for the whole run, not for each of its parts."""
    root, more = small.nyuv2(tmp_path / "data", 8), ("data.skip_unreadable=1", "run.checkpoint_every=1")
    more = (*more, f"data.root={root}")
    first, again = (make_run("baseline", *more, dest="broken") for _ in range(2))
    records = first.experiment.records("train")
    order = permutation(0, 0, len(records))
    for place in (order[0], order[-1]):  # of the first step and of the last one of the epoch
        (root / records.entries[place].files[0]).write_bytes(b"")
    with closing(first.steps()) as steps, pytest.warns(UserWarning, match="1 of at most 1"):
        assert [next(steps) for _ in range(3)] == [0, 1, 2]
    state = torch.load(first.experiment.dest / f"{first.stem}.step00000001.ckpt", weights_only=True)
    assert state["broken"] == [[order[0]]]
    with pytest.raises(BrokenSample, match="data.skip_unreadable 1 is used up"):
        again.train(resume=True)


FORGERIES = {
    "'best'": lambda state: state.update(best=math.nan),
    "'outcome/best_loss'": lambda state: state["outcome"].update(best_loss=0.5),
    "'outcome/best_step'": lambda state: state["outcome"].update(best_step=2.0),
    "'broken'": lambda state: state.update(broken=[[-1]]),
    "'method'": lambda state: state.update(method="\x1b[31mred"),
    "'threads'": lambda state: state.update(threads="\x1b[31mred"),
    "'weighing'": lambda state: state["weighing"].update(conflicting=3),
    "'weighing/pairs'": lambda state: state["weighing"].update(pairs={}),
    "entry 'twin'": lambda state: state["sparsifier"].update(twin=None),
    "'sparsifier/average'": lambda state: state["sparsifier"].update(average={"seg": {}}),
    "'sparsifier/mask/backbone.conv1.weight'": lambda state: state["sparsifier"]["mask"].update(
        {next(iter(state["sparsifier"]["mask"])): torch.ones(1)}
    ),
    "'loss_weights'": lambda state: state["settings"].update(loss_weights="text"),
}


@pytest.fixture(scope="module")
def checkpoint(make_run):
    return stopped(make_run("disparse_dynamic", dest="forged"))


@pytest.mark.parametrize("named", FORGERIES)
def test_a_forged_field_is_named(named, make_run, checkpoint):
    state, path = copy.deepcopy(checkpoint)
    first = next(iter(state["sparsifier"]["mask"]))
    FORGERIES[named](state)
    torch.save(state, path)
    said = []
    run = make_run("disparse_dynamic", dest="forged")
    run.experiment.__dict__["say"] = said.append
    with pytest.raises(ValueError) as error:
        next(run.steps(resume=True))
    heard = " ".join([*said, str(error.value)])
    assert named.replace("backbone.conv1.weight", first) in heard and heard.isprintable()
