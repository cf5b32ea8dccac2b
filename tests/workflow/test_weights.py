"""Weights in and out: published files, ImageNet backbones, own files, and what each command makes of them."""

from __future__ import annotations

import json

import pytest
import torch

from configs.arguments import parse_assignments
from configs.load import load
from dataloaders.synthetic import write
from models.imagenet import backbone_state, torchvision_name
from models.multitask import MultiTaskNet
from models.published import from_published, to_published
from prune_utils.masks import apply, prunable
from prune_utils.methods import method
from tests.scripts import ROOT, TINY, call
from training.checkpoint import write_file
from workflow.create import start_of_pruning
from workflow.experiment import open_experiment
from workflow.files import Options
from workflow.launch import trainee, training_run
from workflow.networks import export_published, load_network, new_network

CREATE, LAUNCH, EVALUATE = "create_pruned_net.py", "launch_training.py", "eval_pruned_net.py"


@pytest.fixture
def words(rooms):
    return [*TINY.split(), "--data-root", str(rooms)]


@pytest.fixture
def experiment(rooms, tmp_path, monkeypatch):
    """experiment(*assignments) is one of the tiny settings."""
    monkeypatch.chdir(ROOT)

    def make(*assignments, method="snip"):
        given = TINY.split()
        assigned = [given[i + 1] for i, word in enumerate(given) if word == "--set"]
        flags = parse_assignments([*assigned, f"data.root={rooms}", "run.device=cpu", *assignments])
        return open_experiment(load("nyuv2", ["configs/tiny.yaml"], flags), method, str(tmp_path), None)

    return make


def half(network):
    mask = {name: torch.zeros(weight.shape, dtype=torch.bool) for name, weight in prunable(network).items()}
    for kept in mask.values():
        kept.view(-1)[::2] = True
    return mask


def published(experiment, path, mask_type=torch.float32, prefix="", dense=False):
    """A published file of a new network; the network with its pruned weights at 0, and the mask."""
    network = new_network(experiment)
    mask = None if dense else half(network)
    state = to_published(network.state_dict(), mask, network.tasks)
    state = {
        prefix + name: value.to(mask_type) if name.endswith("_mask") else value
        for name, value in state.items()
    }
    torch.save(state, path)
    if mask:
        apply(network, mask)
    return network, mask


def assert_same_weights(one, two):
    for name, value in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], value), name


def test_settings_are_shown_for_a_file_that_holds_none(experiment, words, tmp_path, capsys):
    published(experiment(), tmp_path / "file.pth")
    given = [*words, "--method", "snip", "--weights", str(tmp_path / "file.pth"), "--print-config"]
    shown = call(EVALUATE, given, capsys)
    assert (shown.code, shown.err) == (0, "")
    assert any(line.split() == ["data.crop", "33", "--set"] for line in shown.out.splitlines())


@pytest.mark.parametrize(("mask_type", "prefix"), [(torch.float32, ""), (torch.int32, "module.")])
def test_published_files_are_read(mask_type, prefix, experiment, tmp_path):
    experiment = experiment()
    network, mask = published(experiment, tmp_path / "file.pth", mask_type, prefix)
    saved = load_network(experiment, tmp_path / "file.pth")
    assert_same_weights(network, saved.network)
    assert all(torch.equal(saved.mask[name], kept) for name, kept in mask.items())


def test_dense_published_and_plain_files_are_read(experiment, tmp_path):
    experiment = experiment()
    network, _ = published(experiment, tmp_path / "file.pth", dense=True)
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    for name in ("file", "plain"):
        saved = load_network(experiment, tmp_path / f"{name}.pth")
        assert saved.mask is None
        assert_same_weights(network, saved.network)


def test_what_is_exported_is_read_back(experiment, tmp_path):
    experiment = experiment()
    network = new_network(experiment)
    mask = half(network)
    apply(network, mask)
    for given, name in ((mask, "sparse"), (None, "dense")):
        path, _ = export_published(tmp_path / f"{name}.pth", network, given)
        saved = load_network(experiment, path)
        assert_same_weights(network, saved.network)
        assert (saved.mask is None) == (given is None)


@pytest.mark.parametrize(("dataset", "prefix"), [("cityscapes", ""), ("taskonomy", "module.")])
def test_trained_networks_are_exported_as_the_published_evaluation_reads_them(
    dataset, prefix, tmp_path, capsys
):
    """Taskonomy's begin with "module.", what their create script writes does not; both are read back."""
    write(tmp_path / "data", dataset, 4, size=(64, 64))
    common = [*TINY.split(), "--dataset", dataset, "--dest", str(tmp_path)]
    common += ["--data-root", str(tmp_path / "data")]
    given = [*common, "--method", "magnitude", "--max-iters", "2", "--set", "run.preflight=false"]
    made, trained = (str(tmp_path / f"{name}.pth") for name in ("made", "trained"))
    assert call(CREATE, [*given, "--export-published", made], capsys).code == 0
    assert call(LAUNCH, [*given, "--export-published", trained], capsys).code == 0
    for path, start in ((made, ""), (trained, prefix)):
        names = torch.load(path, weights_only=True)
        assert {name.startswith("module.") for name in names} == {start == "module."}
        assert f"{start}task1_fc1_c0.conv1.weight_mask" in names
    results = []
    for name, path in (("theirs", trained), ("ours", str(tmp_path / f"best_{dataset}_magnitude_90.pth"))):
        again = call(EVALUATE, [*common, "--weights", path, "--name", name], capsys)
        assert again.code == 0, again.err
        results.append(json.loads((tmp_path / f"{name}.json").read_text())["metrics"])
    assert results[0] == results[1]


def test_pruning_starts_from_the_named_file(experiment, tmp_path):
    experiment = experiment("run.seed=5")
    network, _ = published(experiment, tmp_path / "file.pth", dense=True)
    other = new_network(experiment)
    torch.nn.init.ones_(other.backbone.stem.norm.weight)
    saved = start_of_pruning(experiment, method("magnitude"), Options(init_from=str(tmp_path / "file.pth")))
    assert_same_weights(network, saved.network)


def test_a_sparse_file_is_trained_with_its_own_mask(experiment, tmp_path):
    experiment = experiment()
    _, mask = published(experiment, tmp_path / "file.pth")
    run, source = training_run(experiment, method("snip"), Options(init_from=str(tmp_path / "file.pth")))
    assert source.endswith("file.pth")
    assert all(torch.equal(run.mask[name], kept) for name, kept in mask.items())
    proof = run.pruning.certify(run.mask)
    assert proof["asked"] == {"weights": "file.pth"} and proof["asked_keep"] is None
    assert proof["kept"] == sum(int(kept.sum()) for kept in mask.values())


def test_a_sparse_file_never_loses_its_mask_unsaid(experiment, tmp_path):
    published(experiment(), tmp_path / "file.pth")
    dense, options = experiment(method="baseline"), Options(init_from=str(tmp_path / "file.pth"))
    with pytest.raises(ValueError, match="file.pth holds a sparse network, and --method baseline would drop"):
        training_run(dense, None, options)


def test_a_dense_file_starts_the_dense_network_and_a_dynamic_one(experiment, tmp_path):
    experiment = experiment(method="set")
    network, _ = published(experiment, tmp_path / "file.pth", dense=True)
    options = Options(init_from=str(tmp_path / "file.pth"))
    assert_same_weights(network, trainee(experiment, None, options)[0].network)
    run, source = training_run(experiment, method("set"), options)
    assert run.mask is not None and source.endswith("erk densities")


def test_through_the_scripts(words, tmp_path, capsys):
    files = {name: str(tmp_path / f"{name}.pth") for name in ("made", "trained")}
    given = [*words, "--method", "snip", "--dest", str(tmp_path / "dest")]
    assert call(CREATE, [*given, "--export-published", files["made"]], capsys).code == 0
    assert call(LAUNCH, [*given, "--export-published", files["trained"]], capsys).code == 0
    again = [*words, "--method", "snip", "--dest", str(tmp_path / "again"), "--init-from", files["made"]]
    assert call(LAUNCH, again, capsys).code == 0
    one, two = (
        torch.load(tmp_path / place / "final_nyuv2_snip_90.pth", weights_only=True)
        for place in ("dest", "again")
    )
    assert all(torch.equal(one["state"][name], value) for name, value in two["state"].items())
    assert one["certificate"]["hash"] == two["certificate"]["hash"]
    scores = call(EVALUATE, [*words, "--weights", files["trained"], "--name", "theirs"], capsys)
    assert scores.code == 0 and "mIoU" in scores.out


# --------------------------------------------------------------------- ImageNet
@pytest.mark.parametrize("backbone", ["resnet18", "resnet34"])
def test_the_backbone_computes_what_torchvision_computes(backbone):
    import torchvision

    theirs = getattr(torchvision.models, backbone)().eval()
    network = MultiTaskNet({"seg": 2}, backbone).eval()
    state = backbone_state(theirs.state_dict(), network.state_dict())
    assert set(state) == {name for name in network.state_dict() if name.startswith("backbone.")}
    network.load_state_dict(state, strict=False)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    rgb = torch.rand(2, 3, 40, 48)
    ours = network.backbone.stem[:3]((255 * (rgb - mean)).flip(1))
    expected = theirs.relu(theirs.bn1(theirs.conv1((rgb - mean) / deviation)))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    block = network.backbone.stages["1"]["0"]
    torch.testing.assert_close(block(expected), theirs.layer2[0](expected))


def test_private_backbones_start_alike():
    import torchvision

    network = MultiTaskNet({"seg": 2, "sn": 3}, "resnet18", branch_after="stages.1.1")
    state = backbone_state(torchvision.models.resnet18().state_dict(), network.state_dict())
    pair = [state[f"branches.{task}.stages.3.1.conv2.weight"] for task in ("seg", "sn")]
    assert torch.equal(*pair)
    assert not any(name.startswith("heads.") for name in state)


def test_names_of_torchvision():
    assert (
        torchvision_name("backbone.stages.2.0.shortcut.1.running_mean")
        == "layer3.0.downsample.1.running_mean"
    )
    assert torchvision_name("branches.seg.stages.0.1.norm2.weight") == "layer1.1.bn2.weight"
    assert torchvision_name("heads.seg.0.conv1.weight") is None


def test_backbones_of_another_network_are_refused():
    import torchvision

    state = torchvision.models.resnet18().state_dict()
    narrow = MultiTaskNet({"seg": 2}, "resnet18", width=0.1).state_dict()
    with pytest.raises(ValueError, match=r"'conv1.weight' .*\(64, 3, 7, 7\), .* \(6, 3, 7, 7\): .*--width 1"):
        backbone_state(state, narrow)
    with pytest.raises(ValueError, match="'layer1.2.conv1.weight' is missing"):
        backbone_state(state, MultiTaskNet({"seg": 2}, "resnet34").state_dict())
    deeper = torchvision.models.resnet34().state_dict()
    with pytest.raises(ValueError, match="'layer1.2.conv1.weight' is not part of this backbone"):
        backbone_state(deeper, MultiTaskNet({"seg": 2}, "resnet18").state_dict())


def test_the_settings_name_the_backbone(experiment, tmp_path, monkeypatch):
    import torchvision

    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "backbone.pth")
    changes = ("model.width=1", f"model.backbone_weights={tmp_path}/backbone.pth")
    network = new_network(experiment(*changes))
    assert torch.equal(network.backbone.stages["3"]["1"].conv2.weight, state["layer4.1.conv2.weight"])
    monkeypatch.setattr("workflow.networks.download", lambda backbone: {"resnet18": state}[backbone])
    network = new_network(experiment("model.width=1", "model.backbone_weights=imagenet"))
    assert torch.equal(network.backbone.stages["3"]["1"].conv2.weight, state["layer4.1.conv2.weight"])


def test_without_a_connection_the_file_is_asked_for(monkeypatch):
    from urllib.error import URLError

    from models.imagenet import download

    def offline(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ConnectionError, match="cannot download .*resnet18-f3.*--backbone-weights FILE"):
        download("resnet18")


# -------------------------------------------------------------------- full size
def test_round_trip_through_the_published_form_at_full_size(tmp_path):
    torch.manual_seed(0)
    network = MultiTaskNet({"seg": 40, "sn": 3}).eval()
    mask = half(network)
    apply(network, mask)
    path = write_file(tmp_path / "full.pth", to_published(network.state_dict(), mask, network.tasks))
    with torch.device("meta"):
        other = MultiTaskNet({"seg": 40, "sn": 3}).eval()
    state = torch.load(path, weights_only=True)
    state, kept = from_published(state, other.state_dict(), other.tasks)
    other.load_state_dict(state, assign=True)
    assert all(torch.equal(kept[name], mask[name]) for name in mask)
    image = 50 * torch.randn(1, 3, 97, 97)
    with torch.no_grad():
        expected, found = network(image), other(image)
    for task, prediction in expected.items():
        assert (found[task] - prediction).abs().max() <= 1e-5 * prediction.abs().max()
