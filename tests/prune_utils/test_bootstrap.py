import math

import pytest
import torch

from prune_utils import resample_counts, upper_bound
from prune_utils.changes import change, drop


def test_resamples_draw_as_many_images_and_all_alike():
    drawn = resample_counts(5, 4000, seed=3)
    assert drawn.shape == (4000, 5) and drawn.dtype == torch.int64
    assert (drawn.sum(1) == 5).all() and (drawn >= 0).all()
    assert torch.equal(drawn, resample_counts(5, 4000, seed=3))
    assert not torch.equal(drawn, resample_counts(5, 4000, seed=4))
    assert (drawn.double().mean(0) - 1).abs().max() < 0.06  # 4 standard errors of 4000 draws
    assert abs(float((drawn[:, 0] == 0).double().mean()) - 0.8**5) < 0.03


def test_the_bound_of_two_images_by_hand():
    """Means of two draws from 1 and 3: 1, 2, 2 or 3, a quarter each."""
    means = resample_counts(2, 999).double() @ torch.tensor([1.0, 3.0], dtype=torch.float64) / 2
    assert set(means.tolist()) == {1.0, 2.0, 3.0}
    assert [upper_bound(means, level) for level in (0.1, 0.5, 0.95)] == [1.0, 2.0, 3.0]


def test_the_bound_is_an_order_statistic():
    values = torch.arange(1.0, 1000.0)[torch.randperm(999)]
    assert upper_bound(values, 0.95) == 950
    assert upper_bound(values, 0.999) == 999
    assert upper_bound(values, 0.0001) == 1
    with pytest.raises(ValueError, match="level 0.9999 needs at least 9999 resamples, not 999"):
        upper_bound(values, 0.9999)


def test_what_is_no_number_is_the_worst():
    values = torch.tensor([math.nan] + [1.0] * 18)
    assert upper_bound(values, 0.9) == 1
    assert upper_bound(values, 0.95) == math.inf


def test_a_network_just_beyond_its_limit_passes_about_as_rarely_as_the_level_says():
    """500 sets of 40 images whose drops are 1 in the mean, with noise: 5 % of the bounds are below 1."""
    generator = torch.Generator().manual_seed(0)
    drawn = resample_counts(40, 199).double()
    drops = 1 + torch.randn(500, 40, generator=generator, dtype=torch.float64)
    passed = sum(upper_bound(drawn @ row / 40, 0.95) < 1 for row in drops)
    assert 15 <= passed <= 40  # 25 are expected of an exact bound; the percentile one is a little narrow


@pytest.mark.parametrize("level", [0, 1, -0.5, "0.9", True, math.nan])
def test_levels_are_checked(level):
    with pytest.raises(ValueError, match=f"level {level!r} is not a number between 0 and 1"):
        upper_bound(torch.zeros(99), level)


@pytest.mark.parametrize(("images", "resamples"), [(0, 9), (9, 0), (True, 9), (2.0, 9)])
def test_counts_are_checked(images, resamples):
    with pytest.raises(ValueError, match="is not a whole number of at least 1"):
        resample_counts(images, resamples)


def test_changes_are_signed_so_that_up_is_better():
    assert change(45.0, 50.0, True) == -0.1 and change(45.0, 50.0, False) == 0.1
    assert change(-4.0, -2.0, True) == -1.0
    assert math.isnan(change(1.0, 0.0, True))
    assert drop([change(45.0, 50.0, True), change(1.1, 1.0, False)]) == pytest.approx(10.0)
