import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prune_utils import Pool, Schedule, certificate, choose, make_plan, sparsify, verify
from prune_utils.bracket import Contest
from prune_utils.choosing import choose_by_sorting
from prune_utils.gradual import Pace
from prune_utils.granularity import Grain, check_parts, find_granularity, whole_units
from prune_utils.masks import apply
from prune_utils.methods import METHODS
from prune_utils.multiply_adds import weight_uses
from prune_utils.plan import Settings
from prune_utils.ratios import fixed_ratio
from prune_utils.roles import BILINEAR, TRANSPOSED, Shape

NAMES = ("weight", "kernel", "block:4x1", "block:2x2", "2:4", "1:4", "3:4", "fanin")


def grain(name, **more):
    return Grain(find_granularity(name), **more)


def rows(mask, name="w"):
    return mask[name].int().flatten(1).tolist()


# ---------------------------------------------------------------- parts
def test_parts_by_hand():
    weight = torch.arange(32.0).reshape(4, 4, 1, 2)  # outputs, inputs, 1 x 2 kernels
    kernels = find_granularity("kernel").parts(weight)
    assert kernels.shape == (4, 4, 2) and kernels[1, 2].tolist() == [12, 13]
    four = find_granularity("2:4").parts(weight)  # inputs 0..3 at one output and position
    assert four.shape == (4, 1, 2, 4) and four[1, 0, 1].tolist() == [9, 11, 13, 15]
    tall = find_granularity("block:4x1").parts(weight)  # outputs 0..3 at one input and position
    assert tall.shape == (1, 4, 2, 4) and tall[0, 2, 1].tolist() == [5, 13, 21, 29]
    square = find_granularity("block:2x2").parts(weight)
    assert square.shape == (2, 2, 2, 4) and square[1, 0, 0].tolist() == [16, 18, 24, 26]
    assert find_granularity("fanin").parts(weight)[3].tolist() == list(range(24, 32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (4, 8), (4, 4, 5)])
def test_parts_are_a_partition(name, shape):
    weight, of = torch.arange(torch.tensor(shape).prod()).reshape(shape), find_granularity(name)
    parts = of.parts(weight)
    assert parts.shape[-1] == of.size(shape) and parts.numel() == weight.numel()
    assert torch.equal(of.joined(parts, shape), weight)


def test_a_granularity_divides_what_it_fits():
    two = find_granularity("2:4")
    assert not two.divides((64, 3, 7, 7)) and two.divides((64, 4)) and not two.divides((64,))
    assert not two.divides(Shape((64, 64, 3, 3), TRANSPOSED))  # its inputs stand first
    assert not find_granularity("block:4x1").divides((6, 8)) and find_granularity("block:2x1").divides((6, 8))
    assert find_granularity("kernel").divides(Shape((64, 3, 3, 3), TRANSPOSED))
    assert find_granularity("kernel").divides(Shape((64, 3, 3), TRANSPOSED))
    assert not find_granularity("kernel").divides(Shape((4, 6, 6), BILINEAR))


@pytest.mark.parametrize("name", ["", "4:2", "2:2", "0:4", "block:1x1", "block:4", "kernels", "N:M", "2:4:8"])
def test_an_unknown_granularity_names_the_choices(name):
    with pytest.raises(ValueError, match="is not one of weight, 2:4, fanin, kernel, block:4x1"):
        find_granularity(name)
    assert fixed_ratio(name) is None


def test_a_granularity_that_is_no_name_names_the_choices():
    with pytest.raises(ValueError, match="block:4x1.* is not one of weight, 2:4"):
        find_granularity(["block:4x1"])


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("block:4x1", (3, 5), r"\(3, 5\) weights, which blocks of 4 x 1 do not divide"),
        ("block:4x1", (8,), r"\(8,\) weights, which blocks of 4 x 1 do not divide"),
        ("block:4x1", (), r"\(\) weights, which blocks of 4 x 1 do not divide"),
        ("2:4", (8,), r"\(8,\) weights, whose inputs are no multiple of 4"),
        ("fanin", (8,), r"\(8,\) weights, which have no inputs"),
        ("fanin", (), r"\(\) weights, which have no inputs"),
        ("block:4x1", (0, 4), "has no weights"),
        ("fanin", (3, 0), "has no weights"),
        ("2:4", (0, 4), "has no weights"),
        ("kernel", (2, 2, 0), "has no weights"),
    ],
)
def test_a_mask_that_a_granularity_does_not_divide_is_refused(name, shape, says):
    mask = {"w": torch.ones(shape, dtype=torch.bool)}
    with pytest.raises(ValueError, match=f"not of granularity {name}: layer 'w' .*{says}"):
        check_parts(find_granularity(name), mask)


def test_what_a_pattern_removes():
    assert [fixed_ratio(name) for name in ("2:4", "1:4", "1:8", "kernel")] == [50, 75, 87.5, None]


# ---------------------------------------------------------------- choosing
def test_kernels_by_hand():
    # sums of A: 3 9 | 8 1, ranks 3 1 | 2 4; of B: 7 0 | 2 5, ranks 1 4 | 3 2
    one = torch.tensor([[[1.0, 2], [0, 9]], [[4, 4], [1, 0]]])
    other = torch.tensor([[[7.0, 0], [0, 0]], [[1, 1], [0, 5]]])
    scores = {"A": {"w": one}, "B": {"w": other}}

    def kept(keep, arbiter):
        return rows(choose(scores, (Pool(("w",), keep),), arbiter, grain=grain("kernel")))

    assert kept(4, "unanimous") == [[1, 1, 1, 1], [0, 0, 0, 0]]  # best ranks 1 1 | 2 2
    assert kept(5, "unanimous") == kept(4, "unanimous")  # 5 weights pay for 2 kernels
    assert kept(4, "intersection") == [[1, 1, 0, 0], [1, 1, 0, 0]]  # worst ranks 3 4 | 3 4


def test_two_of_four_by_hand():
    # ranks of A: 1 2 7 8 | 3 4 5 6, of B: 8 7 2 1 | 6 5 4 3; the best of both: 1 2 2 1 | 3 4 4 3
    one = torch.tensor([[9.0, 8, 1, 0, 7, 6, 5, 4]])
    other = torch.tensor([[0.0, 0.5, 8, 9, 1, 2, 3, 4]])
    half = (Pool(("w",), 4),)
    alone = choose({"A": {"w": one}}, half, "unanimous", grain=grain("2:4"))
    assert rows(alone) == [[1, 1, 0, 0, 1, 1, 0, 0]]
    both = choose({"A": {"w": one}, "B": {"w": other}}, half, "unanimous", grain=grain("2:4"))
    assert rows(both) == [[1, 0, 0, 1, 1, 0, 0, 1]]
    # the later vote is that of a task to which these neighbours matter more than its own elsewhere
    third = torch.tensor([[0.0, 0, 0, 0, 9, 8, 0, 0]])
    heard = choose({"B": {"w": other}, "C": {"w": third}}, half, "unanimous", grain=grain("2:4"))
    assert rows(heard) == [[0, 0, 1, 1, 1, 1, 0, 0]]


def test_multiply_adds_by_hand():
    scores = {"A": {"x": torch.tensor([6.0, 4, 2]), "y": torch.tensor([5.0, 3, 1])}}  # x y x y x y

    def kept(budget):
        mask = choose(
            scores,
            (Pool(("x", "y"), budget),),
            "unanimous",
            grain=grain("weight", uses={"x": 5, "y": 1}),
        )
        return [mask[name].int().tolist() for name in "xy"]

    assert kept(11) == [[1, 1, 0], [1, 0, 0]]
    assert kept(12) == [[1, 1, 0], [1, 1, 0]]
    assert kept(10) == [[1, 0, 0], [1, 0, 0]]  # the next costs 5 and 4 are left: nobody jumps the queue
    assert kept(18) == [[1, 1, 1], [1, 1, 1]] and kept(0) == [[0, 0, 0], [0, 0, 0]]


def test_equal_costs_are_counted_however_the_pool_is_decided():
    generator = torch.Generator().manual_seed(3)
    scores = {name: {"w": torch.rand(700, 600, generator=generator)} for name in "ab"}
    pool = (Pool(("w",), 7 * 21_000 + 5),)
    mask = choose(scores, pool, "unanimous", grain=grain("weight", uses={"w": 7}))  # by bracket
    contest = Contest(scores, {"w": torch.empty(700, 600)}, pool[0].keep, "unanimous")
    assert torch.equal(mask["w"], choose_by_sorting(contest, {"w": 7})["w"])
    assert int(mask["w"].sum()) == 21_000


def test_weights_nobody_owns_come_last_in_whole_units():
    among = {"w": torch.ones(2, 2, 2, dtype=torch.bool), "u": torch.ones(2, 2, 2, dtype=torch.bool)}
    mask = choose(
        {"A": {"w": torch.ones(2, 2, 2)}}, (Pool(("w", "u"), 11),), "unanimous", among, grain("kernel")
    )
    assert mask["w"].all() and rows(mask, "u") == [[1, 1, 0, 0], [0, 0, 0, 0]]
    with pytest.raises(ValueError, match="17 weights asked of pool w ... u, which has 16 candidates"):
        choose(
            {"A": {"w": torch.ones(2, 2, 2)}}, (Pool(("w", "u"), 17),), "unanimous", among, grain("kernel")
        )


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([(1, 2), (2, 4), (3, 4), (1, 4), (3, 8)]),
    st.integers(0, 99),
    st.sampled_from(["unanimous", "majority", "intersection"]),
)
def test_every_group_keeps_its_number(outputs, groups, pattern, seed, arbiter):
    generator = torch.Generator().manual_seed(seed)
    keep, of = pattern
    shapes = {"conv": (outputs, groups * of, 2, 1), "linear": (outputs, of)}
    scores = {
        voter: {name: torch.randint(3, shape, generator=generator).float() for name, shape in shapes.items()}
        for voter in "abc"
    }
    total = sum(torch.tensor(shape).prod().item() for shape in shapes.values())
    ours = grain(f"{keep}:{of}")
    mask = choose(scores, (Pool(tuple(shapes), total * keep // of),), arbiter, grain=ours)
    for name, kept in mask.items():
        assert kept.shape == shapes[name] and (ours.granularity.parts(kept).sum(-1) == keep).all()
    check_parts(ours.granularity, mask)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 8), st.integers(0, 72)), min_size=1, max_size=5))
def test_budgets_in_whole_units_lose_less_than_one(layers):
    costs = {str(place): cost for place, (cost, _, _) in enumerate(layers)}
    budget = tuple(
        Pool((str(place),), min(keep, cost * units)) for place, (cost, units, keep) in enumerate(layers)
    )
    whole = whole_units(budget, costs)
    lost = sum(pool.keep for pool in budget) - sum(pool.keep for pool in whole)
    short = [costs[a.names[0]] for a, b in zip(budget, whole, strict=True) if b.keep < a.keep]
    assert 0 <= lost < min(short, default=1)
    for place, pool in enumerate(whole):
        cost, units, _ = layers[place]
        assert pool.keep % cost == 0 and pool.keep <= cost * units


# ---------------------------------------------------------------- whole networks
@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_each_granularity_is_what_it_says(tiny, name):
    case = tiny("a", "b", "c")
    ratio = fixed_ratio(name)
    more = {"ratio": 60, "budget": "uniform" if name == "fanin" else None} if ratio is None else {}
    sparsity = sparsify(case.model, case.losses, case.batches, granularity=name, **more)
    proof = sparsity.certificate
    check_parts(find_granularity(name), sparsity.mask)
    assert sparsity.verify()["kept"] == proof["kept"]
    unit = find_granularity(name).size((4, 4, 3, 3)) if find_granularity(name).whole else 4
    assert 0 <= proof["asked_keep"] - proof["kept"] < unit
    assert ("units" in proof) == (name != "weight")
    dense = {parameter.removesuffix(".weight") for parameter in case.owners} - set(proof["layers"])
    left = proof["of_all"]["left_out"].get(f"left dense, not divided by granularity {name}", {})
    assert {each.removesuffix(".weight") for each in left} == dense


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.both, self.last = nn.Linear(6, 6), nn.Bilinear(6, 6, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.both(self.first(x), x))


def test_rows_of_a_bilinear_weight_are_no_kernels():
    losses = {"a": lambda out, true: out[:, 0].mean(), "b": lambda out, true: out[:, 1].square().mean()}
    net = Product()
    sparsity = sparsify(net, losses, [(torch.randn(5, 6), None)], 50, granularity="kernel")
    assert list(sparsity.mask) == ["first.weight", "last.weight"] and sparsity.verify()["kept"] == 22
    assert sparsity.certificate["of_all"]["left_out"]["left dense, not divided by granularity kernel"] == {
        "both.weight": 144
    }
    assert net.both.weight.all()


def test_weight_is_what_it_was(tiny):
    masks = []
    for more in ({}, {"granularity": "weight", "ratio_of": "params"}):
        case = tiny("a", "b")
        masks.append(sparsify(case.model, case.losses, case.batches, ratio=77, **more).mask)
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


@pytest.mark.parametrize("name", ["weight", "kernel", "block:2x1"])
def test_a_ratio_of_multiply_adds_is_met_to_one_unit(tiny, name):
    case = tiny("a", "b")
    sparsity = sparsify(
        case.model, case.losses, case.batches, ratio=70, granularity=name, ratio_of="macs", floor=0.0
    )
    proof = sparsity.certificate
    used = weight_uses(case.model, case.batches[0])
    assert proof["macs"]["kept"] == sum(
        used[layer] * int(kept.sum()) for layer, kept in sparsity.mask.items()
    )
    dearest = max(
        grain(name, uses=used).unit_cost(layer, kept.shape) for layer, kept in sparsity.mask.items()
    )
    assert 0 <= proof["asked_keep"] - proof["macs"]["kept"] < dearest


def test_floors_are_met_in_whole_units(tiny):
    case = tiny("a", "b")
    sparsity = sparsify(case.model, case.losses, case.batches, ratio=80, granularity="kernel", floor=0.5)
    for name, kept in sparsity.mask.items():
        assert int(kept.sum()) >= 0.5 * 0.2 * kept.numel(), name


@pytest.mark.parametrize(("name", "more"), [("2:4", {}), ("kernel", {"ratio": 70})])
def test_rounds_in_training_keep_the_granularity(tiny, name, more):
    case = tiny("a", "b")
    rounds = sparsify(
        case.model, case.losses, case.batches, method="imp", rounds=3, every=1, granularity=name, **more
    )
    for step in (1, 2):
        rounds.after_step(step, None)
        rounds.certificate  # noqa: B018  of a mask between the rounds
    check_parts(find_granularity(name), rounds.mask)
    assert rounds.verify()["kept"] == rounds.certificate["kept"]


def trained(case, sparsity, steps):
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    sparsity.attach(optimizer)
    for step in range(steps):
        sparsity.batch = image, targets = case.batches[step % 2]
        optimizer.zero_grad()
        sum(loss(case.model(image), targets) for loss in case.losses.values()).backward()
        optimizer.step()
        yield sparsity.mask


@pytest.mark.parametrize("name", ["kernel", "block:2x1"])
def test_regrowth_moves_units_and_keeps_every_count(tiny, name):
    case = tiny("a", "b")
    sparsity = sparsify(
        case.model,
        case.losses,
        case.batches,
        ratio=60,
        method="disparse_dynamic",
        granularity=name,
        schedule=Schedule(until=8, every=1),
    )
    first = sparsity.mask
    for mask in trained(case, sparsity, 3):
        check_parts(find_granularity(name), mask)
        assert {layer: int(kept.sum()) for layer, kept in mask.items()} == {
            layer: int(kept.sum()) for layer, kept in first.items()
        }
    assert any(not torch.equal(first[layer], kept) for layer, kept in mask.items())


@pytest.mark.parametrize(("name", "more"), [("2:4", {}), ("kernel", {"ratio": 60})])
def test_gradual_methods_end_in_the_granularity(tiny, name, more):
    case = tiny("a", "b")
    pace = Pace(start=1, end=3, every=1)
    sparsity = sparsify(
        case.model,
        case.losses,
        case.batches,
        method="disparse_gmp",
        granularity=name,
        schedule=pace,
        floor=0,
        **more,
    )
    *_, last = trained(case, sparsity, 3)
    check_parts(find_granularity(name), last)
    assert sparsity.verify()["kept"] == sparsity.certificate["kept"]


def test_shuffling_shuffles_units(tiny):
    case, other = tiny("a", "b"), tiny("a", "b")
    plain = sparsify(case.model, case.losses, case.batches, ratio=60, granularity="kernel").mask
    mixed = sparsify(
        other.model, other.losses, other.batches, ratio=60, granularity="kernel", shuffle=True
    ).mask
    check_parts(find_granularity("kernel"), mixed)
    assert {n: int(of.sum()) for n, of in plain.items()} == {n: int(of.sum()) for n, of in mixed.items()}
    assert any(not torch.equal(plain[name], mixed[name]) for name in plain)


@pytest.mark.parametrize(
    ("name", "flaw"),
    [
        ("2:4", "keeps another number than 2 in 1 groups of 4"),
        ("kernel", "keeps only a part of 1 of its kernels"),
        ("fanin", "has neurons of 11 and of 10 inputs"),
    ],
)
def test_a_claimed_granularity_is_looked_at(tiny, name, flaw):
    case = tiny("a", "b")
    more = {"ratio": 70, "budget": "uniform" if name == "fanin" else None} if name != "2:4" else {}
    sparsity = sparsify(case.model, case.losses, case.batches, granularity=name, **more)
    mask = sparsity.mask
    kept = mask["trunk.weight"].reshape(-1)
    kept[kept.nonzero()[0]] = False
    apply(case.model, mask)
    forged = certificate(mask, case.owners, sparsity.asked, case.model)
    with pytest.raises(ValueError, match="layer 'trunk.weight'") as said:
        verify(case.model, mask, forged)
    if name != "fanin":
        assert flaw in str(said.value)


def planned(method="disparse_static", **asked):
    usual = dict(
        ratio=50, keep_ratio=None, criterion=None, pt_criterion="magnitude", budget=None, arbiter="unanimous",
        scope="all", protect=(), rounds=None, shuffle=False, score_init="own", floor=0.0,
    )  # fmt: skip
    return make_plan(METHODS[method], Settings(**(usual | asked)))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"granularity": "2:4", "ratio": 90}, "removes exactly 50 %: ratio 50, not 90"),
        ({"granularity": "2:4", "budget": "erk"}, "keeps the same share everywhere, not budget 'erk'"),
        ({"granularity": "2:4", "ratio_of": "macs"}, "fixes the share of every layer"),
        ({"granularity": "2:4", "shuffle": True}, "shuffle breaks granularity 2:4"),
        ({"granularity": "fanin"}, "choose budget 'erk' or 'uniform'"),
        (
            {"granularity": "kernel", "keep_ratio": 0.1},
            "counts weights one by one, not for granularity kernel",
        ),
        ({"ratio_of": "macs", "budget": "erk"}, "choose budget 'global'"),
        ({"ratio_of": "flops"}, "ratio_of 'flops' is not one of macs, params"),
        ({"granularity": "kernel", "method": "top_kast"}, "method top_kast ranks weights one by one"),
        ({"granularity": "2:4", "method": "granet"}, "method granet moves weights one by one"),
        ({"granularity": "2:4", "method": "rigl"}, "or a method that does not regrow"),
        ({"granularity": "fanin", "method": "granet", "budget": "erk"}, "or a method that does not regrow"),
    ],
)
def test_what_makes_no_sense_is_refused(asked, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        planned(**asked)


def test_a_network_that_nothing_divides_is_refused(tiny):
    case = tiny("a", "b")
    with pytest.raises(ValueError, match="granularity 7:64 divides no layer"):
        sparsify(case.model, case.losses, case.batches, granularity="7:64")
    with pytest.raises(ValueError, match="fewer than the 18 output neurons"):
        sparsify(case.model, case.losses, case.batches, ratio=95, granularity="fanin", budget="erk", floor=0)


# ---------------------------------------------------------------- multiply-adds
def test_multiply_adds_of_layers_by_hand():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
            self.up = nn.ConvTranspose2d(4, 1, 2, stride=2)
            self.twice = nn.Linear(6, 6)
            self.unused = nn.Linear(2, 2)

        def forward(self, image):
            return self.twice(self.twice(self.up(self.down(image))))

    net = Net().train()
    found = weight_uses(net, (torch.zeros(1, 2, 6, 6), None))
    assert found == {"down.weight": 9, "up.weight": 9, "twice.weight": 12} and net.training
    # 4 x 4 kernels of 3 x 3 taps read 2 / 2 inputs each: 9 positions x 36 weights
    assert found["down.weight"] * net.down.weight.numel() == 9 * 4 * 1 * 9


def test_a_ratio_of_multiply_adds_needs_them():
    with pytest.raises(ValueError, match="the multiply-adds of '0.weight_ih_l0' are not known"):
        net = nn.Sequential(nn.LSTM(4, 4))
        losses = {"a": lambda out, targets: out[0].square().mean()}
        sparsify(net, losses, [(torch.randn(3, 1, 4), None)], ratio=50, ratio_of="macs")
