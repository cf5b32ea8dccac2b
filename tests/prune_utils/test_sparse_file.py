"""A network of the user's own class to a small file and back; every claim of a file is checked."""

import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from prune_utils import apply, certificate, load_sparse, mask_hash, read_sparse, save_sparse, sparse_file
from prune_utils.positions import CODINGS
from prune_utils.sparse_file import KEY


class Own(nn.Module):
    """Two heads on a small trunk, tied to nothing of ours."""

    def __init__(self, width=6):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv1d(3, width, 3), nn.BatchNorm1d(width))
        self.a, self.b = nn.Linear(width, 2), nn.Linear(width, 2)
        self.register_buffer("nothing", torch.zeros(0))


def pruned(seed=0):
    """(network, mask, certificate)."""
    torch.manual_seed(seed)
    model = Own()
    mask = {"trunk.0.weight": torch.rand(6, 3, 3) < 0.3, "a.weight": torch.rand(2, 6) < 0.5}
    mask["b.weight"] = torch.ones(2, 6, dtype=torch.bool)
    with torch.no_grad():
        for name, kept in mask.items():
            model.get_parameter(name).mul_(kept)
    return model, mask, certificate(mask, {name: frozenset({"a"}) for name in mask}, {"ratio": None})


def same(first, second):
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("masked", [True, False])
def test_a_file_loads_to_the_same_network_bit_for_bit(tmp_path, masked):
    model, mask, cert = pruned()
    mask, cert = (mask, cert) if masked else (None, None)
    path = save_sparse(tmp_path / "new" / "net.safetensors", model, mask, cert, extra={"epoch": 3})
    twin = Own()
    found = load_sparse(path, twin)
    assert same(twin.state_dict(), model.state_dict())
    assert found.certificate == (json.loads(json.dumps(cert)) if masked else None)
    assert found.extra == {"epoch": 3}
    assert same(found.mask, mask) if masked else found.mask is None
    assert [file.name for file in path.parent.iterdir()] == ["net.safetensors"]


WRAPS = {
    "compiled": lambda part: torch.compile(part, backend="eager"),
    "DataParallel": nn.DataParallel,
    "checkpointed": lambda part: checkpoint_wrapper(nn.Sequential(*map(checkpoint_wrapper, part))),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_wrappers_of_a_part_leave_no_trace(tmp_path, wrap):
    model, mask, cert = pruned()
    plain = save_sparse(tmp_path / "plain.safetensors", model, mask, cert)
    twin = Own()
    twin.trunk = wrap(twin.trunk)
    load_sparse(plain, twin)
    wrapped = save_sparse(tmp_path / "wrapped.safetensors", twin, mask, cert)
    assert wrapped.read_bytes() == plain.read_bytes()
    load_sparse(wrapped, again := Own())
    assert same(again.state_dict(), model.state_dict())


class Versioned(nn.Linear):
    """A layer that reads a state without a version as one of an older release, as MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        assert metadata.get("version") == 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_versions_of_the_networks_layers_are_handed_on(tmp_path):
    net = nn.Sequential(Versioned(2, 2))
    path = save_sparse(tmp_path / "net.safetensors", net, None)
    twin = nn.Sequential(Versioned(2, 2))
    load_sparse(path, twin)
    assert torch.equal(twin[0].weight, net[0].weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types_are_kept(tmp_path, dtype):
    model, mask, _ = pruned()
    model.to(dtype)
    path = save_sparse(tmp_path / "net.safetensors", model.state_dict(), mask, half=True)
    assert same(read_sparse(path).state, model.state_dict())
    assert read_sparse(path).state["trunk.0.weight"].dtype == dtype


def test_tied_weights_are_written_once(tmp_path):
    model = Own()
    model.b.weight = model.a.weight
    path = save_sparse(tmp_path / "tied.safetensors", model, None)
    apart = save_sparse(tmp_path / "apart.safetensors", Own(), None)
    assert path.stat().st_size < apart.stat().st_size
    assert same(read_sparse(path).state, model.state_dict())


def test_gathered_tensors_that_take_each_others_place_in_memory_are_not_tied(tmp_path, monkeypatch):
    monkeypatch.setattr(sparse_file, "whole", lambda tensor: tensor.clone())
    state = {f"w{place}": torch.zeros(512) for place in range(8)}
    mask = {name: torch.zeros(512, dtype=torch.bool) for name in list(state)[:4]}
    for place, value in enumerate(state.values()):
        value[0] = place
    for kept in mask.values():
        kept[0] = True
    state["twin"] = state["w7"]
    path = save_sparse(tmp_path / "net.safetensors", state, mask)
    assert same(read_sparse(path).state, state)
    codings = json.loads(safe_open(path, "pt").metadata()[KEY])["codings"]
    assert [name for name, how in codings.items() if how["coding"] == "tied"] == ["twin"]


def test_a_dense_network_has_no_weights_for_16_bits(tmp_path):
    with pytest.raises(ValueError, match="half is for the kept weights of a mask, and this network is dense"):
        save_sparse(tmp_path / "net.safetensors", Own(), None, half=True)
    assert not list(tmp_path.iterdir())


def test_what_does_not_belong_together_is_not_saved(tmp_path):
    model, mask, cert = pruned()
    path = tmp_path / "net.safetensors"
    wrong = [
        ({"gone.weight": mask["a.weight"]}, None, "names 'gone.weight', which is no tensor"),
        ({"a.weight": mask["a.weight"].float()}, None, "mask of 'a.weight' is torch.float32"),
        ({"a.weight": mask["a.weight"][:1]}, None, r"has shape \(1, 6\), the weight \(2, 6\)"),
        ({"b.weight": mask["a.weight"]}, None, "pruned weights that are not 0"),
        ({"a.weight": mask["a.weight"]}, cert, "field 'kept' of the certificate is 39, the mask says"),
        (None, cert, "speaks of a mask, and there is none"),
    ]
    for bad, told, message in wrong:
        with pytest.raises(ValueError, match=message):
            save_sparse(path, model, bad, told)
    with pytest.raises(ValueError, match="'count' of the state is a int"):
        save_sparse(path, {"count": 3}, None)
    model.trunk[0].weight.data.mul_(1e8)
    with pytest.raises(ValueError, match="beyond 16 bits"):
        save_sparse(path, model, mask, half=True)
    assert not list(tmp_path.iterdir())


def test_names_that_are_the_same_in_the_file_are_refused(tmp_path):
    kept, path = torch.tensor([False, True]), tmp_path / "net.safetensors"
    value, other = kept.float(), torch.tensor([5.0])
    for state in ({"a": value, "a.values": other}, {"a.positions": other, "a": value}):
        name = next(name for name in state if name != "a")
        with pytest.raises(ValueError, match=f"two tensors of the network would be '{name}' in the file"):
            save_sparse(path, state, {"a": kept})
    assert not list(tmp_path.iterdir())
    save_sparse(path, {"a": value}, {"a": kept})
    rewritten(path, lambda own: own["codings"].update({"a.values": {"coding": "dense", "mask": False}}))
    with pytest.raises(ValueError, match="net.safetensors: two tensors of the network are 'a.values' in the"):
        read_sparse(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(2, dtype=torch.complex128), "torch.complex128, torch.strided"),
        (torch.eye(2).to_sparse(), "torch.float32, torch.sparse_coo"),
        (torch.zeros(2, device="meta"), "torch.float32, torch.strided, without values"),
    ],
)
def test_a_tensor_that_no_file_holds_is_named(tmp_path, value, said):
    with pytest.raises(ValueError, match=f"'odd' is a tensor that no safetensors file holds: {said}$"):
        save_sparse(tmp_path / "net.safetensors", {"plain": torch.zeros(1), "odd": value}, None)
    assert not list(tmp_path.iterdir())


def test_what_travels_along_is_json(tmp_path):
    with pytest.raises(ValueError, match="cannot be written as JSON: Object of type PosixPath is not"):
        save_sparse(tmp_path / "net.safetensors", Own(), None, extra={"path": tmp_path})
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_network_is_refused_and_changes_nothing(tmp_path):
    model, mask, _ = pruned()
    path = save_sparse(tmp_path / "net.safetensors", model, mask)
    wide, half, more, less = Own(8), Own().half(), Own(), Own()
    more.c = nn.Linear(1, 1)
    del less.b
    for other, message in (
        (wide, r"'trunk.0.weight' has shape \(6, 3, 3\), the network's is \(8, 3, 3\)"),
        (half, "'nothing' is torch.float32, the network's is torch.float16"),
        (more, r"lacks tensor 'c.weight' of the network, with shape \(1, 1\)"),
        (less, "'b.weight' is not part of the network"),
    ):
        before = {name: value.clone() for name, value in other.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            load_sparse(path, other)
        assert same(other.state_dict(), before)


def rewritten(path, change):
    """The same file with a changed JSON header of ours."""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    own = json.loads(header["__metadata__"][KEY])
    change(own)
    header["__metadata__"][KEY] = json.dumps(own)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])


def packed(own):
    return own["codings"]["trunk.0.weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.update(format=9), "has sparse format 9, this program reads 2"),
        (lambda own: own.pop("extra"), "lacks the field 'extra'"),
        (lambda own: packed(own).update(shape=[1, 1]), "'trunk.0.weight' cannot be decoded"),
        (lambda own: packed(own).update(shape=[6, 9]), "its mask is not the one whose hash"),
        (lambda own: packed(own).update(kept=1), "cannot be decoded"),
        (lambda own: packed(own).update(coding="zip"), r"cannot be decoded \('zip'\)"),
        (lambda own: packed(own).update(dtype="bfloat16"), "float32 values for a tensor of bfloat16"),
        (lambda own: packed(own).update(dtype="load"), "'load' is no type of tensors"),
        (lambda own: own["codings"]["b.bias"].update(shape=[1, 2]), r"shape \(2,\) instead of \(1, 2\)"),
        (lambda own: own["codings"].update(gone={"coding": "dense", "mask": False}), "'gone'"),
        (lambda own: own["codings"].pop("b.bias"), "holds tensor 'b.bias', of which its header says nothing"),
        (lambda own: own.update(hash="0" * 64), "its mask is not the one whose hash"),
        (lambda own: own.update(masked=False), "says that it is dense and holds a mask"),
        (lambda own: own.update(hash=None), "its mask is not the one whose hash"),
        (
            lambda own: own["certificate"].update(sparsity=0.999, density=0.001, pruned=5),
            "net.safetensors: field 'pruned' of the certificate is 5, the mask says",
        ),
        (lambda own: own["certificate"].update(density=0.001), "field 'density' of the certificate is 0.001"),
        (lambda own: own["certificate"]["layers"]["a"].update(kept=1), "layer 'a' of 'layers' in the"),
        (lambda own: own["certificate"]["layers"].pop("a"), "names other layers than the mask"),
        (lambda own: own["certificate"].update(asked={"granularity": "2:4"}), "net.safetensors: .*'trunk.0"),
        (lambda own: own["certificate"]["asked"].update(granularity=5), "net.safetensors: .*5"),
        (
            lambda own: own["certificate"].update(kept=1),
            "field 'kept' of the certificate is 1, the mask says",
        ),
    ],
)
def test_a_header_that_claims_something_else_is_refused(tmp_path, change, message):
    path = save_sparse(tmp_path / "net.safetensors", *pruned())
    rewritten(path, change)
    with pytest.raises(ValueError, match=message):
        load_sparse(path, Own())


def thin(tmp_path, size=4000):
    """A file of one layer, one weight of which is kept: its positions are a byte."""
    kept = torch.arange(size) == 0
    return save_sparse(tmp_path / "net.safetensors", {"weight": kept.float()}, {"weight": kept})


def claims(path, **fields):
    rewritten(path, lambda own: own["codings"]["weight"].update(fields))
    return path


def unpacked(packed, count):
    pytest.fail(f"{count} positions were unpacked")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([10**15], "by the shape of 'weight' it has more weights than its bytes can tell of"),
        ([10**4000, 10**4000], "by the shape of 'weight' it has more weights than its bytes can tell of"),
        (["9"], "'weight' claims shape ..9.., which is none"),
        ([-4, -1000], "'weight' claims shape .-4, -1000., which is none"),
        ("4000", "'weight' claims shape '4000', which is none"),
        (None, "'weight' claims shape None, which is none"),
    ],
)
def test_a_claim_beyond_all_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, shape, message):
    path = claims(thin(tmp_path), shape=shape)
    monkeypatch.setitem(CODINGS, "gaps", (CODINGS["gaps"][0], unpacked))
    with pytest.raises(ValueError, match=f"net.safetensors.*{message}"):
        read_sparse(path)


def test_a_shape_of_too_many_sides_is_refused_by_the_files_name(tmp_path):
    path = claims(thin(tmp_path), shape=[4000] + [1] * 64)
    with pytest.raises(ValueError, match="^.*net.safetensors: number of dimensions"):
        read_sparse(path)


def test_what_the_network_has_no_room_for_is_not_unpacked(tmp_path, monkeypatch):
    path, net = claims(thin(tmp_path), shape=[5000]), nn.Module()
    net.weight = nn.Parameter(torch.zeros(4000))
    monkeypatch.setitem(CODINGS, "gaps", (CODINGS["gaps"][0], unpacked))
    with pytest.raises(ValueError, match=r"'weight' has shape \(5000,\), the network's is \(4000,\)"):
        load_sparse(path, net)
    with pytest.raises(ValueError, match="'weight' is not part of the network"):
        load_sparse(path, nn.Sequential(nn.Linear(1, 1)))


def test_positions_of_another_type_are_refused(tmp_path):
    path = thin(tmp_path)
    with safe_open(path, "pt") as file:
        metadata, value = file.metadata(), file.get_tensor("weight.values")
    parts = {"weight.values": value, "weight.positions": torch.tensor([9000, -9000])}
    own = json.loads(metadata[KEY])
    own["checksum"] = sparse_file._checksum(parts)
    path.write_bytes(save(parts, metadata={KEY: json.dumps(own)}))
    with pytest.raises(ValueError, match="'weight' cannot be decoded .positions are int64, not bytes"):
        read_sparse(path)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = save_sparse(tmp_path / "net.safetensors", *pruned())
    whole = path.read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "is damaged or no safetensors file"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "checksum does not fit"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_sparse(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="safetensors file of something else"):
        read_sparse(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_sparse(tmp_path / "none.safetensors")


def test_files_of_the_first_format_are_read(tmp_path):
    model, mask, _ = pruned()
    path = save_sparse(tmp_path / "net.safetensors", model, mask)

    def older(own):
        own.update(format=1, name="n", certificate={"ratio": 90})
        for field in ("hash", "extra"):
            del own[field]
        for how in own["codings"].values():
            del how["dtype"]
            if how["coding"] == "dense":
                del how["shape"]

    rewritten(path, older)
    found = read_sparse(path)
    floats = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    assert same({name: found.state[name] for name in floats}, floats)
    assert mask_hash(found.mask) == mask_hash(mask)
    assert found.extra == {"name": "n", "certificate": {"ratio": 90}}


@pytest.mark.parametrize("field", ["masked", "codings", "certificate", "extra"])
@pytest.mark.parametrize("value", [3, "x", [1]])
def test_a_header_of_other_types_is_named(tmp_path, field, value):
    path = save_sparse(tmp_path / "net.safetensors", {"w": torch.ones(2)}, None)
    header = json.loads(safe_open(path, "pt").metadata()[KEY]) | {field: value}
    path.write_bytes(save({"w": torch.ones(2)}, metadata={KEY: json.dumps(header)}))
    with pytest.raises(ValueError, match=f"net.safetensors: field '{field}' of its header"):
        read_sparse(path)


@pytest.mark.parametrize(
    "wrapped", [lambda net: torch.compile(net, backend="eager"), nn.DataParallel, AveragedModel]
)
def test_wrappers_change_no_file(tmp_path, wrapped):
    net, twin = (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)) for _ in range(2))
    mask = {"0.weight": torch.rand(3, 4) < 0.5}
    apply(net, mask)
    plain = save_sparse(tmp_path / "plain.safetensors", net, mask)
    file = save_sparse(tmp_path / "wrapped.safetensors", wrapped(net), mask)
    assert file.read_bytes() == plain.read_bytes()
    found = load_sparse(file, wrapped(twin) if wrapped is not AveragedModel else twin)
    assert torch.equal(found.mask["0.weight"], mask["0.weight"])
    for name, value in net.state_dict().items():
        assert torch.equal(twin.state_dict()[name], value)
