import pytest
import torch

from configs.load import load
from models.multitask import MultiTaskNet
from workflow.networks import matched_width


@pytest.mark.parametrize(("width", "tasks"), [(0.25, ("seg", "sn")), (0.125, ("seg", "sn", "depth"))])
def test_networks_for_one_task_have_together_the_parameters_of_one_for_all(width, tasks):
    config = load("nyuv2", flags={"model": {"width": width}, "data": {"tasks": list(tasks)}})
    channels = {"seg": 40, "sn": 3, "depth": 1}

    def parameters(names, factor):
        with torch.device("meta"):
            network = MultiTaskNet({name: channels[name] for name in names}, config.model.backbone, factor)
        return sum(value.numel() for value in network.parameters())

    found = matched_width(config)
    wanted, together = parameters(tasks, width), sum(parameters([task], found) for task in tasks)
    assert found < width
    assert together == pytest.approx(wanted, rel=0.03)


def test_a_network_for_one_task_matches_itself():
    config = load("nyuv2", flags={"model": {"width": 0.25}, "data": {"tasks": ["seg"]}})
    assert matched_width(config) == pytest.approx(0.25, abs=0.01)
