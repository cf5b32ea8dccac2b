"""The benchmark of contracts: its pieces, what they say to the scripts, and the tables of their files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import contract, contract_losses
from benchmarks.contract_pieces import GRID, Piece, pieces, unfinished
from benchmarks.contract_tables import Reached, of_grid, tables
from study.isolated import Stopped
from tests.scripts import call

LIMITS = {"seg": 2.0, "sn": 10.0}
LOOSE = "seg.err=400,sn.mean=400"


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What a command line asks for, beside a folder for files."""
    (tmp_path / "nyu_v2_3task.json").write_text(json.dumps({"train": [], "test": []}))

    def parsed(*words):
        given = ["contract", "--data-root", str(tmp_path), "--dest", str(tmp_path), *words]
        monkeypatch.setattr("sys.argv", given)
        return contract.arguments()

    return parsed


# ------------------------------------------------------------------------------ pieces
def test_an_early_end_leaves_some_promises_and_the_sizes_of_a_seed(asked):
    said = asked("--jobs", "2", "--seeds", "4", "--size-seeds", "2", "--ratios", "50", "--sizes", "all=1")
    names = [piece.name for piece in pieces(said)]
    sizes = [f"sizes_{kind}_all_1" for kind in ("contract", "uniform")] + [f"{m}_50" for m in GRID]
    limits = ["all_5", "all_2", "all_10", "seg_2_all_10"]
    promises = [[f"seed{s}_dense", f"seed{s}_promise_contract_{limits[s]}"] for s in range(4)]
    assert names == [
        *(promises[0] + promises[1]),
        *(f"seed0_{name}" for name in sizes),
        *(promises[2] + promises[3]),
        *(f"seed1_{name}" for name in sizes),
    ]


def test_a_dense_network_that_is_gone_is_made_again_where_a_piece_needs_it(asked, tmp_path):
    todo = pieces(asked("--seeds", "2", "--only", "promise"))
    assert unfinished(todo) == todo
    first, promise, second, other = todo
    for piece in (first, second, promise):
        piece.result.write_text(json.dumps(piece.about))
    second.folder.mkdir(parents=True)
    second.dense.touch()
    assert unfinished(todo) == [other]
    second.dense.unlink()
    assert unfinished(todo) == [second, other]


def test_a_dense_network_that_its_piece_did_not_make_is_started_from_by_none(asked, tmp_path):
    dense, promise = pieces(asked("--seeds", "1", "--only", "promise"))
    promise.folder.mkdir(parents=True)
    promise.dense.touch()  # of another run, which the dense piece will refuse
    assert dense.ready and not promise.ready
    dense.result.write_text(json.dumps(dense.about))
    assert promise.ready


def test_limits_belong_to_a_seed_whichever_others_are_run(asked):
    said = asked("--seeds", "104,117,", "--only", "promise")
    assert [piece.limits for piece in pieces(said) if piece.limits] == ["sn=2,all=10", "all=10"]


def test_a_network_of_the_grid_that_comes_to_no_number_keeps_no_limit(asked, monkeypatch):
    todo = pieces(asked("--only", "sizes", "--size-seeds", "1", "--ratios", "50", "--sizes", "all=1"))
    piece = next(piece for piece in todo if piece.kind == "disparse_pt")
    search = next(piece for piece in todo if piece.kind == "uniform")
    scripts = []

    def run_script(script, words, log, stop, threads):
        scripts.append(script)
        log.parent.mkdir(parents=True, exist_ok=True)
        diverged = script == "launch_training.py"
        log.write_text("error: the loss became nan (a smaller --lr may help)" if diverged else "done")
        if "--out" in words:
            content = {"kept": 5, "total": 10, "losses": network(5, (9, 9))["losses"]}
            Path(words[words.index("--out") + 1]).write_text(json.dumps(content))
        return 2 if diverged else 0

    monkeypatch.setattr(contract, "run_script", run_script)
    assert contract.run(piece, None, 1) is None
    assert scripts == ["create_pruned_net.py", "benchmarks/contract_losses.py", "launch_training.py"]
    found = json.loads(piece.result.read_text())
    assert list(found["looks"]) == ["untrained"] and found["said"].startswith("error: the loss became nan")
    assert of_grid([found], LIMITS) == Reached(None, None) and of_grid([found], {"seg": 9.0}).seen == 50.0
    assert not search.lost("error: the loss became nan (a smaller --lr may help)")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--level", "0.8"), "seed0_promise_contract_all_5.json was made with level 0.95, not 0.8: "),
        (
            ("--criterion", "fisher"),
            "seed0_promise_contract_all_5.json was made with criterion None, not fisher",
        ),
        (("--round-steps", "7"), "seed0_promise_contract_all_5.json was made with round_steps 150, not 7"),
        (("--set", "optim.lr=0.1"), "seed0_dense.json was made with digest "),
        (("--val-share", "0.2"), "seed0_dense.json was made with digest "),
        (("--set", "data.num_workers=1"), None),
        (("--jobs", "3"), None),
    ],
)
def test_a_file_of_other_settings_is_not_taken_for_this_one(words, sentence, asked, tmp_path):
    plain = ("--seeds", "1", "--only", "promise")
    for piece in pieces(asked(*plain)):
        piece.result.write_text(json.dumps(piece.about))
        piece.folder.mkdir(parents=True, exist_ok=True)
        piece.dense.touch()
    todo = pieces(asked(*plain, *words))
    if sentence is None:
        assert unfinished(todo) == []
    else:
        with pytest.raises(ValueError, match=sentence):
            unfinished(todo)


def test_a_stop_during_the_last_piece_is_no_end(monkeypatch):
    stop, last = SimpleNamespace(number=None), SimpleNamespace(name="seed0_contract", ready=True)

    def run(piece, stop, threads):
        stop.number = 15
        raise Stopped(15)

    monkeypatch.setattr(contract, "run", run)
    with pytest.raises(Stopped):
        contract.run_all([last], 1, stop)


def test_all_ways_train_from_the_same_dense_network_for_the_stated_steps(asked):
    said = asked("--round-steps", "7", "--grid-steps", "40", "--set", "finetune.lr=0.003")
    dense = "final_nyuv2_baseline.pth"
    trained = {}
    for piece in pieces(said):
        if piece.seed or piece.part != "sizes" or piece.ratio not in (None, 90.0):
            continue
        for script, words, _ in piece.commands():
            assert str(piece.folder / dense) in words or script == "launch_training.py"
            for flag, what in (("finetune.iterations", "length"), ("optim.lr", "rate")):
                found = [word.partition("=")[2] for word in words if word.startswith(flag)]
                trained.setdefault(piece.kind, {}).update({what: found[-1]} if found else {})
            if "--round-iterations" in words:
                trained[piece.kind]["between"] = words[words.index("--round-iterations") + 1]
    assert trained["contract"]["length"] == trained["uniform"]["length"] == "7"
    assert trained["disparse_pt"]["length"] == trained["gmp"]["length"] == "40"
    assert trained["gmp"]["rate"] == "0.003"
    assert int(trained["imp"]["length"]) + 4 * int(trained["imp"]["between"]) == 40


def test_only_the_uniform_search_has_no_factors(asked):
    said = asked("--criterion", "taylor")
    words = {p.kind: [w for c in p.commands() for w in c.words] for p in pieces(said) if p.part == "sizes"}
    assert [kind for kind, of in words.items() if "contract.turns=0" in of] == ["uniform"]
    assert {kind for kind, of in words.items() if "taylor" in of} == {"contract", "uniform", "disparse_pt"}


def test_a_file_that_does_not_say_how_its_bounds_were_made_is_not_taken(asked):
    dense, promise = pieces(asked("--seeds", "1", "--only", "promise"))
    promise.result.write_text(json.dumps({k: v for k, v in promise.about.items() if k != "bound"}))
    with pytest.raises(ValueError, match="all_5.json was made with bound unknown, not percentile and boot"):
        unfinished([dense, promise])


def test_what_cannot_be_is_one_sentence(tmp_path, capsys):
    (tmp_path / "nyu_v2_3task.json").write_text(json.dumps({"train": [], "val": [[]], "test": []}))
    for words, sentence in (
        (["--only", "size"], "part 'size' is not one of promise, sizes"),
        (["--jobs", "0"], "--jobs 0 is not at least 1"),
        (["--sizes", "segg=1"], "task 'segg' is not one of seg, sn, depth, all"),
        (["--data-root", "nowhere"], "data folder nowhere does not exist"),
        (["--level", "0.3"], "'contract.level' is 0.3"),
        (["--size-level", "0.9999"], "level 0.9999 "),
        (["--ratios", "50,0.5"], "'prune.ratio' is 0.5"),
        (["--round-steps", "0"], "'finetune.iterations' is 0"),
        (["--criterion", "foo"], "criterion 'foo' is not one of"),
        (["--set", "data.tasks=[sn]"], "weigh tasks against each other, and there is only 'sn'"),
        (["--val-share", "0.2"], "the index has a split 'val' of its own"),
    ):
        said = call(
            "benchmarks/contract.py", ["--data-root", str(tmp_path), "--dest", str(tmp_path), *words], capsys
        )
        assert said.code == 2 and sentence in said.err, said.err
    for words, sentence in (
        ([], "there is no file of a piece"),
        (["--seeds", "8"], "--table reads the files of --dest alone: leave --seeds out"),
    ):
        said = call("benchmarks/contract.py", ["--dest", str(tmp_path), "--table", *words], capsys)
        assert said.code == 2 and sentence in said.err, said.err


@pytest.mark.parametrize(
    ("code", "line", "fails"),
    [
        (0, "made", False),
        (1, "error: no size keeps", False),
        (1, "KeyError: 'a'", True),
        (2, "error: x", True),
    ],
)
def test_a_crash_is_not_taken_for_a_limit_that_no_size_keeps(code, line, fails, asked, monkeypatch):
    piece = pieces(asked("--only", "promise", "--seeds", "1"))[1]
    written = []

    def run_script(script, words, log, stop, threads):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"round 0\n{line}\n")
        return code

    monkeypatch.setattr(contract, "run_script", run_script)
    monkeypatch.setattr(Piece, "write", lambda piece, said: written.append(said))
    wrong = contract.run(piece, None, 1)
    assert (wrong is not None) == fails and written == ([] if fails else [line])
    assert not fails or f"status {code}: {line}" in wrong


# ------------------------------------------------------------------------------ tables
def network(kept, search, certificate=None):
    """A network of a grid of 1000 weights, whose drops are half of the bounds (seg, sn)."""
    halves = {"search": search, "certificate": certificate or search, "test": search}
    losses = {
        half: {name: {"drop": bound / 2, "bound": bound} for name, bound in zip(LIMITS, of, strict=True)}
        for half, of in halves.items()
    }
    look = {"kept": kept, "total": 1000, "losses": losses}
    return look | {"looks": {"trained": look}}


def test_a_grid_is_certified_as_a_contract_is():
    """The most certain first, up to the first that breaks a limit on the other half."""
    sure, less, least = network(500, (0.5, 1)), network(200, (1, 2)), network(100, (1.9, 3))
    broken = network(50, (2.1, 3))
    assert of_grid([broken, least, less, sure], LIMITS) == Reached(10.0, 10.0)
    assert of_grid([least, network(200, (1, 2), (3, 3)), sure], LIMITS) == Reached(10.0, 50.0)
    assert of_grid([least, less, network(500, (0.5, 1), (0, 11))], LIMITS) == Reached(10.0, None)
    assert of_grid([broken], LIMITS) == Reached(None, None)
    broken["looks"]["untrained"] = network(50, (1.9, 3))
    assert of_grid([broken], LIMITS) == Reached(5.0, 5.0)


def test_what_is_no_number_keeps_no_limit():
    lost = network(100, (1, 1))
    lost["looks"]["trained"]["losses"]["search"]["sn"]["bound"] = None
    assert of_grid([lost, network(300, (1, 1))], LIMITS) == Reached(30.0, 30.0)


def write(folder, name, **content):
    about = {"seed": 0, "limits": None, "ratio": None, "level": 0.95, "steps": 10, "wanted": None}
    about |= {"dataset": "nyuv2", "digest": "0", "bound": "a kind"}
    (folder / f"{name}.json").write_text(json.dumps(about | content))


def promise(folder, seed, bounds, test, certified=True):
    """A contract of a seed, bounds on validation and drops on test (seg, sn), None = no test split; bounds
    on test are 1 above."""

    def drops(of, room):
        return {n: {"drop": drop, "bound": drop + room} for n, drop in zip(LIMITS, of, strict=True)}

    found = {"validation": {"certificate": {"drops": drops(bounds, 0)}}}
    found["test"] = test and {"drops": drops(test, 1)}
    about = {"part": "promise", "kind": "contract", "seed": seed, "limits": "seg=2,sn=10", "wanted": LIMITS}
    about["rounds"] = [{"kept": 1.0, "sparsity": 80.0}, {"kept": 0.0, "sparsity": 90.0}]
    about |= {"kept": 250, "total": 1000} | found if certified else {}
    write(folder, f"seed{seed}_promise", **about, certified=certified)


def test_kept_promises_are_counted(tmp_path):
    promise(tmp_path, 0, (1, 4), (1.5, -0.001))
    promise(tmp_path, 1, (1.5, 9), (2.5, 3))  # broken, yet inside what the test images leave open
    promise(tmp_path, 2, (1.5, 9), (3.5, 12))  # both, surely
    promise(tmp_path, 3, (0, 0), (0, 0), certified=False)
    lines = tables(tmp_path).splitlines()
    assert "promise: 4 pieces, 40 steps of training" in lines
    shown = [line.split() for line in lines if line.lstrip().startswith(("0 ", "1 ", "2 ", "3 "))]
    assert shown[0] == [
        "0",
        "seg=2,sn=10",
        "20.0",
        "25.0",
        "seg",
        "1.00,",
        "sn",
        "4.00",
        "seg",
        "1.50,",
        "sn",
        "0.00",
        "kept",
    ]
    assert shown[1][-2:] == ["broken:", "seg"] and shown[2][-3:] == ["broken:", "seg,", "sn"]
    assert shown[3][2:] == ["20.0", "-", "refused", "a", "certificate", "-", "-"]
    said = "\n".join(lines)
    assert "contracts asked for: 4, broken on test 2, 50.0 % (95 % interval 6.8 to 93.2); level 0.95" in said
    assert "contracts certified: 3, broken on test 2, 66.7 % (95 % interval 9.4 to 99.2)\n" in said
    assert "found networks of which none was certified: 1" in said
    assert "promises for seg: 3, broken on test 2" in said and "promises for sn: 3, broken on test 1" in said
    assert "of the 2 broken on test, 1 by more" in said
    assert "below what test lost: 4 of 6, 66.7 %\n" in said


def test_a_contract_without_a_test_split_is_shown_and_not_counted(tmp_path):
    promise(tmp_path, 0, (1, 4), None)
    lines = tables(tmp_path).splitlines()
    row = next(line.split() for line in lines if line.lstrip().startswith("0 "))
    assert row[2:] == ["20.0", "25.0", "seg", "1.00,", "sn", "4.00", "-", "no", "test", "split"]
    assert "contracts asked for: none" in lines and "contracts certified: none" in lines
    promise(tmp_path, 1, (1.5, 9), (3.5, 3))
    lines = tables(tmp_path).splitlines()
    assert any(line.startswith("contracts asked for: 1, broken on test 1, 100.0 %") for line in lines)
    assert "certified without a test split, not counted: 1" in lines


def test_the_page_shows_the_table_of_the_committed_files():
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "contract.md").read_text()
    shown = page.split("--dest docs/promises --table\n...\n")[1].split("\n...\n```")[0]
    said = [line.rstrip() for line in tables(root / "docs" / "promises").splitlines()]
    first = next(place for place, line in enumerate(said) if line.startswith("seed  limits"))
    assert shown.splitlines() == said[first:-1]


def test_sizes_stand_beside_the_best_of_the_grid(tmp_path):
    for seed, keep in ((0, 80), (1, 160)):
        rounds = [{"sparsity": 0.0, "kept": 1.0}, {"sparsity": 100 - keep / 10, "kept": 1.0}]
        rounds += [{"sparsity": 99.0, "kept": 0.0}]
        found = {"certified": True, "kept": keep + 10, "total": 1000, "rounds": rounds}
        about = {"part": "sizes", "kind": "contract", "limits": "seg=2,sn=10", "wanted": LIMITS, "seed": seed}
        write(tmp_path, f"seed{seed}_contract", **about, **found)
        for kept, bounds in ((100, (1, 1)), (50, (3, 3))):
            grid = {"part": "sizes", "kind": "imp", "ratio": 100 - kept / 10, "seed": seed, "steps": 400}
            grid |= {"ratios": [90.0, 95.0]}
            write(tmp_path, f"seed{seed}_imp_{kept}", **grid, **network(kept, bounds))
    lines = [" ".join(line.split()) for line in tables(tmp_path).splitlines()]
    rows = [line for line in lines if line.startswith("seg=2")]
    assert rows[0] == "seg=2,sn=10 contract 8.0 / 9.0 16.0 / 17.0 12.0 / 13.0 1.13 / 1.24 3.16 / 3.16"
    assert rows[1] == "seg=2,sn=10 uniform - / - - / -"
    assert rows[2] == "seg=2,sn=10 imp 10.0 / 10.0 10.0 / 10.0 10.0 / 10.0 1.00 / 1.00 1.00 / 1.00"
    assert "steps of training a search, a grid: contract 10, imp 800" in lines


@pytest.mark.parametrize(
    ("whole", "imp"),
    [([90, 95], "5.0 / 5.0 5.0 / 5.0 - / - - / -"), ([90, 95, 97], "- / - - / -")],
)
def test_a_grid_that_lacks_a_ratio_is_not_compared(whole, imp, tmp_path):
    for way, ratios in (("imp", (90, 95)), ("gmp", (90,))):
        for ratio in ratios:
            grid = {"part": "sizes", "kind": way, "ratio": ratio, "limits": None, "ratios": whole}
            write(tmp_path, f"seed0_{way}_{ratio}", **grid, **network(10 * (100 - ratio), (1, 1)))
    about = {"part": "sizes", "kind": "contract", "limits": "seg=2,sn=10", "wanted": LIMITS}
    write(tmp_path, "seed0_contract", **about, certified=False, rounds=[])
    rows = [" ".join(row.split()) for row in tables(tmp_path).splitlines() if row.startswith("seg=2")]
    assert {"seg=2,sn=10 gmp - / - - / -", f"seg=2,sn=10 imp {imp}"} <= set(rows)


@pytest.mark.parametrize(
    ("field", "value"), [("digest", "1"), ("bound", "another"), ("dataset", "taskonomy"), ("level", 0.8)]
)
def test_files_that_do_not_belong_together_make_no_table(field, value, tmp_path):
    for seed in (0, 1):
        promise(tmp_path, seed, (1, 4), (1.5, 3))
    assert "contracts asked for: 2" in tables(tmp_path)
    path = tmp_path / "seed1_promise.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=f"of several kinds, {field} "):
        tables(tmp_path)


def test_looser_limits_that_gave_larger_networks_are_counted(tmp_path):
    """Pairs that can be ordered alone, and a network that was not found is the dense one."""
    sizes = {(1, 1): 40, (2, 10): 50, (10, 2): None, (10, 10): 20}
    for (seg, sn), keep in sizes.items():
        rounds = [] if keep is None else [{"sparsity": 100.0 - keep, "kept": 1.0}]
        limits = f"seg={seg},sn={sn}"
        about = {"part": "sizes", "kind": "contract", "limits": limits, "wanted": {"seg": seg, "sn": sn}}
        write(tmp_path, f"seed0_{limits}", **about, certified=False, rounds=rounds)
    said = "contract: a looser limit gave a larger network in 2 of 5 pairs, most of all seed 0: "
    assert said + "seg=1,sn=1 40.0 %, seg=10,sn=2 100.0 %" in tables(tmp_path).splitlines()
    assert "uniform: a looser limit gave a larger network in 0 of 0 pairs" in tables(tmp_path).splitlines()


# -------------------------------------------------------------------------------- runs
@pytest.mark.slow
def test_pieces_run_side_by_side_are_skipped_and_tabulated(many_rooms, tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(
        "data: {crop: 33, batch_size: 4, num_workers: 0}\n"
        "model: {backbone: resnet18, width: 0.05}\n"
        "optim: {iterations: 4, step_every: 100}\n"
        "finetune: {iterations: 2, lr: 1.0e-5}\n"
        "run: {device: cpu}\n"
    )
    words = ["--data-root", str(many_rooms), "--dest", str(tmp_path / "out"), "--jobs", "2"]
    words += ["--config", str(tmp_path / "small.yaml"), "--seeds", "2", "--size-seeds", "1", "--ratios", "50"]
    words += ["--round-steps", "2", "--grid-steps", "8", "--sizes", LOOSE, "--promise", LOOSE]
    words += ["--set", "contract.smallest=40"]
    said = call("benchmarks/contract.py", words, capsys)
    assert said.code == 0, said.out + said.err
    made = sorted(path.name for path in (tmp_path / "out").glob("*.json"))
    assert len(made) == 2 + 2 + 2 + 3
    (tmp_path / "out" / "seed0_imp_50.json").unlink()
    said = call("benchmarks/contract.py", words, capsys)
    assert said.code == 0 and "seed0_imp_50: done; " in said.out and "0 of 1 left" in said.out
    shown = call("benchmarks/contract.py", ["--dest", str(tmp_path / "out"), "--table"], capsys)
    assert "contracts asked for: 2" in shown.out and f"{LOOSE}  gmp" in shown.out


def test_losses_are_not_written_over_a_network(tmp_path, monkeypatch):
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_text(name)
    a, b = (str(tmp_path / name) for name in ("a.pth", "b.pth"))
    words = ["--weights", a, "--init-from", b, "--out", a]
    monkeypatch.setattr(sys, "argv", ["contract_losses", *words])
    with pytest.raises(ValueError, match="^--out .*a.pth is the network itself, which would be lost"):
        contract_losses.main()
    assert (tmp_path / "a.pth").read_text() == "a.pth"
