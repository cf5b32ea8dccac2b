"""Inner products of gradients worked out by hand, and what each weighting makes of them."""

import math

import pytest
import torch

from prune_utils import weightings
from prune_utils.gramian import cosines, gramian
from prune_utils.weightings import WEIGHTINGS, Solver, find_weighting, require

# g1 = (1, 0) and g2 = (-1, 1) are in conflict
CONFLICT = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
AGREED = torch.tensor([[1.0, 0.5], [0.5, 4.0]], dtype=torch.float64)


def test_inner_products_of_what_is_kept():
    one = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([3.0]), "head": torch.tensor([9.0])}
    two = {"a": torch.tensor([[-1.0, 1.0]]), "b": torch.tensor([2.0])}
    three = {"b": torch.tensor([-1.0])}  # has no part in a
    rows = [one, two, three]
    assert gramian(rows, ["a", "b"]).tolist() == [[14, 7, -3], [7, 6, -2], [-3, -2, 1]]
    kept = {"a": torch.tensor([[True, False]])}
    assert gramian(rows, ["a", "b"], kept).tolist() == [[10, 5, -3], [5, 5, -2], [-3, -2, 1]]
    assert gramian(rows, []).tolist() == [[0, 0, 0]] * 3


def test_cosines_and_a_task_without_a_gradient():
    gram = torch.tensor([[4.0, -3.0, 0.0], [-3.0, 9.0, 0.0], [0.0, 0.0, 0.0]]).double()
    assert cosines(gram).tolist() == [[1, -0.5, 0], [-0.5, 1, 0], [0, 0, 0]]


ROOT = math.sqrt(2)
BY_HAND = {
    "pcgrad": (2, 1.5),  # g1 + g2 / 2, and g2 + g1
    "upgrad": (2, 1.5),  # with two tasks the same
    "dualproj": (1, 1),  # the sum (0, 1) harms nobody
    "mgda": (0.6, 0.4),  # (0.2, 0.4) is the shortest between them
    "imtl_g": (
        (2 + ROOT) / (3 + 2 * ROOT),
        (1 + ROOT) / (3 + 2 * ROOT),
    ),  # inverse [[2, 1], [1, 1]] times lengths
}


@pytest.mark.parametrize("name", BY_HAND)
def test_weights_by_hand(name):
    weights = Solver(name, 2)(CONFLICT)
    assert weights.dtype == torch.float64
    assert weights.tolist() == pytest.approx(BY_HAND[name], abs=2e-3)


@pytest.mark.parametrize("name", ["nash_mtl", "fairgrad"])
def test_shares_of_the_gain_are_equal_in_the_bargain(name):
    """w_k times (G w)_k is the same for all; torchjd's Nash-MTL cuts the length to 1."""
    weights = Solver(name, 2)(AGREED)
    shares = weights * (AGREED @ weights)
    assert shares[0] == pytest.approx(float(shares[1]), rel=2e-2)
    assert float(weights @ AGREED @ weights) <= 2.001


def test_cagrad_stays_in_its_ball():
    """The direction is g0 + c |g0| times a unit vector, g0 the mean gradient."""
    weights = Solver("cagrad", 2, 0.3)(CONFLICT) - 0.5
    mean = torch.full((2,), 0.5, dtype=torch.float64)
    away, length = (math.sqrt(float(w @ CONFLICT @ w)) for w in (weights, mean))
    assert away == pytest.approx(0.3 * length, rel=1e-3)


def test_aligned_mtl_leaves_orthogonal_gradients_of_one_length_alone():
    assert Solver("aligned_mtl", 3)(4 * torch.eye(3).double()).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("name", ["upgrad", "dualproj", "pcgrad"])
def test_without_conflict_gradients_are_added(name):
    assert Solver(name, 2)(AGREED).tolist() == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(WEIGHTINGS) - {"imtl_g", "aligned_mtl", "fairgrad", "nash_mtl"}))
def test_no_task_is_harmed(name):
    torch.manual_seed(0)
    for _ in range(5):
        rows = torch.randn(2, 6, dtype=torch.float64)
        gram = rows @ rows.T
        gains = gram @ Solver(name, 2)(gram)
        assert gains.min() >= -1e-2 * gram.diagonal().max(), name


def test_a_bargain_goes_on_from_its_state():
    torch.manual_seed(1)
    grams = [rows @ rows.T for rows in torch.randn(6, 3, 8, dtype=torch.float64)]
    whole = Solver("nash_mtl", 3)
    expected = [whole(gram).tolist() for gram in grams]
    first = Solver("nash_mtl", 3)
    found = [first(gram).tolist() for gram in grams[:3]]
    state = first.state_dict()
    second = Solver("nash_mtl", 3)
    second(grams[0])
    second.load_state_dict(state)
    assert found + [second(gram).tolist() for gram in grams[3:]] == expected
    fresh = Solver("nash_mtl", 3)
    fresh.load_state_dict(Solver("nash_mtl", 3).state_dict())
    assert fresh(grams[0]).tolist() == expected[0]


def test_names_and_packages_are_told(monkeypatch):
    with pytest.raises(ValueError, match="weighting 'upgrd' is not one of upgrad, dualproj"):
        find_weighting("upgrd")
    monkeypatch.setattr(weightings, "find_spec", lambda name: None if name == "ecos" else "there")
    with pytest.raises(ValueError, match=r"'nash_mtl' needs the package ecos: python3 -m pip install"):
        find_weighting("nash_mtl")
    monkeypatch.setattr(weightings, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package torchjd"):
        require("pcgrad")


def test_a_solver_that_gives_up_is_told():
    solver = Solver("pcgrad", 2)
    solver.weigher = lambda gram: torch.full((2,), math.nan)
    with pytest.raises(ValueError, match="'pcgrad' finds no weights: they are not finite"):
        solver(CONFLICT)

    def fail(gram):
        raise ValueError("no solution")

    solver.weigher = fail
    with pytest.raises(ValueError, match="'pcgrad' finds no weights: no solution"):
        solver(CONFLICT)
