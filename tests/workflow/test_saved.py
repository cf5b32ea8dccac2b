"""Saved networks as sparse files, ONNX models and torch programs, and back."""

import json
import struct

import pytest
import torch

from prune_utils.deploy.export import FORMATS
from prune_utils.masks import count, mask_hash, overall
from prune_utils.sparse_file import KEY, save_sparse
from tests.prune_utils.deploy.networks import random_image, random_network, worst
from training.checkpoint import versions, write_file
from workflow.saved import build_network, export_saved, for_tasks, read_saved, write_saved


@pytest.fixture
def content():
    network, mask = random_network(7, density=[0.1, 0.3, 1.0])
    return {
        "format": 1,
        "name": "nyuv2_random_90",
        "network": network.description,
        "state": {name: value.detach().clone() for name, value in network.state_dict().items()},
        "mask": mask,
        "certificate": {
            "asked": {"method": "random", "ratio": 60.0},
            "hash": mask_hash(mask),
            **overall(mask),
        },
        "config": {"data": {"dataset": "nyuv2"}},
        "step": 12,
        "versions": versions(),
        "method": "random",
        "origin": ["synthetic rooms"],
    }


def same(first, second):
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("masked", [True, False])
def test_a_sparse_file_loads_to_the_same_network_bit_for_bit(content, tmp_path, masked):
    if not masked:
        content["mask"] = content["certificate"] = None
    write_saved(content, tmp_path / "net.safetensors")
    found = read_saved(tmp_path / "net.safetensors")
    assert same(found["state"], content["state"])
    assert same(found["mask"], content["mask"]) if masked else found["mask"] is None
    plain = set(content) - {"state", "mask"}
    assert {name: found[name] for name in plain} == {name: content[name] for name in plain}


def test_a_kept_weight_that_is_zero_stays_kept(content, tmp_path):
    name = "heads.seg.0.conv1.weight"
    at = tuple(content["mask"][name].nonzero()[0])
    content["state"][name][at] = 0.0
    write_saved(content, tmp_path / "net.safetensors")
    assert same(read_saved(tmp_path / "net.safetensors")["mask"], content["mask"])


def test_half_rounds_kept_weights_only(content, tmp_path):
    write_saved(content, tmp_path / "net.safetensors", half=True)
    found = read_saved(tmp_path / "net.safetensors")["state"]
    for name, value in content["state"].items():
        expected = value.half().float() if name in content["mask"] else value
        assert torch.equal(found[name], expected)


def test_a_ninety_percent_network_shrinks_as_promised(tmp_path):
    network, mask = random_network(1, density=0.1, width=0.25)
    dense = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    for half, share in ((False, 7), (True, 11)):
        path = save_sparse(tmp_path / "net.safetensors", network, mask, half=half)
        assert path.stat().st_size * share <= dense


def rewritten_header(path, change):
    """The same file with a changed JSON header of ours."""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    own = json.loads(header["__metadata__"][KEY])
    change(own)
    header["__metadata__"][KEY] = json.dumps(own)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])


def test_files_of_the_first_format_and_of_other_programs(content, tmp_path):
    path = tmp_path / "net.safetensors"
    write_saved(content, path)

    def older(own):
        own.update(own.pop("extra"), format=1)
        del own["hash"]

    rewritten_header(path, older)
    assert read_saved(path)["certificate"] == content["certificate"]
    rewritten_header(path, lambda own: own.pop("network"))
    with pytest.raises(ValueError, match="lacks the field 'network' of a network of this program"):
        read_saved(path)
    write_file(tmp_path / "plain.pth", {"weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="plain state dict"):
        read_saved(tmp_path / "plain.pth")


def test_a_file_of_another_network_version_names_what_differs(content):
    newer = content | {"network": content["network"] | {"attention": True}}
    with pytest.raises(ValueError, match="attention; this program knows channels, backbone, width"):
        build_network(newer)
    state = dict(content["state"])
    state["backbone.stem.scale"] = torch.zeros(1)
    with pytest.raises(ValueError, match="'backbone.stem.scale' is not part of this network"):
        build_network(content | {"state": state})


def test_a_subset_keeps_every_tensor_of_its_tasks(content):
    part = for_tasks(content, ("sn",))
    assert list(part["network"]["channels"]) == ["sn"]
    assert all(torch.equal(value, content["state"][name]) for name, value in part["state"].items())
    image = random_image(0)
    with torch.no_grad():
        assert worst(build_network(part)(image), build_network(content)(image)) < 1e-6
    with pytest.raises(ValueError, match="task 'dpeth' is not one of seg, sn, depth"):
        for_tasks(content, ("dpeth",))


def runner(form, path):
    """image -> outputs, as a user without our code would run the file."""
    if form == "torch":
        return torch.export.load(path).module()
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(image):
        values = session.run(names, {"image": image.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return run


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_other_programs_run_the_exported_tasks_at_any_size(content, tmp_path, form):
    if form == "onnx":
        pytest.importorskip("onnx")
    path = tmp_path / f"net{FORMATS[form].ending}"
    export_saved(content, ("sn", "depth"), form, path, False)
    run, network = runner(form, path), build_network(content)
    for seed, (batch, height, width) in enumerate([(1, 33, 47), (3, 40, 18)]):
        image = random_image(seed, batch, height, width)
        with torch.no_grad():
            found, expected = run(image), network(image)
        assert set(found) == {"sn", "depth"}
        assert worst(found, expected) < 1e-5


def test_export_reports_what_is_left_and_leaves_no_half_file(content, tmp_path):
    done = export_saved(content, ("sn",), "sparse", tmp_path / "new" / "net.safetensors", False)
    assert 0 < done.live <= done.kept < done.prunable
    assert not done.left_dense
    assert done.channels_after <= done.channels_before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["net.safetensors"]


def test_the_certificate_of_an_export_is_that_of_its_mask(content, tmp_path):
    for tasks in (None, ("sn",)):
        path = tmp_path / f"{tasks}.safetensors"
        export_saved(content, tasks, "sparse", path)
        found = read_saved(path)
        proof, mask = found["certificate"], found["mask"]
        assert (proof["kept"], proof["hash"]) == (count(mask), mask_hash(mask))
        assert found["origin"] == ["synthetic rooms"]
        if tasks is None:
            assert proof["asked"] == {"method": "random", "ratio": 60.0}
        else:
            assert proof["asked"] == {"method": "random", "part_of": content["certificate"]["hash"]}
            assert proof["asked_keep"] is None and set(proof["tasks"]) == {"sn"}


def test_a_sparse_file_with_the_certificate_of_another_mask_is_refused(content, tmp_path):
    path = tmp_path / "net.safetensors"
    export_saved(content, None, "sparse", path)
    kept = content["certificate"]["kept"]
    rewritten_header(path, lambda own: own["extra"]["certificate"].update(kept=kept + 1))
    with pytest.raises(
        ValueError, match=f"field 'kept' of the certificate is {kept + 1}, the mask says {kept}"
    ):
        read_saved(path)


@pytest.mark.parametrize(
    ("granularity", "says"),
    [
        ("block:4096x1", "weights, which blocks of 4096 x 1 do not divide"),
        (["weight"], "is not one of weight, 2:4"),
        ({"name": "weight"}, "is not one of weight, 2:4"),
    ],
)
def test_a_certificate_of_a_granularity_that_cannot_be_is_refused(content, tmp_path, granularity, says):
    path = write_saved(content, tmp_path / "net.safetensors")
    rewritten_header(path, lambda own: own["extra"]["certificate"]["asked"].update(granularity=granularity))
    with pytest.raises(ValueError, match=f"net.safetensors: .*{says}"):
        read_saved(path)


def test_a_torch_program_holds_what_the_network_claims_to_be(content, tmp_path):
    export_saved(content, ("sn",), "torch", tmp_path / "net.pt2")
    found = {"metadata.json": ""}
    torch.export.load(tmp_path / "net.pt2", extra_files=found)
    told = json.loads(found["metadata.json"])
    assert (told["name"], told["step"], told["left_dense"]) == (content["name"], 12, {})
    assert told["certificate"]["asked"]["part_of"] == content["certificate"]["hash"]


def test_weights_outside_the_mask_count_as_kept(content, tmp_path):
    whole = export_saved(content, None, "sparse", tmp_path / "net.safetensors")
    name, kept = next(iter(content["mask"].items()))
    content["mask"] = {name: kept}
    content["certificate"] = {"asked": {}, "hash": mask_hash(content["mask"]), **overall(content["mask"])}
    part = export_saved(content, None, "sparse", tmp_path / "net.safetensors")
    assert part.prunable == whole.prunable
    assert part.kept == part.prunable - int((~kept).sum())


def test_wrong_formats_are_refused_with_the_choices(content, tmp_path):
    with pytest.raises(ValueError, match="format 'zip' is not one of sparse, onnx, torch"):
        export_saved(content, None, "zip", tmp_path / "net.zip", False)
    with pytest.raises(ValueError, match="half is for format sparse, not for onnx"):
        export_saved(content, None, "onnx", tmp_path / "net.onnx", True)
    with pytest.raises(ValueError, match="should end in .pt2"):
        export_saved(content, None, "torch", tmp_path / "net.onnx", False)
