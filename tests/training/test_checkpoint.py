"""Files: whole or not at all, damage noticed, nothing of theirs run."""

import os
import zipfile

import pytest
import torch
from torch import nn

from training.checkpoint import check_tensors, load_state, read_file, write_file

CONTENT = {"weights": torch.arange(1000.0), "step": 3}


def test_what_is_written_is_read(tmp_path):
    path = write_file(tmp_path / "new" / "a.pth", CONTENT)
    back = read_file(path)
    assert torch.equal(back["weights"], CONTENT["weights"]) and back["step"] == 3
    assert [entry.name for entry in path.parent.iterdir()] == ["a.pth"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_file(tmp_path / "a.pth", CONTENT)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_file(path, {"weights": torch.ones(3), "file": (byte for byte in b"cannot be pickled")})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]


def test_leftovers_of_killed_writers_go(tmp_path):
    (tmp_path / ".a.pth.99999.part").touch()
    (tmp_path / ".b.pth.99999.part").touch()
    write_file(tmp_path / "a.pth", CONTENT)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".b.pth.99999.part", "a.pth"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "a.pth").mkdir()
    with pytest.raises(OSError, match=r"cannot write .*a\.pth: .* MiB free there"):
        write_file(tmp_path / "a.pth", CONTENT)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("place", range(10))
def test_any_damage_is_noticed(place, tmp_path):
    path = write_file(tmp_path / "a.pth", CONTENT)
    content = bytearray(path.read_bytes())
    content[len(content) * place // 10 + 40] ^= 1
    path.write_bytes(content)
    try:
        back = read_file(path)
    except ValueError as error:
        assert "a.pth" in str(error)
    else:  # padding between the entries holds nothing
        assert torch.equal(back["weights"], CONTENT["weights"]) and back["step"] == 3


FOREIGN = ["deflated", "bzip2", "lzma", "a place before the file"]


@pytest.mark.parametrize("claim", FOREIGN)
def test_a_directory_that_says_what_is_not_so_is_damage(claim, tmp_path):
    """The file's list of what is in it claims that a part is packed, or lies where nothing can."""
    path = write_file(tmp_path / "a.pth", CONTENT)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first = archive.start_dir
    if claim == FOREIGN[-1]:
        content[content.rindex(b"PK\6\6") + 49] ^= 64  # the directory's place, of which others are taken
    else:
        content[first + 10] = {"deflated": 8, "bzip2": 12, "lzma": 14}[claim]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pth is damaged or no file of PyTorch"):
        read_file(path)


@pytest.mark.parametrize("part", [0, 100, 2000])
def test_a_truncated_file_is_damaged(part, tmp_path):
    path = write_file(tmp_path / "a.pth", CONTENT)
    path.write_bytes(path.read_bytes()[:part])
    with pytest.raises(ValueError, match=r"a\.pth is damaged or no file of PyTorch"):
        read_file(path)


class Attack:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_of_a_file_is_run(zipped, tmp_path):
    torch.save({"a": Attack(tmp_path / "mark")}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="something other than tensors and plain values: not loaded"):
        read_file(tmp_path / "a.pth")
    assert not (tmp_path / "mark").exists()


def test_what_is_no_dictionary_is_no_network(tmp_path):
    torch.save([1, 2], tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth holds a list, not a network"):
        read_file(tmp_path / "a.pth")


def test_state_dicts_lose_the_wrappers_prefix():
    assert list(check_tensors({"module.a": torch.ones(1), "b": torch.ones(1)}, "x")) == ["a", "b"]
    with pytest.raises(ValueError, match="entry 'epoch' is a int"):
        check_tensors({"a": torch.ones(1), "epoch": 3}, "x")
    with pytest.raises(ValueError, match="x holds no tensor"):
        check_tensors({}, "x")


def test_the_first_tensor_that_does_not_fit_is_named():
    layer = nn.Linear(2, 3)
    state = layer.state_dict()
    with pytest.raises(ValueError, match=r"x lacks tensor 'bias' with shape \(3,\)"):
        load_state(layer, {"weight": state["weight"]}, "x")
    with pytest.raises(ValueError, match=r"'weight' has shape \(3, 1\), the network's is \(3, 2\)"):
        load_state(layer, state | {"weight": torch.ones(3, 1)}, "x")
    with pytest.raises(ValueError, match="'other' is not part of this network"):
        load_state(layer, state | {"other": torch.ones(1)}, "x")
