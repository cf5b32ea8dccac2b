"""The library's contract on a small network, with scores of the user's own."""

import math
from contextlib import nullcontext

import pytest
import torch

from prune_utils import contract, count, mask_hash, prunable
from prune_utils.bootstrap import Bootstrap
from prune_utils.multiply_adds import weight_uses


def kept_of(model, names):
    weights = prunable(model)
    return sum(int(weights[name].count_nonzero()) for name in names) / sum(weights[n].numel() for n in names)


def arrange(net):
    """Scores are the shares that the heads keep: exact, and only a head's own factor helps it."""
    scores = {task: lambda model, task=task: kept_of(model, [f"heads.{task}.weight"]) for task in net.losses}

    def finetune(model, sparsity):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        sparsity.attach(optimizer)
        optimizer.step()

    return net.model, net.losses, net.batches, scores, finetune


def test_the_found_network_keeps_its_limits_and_is_as_small_as_the_next_would_not_be(tiny):
    net = tiny("a", "b")
    found = contract(*arrange(net), {"a": 30, "b": 60}, resolution=5, smallest=2, floor=0)
    assert found.best is max((done for done in found.rounds if done.kept), key=lambda done: done.trial.level)
    assert (
        count(found.sparsity.mask)
        == found.best.trial.keep
        < 0.6 * sum(w.numel() for w in prunable(net.model).values())
    )
    assert found.best.drops["a"] <= 30 and found.best.drops["b"] <= 60
    above = [done for done in found.rounds if done.trial.level == found.best.trial.level + 1]
    assert above and not any(done.kept for done in above)
    assert found.best.drops == {
        task: pytest.approx(100 * (1 - kept_of(net.model, [f"heads.{task}.weight"]))) for task in ("a", "b")
    }
    verified = found.sparsity.verify()
    assert verified["kept"] == found.best.trial.keep and not found.sparsity.attached
    assert found.sparsity.certificate["asked"]["limits"] == {"a": 30, "b": 60}


def test_factors_give_smaller_networks_where_limits_are_lopsided(tiny):
    limits = {"a": 30, "b": math.inf}
    turned = contract(*arrange(tiny("a", "b")), limits, criterion="snip", resolution=5, smallest=2, floor=0)
    alike = contract(
        *arrange(tiny("a", "b")), limits, criterion="snip", resolution=5, smallest=2, floor=0, turns=0
    )
    assert turned.best.trial.keep < alike.best.trial.keep
    assert turned.best.trial.factors["a"] > turned.best.trial.factors["b"] == 1


def test_masks_nest_and_the_same_call_gives_the_same_network(tiny):
    hashes, masks, trained = [], [], []
    for _ in range(2):
        net = tiny("a", "b")
        model, losses, batches, scores, finetune = arrange(net)
        score = scores["a"]
        looks = []  # the first is at the dense network; a round that pruning alone breaks has two

        def looked(model, score=score, looks=looks):
            looks.append({name: weight != 0 for name, weight in prunable(model).items()})
            return score(model)

        def counted(model, sparsity, finetune=finetune):
            trained.append(sparsity)
            finetune(model, sparsity)

        scores["a"] = looked
        found = contract(
            model, losses, batches, scores, counted, {"a": 40, "b": 40}, criterion="snip", resolution=5
        )
        hashes.append(mask_hash(found.sparsity.mask))
        masks.append(looks[1:])
    assert hashes[0] == hashes[1]
    assert len(trained) == 2 * sum(not done.kept for done in found.rounds)  # training changes nothing here
    kept, place = [], 0
    for done in found.rounds:
        kept += [masks[0][place]] if done.kept else []
        place += 1 if done.kept else 2
    assert len(kept) > 2
    for larger, smaller in zip(kept, kept[1:], strict=False):
        assert all((larger[name] | ~smaller[name]).all() for name in larger)


def test_multiply_adds_are_made_few_and_kernels_go_whole(tiny):
    net = tiny("a", "b")
    uses = weight_uses(net.model, net.batches[0])
    shared = dict(resolution=10, smallest=2, floor=0)
    found = contract(*arrange(net), {"a": 40, "b": 40}, ratio_of="macs", **shared)
    mask = found.sparsity.mask
    cost = sum(uses[name] * int(kept.sum()) for name, kept in mask.items())
    total = sum(uses[name] * kept.numel() for name, kept in mask.items())
    assert found.best.trial.keep - max(uses.values()) < cost <= found.best.trial.keep < total
    assert found.sparsity.certificate["macs"] == {"kept": cost, "total": total}
    kernels = contract(
        *arrange(tiny("a", "b")), {"a": 0, "b": 0}, granularity="kernel", protect="heads.*", **shared
    )
    for kept in kernels.sparsity.mask.values():
        assert kept.dim() < 4 or (kept.flatten(2).all(2) | ~kept.flatten(2).any(2)).all()
    assert kernels.best.trial.level == max(done.trial.level for done in kernels.rounds) > 0


def never_drop(net):
    return net.model, net.losses, net.batches, dict.fromkeys(net.losses, lambda model: 1.0)


@pytest.mark.parametrize(("granularity", "least"), [("weight", 5), ("kernel", 9 + 9 + 1 + 1 + 1)])
def test_scores_that_never_drop_end_where_the_floor_asks_for_a_unit_of_every_layer(tiny, granularity, least):
    given = dict(criterion="magnitude", granularity=granularity)
    found = contract(*never_drop(tiny("a", "b")), lambda *_: None, {"a": 1, "b": 1}, **given)
    assert count(found.sparsity.mask) == found.best.trial.keep == least
    assert all(kept.any() for kept in found.sparsity.mask.values())


def test_sizes_of_a_table_that_are_too_small_for_the_floor_are_left_out(tiny):
    given = dict(finetune=lambda *_: None, limits={"a": 1, "b": 1}, criterion="magnitude")
    table = {sum(weight.numel() for weight in prunable(tiny("a", "b").model).values()): 3.0, 2: 1.0}
    with pytest.raises(ValueError, match="no size below the whole network, .* the floor 0.1 of every layer"):
        contract(*never_drop(tiny("a", "b")), latencies=table, **given)
    found = contract(*never_drop(tiny("a", "b")), latencies=table | {40: 2.0}, **given)
    assert count(found.sparsity.mask) == found.best.trial.keep == 40 and len(found.rounds) == 1


@pytest.mark.parametrize("score", [torch.ones(3, 2), torch.ones(0)])
def test_scores_of_another_shape_are_refused_before_any_training(tiny, score):
    def never(model, sparsity):
        raise AssertionError("trained")

    model, losses, batches, scores = never_drop(tiny("a", "b"))
    scores["b"] = lambda model: score
    with pytest.raises(ValueError, match="score 'b' is of shape .*: give one number, or one for every image"):
        contract(model, losses, batches, scores, never, {"a": 1, "b": 1})


@pytest.mark.parametrize("limit", [50, 0])
def test_every_score_sees_the_modes_of_the_beginning_and_so_does_the_user(tiny, limit):
    model, losses, batches, *_ = arrange(tiny("a", "b"))
    model.eval()
    model.heads["a"].train()
    before, seen = [module.training for module in model.modules()], []

    def score(model):
        seen.append([module.training for module in model.modules()])
        model.train()  # which the next score shall not see
        return kept_of(model, prunable(model))

    def finetune(model, sparsity):
        model.train()

    given = model, losses, batches, dict.fromkeys(losses, score), finetune, dict.fromkeys(losses, limit)
    with (
        nullcontext() if limit else pytest.raises(ValueError, match="no smaller network keeps the limit 0 %")
    ):
        contract(*given, resolution=20, smallest=20)
    assert len(seen) > 4 and all(modes == before for modes in seen)
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("score", [torch.tensor([True, True]), torch.tensor([3, 4]), torch.tensor(7)])
def test_scores_of_whole_numbers_count_as_any(tiny, score):
    model, losses, batches, scores = never_drop(tiny("a", "b"))
    scores["b"] = lambda model: score
    found = contract(model, losses, batches, scores, lambda *_: None, {"a": 1, "b": 1}, smallest=50)
    assert found.best.drops["b"] == 0
    scores["b"] = lambda model: torch.zeros_like(score)
    with pytest.raises(ValueError, match="the trained network's score of 'b' is 0"):
        contract(model, losses, batches, scores, lambda *_: None, {"a": 1, "b": 1})


@pytest.mark.parametrize("score", [0.0, math.nan, torch.zeros(4)])
def test_what_may_lose_anything_needs_no_score_to_lose(tiny, score):
    model, losses, batches, scores = never_drop(tiny("a", "b"))
    scores["b"] = lambda model: score
    limits = {"a": 1, "b": math.inf}
    found = contract(model, losses, batches, scores, lambda *_: None, limits, smallest=50)
    assert all(done.kept for done in found.rounds) and found.best.drops["b"] == math.inf


def test_batches_by_task_vote_as_batches_of_all(tiny):
    found = []
    for by_task in (False, True):
        net = tiny("a", "b")
        model, losses, batches, scores = never_drop(net)
        given = {task: iter(batches) for task in losses} if by_task else batches
        found.append(contract(model, losses, given, scores, lambda *_: None, {"a": 1, "b": 1}, smallest=30))
    assert mask_hash(found[0].sparsity.mask) == mask_hash(found[1].sparsity.mask)
    with pytest.raises(ValueError, match="batches by task are of a, the losses of a, b"):
        contract(model, losses, {"a": batches}, scores, lambda *_: None, {"a": 1, "b": 1})


def test_scores_by_image_are_bounded(tiny):
    """A drop of 4 % in the mean that some images do not share: the bound is that of their resamples."""
    net = tiny("a", "b")
    model, losses, batches, _, finetune = arrange(net)
    pruned = torch.tensor([1.0, 1.0, 0.9, 0.94])

    def by_image(model):
        whole = all(weight.count_nonzero() == weight.numel() for weight in prunable(model).values())
        return torch.ones(4) if whole else pruned

    scores = {"a": by_image, "b": lambda model: torch.ones(4)}
    bootstrap = Bootstrap(4, 99, 0.9)
    means = bootstrap.totals(pruned) / bootstrap.totals(torch.ones(4))
    bound = bootstrap.bound(100 * (1 - means))[1]
    assert 4 < bound < 10
    shared = dict(level=0.9, resamples=99, resolution=20, smallest=30, turns=0)
    with pytest.raises(ValueError, match=f"the best that was tried, .* loses {bound:.4g} %"):
        contract(model, losses, batches, scores, finetune, {"a": bound - 1e-6, "b": 1}, **shared)
    found = contract(model, losses, batches, scores, finetune, {"a": bound + 1e-6, "b": 1}, **shared)
    assert found.best.drops == {"a": pytest.approx(bound, abs=1e-6), "b": 0}
    assert [done.trial.level for done in found.rounds] == [5]


def test_bounds_are_as_precise_as_the_scores(tiny):
    """Every image loses 10 %, which float32 takes for 10.00000015, so that bound and drop are one."""
    model, losses, batches, _, finetune = arrange(tiny("a", "b"))

    def by_image(model):
        whole = all(weight.count_nonzero() == weight.numel() for weight in prunable(model).values())
        return torch.full((64,), 1.0 if whole else 0.9, dtype=torch.float64)

    scores = {"a": by_image, "b": lambda model: torch.ones(4)}
    shared = dict(level=0.9, resamples=99, resolution=20, smallest=30, turns=0)
    found = contract(model, losses, batches, scores, finetune, {"a": 10 + 1e-9, "b": 0}, **shared)
    assert found.best.drops == {"a": pytest.approx(10, abs=1e-11), "b": 0}


def test_a_network_that_cannot_keep_its_limits_is_as_it_was(tiny):
    net = tiny("a", "b")
    before = {name: value.clone() for name, value in net.model.state_dict().items()}
    model, losses, batches, scores, _ = arrange(net)
    tried = []

    def spoil(model, sparsity):
        with torch.no_grad():
            model.heads["a"].weight[0] = 0
        sparsity.zero_pruned()
        tried.append((round(100 * (1 - scores["a"](model)), 6), count(sparsity.mask)))

    with pytest.raises(ValueError, match="no smaller network keeps the limit 5 % of 'a'") as said:
        contract(model, losses, batches, scores, spoil, {"a": 5, "b": 5}, turns=0)
    whole = sum(weight.numel() for weight in prunable(model).values())
    assert [size for _, size in tried] == sorted({size for _, size in tried}) and tried[-1][1] < whole
    lost = min(lost for lost, _ in tried)
    size = next(size for of, size in tried if of == lost)
    assert str(said.value).endswith(f"of size {size} of {whole}, loses {lost:.4g} %")
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"limits": {"a": 1}}, "task 'b' has no limit"),
        ({"limits": {"a": 1, "b.x": 1}}, "limit 'b.x' is not one of a, b"),
        (
            {"method": "snip"},
            "a method whose tasks vote once on a trained network, .*, not 'snip'",
        ),
        ({"method": "imp"}, "a method whose tasks vote once on a trained network, .*, not 'imp'"),
        ({"method": "lamp"}, "factors weigh tasks|, such as disparse_pt, not 'lamp'"),
        ({"level": 1.5}, "level 1.5 is not a number between 0 and 1"),
        ({"granularity": "2:4"}, "granularity '2:4' fixes what each layer keeps"),
        ({"granularity": "fanin"}, "granularity 'fanin' fixes|granularity fanin needs a budget"),
        ({"resolution": 0}, "resolution 0 is not a number between 0 and 100"),
        ({"stride": 0}, "stride 0 is not a whole number"),
    ],
)
def test_mistakes_are_told_before_any_training(tiny, more, said):
    def never(model, sparsity):
        raise AssertionError("trained")

    model, losses, batches, scores, _ = arrange(tiny("a", "b"))
    given = {"limits": {"a": 1, "b": 1}} | more
    with pytest.raises(ValueError, match=said):
        contract(model, losses, batches, scores, never, **given)


def test_a_training_that_fails_leaves_nothing_behind(tiny):
    net = tiny("a", "b")
    model, losses, batches, scores, finetune = arrange(net)
    stem = model.stem.weight
    stem.grad = torch.ones_like(stem)
    model.branch.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = []

    def fail(model, sparsity):
        finetune(model, sparsity)
        held.append(sparsity)
        for weight in model.parameters():
            weight.requires_grad_(True)
        (sum(weight.sum() for weight in model.parameters())).backward()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contract(model, losses, batches, scores, fail, {"a": 0, "b": 0})
    assert not held[0].attached and not stem._post_accumulate_grad_hooks
    assert model.stem.weight.grad is stem.grad and (stem.grad == 1).all()
    assert all(weight.grad is None for weight in model.parameters() if weight is not stem)
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == [
        "branch.weight"
    ]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("given", "kind"), [(None, "NoneType"), ([1.0, 2.0], "list")])
def test_scores_that_are_none_are_refused_before_the_search(tiny, given, kind):
    net = tiny("a", "b")
    scores = {"a": lambda model: given, "b": lambda model: 1.0}
    said = f"^score 'a' is a {kind}: give one number, or a tensor of one for every image$"
    with pytest.raises(ValueError, match=said):
        contract(net.model, net.losses, net.batches, scores, never, LIMITS)


LIMITS = {"a": 1, "b": math.inf}


def never(model, sparsity):
    raise AssertionError("nothing is to be trained")


def test_finetune_must_be_a_function(tiny):
    net = tiny("a", "b")
    with pytest.raises(ValueError, match="^finetune is None, not a function of the network and what holds"):
        contract(net.model, net.losses, net.batches, {"a": lambda model: 1.0}, None, LIMITS)
