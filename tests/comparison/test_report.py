import csv
import io
import json

import pytest

from comparison.report import Options, report
from comparison.results import read_results

from .examples import write

SETUPS = {"random": "static", "snip": "static", "rigl": "dynamic"}


@pytest.fixture
def results(tmp_path):
    """Three seeds: snip is steadily a tenth below dense, random is better in edges by chance of seeds."""
    for seed, base in enumerate((20.0, 30.0, 25.0)):
        write(tmp_path, "baseline", seed, (base, 2.0, 0.5))
        write(tmp_path, "snip", seed, (0.9 * base, 2.2, 0.55))
        write(tmp_path, "random", seed, (0.5 * base + seed, 3.0, 0.4))
    return read_results([tmp_path])


def cells(grid):
    return {row[0].text: [cell.text for cell in row] for _, row in grid.rows}


def test_scores(results):
    made = report(results, Options(), SETUPS)
    assert made.scores.header == (
        "method",
        "seeds",
        "kept %",
        "seg mIoU % ↑",
        "seg err ↓",
        "edge err ↓",
        "delta % ↑",
    )
    assert [(group, row[0].text) for group, row in made.scores.rows] == [
        ("dense", "dense"),
        ("static", "random"),
        ("static", "snip"),
    ]
    rows = cells(made.scores)
    assert rows["dense"] == ["dense", "3", "100.00", "25.00 ± 5.00", "2.000 ± 0.000", "0.5000 ± 0.0000"] + [
        "0.00 ± 0.00"
    ]
    assert rows["snip"] == ["snip", "3", "10.00", "22.50 ± 4.50", "2.200 ± 0.000", "0.5500 ± 0.0000"] + [
        "-10.00 ± 0.00"
    ]


def test_the_best_of_a_group_is_bold_and_dense_competes_with_nobody(results):
    made = report(results, Options(), SETUPS)
    bold = {row[0].text: [cell.text for cell in row if cell.bold] for _, row in made.scores.rows}
    assert bold["dense"] == []
    assert bold["snip"] == ["22.50 ± 4.50", "2.200 ± 0.000", "-10.00 ± 0.00"]
    assert bold["random"] == ["0.4000 ± 0.0000"]


def test_verdicts_against_dense_and_against_another(results):
    rows = cells(report(results, Options(), SETUPS).verdicts)
    assert rows["snip"][2:] == ["-10.00", "-10.00 .. -10.00", "3", "worse"]
    grid = report(results, Options(against="random", measure="edge err"), SETUPS).verdicts
    assert cells(grid)["snip"][2:] == ["+0.1500", "+0.1500 .. +0.1500", "3", "worse"]
    everything = report(results, Options(measure="all"), SETUPS).verdicts
    assert len(everything.rows) == 2 * 4
    assert "0.4 of 8 verdicts" in everything.notes[-1]
    assert report(results, Options(against="none"), SETUPS).verdicts is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(against="sinp"), "'sinp'.*dense, random, snip"),
        (Options(measure="miou"), "'miou'.*seg mIoU.*delta"),
        (Options(mix=("seed",)), "'seed'.*dataset, protocol, split, ratio"),
        (Options(metric_protocol="papper"), "'papper'.*paper, metric"),
        (Options(published=True), "published figures are in metric protocol paper"),
    ],
)
def test_mistakes_name_the_choices(results, options, words):
    with pytest.raises(ValueError, match=words):
        report(results, options, SETUPS)


def test_the_metric_protocol_is_a_choice(results):
    rows = cells(report(results, Options(metric_protocol="paper"), SETUPS).scores)
    assert rows["dense"][3] == "26.00 ± 5.00"


def test_sparsities_mixed_on_request_are_told_apart(tmp_path):
    write(tmp_path, "baseline", 0, (20.0, 2.0, 0.5))
    for ratio in (90, 95):
        write(tmp_path, "snip", 0, (20.0 - ratio / 10, 2.0, 0.5), ratio=ratio)
    results = read_results([tmp_path])
    rows = cells(report(results, Options(mix=("ratio",)), SETUPS).scores)
    assert list(rows) == ["dense", "snip [90 %]", "snip [95 %]"]
    assert rows["snip [95 %]"][1:4] == ["1", "5.00", "10.50"]  # one seed: no deviation
    with pytest.raises(ValueError, match="does not mix ratios"):
        report(results, Options(), SETUPS)


def test_scores_of_other_images_get_no_verdict(tmp_path):
    write(tmp_path / "test", "baseline", 0, (20.0, 2.0, 0.5))
    write(tmp_path / "val", "baseline", 0, (22.0, 2.0, 0.5), split="val")
    results = read_results([tmp_path])
    made = report(results, Options(mix=("split",)), SETUPS)
    assert list(cells(made.scores)) == ["dense [test]", "dense [val]"] and made.verdicts is None
    with pytest.raises(ValueError, match="of several splits: --split chooses"):
        report(results, Options(mix=("split",), against="dense [test]"), SETUPS)


def test_seeds_of_one_row_that_were_pruned_otherwise_are_noted(results):
    note = "seeds of one row were pruned with different settings: snip at 90 %: prune.num_batches (50, 7)"
    assert note not in report(results, Options(), SETUPS).scores.notes
    one = next(result for result in results if result.label == "snip")
    one.settings["prune"]["num_batches"] = 7
    assert note in report(results, Options(), SETUPS).scores.notes


def test_without_dense_there_is_no_delta_and_it_says_so(results):
    sparse = [result for result in results if result.ratio is not None]
    made = report(sparse, Options(), SETUPS)
    assert "delta % ↑" not in made.scores.header
    assert any(note.startswith("no delta") for note in made.scores.notes)
    assert made.verdicts.header[2] == "minus random"
    assert "†" not in made.text("terminal")  # these files know no constant


def named(folder, name, figures, seed=0, **fields):
    """A dense network with a name of its own; its figures as `write` takes them."""
    write(folder / name, "baseline", seed, figures, name=name, **fields)


def test_the_only_dense_network_for_several_tasks_is_the_dense_one_whatever_its_name(results, tmp_path):
    sparse = [result for result in results if result.ratio is not None]
    for seed, base in enumerate((20.0, 30.0, 25.0)):
        named(tmp_path, "mydense", (base, 2.0, 0.5), seed)
    mine = read_results([tmp_path / "mydense"])
    made = report([*sparse, *mine], Options(), SETUPS)
    assert cells(made.scores)["snip"][-1] == "-10.00 ± 0.00"
    assert made.verdicts.header[2] == "minus mydense"
    # the network of the usual name goes before, and of two others none is the dense one
    assert report([*results, *mine], Options(), SETUPS).verdicts.header[2] == "minus dense"
    for seed in range(3):
        named(tmp_path, "another", (50.0, 2.0, 0.5), seed)
    made = report([*sparse, *mine, *read_results([tmp_path / "another"])], Options(), SETUPS)
    assert "delta % ↑" not in made.scores.header
    assert (
        "no delta: it needs the dense network (method baseline) of the same seed, where there are several by "
        "the name nyuv2_baseline"
    ) in made.scores.notes


def test_batches_that_averages_of_the_paper_protocol_are_over_are_told(tmp_path):
    for method, size in (("baseline", 1), ("snip", 5)):
        path = write(tmp_path, method, 0, (20.0, 2.0, 0.5))
        content = json.loads(path.read_text())
        content["config"]["data"] = {"eval_batch_size": size}
        path.write_text(json.dumps(content))
    results = read_results([tmp_path])
    note = "averages are over batches of evaluation, which differ: data.eval_batch_size (1, 5)"
    assert note in report(results, Options(metric_protocol="paper"), SETUPS).scores.notes
    assert note not in report(results, Options(), SETUPS).scores.notes
    alike = [result for result in results if result.label == "snip"]
    assert note not in report(alike, Options(metric_protocol="paper"), SETUPS).scores.notes


def test_one_seed_calls_nothing_by_chance(results):
    first = [result for result in results if result.seed == 0]
    assert report(first, Options(), SETUPS).verdicts.notes == (
        "paired by seed, Student's 95% interval of the mean difference; one seed gives none",
    )
    some = [result for result in results if result.seed == 0 or result.label != "random"]
    assert "0.1 of 1 verdicts" in report(some, Options(), SETUPS).verdicts.notes[-1]


def test_a_dense_score_of_0_leaves_no_delta(tmp_path):
    write(tmp_path, "baseline", 0, (0.0, 2.0, 0.5))
    write(tmp_path, "snip", 0, (1.0, 2.0, 0.5))
    made = report(read_results([tmp_path]), Options(), SETUPS)
    assert "delta % ↑" not in made.scores.header
    assert "no delta: a score of the dense network is 0 or missing" in made.scores.notes


def test_notes_say_what_differs(results, tmp_path):
    write(tmp_path / "more", "rigl", 0, (20, 2, 0.5), iterations=500)
    write(tmp_path / "more", "snip", 7, (20, 2, 0.5), notes=["trained well", "seg: 40 classes"])
    made = report([*results, *read_results([tmp_path / "more"])], Options(), SETUPS)
    assert "seg: 40 classes" in made.scores.notes and "trained well" not in made.scores.notes
    notes = " ".join(made.scores.notes)
    assert "optim.iterations (100, 500)" in notes
    assert "not every row has the same seeds" in notes
    assert "delta = 100 %" in notes


def test_published_figures_are_labelled(results):
    setups = {
        "lth": "static",
        "snip": "static",
        "random": "static",
        "disparse_static": "static",
        "rigl": "dynamic",
        "disparse_dynamic": "dynamic",
        "imp": "pretrained",
        "random_pt": "pretrained",
        "disparse_pt": "pretrained",
    }
    made = report(results, Options(metric_protocol="paper", published=True), setups)
    rows = cells(made.scores)
    assert rows["snip (published)"][:4] == ["snip (published)", "-", "10.00", "23.83"]
    assert rows["dense (published)"][3] == "27.69"
    assert sum("(published)" in name for name in rows) == 10
    assert not any(cell.bold for _, row in made.scores.rows if "(published)" in row[0].text for cell in row)
    assert not any("(published)" in name for name in cells(made.verdicts))


def test_what_does_not_beat_a_constant_is_marked_and_never_the_best(tmp_path):
    for seed in (0, 1):
        write(tmp_path, "snip", seed, (39.0 + 2 * seed, 2.0, 0.5), constant=(40.0, 0.6))  # its mean is 40
        write(tmp_path, "random", seed, (30.0, 2.1, 0.7), constant=(40.0, 0.6))
    made = report(read_results([tmp_path]), Options(), SETUPS)
    rows = {row[0].text: {cell.text: cell.bold for cell in row} for _, row in made.scores.rows}
    assert rows["snip"]["40.00 ± 1.41†"] is False and rows["random"]["30.00 ± 0.00†"] is False
    assert rows["snip"]["0.5000 ± 0.0000"] is True and rows["random"]["0.7000 ± 0.0000†"] is False
    assert rows["snip"]["2.000 ± 0.000"] is True  # no constant is known for it
    assert made.scores.notes[0].startswith("† no better than the best constant answer")
    assert r"$\dagger$" in made.text("latex") and "†" in made.text("markdown")
    assert "†" not in made.text("csv")


def test_remarks_stand_below_a_table_and_in_every_row_beside_published_figures(tmp_path):
    write(tmp_path, "baseline", 0, (20.0, 2.0, 0.5), remarks=["synthetic rooms", "width 0.125"])
    write(tmp_path, "snip", 0, (18.0, 2.0, 0.5), remarks=["synthetic rooms", "width 0.125"])
    write(tmp_path, "random", 0, (17.0, 2.0, 0.5), remarks=[])
    results = read_results([tmp_path])
    assert "dense, snip: synthetic rooms, width 0.125" in report(results, Options(), SETUPS).scores.notes
    alike = [result for result in results if result.remarks]
    assert "all rows: synthetic rooms, width 0.125" in report(alike, Options(), SETUPS).scores.notes
    made = report(results, Options(metric_protocol="paper", published=True))
    labels = [row[0].text for _, row in made.scores.rows if "(published)" not in row[0].text]
    assert labels == ["dense (synthetic rooms, width 0.125)", "random", "snip (synthetic rooms, width 0.125)"]
    table = list(csv.DictReader(io.StringIO(made.text("csv"))))
    assert table[0]["source"] == "measured: synthetic rooms, width 0.125"


def test_a_file_that_does_not_tell_its_origin_is_not_beside_published_figures_without_saying_so(results):
    made = report(results, Options(metric_protocol="paper", published=True))
    assert "snip (data and network not told)" in cells(made.scores)


def test_formats(results):
    made = report(results, Options(), SETUPS)
    shown = made.text("terminal")
    assert "22.50 ± 4.50*" in shown and "delta = 100 %" in shown and "worse" in shown
    assert "\033[1m" not in shown and "\033[1m" in made.text("terminal", colour=True)
    lines = made.text("markdown").splitlines()
    assert lines[2].startswith("| setup | method | seeds |")
    assert "| **22.50 ± 4.50** |" in made.text("markdown")
    assert len({line.count("|") for line in lines[2:6]}) == 1
    latex = made.text("latex")
    assert r"\textbf{22.50 $\pm$ 4.50}" in latex and r"mIoU \% $\uparrow$" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    table = list(csv.DictReader(io.StringIO(made.text("csv"))))
    assert float(table[2]["seg mIoU mean"]) == pytest.approx(22.5)
    assert float(table[2]["delta % mean"]) == pytest.approx(-10)
    assert table[0]["seeds"] == "0 1 2"
