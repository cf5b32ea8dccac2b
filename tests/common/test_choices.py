"""Sentences about names, and names that a terminal would act on."""

import pytest

from common.choices import not_one_of, printable


@pytest.mark.parametrize(
    ("value", "hint"), [("dpeth", "; did you mean 'depth'?"), ("SN", "; did you mean 'sn'?"), ("xyz", "")]
)
def test_near_misses_are_named(value, hint):
    assert not_one_of("task", value, ["depth", "sn"]) == f"task '{value}' is not one of depth, sn{hint}"


def test_what_a_terminal_would_act_on_is_written_out():
    assert printable("a\x1b[31m\nerror: b\udc80é") == "a\\x1b[31m\\nerror: b\\udc80é"
