"""A run: when it logs, evaluates, keeps the best weights, saves and stops; what a later one goes on from."""

from __future__ import annotations

import csv
import math
import shutil
import signal
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from common.interrupt import Interrupted
from configs.load import FOLDER, load
from workflow import judging, origin, running
from workflow.experiment import open_experiment
from workflow.files import Options
from workflow.launch import training_run


@pytest.fixture
def make_run(rooms, tmp_path):
    """make_run(**settings of the section run) is the dense run of six steps, evaluated every fourth.

    ema: the decay of the weights' moving average.
    """

    def make(ema=0.0, **settings):
        flags = {
            "data": {"root": str(rooms), "crop": 33, "batch_size": 2, "num_workers": 0},
            "model": {"backbone": "resnet18", "width": 0.05},
            "optim": {"iterations": 6, "lr": 0.001, "ema_decay": ema},
            "run": {"eval_every": 4, "log_every": 2, "device": "cpu", "preflight": False} | settings,
        }
        experiment = open_experiment(load("nyuv2", flags=flags), "baseline", str(tmp_path), None)
        return training_run(experiment, None, Options())[0]

    return make


def validations(monkeypatch, *losses):
    """Evaluations give these total losses, one after the other."""
    given = iter(losses)
    monkeypatch.setattr(running, "figures", lambda scores: {"loss/total": next(given)})
    monkeypatch.setattr(running, "evaluate", lambda *words, **more: {})
    monkeypatch.setattr(running, "headline", lambda *words: {})


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_memory_is_pinned_for_the_device_of_the_run_alone(device, pinned, make_run, monkeypatch):
    """Not because the machine has another: to pin memory takes some of that one's, too."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    fabric = SimpleNamespace(device=torch.device(device), global_rank=0, world_size=1)
    experiment = replace(make_run().experiment, fabric=fabric)
    streams = (experiment.training_stream(0, 1), experiment.evaluation_stream("val"))
    for stream in (*streams, experiment.whole_stream("val")):
        assert stream.loader.pin_memory == pinned
    given = []
    monkeypatch.setattr(judging, "evaluation_batches", lambda *words, **how: given.append(how))
    monkeypatch.setattr(judging, "image_sums", lambda *words, **how: {})
    judging.look(experiment, torch.nn.Identity(), "val")
    assert given == [{"pinned": pinned}]


def test_rhythm_of_a_run(make_run, monkeypatch):
    validations(monkeypatch, 3.0, 2.0)
    run = make_run()
    run.train()
    with run.metrics_path.open(newline="") as file:
        rows = [(row["step"], row["phase"], row["name"]) for row in csv.DictReader(file)]
    train = [name for step, phase, name in rows if (step, phase) == ("2", "train")]
    assert train == ["seg", "sn", "total", "lr"]
    assert list(dict.fromkeys((step, phase) for step, phase, _ in rows)) == [
        ("2", "train"),
        ("4", "train"),
        ("4", "evaluate"),
        ("6", "train"),
        ("6", "evaluate"),
    ]
    best = torch.load(run.experiment.best_path, weights_only=True)
    assert (best["step"], run.best_step, run.best_loss) == (6, 6, 2.0)


@pytest.mark.parametrize(
    ("losses", "best"),
    [((2.0, 3.0), 4), ((math.nan, 3.0), 6), ((math.nan, math.nan), 4), ((2.0, 2.0), 4)],
)
def test_best_is_kept_at_the_first_evaluation_and_when_it_improves(losses, best, make_run, monkeypatch):
    validations(monkeypatch, *losses)
    run = make_run()
    run.train()
    assert run.best_step == best
    assert torch.load(run.experiment.best_path, weights_only=True)["step"] == best


@pytest.mark.parametrize("gone", [False, True])
def test_best_weights_that_the_checkpoint_does_not_know_are_not_told_of(gone, make_run, monkeypatch):
    """They were replaced after it, and the run that goes on does not come to them again."""
    validations(monkeypatch, 5.0, 3.0)
    with closing(make_run(eval_every=2, checkpoint_every=3).steps()) as steps:
        assert [next(steps) for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    again = make_run(eval_every=2, checkpoint_every=3)
    path = again.experiment.best_path
    assert torch.load(path, weights_only=True)["step"] == 4
    if gone:
        path.unlink()
    validations(monkeypatch, 7.0, 6.0)
    again.train(resume=True)
    assert (again.best_step, again.best_loss) == (6, 6.0)
    assert torch.load(path, weights_only=True)["step"] == 6


def test_steps_are_told_one_by_one(make_run, monkeypatch):
    validations(monkeypatch, 1.0, 1.0)
    run = make_run()
    assert list(run.steps()) == [0, 1, 2, 3, 4, 5, 6]


def test_early_weights_are_kept_at_their_step(make_run):
    run = replace(make_run(), rewind_step=0)
    first = {name: value.clone() for name, value in run.network.state_dict().items()}
    with closing(run.steps()) as steps:
        assert [next(steps), next(steps)] == [0, 1]
    kept = torch.load(run.experiment.dest / "rewind_nyuv2_baseline_step0.pth", weights_only=True)
    assert all(torch.equal(kept["state"][name], value) for name, value in first.items())


def test_a_signal_saves_and_ends_the_run_after_its_step(make_run):
    run, before = make_run(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="^stopped after step 3$") as stop:
        for step in run.steps():
            if step == 3:
                signal.raise_signal(signal.SIGTERM)
    assert stop.value.code == 143
    assert [path.name for path in run.experiment.dest.glob("*.ckpt")] == [f"{run.stem}.step00000003.ckpt"]
    assert signal.getsignal(signal.SIGTERM) is before
    again = make_run()
    assert list(again.steps(resume=True)) == [4, 5, 6]
    assert again.best_step in (4, 6)


@pytest.mark.parametrize("during", ["the step", "its evaluation"])
def test_a_signal_in_the_last_step_ends_the_run_too(during, make_run, monkeypatch):
    """Not forgotten: whoever calls has more to do. What is left of the run is for --resume."""
    run, evaluate = make_run(), running.Run._evaluate

    def interrupted(*given):
        evaluate(*given)
        if given[1] == 6:
            signal.raise_signal(signal.SIGTERM)

    if during == "its evaluation":
        monkeypatch.setattr(running.Run, "_evaluate", interrupted)
    with pytest.raises(Interrupted, match="^stopped after step 6$") as stop:
        for step in run.steps():
            if step == 6 and during == "the step":
                signal.raise_signal(signal.SIGTERM)
    assert stop.value.code == 143
    assert [path.name for path in run.experiment.dest.glob("*.ckpt")] == [f"{run.stem}.step00000006.ckpt"]
    again = make_run()
    assert list(again.steps(resume=True)) == []
    assert (again.best_step, again.best_loss) == (run.best_step, run.best_loss)
    for name, value in run.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


def test_a_signal_is_not_lost_where_training_diverges(make_run):
    """A contract goes on with its next round after that."""
    run = make_run()

    def break_down(*_):
        signal.raise_signal(signal.SIGTERM)
        torch.nn.init.constant_(run.network.heads["seg"][0].conv1.weight, math.nan)

    run.network.register_forward_pre_hook(break_down)
    with pytest.raises(Interrupted, match="^stopped: the loss of 'seg' became nan in step 1; ") as stop:
        run.train()
    assert stop.value.code == 143


def test_a_signal_is_not_lost_where_no_more_steps_are_asked_for(make_run):
    with pytest.raises(KeyboardInterrupt), closing(make_run().steps()) as steps:
        assert [next(steps), next(steps)] == [0, 1]
        signal.raise_signal(signal.SIGINT)


def test_settings_of_the_data_set_that_change_during_a_run_do_not_end_it(make_run, tmp_path, monkeypatch):
    origin.usual.cache_clear()
    shutil.copytree(FOLDER, tmp_path / "configs")
    monkeypatch.setattr("configs.load.FOLDER", tmp_path / "configs")
    run = make_run(checkpoint_every=1)
    (tmp_path / "configs/nyuv2.yaml").write_text("model: [")
    run.train()
    run.save(run.experiment.final_path, 6)
    assert "width 0.05" in torch.load(run.experiment.final_path, weights_only=True)["origin"]


@pytest.mark.parametrize(
    ("every", "broken", "last", "left"),
    [
        (1, 2, "the last good checkpoint is of step 1", ["step00000001.ckpt"]),
        (100, 4, "no checkpoint was written yet", []),  # which is evaluated, for the first time
        (5, 6, "the last good checkpoint is of step 5", ["step00000005.ckpt"]),  # the last one
    ],
)
def test_weights_that_are_not_finite_are_not_saved(every, broken, last, left, make_run):
    run = make_run(checkpoint_every=every)
    said = rf"^tensor 'heads.seg.0.conv1.weight' is not finite after step {broken}, and is not saved; {last}"
    with pytest.raises(ValueError, match=said):
        for step in run.steps():
            if step == broken:
                torch.nn.init.constant_(run.network.heads["seg"][0].conv1.weight, math.nan)
    dest = run.experiment.dest
    assert [path.name for path in dest.glob("*.ckpt")] == [f"{run.stem}.{name}" for name in left]
    for path in dest.glob("best_*.pth"):
        assert all(value.isfinite().all() for value in torch.load(path, weights_only=True)["state"].values())
    assert run.best_step in (None, 4)


FORGERIES = {
    "optimizer": lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.ones(1)),
    "weights": lambda state: state["network"].update({"heads.seg.0.conv1.bias": torch.tensor([math.nan])}),
    "field": lambda state: state.pop("outcome"),
    "sections": lambda state: state.update(settings={"optim": 3}),
    "best": lambda state: state["outcome"].update(best_step=10**9),
    "sparsifier": lambda state: state["sparsifier"].update(mask={}),
    "scaler": lambda state: state["scaler"].update(scale=1.0),
    "average": lambda state: state.pop("average"),
    "average's weights": lambda state: state["average"].popitem(),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_the_older_checkpoint_is_tried_where_the_newer_is_wrong(forge, make_run, capsys):
    run = make_run(ema=0.5, checkpoint_every=1)
    with closing(run.steps()) as steps:
        assert [next(steps) for _ in range(4)] == [0, 1, 2, 3]
    newest = run.experiment.dest / f"{run.stem}.step00000002.ckpt"
    state = torch.load(newest, weights_only=True)
    forge(state)
    torch.save(state, newest)
    again = make_run(ema=0.5, checkpoint_every=1)
    assert list(again.steps(resume=True)) == [2, 3, 4, 5, 6]
    assert capsys.readouterr().err.count("passing over a checkpoint: ") == 1


@pytest.mark.parametrize(
    ("field", "there", "here"),
    [("threads", 64, 1), ("instructions", "VSX", torch.backends.cpu.get_cpu_capability())],
)
def test_another_order_of_sums_is_named(field, there, here, make_run, capsys):
    run = make_run(checkpoint_every=1)
    with closing(run.steps()) as steps:
        assert [next(steps) for _ in range(3)] == [0, 1, 2]
    newest = run.experiment.dest / f"{run.stem}.step00000001.ckpt"
    state = torch.load(newest, weights_only=True)
    assert state[field] == here
    torch.save(state | {field: there}, newest)
    again = make_run(checkpoint_every=1)
    with closing(again.steps(resume=True)) as steps:
        assert next(steps) == 2
    assert f"ran with {there} {field} and goes on with {here}: " in capsys.readouterr().err


def test_a_resumed_run_keeps_the_origin_of_its_first_steps(make_run, monkeypatch):
    with closing(make_run(checkpoint_every=1).steps()) as steps:
        assert [next(steps) for _ in range(3)] == [0, 1, 2]
    monkeypatch.setattr("workflow.origin.remarks", lambda config: ["elsewhere"])
    again = make_run(checkpoint_every=1)
    again.train(resume=True)
    again.save(again.experiment.final_path, 6)
    found = torch.load(again.experiment.final_path, weights_only=True)["origin"]
    assert found[0] == "synthetic rooms" and found[-1] == "elsewhere"


def test_the_average_is_what_is_kept_and_training_does_not_see_it(make_run):
    plain, run = make_run(), make_run(ema=0.5)
    plain.train()
    expected = run.network.state_dict()["heads.seg.0.conv1.weight"].clone()
    for step in run.steps():
        if step:
            decay = min(0.5, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * run.network.state_dict()["heads.seg.0.conv1.weight"]
    for name, value in plain.network.state_dict().items():
        assert torch.equal(value, run.network.state_dict()[name])
    run.save(run.experiment.final_path, 6)
    kept = torch.load(run.experiment.final_path, weights_only=True)["state"]["heads.seg.0.conv1.weight"]
    torch.testing.assert_close(kept, expected)
    assert not torch.equal(kept, run.network.state_dict()["heads.seg.0.conv1.weight"])


def test_a_resumed_run_goes_on_with_its_average(make_run):
    whole = make_run(ema=0.9)
    whole.train()
    half = make_run(ema=0.9, checkpoint_every=2)
    with closing(half.steps()) as steps:
        for step in steps:
            if step == 3:
                break
    again = make_run(ema=0.9, checkpoint_every=2)
    assert next(iter(again.steps(resume=True))) == 3
    again.train(resume=True)
    for name, value in whole.outcome.state_dict().items():
        assert torch.equal(value, again.outcome.state_dict()[name])
