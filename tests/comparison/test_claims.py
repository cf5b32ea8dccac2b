"""A paper's claims beside what a study found: the word for every mixture of measures, and the table."""

import pytest
import yaml

from comparison import planned
from comparison.claims import _conclusion, _difference
from comparison.plan import read_plan
from comparison.results import read_results
from comparison.verdicts import paired

from .test_planned import PLAN, tier

CLAIM = {
    "says": "unanimity is better than chance",
    "row": "disparse_static",
    "against": "random",
    "tier": "1",
    "differs": "a larger network",
}


def with_claims(path, **changes):
    path.write_text(yaml.safe_dump(PLAN | {"claims": [CLAIM | changes]}, sort_keys=False))
    return read_plan(path)


@pytest.mark.parametrize(
    ("words", "conclusion"),
    [
        (("better", "better"), "holds"),
        (("worse", "worse"), "the reverse holds"),
        (("not distinguishable", "not distinguishable"), "undecided"),
        (("better", "worse"), "better in seg mIoU; worse in sn mean"),
        (("not distinguishable", "worse"), "worse in sn mean; the rest undecided"),
    ],
)
def test_what_follows_from_the_measures(words, conclusion):
    assert _conclusion(dict(zip(("seg mIoU", "sn mean"), words, strict=True))) == conclusion


def test_a_claim_is_told_of_when_its_tier_is_complete(tmp_path):
    plan = with_claims(tmp_path / "plan.yaml")
    tier(tmp_path / "out")
    text = planned.tell(plan, read_results([tmp_path / "out"]))
    # mIoU 14 against 10 for both seeds; errors 0.555 and 0.556 against 0.6, so 12.7 standard errors of 0.0005
    assert (
        "| unanimity is better than chance | disparse_static minus random | **+4.00 (+4.00 .. +4.00)** | "
        "**-0.0445 (-0.0509 .. -0.0381)** | **holds** | a larger network |"
    ) in text
    (tmp_path / "out/seed6/nyuv2_random_90.json").unlink()
    assert "claims of the paper, looked at here at" not in planned.tell(
        plan, read_results([tmp_path / "out"])
    )


def test_one_seed_has_no_interval():
    assert _difference(paired({5: 14.0}, {5: 10.0}), 2).text == "+4.00"
    assert _difference(paired({5: 14.0}, {6: 10.0}), 2).text == "-"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"tier": "2"}, "a claim's tier '2' is not one of 1"),
        ({"row": "snip"}, "a claim's row 'snip'"),
        ({"row": "random"}, "a claim compares 'random' with itself"),
    ],
)
def test_a_claim_of_rows_that_are_not_there_is_refused(tmp_path, changes, what):
    with pytest.raises(ValueError, match=what):
        with_claims(tmp_path / "plan.yaml", **changes)
