import json
import math

import pytest

from comparison.results import (
    differing_machines,
    differing_pruning,
    differing_settings,
    read_results,
    refuse_mixtures,
    refuse_other_images,
    select,
)

from .examples import write


def test_reads_every_result_and_nothing_else(tmp_path):
    write(tmp_path, "baseline", 0, (20, 2, 0.5))
    write(tmp_path, "random", 1, (10, 3, None), variant="+budget=erk", ratio=92.5)
    (tmp_path / "agreement.json").write_text('{"layers": []}')
    dense, sparse = sorted(read_results([tmp_path]), key=lambda result: result.seed)
    assert (dense.label, dense.ratio, dense.density) == ("dense", None, 1.0)
    assert (sparse.label, sparse.ratio, sparse.seed) == ("random:budget=erk", 92.5, 1)
    values = {(c.task, c.metric): v for c, v in sparse.values["paper"].items()}
    assert values["seg", "mIoU"] == 11
    assert math.isnan(values["edge", "err"])


def test_a_network_with_a_name_of_its_own_keeps_it(tmp_path):
    write(tmp_path, "snip", 0, (1, 1, 1), name="my_try")
    assert read_results([tmp_path])[0].label == "my_try"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ('{"metrics": {}, "directions": {}, "method": "snip"}', "lacks the field 'dataset'"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, words):
    (tmp_path / "broken.json").write_text(content)
    with pytest.raises(ValueError, match=f"broken.json.*{words}"):
        read_results([tmp_path])


FOREIGN = [None, True, 3, 1e999, "x", "\x1b[2J", [], [1], {}, {"x": 1}]
FIELDS = "name dataset method protocol split seed metrics directions certificate config notes"


@pytest.mark.parametrize("field", FIELDS.split())
def test_foreign_fields_are_one_sentence_that_names_the_file(tmp_path, field):
    path = write(tmp_path, "snip", 0, (1, 1, 1))
    content = json.loads(path.read_text())
    for value in FOREIGN:
        path.write_text(json.dumps(content | {field: value}))
        try:
            read_results([path])
        except ValueError as error:
            assert str(path) in str(error) and str(error).isprintable()


def test_missing_empty_and_double(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_results([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="no result lies below"):
        read_results([tmp_path])
    first = write(tmp_path / "a", "snip", 0, (1, 1, 1))
    write(tmp_path / "b", "snip", 0, (2, 1, 1))
    with pytest.raises(ValueError, match="both snip with seed 0"):
        read_results([tmp_path])
    assert len(read_results([first.parent, first.parent.parent])) == 1  # the same file twice is one result


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("ratio", {"ratio": 95}),
        ("split", {"split": "val"}),
        ("protocol", {"protocol": "paper"}),
        ("dataset", {"dataset": "cityscapes"}),
    ],
)
def test_mixtures_are_refused_unless_allowed(tmp_path, field, changed):
    write(tmp_path, "snip", 0, (1, 1, 1))
    write(tmp_path, "random", 0, (1, 1, 1), **changed)
    results = read_results([tmp_path])
    with pytest.raises(ValueError, match=f"does not mix {field}s.*--{field} .* chooses, --mix {field}"):
        refuse_mixtures(results, ())
    refuse_mixtures(results, (field,))
    wanted = getattr(results[0], field)
    refuse_mixtures(select(results, {field: wanted}), ())


def test_the_dense_network_belongs_to_every_ratio(tmp_path):
    write(tmp_path, "baseline", 0, (1, 1, 1))
    for ratio in (90, 95):
        write(tmp_path, "snip", 0, (1, 1, 1), ratio=ratio)
    chosen = select(read_results([tmp_path]), {"ratio": 95.0, "split": None})
    assert sorted(result.label for result in chosen) == ["dense", "snip"]
    with pytest.raises(ValueError, match="ratio 80, there are 90, 95"):
        select(read_results([tmp_path]), {"ratio": 80.0})


def test_scores_of_other_images_are_refused(tmp_path):
    told = {"samples": 12, "first_sample": "a.png"}
    write(tmp_path, "snip", 0, (1, 1, 1), **told)
    write(tmp_path, "random", 0, (1, 1, 1))  # which does not tell
    write(tmp_path, "rigl", 0, (1, 1, 1), split="val", samples=3, first_sample="b.png")
    refuse_other_images(read_results([tmp_path]))
    path = write(tmp_path, "lamp", 0, (1, 1, 1), **told | {"first_sample": "b.png"})
    with pytest.raises(ValueError, match=f"{path} of 12 from b.png on"):
        refuse_other_images(read_results([tmp_path]))


def test_rows_of_one_seed_that_were_made_otherwise_are_told(tmp_path):
    def made(method, seed, device, torch, weights):
        fields = {"versions": {"torch": "9", "threads": "1"}, "evaluated": {"device": "cpu"}}
        fields |= {"weights_versions": {"device": device, "torch": torch}, "weights": f"{weights}_x.pth"}
        write(tmp_path, method, seed, (1, 1, 1), **fields)

    made("snip", 0, "cuda", "1", "best")
    made("rigl", 0, "cpu", "1", "best")
    made("snip", 1, "cpu", "2", "best")
    made("rigl", 1, "cpu", "2", "final")
    results = read_results([tmp_path])
    assert differing_machines(results) == ["device (cpu, cuda): seed 0", "weights (best, final): seed 1"]


def test_settings_that_differ_are_named_but_not_seeds_or_pruning(tmp_path):
    write(tmp_path, "snip", 0, (1, 1, 1))
    write(tmp_path, "random", 1, (1, 1, 1), ratio=95, iterations=200)
    assert differing_settings(read_results([tmp_path])) == ["optim.iterations (100, 200)"]


def pruned(folder, method, seed, **prune):
    """A result whose settings of pruning are these beside those of the example."""
    path = write(folder, method, seed, (1, 1, 1), ratio=prune.pop("ratio", 90))
    content = json.loads(path.read_text())
    content["config"]["prune"] |= prune
    path.write_text(json.dumps(content))


def test_seeds_of_one_row_that_were_pruned_otherwise_are_told(tmp_path):
    pruned(tmp_path, "snip", 0, criterion="snip", num_batches=50)
    pruned(tmp_path, "snip", 1, criterion="magnitude", num_batches=1)
    pruned(tmp_path, "snip", 2, criterion="snip")  # an older file: 50 is the default
    assert differing_pruning(read_results([tmp_path])) == [
        "snip at 90 %: prune.num_batches (1, 50), prune.criterion (magnitude, snip)"
    ]


def test_rows_may_be_pruned_otherwise_and_a_dense_network_is_not_pruned(tmp_path):
    pruned(tmp_path, "snip", 0, num_batches=1)
    pruned(tmp_path, "random", 1, num_batches=2)
    pruned(tmp_path, "snip", 1, num_batches=3, ratio=95)
    pruned(tmp_path, "baseline", 0, num_batches=4)
    pruned(tmp_path, "baseline", 1, num_batches=5)
    assert differing_pruning(read_results([tmp_path])) == []


@pytest.mark.parametrize("said", ["99.99999", "100"])  # the second: of an earlier version
def test_the_ratio_is_no_part_of_a_label(tmp_path, said):
    write(tmp_path, "snip", 0, (1, 1, 1), ratio=99.99999, name=f"nyuv2_snip+rounds=2_{said}")
    assert read_results([tmp_path])[0].label == "snip:rounds=2"
