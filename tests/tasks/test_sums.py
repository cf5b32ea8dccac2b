"""Images resampled by their sums give the measures of the images themselves."""

import pytest
import torch

from tasks import builder
from tasks.base import Target
from tasks.sums import CHUNK, Collector, measures

from .test_registry import CASES, example

COUNTS = torch.tensor([[1, 1, 1, 1, 1], [0, 3, 0, 2, 0], [5, 0, 0, 0, 0], [1, 0, 2, 1, 1]])


def one(target, place):
    return Target(target.value[place : place + 1], target.valid[place : place + 1])


def data(name, arguments, images=5):
    task = builder(name)(**arguments)
    prediction, target = example(task, size=(8, 10), images=images)
    target.valid[3] = False  # an image without a target
    return task, prediction, target


@pytest.mark.parametrize("protocol", ["paper", "metric"])
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_resampled_sums_are_the_measures_of_that_multiset_of_images(name, arguments, protocol):
    task, prediction, target = data(name, arguments)
    collector = Collector(task)
    collector.update(prediction[:2], Target(target.value[:2], target.valid[:2]))
    collector.update(prediction[2:], Target(target.value[2:], target.valid[2:]))
    sums = collector.sums
    assert len(sums) == 5
    found = measures(task, sums, COUNTS, protocol)
    assert list(found) == list(task.directions)
    for row, counts in enumerate(COUNTS.tolist()):
        metric = task.metric()
        for place, count in enumerate(counts):
            for _ in range(count):
                metric.update(prediction[place : place + 1], one(target, place))
        expected = metric.compute()[protocol]
        assert {measure: float(values[row]) for measure, values in found.items()} == pytest.approx(
            expected, rel=1e-13, abs=0, nan_ok=True
        )


def test_some_images_alone_and_more_resamples_than_a_chunk():
    task, prediction, target = data("seg", {"channels": 4})
    collector = Collector(task)
    collector.update(prediction, target)
    some = collector.sums.among([4, 0])
    whole = torch.tensor([[1, 0, 0, 0, 3]])
    part = torch.tensor([[3, 1]]).expand(CHUNK + 1, 2)
    expected = measures(task, collector.sums, whole, "metric")
    found = measures(task, some, part, "metric")
    assert all(values.tolist() == expected[name].tolist() * (CHUNK + 1) for name, values in found.items())


def test_no_image_is_told():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        _ = Collector(builder("sn")(encoding="decoded")).sums
