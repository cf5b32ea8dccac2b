"""A study against its plan: what is missing, how many seeds, and verdicts only when a tier is complete."""

import pytest
import yaml

from comparison import family, planned
from comparison.entries import gather
from comparison.plan import family_tests, read_plan
from comparison.report import setups
from comparison.results import read_results

from .examples import write

PLAN = {
    "dataset": "nyuv2",
    "command": "python3 reproduce.py --dataset nyuv2",
    "level": 0.05,
    "power": 0.8,
    "effects": {"seg mIoU": "1", "edge err": "10%"},
    "pilot": {"split": "val", "ratio": 90, "seeds": [0, 1, 2], "methods": ["random"]},
    "tiers": {
        "1": {
            "split": "test",
            "ratio": 90,
            "seeds": [5, 6],
            "methods": ["random", "disparse_static", "disparse_static:shuffle=true"],
        }
    },
    "family": {"tier": "1", "rows": ["disparse_static"], "against": ["dense", "random", "own shuffle"]},
}


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN, sort_keys=False))
    return path


def rows(folder):
    """Of the tier, whose results are those of split test."""
    return gather([of for of in read_results([folder]) if of.split == "test"], "metric", setups())


def pilot(folder):
    for seed, miou in enumerate([10.0, 11.0, 15.0]):  # differences from dense: 10, 9, 5
        write(folder, "baseline", seed, (20.0, 1.0, 0.5), split="val")
        write(folder, "random", seed, (miou, 1.0, 0.5 + miou / 100), split="val")


def tier(folder):
    for seed in (5, 6):
        write(folder, "baseline", seed, (20.0 + seed, 1.0, 0.50))
        write(folder, "random", seed, (10.0 + seed, 1.0, 0.60))
        write(folder, "disparse_static", seed, (14.0 + seed, 1.0, 0.55 + seed / 1000))
        write(folder, "disparse_static", seed, (14.0 + seed, 1.0, 0.6), variant="+shuffle=true")


def test_the_family_is_what_the_plan_lists(plan):
    tests = family_tests(read_plan(plan))
    others = ["dense", "random", "disparse_static:shuffle=true"]
    assert tests == [("disparse_static", other, m) for other in others for m in ("seg mIoU", "edge err")]


def test_the_first_page_says_what_is_missing_and_how_to_make_it(plan, tmp_path):
    pilot(tmp_path / "out")
    write(tmp_path / "out", "disparse_static", 5, (1.0, 1.0, 1.0))
    text = planned.tell(read_plan(plan), read_results([tmp_path / "out"]))
    assert "| pilot | 90 %, val | 6 of 6 | complete |" in text
    command = (
        "python3 reproduce.py --dataset nyuv2 --methods random,disparse_static,disparse_static:shuffle=true "
        "--ratios 90 --seeds 5,6 --split test"
    )
    assert f"| 1 | 90 %, test | 1 of 8 | `{command}` |" in text
    assert "primary family" not in text and "**nyuv2: 90 % sparsity, split test" not in text


EXPLORED = {"split": "val", "ratio": 90, "seeds": [20], "methods": ["disparse_static:arbiter=share"]}


def with_exploration(path, **changes):
    path.write_text(yaml.safe_dump(PLAN | {"explorations": {"leads": EXPLORED | changes}}, sort_keys=False))
    return read_plan(path)


def test_an_exploration_is_tabulated_when_it_is_complete(tmp_path):
    plan = with_exploration(tmp_path / "plan.yaml")
    write(tmp_path / "out", "baseline", 20, (20.0, 1.0, 0.5), split="val")
    text = planned.tell(plan, read_results([tmp_path / "out"]))
    command = (
        "python3 reproduce.py --dataset nyuv2 --methods disparse_static:arbiter=share --ratios 90 "
        "--seeds 20, --split val"
    )
    assert f"| leads | 90 %, val | 1 of 2 | `{command}` |" in text and "90 % sparsity, split val" not in text
    write(tmp_path / "out", "disparse_static", 20, (14.0, 1.0, 0.6), split="val", variant="+arbiter=share")
    text = planned.tell(plan, read_results([tmp_path / "out"]))
    assert "| leads | 90 %, val | 2 of 2 | complete |" in text
    assert "90 % sparsity, split val" in text and "primary family" not in text


def test_a_value_that_files_spell_otherwise_is_found(tmp_path):
    kinds = ["disparse_static:granularity=2:4:rounds=3", "disparse_static:protect=seg.head,trunk.0"]
    plan = with_exploration(tmp_path / "plan.yaml", methods=kinds)
    write(tmp_path / "out", "baseline", 20, (20.0, 1.0, 0.5), split="val")
    score = (14.0, 1.0, 0.6)
    write(tmp_path / "out", "disparse_static", 20, score, split="val", variant="+granularity=2_4+rounds=3")
    text = planned.tell(plan, read_results([tmp_path / "out"]))
    assert f"| 2 of 3 | `python3 reproduce.py --dataset nyuv2 --methods {kinds[1]} " in text
    protected = "+protect=seg.head_trunk.0"
    write(tmp_path / "out", "disparse_static", 20, score, split="val", variant=protected)
    assert "| leads | 90 %, val | 3 of 3 | complete |" in planned.tell(plan, read_results([tmp_path / "out"]))


@pytest.mark.parametrize(
    ("changes", "what"), [({"seeds": [4, 6]}, "seed 6"), ({"split": "test"}, "split test")]
)
def test_an_exploration_stays_apart_from_confirmation(tmp_path, changes, what):
    with pytest.raises(ValueError, match=f"'leads' and tier '1' both take {what}"):
        with_exploration(tmp_path / "plan.yaml", **changes)


def test_power_by_hand(plan, tmp_path):
    pilot(tmp_path / "out")
    read = read_plan(plan)
    made = planned.power_grid(read, read.pilot, read_results([tmp_path / "out"]))
    (label, miou), (_, edge) = made.rows
    assert label == "random - dense"
    # differences -10, -9, -5: standard deviation 2.6458; an effect of 1
    assert [cell.text for cell in miou[:3]] == ["seg mIoU % ↑", "2.65", "1.00"]
    # differences 0.10, 0.11, 0.15; the effect is a tenth of the dense network's 0.5
    assert [cell.text for cell in edge[1:3]] == ["0.0265", "0.0500"]
    assert [int(cell.text) for cell in edge[3:5]] == [5, 7]


def test_power_where_there_is_no_spread_or_no_score(plan, tmp_path):
    pilot(tmp_path / "out")
    for seed in (0, 1):
        write(tmp_path / "out", "random", seed, (20.0, 1.0, None), split="val")
    content = PLAN | {"effects": {"seg mIoU": "1", "edge err": "10%", "seg err": "0.0000001"}}
    plan.write_text(yaml.safe_dump(content, sort_keys=False))
    text = planned.tell(read_plan(plan), read_results([tmp_path / "out"]))
    assert "| random - dense | seg mIoU % ↑ | 2.89 | 1.00 | 68 | 113 | 7 % |" in text
    assert "|  | edge err ↓ | - | 0.0500 | - | - | - |" in text  # one score is left
    assert "|  | seg err ↓ | 0.000 | 0.000 | - | - | - |" in text  # the same in every seed


def test_the_verdicts_are_corrected(plan, tmp_path):
    pilot(tmp_path / "out")
    tier(tmp_path / "out")
    read = read_plan(plan)
    tests = family.compared(read, rows(tmp_path / "out"))
    made = family.family_grid(read, tests)
    words = {(cells[0].text, cells[1].text): (cells[3].text, cells[6].text) for _, cells in made.rows}
    assert words[("minus dense", "seg mIoU % ↑")] == ("-6.00", "worse")
    assert words[("minus random", "seg mIoU % ↑")] == ("+4.00", "better")
    assert words[("minus disparse_static:shuffle=true", "seg mIoU % ↑")] == ("+0.00", "not distinguishable")
    # 0.055, 0.056 above dense with two seeds: p = 0.0057 x 4 tests that are left
    assert words[("minus dense", "edge err ↓")] == ("+0.0555", "worse")
    assert words[("minus random", "edge err ↓")][1] == "better"
    glance = family.glance_grid(read, tests)
    assert glance.header == ("against dense", "against random", "against own shuffle")
    ((row, cells),) = glance.rows
    assert (row, [cell.text for cell in cells]) == ("disparse_static", ["- -", "+ +", "0 +"])
    assert glance.notes[0].startswith("+ better, - worse, 0 neither, in seg mIoU, edge err, in this order")


def test_no_test_is_made_twice(tmp_path):
    names = ["disparse_static", "random"]
    against = ["disparse_static:shuffle=true", "own shuffle", *names]
    path = tmp_path / "plan.yaml"
    family_of = {"tier": "1", "rows": names, "against": against}
    path.write_text(yaml.safe_dump(PLAN | {"family": family_of}, sort_keys=False))
    plan = read_plan(path)
    shuffle = "disparse_static:shuffle=true"
    pairs = [("disparse_static", shuffle), ("disparse_static", "random"), ("random", shuffle)]
    assert family_tests(plan) == [(*pair, m) for pair in pairs for m in ("seg mIoU", "edge err")]
    tier(tmp_path / "out")
    made = family.glance_grid(plan, family.compared(plan, rows(tmp_path / "out")))
    shown = {row: [cell.text for cell in cells] for row, cells in made.rows}
    assert shown["disparse_static"][:2] == shown["disparse_static"][:1] * 2 != ["not tested"] * 2
    assert shown["random"][1] == "not tested"


def test_what_made_the_rows_of_a_seed_stands_above_the_verdicts(plan, tmp_path):
    tier(tmp_path)
    write(tmp_path, "random", 5, (15.0, 1.0, 0.6), evaluated={"device": "cuda"})
    write(tmp_path, "disparse_static", 5, (19.0, 1.0, 0.555), evaluated={"device": "cpu"})
    read = read_plan(plan)
    there = [result for result in read_results([tmp_path]) if result.split == "test"]
    first = planned.tier_grids(read, read.tiers[0], there)[0]
    assert "results of one seed were made by different means: device (cpu, cuda): seed 5" in first.notes


def test_a_verdict_on_fewer_seeds_says_so(plan, tmp_path):
    tier(tmp_path)
    write(tmp_path, "disparse_static", 6, (20.0, 1.0, None))  # which was no number
    read = read_plan(plan)
    made = family.family_grid(read, family.compared(read, rows(tmp_path)))
    seeds = {(cells[0].text, cells[1].text): cells[2].text for _, cells in made.rows}
    assert seeds[("minus dense", "seg mIoU % ↑")] == "2" and seeds[("minus dense", "edge err ↓")] == "1"
    assert "where seeds are fewer" in made.notes[-1]


def test_everything_is_told_once_it_is_complete(plan, tmp_path, capsys):
    pilot(tmp_path / "out")
    tier(tmp_path / "out")
    assert planned.main([str(plan), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    titles = [
        "plan and what is there",
        "power, from the pilot",
        "split test",
        "primary family, 90 %, 2 seeds",
    ]
    assert [title for title in titles if title not in said] == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"level": None}, "is not a plan: a field holds another kind of value"),
        ({"effects": {"seg iou": "1"}}, "effects: 'seg iou' is not one of seg mIoU, seg err, edge err"),
        ({"family": PLAN["family"] | {"tier": 3}}, "family.tier '3' is not one of 1"),
        ({"pilot": {"split": "val", "ratio": 90, "seeds": [0]}}, "lacks the field 'methods'"),
        ({"pilot": PLAN["pilot"] | {"seeds": [4, 5]}}, "'pilot' and tier '1' both take seed 5"),
        ({"level": 0.95}, "level 0.95 is not between 0 and 0.5"),
        ({"power": 80}, "power 80 is not between 0 and 1"),
        ({"family": PLAN["family"] | {"rows": ["snip"]}}, "family.rows 'snip' is not one of random, "),
        (
            {"family": PLAN["family"] | {"against": ["densest"]}},
            "family.against 'densest' is not one of dense, ",
        ),
        ({"family": PLAN["family"] | {"rows": ["random"], "against": ["own shuffle"]}}, "compares nothing"),
        ({"family": PLAN["family"] | {"rows": ["random"], "against": ["random"]}}, "compares nothing"),
        ({"family": PLAN["family"] | {"against": ["dense", "dense"]}}, "family.against names 'dense' twice"),
        ({"tier": {}}, "field 'tier' is not one of dataset, "),
        ({"effects": {"seg mIoU": "0"}}, "effects: 'seg mIoU' has 0, not a number above 0"),
        ({"effects": {"seg mIoU": "one"}}, "effects: 'seg mIoU' has one, not a number above 0"),
        ({"pilot": PLAN["pilot"] | {"seeds": [0]}}, "a pilot needs two seeds at least"),
        ({"pilot": PLAN["pilot"] | {"seeds": [0, 1, 1]}}, "seeds of tier 'pilot' hold 1 twice"),
        (
            {"pilot": PLAN["pilot"] | {"seeds": [0, 1.7]}},
            "seeds of tier 'pilot' are no list of whole",
        ),
        ({"pilot": PLAN["pilot"] | {"methods": "snip"}}, "methods of tier 'pilot' are no list of names"),
        ({"pilot": PLAN["pilot"] | {"methods": ["snpi"]}}, "method 'snpi' is not one of "),
        (
            {"pilot": PLAN["pilot"] | {"methods": ["snip:num_batches=2"]}},
            "'snip:num_batches=2': results call it 'num-batches', not 'num_batches'",
        ),
        ({"pilot": PLAN["pilot"] | {"ratio": 9500}}, "ratio 9500 of tier 'pilot' is no percentage"),
    ],
)
def test_a_wrong_plan_ends_in_one_sentence(change, sentence, tmp_path, capsys):
    pilot(tmp_path / "out")
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN | change, sort_keys=False))
    assert planned.main([str(path), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_a_tier_that_stands_twice_is_refused(plan, tmp_path):
    lines = plan.read_text().splitlines()
    tier = lines[lines.index("tiers:") + 1 : lines.index("family:")]
    plan.write_text("\n".join([*lines[: lines.index("family:")], *tier, *lines[lines.index("family:") :]]))
    with pytest.raises(ValueError, match=r"plan.yaml is not valid YAML at line \d+: key '1' stands twice"):
        read_plan(plan)


def test_a_plan_needs_no_pilot_of_its_own(plan, tmp_path):
    pilot(tmp_path / "out")
    tier(tmp_path / "out")
    plan.write_text(yaml.safe_dump({field: of for field, of in PLAN.items() if field != "pilot"}))
    text = planned.tell(read_plan(plan), read_results([tmp_path / "out"]))
    assert "power, from the pilot" not in text and "| pilot |" not in text
    assert "primary family at a glance" in text


def test_before_the_first_run_everything_is_missing(plan, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert planned.main([str(plan), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "| 0 of 6 |" in said and "| 0 of 8 |" in said and "primary family" not in said
