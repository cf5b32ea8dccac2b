import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prune_utils.positions import CODINGS, from_bits, from_gaps, shortest, to_gaps


@given(kept=arrays(bool, st.integers(0, 2000)), coding=st.sampled_from(sorted(CODINGS)))
def test_packing_and_unpacking_gives_the_same_positions(kept, coding):
    pack, unpack = CODINGS[coding]
    assert np.array_equal(unpack(pack(kept), kept.size), kept)


@given(places=st.sets(st.integers(0, 5000), max_size=8))
def test_long_gaps_survive(places):
    kept = np.zeros(5001, dtype=bool)
    kept[list(places)] = True
    assert np.array_equal(from_gaps(to_gaps(kept), 5001), kept)


def test_gaps_by_hand():
    kept = np.zeros(600, dtype=bool)
    kept[[0, 2, 258, 599]] = True
    assert to_gaps(kept).tolist() == [0, 1, 255, 0, 255, 85]


def test_the_shorter_coding_is_chosen():
    kept = np.zeros(800, dtype=bool)
    kept[5] = True
    assert shortest(kept)[0] == "gaps"
    assert shortest(~kept)[0] == "bits"


def test_positions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 bytes of positions for 10 weights"):
        from_bits(np.zeros(3, dtype=np.uint8), 10)
    with pytest.raises(ValueError, match="position 7 in a tensor of 5 weights"):
        from_gaps(np.array([7], dtype=np.uint8), 5)
