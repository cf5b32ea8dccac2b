"""The rounds of a contract: interruption, averages, divergence, what is trained and where they begin."""

from __future__ import annotations

import shutil
import signal

import pytest
import torch

import workflow.contract
import workflow.contract_search
from tests.scripts import call
from tests.test_resume import same
from tests.workflow.contracts import (
    CREATE,
    EVALUATE,
    LIMITS,
    NAME,
    Killed,
    certificate,
    checking,
    dense,
    killed_before_training,
    made,
    only_trained,
    place,
    rows,
    words,
)

__all__ = ["dense", "made", "only_trained", "place"]  # fixtures


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


def test_a_signal_in_the_last_step_of_a_round_ends_the_command(made, many_rooms, place, capsys, monkeypatch):
    """And not the round alone; the same command goes on, to the same bits."""
    run = workflow.contract_search.Run
    keep, ended = run._keep_early_weights, []

    def stop(self, step):
        keep(self, step)
        if step == self.plan.steps:
            ended.append(self.stem)
            signal.raise_signal(signal.SIGTERM)

    command = words(place, many_rooms, "--max-drop", LIMITS)
    with monkeypatch.context() as patch:
        patch.setattr(run, "_keep_early_weights", stop)
        said = call(CREATE, command, capsys)
    assert (said.code, len(ended)) == (143, 1)
    assert len(list(place.glob(f"{ended[0]}.step*.ckpt"))) >= 1
    assert call(CREATE, command, capsys).code == 0
    same(
        torch.load(place / f"{NAME}.pth", weights_only=True),
        torch.load(made / f"{NAME}.pth", weights_only=True),
    )


def test_what_is_judged_kept_and_pruned_next_is_the_average_where_one_is_asked_for(
    many_rooms, place, tmp_path_factory, capsys, monkeypatch, only_trained
):
    """And an interrupted search of averages ends with the same bits."""
    command = ["--max-drop", "seg.err=30,sn.mean=60", "--ema-decay", "0.9", "--lr", "1e-3"]
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


def other_images(state, split):
    """What the state of a search over other images of a split says of them."""
    return {"images": state["images"] | {split: state["images"][split] | {"sha256": "0" * 64}}}


def test_a_search_does_not_go_on_from_what_is_not_its_own(many_rooms, place, capsys, monkeypatch):
    command = words(place, many_rooms, "--max-drop", LIMITS)
    killed_before_training(command, capsys, monkeypatch)
    said = call(CREATE, words(place, many_rooms, "--max-drop", "all=3"), capsys)
    assert said.code == 2 and "was started with contract.max_drop=['seg.err=1.5', 'sn=30']" in said.err
    state = place / f"{NAME}_search.ckpt"
    whole = torch.load(state, weights_only=True)
    for change, words_said in (
        ({"dense": "0" * 64}, "was started from another dense network than"),
        ({"method": "disparse_fisher"}, "was started with --method disparse_fisher, this command says"),
        (other_images(whole, "val"), "was started on other images of split 'val' than those of"),
        ({"rounds": [{"sn": [0.0, 0.0]}]}, "is no state of this search"),
        ({"rounds": None, "falls": []}, "is no state of a search of this version: --overwrite starts anew"),
        ({"bound": "percentile"}, "is no state of a search of this version: --overwrite starts anew"),
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
    said = call(CREATE, words(place, many_rooms, "--max-drop", "seg.err=900,sn=9000"), capsys)
    assert said.code == 0 and "; kept without training" in said.out + said.err
    assert certificate(place)["finetune"]["rounds_trained"] == 0
    assert torch.load(place / f"{NAME}.pth", weights_only=True)["step"] == 0


def test_the_first_round_prunes_the_dense_network_as_it_is(
    many_rooms, place, capsys, monkeypatch, only_trained
):
    """No step of training lies before it, and its bounds' widths are said."""
    dense = torch.load(place / "final_nyuv2_baseline.pth", weights_only=True)["state"]
    command = words(place, many_rooms, "--max-drop", "seg.err=90,sn=9000")
    begun = killed_before_training(command, capsys, monkeypatch)
    kept = [(value == dense[name]) | (value == 0) for name, value in begun.items()]
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
