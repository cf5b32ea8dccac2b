"""Public networks, each all the way: benchmarks/networks.py says what that is."""

import pytest

from benchmarks.networks import RATIO, cases, try_case


@pytest.mark.slow
def test_every_public_network_holds():
    pytest.importorskip("transformers")
    rows = [try_case(case) for case in cases()]
    assert {row.name: row.failed for row in rows if row.failed} == {}
    assert len(rows) >= 40
    assert all(row.zeros >= RATIO / 100 * row.covered - 1 for row in rows)
