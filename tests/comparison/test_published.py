import pytest

from comparison.published import FIGURES, MEASURES, METHODS, check, published_entries
from comparison.results import Column, read_results
from prune_utils.methods import METHODS as ROWS

from .examples import write

COLUMNS = [Column("seg", "mIoU", "%", True), Column("depth", "abs", "", False)]
SETUPS = {name: row.setup for name, row in ROWS.items()}


def test_every_table_has_a_figure_for_every_method_and_measure():
    for dataset, text in FIGURES.items():
        lines = text.strip().splitlines()
        assert len(lines) == len(METHODS) == 10
        assert {len(line.split()) for line in lines} == {len(MEASURES[dataset].split(", "))}
    assert set(METHODS) <= {"baseline", *ROWS}


def test_figures_stand_under_their_method_and_measure():
    entries = {entry.label: entry for entry in published_entries("cityscapes", COLUMNS, SETUPS)}
    assert entries["disparse_pt"].values[COLUMNS[0]] == {-1: 40.71}
    assert entries["imp"].values[COLUMNS[1]] == {-1: 0.018}
    assert entries["dense"].density == 1.0


def test_limits_of_the_comparison(tmp_path):
    write(tmp_path, "baseline", 0, (1, 1, 1))
    write(tmp_path, "snip", 0, (1, 1, 1))
    usual = read_results([tmp_path])
    check("paper", usual, False)
    write(tmp_path, "snip", 1, (1, 1, 1), ratio=95)
    with pytest.raises(ValueError, match="90 % sparsity, not at 95 %"):
        check("paper", read_results([tmp_path]), False)
    check("paper", read_results([tmp_path]), True)
    for other_ratios in (False, True):
        with pytest.raises(ValueError, match="--metric-protocol paper"):
            check("metric", usual, other_ratios)
    for field, value in (("split", "val"), ("dataset", "taskonomy")):
        write(tmp_path / field, "snip", 0, (1, 1, 1), **{field: value})
        with pytest.raises(ValueError, match=f"of one {field}, here .* is of {value}: --{field} "):
            check("paper", [*usual, *read_results([tmp_path / field])], True)
    with pytest.raises(ValueError, match="only for nyuv2, cityscapes, taskonomy"):
        published_entries("camvid", COLUMNS, SETUPS)
