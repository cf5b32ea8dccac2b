"""What an export or an evaluation would find out at its end is said before any work."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from tests.scripts import ROOT, call
from tests.test_bad_input import assert_one_sentence, tiny_network

HOLD = (
    "import sys\nfrom common.lock import locked\n"
    "with locked(sys.argv[1], sys.argv[2]):\n    print('held', flush=True)\n    sys.stdin.read()\n"
)


@pytest.fixture(scope="module")
def place(rooms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("early")
    tiny_network(rooms, folder)
    (folder / "a.txt").write_text("a file")
    (folder / "folder.safetensors").mkdir()
    return folder


@pytest.mark.parametrize(
    ("out", "named"),
    [
        ("folder.safetensors", "is a folder, not the name of a file"),
        ("a.txt/net.safetensors", "a.txt is a file"),
        ("dense.pth", "is the network itself"),
        ("./folder.safetensors/../dense.pth", "is the network itself"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_the_network_is_read(
    out, named, place, capsys, monkeypatch
):
    def read(path):
        raise AssertionError("the network was read")

    monkeypatch.setattr("workflow.saved.read_saved", read)
    before = sorted((path, path.stat().st_size) for path in place.iterdir())
    end = call("export_net.py", ["--weights", str(place / "dense.pth"), "--out", f"{place}/{out}"], capsys)
    assert end.code == 2
    assert_one_sentence(end.err, ["--out", named])
    assert sorted((path, path.stat().st_size) for path in place.iterdir()) == before


def test_a_ratio_that_is_no_percentage_is_told(tmp_path, capsys):
    end = call("export_net.py", ["--ratio", "0.9", "--dest", str(tmp_path)], capsys)
    assert end.code == 2
    assert_one_sentence(end.err, ["0.9", "did you mean 90?"])


def test_a_second_evaluation_of_a_split_is_told_who_is_at_work(place, rooms, capsys, monkeypatch):
    """Before it opens the data, and only for the same split."""
    words = ["--weights", str(place / "dense.pth"), "--data-root", str(rooms), "--num-workers", "0"]
    words += ["--device", "cpu"]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place), "dense.json"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        end = call("eval_pruned_net.py", words, capsys)
        assert end.code == 2
        at_work = f"dense.json is in use by process {holder.pid} on {socket.gethostname()} since "
        assert_one_sentence(end.err, [at_work, "--name or --dest"])
        assert not (place / "dense.json").exists()
        assert call("eval_pruned_net.py", [*words, "--split", "train"], capsys).code == 0
    finally:
        holder.communicate("")
    assert call("eval_pruned_net.py", words, capsys).code == 0
    assert (place / "dense.json").is_file() and not list(place.glob(".*.lock"))
