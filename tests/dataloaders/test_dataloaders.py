"""The registry: what it says without opening anything, and its errors."""

import subprocess
import sys
from pathlib import Path

import pytest

from dataloaders import DATASETS
from tests.dataloaders import small


def test_registry_imports_neither_torch_nor_cv2():
    code = "import sys, dataloaders; print([m for m in ('torch', 'cv2', 'numpy') if m in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout
        == "[]\n"
    )


def test_tasks_come_in_the_order_of_the_data_set(tmp_path):
    data = small.settings("taskonomy", small.taskonomy(tmp_path))
    assert list(DATASETS["taskonomy"].make_tasks(["edge", "sn", "seg"], data, "paper")) == [
        "seg",
        "sn",
        "edge",
    ]


@pytest.mark.parametrize(
    ("names", "protocol", "sentence"),
    [
        (["dpeth"], "paper", r"task 'dpeth' is not one of depth, seg; did you mean 'depth'\?"),
        ([], "paper", "no task is chosen; cityscapes has seg, depth"),
        (["seg"], "papre", r"protocol 'papre' is not one of metric, paper; did you mean 'paper'\?"),
    ],
)
def test_wrong_names_raise_with_the_choices(names, protocol, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        DATASETS["cityscapes"].make_tasks(names, small.settings("cityscapes", Path()), protocol)


@pytest.mark.parametrize("dataset", DATASETS)
def test_missing_folder_and_index_say_how_to_get_the_data(tmp_path, dataset):
    row = DATASETS[dataset]
    for root in ("", str(tmp_path / "absent"), str(tmp_path)):
        with pytest.raises(FileNotFoundError) as error:
            row.open(small.settings(dataset, root), "train", {}, "paper")
        assert row.how_to_get in str(error.value) and "\n" not in str(error.value)


def test_missing_folder_is_named_before_the_class_weights_in_it(tmp_path):
    data = small.settings("taskonomy", tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="^data folder .*absent does not exist: Get Tiny-Taskonomy"):
        DATASETS["taskonomy"].make_tasks(["seg"], data, "paper")
