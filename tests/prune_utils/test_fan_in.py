from dataclasses import replace

import pytest
import torch
from torch import nn

from prune_utils import (
    METHODS,
    Electorate,
    FanInRegrowth,
    Grain,
    Growth,
    Regrowth,
    Schedule,
    Voter,
    find_granularity,
    make_mask,
    make_plan,
    make_sparsifier,
    prunable,
    score,
    sparsify,
    task_voters,
)
from prune_utils.granularity import check_parts

from .test_courses import course
from .test_masked import OPTIMIZERS, train
from .test_prune import Settings

FANIN = Grain(find_granularity("fanin"))


class Layer(nn.Module):
    """c (W x) for 3 neurons of 4 inputs, so that dL/dW[i, j] = c[i] x[j]."""

    def __init__(self, rows):
        super().__init__()
        self.layer = nn.Linear(4, len(rows), bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor(rows))

    def forward(self, batch):
        x, c = batch
        return (c * self.layer(x)).sum()


def moved(rows, salient=0.3, kept=None):
    """(model, optimizer, regrowth), which drops half at each update; kept: None = what is not 0."""
    model = Layer(rows)
    mask = {"layer.weight": model.layer.weight.detach() != 0 if kept is None else torch.tensor(kept).bool()}
    optimizer = torch.optim.Adam(model.parameters())
    voter = Voter("a", lambda out, targets: out, frozenset(mask))
    growth = Growth((voter,), grain=FANIN, salient=salient)
    return model, optimizer, FanInRegrowth(model, mask, optimizer, Schedule(10**9, 1), growth)


def shown(regrowth):
    return ["".join(str(int(bit)) for bit in row) for row in regrowth.mask["layer.weight"]]


def batch(x, c):
    return (torch.tensor(x), torch.tensor(c)), None


ROWS = [[5.0, 4.0, 0.0, 0.0], [3.0, 2.0, 0.0, 0.0], [0.1, 0.2, 0.0, 0.0]]


def test_by_hand_a_neuron_is_ablated_and_comes_back():
    model, optimizer, regrowth = moved(ROWS)
    weight = model.layer.weight
    model(batch([1.0, 1, 2, 3], [1.0, 0.5, 0.1])[0]).backward()
    optimizer.state[weight] = {key: torch.ones_like(weight) for key in ("exp_avg", "exp_avg_sq")}
    # 3 of 6 stay by size: 5 4 | 3 | -; 3 grow by |c x| of the zeros: 3 2 | 1.5 (of 1 1.5) | - (.2 .3)
    # salient are 4, 2 and 0 weights, and 0.3 of a fan-in of 2 is 0.6: the third goes, 6 / 2 = 3 for each
    figures = regrowth.after_step(1, batch([1.0, 1, 2, 3], [1.0, 0.5, 0.1]))
    assert shown(regrowth) == ["1101", "1011", "0000"]
    assert weight.tolist() == [[5, 4, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0]]
    assert (optimizer.state[weight]["exp_avg"] != 0).int().tolist() == [
        [1, 1, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    assert figures == {
        "density": 0.5,
        "drop_fraction": pytest.approx(0.5),
        "dropped": 3.0,
        "replaced_share": 3 / 6,
        "ablated": 1.0,
    }
    # now the third is wanted: its 15 10 5 are the largest of the zeros, the three have 2 each again
    regrowth.after_step(2, batch([1.0, 1, 2, 3], [0.1, 0.1, 5.0]))
    assert shown(regrowth) == ["1100", "1001", "0011"]
    assert regrowth.ablated == 0 and weight.count_nonzero() == 3


def test_what_does_not_divide_is_left_over_and_no_more_is_lost_later():
    rows = [[5.0, 4, 0, 0], [3, 2.5, 0, 0], [2, 2.2, 0, 0], [0.1, 0.2, 0, 0]]
    model, _, regrowth = moved(rows)
    for step in (1, 2):
        regrowth.after_step(step, batch([1.0, 1, 2, 3], [1.0, 1.0, 4.0, 0.1]))
        # 8 weights for three neurons: 2 each, 2 left over; the next update starts from 8 again
        assert regrowth.mask["layer.weight"].sum(1).tolist() == [2, 2, 2, 0]
        with torch.no_grad():  # what has grown is trained
            model.layer.weight.copy_(
                regrowth.mask["layer.weight"] * torch.tensor([[5.0], [4.0], [3.0], [0.0]])
            )
    regrowth.after_step(3, batch([1.0, 1, 2, 3], [0.1, 0.1, 0.1, 9.0]))
    assert regrowth.mask["layer.weight"].any(1).tolist()[3]
    neurons = int(regrowth.mask["layer.weight"].any(1).sum())
    assert int(regrowth.mask["layer.weight"].sum()) == neurons * (8 // neurons)


def test_a_neuron_that_has_more_than_the_new_fan_in_keeps_its_largest():
    # salient are 6 5 4 of the first, 15 of the second, 27 18 of the third, which comes back: 2 each
    _, _, regrowth = moved(
        [[5.0, 4.0, 6.0, 0], [0.3, 0.2, 0.1, 0], [0, 0, 0, 0]], kept=[[1, 1, 1, 0], [1, 1, 1, 0], [0] * 4]
    )
    regrowth.after_step(1, batch([1.0, 1, 2, 3], [1.0, 5.0, 9.0]))
    assert shown(regrowth)[0] == "1010" and regrowth.mask["layer.weight"].sum(1).tolist() == [2, 2, 2]


def test_as_many_neurons_stay_as_hold_the_budget():
    # of 9 weights in 3 neurons nobody can be spared; of 6 one, the last of those with one salient weight
    model, _, regrowth = moved([[5.0, 4.0, 3.0, 0], [0.1] * 3 + [0], [0.2] * 3 + [0]], salient=1.0)
    regrowth.after_step(1, batch([1.0, 1, 2, 3], [5.0, 0.0, 0.0]))
    assert regrowth.ablated == 0 and regrowth.mask["layer.weight"].sum(1).tolist() == [3, 3, 3]
    model, _, regrowth = moved([[5.0, 4.0, 0, 0], [0.1] * 2 + [0] * 2, [0.2] * 2 + [0] * 2], salient=1.0)
    regrowth.after_step(1, batch([1.0, 1, 2, 3], [5.0, 0.0, 0.0]))
    assert regrowth.mask["layer.weight"].sum(1).tolist() == [3, 3, 0]


def test_without_a_share_nobody_is_ablated():
    _, _, regrowth = moved(ROWS, salient=0.0)
    figures = regrowth.after_step(1, batch([1.0, 1, 2, 3], [1.0, 0.5, 0.1]))
    assert shown(regrowth) == ["1100", "1001", "0011"] and figures["ablated"] == 0


def obvious(kept, magnitude, wish, budget, drop, salient):
    """One layer's next mask, rows as lists, by loops; wish: a joint score."""
    places = [(i, j) for i in range(len(kept)) for j in range(len(kept[0]))]
    active = [place for place in places if kept[place[0]][place[1]]]
    by = lambda table: lambda place: (-table[place[0]][place[1]], place)  # noqa: E731
    strong = set(sorted(active, key=by(magnitude))[: len(active) - drop])
    wanted = set(sorted((p for p in places if p not in active), key=by(wish))[:drop])
    many = [sum(place[0] == row for place in strong | wanted) for row in range(len(kept))]
    fan_in = len(active) / sum(map(any, kept))
    best = sorted(range(len(kept)), key=lambda row: (-many[row], row))
    left = {row for row in best if many[row] >= salient * fan_in} | set(best[: -(-budget // len(kept[0]))])
    each = budget // len(left)
    staying = sorted((p for p in active if p[0] in left), key=by(magnitude))[: len(active) - drop]
    result = set()
    for row in left:
        mine = [place for place in staying if place[0] == row][:each]
        rest = sorted((p for p in places if p[0] == row and p not in mine), key=by(wish))
        result |= {*mine, *rest[: each - len(mine)]}
    return result


@pytest.mark.parametrize("salient", [0.0, 0.3, 0.6, 0.9])
def test_every_update_equals_the_obvious_reference(tiny, salient):
    net = tiny("a", "b")
    net.model.drop.p = 0.0
    optimizer = OPTIMIZERS["sgd"](net.model.parameters())
    electorate = Electorate(net.losses, net.weights, net.owners)
    plan = make_plan(METHODS["srigl"], Settings(ratio=60))
    mask = make_mask(net.model, plan, electorate, [])
    voters = electorate.voters("joint")
    growth = Growth(voters, grain=plan.grain, salient=salient)
    regrowth = FanInRegrowth(net.model, mask, optimizer, Schedule(10, 1, 0.8), growth)
    ablated = 0
    for step in range(1, 9):
        before = {name: regrowth.mask[name].flatten(1) for name in mask}
        sizes = {name: weight.detach().abs().flatten(1) for name, weight in prunable(net.model).items()}
        (wishes,) = score(net.model, voters, [(step, net.batches[0])], "gradient", seed=step).values()
        regrowth.after_step(step, net.batches[0])
        ablated += regrowth.ablated
        for name, first in mask.items():
            active = int(before[name].sum())
            drop = min(int(regrowth.schedule.drop_fraction(step) * active), before[name].numel() - active)
            if drop:
                expected = obvious(
                    before[name].tolist(),
                    sizes[name].tolist(),
                    wishes[name].flatten(1).tolist(),
                    int(first.sum()),
                    drop,
                    salient,
                )
                assert set(map(tuple, regrowth.mask[name].flatten(1).nonzero().tolist())) == expected
        with torch.no_grad():  # what has grown gets values of many sizes
            for number, weight in enumerate(prunable(net.model).values()):
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(step + number)))
        regrowth.zero_pruned()
    assert bool(ablated) == (salient > 0)


@pytest.mark.parametrize(
    ("name", "drop"), [("srigl", "magnitude"), ("disparse_dynamic", "snip"), ("set", "magnitude")]
)
def test_a_run_keeps_the_fan_in_of_every_layer(tiny, name, drop):
    net = tiny("a", "b", "c")
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    asked = {} if name == "srigl" else {"granularity": "fanin"}
    made = course(net, name, optimizer, ratio=70, **asked)
    sparsifier = make_sparsifier(replace(made, dynamic=replace(made.dynamic, drop=drop)))
    assert isinstance(sparsifier, FanInRegrowth)
    first, seen = sparsifier.mask, []
    for _, figures in train(net, sparsifier, optimizer, 9):
        now = sparsifier.mask
        check_parts(find_granularity("fanin"), now)
        assert all(sparsifier.may_hold(now[layer], first[layer]) for layer in now)
        seen.append(bool(figures))
        for layer, weight in prunable(net.model).items():
            assert not weight[~now[layer]].any()
    assert sum(seen) == 3 and any(not torch.equal(first[layer], now[layer]) for layer in now)


def test_what_a_run_may_hold():
    _, _, regrowth = moved(ROWS)
    first = regrowth.mask["layer.weight"]
    hold = lambda rows: regrowth.may_hold(torch.tensor(rows).bool(), first)  # noqa: E731
    assert hold([[1, 1, 0, 0]] * 3) and hold([[0, 1, 1, 1], [0] * 4, [1, 1, 1, 0]])
    assert (
        not hold([[1, 0, 0, 0]] * 3)
        and not hold([[0] * 4] * 3)
        and not hold([[1, 1, 0, 0], [1] * 4, [0] * 4])
    )


def test_a_resumed_run_is_the_same_run(tiny, tmp_path):
    def start():
        net = tiny("a", "b")
        net.model.drop.p = 0.0
        optimizer = OPTIMIZERS["adam"](net.model.parameters())
        return net, optimizer, make_sparsifier(course(net, "srigl", optimizer, ratio=70))

    net, optimizer, sparsifier = start()
    for step, _ in train(net, sparsifier, optimizer, 9):
        if step == 4:
            parts = {"model": net.model, "optimizer": optimizer, "sparsifier": sparsifier}
            torch.save({name: part.state_dict() for name, part in parts.items()}, tmp_path / "state.pth")
    other, other_optimizer, resumed = start()
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    other.model.load_state_dict(state["model"])
    other_optimizer.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["sparsifier"])
    for _ in train(other, resumed, other_optimizer, 9, first=5):
        pass
    assert all(torch.equal(resumed.mask[name], kept) for name, kept in sparsifier.mask.items())
    for name, value in net.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value), name


def test_in_one_call(tiny):
    case = tiny("a", "b")
    sparsity = sparsify(
        case.model, case.losses, case.batches, 60, method="srigl", schedule=Schedule(until=4, every=1)
    )
    assert isinstance(sparsity, FanInRegrowth)
    assert sparsity.certificate["asked"]["granularity"] == "fanin"
    assert sparsity.certificate["units"] == {"granularity": "fanin", "kept": 18, "total": 18}


def test_a_norm_of_the_weights_ablates_nobody():
    model = Layer(ROWS)
    nn.utils.parametrizations.weight_norm(model.layer)
    (name,) = (name for name in prunable(model) if name.startswith("layer"))
    mask = {name: prunable(model)[name].detach() != 0}
    voter = Voter("a", lambda out, targets: out, frozenset(mask))
    optimizer = torch.optim.Adam(model.parameters())
    growth = Growth((voter,), grain=FANIN, salient=1.0)
    regrowth = FanInRegrowth(model, mask, optimizer, Schedule(10**9, 1), growth)
    regrowth.after_step(1, batch([1.0, 1, 2, 3], [1.0, 0.5, 0.1]))
    assert regrowth.mask[name].sum(1).tolist() == [2, 2, 2]


def test_refused():
    row = METHODS["srigl"]
    with pytest.raises(ValueError, match="method srigl is of granularity 'fanin', not 'kernel'"):
        make_plan(row, Settings(ratio=50, granularity="kernel"))
    with pytest.raises(ValueError, match="choose budget 'erk' or 'uniform'"):
        make_plan(row, Settings(ratio=50, budget="global"))
    with pytest.raises(ValueError, match=r"growth salient 1.5 is not a share between 0 and 1"):
        Growth((), salient=1.5)
    model, optimizer, _ = moved(ROWS)
    mask = {"layer.weight": torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()}
    growth = Growth(
        task_voters({"a": lambda out, targets: out}, {"layer.weight": frozenset("a")}), grain=FANIN
    )
    regrowth = Regrowth(model, mask, optimizer, Schedule(9, 1), growth)
    with pytest.raises(ValueError, match="granularity fanin keeps parts full"):
        regrowth.after_step(1, batch([1.0, 1, 2, 3], [1.0, 0.5, 0.1]))
