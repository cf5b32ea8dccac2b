import math
from statistics import fmean

import pytest
import torch

from prune_utils import Bootstrap
from prune_utils.bootstrap import LEAST_ERROR
from prune_utils.changes import change, drop


def means(bootstrap, scores):
    return bootstrap.totals(scores) / bootstrap.totals(torch.ones(len(scores)))


def test_rows_are_all_images_then_all_but_one_then_draws():
    counts = Bootstrap(5, 4000, 0.95, seed=3).counts
    assert counts.shape == (4006, 5) and counts.dtype == torch.int64
    assert counts[0].tolist() == [1] * 5
    assert torch.equal(counts[1:6], 1 - torch.eye(5, dtype=torch.int64))
    drawn = counts[6:]
    assert (drawn.sum(1) == 5).all() and (drawn >= 0).all()
    assert (drawn.double().mean(0) - 1).abs().max() < 0.06  # 4 standard errors of 4000 draws
    assert abs(float((drawn[:, 0] == 0).double().mean()) - 0.8**5) < 0.03
    assert torch.equal(counts, Bootstrap(5, 4000, 0.5, seed=3).counts)
    assert not torch.equal(counts, Bootstrap(5, 4000, 0.95, seed=4).counts)


def by_hand(scores, drawn, place):
    """The two bounds of a mean, in loops: percentile and studentised."""
    images, whole = len(scores), fmean(scores)
    error = math.sqrt(sum((score - whole) ** 2 for score in scores) / images / (images - 1))
    values, ratios = [], []
    for row in drawn:
        taken = [score for score, times in zip(scores, row, strict=True) for _ in range(times)]
        value = fmean(taken)
        own = math.sqrt(sum((score - value) ** 2 for score in taken) / images / (images - 1))
        values.append(value)
        ratios.append((whole - value) / max(own, LEAST_ERROR * error))
    return sorted(values)[place - 1], whole + error * sorted(ratios)[place - 1]


FEW_LOSE_MORE = [0.1, 0.2, 0.1, 0.3, 0.2, 5.0]
FEW_LOSE_LESS = [4, 5, 4.5, 5, 4.8, -3, 4.1, 4.4, 1, 4.9, 4.7, 4.2]


@pytest.mark.parametrize(("scores", "larger"), [(FEW_LOSE_MORE, 1), (FEW_LOSE_LESS, 0)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_bound_is_the_larger_of_percentile_and_studentised(scores, larger, level):
    images = len(scores)
    bootstrap = Bootstrap(images, 199, level, seed=1)
    both = by_hand(scores, bootstrap.counts[1 + images :].tolist(), math.ceil(level * 200))
    mean, bound = bootstrap.bound(means(bootstrap, torch.tensor(scores)))
    assert mean == pytest.approx(fmean(scores))
    assert max(both) == both[larger] > both[1 - larger]
    assert bound == pytest.approx(max(both))


def test_the_bound_of_a_ratio_by_hand():
    """What is none of a mean: the error of a resample is that of the influences it takes."""
    now, dense = [3.0, 1.0, 4.0, 2.0, 5.0], [4.0, 2.0, 4.5, 2.0, 9.0]
    bootstrap = Bootstrap(5, 199, 0.9, seed=2)
    ratios = bootstrap.totals(torch.tensor(now)) / bootstrap.totals(torch.tensor(dense))

    def ratio(taken):
        return sum(now[image] for image in taken) / sum(dense[image] for image in taken)

    whole = ratio(range(5))
    others = [ratio([image for image in range(5) if image != left_out]) for left_out in range(5)]
    influence = [4 * (fmean(others) - other) for other in others]
    error = math.sqrt(sum(one**2 for one in influence) / 5 / 4)
    values, studentised = [], []
    for row in bootstrap.counts[6:].tolist():
        taken = [image for image, times in enumerate(row) for _ in range(times)]
        mean = fmean(influence[image] for image in taken)
        own = math.sqrt(sum((influence[image] - mean) ** 2 for image in taken) / 5 / 4)
        values.append(ratio(taken))
        studentised.append((whole - ratio(taken)) / max(own, LEAST_ERROR * error))
    both = sorted(values)[179], whole + error * sorted(studentised)[179]
    assert bootstrap.bound(ratios) == (pytest.approx(whole), pytest.approx(max(both)))


def test_the_bound_of_two_images_by_hand():
    """Means of two draws from 1 and 3 are 1, 2, 2 or 3, a quarter each. The error of all is 1, that of the
    draws 1 or 0, for which a half is taken: ratios are 2, 0 and -2."""
    found = [Bootstrap(2, 999, level) for level in (0.1, 0.5, 0.95)]
    assert [one.bound(means(one, torch.tensor([1.0, 3.0])))[1] for one in found] == [1.0, 2.0, 4.0]


def test_images_that_all_lose_as_much_are_certain():
    bootstrap = Bootstrap(7, 99, 0.95)
    assert bootstrap.bound(torch.full((107,), 2.5)) == (2.5, 2.5)


def test_one_image_bounds_itself():
    bootstrap = Bootstrap(1, 99, 0.95)
    values = torch.tensor([3.0, math.nan] + [3.0] * 99)
    assert bootstrap.bound(values) == (3.0, 3.0)


def test_two_images_of_many_do_not_make_the_bound_infinite():
    """13 % of the resamples lack both and seem exact: 6 of 400 is what Poisson's law says at this level."""
    scores = torch.zeros(400)
    scores[[3, 300]] = 1.0
    bootstrap = Bootstrap(400, 999, 0.95)
    assert 5 < 400 * bootstrap.bound(means(bootstrap, scores))[1] < 6.5


def test_many_images_are_taken_in_units_of_neighbours():
    bootstrap = Bootstrap(1201, 19, 0.9)
    assert bootstrap.unit.tolist() == [image * 500 // 1201 for image in range(1201)]
    assert set(bootstrap.unit.bincount().tolist()) == {2, 3}
    assert bootstrap.counts.shape == (1 + 500 + 19, 500)
    assert torch.equal(bootstrap.by_unit(torch.arange(1201))[[0, 1, 499]], torch.tensor([3, 7, 2399]))
    taken = bootstrap.counts[-1][bootstrap.unit]
    assert bootstrap.totals(torch.arange(1201))[-1] == (taken * torch.arange(1201)).sum()
    assert len(Bootstrap(50_000, 19, 0.9).counts) == 1 + 500 + 19
    assert len(Bootstrap(500, 19, 0.9).counts) == 1 + 500 + 19


def test_what_does_not_fit_is_told():
    bootstrap = Bootstrap(3, 19, 0.9)
    with pytest.raises(ValueError, match="there are values of 2 images, not of 3"):
        bootstrap.totals(torch.ones(2))
    for values in (torch.ones(19), torch.ones(23, 1)):
        with pytest.raises(ValueError, match=r"values are of shape .*, not \(23,\)"):
            bootstrap.bound(values)


def test_the_place_is_that_of_an_order_statistic():
    drawn = torch.arange(1.0, 1000.0)[torch.randperm(999)]
    values = torch.cat([torch.full((3,), 500.0), drawn])  # nothing changes where an image is left out
    for level, place in ((0.95, 950), (0.999, 999), (0.0001, 1)):
        assert Bootstrap(2, 999, level).bound(values) == (500, place)
    with pytest.raises(ValueError, match="level 0.9999 needs at least 9999 resamples, not 999"):
        Bootstrap(2, 999, 0.9999)


def test_what_is_no_number_is_the_worst():
    values = torch.tensor([1.0, 1.0, 1.0, math.nan] + [1.0] * 18)
    assert Bootstrap(2, 19, 0.9).bound(values)[1] == 1
    assert Bootstrap(2, 19, 0.95).bound(values)[1] == math.inf
    values = torch.tensor([1.0, 1.0, 1.0] + [-math.inf] * 19)
    assert Bootstrap(2, 19, 0.9).bound(values)[1] == -math.inf
    values = torch.tensor([1.0, math.nan, 1.0] + [1.0] * 19)  # without the first image there is nothing
    assert Bootstrap(2, 19, 0.9).bound(values)[1] == math.inf


@pytest.mark.parametrize("skewed", [False, True])
def test_a_network_just_beyond_its_limit_passes_about_as_rarely_as_the_level_says(skewed):
    """500 sets of 40 images whose drops are 1 in the mean, with noise: 5 % of the bounds are below 1."""
    chance = torch.Generator().manual_seed(0)
    drops = torch.empty(500, 40, dtype=torch.float64)
    drops = drops.exponential_(generator=chance) if skewed else drops.normal_(1, 1, generator=chance)
    passed = 0
    for seed, row in enumerate(drops):
        bootstrap = Bootstrap(40, 199, 0.95, seed)
        passed += bootstrap.bound(means(bootstrap, row))[1] < 1
    assert 12 <= passed <= 34  # 25 are expected of an exact bound, with a standard deviation of 5


@pytest.mark.parametrize("level", [0, 1, -0.5, "0.9", True, math.nan])
def test_levels_are_checked(level):
    with pytest.raises(ValueError, match=f"level {level!r} is not a number between 0 and 1"):
        Bootstrap(2, 99, level)


@pytest.mark.parametrize(("images", "resamples"), [(0, 9), (9, 0), (True, 9), (2.0, 9)])
def test_counts_are_checked(images, resamples):
    with pytest.raises(ValueError, match="is not a whole number of at least 1"):
        Bootstrap(images, resamples, 0.5)


def test_changes_are_signed_so_that_up_is_better():
    assert change(45.0, 50.0, True) == -0.1 and change(45.0, 50.0, False) == 0.1
    assert change(-4.0, -2.0, True) == -1.0
    assert math.isnan(change(1.0, 0.0, True))
    assert drop([change(45.0, 50.0, True), change(1.1, 1.0, False)]) == pytest.approx(10.0)
