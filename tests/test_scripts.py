"""The commands as users type them, on small synthetic rooms: every method from start to scores."""

import csv
import json
import math
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from comparison.results import read_results
from configs.load import load, result_settings
from prune_utils.budgets import erk_budget, keep_count
from prune_utils.methods import METHODS
from workflow.experiment import open_experiment
from workflow.networks import new_network
from workflow.saved import read_saved, write_saved

ROOT = Path(__file__).resolve().parents[1]
TINY = """
data: {crop: 33, batch_size: 2, eval_batch_size: 2, num_workers: 0}
model: {backbone: resnet18, width: 0.05}
optim: {iterations: 4, step_every: 100, lr: 1.0e-3}
finetune: {iterations: 4, lr: 1.0e-3}
dynamic: {every: 1, until: 3}
gradual: {every: 1, start: 1, end: 3}
prune: {num_batches: 2, round_iterations: 1}
run: {eval_every: 2, log_every: 1, checkpoint_every: 100, curves: false}
"""


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with rooms, an overlay, and a trained dense network."""
    from dataloaders.synthetic import main as draw_rooms

    folder = tmp_path_factory.mktemp("scripts")
    draw_rooms(
        [str(folder / "rooms"), "--layout", "nyuv2", "--images", "10", "--size", "48x64", "--workers", "1"]
    )
    (folder / "tiny.yaml").write_text(TINY)
    call(folder, "launch_training.py", "--method", "baseline")
    return folder


def call(folder, script, *words, evaluate=False):
    """Run a script in this process, as `python3 script words` would."""
    common = ["--dest", str(folder / "out"), "--data-root", str(folder / "rooms")]
    common += ["--num-workers", "0"] if evaluate else ["--config", str(folder / "tiny.yaml")]
    before, sys.argv = sys.argv, [script, *common, *words]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        sys.argv = before


def refused(capsys, folder, script, *words, evaluate=False):
    """The one sentence with which a script ends with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        call(folder, script, *words, evaluate=evaluate)
    assert end.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def saved(path):
    return torch.load(path, weights_only=True)


def kept(content):
    return sum(int(part.sum()) for part in content["mask"].values())


def total(content):
    return sum(part.numel() for part in content["mask"].values())


def assert_zero_outside(content):
    for name, mask in content["mask"].items():
        assert not content["state"][name][~mask].any()


def words_of(method, ratio):
    """A method at a ratio; in few rounds where it has many."""
    few = ("--rounds", "4") if METHODS[method].rounds > 11 else ()
    return ("--method", method, "--ratio", ratio, *few)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_from_start_to_scores(place, method, capsys):
    words = words_of(method, "90")
    name = f"nyuv2_{method}_90"
    out = place / "out"
    if not METHODS[method].by_itself:
        call(place, "create_pruned_net.py", *words)
        content = saved(out / f"{name}.pth")
        assert kept(content) == round(0.1 * total(content))
        assert_zero_outside(content)
    call(place, "launch_training.py", *words)
    for path in (out / f"best_{name}.pth", out / f"final_{name}.pth"):
        content = saved(path)
        left = round(0.1 * total(content)) - kept(content)
        neurons = sum(len(part) for part in content["mask"].values())
        assert 0 <= left <= (0 if METHODS[method].granularity == "weight" else neurons)
        assert kept(content) == content["certificate"]["kept"]
        assert_zero_outside(content)
    call(place, "eval_pruned_net.py", *words[:4], evaluate=True)
    result = json.loads((out / f"{name}.json").read_text())
    assert (result["method"], result["split"], result["protocol"]) == (method, "test", "paper")
    assert result["images"] == 2 and set(result["metrics"]) == {"seg", "sn"}
    assert result["certificate"]["kept"] == kept(content)
    text = capsys.readouterr().out
    assert "sparsity 90" in text or METHODS[method].by_itself
    assert str(out / f"{name}.json") in text


def test_tasks_are_weighed_from_start_to_scores(place):
    words = ("--method", "snip", "--ratio", "90", "--name", "weighed")
    call(place, "create_pruned_net.py", *words, "--voters", "upgrad")
    call(place, "launch_training.py", *words, "--voters", "upgrad", "--weighting", "mgda")
    call(place, "eval_pruned_net.py", *words, evaluate=True)
    result = json.loads((place / "out" / "weighed.json").read_text())
    assert result["certificate"]["asked"]["voters"] == "upgrad"
    assert result["config"]["weighting"]["method"] == "mgda"
    found = result["conflicts"]
    assert found["steps"] == result["step"] and found["pairs"] == {"seg-sn": found["conflicting"]}
    assert found["share"] == found["conflicting"] / found["steps"]
    with (place / "out" / "weighed_training.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "tasks"]
    weights = {row["name"]: float(row["value"]) for row in rows if row["step"] == "4"}
    assert weights["weight/seg"] + weights["weight/sn"] == pytest.approx(1)
    exported = place / "weighed.safetensors"
    content = read_saved(place / "out" / "best_weighed.pth")
    assert content["conflicts"] == {name: found[name] for name in ("steps", "conflicting", "pairs")}
    assert read_saved(write_saved(content, exported))["conflicts"] == content["conflicts"]
    content["conflicts"]["conflicting"] = 99
    torch.save(content, place / "out" / "miscounted.pth")
    with pytest.raises(ValueError, match="'conflicts' is no count of steps"):
        read_saved(place / "out" / "miscounted.pth")


def counts_are_exact(place, method, ratio, name):
    """Of what is created, or trained where training prunes. name: of the files, no other test's."""
    dense = METHODS[method].starts == "dense"
    words = (*words_of(method, ratio), "--name", name)
    call(place, "launch_training.py" if dense else "create_pruned_net.py", *words)
    for kind in ("final_", "best_") if dense else ("",):
        content = saved(place / "out" / f"{kind}{name}.pth")
        assert kept(content) == keep_count(total(content), float(ratio))
        assert_zero_outside(content)


# rows whose units are single weights meet every ratio to one of them
EXACT = [name for name, row in METHODS.items() if row.granularity == "weight"]


@pytest.mark.parametrize("method", EXACT)
def test_exact_counts_at_another_ratio(place, method):
    ratios = ("50", "92.5", "95", "99")
    counts_are_exact(place, method, ratios[EXACT.index(method) % len(ratios)], f"other_{method}")


@pytest.mark.slow
@pytest.mark.parametrize("ratio", ["50", "90", "95", "99"])
@pytest.mark.parametrize("method", EXACT)
def test_exact_counts_at_all_ratios(place, method, ratio):
    counts_are_exact(place, method, ratio, f"counted_{method}_{ratio}")


def test_a_method_that_prunes_in_training_has_nothing_to_create(place, capsys):
    error = refused(capsys, place, "create_pruned_net.py", "--method", "gmp")
    assert "method gmp prunes while it trains" in error and "launch_training.py" in error


def test_gradual_runs_choose_among_sparse_weights_and_record_every_event(place):
    words = ("--method", "granet", "--ratio", "90", "--name", "granet_events", "--set", "run.eval_every=1")
    call(place, "launch_training.py", *words)
    best = saved(place / "out" / "best_granet_events.pth")
    assert best["step"] >= 3 and kept(best) == round(0.1 * total(best))
    with (place / "out" / "granet_events_training.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == "density"]
    full, keep = total(best), kept(best)
    expected = [keep + round(left * (full - keep)) for left in (1, 1 / 8, 0)]
    assert [float(row["value"]) for row in rows] == [kept / full for kept in expected]


def test_ac_dc_writes_its_dense_twin(place):
    words = ("--method", "ac_dc", "--name", "with_twin", "--set", "gradual.end=4")
    call(place, "launch_training.py", *words)
    twin, sparse = (saved(place / "out" / f"{name}_with_twin.pth") for name in ("dense", "final"))
    assert twin["mask"] is None and twin["certificate"] is None
    counts = [
        sum(int(content["state"][name].count_nonzero()) for name in sparse["mask"])
        for content in (twin, sparse)
    ]
    assert counts[0] > counts[1]


def test_a_dynamic_run_starts_with_another_methods_mask(place):
    words = ("--ratio", "90", "--set", "run.seed=0")
    call(place, "create_pruned_net.py", "--method", "disparse_static", "--name", "first", *words)
    start = ("--start-mask", "disparse_static", "--name", "started")
    call(place, "create_pruned_net.py", "--method", "disparse_dynamic", *start, *words)
    one, two = (saved(place / "out" / f"{name}.pth")["certificate"] for name in ("first", "started"))
    assert one["hash"] == two["hash"]


def test_erk_counts_in_every_layer(place):
    call(
        place,
        "create_pruned_net.py",
        "--method",
        "random",
        "--budget",
        "erk",
        "--ratio",
        "80",
        "--name",
        "erk",
    )
    content = saved(place / "out" / "erk.pth")
    shapes = {name: tuple(part.shape) for name, part in content["mask"].items()}
    for pool in erk_budget(shapes, keep_count(total(content), 80.0)):
        assert int(content["mask"][pool.names[0]].sum()) == pool.keep


def test_dynamic_run_records_exact_density_and_moves(place):
    path = place / "out" / "nyuv2_disparse_dynamic_90_training.csv"
    if not path.exists():
        call(place, "launch_training.py", "--method", "disparse_dynamic", "--ratio", "90")
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "mask"]
    figures = {(int(row["step"]), row["name"]): float(row["value"]) for row in rows}
    content = saved(place / "out" / "final_nyuv2_disparse_dynamic_90.pth")
    assert {step for step, name in figures if name == "density"} == {1, 2, 3}
    for step in (1, 2, 3):
        assert figures[step, "density"] == kept(content) / total(content)
        assert math.isclose(
            figures[step, "drop_fraction"], 0.25 * (1 + math.cos(math.pi * step / 3)), abs_tol=1e-12
        )
    assert figures[1, "replaced_share"] > 0


def test_keep_ratio_is_the_published_rule(place, capsys):
    words = ("--method", "disparse_static", "--keep-ratio", "0.08", "--name", "seed_rule")
    call(place, "create_pruned_net.py", *words)
    content = saved(place / "out" / "seed_rule.pth")
    tasks = content["certificate"]["tasks"]
    for counts in tasks.values():  # every task keeps at least its own share
        assert counts["kept"] >= int(counts["total"] * 0.08)
    assert "asked keep ratio 0.08 for every task" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["disparse_static", "imp"])
def test_keep_ratio_beside_protected_layers(place, method):
    words = ("--method", method, "--keep-ratio", "0.1", "--rounds", "1", "--protect", "backbone.*")
    call(place, "create_pruned_net.py", *words, "--name", f"protected_{method}")
    mask = saved(place / "out" / f"protected_{method}.pth")["mask"]
    assert all(part.all() for name, part in mask.items() if name.startswith("backbone."))
    assert not all(part.all() for part in mask.values())


@pytest.mark.parametrize(
    "flag, value", [("method", "random"), ("ratio", "50.0"), ("protocol", "metric")], ids=lambda value: value
)
def test_a_sparse_network_is_trained_as_what_it_was_made(place, capsys, flag, value):
    words = ["--method", "snip", "--name", "made_as_snip"]
    if not (place / "out" / "made_as_snip.pth").exists():
        call(place, "create_pruned_net.py", *words)
    error = refused(capsys, place, "launch_training.py", *words, f"--{flag}", value)
    assert "made_as_snip.pth was made with " in error and f"this command says --{flag} {value}" in error


def test_same_seed_gives_the_same_file(place):
    for name in ("once", "twice"):
        call(place, "create_pruned_net.py", "--method", "disparse_static", "--name", name)
        call(place, "launch_training.py", "--method", "disparse_static", "--name", name)
    one, two = (saved(place / "out" / f"final_{name}.pth") for name in ("once", "twice"))
    assert one["certificate"]["hash"] == two["certificate"]["hash"]
    assert all(torch.equal(one["state"][name], two["state"][name]) for name in one["state"])


def test_dense_network_is_evaluated_with_pictures(place):
    call(place, "eval_pruned_net.py", "--method", "baseline", "--pictures", "1", evaluate=True)
    result = json.loads((place / "out" / "nyuv2_baseline.json").read_text())
    assert result["certificate"] is None and result["step"] in (2, 4)
    assert len(list((place / "out" / "nyuv2_baseline_test_pictures").glob("*.png"))) == 1
    assert result["remarks"][0] == "synthetic rooms"
    assert {task: set(scores) for task, scores in result["constant"].items()} == {
        task: {"paper", "metric"} for task in result["metrics"]
    }
    assert 0 <= result["counts"]["seg"]["classes_hit"] <= result["counts"]["seg"]["classes"]


def test_published_form_is_evaluated(place, capsys):
    published = place / "published.pth"
    words = ("--method", "disparse_static", "--name", "to_publish", "--export-published", str(published))
    call(place, "create_pruned_net.py", *words)
    assert "task1_fc1_c0.conv1.weight_orig" in saved(published)
    words = ("--method", "disparse_static", "--weights", str(published), "--name", "from_published")
    call(place, "eval_pruned_net.py", *words, evaluate=False)
    assert json.loads((place / "from_published.json").read_text())["images"] == 2


def test_a_trained_network_is_written_in_the_published_form(place):
    words = ("--method", "disparse_static", "--name", "trained_to_publish")
    call(place, "create_pruned_net.py", *words)
    published = place / "trained.pth"
    call(place, "launch_training.py", *words, "--export-published", str(published))
    best = saved(place / "out" / "best_trained_to_publish.pth")
    theirs = saved(published)
    name = "backbone.stages.0.0.conv1.weight"
    assert torch.equal(theirs["backbone.blocks.0.0.conv1.weight_orig"], best["state"][name])
    assert torch.equal(theirs["backbone.blocks.0.0.conv1.weight_mask"].bool(), best["mask"][name])


@pytest.mark.parametrize(("setting", "last"), [(None, True), (True, True), (False, False)])
def test_memory_order_of_features_is_that_of_the_settings(place, setting, last):
    flags = {"run": {"device": "cpu", "channels_last": setting}}
    config = load("nyuv2", [place / "tiny.yaml"], flags)
    network = new_network(open_experiment(config, "set", str(place / "out"), None))
    out = network(torch.zeros(2, 3, 33, 41))["seg"]
    assert out.is_contiguous(memory_format=torch.channels_last) == last and out.is_contiguous() != last
    assert all(weight.is_contiguous() for weight in network.parameters())


def test_advice_repeats_the_name(place, capsys):
    words = ("--method", "snip", "--name", "mine")
    assert "--name mine" in refused(capsys, place, "launch_training.py", *words)
    assert "--name mine" in refused(capsys, place, "eval_pruned_net.py", *words, evaluate=True)


def test_evaluation_complains_before_the_work(place, capsys, monkeypatch):
    words = ("--method", "baseline", "--pictures")
    assert "--pictures '-1'" in refused(capsys, place, "eval_pruned_net.py", *words, "-1", evaluate=True)
    assert "--pictures 'all'" in refused(capsys, place, "eval_pruned_net.py", *words, "all", evaluate=True)
    monkeypatch.setattr("common.files.os.access", lambda path, mode: False)
    monkeypatch.setattr("workflow.evaluate.evaluate", lambda *words, **more: pytest.fail("evaluated"))
    assert "cannot be written" in refused(capsys, place, "eval_pruned_net.py", *words, "0", evaluate=True)


def test_weights_bring_their_own_name_and_method(place):
    words = ("--weights", str(place / "out" / "final_nyuv2_baseline.pth"), "--overwrite")
    call(place, "eval_pruned_net.py", *words, evaluate=True)
    result = json.loads((place / "out" / "nyuv2_baseline.json").read_text())
    assert (result["method"], result["weights"]) == ("baseline", "final_nyuv2_baseline.pth")


@pytest.mark.parametrize(
    "flag, value", [("protocol", "metric"), ("seed", "3"), ("method", "snip")], ids=lambda value: value
)
def test_scores_are_not_labelled_otherwise_than_trained(place, capsys, flag, value):
    words = ("--weights", str(place / "out" / "best_nyuv2_baseline.pth"), f"--{flag}", value)
    error = refused(capsys, place, "eval_pruned_net.py", *words, evaluate=True)
    assert f"made with --{flag} " in error and f"says {value}" in error


@pytest.mark.parametrize(
    "script", ["create_pruned_net.py", "launch_training.py", "eval_pruned_net.py", "iou_analysis.py"]
)
def test_help_is_a_page_and_needs_no_torch(script):
    # -X importtime lists every import: the heavy ones must wait until the arguments are right
    run = subprocess.run(
        [sys.executable, "-X", "importtime", script, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0 and "examples:" in run.stdout and "--data-root" in run.stdout
    assert not [line for line in run.stderr.splitlines() if line.split("|")[-1].strip() in ("torch", "cv2")]


def test_replaced_samples_are_counted_in_the_record(place):
    root = place / "damaged"
    shutil.copytree(place / "rooms", root)
    index = json.loads((root / "nyu_v2_3task.json").read_text())
    broken = root / index["train"][1][1]
    broken.write_bytes(broken.read_bytes()[:40])
    words = ("--method", "baseline", "--name", "damaged", "--data-root", str(root))
    with pytest.raises(SystemExit) as end:
        call(place, "launch_training.py", *words)
    assert end.value.code == 2 and not (place / "out" / "best_damaged.pth").exists()
    with pytest.warns(UserWarning, match="replaced by the next one"):
        call(place, "launch_training.py", *words, "--skip-unreadable", "1")
    with (place / "out" / "damaged_training.csv").open() as file:
        counted = [float(row["value"]) for row in csv.DictReader(file) if row["phase"] == "data"]
    assert counted == [1.0]


def test_a_dense_training_says_which_flags_of_pruning_change_nothing(place, capsys):
    words = ("--method", "baseline", "--name", "unpruned", "--set", "run.preflight=false")
    call(place, "launch_training.py", *words, "--budget", "erk", "--trunk-share", "0.3")
    said = "--budget erk --trunk-share 0.3 would change nothing here: the dense network is not pruned"
    assert said in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(("flag", "value"), [("data-root", "/nowhere"), ("split", "nosuch")])
def test_an_export_refuses_flags_that_change_nothing(place, capsys, monkeypatch, flag, value):
    words = ["export_net.py", "--weights", str(place / "out" / "best_nyuv2_baseline.pth")]
    monkeypatch.setattr(sys, "argv", [*words, f"--{flag}", value])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "export_net.py"), run_name="__main__")
    said = f"error: --{flag} {value} is for --only-voted: give it, or leave --{flag} out"
    assert end.value.code == 2 and said in capsys.readouterr().err


def test_engines_give_the_scores_of_torch(place):
    results = {}
    for engine in (None, "dense", "sparse"):
        words = (
            "--method",
            "baseline",
            "--name",
            "nyuv2_baseline",
            *(("--engine", engine) if engine else ()),
            "--overwrite",
        )
        call(place, "eval_pruned_net.py", *words, evaluate=True)
        results[engine] = json.loads((place / "out" / "nyuv2_baseline.json").read_text())
    assert [result["engine"] for result in results.values()] == ["torch", "dense", "sparse"]
    for engine in ("dense", "sparse"):
        for name, value in results[None]["loss"].items():
            assert math.isclose(results[engine]["loss"][name], value, rel_tol=1e-4)


def test_scores_of_another_question_are_never_replaced_unasked(place, capsys):
    words = ("--weights", str(place / "out" / "best_nyuv2_baseline.pth"), "--name", "asked")
    call(place, "eval_pruned_net.py", *words, evaluate=True)
    call(place, "eval_pruned_net.py", *words, "--split", "val", evaluate=True)
    path, val = place / "out" / "asked.json", place / "out" / "asked_val.json"
    before = path.read_text()
    assert (json.loads(before)["split"], json.loads(val.read_text())["split"]) == ("test", "val")
    splits = {result.split for result in read_results([path, val])}
    assert splits == {"test", "val"}
    final = ("--weights", str(place / "out" / "final_nyuv2_baseline.pth"), "--name", "asked")
    for more, named in (
        ((*final,), "weights best_nyuv2_baseline.pth, now final_nyuv2_baseline.pth"),
        ((*words, "--engine", "dense"), "engine torch, now dense"),
        ((*words, "--set", "data.eval_batch_size=1"), "eval batch size 2, now 1"),
    ):
        error = refused(capsys, place, "eval_pruned_net.py", *more, evaluate=True)
        assert f"asked.json holds other scores ({named}): --overwrite replaces it" in error
    path.write_text(json.dumps(json.loads(before) | {"data_root": "/elsewhere"}))
    error = refused(capsys, place, "eval_pruned_net.py", *words, evaluate=True)
    assert "data root /elsewhere, now " in error
    older = json.loads(before)
    assert older.pop("eval_batch_size") == 2
    path.write_text(json.dumps(older))
    words_of_one = (*words, "--set", "data.eval_batch_size=1")
    error = refused(capsys, place, "eval_pruned_net.py", *words_of_one, evaluate=True)
    assert "eval batch size 2, now 1" in error  # earlier versions tell it among the settings
    path.write_text("[]")
    assert "asked.json exists and holds no scores" in refused(
        capsys, place, "eval_pruned_net.py", *words, evaluate=True
    )
    path.write_text(before)
    call(place, "eval_pruned_net.py", *words, evaluate=True)  # the same question again
    call(place, "eval_pruned_net.py", *final, "--overwrite", evaluate=True)
    assert json.loads(path.read_text())["weights"] == "final_nyuv2_baseline.pth"


@pytest.fixture
def no_val(place, tmp_path):
    """Rooms whose index has no split `val`: 8 images to train on."""
    root = tmp_path / "rooms"
    shutil.copytree(place / "rooms", root)
    index = json.loads((root / "nyu_v2_3task.json").read_text())
    index["train"] += index.pop("val")
    (root / "nyu_v2_3task.json").write_text(json.dumps(index))
    return root


@pytest.mark.parametrize(
    ("trained", "asked", "said"),
    [
        ((), ("--val-share", "0.5"), "was trained with --val-share 0.05, so on images that --val-share 0.5"),
        (("--val-share", "0", "--select-on", "test"), (), "was trained on all of split 'train', and the"),
        (("--val-share", "0", "--select-on", "test"), ("--val-share", "0.5"), "was trained on all of split"),
    ],
)
def test_no_network_is_judged_by_what_it_was_trained_on(place, no_val, capsys, trained, asked, said):
    name = f"left_out_{len(trained)}_{len(asked)}"
    words = ("--method", "baseline", "--name", name, "--data-root", str(no_val))
    call(place, "launch_training.py", *words, *trained, "--set", "run.preflight=false")
    words += ("--split", "val")
    error = refused(capsys, place, "eval_pruned_net.py", *words, *asked, evaluate=True)
    assert f"best_{name}.pth {said}" in error and error.endswith("name another --split")
    assert not trained or "--val-share" not in error
    assert not (place / "out" / f"{name}_val.json").exists()
    if not trained:
        call(place, "eval_pruned_net.py", *words, evaluate=True)
        assert json.loads((place / "out" / f"{name}_val.json").read_text())["images"] == 1


def test_a_result_holds_the_settings_of_the_training_whatever_its_evaluation_says(place):
    made = saved(place / "out" / "best_nyuv2_baseline.pth")["config"]
    words = ("--weights", str(place / "out" / "best_nyuv2_baseline.pth"), "--name")
    call(place, "eval_pruned_net.py", *words, "plain", evaluate=True)
    others = ("optim.iterations=250", "data.hflip=0.25", "data.val_fraction=0.5", "loss_weights.sn=3")
    others += ("prune.scope=backbone", "prune.factors.seg=2", "run.eval_every=7")
    given = [word for other in others for word in ("--set", other)]
    call(place, "eval_pruned_net.py", *words, "told", *given, evaluate=True)
    plain, told = (json.loads((place / "out" / f"{name}.json").read_text()) for name in ("plain", "told"))
    assert told["loss"] == plain["loss"]
    assert result_settings(told["config"]) == result_settings(plain["config"]) == result_settings(made)


def test_a_file_cannot_say_how_a_machine_works(place):
    content = saved(place / "out" / "best_nyuv2_baseline.pth")
    content["config"]["run"] |= {"devices": "5000", "precision": "16-mixed"}
    content["versions"] |= {"python": ["3"], "x": "y"}
    content["config"]["data"] |= {"cache": str(place / "cache"), "num_workers": 99, "root": "/nowhere"}
    torch.save(content, place / "out" / "greedy.pth")
    words = ("--weights", str(place / "out" / "greedy.pth"), "--name", "greedy")
    call(place, "eval_pruned_net.py", *words, evaluate=True)
    result = json.loads((place / "out" / "greedy.json").read_text())
    assert result["config"]["run"]["precision"] == "16-mixed"  # how it was trained
    assert result["evaluated"]["precision"] == "32-true"
    assert result["config"]["data"]["root"] == str(place / "rooms")
    assert int(result["versions"]["threads"]) == torch.get_num_threads()
    assert result["versions"]["instructions"] == torch.backends.cpu.get_cpu_capability()
    made = {name: content["versions"][name] for name in ("torch", "threads", "instructions", "device")}
    assert result["weights_versions"] == made and made["device"] == "cpu"
    assert not (place / "cache").exists()


@pytest.mark.parametrize(
    ("forge", "named"),
    [
        (lambda content: content["certificate"].update(kept=7), "the certificate's 'kept' is not that"),
        (lambda content: content["certificate"].pop("hash"), "the certificate's 'hash' is not that"),
        (lambda content: content["certificate"]["asked"].update(ratio=50.0), "'asked_keep' is not that"),
        (lambda content: content["certificate"].update(asked=3), "has a certificate that is none"),
    ],
)
def test_a_forged_certificate_is_named(place, capsys, forge, named):
    path = place / "out" / "to_forge.pth"
    if not path.exists():
        call(place, "create_pruned_net.py", "--method", "random", "--name", "to_forge")
    content = saved(path)
    forge(content)
    torch.save(content, place / "out" / "forged.pth")
    words = ("--weights", str(place / "out" / "forged.pth"))
    error = refused(capsys, place, "eval_pruned_net.py", *words, evaluate=True)
    assert "forged.pth" in error and named in error


@pytest.mark.parametrize(
    ("words", "start"),
    [((), "final"), (("--start-from", "best"), "best"), (("--protocol", "metric"), "best")],
)
def test_which_trained_weights_are_pruned(place, words, start, capsys):
    out = place / "out"
    marked = {}
    for kind in ("best", "final"):
        content = saved(out / f"{kind}_nyuv2_baseline.pth")
        marked[kind] = content["state"]["heads.seg.0.conv1.bias"]
        marked[kind] += {"best": 1.0, "final": 2.0}[kind]
        (place / "starts").mkdir(exist_ok=True)
        torch.save(content, place / "starts" / f"{kind}_nyuv2_baseline.pth")
    words = ("--overwrite", "--method", "random_pt", "--name", f"started_{start}", *words)
    call(place, "create_pruned_net.py", *words, "--dest", str(place / "starts"))
    content = saved(place / "starts" / f"started_{start}.pth")
    assert torch.equal(content["state"]["heads.seg.0.conv1.bias"], marked[start])
    assert content["certificate"]["asked"]["start_from"] == start
    if words[-1] == "best":
        (place / "starts" / "best_nyuv2_baseline.pth").unlink()
        error = refused(capsys, place, "create_pruned_net.py", *words, "--dest", str(place / "starts"))
        assert "there is no " in error and "best_nyuv2_baseline.pth" in error
