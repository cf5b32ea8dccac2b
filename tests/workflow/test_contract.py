"""A contract by the scripts on small rooms: search, certificate, resumption, re-check, refusals."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
from math import nan

import pytest
import torch

import workflow.contract
import workflow.contract_search
from prune_utils.ascent import Ascent
from tests.scripts import call
from tests.test_resume import same
from workflow.judging import Fall, certainty, to_certify

CREATE, EVALUATE = "create_pruned_net.py", "eval_pruned_net.py"
SETTINGS = """
data: {crop: 33, batch_size: 4, num_workers: 0}
model: {backbone: resnet18, width: 0.05}
optim: {iterations: 20, step_every: 100, lr: 1.0e-3}
finetune: {iterations: 2, lr: 1.0e-5}
contract: {resolution: 30, stride: 4, smallest: 5, resamples: 99, turns: 1}
run: {eval_every: 20, checkpoint_every: 1, curves: false, logger: none, preflight: false, device: cpu}
"""
LIMITS = "seg.err=1.5,sn=30"
NAME = "nyuv2_disparse_pt_contract"


@pytest.fixture(scope="module")
def dense(many_rooms, tmp_path_factory):
    """A folder with the settings and a trained dense network."""
    folder = tmp_path_factory.mktemp("dense")
    (folder / "small.yaml").write_text(SETTINGS)
    words = ["--method", "baseline", "--config", str(folder / "small.yaml"), "--data-root", str(many_rooms)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["launch_training.py", *words, "--dest", str(folder)])
        runpy.run_path("launch_training.py", run_name="__main__")
    return folder


@pytest.fixture
def place(dense, tmp_path):
    """A folder of its own with the dense network, and the words of a command there."""
    for name in ("final_nyuv2_baseline.pth", "small.yaml"):
        shutil.copy(dense / name, tmp_path)
    return tmp_path


def words(place, rooms, *more):
    return ["--config", str(place / "small.yaml"), "--data-root", str(rooms), "--dest", str(place), *more]


def checking(place, rooms, split, *more):
    contract = ["--contract", str(place / f"{NAME}_limits.json"), "--split", split]
    return ["--data-root", str(rooms), "--num-workers", "0", "--dest", str(place), *contract, *more]


@pytest.fixture(scope="module")
def made(dense, many_rooms, tmp_path_factory):
    """The folder of a finished search."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("final_nyuv2_baseline.pth", "small.yaml"):
        shutil.copy(dense / name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [CREATE, *words(folder, many_rooms, "--max-drop", LIMITS)])
        runpy.run_path(CREATE, run_name="__main__")
    return folder


@pytest.fixture
def only_trained(monkeypatch):
    """Pruning alone breaks every limit, so that every round is fine-tuned."""
    look, work = workflow.contract_search.Work._look, workflow.contract_search.Work
    train, trained = workflow.contract_search.Run.train, []

    def run(run, *given, **more):
        train(run, *given, **more)
        trained.append(run)

    def looked(work, network):
        falls = look(work, network)
        return falls if trained and not trained.clear() else dict.fromkeys(falls, Fall(nan, nan))

    monkeypatch.setattr(workflow.contract_search.Run, "train", run)
    monkeypatch.setattr(work, "_look", looked)


def certificate(folder):
    return json.loads((folder / f"{NAME}_limits.json").read_text())


def rows(folder):
    with (folder / f"{NAME}_search.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --------------------------------------------------------------------- what comes out
def test_the_network_is_what_the_certificate_says(made):
    found, content = certificate(made), torch.load(made / f"{NAME}.pth", weights_only=True)
    kept = sum(int(part.sum()) for part in content["mask"].values())
    assert found["kept"] == kept == content["certificate"]["kept"] < found["total"]
    for name, mask in content["mask"].items():
        assert not content["state"][name][~mask].any()
    assert found["limits"] == {"seg.err": 1.5, "sn": 30.0}
    for name, limit in found["limits"].items():
        assert found["validation"]["certificate"]["drops"][name]["bound"] <= limit
        assert set(found["test"]["drops"][name]) == {"drop", "bound"}
    seen = (*found["validation"].values(), found["test"])
    assert [of["images"] for of in seen] == [10, 10, 10]
    assert content["config"]["prune"]["ratio"] == pytest.approx(content["certificate"]["ratio"])
    assert found["sparsity"] == content["certificate"]["ratio"]
    assert content["config"]["run"]["seed"] == found["seed"] == 0
    behind = [row for row in rows(made) if int(row["size"]) >= kept and row["kept"] == "1"]
    trained = sum(int(row["trained"]) for row in behind)  # on the way to it
    assert content["step"] == found["finetune"]["iterations_behind_these_weights"] == 2 * trained
    assert found["finetune"]["rounds_trained"] == sum(int(row["trained"]) for row in rows(made))


def test_the_trace_is_that_of_the_search(made):
    """The same drops told to a search of the same settings give the same rounds."""
    trace, found = rows(made), certificate(made)
    weights = sorted({int(row["size"]) for row in trace}, reverse=True)
    assert weights[0] < found["total"] and int(trace[0]["level"]) == 4  # nothing is spent on the whole one
    ladder = tuple(round(found["total"] * 0.7**level) for level in range(9))
    ascent = Ascent(found["limits"], ("seg", "sn"), ladder, stride=4, turns=1)
    for row in trace:
        trial = ascent.next()
        assert trial.keep == int(row["size"]) and trial.level == int(row["level"])
        assert trial.factors == {task: float(row[f"factor/{task}"]) for task in ("seg", "sn")}
        done = ascent.tell({name: float(row[f"bound/{name}"]) for name in found["limits"]})
        assert done.kept == bool(int(row["kept"]))
        assert float(row["sparsity"]) == 100 * (1 - trial.keep / found["total"])
    assert ascent.next() is None
    looks = found["validation"]["certificate"]["looks"]
    sure = {}
    for row, done in zip(trace, ascent.rounds, strict=True):
        falls = {n: Fall(float(row[f"drop/{n}"]), float(row[f"bound/{n}"])) for n in found["limits"]}
        sure |= {done.trial.number: certainty(falls, found["limits"])} if done.kept else {}
    size, order = {done.trial.number: done.trial.keep for done in ascent.rounds}, []
    for number in sorted(sure, key=lambda number: -sure[number]):  # each smaller than all before it
        order += [number] if all(size[number] < size[other] for other in order) else []
    assert [look["round"] for look in looks] == order[: len(looks)]
    passed = [
        look["kept"]
        for look in looks
        if all(look["drops"][name]["bound"] <= limit for name, limit in found["limits"].items())
    ]
    assert len(passed) in (len(looks), len(looks) - 1) and found["size"]["kept"] == min(passed)
    assert len(passed) == len(looks) == len(order) or len(passed) == len(looks) - 1
    assert (made / f"{NAME}_search.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_of_the_rounds_is_left(made):
    assert sorted(path.name for path in made.iterdir() if not path.name.startswith(".")) == sorted(
        [f"{NAME}.pth", f"{NAME}_limits.json", f"{NAME}_search.csv", f"{NAME}_search.png"]
        + ["final_nyuv2_baseline.pth", "small.yaml"]
    )


def test_the_drops_are_those_of_ordinary_evaluations(made, many_rooms, capsys):
    """The mean over measures of the change against the dense network, as the tables' delta counts it."""
    results = []
    for weights in ("final_nyuv2_baseline.pth", f"{NAME}.pth"):
        said = call(
            EVALUATE,
            ["--data-root", str(many_rooms), "--num-workers", "0", "--weights", str(made / weights)],
            capsys,
        )
        assert said.code == 0, said.err
        name = weights.removesuffix(".pth").removeprefix("final_")
        results.append(json.loads((made / f"{name}.json").read_text()))
        (made / f"{name}.json").unlink()
    base, now = (result["metrics"] for result in results)
    changes = []
    for measure, direction in results[0]["directions"]["sn"].items():
        before, after = base["sn"]["paper"][measure], now["sn"]["paper"][measure]
        changes.append((after - before) / before * (1 if direction["larger_is_better"] else -1))
    drops = certificate(made)["test"]["drops"]
    assert drops["sn"]["drop"] == pytest.approx(-100 * sum(changes) / len(changes), rel=1e-9)
    err = [of["seg"]["paper"]["err"] for of in (base, now)]
    assert drops["seg.err"]["drop"] == pytest.approx(100 * (err[1] - err[0]) / err[0], rel=1e-9)


def test_the_same_command_again_changes_nothing_and_another_is_refused(made, many_rooms, capsys):
    before = {path.name: path.read_bytes() for path in made.iterdir() if path.is_file()}
    said = call(CREATE, words(made, many_rooms, "--max-drop", LIMITS), capsys)
    assert said.code == 0 and "made before, unchanged" in said.out and "seg.err" in said.out
    said = call(CREATE, words(made, many_rooms, "--max-drop", "all=9"), capsys)
    assert said.code == 2 and "contract.max_drop=['seg.err=1.5', 'sn=30']" in said.err
    assert {path.name: path.read_bytes() for path in made.iterdir() if path.is_file()} == before


def changed(path):
    """The dense network of a file with one weight that is not as it was."""
    content = torch.load(path, weights_only=True)
    next(value for value in content["state"].values() if value.dim() > 1).flatten()[0] += 1
    torch.save(content, path)
    return path


def test_a_finished_contract_is_not_that_of_another_dense_network(made, many_rooms, place, capsys):
    for path in made.iterdir():
        if path.is_file():
            shutil.copy(path, place)
    other = changed(shutil.copy(place / "final_nyuv2_baseline.pth", place / "other.pth"))
    command = words(place, many_rooms, "--max-drop", LIMITS)
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    for more, dense in (
        ([], changed(place / "final_nyuv2_baseline.pth")),
        (["--init-from", str(other)], other),
    ):
        before[dense.name] = dense.read_bytes()
        said = call(CREATE, [*command, *more], capsys)
        assert said.code == 2, said.out
        assert f"is the contract of another dense network than {dense} is now: --overwrite" in said.err
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == before


def test_the_network_is_not_trained_further_under_its_name(made, many_rooms, capsys):
    command = words(made, many_rooms, "--method", "disparse_pt", "--name", NAME)
    said = call("launch_training.py", command, capsys)
    assert said.code == 2 and "is the network of a contract, fine-tuned and certified as it is" in said.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "counts"),
    [
        (["--ratio-of", "macs"], "multiply-adds"),
        (["--granularity", "kernel"], "weights"),
        (["--criterion", "taylor", "--protect", "heads.*.conv3"], "weights"),
        (["--method", "disparse_fisher", "--name", NAME], "weights"),
    ],
)
def test_other_sizes_units_and_scores(more, counts, many_rooms, place, capsys):
    said = call(CREATE, words(place, many_rooms, "--max-drop", "seg.err=60,sn.mean=60", *more), capsys)
    assert said.code == 0, said.err
    found, content = certificate(place), torch.load(place / f"{NAME}.pth", weights_only=True)
    assert found["size"]["counts"] == counts and found["size"]["kept"] < found["size"]["total"]
    macs = content["certificate"].get("macs")
    kept = macs["kept"] if counts == "multiply-adds" else content["certificate"]["kept"]
    assert 0 <= found["size"]["kept"] - kept < 0.01 * found["size"]["total"]  # met to a unit
    assert call(EVALUATE, checking(place, many_rooms, "val"), capsys).code == 0


# ----------------------------------------------------------------------------- again
def test_a_contract_is_checked_again_on_any_split(made, many_rooms, capsys):
    found = certificate(made)
    said = call(EVALUATE, checking(made, many_rooms, "val"), capsys)
    assert said.code == 0, said.err
    lines = {line.split()[0]: line.split()[2:] for line in said.out.splitlines() if line.strip()}
    for name, fall in found["validation"]["certificate"]["drops"].items():
        assert lines[name] == [f"{fall['drop']:.3f}", f"{fall['bound']:.3f}", "kept"]
    assert "10 images of val" in said.out
    for split, images in (("test", 10), ("train", 18)):
        said = call(EVALUATE, checking(made, many_rooms, split), capsys)
        assert f"{images} images of {split}" in said.out and said.code in (0, 1)


def test_the_dense_network_is_the_one_that_the_certificate_names(made, many_rooms, place, capsys):
    """Not another of its name that lies beside the certificate, which counts where the named one is gone."""
    for path in made.iterdir():
        if path.is_file():
            shutil.copy(path, place)
    found, named = certificate(place), place / "elsewhere" / "final_nyuv2_baseline.pth"
    named.parent.mkdir()
    shutil.copy(place / named.name, named)
    changed(place / named.name)
    found["dense"]["file"] = str(named)
    (place / f"{NAME}_limits.json").write_text(json.dumps(found))
    said = call(EVALUATE, checking(place, many_rooms, "val"), capsys)
    assert said.code == 0, said.err
    named.replace(place / named.name)
    said = call(EVALUATE, checking(place, many_rooms, "val"), capsys)
    assert said.code == 0, said.err


def test_a_broken_contract_ends_with_one_sentence_and_status_1(made, many_rooms, place, capsys):
    for path in made.iterdir():
        if path.is_file():
            shutil.copy(path, place)
    found = certificate(place)
    drop = found["validation"]["certificate"]["drops"]["sn"]
    for limit, word in ((drop["drop"] - 1, "broken"), ((drop["drop"] + drop["bound"]) / 2, "not certain")):
        found["limits"]["sn"] = limit
        (place / f"{NAME}_limits.json").write_text(json.dumps(found))
        said = call(EVALUATE, checking(place, many_rooms, "val"), capsys)
        assert said.code == 1 and word in said.out
        errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert (
            len(errors) == 1
            and f"the contract is {word} on val: 'sn' loses {drop['drop']:.3g} %" in errors[0]
        )


def test_what_cannot_be_checked_is_told(made, many_rooms, place, capsys):
    for path in made.iterdir():
        if path.is_file():
            shutil.copy(path, place)
    limits = place / f"{NAME}_limits.json"

    def refused(*more):
        said = call(EVALUATE, checking(place, many_rooms, "val", *more), capsys)
        assert said.code == 2
        return said.err

    assert "--contract names the network itself: leave --ratio 90 out" in refused("--ratio", "90")
    assert "--contract draws nothing" in refused("--pictures", "1")
    whole = limits.read_text()
    limits.write_text(whole.replace('"limits"', '"limit"'))
    assert "is no certificate of a contract: field 'limits' is missing" in refused()
    limits.write_text(whole.replace('"sn": 30.0', '"depth": 30.0'))
    assert "the certificate limits 'depth', which this network does not have" in refused()
    limits.write_text(whole)
    shutil.copy(place / "final_nyuv2_baseline.pth", place / f"{NAME}.pth")
    assert "is not the network that the certificate is of: its weights differ" in refused("--seed", "0")
    (place / f"{NAME}.pth").unlink()
    assert f"there is no file {NAME}.pth, the network of" in refused()


# ------------------------------------------------------------------------ interruption
class Killed(BaseException):
    """Unwinds everything, as a kill would end it, but for what `finally` does."""


@pytest.mark.parametrize(
    "point",
    ["train", *(pytest.param(p, marks=pytest.mark.slow) for p in ("score", "keep", "state", "certificate"))],
)
def test_an_interrupted_search_ends_with_the_same_bits(point, made, many_rooms, place, capsys, monkeypatch):
    homes = {
        "train": (workflow.contract_search.Run, "_save_checkpoint", 3),
        "score": (workflow.contract_search, "make_mask", 2),
        "keep": (workflow.contract_search, "save_network", 2),
        "state": (workflow.contract_search, "write_file", 4),
        "certificate": (workflow.contract, "write_json", 1),
    }
    home, name, after = homes[point]
    whole, calls = getattr(home, name), []

    def stop(*given, **more):
        result = whole(*given, **more)
        calls.append(name)
        if len(calls) == after:
            raise Killed
        return result

    command = words(place, many_rooms, "--max-drop", LIMITS)
    with monkeypatch.context() as patch:
        patch.setattr(home, name, stop)
        with pytest.raises(Killed):
            call(CREATE, command, capsys)
    assert (place / f"{NAME}_search.ckpt").is_file()
    said = call(CREATE, command, capsys)
    assert said.code == 0, said.err
    for file in (f"{NAME}_search.csv", f"{NAME}_search.png"):
        assert (place / file).read_bytes() == (made / file).read_bytes()
    same(
        torch.load(place / f"{NAME}.pth", weights_only=True),
        torch.load(made / f"{NAME}.pth", weights_only=True),
    )
    assert certificate(place) == certificate(made)
    assert not list(place.glob(f"{NAME}_round*")) and not (place / f"{NAME}_search.ckpt").exists()


def test_what_is_judged_kept_and_pruned_next_is_the_average_where_one_is_asked_for(
    many_rooms, place, tmp_path_factory, capsys, monkeypatch, only_trained
):
    """And an interrupted search of averages ends with the same bits."""
    command = ["--max-drop", "seg.err=30,sn=60", "--ema-decay", "0.9", "--lr", "1e-3"]
    other = tmp_path_factory.mktemp("other")
    for name in ("final_nyuv2_baseline.pth", "small.yaml"):
        shutil.copy(place / name, other)
    home, seen = workflow.contract_search, []  # of each round: where it began, what came out
    optimizer, look, save = home.make_optimizer, home.look, home.save_network

    def state(network):
        return {name: value.clone() for name, value in network.state_dict().items()}

    def begin(network, *given):
        seen.append({"from": state(network), "run": network})
        return optimizer(network, *given)

    def judged(experiment, network, split, places=None):
        if seen and "judged" not in seen[-1]:  # or it is the next round, before its training
            seen[-1] |= {"judged": state(network), "last": state(seen[-1]["run"])}
        return look(experiment, network, split, places)

    def keep(experiment, path, network, **more):
        seen[-1] |= {"kept": state(network), "mask": more["mask"]}
        save(experiment, path, network, **more)

    with monkeypatch.context() as patch:
        for name, spy in (("make_optimizer", begin), ("look", judged), ("save_network", keep)):
            patch.setattr(home, name, spy)
        said = call(CREATE, words(place, many_rooms, *command), capsys)
    assert said.code == 0, said.err
    start = torch.load(place / "final_nyuv2_baseline.pth", weights_only=True)["state"]
    mean = next(key for key in seen[0]["judged"] if key.endswith("running_mean"))
    for one in seen:
        for name, value in one["from"].items():  # of the average that was kept last, pruned
            assert ((value == start[name]) | (value == 0)).all()
        assert not torch.equal(one["judged"][mean], one["last"][mean])
        if "kept" in one:
            start = one["kept"]
            same(start, one["judged"])
            assert not any(start[of][~kept].any() for of, kept in one["mask"].items())
    assert sum("kept" in one for one in seen) > 1
    final = torch.load(place / f"{NAME}.pth", weights_only=True)["state"]
    kept = [one["kept"] for one in seen if "kept" in one]
    assert any(all(torch.equal(final[key], of[key]) for key in final) for of in kept)
    assert call(EVALUATE, checking(place, many_rooms, "val"), capsys).code == 0

    whole, calls = home.Run._save_checkpoint, []

    def stop(*given):
        whole(*given)
        calls.append(1)
        if len(calls) == 3:  # after the first step of the second round
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(home.Run, "_save_checkpoint", stop)
        with pytest.raises(Killed):
            call(CREATE, words(other, many_rooms, *command), capsys)
    assert call(CREATE, words(other, many_rooms, *command), capsys).code == 0
    same(*(torch.load(of / f"{NAME}.pth", weights_only=True) for of in (other, place)))
    assert certificate(other) == certificate(place)


def test_a_search_does_not_go_on_from_what_is_not_its_own(many_rooms, place, capsys, monkeypatch):
    def stop(*given, **more):
        raise Killed

    command = words(place, many_rooms, "--max-drop", LIMITS)
    with monkeypatch.context() as patch:
        patch.setattr(workflow.contract_search, "make_optimizer", stop)
        with pytest.raises(Killed):
            call(CREATE, command, capsys)
    said = call(CREATE, words(place, many_rooms, "--max-drop", "all=3"), capsys)
    assert said.code == 2 and "was started with contract.max_drop=['seg.err=1.5', 'sn=30']" in said.err
    state = place / f"{NAME}_search.ckpt"
    whole = torch.load(state, weights_only=True)
    for change, words_said in (
        ({"dense": "0" * 64}, "was started from another dense network than"),
        ({"rounds": [{"sn": [0.0, 0.0]}]}, "is no state of this search"),
        ({"rounds": None, "falls": []}, "is no state of a search of this version: --overwrite starts anew"),
        ({"trained": None}, "is no state of a search of this version: --overwrite starts anew"),
        ({"trained": [True] * 99}, "is no state of this search"),
    ):
        torch.save(whole | change, state)
        said = call(CREATE, command, capsys)
        assert said.code == 2 and words_said in said.err


# ------------------------------------------------------------------------- divergence
@pytest.fixture
def fates(monkeypatch):
    """What becomes of the trainings, in turn; "diverges": a weight that makes the loss not finite."""
    given, optimizer = [], workflow.contract_search.make_optimizer

    def begin(network, *more):
        fate = given.pop(0)
        if fate == "killed":
            raise Killed
        if fate == "diverges":
            next(network.parameters()).data.fill_(float("inf"))
        return optimizer(network, *more)

    monkeypatch.setattr(workflow.contract_search, "make_optimizer", begin)
    return given


def test_a_round_that_diverges_breaks_all_limits_and_the_search_goes_on(
    many_rooms, place, capsys, fates, only_trained
):
    """Also after a kill, and where it is the first."""
    command = words(place, many_rooms, "--max-drop", "seg.err=60,sn=none", "--set", "contract.smallest=30")
    fates += ["diverges", "trains", "killed", "diverges"]
    with pytest.raises(Killed):
        call(CREATE, command, capsys)
    said = call(CREATE, command, capsys)
    assert said.code == 0, said.err
    told = rows(place)
    assert [(row["level"], row["kept"]) for row in told] == [("3", "0"), ("1", "1"), ("2", "0")]
    for row in (told[0], told[2]):
        assert {row[f"{what}/{name}"] for what in ("drop", "bound") for name in ("seg.err", "sn")} == {"nan"}
    line = f"round 2: {int(told[2]['size']):,} weights, factors seg 1, sn 1; its training diverged"
    assert f"{line} (a smaller --lr may help); taken back, broken: seg.err, sn" in said.out + said.err
    found = certificate(place)
    assert found["size"]["kept"] == int(told[1]["size"])
    assert found["widths"]["seg.err"] == float(told[1]["bound/seg.err"]) - float(told[1]["drop/seg.err"])


def test_a_search_whose_rounds_all_diverge_says_so(many_rooms, place, capsys, fates, only_trained):
    fates += ["diverges"]
    said = call(
        CREATE, words(place, many_rooms, "--max-drop", LIMITS, "--set", "contract.smallest=60"), capsys
    )
    assert said.code == 1 and not fates
    size = int(rows(place)[0]["size"])
    assert (
        "error: no smaller network keeps the limit of 1.5 % for 'seg.err': of the best that was tried, "
        f"{size:,} weights, the training with 2 iterations a round diverged (a smaller --lr may help)"
    ) in said.err


# ---------------------------------------------------------------------------- refusals
def test_limits_that_no_size_keeps_end_with_one_sentence_and_status_1(
    many_rooms, place, capsys, only_trained
):
    command = words(place, many_rooms, "--max-drop", "seg.err=0,sn=none", "--lr", "0.1")
    for _ in range(2):  # the second time it is known
        said = call(CREATE, command, capsys)
        assert said.code == 1
        errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        tried = rows(place)
        assert [row["level"] for row in tried] == ["4", "4", "2", "2", "1", "1"]  # with one turn each
        best = min(tried, key=lambda row: float(row["bound/seg.err"]))
        drop, bound = (float(best[f"{what}/seg.err"]) for what in ("drop", "bound"))
        assert errors[0] == (
            "error: no smaller network keeps the limit of 0 % for 'seg.err': the best that was tried, "
            f"{int(best['size']):,} weights, with 2 iterations a round, loses {drop:.3g} % on the search's "
            f"half of the validation images, at level 0.95 at most {bound:.3g} %"
        )
    assert not (place / f"{NAME}.pth").exists()


def test_a_round_whose_limits_pruning_alone_keeps_is_not_trained(
    made, many_rooms, place, capsys, monkeypatch
):
    trace = rows(made)
    assert (trace[0]["kept"], trace[0]["trained"]) == ("1", "0") and any(
        row["trained"] == "1" for row in trace
    )
    assert all(row["trained"] == "1" for row in trace if row["kept"] == "0")

    def never(*given):
        raise AssertionError("a network is trained")

    monkeypatch.setattr(workflow.contract_search, "make_optimizer", never)
    said = call(CREATE, words(place, many_rooms, "--max-drop", "seg.err=900,sn=900"), capsys)
    assert said.code == 0 and "; kept without training" in said.out + said.err
    assert certificate(place)["finetune"]["rounds_trained"] == 0
    assert torch.load(place / f"{NAME}.pth", weights_only=True)["step"] == 0


def test_the_first_round_prunes_the_dense_network_as_it_is(
    many_rooms, place, capsys, monkeypatch, only_trained
):
    """No step of training lies before it, and its bounds' widths are said."""
    dense, begun = torch.load(place / "final_nyuv2_baseline.pth", weights_only=True)["state"], []

    def stop(network, *given):
        begun.append({name: value.clone() for name, value in network.state_dict().items()})
        raise Killed

    command = words(place, many_rooms, "--max-drop", LIMITS)
    with monkeypatch.context() as patch:
        patch.setattr(workflow.contract_search, "make_optimizer", stop)
        with pytest.raises(Killed):
            call(CREATE, command, capsys)
    kept = [(value == dense[name]) | (value == 0) for name, value in begun[0].items()]
    assert all(of.all() for of in kept)
    said = call(CREATE, command, capsys)
    widths = {
        name: float(rows(place)[0][f"bound/{name}"]) - float(rows(place)[0][f"drop/{name}"])
        for name in ("seg.err", "sn")
    }
    assert certificate(place)["widths"] == widths
    assert (
        f"its bounds are seg.err {widths['seg.err']:.3g}, sn {widths['sn']:.3g} above" in said.out + said.err
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--max-drop", "seg=1"], "--max-drop gives no limit for task 'sn': sn=PERCENT, or sn=none"),
        (["--max-drop", "seg=1,ns=1"], "task 'ns' is not one of seg, sn, all"),
        (["--max-drop", "seg.miou=1,all=1"], "measure of seg 'miou' is not one of mIoU, pixel_acc"),
        (["--max-drop", "all=x"], "limit 'x' of 'all' is not a number of at least 0"),
        (["--max-drop", "all=-1"], "limit '-1' of 'all' is not a number of at least 0"),
        (["--max-drop", "all=inf"], "limit 'inf' of 'all' is not a number of at least 0"),
        (["--max-drop", "seg=1,seg=2,sn=1"], "--max-drop gives two limits for 'seg'"),
        (["--max-drop", "seg"], "--max-drop takes TASK=PERCENT, such as seg=1, not 'seg'"),
        (["--max-drop", "all=none"], "lets every task lose anything"),
        (["--max-drop", "all=1", "--ratio", "90"], "--max-drop decides the ratio: leave --ratio 90 out"),
        (["--max-drop", "all=1", "--preflight"], "--preflight knows nothing of --max-drop"),
        (["--max-drop", "all=1", "--keep-ratio", "0.1"], "prune.keep_ratio 0.1"),
        (["--max-drop", "all=1", "--arbiter", "majority"], "prune.arbiter majority"),
        (["--max-drop", "all=1", "--shuffle"], "prune.shuffle True"),
        (["--max-drop", "all=1", "--method", "snip"], "method 'snip' has not its tasks vote once"),
        (["--max-drop", "all=1", "--method", "imp"], "method 'imp' has not its tasks vote once"),
        (["--max-drop", "all=1", "--budget", "erk"], "a contract takes 'global'"),
        (["--max-drop", "all=1", "--export-published", "x.pth"], "leave --export-published out"),
        (["--max-drop", "all=1", "--level", "0.999"], "level 0.999 needs at least 999 resamples, not 99"),
        (["--max-drop", "all=1", "--level", "2"], "it must be from 0.5 to below 1"),
        (["--max-drop", "all=1", "--granularity", "2:4"], "granularity '2:4' fixes what each layer keeps"),
        (["--max-drop", "all=1", "--set", "weighting.method=min_max"], "has no reference of task 'seg'"),
        (["--max-drop", "all=1", "--val-share", "0.3"], "the index has a split 'val' of its own"),
        (["--max-drop", "all=1", "--start-from", "best"], "prunes a trained dense network and there is no"),
    ],
)
def test_mistakes_are_told_before_any_work(more, said, many_rooms, place, capsys):
    before = sorted(path.name for path in place.iterdir())
    told = call(CREATE, words(place, many_rooms, *more), capsys)
    assert told.code == 2
    errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0]
    assert sorted(path.name for path in place.iterdir() if path.name[0] != ".") == before


def test_too_few_validation_images_are_told(rooms, place, capsys):
    told = call(CREATE, words(place, rooms, "--max-drop", "all=1"), capsys)
    assert told.code == 2 and "validation images holds" in told.err and "fewer than 8" in told.err


def test_a_larger_share_validates_only_where_the_dense_network_has_not_seen_it(
    many_rooms, place, tmp_path, capsys, monkeypatch
):
    data = tmp_path / "data"
    shutil.copytree(many_rooms, data)
    index = json.loads((data / "nyu_v2_3task.json").read_text())
    index["train"] += index.pop("val")
    (data / "nyu_v2_3task.json").write_text(json.dumps(index))
    command = words(place, data, "--max-drop", "all=1", "--val-share", "0.5")
    told = call(CREATE, command, capsys)
    assert told.code == 2
    assert (
        "was trained with --val-share 0.05, so on images that --val-share 0.5 would judge it by" in told.err
    )
    path = place / "final_nyuv2_baseline.pth"
    content = torch.load(path, weights_only=True)
    content["config"]["data"]["val_fraction"] = 0.6
    torch.save(content, path)

    def stop(*given, **more):
        raise Killed

    monkeypatch.setattr(workflow.contract_search, "make_optimizer", stop)
    with pytest.raises(Killed):  # nothing was wrong before the first training
        call(CREATE, [*command, "--max-drop", "seg.err=1,sn.mean=1"], capsys)
    assert (place / f"{NAME}_search.ckpt").is_file()


def test_no_look_is_spent_on_a_network_that_could_not_be_the_result():
    limits = {"a": 3.0}
    falls = {"whole": Fall(0, 0.5), "half": Fall(1, 2), "most": Fall(1.5, 2.5), "least": Fall(2, 2.9)}
    sizes = {"whole": 100, "most": 80, "half": 50, "least": 10, "broken": 5}
    found = [(name, size, {"a": falls.get(name, Fall(2, 3.1))}) for name, size in sizes.items()]
    assert to_certify(found, limits) == ["whole", "half", "least"] == to_certify(found[::-1], limits)
    assert to_certify(found[1:], limits) == ["half", "least"]
    assert to_certify([], limits) == []


def test_certainty_is_counted_in_widths_of_the_bounds():
    limits = {"a": 3.0, "b": 2.0, "c": float("inf")}
    falls = {"a": Fall(1.0, 2.0), "b": Fall(-1.0, 1.0), "c": Fall(9.0, 99.0)}
    assert certainty(falls, limits) == 1.5  # b: 3 of its limit's 2 + 1, in widths of 2
    assert certainty({"a": Fall(1.0, 1.0), "b": Fall(0.0, 0.0), "c": Fall(9.0, 99.0)}, limits) == float("inf")
