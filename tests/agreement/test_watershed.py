"""The watershed rule: published curves, planted drops, and curves that have none."""

import random

import pytest

from agreement.watershed import consensus, largest_step, mean_curve, never_rising, watershed

# agreement of the 33 convolutions (shortcuts left out) at 0.078, from the paper's figure
PUBLISHED = {
    "nyuv2": """.968 .947 .939 .928 .913 .909 .893 .866 .755 .726 .670 .636 .575 .556 .471 .381 .129 .101 .049
        .044 .018 .022 .021 .014 .030 .030 .036 .061 .034 .028 .034 .063 .028""",
    "cityscapes": """.992 .981 .976 .971 .965 .964 .958 .949 .908 .899 .880 .867 .839 .829 .806 .760 .598 .551
        .467 .454 .346 .363 .238 .255 .164 .205 .128 .151 .047 .034 .051 .053 .047""",
    "taskonomy": """.989 .976 .973 .967 .964 .962 .954 .939 .894 .886 .864 .853 .820 .811 .771 .723 .512 .477
        .389 .355 .262 .248 .169 .170 .100 .117 .060 .066 .005 .007 .001 .000 .001""",
}
LAYERS = ["stem.conv"] + [
    f"stages.{stage}.{block}.conv{conv}"
    for stage, blocks in enumerate((3, 4, 6, 3))
    for block in range(blocks)
    for conv in (1, 2)
]


def noisy(curve, noise, seed):
    chance = random.Random(seed)
    return [value + chance.gauss(0, noise) for value in curve]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_curves_break_off_in_the_first_block_of_stage_2(name):
    curve = [float(value) for value in PUBLISHED[name].split()]
    assert len(curve) == len(LAYERS) == 33
    assert LAYERS[watershed(curve)] == "stages.2.0.conv2"


@pytest.mark.parametrize("place", [1, 5, 16])
@pytest.mark.parametrize("seed", range(10))
def test_a_planted_drop_is_found(place, seed):
    curve = [0.9 - 0.01 * i - (0.3 if i >= place else 0.0) for i in range(17)]
    assert watershed(curve) == place
    assert watershed(noisy(curve, 0.01, seed)) == place


def test_flat_and_straight_curves_have_none():
    assert watershed([0.5] * 20) is None
    assert watershed([0.0] * 20) is None
    assert watershed([1 - i / 32 for i in range(33)]) is None
    assert watershed([1 - i / 5 for i in range(6)]) is None


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1, 0.2])
def test_noise_on_a_flat_curve_is_no_watershed(noise):
    named = [watershed(noisy([0.5] * 33, noise, seed)) for seed in range(200)]
    assert sum(index is not None for index in named) <= 2


def test_noise_on_a_straight_decline_seldom_looks_like_one():
    line = [1 - i / 32 for i in range(33)]
    named = [watershed(noisy(line, 0.02, seed)) for seed in range(200)]
    assert sum(index is not None for index in named) <= 20


def test_a_drop_must_stand_out_and_matter():
    assert watershed([0.9, 0.9, 0.6, 0.3, 0.3]) is None  # two equal steps
    assert watershed([0.9, 0.9, 0.82, 0.82]) is None  # below a tenth
    assert watershed([0.6, 0.9, 0.5, 0.5]) is None  # no deeper than twice the rise


def test_undefined_layers_are_passed_over_and_still_counted():
    assert watershed([0.9, None, 0.9, None, 0.2, 0.2]) == 4
    assert largest_step([0.9, None, 0.2]) is None


def test_never_rising_pools_to_the_mean():
    assert never_rising([3.0, 1.0, 2.0, 0.0]) == [3.0, 1.5, 1.5, 0.0]
    assert never_rising([1.0, 2.0, 3.0]) == [2.0, 2.0, 2.0]


def test_consensus_is_the_share_of_seeds_that_say_so():
    early, late = [0.9, 0.2, 0.2, 0.2], [0.9, 0.9, 0.2, 0.2]
    assert consensus([late, late, late, early]) == (2, 0.75)
    assert consensus([[0.5] * 4, [0.5] * 4]) == (None, 1.0)


def test_mean_curve_leaves_out_what_is_undefined():
    assert mean_curve([[1.0, None, None], [0.5, 0.2, None]]) == [0.75, 0.2, None]
