"""The pages of the studies say what their result files say."""

from pathlib import Path

import pytest

from comparison.plan import complete, read_plan
from comparison.planned import tier_page
from comparison.results import read_results

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize(
    ("study", "files"),
    [("study", "study"), ("camvid", "camvid"), ("study_share", "study"), ("camvid_share", "camvid")],
)
def test_every_complete_tier_has_its_page_and_no_other(study, files):
    folder = DOCS / study
    plan = read_plan(folder / "plan.yaml")
    found = read_results([DOCS / files], empty=True)
    results = [result for result in found if result.dataset == plan.dataset]
    pages = {
        f"tier_{tier.name}.md": tier_page(plan, tier, there) for tier, there in complete(plan.tiers, results)
    }
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.glob("tier_*.md")} == pages
    assert {path.stem for path in folder.glob("tier_*.png")} == {Path(name).stem for name in pages}
