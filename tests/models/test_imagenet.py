"""The backbone from torchvision's ImageNet ResNets: same features, names, errors. Nothing is downloaded."""

import pytest
import torch
from torchvision.models import resnet18, resnet34
from torchvision.transforms.functional import normalize

from models.imagenet import DEVIATION, backbone_state, download, torchvision_name
from models.multitask import MultiTaskNet

MEAN = (0.485, 0.456, 0.406)  # of torchvision's images, red first


def with_statistics(network):
    """The network with norms that are not the identity, in evaluation mode."""
    chance = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=chance)
    return network.eval()


@pytest.mark.parametrize("branch_after", [None, "stem"])
def test_features_are_torchvisions(branch_after):
    theirs = with_statistics(resnet18())
    ours = MultiTaskNet({"seg": 2}, "resnet18", branch_after=branch_after).eval()
    ours.load_state_dict(backbone_state(theirs.state_dict(), ours.state_dict()), strict=False)
    red_first = torch.rand(1, 3, 65, 65, generator=torch.Generator().manual_seed(1))
    bgr = (255 * (red_first - torch.tensor(MEAN).view(3, 1, 1))).flip(1)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(normalize(red_first, MEAN, DEVIATION)))))
        expected = theirs.layer2(theirs.layer1(x))
        found = ours.backbone.stem(bgr)
        stages = (ours.branches["seg"] if branch_after else ours.backbone).stages
        for block in [*stages["0"].values(), *stages["1"].values()]:
            found = block(found)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_every_tensor_of_the_backbone_is_filled_and_no_other():
    ours = MultiTaskNet({"seg": 2, "sn": 3}, "resnet34", branch_after="stages.1.3").state_dict()
    filled = backbone_state(resnet34().state_dict(), ours)
    assert set(filled) == {name for name in ours if not name.startswith("heads.")}
    place = "stages.3.0.conv1.weight"
    assert torch.equal(filled[f"branches.seg.{place}"], filled[f"branches.sn.{place}"])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("backbone.stem.conv.weight", "conv1.weight"),
        ("backbone.stem.norm.running_var", "bn1.running_var"),
        ("backbone.stages.0.1.conv2.weight", "layer1.1.conv2.weight"),
        ("backbone.stages.3.2.norm1.bias", "layer4.2.bn1.bias"),
        ("branches.sn.stages.2.0.shortcut.1.weight", "layer3.0.downsample.1.weight"),
        ("heads.seg.0.conv1.weight", None),
    ],
)
def test_names(ours, theirs):
    assert torchvision_name(ours) == theirs


def test_what_does_not_fit_is_named():
    theirs = resnet18().state_dict()
    with pytest.raises(ValueError, match="'layer1.2.conv1.weight' is missing, .* to match --backbone"):
        backbone_state(theirs, MultiTaskNet({"seg": 2}, "resnet34").state_dict())
    with pytest.raises(ValueError, match="'conv1.weight' has shape .* need --width 1"):
        backbone_state(theirs, MultiTaskNet({"seg": 2}, "resnet18", 0.5).state_dict())
    with pytest.raises(ValueError, match="'layer1.2.conv1.weight' is not part of this backbone"):
        backbone_state(resnet34().state_dict(), MultiTaskNet({"seg": 2}, "resnet18").state_dict())


def test_without_a_connection_the_error_says_what_to_do(monkeypatch):
    def refuse(*words, **more):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(
        ConnectionError, match="no route to host; fetch it elsewhere .*--backbone-weights FILE"
    ):
        download("resnet18")
