"""The registry, and what every task has in common."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks import TASKS, builder
from tasks.base import Geometry, Target

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = {
    "seg": [{"channels": 4}, {"channels": 4, "class_weights": [1, 2, 0.5, 3]}],
    "sn": [{"encoding": "encoded"}, {"encoding": "decoded"}],
}
CASES = [(name, arguments) for name in TASKS for arguments in ARGUMENTS.get(name, [{}])]
every_task = pytest.mark.parametrize(("name", "arguments"), CASES)


def example(task, size=(6, 8), images=2, seed=0, device="cpu"):
    """A random prediction at half of the target's size, and a target with holes."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    prediction = torch.randn(images, task.channels, height // 2, width // 2, generator=generator)
    if task.name == "seg":
        value = torch.randint(0, task.channels, (images, 1, height, width), generator=generator)
    else:
        value = torch.rand(images, task.channels, height, width, generator=generator) + 0.1
    valid = torch.rand(images, 1, height, width, generator=generator) > 0.3
    target = Target(value.masked_fill(~valid, 0).to(device), valid.to(device))
    return prediction.to(device), target


def test_names_are_the_builders_names():
    published = ["seg", "sn", "depth", "keypoint", "edge"]  # their order is that of the heads' numbers
    assert [name for name in TASKS if name in published] == published
    for name, arguments in CASES:
        assert builder(name)(**arguments).name == name


def test_unknown_name_lists_the_choices():
    choices = ", ".join(sorted(TASKS))
    with pytest.raises(ValueError, match=f"task 'dpeth' is not one of {choices}"):
        builder("dpeth")


def test_registry_needs_no_torch():
    code = "import sys, tasks; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@every_task
def test_without_valid_pixel_loss_and_gradient_are_zero(name, arguments):
    task = builder(name)(**arguments)
    prediction, target = example(task)
    prediction.requires_grad_()
    loss = task.loss(prediction, Target(target.value, torch.zeros_like(target.valid)))
    loss.backward()
    assert loss.shape == () and loss.item() == 0
    assert prediction.grad.count_nonzero() == 0


@every_task
def test_loss_runs_on_the_meta_device(name, arguments):
    task = builder(name)(**arguments)
    prediction, target = example(task, device="meta")
    prediction.requires_grad_()
    loss = task.loss(prediction, target)
    loss.backward()
    assert loss.shape == () and prediction.grad.shape == prediction.shape


@every_task
def test_loss_ignores_invalid_pixels(name, arguments):
    task = builder(name)(**arguments)
    prediction, target = example(task)
    other = Target(torch.where(target.valid, target.value, 1), target.valid)
    assert task.loss(prediction, target).item() == task.loss(prediction, other).item() != 0


@every_task
def test_half_precision_predictions(name, arguments):
    task = builder(name)(**arguments)
    prediction, target = example(task)
    rounded = prediction.bfloat16()
    assert task.loss(rounded, target).item() == task.loss(rounded.float(), target).item()
    assert measure(task, [(rounded, target)]) == measure(task, [(rounded.float(), target)])


def measure(task, batches):
    metric = task.metric()
    for prediction, target in batches:
        metric.update(prediction, target)
    return metric.compute()


@every_task
def test_metric_has_the_names_of_directions(name, arguments):
    task = builder(name)(**arguments)
    scores = measure(task, [example(task)])
    assert list(scores) == ["paper", "metric"]
    for protocol in scores.values():
        assert list(protocol) == list(task.directions)
        assert all(type(value) is float and np.isfinite(value) for value in protocol.values())


@every_task
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_metric_that_saw_nothing_is_nan(name, arguments):
    task = builder(name)(**arguments)
    prediction, target = example(task)
    blind = (prediction, Target(target.value, torch.zeros_like(target.valid)))
    for batches in ([], [blind]):
        for protocol in measure(task, batches).values():
            assert np.isnan(list(protocol.values())).all()


@every_task
def test_batches_without_valid_pixels_change_nothing(name, arguments):
    task = builder(name)(**arguments)
    prediction, target = example(task)
    blind = (prediction, Target(target.value, torch.zeros_like(target.valid)))
    assert measure(task, [(prediction, target), blind]) == measure(task, [(prediction, target)])


@every_task
def test_memory_is_constant(name, arguments):
    task = builder(name)(**arguments)
    metric = task.metric()
    before = {key: (value.shape, value.dtype) for key, value in metric.states.items()}
    for seed in range(3):
        metric.update(*example(task, images=seed + 1, seed=seed))
    after = {key: (value.shape, value.dtype) for key, value in metric.states.items()}
    assert before == after and all(isinstance(value, torch.Tensor) for value in metric.states.values())


@every_task
def test_merged_states_equal_one_process(name, arguments):
    task = builder(name)(**arguments)
    batches = [example(task, images=seed % 3 + 1, seed=seed) for seed in range(5)]
    ranks = [task.metric(), task.metric()]
    for number, batch in enumerate(batches):
        ranks[number % 2].update(*batch)
    for state, theirs in ranks[1].states.items():
        getattr(ranks[0], state).add_(theirs)
    merged, alone = ranks[0].compute(), measure(task, batches)
    for protocol, values in alone.items():
        assert merged[protocol] == pytest.approx(values, rel=1e-12)


@every_task
def test_nan_predictions_do_not_stop_an_evaluation(name, arguments):
    task = builder(name)(**arguments)
    prediction, target = example(task)
    scores = measure(task, [(torch.full_like(prediction, float("nan")), target)])
    assert np.isnan(list(scores["metric"].values())).any()
    assert torch.isnan(task.loss(torch.full_like(prediction, float("nan")), target))


@every_task
def test_tasks_can_be_pickled_for_worker_processes(name, arguments):
    task = builder(name)(**arguments)
    prediction, target = example(task)
    again = pickle.loads(pickle.dumps(task))
    assert again.loss(prediction, target).item() == task.loss(prediction, target).item()


@every_task
def test_decode_has_the_targets_terms(name, arguments):
    task = builder(name)(**arguments)
    prediction, target = example(task)
    decoded = task.decode(prediction)
    assert decoded.shape == (2, target.value.shape[1], 3, 4)
    assert decoded.dtype == target.value.dtype


@every_task
def test_pictures(name, arguments):
    task = builder(name)(**arguments)
    _, target = example(task)
    value, valid = target.value[0], target.valid[0]
    picture = task.picture(value, valid)
    assert picture.shape == (6, 8, 3) and picture.dtype == np.uint8
    assert (picture[~valid[0].numpy()] == 128).all()
    assert np.array_equal(picture, task.picture(value, valid, like=Target(value, valid)))
    assert task.picture(value, None).shape == (6, 8, 3)


def test_geometry_is_the_callers():
    for name in ("sn", "depth"):
        arguments = ARGUMENTS.get(name, [{}])[0]
        assert builder(name)(**arguments).geometry == Geometry()
        assert builder(name)(**arguments, geometry=Geometry(hflip=0)).geometry.hflip == 0
