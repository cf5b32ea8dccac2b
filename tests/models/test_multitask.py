"""The network is the published one, and its owners are those that autograd finds."""

import pytest
import torch

from models.multitask import MultiTaskNet
from models.resnet import backbone_units

TINY = dict(backbone="resnet18", width=0.06)


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_full_size_network_has_the_published_number_of_parameters():
    with torch.device("meta"):
        net = MultiTaskNet({"seg": 40, "sn": 3})
    assert size(net) == 67_614_700
    assert size(net.backbone) == 21_284_672


@pytest.mark.parametrize("image, features", [(321, 41), (224, 29), (64, 9)])
def test_output_is_about_an_eighth_of_the_image(image, features):
    with torch.device("meta"):
        net = MultiTaskNet({"seg": 5, "depth": 1}, **TINY)
        out = net(torch.zeros(2, 3, image, image))
    assert out["seg"].shape == (2, 5, features, features)
    assert out["depth"].shape == (2, 1, features, features)


def test_initialisation_of_backbone_and_norms():
    torch.manual_seed(0)
    net = MultiTaskNet({"seg": 5}, backbone="resnet18", width=0.5)
    weight = net.backbone.stages["3"]["1"].conv2.weight
    assert abs(weight.std().item() - 0.01) < 2e-4
    norm = net.backbone.stem.norm
    assert torch.equal(norm.weight, torch.ones_like(norm.weight)) and not norm.bias.any()


@pytest.mark.parametrize("branch_after", [None, "stem", "stages.1.1"])
def test_declared_owners_are_those_of_the_graph(branch_after):
    torch.manual_seed(0)
    net = MultiTaskNet({"seg": 2, "depth": 1, "edge": 1}, **TINY, branch_after=branch_after)
    out = net(torch.randn(2, 3, 32, 32))
    parameters = dict(net.named_parameters())
    found = {name: set() for name in parameters}
    for task, prediction in out.items():
        gradients = torch.autograd.grad(
            prediction.square().sum(), parameters.values(), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                found[name].add(task)
    assert {name: frozenset(tasks) for name, tasks in found.items()} == net.owners()


@pytest.mark.parametrize("branch_after", [None, "stages.1.1"])
def test_channels_last_is_the_order_of_features_alone(branch_after):
    plain, net = (
        MultiTaskNet({"seg": 2, "depth": 1}, **TINY, branch_after=branch_after, channels_last=last).eval()
        for last in (False, True)
    )
    net.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 40, 48)
    for task, expected in plain(image).items():
        out = net(image)[task]
        assert expected.is_contiguous() and out.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(out, expected)
        out.sum().backward()
    assert all(p.is_contiguous() and p.grad.is_contiguous() for p in net.parameters())


def test_branches_start_after_the_named_unit():
    net = MultiTaskNet({"seg": 2, "depth": 1}, **TINY, branch_after="stages.2.1")
    shared = {name for name, tasks in net.owners().items() if len(tasks) == 2}
    assert "backbone.stages.2.1.conv2.weight" in shared
    assert "branches.seg.stages.3.0.conv1.weight" in net.owners()
    assert not any(name.startswith("branches") for name in shared)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(backbone="resnet50"), "backbone 'resnet50' is not one of resnet18, resnet34"),
        (dict(width=0), "width 0 is not in"),
        (dict(branch_after="stages.9.9"), "branch-after 'stages.9.9' is not one of stem, stages.0.0"),
    ],
)
def test_wrong_arguments_name_the_choices(arguments, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        MultiTaskNet({"seg": 2}, **arguments)


def test_units_of_resnet34():
    units = backbone_units("resnet34", 1.0)
    assert len(units) == 17
    assert [unit.dilation for unit in units[-3:]] == [4, 4, 4]
    assert [unit.name for unit in units if unit.stride == 2] == ["stages.1.0"]
