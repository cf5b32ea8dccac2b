import copy

import pytest
import torch
from torch import nn

from prune_utils import (
    Electorate,
    Growth,
    Regrowth,
    Schedule,
    Voter,
    make_schedule,
    prunable,
    score,
    shuffle_within_layers,
    sparsify,
    task_voters,
)

from . import reference
from .test_masked import OPTIMIZERS, train


def sparse(model, share=0.4, seed=0):
    masks = {
        n: (torch.arange(w.numel()) < round(share * w.numel())).reshape(w.shape)
        for n, w in prunable(model).items()
    }
    return shuffle_within_layers(masks, seed)


def counts(mask):
    return {name: int(kept.sum()) for name, kept in mask.items()}


def test_schedule_by_hand():
    schedule = Schedule(until=100, every=25, fraction=0.5)
    assert [step for step in range(-1, 200) if schedule.due(step)] == [25, 50, 75, 100]
    assert schedule.drop_fraction(0) == 0.5
    assert schedule.drop_fraction(50) == pytest.approx(0.25)
    assert schedule.drop_fraction(25) == pytest.approx(0.25 * (1 + 2**-0.5))
    assert schedule.drop_fraction(100) == schedule.drop_fraction(150) == 0.0
    assert Schedule(until=0, every=1).drop_fraction(0) == 0.0


def test_schedule_in_steps_or_fractions():
    assert make_schedule(0.75, 0.0025, 0.5, 20_000) == Schedule(15_000, 50, 0.5)
    assert make_schedule(15_000, 50, 0.5, 20_000) == Schedule(15_000, 50, 0.5)
    assert make_schedule(0.75, 0.01, 0.3, 20) == Schedule(15, 1, 0.3)


@pytest.mark.parametrize(
    ("until", "every", "said"),
    [
        (
            15_000,
            50,
            "dynamic.until 15000 is after the end of the run, which has 2000 steps: choose a step in it",
        ),
        (2001, 0.05, "dynamic.until 2001 is after the end of the run, which has 2000 steps"),
        (
            1,
            50,
            "dynamic.every 50 is more than dynamic.until 1, and the mask would never move: both are steps",
        ),
        (0.5, 0.6, "dynamic.every 0.6 is more than dynamic.until 0.5, and the mask would never move"),
        (90, 0.05, "dynamic.every 0.05 is more than dynamic.until 90, and the mask would never move"),
    ],
)
def test_a_schedule_that_never_moves_or_ends_after_the_run_is_refused(until, every, said):
    with pytest.raises(ValueError, match=said):
        make_schedule(until, every, 0.5, 2000)


@pytest.mark.parametrize(
    ("until", "every", "steps", "expected"),
    [
        (0.75, 250, 60, (45, 250)),
        (2000, 2000, 2000, (2000, 2000)),
        (0.1, 0.1, 3, (0, 1)),
        (100, 0.05, 2000, (100, 100)),
    ],
)
def test_a_short_run_of_the_usual_settings_goes_on(until, every, steps, expected):
    schedule = make_schedule(until, every, 0.5, steps)
    assert (schedule.until, schedule.every) == expected


@pytest.mark.parametrize("values", [(10, 0, 0.5), (-1, 5, 0.5), (10, 5, 1.5), (10, 5, float("nan"))])
def test_schedule_is_checked(values):
    with pytest.raises(ValueError, match="dynamic"):
        Schedule(*values)


class Row(nn.Module):
    """y = sum(w x) for 8 weights, so that dL/dw is the input."""

    def __init__(self, values):
        super().__init__()
        self.row = nn.Linear(8, 1, bias=False)
        with torch.no_grad():
            self.row.weight.copy_(torch.tensor([values]))

    def forward(self, x):
        return self.row(x)


def test_by_hand():
    """Drop 2 of 4 by magnitude, grow 2 of the 6 inactive by the input's size."""
    model = Row([4.0, 1.0, -3.0, 2.0, 9.0, 9.0, 9.0, 9.0])
    optimizer = torch.optim.Adam(model.parameters())
    mask = {"row.weight": torch.tensor([[True] * 4 + [False] * 4])}
    voter = Voter("a", lambda out, target: out.sum(), frozenset(mask))
    regrowth = Regrowth(model, mask, optimizer, Schedule(10**9, 1), Growth((voter,)))
    x = torch.tensor([[9.0, 8.0, 9.0, 1.0, -2.0, 3.0, -5.0, 4.0]])
    model(x).sum().backward()
    regrowth.mask_gradients()
    optimizer.step()
    with torch.no_grad():
        model.row.weight.copy_(torch.tensor([[4.0, 1.0, -3.0, 2.0, 0.0, 0.0, 0.0, 0.0]]))
    figures = regrowth.after_step(1, (x, None))
    # 1 and 2 are the smallest; then |x| = 8 (just dropped, grown again from 0) and 5 are the largest inactive
    assert regrowth.mask["row.weight"].int().tolist() == [[1, 1, 1, 0, 0, 0, 1, 0]]
    assert model.row.weight.tolist() == [[4.0, 0.0, -3.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    assert figures == {
        "density": 0.5,
        "drop_fraction": pytest.approx(0.5),
        "dropped": 2.0,
        "replaced_share": 0.25,
    }
    state = optimizer.state[model.row.weight]
    for key in ("exp_avg", "exp_avg_sq"):
        assert (state[key] != 0).tolist() == [[True, False, True, False, False, False, False, False]]


def test_dropping_by_need_by_hand():
    """Of |w x| = 4, 9, 27, 18 the first two go; 9 (just dropped) and 5 are the largest inputs left."""
    model = Row([4.0, 1.0, -3.0, 2.0, 0.0, 0.0, 0.0, 0.0])
    mask = {"row.weight": torch.tensor([[True] * 4 + [False] * 4])}
    voter = Voter("a", lambda out, target: out.sum(), frozenset(mask))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    regrowth = Regrowth(model, mask, optimizer, Schedule(10**9, 1), Growth((voter,), drop="snip"))
    regrowth.after_step(1, (torch.tensor([[1.0, 9.0, 9.0, 9.0, -2.0, 3.0, -5.0, 4.0]]), None))
    assert regrowth.mask["row.weight"].int().tolist() == [[0, 1, 1, 1, 0, 0, 1, 0]]
    assert model.row.weight.tolist() == [[0.0, 0.0, -3.0, 2.0, 0.0, 0.0, 0.0, 0.0]]


def test_what_is_dropped_needs_a_criterion_that_exists():
    with pytest.raises(ValueError, match="criterion 'snap'"):
        Growth((), drop="snap")


@pytest.mark.parametrize("tasks", [("a",), ("a", "b"), ("a", "b", "c")])
@pytest.mark.parametrize("arbiter", ["unanimous", "intersection"])
def test_dropping_by_need_equals_the_obvious_reference(tiny, tasks, arbiter):
    net = tiny(*tasks)
    mask, voters = sparse(net.model), task_voters(net.losses, net.owners)
    growth = Growth(voters, arbiter=arbiter, drop="snip")
    sgd = OPTIMIZERS["sgd"](net.model.parameters())
    regrowth = Regrowth(net.model, mask, sgd, Schedule(30, 10), growth)
    batch = net.batches[0]
    needs, wishes = (
        reference.lists(score(net.model, voters, [(10, batch)], criterion, seed=10))
        for criterion in ("snip", "gradient")
    )
    sizes = {name: kept.numel() for name, kept in mask.items()}
    active = reference.as_set(mask)
    fraction, expected = Schedule(30, 10).drop_fraction(10), set()
    for name in sizes:
        count = sum(of == name for of, _ in active)
        drop = int(fraction * count)
        among = lambda n, i: (n, i) in active  # noqa: E731
        staying = reference.choose(needs, [((name,), count - drop)], arbiter, sizes, among)
        inactive = lambda n, i, staying=staying: (n, i) not in staying  # noqa: E731
        expected |= staying | reference.choose(wishes, [((name,), drop)], arbiter, sizes, inactive)
    regrowth.after_step(10, batch)
    assert reference.as_set(regrowth.mask) == expected


def test_a_task_without_a_label_drops_by_magnitude():
    """Task a needs the first two inputs by |w x|; b, which has no label, keeps its largest weights."""
    model = Row([1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0])
    mask = {"row.weight": torch.tensor([[True] * 4 + [False] * 4])}
    owns = frozenset(mask)
    voters = (Voter("a", lambda out, target: out.sum(), owns), Voter("b", lambda out, target: None, owns))
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    regrowth = Regrowth(model, mask, sgd, Schedule(10**9, 1), Growth(voters, drop="snip"))
    regrowth.after_step(1, (torch.tensor([[9.0, 1.0, 0.5, 0.1, 2.0, 3.0, 1.5, 1.0]]), None))
    assert regrowth.mask["row.weight"].int().tolist() == [[1, 0, 0, 1, 1, 1, 0, 0]]


@pytest.mark.parametrize("tasks", [("a",), ("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d", "e")])
@pytest.mark.parametrize("arbiter", ["unanimous", "majority", "intersection"])
def test_one_update_equals_the_obvious_reference(tiny, tasks, arbiter):
    net = tiny(*tasks)
    mask = sparse(net.model)
    voters = task_voters(net.losses, net.owners)
    regrowth = Regrowth(
        net.model,
        mask,
        OPTIMIZERS["sgd"](net.model.parameters()),
        Schedule(30, 10),
        Growth(voters, arbiter=arbiter),
    )
    batch = net.batches[0]
    weights = {n: w.detach().abs().reshape(-1).tolist() for n, w in prunable(net.model).items()}
    gradients = reference.lists(score(net.model, voters, [(10, batch)], "gradient", seed=10))
    sizes = {name: len(values) for name, values in weights.items()}
    active = {name: [i for i in range(sizes[name]) if mask[name].reshape(-1)[i]] for name in sizes}
    fraction = Schedule(30, 10).drop_fraction(10)
    expected = set()
    for name in sizes:
        drop = int(fraction * len(active[name]))
        staying = set(sorted(active[name], key=lambda i, n=name: -weights[n][i])[: len(active[name]) - drop])
        inactive = lambda n, i, staying=staying: i not in staying  # noqa: E731
        grown = reference.choose(gradients, [((name,), drop)], arbiter, sizes, inactive)
        expected |= grown | {(name, i) for i in staying}
    regrowth.after_step(10, batch)
    assert reference.as_set(regrowth.mask) == expected


@pytest.mark.parametrize("grow", ["gradient", "random"])
@pytest.mark.parametrize("kind", ["tasks", "joint"])
def test_a_run_keeps_every_count_and_moves_the_mask(tiny, grow, kind):
    net = tiny("a", "b", "c")
    mask = sparse(net.model)
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    voters = Electorate(net.losses, net.weights, net.owners).voters(kind)
    schedule = Schedule(until=12, every=3)
    regrowth = Regrowth(net.model, mask, optimizer, schedule, Growth(voters, grow))
    seen = {}
    previous = mask
    for step, figures in train(net, regrowth, optimizer, 16):
        now = regrowth.mask
        assert counts(now) == counts(mask)
        assert bool(figures) == (step in (3, 6, 9, 12))
        for name, weight in prunable(net.model).items():
            assert not weight[~now[name]].any()
            if figures:
                grown = now[name] & ~previous[name]
                assert not weight[grown].any()
                assert not optimizer.state[weight]["exp_avg"][grown | ~now[name]].any()
                assert not optimizer.state[weight]["exp_avg_sq"][grown | ~now[name]].any()
        if figures:
            seen[step] = figures
            new = sum(int((now[n] & ~previous[n]).sum()) for n in now)
            assert figures["replaced_share"] == new / sum(counts(mask).values())
            assert figures["density"] == sum(counts(mask).values()) / sum(m.numel() for m in mask.values())
            assert figures["dropped"] == sum(int(figures["drop_fraction"] * c) for c in counts(mask).values())
        previous = now
    assert [seen[s]["drop_fraction"] for s in seen] == [schedule.drop_fraction(s) for s in (3, 6, 9, 12)]
    assert seen[3]["replaced_share"] > 0.1
    assert seen[12]["dropped"] == 0
    # what was grown has been trained since, but for the few weights behind a unit that is never active
    assert sum(int(w.count_nonzero()) for w in prunable(net.model).values()) > 0.9 * sum(
        counts(mask).values()
    )


def test_full_empty_and_nearly_full_layers(tiny):
    net = tiny("a", "b")
    mask = sparse(net.model)
    mask["stem.weight"].fill_(True)
    mask["branch.weight"].zero_()
    mask["trunk.weight"].fill_(True)
    mask["trunk.weight"][0, 0, 0, 0] = False
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    voters = task_voters(net.losses, net.owners)
    regrowth = Regrowth(net.model, mask, optimizer, Schedule(100, 1), Growth(voters))
    stem = net.model.stem.weight.detach().clone()
    regrowth.after_step(1, net.batches[0])
    assert counts(regrowth.mask) == counts(mask)
    assert torch.equal(net.model.stem.weight, stem)  # a full layer is left alone
    assert int((net.model.trunk.weight == 0).sum()) == 2  # one dropped, one grown or again out


def test_zero_growth_leaves_everything_alone(tiny):
    net = tiny("a", "b")
    mask = sparse(net.model)
    before = None
    regrowth = Regrowth(
        net.model, mask, OPTIMIZERS["sgd"](net.model.parameters()), Schedule(4, 4), Growth(())
    )
    before = copy.deepcopy(net.model.state_dict())
    assert regrowth.after_step(4, net.batches[0])["dropped"] == 0
    assert all(torch.equal(regrowth.mask[name], mask[name]) for name in mask)
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())


def test_growth_gradients_come_from_the_sparse_network_and_leave_training_untouched(tiny):
    net = tiny("a", "b")
    mask = sparse(net.model)
    seen = []

    def loss(predictions, targets):
        seen.append({n: bool(w[~mask[n]].any()) for n, w in prunable(net.model).items()})
        return net.losses["a"](predictions, targets)

    voter = Voter("a", loss, frozenset(mask))
    regrowth = Regrowth(
        net.model, mask, OPTIMIZERS["sgd"](net.model.parameters()), Schedule(9, 1), Growth((voter,))
    )
    net.model.stem.weight.grad = torch.ones_like(net.model.stem.weight)
    means = net.model.norm.running_mean.clone()
    stream = torch.get_rng_state()
    regrowth.after_step(1, net.batches[0])
    assert seen == [dict.fromkeys(mask, False)]
    assert (net.model.stem.weight.grad == 1).all()
    assert torch.equal(net.model.norm.running_mean, means)
    assert torch.equal(torch.get_rng_state(), stream)


def test_one_task_equals_rigl(tiny):
    masks = []
    for kind in ("tasks", "joint"):
        net = tiny("a")
        net.weights["a"] = 1.0
        net.model.drop.p = 0.0
        optimizer = OPTIMIZERS["adam"](net.model.parameters())
        voters = Electorate(net.losses, net.weights, net.owners).voters(kind)
        regrowth = Regrowth(net.model, sparse(net.model), optimizer, Schedule(8, 2), Growth(voters))
        list(train(net, regrowth, optimizer, 8))
        masks.append(regrowth.mask)
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_a_resumed_run_is_the_same_run(tiny, tmp_path):
    def start():
        net = tiny("a", "b")
        net.model.drop.p = 0.0
        optimizer = OPTIMIZERS["adam"](net.model.parameters())
        growth = Growth(task_voters(net.losses, net.owners), seed=3)
        return net, optimizer, Regrowth(net.model, sparse(net.model), optimizer, Schedule(8, 2), growth)

    net, optimizer, regrowth = start()
    for step, _ in train(net, regrowth, optimizer, 8):
        if step == 4:
            parts = {"model": net.model, "optimizer": optimizer, "sparsifier": regrowth}
            torch.save({name: part.state_dict() for name, part in parts.items()}, tmp_path / "state.pth")
    other, other_optimizer, resumed = start()
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    other.model.load_state_dict(state["model"])
    other_optimizer.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["sparsifier"])
    assert resumed.updates == 2
    for step in range(5, 9):
        inputs, targets = other.batches[step % 2]
        other_optimizer.zero_grad()
        predictions = other.model(inputs)
        sum(loss(predictions, targets) for loss in other.losses.values()).backward()
        resumed.mask_gradients()
        other_optimizer.step()
        resumed.after_step(step, (inputs, targets))
    assert resumed.updates == regrowth.updates == 4
    assert all(torch.equal(resumed.mask[name], regrowth.mask[name]) for name in regrowth.mask)
    assert all(
        torch.equal(a, b) for a, b in zip(other.model.parameters(), net.model.parameters(), strict=True)
    )


def test_a_wrapped_optimizer_is_unwrapped(tiny):
    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    net = tiny("a")
    optimizer = OPTIMIZERS["sgd"](net.model.parameters())
    regrowth = Regrowth(net.model, sparse(net.model), Wrapper(optimizer), Schedule(8, 2), Growth(()))
    assert regrowth.optimizer is optimizer


def test_state_is_zeroed_on_the_networks_device():
    model = nn.Linear(4, 2, device="meta")
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.state[model.weight] = {"step": torch.tensor(3.0), "exp_avg": torch.empty_like(model.weight)}
    mask = {"weight": torch.ones(2, 4, dtype=torch.bool)}
    regrowth = Regrowth(model, mask, optimizer, Schedule(8, 2), Growth(()))
    assert regrowth.after_step(1, None) == {}
    with torch.no_grad():
        regrowth._start_at_zero(model.weight, torch.ones(2, 4, dtype=torch.bool, device="meta"))
    assert optimizer.state[model.weight]["step"] == 3


@pytest.mark.parametrize("form", ["forward", "by task", "forward by task"])
def test_growth_is_the_same_however_batches_come(tiny, form):
    """Pairs, what `forward` takes, a batch for every task: the same data gives the same mask."""

    def moved(losses, batches, forward):
        net = tiny("a", "b")
        net.model.drop.p = 0.0
        growth = Growth(task_voters(losses or net.losses, net.owners), forward=forward)
        optimizer = torch.optim.SGD(net.model.parameters(), 0.1)
        regrowth = Regrowth(
            net.model, sparse(net.model), optimizer, Schedule(10, 1), growth, batches=batches(net)
        )
        figures = [regrowth.after_step(step, None) for step in (1, 2)]
        assert all(of["dropped"] > 0 for of in figures)
        return regrowth.mask

    def forward(model, batch):
        return model(batch["image"])

    own = {
        task: lambda out, batch, task=task: (out[task] - batch["targets"][task]).square().mean()
        for task in "ab"
    }
    dicts = [{"image": image, "targets": targets} for image, targets in tiny("a", "b").batches]
    expected = moved(None, lambda net: net.batches, None)
    found = {
        "forward": lambda: moved(own, lambda net: dicts, forward),
        "by task": lambda: moved(None, lambda net: [dict.fromkeys("ab", each) for each in net.batches], None),
        "forward by task": lambda: moved(own, lambda net: [dict.fromkeys("ab", d) for d in dicts], forward),
    }[form]()
    assert all(torch.equal(found[name], kept) for name, kept in expected.items())


def test_a_layer_of_a_task_without_a_batch_stays_as_it_is(tiny):
    net = tiny("a", "b")
    growth = Growth(task_voters(net.losses, net.owners))
    optimizer = torch.optim.SGD(net.model.parameters(), 0.1)
    mask = sparse(net.model)
    regrowth = Regrowth(net.model, mask, optimizer, Schedule(10, 1), growth)
    regrowth.after_step(1, {"a": net.batches[0]})
    assert torch.equal(regrowth.mask["heads.b.weight"], mask["heads.b.weight"])
    assert not torch.equal(regrowth.mask["heads.a.weight"], mask["heads.a.weight"])
    assert counts(regrowth.mask) == counts(mask)


def test_growth_remembers_the_votes_before():
    """Memory 0.75: 8 before and 0 now (average 6) beats 0 before and 4 now (average 1)."""
    grown = {}
    for memory in (0.0, 0.75):
        model = Row([4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0])
        mask = {"row.weight": torch.tensor([[True] * 4 + [False] * 4])}
        voter = Voter("a", lambda out, target: out.sum(), frozenset(mask))
        growth = Growth((voter,), memory=memory)
        regrowth = Regrowth(
            model, mask, torch.optim.Adam(model.parameters()), Schedule(10**9, 1, 0.25), growth
        )
        first = torch.tensor([[0.0, 0, 0, 9, 0, 8, 0, 0]])  # the weight just dropped grows again
        regrowth.after_step(1, (first, None))
        with torch.no_grad():
            model.row.weight.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0, 0, 0, 0, 0]]))
        regrowth.after_step(2, (torch.tensor([[0.0, 0, 0, 0, 4, 0, 0, 0]]), None))
        grown[memory] = regrowth.mask["row.weight"][0, 3:].tolist()
        assert bool(regrowth.state_dict()["average"]) == (memory > 0)
    assert grown[0.0] == [False, True, False, False, False]
    assert grown[0.75] == [True, False, False, False, False]  # 0.75 * 9 = 6.75, 0.75 * 8 = 6, 0.25 * 4 = 1
    with pytest.raises(ValueError, match="growth memory 1.0 is not from 0"):
        Growth((), memory=1.0)


@pytest.mark.parametrize("form", ["pairs", "by task", "dictionaries"])
def test_batches_that_are_kept_follow_the_network(tiny, form):
    """Kept in main memory, they vote where the network is then; those of the step are the user's."""
    net = tiny("a", "b")
    seen = []

    def loss_of(task):
        def loss(out, batch):
            targets = batch["targets"] if form == "dictionaries" else batch
            seen.append(targets[task].device.type)
            return (out[task] - targets[task]).square().mean()

        return loss

    batches, forward = net.batches, None
    if form == "by task":
        batches = dict.fromkeys("ab", net.batches)
    elif form == "dictionaries":
        batches = [{"image": image, "targets": targets, "names": ["x"]} for image, targets in net.batches]
        forward = lambda model, batch: model(batch["image"])  # noqa: E731
    losses = {task: loss_of(task) for task in "ab"}
    sparsity = sparsify(
        *(net.model, losses, batches, 70, "disparse_dynamic"), schedule=Schedule(9, 1), forward=forward
    )
    net.model.to("meta")
    seen.clear()
    votes = sparsity._votes(1, None, frozenset(sparsity.mask), sparsity.growth)
    assert seen == ["meta", "meta"]
    assert all(score.is_meta for of in votes.values() for score in of.values())
    image = (batches["a"] if form == "by task" else batches)[0]
    assert (image["image"] if form == "dictionaries" else image[0]).device.type == "cpu"


def test_rounds_follow_the_network_too(tiny):
    net = tiny("a", "b")
    sparsity = sparsify(
        net.model, net.losses, net.batches, 70, "imp", criterion="snip", rounds=2, every=1, floor=0
    )
    net.model.to("meta")
    assert all(score.is_meta for of in sparsity.score(net.model).values() for score in of.values())


def test_what_forward_takes_is_not_taken_for_batches_by_task(tiny):
    """A step's batch whose keys are the tasks: an input for each head, and `forward` takes both."""
    net = tiny("a", "b")
    net.model.drop.p = 0.0
    steps = [{"a": image, "b": image.flip(0)} for image, _ in net.batches]
    losses = {task: lambda out, batch, task=task: out[task].square().mean() for task in "ab"}

    def forward(model, batch):
        return {task: model(batch[task])[task] for task in "ab"}

    for batches in (steps, steps[:1]):
        sparsity = sparsify(
            net.model, losses, batches, 70, "disparse_dynamic", schedule=Schedule(9, 1), forward=forward
        )
        sparsity.optimizers = (torch.optim.SGD(net.model.parameters(), 0.0),)
        before = sparsity.mask
        assert sparsity.after_step(1, steps[0])["dropped"] > 0
        assert sparsity.after_step(2, None)["dropped"] > 0
        assert counts(sparsity.mask) == counts(before) and sparsity.updates == 2
        for task in "ab":
            assert sparsity.owners[f"heads.{task}.weight"] == {task}


def test_state_that_is_no_floating_point_is_refused_before_anything_moves():
    """8-bit optimizers keep codes, of which 0 stands for another number than 0."""
    model = Row([4.0, 1.0, -3.0, 2.0, 9.0, 9.0, 9.0, 9.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    mask = {"row.weight": torch.tensor([[True] * 4 + [False] * 4])}
    voter = Voter("a", lambda out, target: out.sum(), frozenset(mask))
    regrowth = Regrowth(model, mask, optimizer, Schedule(10**9, 1), Growth((voter,)))
    optimizer.state[model.row.weight] = {"state1": torch.full((1, 8), 127, dtype=torch.uint8)}
    said = "the SGD keeps 'state1' of 'row.weight' as torch.uint8, .* choose an optimizer with 32-bit state"
    with pytest.raises(ValueError, match=said):
        regrowth.after_step(1, (torch.ones(1, 8), None))
    assert torch.equal(regrowth.mask["row.weight"], mask["row.weight"])
    assert model.row.weight.tolist() == [[4, 1, -3, 2, 0, 0, 0, 0]]
    with pytest.raises(ValueError, match=said):
        regrowth.attach(optimizer)


def test_a_saved_state_is_not_changed_by_what_comes_later():
    model = Row([4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    mask = {"row.weight": torch.tensor([[True] * 4 + [False] * 4])}
    voters = tuple(Voter(task, lambda out, _: out.square().sum(), frozenset(mask)) for task in "ab")
    growth = Growth(voters, memory=0.5, progress=1.0)
    regrowth = Regrowth(model, mask, torch.optim.SGD(model.parameters(), 0.0), Schedule(10**9, 1), growth)
    regrowth.after_step(1, (torch.linspace(1, 2, 8)[None], None))
    state = regrowth.state_dict()
    before = copy.deepcopy(state)
    regrowth.after_step(2, (torch.linspace(2, 1, 8)[None], None))
    for task in "ab":
        assert torch.equal(state["average"][task]["row.weight"], before["average"][task]["row.weight"])
        assert torch.equal(state["progress"][task], before["progress"][task])
        assert not torch.equal(regrowth.state_dict()["progress"][task], before["progress"][task])


def test_a_state_of_another_kind_changes_nothing(tiny):
    net = tiny("a", "b")
    mask = sparse(net.model)
    voters = task_voters(net.losses, net.owners)
    regrowth = Regrowth(net.model, mask, None, Schedule(9, 1), Growth(voters))
    other = {"mask": {name: ~kept for name, kept in mask.items()}, "step": 7}
    before = copy.deepcopy(net.model.state_dict())
    with pytest.raises(ValueError, match="saved state lacks 'updates', which a Regrowth has"):
        regrowth.load_state_dict(other)
    assert all(torch.equal(regrowth.mask[name], kept) for name, kept in mask.items())
    assert regrowth.step == 0
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())
