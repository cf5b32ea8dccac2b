"""Hooks against explicit calls: the same bits, whatever trains the network."""

import copy
import re

import pytest
import torch
from torch import nn

from prune_utils import Growth, Masked, Regrowth, Rounds, Schedule, count, prunable, task_voters

from .test_masked import OPTIMIZERS, half
from .test_regrow import sparse
from .test_rounds import budgets

KINDS = OPTIMIZERS | {
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=True),
    "fused": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1, fused=True),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.05, momentum=0.5),
}


class Lookahead(torch.optim.Optimizer):
    """Every step of the optimizer inside, then halfway back to where the weights were before."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        super().__init__([{"params": group["params"]} for group in optimizer.param_groups], {})
        weights = [weight for group in self.param_groups for weight in group["params"]]
        self.slow = [(weight, weight.detach().clone()) for weight in weights]

    @torch.no_grad()
    def step(self):
        self.optimizer.step()
        for weight, slow in self.slow:
            weight.copy_(slow.lerp_(weight, 0.5))


def raises(sentence):
    """ValueError with this sentence and nothing else."""
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}$")


def loss_of(net, batch):
    predictions = net.model(batch[0])
    return sum(loss(predictions, batch[1]) for loss in net.losses.values())


def make(net, kind, optimizers):
    """A mask that stays, moves or shrinks; optimizers: for the one that needs them."""
    if kind == "masked":
        return Masked(net.model, half(net.model))
    if kind == "regrowth":
        growth = Growth(task_voters(net.losses, net.owners), seed=3)
        return Regrowth(net.model, sparse(net.model), optimizers, Schedule(6, 2), growth)
    return Rounds(net.model, half(net.model), budgets(net.model, 100, 60), 2)


def run(net, sparsity, optimizers, explicit, steps=7, accumulate=1, clip=None):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for step in range(1, steps + 1):
            batch = net.batches[step % 2]
            for optimizer in optimizers:
                optimizer.zero_grad()
            for _ in range(accumulate):
                (loss_of(net, batch) / accumulate).backward()
            if explicit:
                sparsity.mask_gradients()
            for name, weight in prunable(net.model).items():
                assert not weight.grad[~sparsity.mask[name]].any()
            if clip:
                nn.utils.clip_grad_norm_(net.model.parameters(), clip)
            sparsity.batch = batch
            for optimizer in optimizers:
                optimizer.step()
            if explicit:
                sparsity.figures = sparsity.after_step(step, batch) or sparsity.figures
    return net, sparsity, optimizers


def assert_the_same(first, second):
    (net, sparsity, optimizers), (other, others, their_optimizers) = first, second
    assert all(torch.equal(sparsity.mask[name], kept) for name, kept in others.mask.items())
    pairs = zip(net.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    for optimizer, theirs in zip(optimizers, their_optimizers, strict=True):
        states = zip(optimizer.state.values(), theirs.state.values(), strict=True)
        assert all(torch.equal(a[key], b[key]) for a, b in states for key in a if torch.is_tensor(a[key]))
    assert (sparsity.step, sparsity.state_dict()["mask"].keys()) == (others.step, others.mask.keys())


@pytest.mark.parametrize("optimizer", sorted(KINDS))
@pytest.mark.parametrize("kind", ["masked", "regrowth", "rounds"])
def test_hooks_and_calls_give_the_same_bits(tiny, kind, optimizer):
    ends = []
    for explicit in (True, False):
        net = tiny("a", "b", "c")
        optimizers = [KINDS[optimizer](net.model.parameters())]
        sparsity = make(net, kind, optimizers)
        if not explicit:
            assert sparsity.attach(*optimizers) is sparsity
        ends.append(run(net, sparsity, optimizers, explicit, accumulate=2, clip=0.1))
    assert_the_same(*ends)
    assert ends[0][1].step == 7
    assert kind == "masked" or not all(torch.equal(half(net.model)[n], m) for n, m in sparsity.mask.items())
    assert all(not w[~sparsity.mask[n]].any() for n, w in prunable(net.model).items())


@pytest.mark.parametrize("kind", ["masked", "regrowth"])
def test_an_optimizer_around_another_writes_no_pruned_weight(tiny, kind):
    net = tiny("a", "b")
    dense = Lookahead(KINDS["sgd"](net.model.parameters()))  # remembers weights that are pruned now
    sparsity = make(net, kind, dense).attach(dense)
    for step in range(1, 7):
        dense.zero_grad()
        sparsity.batch = net.batches[step % 2]
        loss_of(net, sparsity.batch).backward()
        dense.step()
        sparsity.verify()
    assert sparsity.step == 6
    sparsity.detach()
    dense.step()
    with pytest.raises(ValueError, match="weights other than 0"):
        sparsity.verify()


@pytest.mark.parametrize("kind", ["masked", "regrowth"])
def test_several_optimizers(tiny, kind):
    ends = []
    for explicit in (True, False):
        net = tiny("a", "b")
        heads = list(net.model.heads.parameters())
        trunk = [p for name, p in net.model.named_parameters() if not name.startswith("heads")]
        optimizers = [KINDS["adam"](trunk), KINDS["sgd"](heads)]
        sparsity = make(net, kind, optimizers)
        if not explicit:
            sparsity.attach(*optimizers)
        ends.append(run(net, sparsity, optimizers, explicit))
    assert_the_same(*ends)


def test_grown_weights_are_fresh_in_whichever_optimizer_holds_them(tiny):
    net = tiny("a", "b")
    heads = list(net.model.heads.parameters())
    trunk = [p for name, p in net.model.named_parameters() if not name.startswith("heads")]
    optimizers = [KINDS["adam"](trunk), KINDS["adam"](heads)]
    sparsity = make(net, "regrowth", None).attach(*optimizers)
    run(net, sparsity, optimizers, False, steps=1)
    before = sparsity.mask
    run(net, sparsity, optimizers, False, steps=1)
    seen = 0
    for name, weight in prunable(net.model).items():
        grown = sparsity.mask[name] & ~before[name]
        state = (optimizers[1] if name.startswith("heads") else optimizers[0]).state[weight]
        assert not state["exp_avg"][grown].any() and not weight[grown].any()
        seen += int(grown.sum()) > 0
    assert seen > 2


def test_a_scaler_finds_no_overflow_in_pruned_gradients(tiny):
    """Unscaling and its search for inf see masked gradients, so the step is not left out."""
    net = tiny("a")
    sparsity = Masked(net.model, half(net.model))
    optimizer = KINDS["sgd"](net.model.parameters())
    sparsity.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    weight = net.model.trunk.weight
    before = weight.detach().clone()
    pruned = (~sparsity.mask["trunk.weight"]).nonzero()[0].tolist()
    scaler.scale(loss_of(net, net.batches[0]) + weight[tuple(pruned)] * float("inf")).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert sparsity.step == 1 and not torch.equal(weight, before)
    assert torch.isfinite(weight).all() and sparsity.verify()["kept"] == count(sparsity.mask)


def test_lbfgs_with_a_closure(tiny):
    ends = []
    for explicit in (True, False):
        net = tiny("a")
        net.model.drop.p = 0.0
        optimizer = torch.optim.LBFGS(net.model.parameters(), lr=0.1, max_iter=3)
        sparsity = Masked(net.model, half(net.model))
        if not explicit:
            sparsity.attach(optimizer)

        def closure(net=net, optimizer=optimizer, sparsity=sparsity, explicit=explicit):
            optimizer.zero_grad()
            loss = loss_of(net, net.batches[0])
            loss.backward()
            if explicit:
                sparsity.mask_gradients()
            return loss

        for step in (1, 2, 3):
            optimizer.step(closure)
            if explicit:
                sparsity.after_step(step, None)
        ends.append((net, sparsity, []))
    assert_the_same(*ends)


def test_a_mask_that_moves_refuses_lbfgs(tiny):
    net = tiny("a")
    optimizer = torch.optim.LBFGS(net.model.parameters())
    for kind in ("regrowth", "rounds"):
        with raises(
            "LBFGS keeps one history of all weights together, which goes wrong where a mask moves: use an "
            "optimizer with state for each weight, or a method whose mask stays"
        ):
            make(net, kind, None).attach(optimizer)


def test_gradients_put_there_by_hand_are_masked_before_the_step(tiny):
    """As methods do that combine the tasks' gradients themselves."""
    ends = []
    for explicit in (True, False):
        net = tiny("a")
        optimizers = [KINDS["adam"](net.model.parameters())]
        sparsity = Masked(net.model, half(net.model))
        if not explicit:
            sparsity.attach(*optimizers)
        for step in (1, 2, 3):
            for weight in net.model.parameters():
                weight.grad = torch.full_like(weight, float(step))
            if explicit:
                sparsity.mask_gradients()
            optimizers[0].step()
            if explicit:
                sparsity.after_step(step, None)
        ends.append((net, sparsity, optimizers))
    assert_the_same(*ends)


def test_detached_weights_are_held_no_longer(tiny):
    net = tiny("a")
    optimizers = [KINDS["sgd"](net.model.parameters())]
    sparsity = Masked(net.model, half(net.model)).attach(*optimizers)
    with raises("the mask is attached already: detach it first, or give all optimizers in one call"):
        sparsity.attach(*optimizers)
    sparsity.detach()
    loss_of(net, net.batches[0]).backward()
    optimizers[0].step()
    assert net.model.trunk.weight[~sparsity.mask["trunk.weight"]].any()
    assert not sparsity.attached and sparsity.step == 0
    sparsity.detach()  # once more changes nothing
    assert sparsity.attach(*optimizers).attached


def test_copies_and_files_carry_no_hooks(tiny, tmp_path):
    net = tiny("a")
    optimizers = [KINDS["sgd"](net.model.parameters())]
    sparsity = Masked(net.model, half(net.model)).attach(*optimizers)
    twin = copy.deepcopy(net.model)
    torch.save(net.model, tmp_path / "whole.pth")
    net.model = twin
    loss_of(net, net.batches[0]).backward()
    assert twin.heads.a.weight.grad[~sparsity.mask["heads.a.weight"]].any()


def test_what_cannot_be_attached_is_said(tiny):
    net, other = tiny("a"), tiny("a")
    sparsity = Masked(net.model, half(net.model))
    with raises("attach needs the optimizers that train the network"):
        sparsity.attach()
    with raises(
        "str is not a torch.optim.Optimizer, whose step can be followed: call mask_gradients() before its "
        "step and after_step(step, batch) after it, step = 1, 2, ..."
    ):
        sparsity.attach("adam")
    with raises(
        "the optimizers hold no weight of the mask: make them from the parameters of the pruned network, "
        "after it was loaded and moved"
    ):
        sparsity.attach(KINDS["sgd"](other.model.parameters()))


def test_an_optimizer_of_parameters_that_were_replaced_is_refused(tiny):
    net, other = tiny("a"), tiny("a")
    optimizer = KINDS["sgd"](net.model.parameters())
    sparsity = Masked(net.model, half(net.model)).attach(optimizer)
    net.model.load_state_dict(other.model.state_dict(), assign=True)
    loss_of(net, net.batches[0]).backward()
    with pytest.raises(
        ValueError, match="'stem.weight' of the network is not the parameter that the optimizer"
    ):
        optimizer.step()
    sparsity.detach()
    sparsity.attach(KINDS["sgd"](net.model.parameters()))


def test_a_mask_that_moves_says_what_it_needs(tiny):
    net = tiny("a")
    optimizer = KINDS["sgd"](net.model.parameters())
    growth = Growth(task_voters(net.losses, net.owners))
    sparsity = Regrowth(net.model, sparse(net.model), None, Schedule(9, 1), growth)
    with raises("no optimizer is known, whose state must be fresh for grown weights: attach it"):
        sparsity.after_step(1, net.batches[0])
    sparsity.attach(optimizer)
    with raises(
        "the mask moves after step 2 and needs the step's batch: set `batch` before the optimizer's step, or "
        "pass `batches`"
    ):
        optimizer.step()


@pytest.mark.parametrize("form", ["list", "loader"])
def test_growth_on_batches_of_its_own_in_turn(tiny, form):
    """Update u votes on batch u; the stream of chance that training draws from does not move."""
    ends = []
    for explicit in (True, False):
        net = tiny("a", "b")
        loader = torch.utils.data.DataLoader(net.batches, batch_size=None)
        optimizers = [KINDS["adam"](net.model.parameters())]
        growth = Growth(task_voters(net.losses, net.owners))
        given = {"batches": net.batches if form == "list" else loader}
        sparsity = Regrowth(net.model, sparse(net.model), None, Schedule(9, 1), growth, **given)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            if explicit:
                sparsity.optimizers = tuple(optimizers)
            else:
                sparsity.attach(*optimizers)
            for step in (1, 2, 3):
                optimizers[0].zero_grad()
                loss_of(net, net.batches[0]).backward()
                if explicit:
                    sparsity.mask_gradients()
                optimizers[0].step()
                if explicit:
                    sparsity.after_step(step, net.batches[(step - 1) % 2])
        ends.append((net, sparsity, optimizers))
    assert_the_same(*ends)
    assert ends[1][1].figures["dropped"] > 0


def test_a_second_mask_of_the_same_weights_takes_the_first_ones_place(tiny):
    net = tiny("a")
    optimizer, dense = KINDS["sgd"](net.model.parameters()), copy.deepcopy(net.model.state_dict())
    first = Masked(net.model, half(net.model)).attach(optimizer)
    net.model.load_state_dict(dense)
    second = Masked(net.model, {name: ~kept for name, kept in first.mask.items()}).attach(optimizer)
    assert second.attached and not first.attached
    loss_of(net, net.batches[0]).backward()
    optimizer.step()
    assert (first.step, second.step) == (0, 1)
    for name, weight in prunable(net.model).items():
        kept = second.mask[name]
        assert weight.grad[kept].any() and weight[kept].any() and not weight[~kept].any()
    first.detach()
    assert second.attached


def test_masks_of_other_weights_go_together_and_of_some_of_them_do_not(tiny):
    net = tiny("a")
    optimizer = KINDS["sgd"](net.model.parameters())
    mask = half(net.model)
    trunk = Masked(net.model, {name: mask[name] for name in ("stem.weight", "trunk.weight")})
    head = Masked(net.model, {"heads.a.weight": mask["heads.a.weight"]}).attach(optimizer)
    trunk.attach(optimizer)
    assert trunk.attached and head.attached
    with raises(
        "another mask is attached to 'trunk.weight' of this network, and to weights beside: detach it first"
    ):
        Masked(net.model, {"trunk.weight": mask["trunk.weight"]}).attach(optimizer)
    whole = Masked(net.model, mask).attach(optimizer)  # all that the others hold
    assert whole.attached and not trunk.attached and not head.attached


def test_weights_that_are_unfrozen_later_have_masked_gradients_from_then_on(tiny):
    net = tiny("a")
    optimizer, sparsity = KINDS["sgd"](net.model.parameters()), Masked(net.model, half(net.model))
    net.model.trunk.weight.requires_grad_(False)
    sparsity.attach(optimizer)
    assert not net.model.trunk.weight.requires_grad
    loss_of(net, net.batches[0]).backward()
    assert net.model.trunk.weight.grad is None
    net.model.trunk.weight.requires_grad_(True)
    loss_of(net, net.batches[0]).backward()
    gradient, kept = net.model.trunk.weight.grad, sparsity.mask["trunk.weight"]
    assert gradient[kept].any() and not gradient[~kept].any()


def test_weights_of_a_group_that_is_added_later_are_held_too(tiny):
    net = tiny("a")
    trunk, head = net.model.trunk.weight, net.model.heads.a.weight
    first, last = KINDS["sgd"]([net.model.stem.weight]), KINDS["sgd"]([head])
    sparsity = Masked(net.model, half(net.model)).attach(first, last)
    first.add_param_group({"params": [trunk]})
    pruned = ~sparsity.mask["trunk.weight"]
    trunk.grad = torch.ones_like(trunk)  # not from backward
    first.step()
    assert not trunk.grad[pruned].any() and not trunk[pruned].any()
    net.model.trunk.weight = nn.Parameter(trunk.detach().clone())
    with pytest.raises(ValueError, match="'trunk.weight' of the network is not the parameter"):
        first.step()
