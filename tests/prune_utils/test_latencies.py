"""Latencies by a stated table: which sizes a search goes by, in the library."""

import random

import pytest
import torch

from prune_utils import contract, prunable
from prune_utils.ascent import Ascent, search
from prune_utils.deploy.measuring import latency_in
from prune_utils.deploy.runtimes import RUNTIMES, find_runtime
from prune_utils.latencies import faster_sizes, measure_sizes, thinned
from tests.prune_utils.test_contracts import arrange


def test_what_is_no_faster_than_something_larger_leaves_the_ladder():
    chance = random.Random(0)
    for _ in range(200):
        table = {size: float(chance.randint(1, 20)) for size in chance.sample(range(100), 12)} | {100: 19.5}
        try:
            ladder = faster_sizes(table, 100)
        except ValueError:
            assert min(table.values()) == 19.5
            continue
        times = [table[size] for size in ladder]
        assert ladder[0] == 100 and list(ladder) == sorted(ladder, reverse=True)
        assert times == sorted(set(times), reverse=True) and times[-1] == min(table.values())
        for size in set(table) - set(ladder):
            assert any(other > size and table[other] <= table[size] for other in ladder)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({100: 5.0, 50: 5.0}, "no size is faster than the whole network, which takes 5 ms"),
        ({50: 5.0}, "the latencies lack that of the whole network, size 100"),
        ({100: 5.0, 50: 0.0}, "latency 0.0 of size 50 is not a number above 0"),
        ({100: 5.0, 50: float("nan")}, "latency nan of size 50"),
        ({100: 5.0, 101: 4.0}, "size 101 of the latencies is not a whole number from 0 to 100"),
    ],
)
def test_tables_that_say_nothing_are_refused(table, said):
    with pytest.raises(ValueError, match=said):
        faster_sizes(table, 100)


def test_a_long_ladder_is_thinned_evenly_with_both_its_ends():
    assert thinned((5, 4, 3)) == (5, 4, 3)
    found = thinned(tuple(range(1000, 0, -1)), 11)
    assert found[0] == 1000 and found[-1] == 1 and len(found) == 11
    assert {a - b for a, b in zip(found, found[1:], strict=False)} <= {99, 100, 101}


def test_a_looser_limit_never_gives_a_slower_network():
    """Sizes that fall with their latencies: what holds of sizes holds of latencies."""
    times = {100: 9.0, 90: 9.5, 80: 8.0, 60: 7.0, 50: 7.5, 30: 4.0, 10: 5.0}
    ladder, last = faster_sizes(times, 100), float("inf")
    for limit in range(0, 100, 5):
        ascent = Ascent({"a": float(limit)}, ("a",), ladder, stride=2)
        search(ascent, lambda trial: {"a": 100.0 - trial.keep})
        assert times[ladder[ascent.level]] <= last
        last = times[ladder[ascent.level]]
    assert last == 4.0


def test_runtimes_are_found_by_their_words():
    assert {find_runtime(row.word) for row in RUNTIMES} == set(RUNTIMES)
    assert find_runtime("sparse-engine").skips and not find_runtime("openvino").skips
    with pytest.raises(ValueError, match="runtime 'tflite' is not one of pytorch, "):
        latency_in("tflite", torch.zeros(1, 3, 8, 8))


# ------------------------------------------------------------------------ the library's contract
def weights_of(model):
    return sum(int(weight.count_nonzero()) for weight in prunable(model).values())


def test_a_contract_goes_by_a_measured_table_and_again_by_the_same(tiny):
    measured = []

    def latency(model):
        """Of a machine that computes in blocks of 16 weights."""
        measured.append(weights_of(model))
        return 1.0 + measured[-1] // 16

    shared = dict(resolution=5, smallest=2, floor=0)
    net = tiny("a", "b")
    found = contract(*arrange(net), {"a": 30, "b": 60}, latencies=latency, **shared)
    assert list(found.latencies) == measured and len(set(measured)) == len(measured)
    assert all(time == 1 + size // 16 for size, time in found.latencies.items())
    count = len(measured)
    again = contract(*arrange(tiny("a", "b")), {"a": 30, "b": 60}, latencies=found.latencies, **shared)
    assert len(measured) == count and again.best == found.best and again.rounds == found.rounds
    ladder = faster_sizes(found.latencies, measured[0])
    assert {done.trial.keep for done in found.rounds} <= set(ladder) and found.best.trial.keep < measured[0]


def test_a_table_of_another_network_is_refused_and_nothing_is_pruned(tiny):
    net = tiny("a", "b")
    before = weights_of(net.model)
    with pytest.raises(ValueError, match="lack that of the whole network"):
        contract(*arrange(net), {"a": 30, "b": 60}, latencies={1: 2.0})
    assert weights_of(net.model) == before


def test_the_table_is_made_in_the_order_of_the_sizes():
    asked = []
    table = measure_sizes((9, 4), lambda size: asked.append(size) or size, lambda network: network / 2)
    assert table == {9: 4.5, 4: 2.0} and asked == [9, 4]
