"""A contract of latency by the scripts: a stated table, one that is measured once, resumption, refusals."""

from __future__ import annotations

import json
import re

import pytest
import torch

import workflow.contract_latency
import workflow.contract_search
from prune_utils.latencies import SIZES, faster_sizes, thinned
from tests.scripts import call
from tests.test_resume import same
from tests.workflow.contracts import (
    CREATE,
    EVALUATE,
    NAME,
    Killed,
    certificate,
    checking,
    dense,
    place,
    rows,
    words,
)

__all__ = ["dense", "place"]  # fixtures
LIMITS = ["--max-drop", "seg.err=30,sn=60", "--of", "latency:sparse-engine"]


@pytest.fixture
def clock(monkeypatch):
    """Sizes that were measured, by a machine whose time goes by blocks of 5,000 kept weights."""
    measured = []

    def latency_in(runtime, image):
        assert runtime == "sparse engine" and image.shape[:2] == (1, 3)

        def latency(network):
            kept = sum(int(v.count_nonzero()) for v in network.parameters() if v.dim() > 1)
            measured.append(kept)
            return 2.0 + kept // 5000

        return latency

    monkeypatch.setattr(workflow.contract_latency, "latency_in", latency_in)
    return measured


def test_the_fastest_network_is_searched_for_by_a_table_that_is_measured_once(
    many_rooms, place, capsys, clock, monkeypatch
):
    command = words(place, many_rooms, *LIMITS)
    whole = workflow.contract_search.Work.attempt

    def stop(work, trial):
        if trial.number == 1:
            raise Killed
        return whole(work, trial)

    with monkeypatch.context() as patch:
        patch.setattr(workflow.contract_search.Work, "attempt", stop)
        with pytest.raises(Killed):
            call(CREATE, command, capsys)
    table = torch.load(place / f"{NAME}_search.ckpt", weights_only=True)["latency"]
    assert table["sizes"] == clock == list(thinned(table["sizes"])) and table["runtime"] == "sparse-engine"
    assert table["milliseconds"] == [2.0 + kept // 5000 for kept in clock]
    said = call(CREATE, command, capsys)
    assert said.code == 0, said.err
    found = certificate(place)
    assert found["latency"] == table and len(clock) == len(table["sizes"])  # none was measured again
    assert found["of"] == "latency:sparse-engine" and found["size"]["kept"] == found["kept"]
    times = dict(zip(table["sizes"], table["milliseconds"], strict=True))
    ladder = faster_sizes(times, found["total"])
    assert {int(row["size"]) for row in rows(place)} <= set(ladder)
    assert (
        f"{times[found['kept']]:.3g} ms in sparse-engine, {times[found['total']]:.3g} ms with all" in said.out
    )
    assert call(EVALUATE, checking(place, many_rooms, "val"), capsys).code == 0


def test_a_search_and_its_resumption_try_the_sizes_of_the_table_alone(
    many_rooms, place, capsys, clock, monkeypatch
):
    """Of a ladder with more levels than are measured, some no faster than a larger one."""
    command, begun = words(place, many_rooms, *LIMITS, "--set", "contract.resolution=3"), []

    def stop(work, trial):
        begun.append((tuple(work.ascent.sizes), trial, work.said(trial.keep)))
        raise Killed

    monkeypatch.setattr(workflow.contract_search.Work, "attempt", stop)
    for _ in range(2):
        with pytest.raises(Killed):
            call(CREATE, command, capsys)
    table = torch.load(place / f"{NAME}_search.ckpt", weights_only=True)["latency"]
    times = dict(zip(table["sizes"], table["milliseconds"], strict=True))
    assert begun[0][0] == faster_sizes(times, table["sizes"][0]) and len(begun[0][0]) < len(times) == SIZES
    assert begun[0] == begun[1]


def test_the_table_of_the_contract_that_is_replaced_is_read_before_it_goes(
    many_rooms, place, capsys, clock, monkeypatch
):
    """And not again by a resumed search, in whose state it lies."""
    command = words(place, many_rooms, *LIMITS, "--set", "contract.smallest=60")
    monkeypatch.setattr(workflow.contract_search.Run, "train", lambda run, resume: None)
    assert call(CREATE, command, capsys).code == 0
    table, count = certificate(place)["latency"], len(clock)
    again = [*command, "--set", f"contract.latencies={place / f'{NAME}_limits.json'}"]

    def stop(work, trial):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(workflow.contract_search.Work, "attempt", stop)
        with pytest.raises(Killed):
            call(CREATE, [*again, "--overwrite"], capsys)
    assert not (place / f"{NAME}_limits.json").exists()
    said = call(CREATE, again, capsys)
    assert said.code == 0, said.err
    assert certificate(place)["latency"] == table and len(clock) == count
    assert call(CREATE, [*again, "--overwrite"], capsys).code == 0
    assert certificate(place)["latency"] == table and len(clock) == count


def test_a_table_that_no_search_can_go_by_leaves_an_earlier_contract_as_it_is(many_rooms, place, capsys):
    """One of another network; then one of sizes that are smaller than what is protected."""
    (place / f"{NAME}.pth").write_text("an earlier network")
    stated = ["--set", f"contract.latencies={place / 'other.json'}", "--overwrite"]
    stated += ["--protect", "backbone.stem.conv"]
    whole = "9"
    for wrong in ("the latencies lack that of the whole network, size ", "no size below the whole network, "):
        table = {"runtime": "sparse-engine", "sizes": [int(whole), 5], "milliseconds": [2, 1]}
        (place / "other.json").write_text(json.dumps(table))
        said = call(CREATE, words(place, many_rooms, *LIMITS, *stated), capsys)
        assert said.code == 2 and wrong in said.err
        whole = re.search(r"[\d,]*\d", said.err.partition(wrong)[2])[0].replace(",", "")
    assert (place / f"{NAME}.pth").read_text() == "an earlier network"


def test_an_earlier_certificate_states_the_table(many_rooms, place, capsys, clock):
    first = place / "first"
    first.mkdir()
    command = [*words(place, many_rooms, *LIMITS), "--init-from", str(place / "final_nyuv2_baseline.pth")]
    assert call(CREATE, [*command, "--dest", str(first)], capsys).code == 0
    count, second = len(clock), place / "second"
    stated = ["--set", f"contract.latencies={first / f'{NAME}_limits.json'}", "--dest", str(second)]
    assert call(CREATE, [*command, *stated], capsys).code == 0
    assert len(clock) == count and certificate(second)["latency"] == certificate(first)["latency"]
    one, two = (torch.load(of / f"{NAME}.pth", weights_only=True) for of in (first, second))
    same(one["state"], two["state"])


def test_channels_leave_in_rounds_that_survive_a_kill(many_rooms, place, capsys, monkeypatch):
    """By latencies of a runtime that multiplies zeros: of a table whose times go by blocks of parameters."""
    pytest.importorskip("torch_pruning")
    sizes = []

    def latency_in(runtime, image):
        def latency(network):
            sizes.append(sum(value.numel() for value in network.parameters()))
            return 1.0 + sizes[-1] // 3000

        return latency

    monkeypatch.setattr(workflow.contract_latency, "latency_in", latency_in)
    words_ = [*words(place, many_rooms, "--max-drop", "seg.err=60,sn=90", "--granularity", "channel")]
    words_ += ["--of", "latency:pytorch", "--set", "contract.smallest=30"]
    whole, calls = workflow.contract_search.write_file, []

    def stop(*given):
        whole(*given)
        calls.append(1)
        if len(calls) == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(workflow.contract_search, "write_file", stop)
        with pytest.raises(Killed):
            call(CREATE, words_, capsys)
    said = call(CREATE, words_, capsys)
    assert said.code == 0, said.err
    found, content = certificate(place), torch.load(place / f"{NAME}.pth", weights_only=True)
    removed = content["certificate"]["removed"]
    assert found["kept"] == removed["after"]["params"] <= found["size"]["kept"] < found["size"]["total"]
    assert found["total"] == removed["before"]["params"] == found["size"]["total"] == sizes[0]
    assert found["size"]["counts"] == "parameters" and all(kept.all() for kept in content["mask"].values())
    assert len(sizes) == len(found["latency"]["sizes"])
    assert call(EVALUATE, checking(place, many_rooms, "val"), capsys).code == 0


def test_nothing_but_a_contract_goes_by_latencies(many_rooms, place, capsys):
    told = call(CREATE, words(place, many_rooms, "--method", "disparse_pt", *LIMITS[2:]), capsys)
    assert told.code == 2 and "--of latency:sparse-engine is for --max-drop" in told.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--of", "latency"], "'contract.of' is latency, it must be size, or latency:RUNTIME"),
        (["--of", "latency:tflite"], "runtime 'tflite' is not one of pytorch, "),
        (
            ["--of", "latency:pytorch"],
            "PyTorch multiplies pruned weights like others, so --granularity weight makes nothing faster in "
            "it: give --of latency:sparse-engine, latency:sparse-engine-bf16",
        ),
        (["--set", "contract.latencies=x.json"], "a table for --of latency:RUNTIME: leave it out"),
        ([*LIMITS[2:], "--set", "contract.latencies=x.json"], "there is no file x.json with latencies"),
        ([*LIMITS[2:], "--set", "contract.latencies=EMPTY"], "holds no latencies"),
        ([*LIMITS[2:], "--set", "contract.latencies=OTHER"], "holds latencies in openvino, not in sparse-"),
    ],
)
def test_what_no_latency_can_be_had_of_is_told_before_any_work(more, said, many_rooms, place, capsys):
    other = {"runtime": "openvino", "sizes": [2, 1], "milliseconds": [2, 1]}
    for name, content in (("EMPTY", {"sizes": [1]}), ("OTHER", other)):
        (place / name).write_text(json.dumps(content))
        more = [word.replace(f"={name}", f"={place / name}") for word in more]
    before = sorted(path.name for path in place.iterdir() if path.name[0] != ".")
    told = call(CREATE, words(place, many_rooms, "--max-drop", "all=5", *more), capsys)
    assert told.code == 2
    errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0]
    assert sorted(path.name for path in place.iterdir() if path.name[0] != ".") == before
