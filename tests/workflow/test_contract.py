"""A contract by the scripts on small rooms: what comes out, and checking it again."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from prune_utils.ascent import Ascent
from tests.scripts import call
from tests.workflow.contracts import (
    CREATE,
    EVALUATE,
    LIMITS,
    NAME,
    certificate,
    changed,
    checking,
    dense,
    made,
    place,
    rows,
    words,
)
from workflow.judging import Fall, certainty, to_certify

__all__ = ["dense", "made", "place"]  # fixtures


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
        + ["final_nyuv2_baseline.pth", "small.yaml", "nyuv2_contract_looks.jsonl"]
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


def test_a_finished_contract_is_not_that_of_another_dense_network(made, many_rooms, place, capsys):
    for path in made.iterdir():
        if path.is_file():
            shutil.copy(path, place)
    other = changed(shutil.copy(place / "final_nyuv2_baseline.pth", place / "other.pth"))
    command = words(place, many_rooms, "--max-drop", LIMITS)
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    for more, path in (
        ([], changed(place / "final_nyuv2_baseline.pth")),
        (["--init-from", str(other)], other),
    ):
        before[path.name] = path.read_bytes()
        said = call(CREATE, [*command, *more], capsys)
        assert said.code == 2, said.out
        assert f"is the contract of another dense network than {path} is now: --overwrite" in said.err
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
    limits.write_text(whole.replace('"bound": "percentile and bootstrap-t"', '"bounds": 1'))
    assert "has bounds of another kind than this version's, as earlier versions made: create" in refused()
    limits.write_text(whole.replace('"sn": 30.0', '"depth": 30.0'))
    assert "the certificate limits 'depth', which this network does not have" in refused()
    limits.write_text(whole)
    shutil.copy(place / "final_nyuv2_baseline.pth", place / f"{NAME}.pth")
    assert "is not the network that the certificate is of: its weights differ" in refused("--seed", "0")
    (place / f"{NAME}.pth").unlink()
    assert f"there is no file {NAME}.pth, the network of" in refused()


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
