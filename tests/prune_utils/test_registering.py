import pytest
import torch

import prune_utils
from prune_utils import (
    ARBITERS,
    BUDGETS,
    CRITERIA,
    METHODS,
    Arbiter,
    Criterion,
    Method,
    Pool,
    make_mask,
    make_plan,
    prunable,
)
from prune_utils.registering import check_row, load_plugin, register

from .test_prune import Settings, electorate

FOURTH = Criterion(lambda weight, *more: weight.square().square(), "w^4")


@pytest.fixture(autouse=True)
def registries():
    """What a test registers is gone afterwards."""
    saved = [(registry, dict(registry)) for registry in (ARBITERS, BUDGETS, CRITERIA, METHODS)]
    yield
    for registry, before in saved:
        registry.clear()
        registry.update(before)


def test_four_of_ones_own_make_a_mask(tiny):
    """The least weights stay (|w| upside down), all in the first layer, by the last vote."""
    register("least", criterion=Criterion(lambda weight, *more: -weight.abs(), "-|w|"))
    register(
        "first",
        budget=lambda shapes, keep: tuple(Pool((n,), 0 if i else keep) for i, n in enumerate(shapes)),
    )
    register("all_but_one", arbiter=Arbiter(lambda owners: max(owners - 1, 1)))
    register(
        method=Method(
            "mine", setup="static", criterion="least", voters="tasks", budget="first", summary="a test"
        )
    )
    net = tiny("a", "b")
    plan = make_plan(prune_utils.method("mine"), Settings(ratio=98, arbiter="all_but_one", scope="backbone"))
    assert (plan.criterion, plan.budget) == ("least", "first")
    mask = make_mask(net.model, plan, electorate(net), [])
    stem = prunable(net.model)["stem.weight"].detach().abs()
    kept = mask["stem.weight"]
    assert int(kept.sum()) == 4 and float(stem[kept].max()) <= float(stem[~kept].min())


def test_the_same_may_come_again_and_another_may_not():
    register("fourth", criterion=FOURTH)
    register("fourth", criterion=FOURTH)
    with pytest.raises(ValueError, match="there is a criterion 'snip' already"):
        register("snip", criterion=FOURTH)
    assert CRITERIA["snip"] is not FOURTH


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "x"}, "exactly one of criterion, budget, arbiter, method, not 0"),
        ({"name": "x", "criterion": FOURTH, "budget": len}, "exactly one of .*, not 2"),
        ({"name": "x", "criterion": len}, "criterion <built-in function len> is not a Criterion"),
        ({"criterion": FOURTH}, "a criterion needs a name of letters, digits and underscores, not None"),
        ({"name": "a b", "criterion": FOURTH}, "not 'a b'"),
        ({"name": "y", "method": Method("x", "static", "snip", "")}, "the row of method 'y' is named 'x'"),
        ({"method": Method("x", "static", "snap", "")}, "method 'x': criterion 'snap' is not one of snip, "),
        ({"method": Method("x", "static", None, "")}, "method 'x': criterion 'None' is not one of"),
        ({"method": Method("x", "dynamic", "snip", "", course="regrow")}, "needs a criterion in `grow`"),
        ({"method": Method("x", "static", "snip", "", retrain=True)}, "1 rounds, with retrain True"),
    ],
)
def test_mistakes_are_named(given, words):
    with pytest.raises(ValueError, match=words):
        register(**given)
    assert "x" not in METHODS and "x" not in CRITERIA


def test_our_own_rows_pass():
    for row in METHODS.values():
        check_row(row)


def test_a_plugin_registers(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import prune_utils\n"
        "def fourth(weight, gradient, generator):\n"
        "    return weight.square().square()\n"
        "prune_utils.register('fourth', criterion=prune_utils.Criterion(fourth, 'w^4'))\n"
    )
    load_plugin(path)
    found = CRITERIA["fourth"].saliency(torch.tensor([2.0]), None, torch.Generator())
    assert found.tolist() == [16]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n1 / 0\n", "plugin .*mine.py, line 2: ZeroDivisionError: division by zero"),
        ("x = (\n", "plugin .*mine.py, line 1: SyntaxError"),
        (
            "import prune_utils\nprune_utils.register('x')\n",
            "plugin .*mine.py, line 2: ValueError: register takes exactly one",
        ),
    ],
)
def test_a_plugin_that_fails_says_where(tmp_path, text, words):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        load_plugin(path)


def test_a_plugin_must_be_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no plugin file"):
        load_plugin(tmp_path / "none.py")
    (tmp_path / "words.txt").write_text("")
    with pytest.raises(ValueError, match="is not a Python file"):
        load_plugin(tmp_path / "words.txt")
