import pytest
import torch

from prune_utils import rank_fractions
from prune_utils.ranking import descending, smallest

TIED = [2.0, -1.0, 0.0, -0.0, float("inf"), 2.0, -1.0, 1e-45, -float("inf"), 0.0, -1e30]


def test_by_hand_with_ties_by_position():
    scores = {"a": torch.tensor([[3.0, 1.0], [3.0, 9.0]]), "b": torch.tensor([1.0])}
    ranks = rank_fractions(scores)
    assert ranks["a"].dtype == torch.float64
    assert ranks["a"].tolist() == [[2 / 5, 4 / 5], [3 / 5, 1 / 5]]
    assert ranks["b"].tolist() == [5 / 5]


def test_among_ranks_candidates_only():
    scores = {"a": torch.tensor([3.0, 1.0, 2.0]), "b": torch.tensor([5.0])}
    among = {"a": torch.tensor([False, True, True]), "b": torch.tensor([True])}
    ranks = rank_fractions(scores, among)
    assert ranks["a"].tolist() == [float("inf"), 3 / 3, 2 / 3]
    assert ranks["b"].tolist() == [1 / 3]


def test_position_is_row_major_whatever_the_memory_layout():
    flat = torch.zeros(1, 2, 2, 2)
    ranks = rank_fractions({"a": flat.to(memory_format=torch.channels_last)})
    assert ranks["a"].reshape(-1).tolist() == [i / 8 for i in range(1, 9)]


def test_nothing_and_nobody():
    assert rank_fractions({}) == {}
    assert rank_fractions({"a": torch.ones(2)}, {"a": torch.zeros(2).bool()})["a"].tolist() == [torch.inf] * 2


def test_nan_is_named():
    with pytest.raises(ValueError, match="layer 'b' hold NaN"):
        rank_fractions({"a": torch.ones(1), "b": torch.tensor([float("nan")])})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("length", [0, 1, len(TIED), 50_000])  # torch sorts from 32,768 on by radix
def test_descending_is_a_stable_sort(dtype, length):
    values = torch.tensor(TIED, dtype=dtype).repeat(length // len(TIED) + 1)[:length]
    assert torch.equal(descending(values), values.argsort(descending=True, stable=True))


def test_descending_tells_neighbours_apart():
    one = torch.ones(1, dtype=torch.float64)
    values = torch.cat([one, torch.nextafter(one, 2 * one), -one, torch.nextafter(-one, 0 * one)])
    assert descending(values).tolist() == [1, 0, 3, 2]


@pytest.mark.parametrize("count", range(len(TIED) + 1))
def test_smallest_takes_the_first_of_equals(count):
    values = torch.tensor(TIED, dtype=torch.float64)
    expected = torch.zeros(len(TIED), dtype=torch.bool)
    expected[values.argsort(stable=True)[:count]] = True
    assert torch.equal(smallest(values, count), expected)
