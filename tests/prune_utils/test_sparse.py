"""One call against the calls that it is made of, and what it refuses."""

import copy

import pytest
import torch
from torch import nn

import prune_utils as pu

from .test_attaching import KINDS, loss_of, raises


def chain(net, ratio, floor=0.0, budget=pu.global_budget):
    """What `sparsify` does, by hand."""
    owners = pu.owners_from_graph(net.model, net.losses, *net.batches)
    scores = pu.score(net.model, pu.task_voters(net.losses, owners), enumerate(net.batches), "snip")
    shapes = {name: weight.shape for name, weight in pu.prunable(net.model).items()}
    keep = pu.keep_count(sum(shape.numel() for shape in shapes.values()), ratio)
    return pu.choose(scores, budget(shapes, keep), "unanimous"), owners


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_one_call_is_the_calls_that_it_is_made_of(tiny):
    net = tiny("a", "b", "c")
    mask, owners = chain(net, 70)
    before = copy.deepcopy(net.model.state_dict())
    sparsity = pu.sparsify(net.model, net.losses, net.batches, ratio=70, floor=0)
    assert same(sparsity.mask, mask)
    assert {name: frozenset(tasks) for name, tasks in sparsity.owners.items()} == dict(owners)
    cert = sparsity.certificate
    total = pu.size(mask)
    assert (cert["kept"], cert["asked_keep"], cert["total"]) == (
        round(0.3 * total),
        round(0.3 * total),
        total,
    )
    assert cert["asked"]["method"] == "disparse_static" and cert["asked"]["batches"] == 2
    for name, value in net.model.state_dict().items():
        expected = before[name] * mask[name] if name in mask else before[name]
        assert torch.equal(value, expected)
    assert sparsity.verify()["kept"] == cert["kept"]


@pytest.mark.parametrize("ratio", [50, 90, 96.5])
@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, row in pu.METHODS.items()
        if row.course in ("hold", "regrow") and row.granularity == "weight"
    ),
)
def test_every_method_is_exact_attached_and_saved(tiny, name, ratio, tmp_path):
    row = pu.method(name)
    more = {"schedule": pu.Schedule(6, 2)} if row.grow else {}
    more |= {"initial": tiny("a", "b").model.state_dict()} if row.start == "rewound" else {}
    more |= {"every": 1, "rounds": 3} if row.retrain else {}

    def start():
        net = tiny("a", "b")
        sparsity = pu.sparsify(net.model, net.losses, net.batches, ratio, name, seed=3, **more)
        optimizer = KINDS["adam"](net.model.parameters())
        return net, sparsity.attach(optimizer), optimizer

    def train(net, optimizer, steps):
        for step in steps:
            torch.manual_seed(step)
            optimizer.zero_grad()
            loss_of(net, net.batches[step % 2]).backward()
            optimizer.step()

    with torch.random.fork_rng():
        net, sparsity, optimizer = start()
        train(net, optimizer, range(3))
        parts = (net.model, sparsity, optimizer)
        torch.save([part.state_dict() for part in parts], tmp_path / "state.pth")
        train(net, optimizer, range(3, 7))
        other, again, optimizer = start()
        states = torch.load(tmp_path / "state.pth", weights_only=True)
        for part, state in zip((other.model, again, optimizer), states, strict=True):
            part.load_state_dict(state)
        train(other, optimizer, range(3, 7))
    assert sparsity.verify()["kept"] == pu.keep_count(pu.size(sparsity.mask), ratio)
    assert again.verify() == sparsity.verify()
    assert same(dict(net.model.state_dict()), dict(other.model.state_dict()))
    assert sparsity.step == again.step == 7


class Starved(nn.Module):
    """Two layers on the way to a task, the second of which scores a thousandth of the first."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(20, 20, bias=False), nn.Linear(20, 5, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.linspace(1, 2, 400).reshape(20, 20))
            self.second.weight.copy_(torch.linspace(0.001, 0.002, 100).reshape(5, 20))

    def forward(self, x):
        return self.second(self.first(x))


def starved(**settings):
    batches = [(torch.ones(1, 20), None)]
    losses = {"a": lambda out, _: out.sum()}
    return pu.sparsify(Starved(), losses, batches, 80, "magnitude", **settings)


@pytest.mark.parametrize(("floor", "kept"), [(0, 0), (0.01, 1), (0.1, 2), (0.12, 3), (0.5, 10)])
def test_a_floor_holds_by_hand(floor, kept):
    """100 of 500 stay; a floor f asks ceil(f * 0.2 * 100) of the second layer, the first pays for it."""
    counts = {name: int(of.sum()) for name, of in starved(floor=floor).mask.items()}
    assert counts == {"first.weight": 100 - kept, "second.weight": kept}


def test_the_floors_layer_keeps_its_best_and_the_default_warns_of_nothing():
    sparsity = starved()
    assert sparsity.mask["second.weight"].nonzero().tolist() == [[4, 18], [4, 19]]
    assert not any("density" in w or "no weight" in w for w in sparsity.certificate["warnings"])
    assert any("no weight is left in second" in w for w in starved(floor=0).certificate["warnings"])


@pytest.mark.parametrize("budget", ["uniform", "erk"])
def test_a_floor_lifts_layers_of_fixed_density(budget):
    """99.2 % of 500 leaves 4; a uniform density gives the second layer 0.8 of a weight."""
    mask = starved(budget=budget, floor=1e-9).mask
    assert min(int(of.sum()) for of in mask.values()) >= 1
    assert pu.count(mask) == 100


def test_a_floor_that_cannot_be_is_refused():
    with raises("floor 2 is not a share of the overall density from 0 to 1"):
        starved(floor=2)
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(4)))
    batches, losses = [(torch.ones(1, 3), None)], {"a": lambda out, _: out.sum()}
    with raises("the floor asks for 4 weights, more than the 2 to keep: use a lower floor or ratio"):
        pu.sparsify(model, losses, batches, 95, "magnitude")


def test_forward_and_batches_by_task(tiny):
    net = tiny("a", "b")
    mask, _ = chain(net, 80)
    dicts = [{"image": image, "targets": targets} for image, targets in net.batches]
    losses = {
        task: lambda out, batch, task=task: (out[task] - batch["targets"][task]).square().mean()
        for task in ("a", "b")
    }
    sparsity = pu.sparsify(
        net.model, losses, iter(dicts), 80, floor=0, forward=lambda model, batch: model(batch["image"])
    )
    assert same(sparsity.mask, mask)
    net.model.drop.p = 0.0
    sparsity = pu.sparsify(
        net.model,
        net.losses,
        {"a": net.batches, "b": net.batches[:1]},
        80,
        "disparse_dynamic",
        schedule=pu.Schedule(9, 1),
    )
    optimizer = KINDS["sgd"](net.model.parameters())
    sparsity.attach(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(net, net.batches[0]).backward()
        optimizer.step()
        assert sparsity.verify()["kept"] == pu.keep_count(pu.size(mask), 80)
    assert sparsity.updates == 3 and sparsity.figures["dropped"] > 0


class Words(nn.Module):
    """Two heads on an embedding and a bare table that multiplies what comes out of it."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.mixing = nn.Parameter(torch.randn(6, 5))  # seen to be a weight only where it is used
        self.heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in "ab"})

    def forward(self, index):
        mixed = self.words(index).mean(1) @ self.mixing
        return {task: head(mixed) for task, head in self.heads.items()}


WORDS = [(torch.arange(12).reshape(4, 3) + shift, {t: torch.ones(4, 2) for t in "ab"}) for shift in (0, 8)]
WORD_LOSSES = {t: lambda out, true, t=t: (out[t] - true[t]).square().mean() for t in "ab"}


@pytest.mark.parametrize("init", ["own", "xavier"])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("method", ["disparse_static", "snip", "magnitude"])
def test_what_is_included_and_what_is_traced_is_pruned_to_the_weight(method, rounds, init):
    torch.manual_seed(0)
    model = Words()
    before = copy.deepcopy(model.state_dict())
    sparsity = pu.sparsify(
        model, WORD_LOSSES, WORDS, 75, method, include="words.weight", rounds=rounds, score_init=init
    )
    sizes = {"words.weight": 120, "mixing": 30, "heads.a.weight": 10, "heads.b.weight": 10}
    assert {name: kept.numel() for name, kept in sparsity.mask.items()} == {
        name: sizes[name] for name, _ in model.named_parameters() if name in sizes
    }
    assert (pu.count(sparsity.mask), sparsity.certificate["pruned"]) == (42, 128)  # a quarter of 170 is 42.5
    assert sum(int((model.get_parameter(name) == 0).sum()) for name in sizes) == 128
    assert sparsity.verify()["zeros"] == sparsity.verify()["pruned"] == 128
    assert sparsity.certificate["layers"]["words"]["kept"] < 120
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] * sparsity.mask[name] if name in sizes else before[name])
    without = pu.sparsify(Words(), WORD_LOSSES, WORDS, 50, method, rounds=rounds, score_init=init)
    assert (pu.size(without.mask), pu.count(without.mask)) == (50, 25)


def test_what_does_not_go_together_is_refused_and_changes_nothing(tiny):
    net = tiny("a", "b")
    before = copy.deepcopy(net.model.state_dict())

    def call(**given):
        arguments = {"model": net.model, "losses": net.losses, "batches": net.batches} | given
        return pu.sparsify(**arguments)

    with raises("model is a dict, not a torch.nn.Module"):
        call(model={})
    with raises("losses must be a mapping from every task to its loss(predictions, targets)"):
        call(losses=[len])
    with raises(
        "method 'rigl' moves its mask while it trains: pass schedule=prune_utils.Schedule(until=STEP, "
        "every=STEPS)"
    ):
        call(method="rigl")
    with raises("method 'snip' does not move its mask, so it takes no schedule"):
        call(method="snip", schedule=pu.Schedule(9, 1))
    with raises("method 'lth' trains the initial weights again: pass their state dict as initial"):
        call(method="lth")
    with raises("method 'snip' does not rewind the network, so it takes no initial weights"):
        call(method="snip", initial={})
    with raises(
        "batches by task are of image, the losses of a, b: give every task its own, or a list of batches "
        "for all"
    ):
        call(batches={"image": []})
    with raises("forward 5 is no function of the network and a batch"):
        call(forward=5)
    with raises("num_batches -1 is not a whole number of at least 0"):
        call(num_batches=-1)
    with raises("factors are a list, not a mapping from tasks to numbers"):
        call(factors=[1])
    with raises("protect 5 is no pattern of names, nor several"):
        call(protect=5)
    with raises("round iterations 0 is not a whole number of at least 1"):
        call(method="imp", every=0)
    with raises(
        "initial holds the network's own tensors, which have changed with it: pass "
        "copy.deepcopy(model.state_dict()) from before training"
    ):
        call(method="lth", initial=net.model.state_dict())
    short = {name: value + 1 for name, value in before.items() if name != "heads.b.bias"}
    with raises(
        "the network has 'heads.b.bias' and initial has not: initial is no state dict of this network"
    ):
        call(method="lth", initial=short)
    with raises("initial has 'more' and the network has not: initial is no state dict of this network"):
        call(method="lth", initial=before | {"more": torch.ones(1)})
    with raises("'heads.b.bias' of initial has shape (1,), the network's has (3,)"):
        call(method="lth", initial=short | {"heads.b.bias": torch.ones(1)})
    with raises("the floor asks for 86 weights, more than the 72 to keep: use a lower floor or ratio"):
        call(
            ratio=80,
            method="disparse_gmp",
            budget="waterfill",
            trunk_share=0.6,
            floor=0.9,
            schedule=pu.Pace(1, 4, 1),
        )
    with pytest.raises(ValueError, match="method 'snap' is not one of"):
        call(method="snap")
    with pytest.raises(ValueError, match="ratio 100 is not"):
        call(ratio=100)
    with pytest.raises(ValueError, match="at least one batch"):
        call(batches=[])
    assert same(before, dict(net.model.state_dict()))


@pytest.mark.parametrize("criterion", ["grasp", "snip", "snip_signed"])
def test_the_joint_voter_hears_batches_by_task(tiny, criterion):
    """The sum of the losses has the product of Hessian and gradient that its parts add up to."""
    found = []
    for by_task in (False, True):
        net = tiny("a", "b")
        net.model.double().drop.p = 0.0
        batches = [(x.double(), {t: v.double() for t, v in to.items()}) for x, to in net.batches]
        given = dict.fromkeys("ab", batches) if by_task else batches
        found.append(pu.sparsify(net.model, net.losses, given, 50, "grasp", criterion=criterion).mask)
    assert same(*found)


def test_sizes_that_are_none_and_scalars_are_no_weights(tiny):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.none = nn.Linear(4, 6), nn.Linear(0, 3)
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.head = nn.Linear(6, 1)

        def forward(self, x):
            return self.head(self.scale * self.body(x)) + self.none(x[:, :0]).sum()

    batches, losses = [(torch.randn(5, 4), None)], {"a": lambda out, _: out.square().mean()}
    for budget in ("global", "uniform", "erk", "waterfill"):
        sparsity = pu.sparsify(Odd(), losses, batches, 50, budget=budget)
        assert set(sparsity.mask) == {"body.weight", "head.weight"} and pu.count(sparsity.mask) == 15
        left = sparsity.certificate["of_all"]["left_out"]
        assert left["without elements"] == {"none.weight": 0} and left["table"] == {"scale": 1}
        asked = pu.sparsify(Odd(), losses, batches, 50, budget=budget, include=["scale", "none.weight"])
        assert set(asked.mask) == {"scale", "body.weight", "head.weight"}
        assert pu.count(asked.mask) == 16 and asked.verify()["kept"] == 16  # half of 31, to the even


def test_factors_are_those_given_or_the_arbiters_own(tiny, monkeypatch, tmp_path):
    monkeypatch.setitem(pu.ARBITERS, "for_a", pu.Arbiter(lambda owners: 1, factors={"a": 8}))
    net = tiny("a", "b")
    owners = pu.owners_from_graph(net.model, net.losses, *net.batches)
    scores = pu.score(net.model, pu.task_voters(net.losses, owners), enumerate(net.batches), "snip")
    budget = pu.global_budget(owners.shapes, 77)
    expected = pu.choose(scores, budget, pu.weighted({"a": 8}))
    assert not same(expected, pu.choose(scores, budget, "unanimous"))
    for name, said in (
        ("weighted", {"arbiter": "weighted", "factors": {"a": 8}}),
        ("unanimous", {"arbiter": "unanimous", "factors": {"a": 8}}),
        ("weighted", {"arbiter": pu.weighted({"a": 8})}),
        ("weighted", {"arbiter": pu.weighted({"a": 2, "b": 3}), "factors": {"a": 8}}),
        ("for_a", {"arbiter": "for_a"}),
        ("own", {"arbiter": pu.Arbiter(lambda owners: 1, factors={"a": 8})}),
    ):
        net = tiny("a", "b")
        made = pu.sparsify(net.model, net.losses, net.batches, 70, floor=0, **said)
        assert same(made.mask, expected)
        asked = made.certificate["asked"]
        assert (asked["arbiter"], asked["factors"]) == (name, {"a": 8})
        path = pu.save_sparse(tmp_path / "net.safetensors", net.model, made.mask, made.certificate)
        assert pu.read_sparse(path).certificate["asked"]["factors"] == {"a": 8}


def test_factors_weigh_what_grows(tiny):
    net = tiny("a", "b")
    moves = {"method": "disparse_dynamic", "schedule": pu.Schedule(4, 2)}
    made = pu.sparsify(net.model, net.losses, net.batches, 70, **moves, factors={"b": 3})
    assert made.growth.arbiter.factors == {"b": 3}


def test_factors_of_nobody_are_refused(tiny):
    net = tiny("a", "b")
    for call in (pu.sparsify, pu.remove_channels):
        for asked in ({"factors": {"z": 8}}, {"arbiter": pu.weighted({"z": 8})}):
            with raises("factor of task 'z': the tasks are a, b"):
                call(net.model, net.losses, net.batches, 70, **asked)
    with raises("factor 0 of voter 'a' is not above 0 and finite"):
        pu.sparsify(net.model, net.losses, net.batches, factors={"a": 0})
    with raises("factor '8' of voter 'a' is not above 0 and finite"):
        pu.sparsify(net.model, net.losses, net.batches, factors={"a": "8"})
    with raises("factors weigh tasks, and method snip asks them all as one"):
        pu.sparsify(net.model, net.losses, net.batches, method="snip", factors={"a": 2})


@pytest.mark.parametrize("by_task", [False, True])
def test_prunings_in_training_rank_on_as_many_batches_as_asked(tiny, by_task):
    for number in (1, 2):
        net = tiny("a", "b")
        batches = {task: net.batches for task in "ab"} if by_task else net.batches
        asked = {"method": "disparse_gmp", "schedule": pu.Pace(1, 1, 1), "floor": 0, "seed": 5}
        made = pu.sparsify(net.model, net.losses, batches, 70, **asked, pruning_batches=number)
        voters = pu.task_voters(net.losses, made.owners)
        several = batches if by_task else list(enumerate(net.batches))
        seen = [(1, net.batches[1])] if number == 1 else several
        scores = pu.score(net.model, voters, seen, "snip", seed=6)
        expected = pu.choose(scores, pu.global_budget(made.owners.shapes, 77), "unanimous")
        made.after_step(1, net.batches[1])
        assert same(made.mask, expected)
        assert made.certificate["asked"]["pruning_batches"] == number
        assert made.certificate["asked"]["batches"] == 2


def test_batches_of_prunings_that_cannot_be_are_refused(tiny):
    net = tiny("a", "b")
    moves = {"method": "disparse_gmp", "schedule": pu.Pace(1, 2, 1)}
    with raises("pruning_batches 3 is more than the 2 batches given"):
        pu.sparsify(net.model, net.losses, net.batches, **moves, pruning_batches=3)
    with raises("pruning_batches 0 is not a whole number of at least 1"):
        pu.sparsify(net.model, net.losses, net.batches, **moves, pruning_batches=0)
    for method, criterion in (("gmp", "magnitude"), ("disparse_static", "snip")):
        more = {"method": method} | ({"schedule": pu.Pace(1, 2, 1)} if method == "gmp" else {})
        with raises(
            "pruning_batches 2 is for methods whose prunings in training rank weights by gradients, such as "
            f"disparse_gmp, not for {method} with criterion {criterion}"
        ):
            pu.sparsify(net.model, net.losses, net.batches, **more, pruning_batches=2)


def test_channels_are_sent_to_the_call_that_removes_them(tiny):
    with raises("granularity 'channel' leaves a smaller network and no mask: call remove_channels"):
        pu.sparsify(tiny("a", "b").model, {}, [], 50, granularity="channel")


def test_loss_weights_are_of_tasks_and_1_where_they_are_missing(tiny):
    net = tiny("a", "b")
    with raises("loss weight of task 'z' is not one of a, b"):
        pu.sparsify(net.model, net.losses, net.batches, loss_weights={"z": 2})
    masks = []
    for weights in ({"b": 9}, {"a": 1, "b": 9}, None):
        net = tiny("a", "b")
        masks.append(pu.sparsify(net.model, net.losses, net.batches, 70, "snip", loss_weights=weights).mask)
    assert same(masks[0], masks[1]) and not same(masks[0], masks[2])
