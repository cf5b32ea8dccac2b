"""Tables, durations and sizes as people read them."""

import pytest

from common.text import duration, file_size, percent, table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (0, "0 s"),
        (0.0123, "0.012 s"),
        (9.96, "10 s"),
        (42.4, "42 s"),
        (59.6, "1 min 00 s"),
        (75, "1 min 15 s"),
        (3599.7, "1 h 00 min"),
        (3725, "1 h 02 min"),
        (93_780, "1 d 02 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(3 * 2**20, "3.0 MiB"), (2.5 * 2**30, "2.5 GiB"), (0, "0.0 MiB")]
)
def test_sizes(number, text):
    assert file_size(number) == text


def test_percent():
    assert (percent(0.1234), percent(None)) == ("12.3 %", "-")


def test_numbers_stand_to_the_right_and_missing_ones_too():
    rows = [("a", "1,234", "1e-05", "12.5 %", "x"), ("bcd", "-", "2", "", "-")]
    assert table(rows, ("name", "n", "small", "part", "word")) == (
        "name      n  small    part  word\n"
        "----  -----  -----  ------  ----\n"
        "a     1,234  1e-05  12.5 %  x\n"
        "bcd       -      2          -"
    )
    assert table([("-", "1")], ("a", "b"), rule=False) == "a  b\n-  1"
    assert table([], ("a", "b")) == "a  b\n-  -"
