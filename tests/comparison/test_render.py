from comparison.grid import Cell, Grid, number, spread
from comparison.render import escape, latex, markdown, terminal

GRID = Grid(
    "a_b",
    ("method", "x"),
    (("static", (Cell("one"), Cell("1.0", True))), ("static", (Cell("two|2"), Cell("0.5")))),
    ("note",),
)


def test_terminal_aligns_and_stars():
    assert terminal(GRID).splitlines() == [
        "a_b",
        "",
        "setup   method  x",
        "------  ------  ----",
        "static  one     1.0*",
        "        two|2   0.5",
        "",
        "note",
    ]


def test_markdown_keeps_bars_inside_cells():
    assert markdown(GRID).splitlines()[2:] == [
        "| setup | method | x |",
        "| --- | --- | --- |",
        "| static | one | **1.0** |",
        "|  | two\\|2 | 0.5 |",
        "",
        "- note",
    ]


def test_latex_escapes_and_rules_between_groups():
    grid = Grid("t", ("m",), (("a", (Cell("x_1 50%"),)), ("b", (Cell("{^}"),))))
    lines = latex(grid).splitlines()
    assert r"a & x\_1 50\% \\" in lines
    assert lines.count(r"\midrule") == 2
    assert escape("{^}") == r"\{\textasciicircum{}\}"


def test_spread_and_numbers():
    mean, deviation = spread([1.0, 3.0, float("nan")])
    assert (mean, round(deviation, 6)) == (2.0, 1.414214)
    assert number(mean, deviation, 1) == "2.0 ± 1.4"
    assert number(2.0, float("nan"), 1) == "2.0"
    assert number(float("nan"), float("nan"), 1) == "-"
