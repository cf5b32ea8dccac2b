"""Channels removed through the commands: a smaller network, trained, evaluated and exported as any other."""

import json
import sys

import pytest
import torch

from models.multitask import MultiTaskNet
from tests.test_granularity import FAST, export
from tests.test_scripts import call, place, refused, saved  # noqa: F401  place is a fixture
from workflow.saved import for_tasks, load_network, read_saved

pytest.importorskip("torch_pruning")
ASKED = ("--granularity", "channel", "--ratio", "50", "--name", "fewer", *FAST)


@pytest.fixture(scope="module")
def fewer(place):  # noqa: F811
    """The folder with a smaller network, trained."""
    call(place, "create_pruned_net.py", *ASKED)
    call(place, "launch_training.py", *ASKED)
    return place


def test_a_smaller_network_from_start_to_scores(fewer):
    out = fewer / "out"
    made, trained = saved(out / "fewer.pth"), saved(out / "best_fewer.pth")
    whole = sum(value.numel() for value in MultiTaskNet(
        **{name: of for name, of in made["network"].items() if name != "shapes"}
    ).parameters())  # fmt: skip
    network = load_network(str(out / "best_fewer.pth"))
    left = sum(value.numel() for value in network.parameters())
    found = trained["certificate"]["removed"]
    assert found == made["certificate"]["removed"] and found["asked_keep"] == round(whole / 2)
    assert (found["before"]["params"], found["after"]["params"]) == (whole, left) and left <= whole / 2
    assert all(kept.all() for kept in trained["mask"].values())
    assert network.description["shapes"] == made["network"]["shapes"]
    call(fewer, "eval_pruned_net.py", "--name", "fewer", "--ratio", "50", evaluate=True)
    result = json.loads((out / "fewer.json").read_text())
    assert result["certificate"] == trained["certificate"] and result["images"] == 2


def test_it_is_exported_like_any_other(fewer):
    runtime = pytest.importorskip("onnxruntime")
    export(fewer, "fewer")
    session = runtime.InferenceSession(str(fewer / "fewer.onnx"))
    image = torch.randn(1, 3, 33, 33)
    network = load_network(str(fewer / "out" / "best_fewer.pth"))
    with torch.no_grad():
        expected = network(image)
    found = session.run(list(expected), {session.get_inputs()[0].name: image.numpy()})
    for task, value in zip(expected, found, strict=True):
        torch.testing.assert_close(torch.from_numpy(value), expected[task], rtol=1e-4, atol=1e-5)
    part = for_tasks(read_saved(fewer / "out" / "best_fewer.pth"), ("sn",))
    assert all(not name.startswith("heads.seg") for name in part["network"]["shapes"])


def test_weights_go_on_top(fewer):
    start = ("--init-from", str(fewer / "out" / "best_fewer.pth"))
    call(
        fewer,
        "create_pruned_net.py",
        "--method",
        "magnitude",
        "--ratio",
        "60",
        "--name",
        "top",
        *start,
        *FAST,
    )
    made, before = saved(fewer / "out" / "top.pth"), saved(fewer / "out" / "fewer.pth")
    assert made["network"] == before["network"] and 59.9 < made["certificate"]["ratio"] < 60.1


@pytest.mark.parametrize("voters", ["tasks", "joint"])
def test_in_rounds_with_training_between_them(place, voters):  # noqa: F811
    words = ("--granularity", "channel", "--ratio-of", "macs", "--ratio", "60", "--rounds", "2")
    quick = ("--name", f"rounds_{voters}", "--set", "run.preflight=false")
    ours = ("--method", "disparse_pt", "--voters", voters, *words, *quick)
    call(place, "create_pruned_net.py", *ours, "--retrain", "--round-iterations", "1")
    assert (place / "out" / f"rounds_{voters}_rounds.csv").exists()
    made = saved(place / "out" / f"rounds_{voters}.pth")
    proof = made["certificate"]
    assert made["step"] == 2 and proof["asked"]["retrain"] and proof["asked"]["voters"] == voters
    assert proof["removed"]["after"]["macs"] <= proof["removed"]["asked_keep"]
    assert proof["removed"]["asked_keep"] == round(0.4 * proof["removed"]["before"]["macs"])
    call(place, "launch_training.py", *ours, "--max-iters", "1")
    assert saved(place / "out" / f"final_rounds_{voters}.pth")["network"] == made["network"]


def test_shapes_of_a_file_are_looked_at(fewer, capsys):
    content = saved(fewer / "out" / "best_fewer.pth")
    name = next(name for name in content["network"]["shapes"] if name.endswith("conv2.weight"))
    weights = ("--weights", str(fewer / "out" / "odd.pth"), "--ratio", "50", "--name", "odd")
    for shape, said in (
        ([10**6, 1, 1, 1], "cannot be cut to"),
        ("many", "shapes are not lists of numbers by tensor"),
        ([1, *content["network"]["shapes"][name][1:]], "layers of these shapes do not fit together"),
    ):
        shapes = content["network"]["shapes"] | {name: shape}
        torch.save(content | {"network": content["network"] | {"shapes": shapes}}, fewer / "out" / "odd.pth")
        assert said in refused(capsys, fewer, "eval_pruned_net.py", *weights, evaluate=True)
    proof = content["certificate"]
    forged = proof["removed"]["before"] | {"params": proof["removed"]["before"]["params"] + 1}
    asked = proof["asked"] | {"whole": forged}
    torch.save(
        content | {"certificate": proof | {"asked": asked, "removed": proof["removed"] | {"before": forged}}},
        fewer / "out" / "odd.pth",
    )
    said = refused(capsys, fewer, "eval_pruned_net.py", *weights, evaluate=True)
    assert "the certificate's 'removed' is not that of its network" in said


def test_a_smaller_network_trains_without_the_package(fewer, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    words = [word if word != "fewer" else "alone" for word in ASKED]
    start = ("--init-from", str(fewer / "out" / "fewer.pth"))
    call(fewer, "launch_training.py", *words, *start, "--max-iters", "1")
    made, trained = saved(fewer / "out" / "fewer.pth"), saved(fewer / "out" / "final_alone.pth")
    assert trained["network"] == made["network"]


def test_what_is_missing_or_impossible_is_said(place, capsys, monkeypatch):  # noqa: F811
    words = ("--granularity", "channel", "--name", "never", *FAST)
    said = refused(capsys, place, "create_pruned_net.py", *words, "--ratio", "99.9")
    assert "ratio 99.9 of params cannot be met" in said and not (place / "out" / "never.pth").exists()
    for method, rounds, complaint in (
        ("disparse_static", "2", "method disparse_static starts from none"),
        ("disparse_pt", "1", "retrain needs rounds to train between: rounds 2 or more, not 1"),
    ):
        asked = ("--method", method, "--retrain", "--rounds", rounds)
        assert complaint in refused(capsys, place, "create_pruned_net.py", *words, "--ratio", "50", *asked)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    said = refused(capsys, place, "create_pruned_net.py", *words, "--ratio", "50")
    assert "needs the package torch_pruning" in said
