"""Numbers and seeds of a command line."""

import pytest

from common.numbers import parse_numbers, parse_seeds, seeds_text


def test_a_number_of_seeds_starts_at_the_first_and_a_list_is_as_it_is():
    assert parse_seeds("3") == [0, 1, 2]
    assert parse_seeds("2", first=7) == [7, 8]
    assert (parse_seeds("1,5", first=7), parse_seeds("4,")) == ([1, 5], [4])
    assert parse_numbers("--ratios", "90, 92.5", float) == [90.0, 92.5]


@pytest.mark.parametrize("wrong", ["", "0", "x", "1.5", "1,1", "-1", ",", "1,nan"])
def test_other_words_name_the_flag(wrong):
    with pytest.raises(ValueError, match="--seeds"):
        parse_seeds(wrong)


def test_not_a_number_is_none():
    with pytest.raises(ValueError, match="--ratios needs different numbers"):
        parse_numbers("--ratios", "90,nan", float)


@pytest.mark.parametrize("seeds", [[4], [1, 5], [0, 1, 2]])
def test_seeds_are_read_back_as_they_were(seeds):
    assert parse_seeds(seeds_text(seeds)) == seeds
