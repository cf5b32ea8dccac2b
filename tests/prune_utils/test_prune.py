import copy
import math
from dataclasses import dataclass, field

import pytest
import torch

from prune_utils import (
    CRITERIA,
    METHODS,
    Criterion,
    Electorate,
    Method,
    choose,
    count,
    dense_mask,
    keep_count,
    make_mask,
    make_plan,
    mask_hash,
    method,
    prunable,
    score,
    size,
    task_voters,
    xavier_copy,
)
from prune_utils.prune import check_plan, make_budgets

from . import reference


@dataclass(frozen=True)
class Settings:
    ratio: float = 90.0
    keep_ratio: float | None = None
    criterion: str | None = None
    pt_criterion: str = "magnitude"
    budget: str | None = None
    arbiter: str = "unanimous"
    scope: str = "all"
    protect: tuple[str, ...] = ()
    rounds: int | None = None
    shuffle: bool = False
    score_init: str = "xavier"
    start_mask: str | None = None
    factors: dict[str, float] = field(default_factory=dict)
    voters: str | None = None
    granularity: str = "weight"


def electorate(net):
    return Electorate(net.losses, net.weights, net.owners)


def mask_of(net, name, seed=0, **settings):
    plan = make_plan(method(name), Settings(**settings))
    return make_mask(net.model, plan, electorate(net), list(enumerate(net.batches)), seed)


def total(net):
    return sum(w.numel() for w in prunable(net.model).values())


@pytest.mark.parametrize("ratio", [0, 50, 90, 95, 98.5])
@pytest.mark.parametrize("budget", [None, "global", "erk", "uniform"])
@pytest.mark.parametrize("name", sorted(name for name, row in METHODS.items() if row.granularity == "weight"))
def test_every_method_meets_the_ratio_exactly_and_touches_nothing(tiny, name, budget, ratio):
    net = tiny("a", "b", "c")
    before = copy.deepcopy(net.model.state_dict())
    row = method(name)
    rounds = 1 if row.retrain else min(row.rounds, 3)
    if row.revive and row.voters == "tasks" and ratio > 95 and (budget or row.budget) == "global":
        # on the way this small network loses every path to a task, which then has no scores: it is named
        with pytest.raises(ValueError, match="voter 'c' has nothing to say: all its scores are 0"):
            mask_of(net, name, ratio=ratio, budget=budget, rounds=rounds)
        return
    mask = mask_of(net, name, ratio=ratio, budget=budget, rounds=rounds)
    assert list(mask) == list(prunable(net.model))
    assert all(torch.equal(value, before[key]) for key, value in net.model.state_dict().items())
    if row.starts == "dense":  # training prunes
        assert count(mask) == total(net)
        return
    assert count(mask) == keep_count(total(net), ratio)
    if "erk" in (budget, budget or row.budget):
        plan = make_plan(row, Settings(ratio=ratio, budget=budget, rounds=rounds))
        asked = {p.names[0]: p.keep for p in make_budgets(net.model, plan, net.owners)[-1]}
        assert {layer: int(kept.sum()) for layer, kept in mask.items()} == asked


@pytest.mark.parametrize("tasks", [("a",), ("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d", "e")])
@pytest.mark.parametrize("arbiter", ["unanimous", "majority", "intersection"])
@pytest.mark.parametrize(
    ("name", "criterion", "used"),
    [
        ("disparse_static", None, "snip"),
        ("disparse_pt", None, "magnitude"),
        ("disparse_pt", "taylor", "taylor"),
    ],
)
def test_equals_the_obvious_reference(tiny, tasks, arbiter, name, criterion, used):
    net = tiny(*tasks)
    mask = mask_of(net, name, ratio=80, arbiter=arbiter, criterion=criterion)
    subject = xavier_copy(net.model, 0) if name == "disparse_static" else net.model
    weights = {n: w.detach().reshape(-1).tolist() for n, w in prunable(subject).items()}
    gradients = reference.lists(
        score(subject, task_voters(net.losses, net.owners), enumerate(net.batches), "gradient")
    )
    formula = {
        "snip": lambda w, g: abs(w) * g,
        "magnitude": lambda w, g: abs(w),
        "taylor": lambda w, g: w * w * g,
    }[used]
    as_float32 = {
        task: {
            n: [torch.tensor(formula(*pair)).item() for pair in zip(weights[n], of[n], strict=True)]
            for n in of
        }
        for task, of in gradients.items()
    }
    sizes = {n: len(values) for n, values in weights.items()}
    keep = round(0.2 * sum(sizes.values()))
    assert reference.as_set(mask) == reference.choose(as_float32, [(list(sizes), keep)], arbiter, sizes)


def test_force_is_iterative_snip_with_everything_as_candidate(tiny):
    """By hand, round by round: the gradient of the pruned network times the weights before pruning."""
    net = tiny("a", "b")
    net.model.drop.p = 0.0
    mask = mask_of(net, "disparse_force", ratio=90, rounds=4)
    model = xavier_copy(net.model, 0)
    whole = {name: w.detach().clone() for name, w in prunable(model).items()}
    voters, batches = task_voters(net.losses, net.owners), list(enumerate(net.batches))
    now, back = dense_mask(model), 0
    for budget in make_budgets(
        net.model, make_plan(method("disparse_force"), Settings(rounds=4)), net.owners
    ):
        with torch.no_grad():
            for name, weight in prunable(model).items():
                weight.copy_(whole[name] * now[name])
        scores = score(model, voters, batches, "snip_signed", values=whole)
        after = choose(scores, budget, "unanimous")
        back += sum(int((after[name] & ~now[name]).sum()) for name in after)
        now = after
    assert back > 0
    assert mask_hash(mask) == mask_hash(now)


def test_synflow_reads_one_batch_and_no_loss(tiny):
    net = tiny("a", "b")
    net.losses = dict.fromkeys(net.losses, lambda *given: 1 / 0)
    plan = make_plan(method("synflow"), Settings(ratio=95))
    one = make_mask(net.model, plan, electorate(net), list(enumerate(net.batches)))
    again = make_mask(net.model, plan, electorate(net), iter([(0, net.batches[1])]))
    assert plan.rounds == 100 and count(one) == keep_count(total(net), 95)
    assert mask_hash(one) == mask_hash(again)
    assert all(kept.any() for kept in one.values())  # no layer collapses


def test_a_dynamic_run_may_start_with_the_mask_of_a_static_method(tiny):
    net = tiny("a", "b")
    plain = mask_of(net, "disparse_static", ratio=80)
    started = mask_of(net, "disparse_dynamic", ratio=80, start_mask="disparse_static")
    assert mask_hash(started) == mask_hash(plain)
    for name, start in (("disparse_dynamic", "imp"), ("snip", "random")):
        with pytest.raises(ValueError, match=f"start mask '{start}' does not go with method {name}"):
            make_plan(method(name), Settings(start_mask=start))
    with pytest.raises(ValueError, match="method 'x' is not one of"):
        make_plan(method("set"), Settings(start_mask="x"))


def test_factors_weigh_tasks(tiny):
    net = tiny("a", "b")
    plain = mask_of(net, "disparse_static", ratio=80)
    assert mask_hash(mask_of(net, "disparse_static", ratio=80, factors={"a": 3.0, "b": 3.0})) == mask_hash(
        plain
    )
    favoured = mask_of(net, "disparse_static", ratio=80, arbiter="weighted", factors={"a": 4.0})
    assert count(favoured) == count(plain)
    assert favoured["heads.a.weight"].sum() > plain["heads.a.weight"].sum()
    with pytest.raises(ValueError, match="factors weigh tasks, and method snip asks them all as one"):
        make_plan(method("snip"), Settings(factors={"a": 2.0}))
    plan = make_plan(method("disparse_static"), Settings(factors={"c": 2.0}))
    with pytest.raises(ValueError, match="factor of task 'c': the tasks are a, b"):
        check_plan(net.model, plan, net.owners)
    with pytest.raises(ValueError, match="factors divide rank fractions"):
        make_plan(method("disparse_static"), Settings(arbiter="share", factors={"a": 2.0}))


def test_one_task_of_weight_one_equals_snip(tiny):
    net = tiny("a")
    net.weights["a"] = 1.0
    assert mask_hash(mask_of(net, "disparse_static")) == mask_hash(mask_of(net, "snip"))


def test_the_summed_loss_uses_the_loss_weights(tiny):
    net = tiny("a", "b")
    one = mask_of(net, "snip")
    net.weights = {"a": 100.0, "b": 0.01}
    assert mask_hash(one) != mask_hash(mask_of(net, "snip"))


def test_seed_decides_noise_and_xavier_but_not_magnitude(tiny):
    net = tiny("a", "b")
    for name, same in [
        ("random", False),
        ("disparse_static", False),
        ("magnitude", True),
        ("disparse_pt", True),
    ]:
        hashes = [mask_hash(mask_of(net, name, seed=seed)) for seed in (0, 0, 1)]
        assert hashes[0] == hashes[1]
        assert (hashes[0] == hashes[2]) == same


def test_score_init_own_scores_the_networks_own_weights(tiny):
    net = tiny("a", "b")
    own = mask_of(net, "disparse_static", score_init="own")
    assert mask_hash(own) != mask_hash(mask_of(net, "disparse_static"))
    assert mask_hash(own) == mask_hash(mask_of(net, "disparse_pt", criterion="snip"))


def test_xavier_copy(tiny):
    net = tiny("a", "b")
    twin, again = xavier_copy(net.model, 3), xavier_copy(net.model, 3)
    changed = {n for n, p in twin.named_parameters() if not torch.equal(p, net.model.get_parameter(n))}
    assert changed == set(prunable(net.model))
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), again.parameters(), strict=True))
    big = xavier_copy(torch.nn.Conv2d(64, 32, 3), 0).weight
    assert big.std().item() == pytest.approx(math.sqrt(2 / (9 * (64 + 32))), rel=0.02)


def test_xavier_copy_draws_the_weights_it_is_told():
    model = torch.nn.Sequential(torch.nn.Embedding(30, 20), torch.nn.Linear(20, 4), torch.nn.LayerNorm(4))
    twin = xavier_copy(model, 3, ["0.weight", "2.weight"])
    assert torch.equal(twin[1].weight, model[1].weight) and torch.equal(twin[2].weight, model[2].weight)
    assert twin[0].weight.std().item() == pytest.approx(math.sqrt(2 / 50), rel=0.1)  # of N(0, 1) before
    assert torch.equal(xavier_copy(model, 3)[1].weight, xavier_copy(model, 3, ["1.weight"])[1].weight)


def test_scope_backbone_refers_the_ratio_to_shared_weights(tiny):
    net = tiny("a", "b", "c")
    mask = mask_of(net, "disparse_static", scope="backbone", ratio=75)
    assert list(mask) == ["stem.weight", "trunk.weight", "branch.weight"]
    assert size(mask) == 72 + 144 + 16
    assert count(mask) == 58
    with pytest.raises(ValueError, match="scope 'backbone' holds no prunable weight"):
        mask_of(tiny("a"), "disparse_static", scope="backbone")


@pytest.mark.parametrize("budget", ["global", "erk", "uniform"])
def test_protected_layers_stay_dense_and_count(tiny, budget):
    net = tiny("a", "b")
    mask = mask_of(net, "disparse_static", protect=("stem", "heads.*"), ratio=60, budget=budget)
    assert mask["stem.weight"].all() and mask["heads.a.weight"].all()
    assert count(mask) == keep_count(total(net), 60)
    with pytest.raises(ValueError, match="protected layers hold 72 weights, more than the 26 of 256 to keep"):
        mask_of(net, "snip", protect=("stem",))


def test_keep_ratio_is_the_published_rule(tiny):
    net = tiny("a", "b")
    mask = mask_of(net, "disparse_static", keep_ratio=0.25, protect=("stem",))
    scores = score(
        xavier_copy(net.model, 0), task_voters(net.losses, net.owners), enumerate(net.batches), "snip"
    )
    expected = {("stem.weight", i) for i in range(72)}
    for of in scores.values():
        free = [
            (value, (n, i))
            for n in of
            if n != "stem.weight"
            for i, value in enumerate(of[n].reshape(-1).tolist())
        ]
        expected |= {weight for _, weight in sorted(free, reverse=True)[: int(len(free) * 0.25)]}
    assert reference.as_set(mask) == expected


@pytest.mark.parametrize(("protect", "kept"), [((), 0), (("trunk",), 144), (("*",), 144)])
def test_keep_ratio_with_weights_that_no_task_owns(tiny, protect, kept):
    net = tiny("a", "b")
    net.owners["trunk.weight"] = frozenset()
    mask = mask_of(net, "disparse_static", keep_ratio=0.25, protect=protect)
    assert list(mask) == list(prunable(net.model))
    assert int(mask["trunk.weight"].sum()) == kept
    assert protect != ("*",) or count(mask) == size(mask)


@pytest.mark.parametrize("budget", ["global", "erk", "uniform"])
def test_no_pool_grows_from_round_to_round(tiny, budget):
    net = tiny("a", "b")
    for rounds in (2, 11, 60):
        plan = make_plan(method("magnitude"), Settings(ratio=20, rounds=rounds, budget=budget))
        budgets = make_budgets(net.model, plan, net.owners)
        keeps = [[pool.keep for pool in each] for each in budgets]
        for earlier, later in zip(keeps, keeps[1:], strict=False):
            assert all(before >= after for before, after in zip(earlier, later, strict=True))
        assert sum(keeps[-1]) == keep_count(256, 20)


def test_rounds_reach_the_same_count_with_another_mask(tiny):
    net = tiny("a", "b")
    once, often = mask_of(net, "disparse_static"), mask_of(net, "disparse_static", rounds=5)
    assert count(once) == count(often) == keep_count(total(net), 90)
    assert mask_hash(once) != mask_hash(often)
    plan = make_plan(method("snip"), Settings(rounds=2))
    with pytest.raises(ValueError, match="several rounds read the batches several times"):
        make_mask(net.model, plan, electorate(net), enumerate(net.batches))


def test_a_method_that_trains_between_rounds_starts_with_the_first(tiny):
    net = tiny("a", "b")
    plan = make_plan(method("imp"), Settings(ratio=90))
    budgets = make_budgets(net.model, plan, net.owners)
    assert [b[0].keep for b in budgets][-1] == keep_count(total(net), 90)
    assert len(budgets) == 11
    assert count(make_mask(net.model, plan, electorate(net), [])) == budgets[0][0].keep


def test_rounds_never_prune_into_protected_layers(tiny):
    net = tiny("a", "b")
    mask = mask_of(net, "snip", rounds=4, protect=("branch",), ratio=90)
    assert mask["branch.weight"].all()
    assert count(mask) == keep_count(total(net), 90)


def test_shuffle_keeps_densities(tiny):
    net = tiny("a", "b")
    plain, shuffled = mask_of(net, "disparse_static"), mask_of(net, "disparse_static", shuffle=True)
    assert {n: int(m.sum()) for n, m in plain.items()} == {n: int(m.sum()) for n, m in shuffled.items()}
    assert mask_hash(plain) != mask_hash(shuffled)


def test_weights_that_no_task_owns_go_first(tiny):
    net = tiny("a", "b")
    net.owners["trunk.weight"] = frozenset()
    mask = mask_of(net, "disparse_static", ratio=50)
    assert not mask["trunk.weight"][1:].any()
    assert count(mask) == 128


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"criterion": "snap"}, "criterion 'snap' is not one of"),
        ({"arbiter": "x"}, "arbiter 'x' is not one of"),
        ({"budget": "x"}, "budget 'x' is not one of erk, global, uniform"),
        ({"scope": "x"}, "scope 'x' is not one of all, backbone"),
        ({"score_init": "x"}, "score_init 'x' is not one of own, xavier"),
        ({"ratio": 100}, "ratio 100 is not a number"),
        ({"rounds": 0}, "rounds 0 is not a whole number"),
        ({"keep_ratio": 0.1, "budget": "erk"}, "keep ratio 0.1 is a rule for one global round"),
        ({"keep_ratio": 0.1, "rounds": 2}, "keep ratio 0.1 is a rule for one global round"),
        ({"keep_ratio": 0.1, "arbiter": "share"}, "keep ratio 0.1 is a rule for one ranking before training"),
    ],
)
def test_a_plan_complains_before_anything_is_computed(settings, words):
    with pytest.raises(ValueError, match=words):
        make_plan(method("disparse_static"), Settings(**settings))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("gmp", {"shuffle": True}, "permutes the weights of one choice, and method gmp chooses again"),
        ("ac_dc", {"shuffle": True}, "method ac_dc chooses again while it trains: choose a method that"),
        ("top_kast", {"shuffle": True}, "method top_kast chooses again while it trains"),
        ("imp", {"shuffle": True}, "shuffle permutes the weights of one choice, and retrain makes several"),
        ("top_kast", {"keep_ratio": 0.05, "budget": "global"}, "keep ratio 0.05 is .* or method top_kast"),
        ("set", {"voters": "tasks"}, "voters 'tasks' have no say in method set, which draws its first mask"),
    ],
)
def test_what_a_row_cannot_do_is_refused(name, settings, words):
    with pytest.raises(ValueError, match=words):
        make_plan(method(name), Settings(**settings))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("imp", {"shuffle": True, "rounds": 1}),
        ("rigl", {"shuffle": True, "start_mask": "snip"}),
        ("synflow", {"shuffle": True}),
        ("set", {"voters": "joint"}),
        ("set", {"voters": "joint", "start_mask": "disparse_static"}),
        ("rigl", {"keep_ratio": 0.05, "budget": "global"}),
    ],
)
def test_what_a_row_can_do_is_planned(name, settings):
    asked = make_plan(method(name), Settings(**settings)).asked
    assert {key: asked[key] for key in settings if key != "start_mask"} == {
        key: value for key, value in settings.items() if key != "start_mask"
    }


def test_a_new_criterion_is_one_function_and_one_line(tiny, monkeypatch):
    """Keep what is closest to 1: registered here, used by a new row and by an old one."""
    near_one = Criterion(lambda w, g, chance: -(w - 1).abs(), formula="-|w - 1|")
    monkeypatch.setitem(CRITERIA, "near_one", near_one)
    net = tiny("a", "b")
    with torch.no_grad():
        net.model.trunk.weight[0].fill_(1.0)
    plan = make_plan(Method("near", setup="static", criterion="near_one", summary=""), Settings(ratio=90))
    mask = make_mask(net.model, plan, electorate(net), [])
    values = torch.cat([w.detach().reshape(-1) for w in prunable(net.model).values()])
    nearest = (values - 1).abs().argsort(stable=True)[: keep_count(256, 90)]
    kept = torch.cat([of.reshape(-1) for of in mask.values()])
    assert kept.nonzero().flatten().tolist() == sorted(nearest.tolist())
    assert int(mask["trunk.weight"][0].sum()) == 26
    assert mask_hash(mask_of(net, "magnitude", criterion="near_one")) == mask_hash(mask)
