import subprocess
import sys
from pathlib import Path

import pytest

from prune_utils import BUDGETS, CRITERIA, METHODS, method
from prune_utils.courses import COURSES
from prune_utils.gradual import PACES

ROOT = Path(__file__).resolve().parents[2]


def test_every_row_refers_to_what_exists():
    for name, row in METHODS.items():
        assert row.name == name
        assert row.setup in ("static", "pretrained", "dynamic", "gradual")
        assert row.course in COURSES and row.pace in PACES
        assert row.starts in ("sparse", "dense")
        assert row.criterion is None or row.criterion in CRITERIA
        assert row.grow is None or row.grow in CRITERIA
        assert row.budget in BUDGETS
        assert {row.voters, row.grow_voters} <= {"tasks", "joint"}
        assert row.start in ("init", "dense", "rewound")
        assert (row.start != "init") == row.needs_dense == (row.setup == "pretrained")
        assert row.by_itself == (row.setup in ("dynamic", "gradual"))
        assert row.grow is None or row.by_itself
        assert (row.starts == "dense") == (row.setup == "gradual")
        assert row.training in ("full", "finetune")
        assert row.score_init in (None, "own")
        assert row.retrain <= (row.rounds > 1)


def test_the_table_of_the_paper_and_its_peers():
    names = "disparse_static disparse_pt disparse_dynamic snip random magnitude random_pt imp lth rigl set"
    names += " synflow grasp disparse_grasp force disparse_force lamp fisher disparse_fisher"
    names += " top_kast gmp lamp_gmp disparse_gmp granet disparse_granet ac_dc"
    assert set(names.split()) <= set(METHODS)
    assert (method("imp").rounds, method("synflow").rounds, method("force").rounds) == (11, 100, 60)
    assert method("disparse_pt").criterion is None
    for name in names.split():
        row = method(name)
        assert ("tasks" in (row.voters, row.grow_voters)) == name.startswith("disparse")


def test_an_unknown_method_gets_the_choices():
    with pytest.raises(ValueError, match="method 'disparse' is not one of .*disparse_static, snip, .*set"):
        method("disparse")


def test_names_are_known_without_torch():
    code = (
        "import sys, prune_utils, prune_utils.methods as m; m.method('set'); dir(prune_utils);"
        "assert prune_utils.method is m.method;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_public_name_is_there():
    import prune_utils

    for name in prune_utils.__all__:
        assert getattr(prune_utils, name) is not None
        assert not isinstance(getattr(prune_utils, name), type(sys)), f"{name} is a module"
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        prune_utils.__getattr__("prune")
