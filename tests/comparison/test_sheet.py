"""The command of a network's sheet: any network's file, named by its class."""

import pytest
import torch

from comparison.sheet import main
from prune_utils.sparse_file import save_sparse
from prune_utils.zeroing import zero_pruned
from tests.prune_utils.test_inventory import MASK, Pair

MODEL = "tests.prune_utils.test_inventory:Pair"


def saved(folder, **fields):
    content = {"format": 1, "name": "pair", "network": {"width": 4}, "mask": MASK, "certificate": None}
    torch.save(content | fields, folder / "pair.pth")
    return [str(folder / "pair.pth"), "--model", MODEL, "--size", "8x6"]


def test_command_writes_picture_and_table(tmp_path, capsys):
    words = saved(tmp_path)
    assert main([*words, "--png", str(tmp_path / "new" / "a.png"), "--markdown", str(tmp_path / "a.md")]) == 0
    assert (tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "Multiply-adds for one image of 8 x 6." in (tmp_path / "a.md").read_text()
    assert "wrote" in capsys.readouterr().out


def test_an_exported_network_and_its_folder_have_a_sheet(tmp_path, capsys):
    model = Pair(width=4)
    zero_pruned(model.trunk.weight.data, MASK["trunk.weight"])
    for path in (tmp_path / "pair.safetensors", tmp_path / "hub" / "model.safetensors"):
        path.parent.mkdir(exist_ok=True)
        extra = {"name": "pair", "network": {"width": 4}, "certificate": None}
        save_sparse(path, model.state_dict(), MASK, extra=extra)
    told = []
    for path in (saved(tmp_path)[0], str(tmp_path / "pair.safetensors"), str(tmp_path / "hub")):
        assert main([path, "--model", MODEL, "--size", "8x6", "--markdown", str(tmp_path / "a.md")]) == 0
        told.append((tmp_path / "a.md").read_text())
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "8"], "is not HEIGHTxWIDTH"),
        (["--model", "nowhere:Net"], "names no class"),
        (["--model", "nocolon"], "names no class"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(tmp_path, capsys, words, message):
    assert main([*saved(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("flag", ["--png", "--markdown"])
def test_a_sheet_never_takes_the_place_of_its_network(tmp_path, capsys, flag):
    words = saved(tmp_path)
    before = (tmp_path / "pair.pth").read_bytes()
    assert main([*words, flag, str(tmp_path / "." / "pair.pth")]) == 2
    said = (
        f"error: {flag} {tmp_path / 'pair.pth'} is the network itself, which would be lost: name another file"
    )
    assert capsys.readouterr() == ("", f"{said}\n")
    assert (tmp_path / "pair.pth").read_bytes() == before


@pytest.mark.parametrize(("flag", "writer"), [("--png", "Figure.savefig"), ("--markdown", "markdown")])
def test_a_sheet_is_written_whole_or_not_at_all(tmp_path, capsys, monkeypatch, flag, writer):
    (tmp_path / "out").write_text("earlier")
    place = "matplotlib.figure." if flag == "--png" else "comparison.sheet."

    def full_disk(*how, **more):
        if flag == "--png":
            how[1].write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place + writer, full_disk)
    assert main([*saved(tmp_path), flag, str(tmp_path / "out")]) == 2
    assert f"error: cannot write {tmp_path / 'out'}: No space left on device" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pair.pth"]


def test_a_class_that_is_called_otherwise_is_named(tmp_path, capsys):
    words = saved(tmp_path, network={"depth": 3})
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --model {MODEL} is not called as the file's field 'network' says: ")
    assert "'depth'" in error and error.count("\n") == 1


def test_files_that_are_no_networks(tmp_path, capsys):
    assert main([str(tmp_path / "none.pth")]) == 2
    (tmp_path / "bad.pth").write_text("no network")
    assert main([str(tmp_path / "bad.pth")]) == 2
    assert main(saved(tmp_path, network=None)) == 2
    assert main(saved(tmp_path, mask={"trunk.weight": MASK["trunk.weight"][:2]})) == 2
    assert capsys.readouterr().err.count("error:") == 4
