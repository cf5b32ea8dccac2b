"""compare_runs.py does all that one command line asks for."""

import sys

import pytest

import compare_runs

from .comparison.examples import write
from .comparison.test_page import certificate

RECORD = "step,phase,name,value\n20,evaluate,loss/seg,1.5\n20,evaluate,metric/seg/mIoU,10.0\n"


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Runs the script on two results in tmp_path / "out"; what it printed."""
    for method, proof in (("baseline", None), ("random", certificate(0.1))):
        path = write(tmp_path / "out", method, 0, (20.0, 4.0, 0.5), certificate=proof)
        path.with_name(f"{path.stem}_training.csv").write_text(RECORD)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["compare_runs.py", "out", *words])
        compare_runs.main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("page", [False, True])
def test_page_curves_and_tables_are_all_written(page, compare, tmp_path):
    asked = {
        "report.html": ("--html", "report.html"),
        "curves.png": ("--curves", "curves.png"),
        "table.csv table.md table.tex": ("--write", "table"),
    }
    if not page:
        del asked["report.html"]
    said = compare(*(word for words in asked.values() for word in words))
    files = sorted(" ".join(asked).split())
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == files
    assert said.count("compared 2 results.") == 1 and all(file in said for file in files)
    assert ("delta % ↑" in said) is not page  # the page takes the place of the table


@pytest.mark.parametrize(
    ("words", "flag", "lost"),
    [
        (("--html", "out/seed0/nyuv2_random_90.json"), "--html", "nyuv2_random_90.json"),
        (("--html", "out/seed0/nyuv2_random_90_training.csv"), "--html", "nyuv2_random_90_training.csv"),
        (("--write", "out/seed0/nyuv2_random_90_training"), "--write", "nyuv2_random_90_training.csv"),
        (("--curves", "out/seed0/nyuv2_baseline.json"), "--curves", "nyuv2_baseline.json"),
    ],
)
def test_no_file_that_is_compared_is_written_over(words, flag, lost, compare, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    said = f"{flag} out/seed0/{lost} is a file of these runs, which would be lost: name another file"
    with pytest.raises(ValueError) as caught:
        compare(*words)
    assert str(caught.value) == said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("field", "values"),
    [("protocol", ("metric", "paper")), ("dataset", ("nyuv2", "cityscapes")), ("split", ("test", "val"))],
)
def test_curves_of_runs_that_differ_in_a_field_alone_are_told_apart(
    field, values, compare, tmp_path, monkeypatch
):
    drawn = {}
    monkeypatch.setattr("training.curves.draw_curves", lambda runs, path, protocol: drawn.update(protocol))
    write(tmp_path / "other", "random", 0, (10.0, 4.0, 0.5), **{field: values[1]})
    for path in (tmp_path / "other").rglob("*.json"):
        path.with_name(f"{path.stem}_training.csv").write_text(RECORD)
    compare("other", "--mix", field, "--metric-protocol", "metric", "--curves", "curves.png")
    other = "paper" if field == "protocol" else "metric"
    assert drawn == {
        f"dense [{values[0]}]": "metric",
        f"random 90 % [{values[0]}]": "metric",
        f"random 90 % [{values[1]}]": other,
    }


@pytest.mark.parametrize(
    "words", [("--against", "none"), ("--measure", "all"), ("--metric-protocol", "paper"), ("--published",)]
)
def test_what_a_page_alone_does_not_show_is_refused(words, compare, tmp_path):
    with pytest.raises(ValueError, match=f"{words[0]} is for tables"):
        compare("--html", "report.html", *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--panels", "4"), "--panels 4 is for the page of --html FILE"),
        (("--html", "report.html", "--format", "latex"), "--format latex is for one: leave it out"),
    ],
)
def test_what_would_show_nothing_is_refused(words, said, compare, tmp_path):
    with pytest.raises(ValueError, match=said):
        compare(*words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_page_alone_takes_results_that_a_table_does_not_mix(compare, tmp_path):
    write(tmp_path / "out", "random", 0, (10.0, 4.0, 0.5), ratio=95, certificate=certificate(0.05))
    compare("--html", "report.html")
    with pytest.raises(ValueError, match="does not mix ratios"):
        compare("--html", "other.html", "--write", "table")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "report.html"]
