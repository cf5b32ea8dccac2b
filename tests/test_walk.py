"""README and docs: what they say to type works from a fresh clone and prints what they show (slow)."""

import pytest

from tests.walk import PAGES, ROOT, clone, do, shape, steps, unlike

# pages whose commands take hours, or that another test types in
ELSEWHERE = {
    "docs/performance.md",
    "docs/results.md",
    "docs/study.md",
    "docs/library.md",
    "docs/networks.md",
    "docs/mtcnn.md",
}


def test_every_page_is_walked_or_accounted_for():
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} | {"README.md"}
    assert pages == set(PAGES) | ELSEWHERE
    assert not steps("docs/library.md")


def test_blocks_become_steps():
    readme = steps("README.md")
    texts = [step.text for step in readme]
    assert texts[0] == "make demo" and not readme[0].skipped
    code = [step for step in readme if step.code]
    assert len(code) == 2 and code[1].text.startswith(code[0].text)
    create = next(step for step in readme if step.text.startswith("python3 create_pruned_net.py"))
    assert create.prints[0].startswith("sparsity 90.0000 %")
    assert any(step.skipped for step in readme)


def test_outputs_are_compared_by_shape():
    shown = ["sparsity 90 % (kept 1,234)", "...", "", "backbone  29,805  16.98%"]
    printed = "sparsity 90.0000 % (kept 99)\nanything\n\nbackbone   1   2%\nmore"
    assert unlike(shown, printed) == ""
    assert unlike([*shown, "head"], printed) == "head"
    assert unlike(["more", "anything"], printed) == "anything"  # in order
    assert shape("--------  ---") == ""


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_command_and_snippet_works_from_a_fresh_clone(tmp_path):
    tree = clone(tmp_path)
    todo = [step for page in PAGES for step in steps(page)]
    for number, step in enumerate(todo):
        if not step.skipped:
            _, trouble = do(step, tree, number)
            assert not trouble, f"{step.page}:{step.line} {step.text}\n{trouble}"
