import math

from hypothesis import given
from hypothesis import strategies as st

from comparison.entries import delta
from comparison.results import Column
from prune_utils.changes import change

MIOU, ERR = Column("seg", "mIoU", "%", True), Column("seg", "err", "", False)
EDGE = Column("edge", "err", "", False)
positive = st.floats(0.01, 100)


def test_hand_worked():
    # seg: +10 % and -25 % of error = mean 17.5; edge: error +50 % = -50; together -16.25
    dense = {MIOU: 20.0, ERR: 4.0, EDGE: 0.5}
    assert math.isclose(delta({MIOU: 22.0, ERR: 3.0, EDGE: 0.75}, dense), -16.25)


def test_every_task_weighs_the_same_whatever_its_number_of_measures():
    dense = {MIOU: 20.0, ERR: 4.0, EDGE: 0.5}
    better_seg = delta({MIOU: 40.0, ERR: 0.0, EDGE: 0.5}, dense)
    better_edge = delta({MIOU: 20.0, ERR: 4.0, EDGE: 0.0}, dense)
    assert (better_seg, better_edge) == (50.0, 50.0)


def test_nothing_is_made_of_nothing():
    assert math.isnan(change(1.0, 0.0, True))
    assert math.isnan(delta({MIOU: 1.0}, {EDGE: 1.0}))
    assert math.isnan(delta({MIOU: math.nan, EDGE: 1.0}, {MIOU: 1.0, EDGE: 1.0}))


def test_a_measure_that_dense_lacks_is_left_out():
    assert delta({MIOU: 30.0, ERR: 1.0}, {MIOU: 20.0}) == 50.0


@given(positive, positive)
def test_up_is_better_for_either_direction(value, dense):
    assert change(value, dense, True) == -change(value, dense, False)
    assert (change(value, dense, True) > 0) == (value > dense)
