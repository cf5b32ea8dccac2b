import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prune_utils import ARBITERS, Arbiter, Pool, choose, count, keep_by_ratio, share_fractions, weighted
from prune_utils import choosing as module

from . import reference


def t(*values):
    return torch.tensor(values, dtype=torch.float32)


# shared has 4 weights, a and b 2 each: tasks rank 6 weights
HAND = {
    "A": {"shared": t(9, 8, 1, 0), "a": t(7, 2)},  # ranks 1 2 5 6 | 3 4
    "B": {"shared": t(1, 2, 9, 3), "b": t(8, 7)},  # ranks 6 5 1 4 | 2 3
}


def kept(mask):
    return {name: of.int().tolist() for name, of in mask.items()}


@pytest.mark.parametrize(
    ("arbiter", "keep", "expected"),
    [
        ("unanimous", 1, {"shared": [1, 0, 0, 0], "a": [0, 0], "b": [0, 0]}),  # a tie of two firsts
        ("unanimous", 2, {"shared": [1, 0, 1, 0], "a": [0, 0], "b": [0, 0]}),
        ("unanimous", 5, {"shared": [1, 1, 1, 0], "a": [1, 0], "b": [1, 0]}),
        ("unanimous", 8, {"shared": [1, 1, 1, 1], "a": [1, 1], "b": [1, 1]}),
        ("majority", 3, {"shared": [0, 0, 0, 0], "a": [1, 0], "b": [1, 1]}),
        ("intersection", 4, {"shared": [0, 0, 0, 0], "a": [1, 1], "b": [1, 1]}),
        ("intersection", 6, {"shared": [0, 1, 1, 0], "a": [1, 1], "b": [1, 1]}),
        ("unanimous", 0, {"shared": [0, 0, 0, 0], "a": [0, 0], "b": [0, 0]}),
    ],
)
def test_by_hand(arbiter, keep, expected):
    mask = choose(HAND, (Pool(("shared", "a", "b"), keep),), arbiter)
    assert kept(mask) == expected


def test_each_pool_is_ranked_for_itself():
    budget = (Pool(("shared",), 1), Pool(("a",), 0), Pool(("b",), 2))
    assert kept(choose(HAND, budget, "unanimous")) == {"shared": [1, 0, 0, 0], "a": [0, 0], "b": [1, 1]}


def test_among_leaves_only_candidates_and_ranks_only_them():
    among = {"shared": torch.tensor([False, True, True, True]), "a": torch.tensor([True, False])}
    mask = choose({"A": HAND["A"]}, (Pool(("shared", "a"), 2),), "unanimous", among)
    assert kept(mask) == {"shared": [0, 1, 0, 0], "a": [1, 0]}


def test_nobodys_weights_come_last_by_position():
    among = {name: torch.ones(2, dtype=torch.bool) for name in ("first", "mine", "last")}
    budget = (Pool(("first", "mine", "last"), 5),)
    assert kept(choose({"A": {"mine": t(0, 1)}}, budget, "unanimous", among)) == {
        "first": [1, 1],
        "mine": [1, 1],
        "last": [1, 0],
    }
    few = choose({"A": {"mine": t(0, 1)}}, (Pool(("first", "mine", "last"), 1),), "unanimous", among)
    assert kept(few) == {"first": [0, 0], "mine": [0, 1], "last": [0, 0]}


def test_does_not_write_to_what_it_reads():
    among = {"a": torch.ones(2, dtype=torch.bool)}
    choose({"A": {"a": t(1, 2)}}, (Pool(("a",), 2),), "unanimous", among)["a"].zero_()
    assert among["a"].all()


@pytest.mark.parametrize(
    ("budget", "arbiter", "among", "words"),
    [
        ((Pool(("a",), 3),), "unanimous", None, "3 weights asked of pool a, which has 2 candidates"),
        ((Pool(("c",), 1),), "unanimous", None, "'c' is in the budget but no voter scores it"),
        (
            (Pool(("a",), 1),),
            "unanimous",
            {"b": torch.ones(2).bool()},
            "'a' is in the budget but not in `among`",
        ),
        ((Pool(("a",), 1), Pool(("a",), 1)), "unanimous", None, "'a' is in the budget twice"),
        (
            (Pool(("a",), 1),),
            "unanimus",
            None,
            "'unanimus' is not one of intersection, majority, share, unanimous, weighted",
        ),
    ],
)
def test_mistakes_are_named(budget, arbiter, among, words):
    with pytest.raises(ValueError, match=words):
        choose({"A": {"a": t(1, 2)}}, budget, arbiter, among)


def test_nan_names_layer_and_voter():
    with pytest.raises(ValueError, match="layer 'a' hold NaN .voter 'A'"):
        choose({"A": {"a": t(1, float("nan"))}}, (Pool(("a",), 1),), "unanimous")


# ---- properties: many ties, many zeros, partial ownership, candidates

RANKED = sorted(name for name, arbiter in ARBITERS.items() if arbiter.standings is not share_fractions)
EVERY = sorted(ARBITERS)
LEVELS = st.sampled_from([0.0, 0.0, 1.0, 2.0, 3.0, 0.5])


@st.composite
def contests(draw, tasks=(1, 2, 3, 5), arbiters=EVERY):
    """scores, sizes, among, one arbiter; every layer has a random non-empty set of owners."""
    voters = [f"t{i}" for i in range(draw(st.sampled_from(tasks)))]
    sizes = draw(st.dictionaries(st.sampled_from("pqrstu"), st.integers(1, 7), min_size=1, max_size=5))
    scores = {voter: {} for voter in voters}
    for name, size in sizes.items():
        for voter in draw(st.sets(st.sampled_from(voters), min_size=1)):
            scores[voter][name] = t(*draw(st.lists(LEVELS, min_size=size, max_size=size)))
    scores = {voter: {name: of[name] for name in sizes if name in of} for voter, of in scores.items()}
    bits = {name: draw(st.lists(st.booleans(), min_size=size, max_size=size)) for name, size in sizes.items()}
    among = {name: torch.tensor(of) for name, of in bits.items()} if draw(st.booleans()) else None
    return scores, sizes, among, draw(st.sampled_from(arbiters))


def candidates_in(sizes, among):
    return {name: size if among is None else int(among[name].sum()) for name, size in sizes.items()}


def allowed(among):
    return lambda name, i: among is None or bool(among[name][i])


@settings(max_examples=200, deadline=None)
@given(contest=contests(), share=st.floats(0, 1), per_layer=st.booleans())
def test_equals_the_obvious_reference(contest, share, per_layer):
    scores, sizes, among, arbiter = contest
    there = candidates_in(sizes, among)
    pools = [((name,), round(share * there[name])) for name in sizes]
    if not per_layer:
        pools = [(tuple(sizes), round(share * sum(there.values())))]
    mask = choose(scores, tuple(Pool(*pool) for pool in pools), arbiter, among)
    expected = reference.choose(reference.lists(scores), pools, arbiter, sizes, allowed(among))
    assert reference.as_set(mask) == expected
    assert count(mask) == sum(keep for _, keep in pools)


@settings(max_examples=200, deadline=None)
@example(  # everything that is sure stands behind something that one bracket does not reach
    contest=(
        {"t0": {"p": torch.tensor([0.0, 0, 0, 0, 0, 1])}, "t1": {"p": torch.tensor([0.0, 0, 0, 1, 0, 0])}},
        {"p": 6},
        None,
        "intersection",
    ),
    share=0.03125,
    errors=0.0,
    seed=6,
)
@given(
    contest=contests(arbiters=RANKED),
    share=st.floats(0, 1),
    errors=st.sampled_from([0.0, 0.3, 3.0]),
    seed=st.integers(0, 9),
)
def test_bracket_equals_sorting(contest, share, errors, seed):
    """On small pools, where the sample is poor: whatever the bracket dares to answer must be right."""
    scores, sizes, among, arbiter = contest
    scores = {
        voter: {
            name: of.repeat(5) + 0.01 * torch.arange(5 * len(of)).remainder(seed + 1)
            for name, of in mine.items()
        }
        for voter, mine in scores.items()
    }
    among = among and {name: of.repeat(5) for name, of in among.items()}
    like = {name: torch.empty(5 * size) for name, size in sizes.items()}
    total = 5 * sum(candidates_in(sizes, among).values())
    keep = min(round(share * total), total - 1)
    if keep >= 0:
        contest = module.Contest(scores, like, keep, arbiter, among)
        mask = module.choose_by_bracket(contest, errors)
        assert mask is None or reference.as_set(mask) == reference.as_set(module.choose_by_sorting(contest))


@pytest.mark.parametrize("arbiter", [*RANKED, weighted({"A": 3.0}), weighted({"A": 0.5, "B": 0.125})])
@pytest.mark.parametrize("keep", [1, 2000, 30_000, 59_999])
def test_bracket_settles_large_pools_at_the_first_try(arbiter, keep):
    chance = torch.Generator().manual_seed(keep)
    like = {"shared": torch.empty(100, 300), "a": torch.empty(20_000), "b": torch.empty(10_000)}
    owners = {"A": ("shared", "a"), "B": ("shared", "b")}
    scores = {
        v: {n: torch.rand(like[n].shape, generator=chance) ** 8 for n in owns} for v, owns in owners.items()
    }
    contest = module.Contest(scores, like, keep, arbiter)
    mask = module.choose_by_bracket(contest)
    assert mask is not None
    assert count(mask) == keep
    plain = module.choose_by_sorting(contest)
    assert all(torch.equal(mask[name], plain[name]) for name in like)


@pytest.mark.parametrize("keep", [0, 1, 3000, 29_999])
@pytest.mark.parametrize("arbiter", ["majority", weighted({"A": 3.0})])
def test_one_voter_is_settled_at_the_first_try_without_ranks(arbiter, keep):
    chance = torch.Generator().manual_seed(keep)
    like = {"a": torch.empty(100, 300), "b": torch.empty(30_000)}
    scores = {
        "A": {n: torch.rand(of.shape, generator=chance).sub(0.1).round(decimals=3) for n, of in like.items()}
    }
    among = {n: torch.rand(of.shape, generator=chance) < 0.6 for n, of in like.items()}
    contest = module.Contest(scores, like, keep, arbiter, among)
    mask, plain = module.choose_by_bracket(contest), module.choose_by_sorting(contest)
    assert mask is not None and count(mask) == keep
    assert all(torch.equal(mask[name], plain[name]) for name in like)


def test_large_pools_go_through_the_bracket_and_fall_back(monkeypatch):
    scores = {"A": {"a": torch.arange(64.0).remainder(3)}}
    budget = (Pool(("a",), 30),)
    plain = choose(scores, budget, "unanimous")
    widths = []
    monkeypatch.setattr(module, "PLAIN", 10)
    monkeypatch.setattr(module, "choose_by_bracket", lambda contest, errors: widths.append(errors))
    assert torch.equal(choose(scores, budget, "unanimous")["a"], plain["a"])
    assert widths == [5.0, 40.0]


@settings(max_examples=100, deadline=None)
@given(contest=contests(), k=st.floats(0.01, 1))
def test_equals_the_union_of_the_tasks_top_k(contest, k):
    """Where the budget is the size of such a union, the unanimous rule is that union."""
    scores, sizes, among, _ = contest
    union = set()
    for of in reference.lists(scores).values():
        ranks = reference.ranks(of, list(sizes), allowed(among))
        union |= {weight for weight, rank in ranks.items() if rank <= k}
    mask = choose(scores, (Pool(tuple(sizes), len(union)),), "unanimous", among)
    assert reference.as_set(mask) == union


@settings(max_examples=100, deadline=None)
@given(contest=contests(), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_budgets_nest(contest, shares):
    scores, sizes, among, arbiter = contest
    there = sum(candidates_in(sizes, among).values())
    small, large = (
        reference.as_set(choose(scores, (Pool(tuple(sizes), round(share * there)),), arbiter, among))
        for share in sorted(shares)
    )
    assert small <= large


@settings(max_examples=100, deadline=None)
@given(contest=contests(tasks=(1,)), share=st.floats(0, 1))
def test_one_voter_is_plain_top_k_whatever_the_arbiter(contest, share):
    scores, sizes, among, _ = contest
    keep = round(share * sum(candidates_in(sizes, among).values()))
    budget = (Pool(tuple(sizes), keep),)
    masks = [reference.as_set(choose(scores, budget, arbiter, among)) for arbiter in ARBITERS]
    weights = [(name, i) for name in sizes for i in range(sizes[name]) if allowed(among)(name, i)]
    top = set(sorted(weights, key=lambda w: -float(scores["t0"][w[0]][w[1]]))[:keep])
    assert masks == [top] * len(ARBITERS)


@settings(max_examples=50, deadline=None)
@given(contest=contests(arbiters=RANKED), power=st.sampled_from([0.5, 2.0]), scale=st.floats(0.25, 4))
def test_only_each_voters_order_matters(contest, power, scale):
    scores, sizes, among, arbiter = contest
    keep = sum(candidates_in(sizes, among).values()) // 2
    budget = (Pool(tuple(sizes), keep),)
    other = {v: {n: s.double().pow(power) * scale for n, s in of.items()} for v, of in scores.items()}
    assert reference.as_set(choose(scores, budget, arbiter, among)) == reference.as_set(
        choose(other, budget, arbiter, among)
    )


# ---- how tasks are weighed


@pytest.mark.parametrize(
    ("factors", "keep", "expected"),
    [  # standings of A, divided by 2: shared .5 1 2.5 3, a 1.5 2; of B: shared 6 5 1 4, b 2 3 (in sixths)
        ({"A": 2.0}, 1, {"shared": [1, 0, 0, 0], "a": [0, 0], "b": [0, 0]}),
        ({"A": 2.0}, 4, {"shared": [1, 1, 1, 0], "a": [1, 0], "b": [0, 0]}),
        ({"A": 2.0}, 6, {"shared": [1, 1, 1, 0], "a": [1, 1], "b": [1, 0]}),
        # A's are 24 30 36: it has a say when B has nothing left to want
        ({"A": 0.25}, 7, {"shared": [1, 1, 1, 1], "a": [1, 0], "b": [1, 1]}),
    ],
)
def test_weighted_by_hand(factors, keep, expected):
    assert kept(choose(HAND, (Pool(("shared", "a", "b"), keep),), weighted(factors))) == expected


@settings(max_examples=50, deadline=None)
@given(contest=contests(), share=st.floats(0, 1), factor=st.sampled_from([0.5, 1.0, 4.0]))
def test_equal_factors_are_unanimous(contest, share, factor):
    scores, sizes, among, _ = contest
    budget = (Pool(tuple(sizes), round(share * sum(candidates_in(sizes, among).values()))),)
    plain = choose(scores, budget, "unanimous", among)
    weighed = choose(scores, budget, weighted(dict.fromkeys(scores, factor)), among)
    assert reference.as_set(weighed) == reference.as_set(plain)


@pytest.mark.parametrize("factor", [0, -1, float("inf"), float("nan")])
def test_factors_are_above_zero(factor):
    with pytest.raises(ValueError, match="factor .* of voter 'A' is not above 0 and finite"):
        weighted({"A": factor})
    with pytest.raises(ValueError, match="factors divide rank fractions"):
        Arbiter(lambda owners: 1, share_fractions, {"A": 2.0})


@pytest.mark.parametrize(
    ("keep", "expected"),
    [  # A holds 0 9 17 24 26 27 of 27 before 9 8 7 2 1 0; B 0 9 17 24 27 29 of 30 before 9 8 7 3 2 1
        (2, {"shared": [1, 0, 1, 0], "a": [0, 0], "b": [0, 0]}),
        (3, {"shared": [1, 0, 1, 0], "a": [0, 0], "b": [1, 0]}),  # 9/30 is less than 9/27
        (5, {"shared": [1, 1, 1, 0], "a": [0, 0], "b": [1, 1]}),
        (7, {"shared": [1, 1, 1, 1], "a": [1, 0], "b": [1, 1]}),  # 24/30 before 24/27
    ],
)
def test_share_by_hand(keep, expected):
    assert kept(choose(HAND, (Pool(("shared", "a", "b"), keep),), "share")) == expected


def test_share_lifts_a_voter_whose_scores_are_spread_out():
    """A's need is in one weight, B's in all four alike: after one weight A has 97 %, B a quarter."""
    scores = {"A": {"a": t(97, 1, 1, 1)}, "B": {"b": t(1, 1, 1, 1)}}
    assert kept(choose(scores, (Pool(("a", "b"), 5),), "share")) == {"a": [1, 0, 0, 0], "b": [1, 1, 1, 1]}
    assert kept(choose(scores, (Pool(("a", "b"), 5),), "unanimous")) == {"a": [1, 1, 1, 0], "b": [1, 1, 0, 0]}


def test_share_tells_scores_apart_that_a_sum_would_swallow():
    scores = {"A": {"a": torch.tensor([1e-20, 1.0, 3e-20, 2e-20, 0.0])}}
    assert kept(choose(scores, (Pool(("a",), 3),), "share")) == {"a": [0, 1, 1, 1, 0]}


def test_share_refuses_signs():
    with pytest.raises(ValueError, match="shares need scores of at least 0"):
        choose({"A": {"a": t(1, -1)}}, (Pool(("a",), 1),), "share")


# ---- the published rule


def test_keep_ratio_by_hand():
    # int(6 * 0.5) = 3 each: A keeps scores >= 7, B >= 7 (inclusive: its two 8 and 7 and the 9)
    assert kept(keep_by_ratio(HAND, 0.5, "unanimous")) == {"shared": [1, 1, 1, 0], "a": [1, 0], "b": [1, 1]}
    assert kept(keep_by_ratio(HAND, 0.5, "intersection")) == {
        "shared": [0, 0, 0, 0],
        "a": [1, 0],
        "b": [1, 1],
    }
    assert kept(keep_by_ratio(HAND, 1.0, "intersection")) == {"shared": [1] * 4, "a": [1, 1], "b": [1, 1]}


def test_keep_ratio_keeps_ties_of_the_threshold():
    assert kept(keep_by_ratio({"A": {"a": t(2, 1, 1, 0)}}, 0.5, "unanimous")) == {"a": [1, 1, 1, 0]}


def test_keep_ratio_among():
    among = {"a": torch.tensor([False, True, True, True])}
    assert kept(keep_by_ratio({"A": {"a": t(9, 1, 2, 3)}}, 0.4, "unanimous", among)) == {"a": [0, 0, 0, 1]}


def test_keep_ratio_with_a_zero_threshold_says_what_to_do():
    with pytest.raises(ValueError, match="only 1 of 4 score above 0 .* use a keep ratio below 0.25"):
        keep_by_ratio({"A": {"a": t(2, 0, 0, 0)}}, 0.5, "unanimous")


@pytest.mark.parametrize("ratio", [0, -0.1, 1.1, "x", float("nan"), True])
def test_keep_ratio_is_checked(ratio):
    with pytest.raises(ValueError, match=f"keep ratio {ratio!r} is not a fraction"):
        keep_by_ratio({"A": {"a": t(1, 2)}}, ratio, "unanimous")


def test_keep_ratio_that_keeps_nothing():
    with pytest.raises(ValueError, match="0.2 leaves voter 'A' none of its 2 weights"):
        keep_by_ratio({"A": {"a": t(1, 2)}}, 0.2, "unanimous")


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
        ),
    ],
)
@pytest.mark.parametrize("size", [50, module.PLAIN])
@pytest.mark.parametrize("arbiter", ["unanimous", "intersection", "share"])
def test_a_pool_over_two_devices_is_decided_on_one(device, size, arbiter):
    draws = torch.Generator().manual_seed(0)
    scores = {task: {name: torch.rand(size, generator=draws) for name in "uv"} for task in "ab"}
    spread = {task: {"u": of["u"], "v": of["v"].to(device)} for task, of in scores.items()}
    budget = (Pool(("u", "v"), size // 3),)
    expected, found = (choose(of, budget, arbiter) for of in (scores, spread))
    assert (found["u"].device.type, found["v"].device.type) == ("cpu", device)
    assert kept({name: of.cpu() for name, of in found.items()}) == kept(expected)
    published = keep_by_ratio({"a": spread["a"]}, 0.3, arbiter)
    assert published["v"].device.type == device
