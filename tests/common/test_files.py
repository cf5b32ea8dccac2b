"""Files that are whole or not there."""

import json
import math
import os

import pytest

from common.files import read_json, replacing, write_json


def test_a_pipe_is_no_json_file(tmp_path):
    """Reading it would never end."""
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json is not a JSON file: it is a pipe"):
        read_json(tmp_path / "a.json")


def test_json_is_strict_and_plain(tmp_path):
    path = write_json(tmp_path / "new" / "a.json", {"a": (1, math.nan), 2: {"b": [math.inf, "x"]}})
    assert json.loads(path.read_text()) == {"a": [1, None], "2": {"b": [None, "x"]}}


def test_a_failure_leaves_the_old_file(tmp_path):
    path = write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write .*file/a.json"):
        write_json(tmp_path / "file" / "a.json", {})
