import math

import numpy as np
import pytest
from scipy import stats

from comparison.verdicts import (
    BETTER,
    SAME,
    WORSE,
    by_chance,
    found_with,
    holm,
    paired,
    pairs_needed,
    quantile,
)


def by_seed(*values):
    return dict(enumerate(values))


def test_hand_worked_interval():
    # differences 1, 2, 3: mean 2, standard deviation 1, reach 4.302653 / sqrt(3) = 2.484138
    verdict = paired(by_seed(11, 12, 13), by_seed(10, 10, 10))
    assert verdict.difference == 2
    assert verdict.low == pytest.approx(-0.484138, abs=1e-6)
    assert verdict.high == pytest.approx(4.484138, abs=1e-6)
    assert (verdict.seeds, verdict.word) == (3, SAME)


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
def test_the_interval_is_that_of_the_paired_t_test(seeds):
    a, b = np.random.default_rng(seeds).normal(20, 3, (2, seeds))
    verdict = paired(by_seed(*a), by_seed(*b), level=0.9)
    theirs = stats.ttest_rel(a, b).confidence_interval(0.9)
    assert (verdict.low, verdict.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_pairing_sees_what_means_hide():
    # the seeds differ by 10, the methods steadily by 1
    ours, theirs = by_seed(11, 21.1, 30.9), by_seed(10, 20, 30)
    assert paired(ours, theirs).word == BETTER
    assert paired(theirs, ours).word == WORSE
    assert paired(ours, theirs, larger=False).word == WORSE
    assert paired(theirs, ours, larger=False).word == BETTER


def test_only_common_seeds_with_numbers_count():
    verdict = paired({0: 1.0, 1: 2.0, 5: math.nan, 7: 9.0}, {0: 0.0, 1: 1.0, 5: 1.0, 8: 1.0})
    assert (verdict.difference, verdict.seeds) == (1.0, 2)


def test_equal_values_are_not_distinguishable_and_a_constant_difference_is():
    assert paired(by_seed(1, 2, 3), by_seed(1, 2, 3)).word == SAME
    assert paired(by_seed(2, 3, 4), by_seed(1, 2, 3)).word == BETTER


@pytest.mark.parametrize("ours", [{}, {0: 100.0}, {3: 5.0}])
def test_too_few_seeds_decide_nothing(ours):
    verdict = paired(ours, {0: 0.0, 1: 0.0})
    assert verdict.word == SAME
    assert math.isnan(verdict.low) and math.isnan(verdict.high)


@pytest.mark.parametrize(("seeds", "reach"), [(2, 12.706205), (3, 4.302653), (5, 2.776445), (11, 2.228139)])
def test_quantiles_are_those_of_printed_tables(seeds, reach):
    assert quantile(0.95, seeds - 1) == pytest.approx(reach, abs=1e-5)


@pytest.mark.parametrize("seeds", [3, 5])
def test_methods_that_do_not_differ_are_called_better_at_the_nominal_rate(seeds):
    # both share the seed's own difficulty; 2.5 % "better" and 2.5 % "worse" is what a 95 % interval promises
    chance, trials = np.random.default_rng(1), 3000
    words = []
    for _ in range(trials):
        difficulty = chance.normal(25, 3, seeds)
        a, b = difficulty + chance.normal(0, 1, (2, seeds))
        words.append(paired(by_seed(*a), by_seed(*b)).word)
    margin = 4 * math.sqrt(0.025 * 0.975 / trials)  # four standard errors of a rate of 2.5 %
    assert words.count(BETTER) / trials == pytest.approx(0.025, abs=margin)
    assert words.count(WORSE) / trials == pytest.approx(0.025, abs=margin)


def test_a_planted_difference_is_found():
    # 3 points with a paired noise of 0.7: mean over standard error is about 7.3 at 3 seeds, 9.5 at 5
    chance, trials = np.random.default_rng(2), 400
    found = {}
    for seeds in (3, 5):
        words = []
        for _ in range(trials):
            difficulty = chance.normal(25, 3, seeds)
            a, b = difficulty + chance.normal(0, 0.5, (2, seeds))
            words.append(paired(by_seed(*(a + 3)), by_seed(*b)).word)
        assert WORSE not in words
        found[seeds] = words.count(BETTER) / trials
    assert found[3] > 0.7
    assert found[5] > 0.99


def test_expected_false_calls():
    assert by_chance(40) == pytest.approx(2.0)


@pytest.mark.parametrize("seeds", [2, 5])
def test_the_p_value_is_that_of_the_paired_t_test(seeds):
    a, b = np.random.default_rng(seeds).normal(20, 3, (2, seeds))
    assert paired(by_seed(*a), by_seed(*b)).p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)


def test_holm_by_hand():
    # sorted 0.01 x 4, 0.02 x 3, 0.03 x 2 (raised to the one before), 0.5 x 1
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    kept = holm([math.nan, 0.02])
    assert math.isnan(kept[0]) and kept[1] == 0.02


def test_pairs_needed_is_that_of_printed_tables():
    # Cohen's tables: a standardised difference of 0.5, 0.8, 1 at 0.05 two-sided with power 0.8
    assert [pairs_needed(1, effect) for effect in (0.5, 0.8, 1.0)] == [34, 15, 10]
    assert pairs_needed(2, 2) == 10
    assert found_with(9, 1, 1) < 0.8 <= found_with(10, 1, 1)
    assert found_with(8, 0.33, 1, 0.05 / 30) == pytest.approx(0.98713, abs=1e-5)  # far beyond the bound


def test_many_pairs_are_counted_without_trying_each():
    assert pairs_needed(0.5, 0.01) == 19625
    assert found_with(19624, 0.5, 0.01) < 0.8 <= found_with(19625, 0.5, 0.01)
    assert pairs_needed(0.001, 1) == 2
    assert pairs_needed(1, 1e-4) is None


@pytest.mark.parametrize(("spread", "effect"), [(0, 1), (1, 0), (math.nan, 1)])
def test_pairs_needed_refuses_nothing_to_find(spread, effect):
    with pytest.raises(ValueError, match="must be above 0"):
        pairs_needed(spread, effect)
