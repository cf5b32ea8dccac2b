"""What a run takes over from its checkpoint, and what it refuses by the name of the field."""

from __future__ import annotations

import copy
import json
import math
import shutil
from contextlib import closing, nullcontext

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


def test_nothing_is_held_out_where_that_is_asked_for(make_run):
    """For weights that are chosen on the test split; where they are not, the sentence says what helps."""
    run = make_run("baseline", "data.val_fraction=0", "run.select_on=test")
    assert len(run.experiment.records("train")) == 8
    assert len(make_run("baseline", "run.select_on=test").experiment.records("train")) == 6
    with pytest.raises(ValueError, match=r"val_fraction 0 leave none.*--val-share.*run.select_on=test"):
        make_run("baseline", "data.val_fraction=0")
    with pytest.raises(ValueError, match="val_fraction.*from 0 to below 1"):
        make_run("baseline", "data.val_fraction=1")


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


@pytest.fixture(scope="module")
def begun(make_run):
    """The checkpoint of a run in the folder "begun", and its file."""
    return stopped(make_run("baseline", dest="begun"))


def on_other_data(make_run, root, change):
    """That run, resumed on a copy of its data with another index."""
    shutil.copytree(make_run("baseline").experiment.config.data.root, root)
    path = root / "nyu_v2_3task.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    return make_run("baseline", f"data.root={root}", dest="begun")


OTHER_IMAGES = {
    "with 6 images in split 'train', and {root} has 5": lambda index: index["train"].pop(3),
    "on other images of split 'train' than those of {root}": lambda index: index["train"].reverse(),
    "with 2 images in split 'val', and {root} has 1": lambda index: index.update(
        train=[index["train"][number] for number in (0, 1, 3, 4, 5, 6)], val=[index["test"][0]], test=[]
    ),
}


@pytest.mark.parametrize("said", OTHER_IMAGES)
def test_other_images_are_not_gone_on_with(said, make_run, begun, tmp_path):
    state, path = begun
    torch.save(state, path)
    run = on_other_data(make_run, tmp_path / "other", OTHER_IMAGES[said])
    with pytest.raises(OtherRun) as error:
        next(run.steps(resume=True))
    assert str(error.value) == (
        f"{run.stem} was started {said.format(root=tmp_path / 'other')}: resume on the same data, or start "
        "anew with --overwrite alone"
    )


def test_the_same_images_may_lie_elsewhere(make_run, begun, tmp_path):
    state, path = begun
    assert {split: of["count"] for split, of in state["images"].items()} == {"train": 6, "val": 2}
    torch.save(state, path)
    run = on_other_data(make_run, tmp_path / "other", lambda index: None)
    with closing(run.steps(resume=True)) as steps:
        assert next(steps) == 4


def test_a_checkpoint_that_does_not_tell_of_its_images_is_taken_as_it_is(make_run, begun, tmp_path):
    state, path = begun
    torch.save({name: state[name] for name in state if name != "images"}, path)
    run = on_other_data(make_run, tmp_path / "other", lambda index: index["train"].pop(3))
    with closing(run.steps(resume=True)) as steps:
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


def test_one_process_may_go_on_for_two_and_be_resumed_itself(make_run):
    """Each had its allowance, and what both could not read is then the one's."""
    more = ("data.skip_unreadable=1", "run.checkpoint_every=1")
    with closing(make_run("baseline", *more, dest="fewer").steps()) as steps:
        assert [next(steps) for _ in range(3)] == [0, 1, 2]
    run = make_run("baseline", *more, dest="fewer")
    path = run.experiment.dest / f"{run.stem}.step00000001.ckpt"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"broken": [[4], [2]]}, path)
    with closing(run.steps(resume=True)) as steps:
        assert [next(steps), next(steps)] == [2, 3]
    state = torch.load(path.with_name(f"{run.stem}.step00000002.ckpt"), weights_only=True)
    assert state["broken"] == [[2, 4]]
    with closing(make_run("baseline", *more, dest="fewer").steps(resume=True)) as steps:
        assert next(steps) == 3


SCALE = {
    "scale": 65536.0,
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 2000,
    "_growth_tracker": 0,
}


@pytest.mark.parametrize("there", [{}, SCALE])
def test_a_run_in_half_precision_may_change_its_device(there, make_run, capsys, monkeypatch):
    """A loss scale is a GPU's: a CPU takes bfloat16, which needs none."""
    state, path = stopped(make_run("baseline", "run.precision=16-mixed", dest="half"))
    assert state["scaler"] == {}
    torch.save(state | {"scaler": there}, path)
    again = make_run("baseline", "run.precision=16-mixed", dest="half")
    loaded = []
    precision = again.experiment.fabric.strategy.precision
    monkeypatch.setattr(precision, "state_dict", lambda: {} if there else dict(SCALE))
    monkeypatch.setattr(precision, "load_state_dict", loaded.append)
    with closing(again.steps(resume=True)) as steps:
        assert next(steps) == 4
    assert loaded == []
    said = f"{again.stem} goes on on another kind of device, and with a loss scale of its own: the last bits"
    assert capsys.readouterr().err.count(said) == 1


def test_a_loss_scale_is_taken_over_and_no_other_fields(make_run, monkeypatch, capsys):
    state, path = stopped(make_run("baseline", "run.precision=16-mixed", dest="half"))
    for saved, taken in ((SCALE | {"scale": 2.0}, True), (SCALE | {"more": 1}, False)):
        torch.save(state | {"scaler": saved}, path)
        again = make_run("baseline", "run.precision=16-mixed", dest="half")
        loaded = []
        precision = again.experiment.fabric.strategy.precision
        monkeypatch.setattr(precision, "state_dict", lambda: dict(SCALE))
        monkeypatch.setattr(precision, "load_state_dict", loaded.append)
        with nullcontext() if taken else pytest.raises(ValueError), closing(again.steps(True)) as steps:
            assert next(steps) == 4
        assert loaded == ([saved] if taken else [])
        said = capsys.readouterr().err
        assert "loss scale" not in said and ("has an unknown entry 'more'" in said) != taken


FORGERIES = {
    "'best'": lambda state: state.update(best=math.nan),
    "'outcome/best_loss'": lambda state: state["outcome"].update(best_loss=0.5),
    "'outcome/best_step'": lambda state: state["outcome"].update(best_step=2.0),
    "'broken'": lambda state: state.update(broken=[[-1]]),
    "none where data.skip_unreadable is 0": lambda state: state.update(broken=[[1]]),
    "'images'": lambda state: state["images"]["train"].update(sha256="\x1b[31mred"),
    "images of train, val": lambda state: state["images"].pop("val"),
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
