"""The training loop: steps, parts of a batch, losses that are not finite; on the meta device too."""

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from tasks.base import Target
from tests.training.examples import Small, make_batch, make_tasks
from training.learner import Learner, Objective
from training.loop import Diverged, Plan, make_optimizer, train
from training.sharing import parts
from training.sparsifier import Dense
from training.step import training_step

PLAN = Plan(steps=6, lr=0.1, weight_decay=0.0, step_every=2, step_factor=0.5, eval_every=4, log_every=2)
OBJECTIVE = Objective(make_tasks(), {"seg": 1.0, "depth": 20.0})


def learner(network, **changes):
    fabric = Fabric(accelerator="cpu", devices=1)
    network, optimizer = fabric.setup(network, make_optimizer(network, PLAN))
    given = {"objective": OBJECTIVE, "sparsifier": Dense()} | changes
    return Learner(fabric, network, optimizer, **given)


def still(seed=0):
    """The small network without dropout."""
    network = Small(seed)
    network.trunk[2].p = 0.0
    return network


def batches(start=0):
    return [make_batch(2, step) for step in range(start, PLAN.steps)]


def test_learning_rate_halves_every_two_steps():
    assert [PLAN.lr_at(step) for step in (1, 2, 3, 4, 5)] == [0.1, 0.1, 0.05, 0.05, 0.025]


def test_a_step_is_told_when_it_is_done():
    subject = learner(Small())
    before = [value.clone() for value in subject.network.parameters()]
    steps = train(subject, PLAN, batches())
    first = next(steps)
    assert (first.number, list(first.losses), first.mask) == (1, ["seg", "depth", "total"], {})
    moved = zip(before, subject.network.parameters(), strict=True)
    assert all(not torch.equal(old, new) for old, new in moved)
    assert [step.number for step in steps] == [2, 3, 4, 5, 6]
    assert subject.optimizer.param_groups[0]["lr"] == PLAN.lr_at(6)


def test_a_run_from_the_middle_takes_the_same_steps():
    whole, halves = Small(), Small()
    everything = [step.losses for step in train(learner(whole), PLAN, batches())]
    first = learner(halves)
    found = [step.losses for step in train(first, PLAN, batches()[:3])]
    torch.manual_seed(99)
    found += [step.losses for step in train(first, PLAN, batches(3), start=3)]
    assert found == everything
    assert all(torch.equal(whole.state_dict()[n], value) for n, value in halves.state_dict().items())


@pytest.mark.parametrize("task", ["seg", "depth"])
def test_a_loss_that_is_not_finite_names_step_task_and_checkpoint(task):
    network, plan = Small(), replace(PLAN, checkpoint_every=2)
    message = rf"loss of '{task}' became (nan|inf) in step 4; the last good checkpoint is of step 2"
    with pytest.raises(Diverged, match=message):
        for step in train(learner(network), plan, batches()):
            if step.number == 3:
                nn.init.constant_(network.heads[task].bias, math.inf)


@pytest.mark.parametrize(
    ("start", "every", "said"), [(0, 5, "no checkpoint was written yet"), (3, 5, "checkpoint is of step 3")]
)
def test_the_last_checkpoint_may_be_of_an_earlier_part_or_none(start, every, said):
    network, plan = Small(), replace(PLAN, checkpoint_every=every)
    nn.init.constant_(network.heads["seg"].bias, math.inf)
    with pytest.raises(ValueError, match=said):
        next(train(learner(network), plan, batches(start), start))


@pytest.mark.parametrize("count", [2, 3, 5, 50])
def test_parts_add_up_to_the_whole_batch(count):
    # images have unequal numbers of valid pixels, so that parts do not weigh the same
    batch = make_batch(5, 0)
    one, many = still(), still()
    whole, shares = training_step(learner(one), batch)
    summed, together = training_step(learner(many), batch, count)
    torch.testing.assert_close(together, shares, rtol=1e-6, atol=0)
    torch.testing.assert_close(summed, whole, rtol=1e-5, atol=0)
    for alone, together in zip(many.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(alone.grad, together.grad, rtol=1e-4, atol=1e-6)


def test_figures_are_the_unweighted_losses_and_their_weighted_sum():
    batch, network = make_batch(3, 1), still()
    seg, depth, total = training_step(learner(network), batch)[0].tolist()
    preds = network(batch[0])
    assert (seg, depth) == tuple(loss(preds, batch[1]).item() for loss in OBJECTIVE.losses.values())
    assert total == pytest.approx(seg + 20 * depth)


def test_parts_cover_the_batch_in_order():
    image, targets = make_batch(5, 0)
    pieces = parts((image, targets), 3)
    assert [len(piece) for piece, _ in pieces] == [2, 2, 1]
    assert torch.equal(torch.cat([piece for piece, _ in pieces]), image)
    assert torch.equal(torch.cat([target["seg"].value for _, target in pieces]), targets["seg"].value)


def test_mixed_precision_keeps_weights_and_losses_in_float32():
    network = still()
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    wrapped, optimizer = fabric.setup(network, make_optimizer(network, PLAN))
    mixed = Learner(fabric, wrapped, optimizer, OBJECTIVE, Dense())
    figures, _ = training_step(mixed, make_batch(3, 1))
    exact, _ = training_step(learner(still()), make_batch(3, 1))
    assert figures.dtype == torch.float32
    assert all(weight.dtype == weight.grad.dtype == torch.float32 for weight in network.parameters())
    torch.testing.assert_close(figures, exact, rtol=0.02, atol=0)
    assert not torch.equal(figures, exact)


def test_a_step_mixes_no_devices():
    """Tensors that were made in main memory fail on the meta device as they would on an accelerator."""
    network = Small().to("meta")
    image, targets = make_batch(3, 1)
    targets = {name: Target(*(part.to("meta") for part in target)) for name, target in targets.items()}
    stand_in = SimpleNamespace(
        world_size=1,
        no_backward_sync=lambda network, enabled: nullcontext(),
        backward=lambda loss: loss.backward(),
    )
    subject = Learner(stand_in, network, torch.optim.Adam(network.parameters()), OBJECTIVE, Dense())
    for accumulate in (1, 2):
        assert all(part.is_meta for part in training_step(subject, (image.to("meta"), targets), accumulate))
    subject.optimizer.step()
    assert all(weight.grad.is_meta for weight in network.parameters())


def without(batch, task, images):
    """The batch in which these images have no target for the task, as where a record says null."""
    image, targets = batch
    valid = targets[task].valid.clone()
    valid[images] = False
    return image, targets | {task: Target(targets[task].value, valid)}


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_an_image_without_a_target_trains_the_tasks_that_it_has(accumulate):
    batch = without(make_batch(4, 0), "seg", [1, 3])
    network, labelled = still(), still()
    (seg, depth, total), shares = training_step(learner(network), batch, accumulate)
    # by hand: seg is the loss of the images 0 and 2 alone, depth that of all four
    preds = labelled(batch[0])
    two = {name: Target(*(part[[0, 2]] for part in target)) for name, target in batch[1].items()}
    tasks = make_tasks()
    expected = (
        tasks["seg"].loss(preds["seg"][[0, 2]], two["seg"]),
        tasks["depth"].loss(preds["depth"], batch[1]["depth"]),
    )
    assert (seg.item(), depth.item()) == pytest.approx([loss.item() for loss in expected], rel=1e-5)
    assert total.item() == pytest.approx((expected[0] + 20 * expected[1]).item(), rel=1e-5)
    torch.testing.assert_close(shares, torch.ones(2))
    (expected[0] + 20 * expected[1]).backward()
    for found, wanted in zip(network.parameters(), labelled.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_without_a_task_leaves_it_out(accumulate):
    batch = without(make_batch(2, 0), "seg", [0, 1])
    network, alone = still(), still()
    training_step(learner(network), batch, accumulate)
    depth = make_tasks()["depth"].loss(alone(batch[0])["depth"], batch[1]["depth"])
    (20 * depth).backward()
    assert not any(value.grad.any() for value in network.heads["seg"].parameters())
    for found, wanted in zip(network.trunk.parameters(), alone.trunk.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-5, atol=1e-7)
    (step,) = train(learner(still()), replace(PLAN, accumulate=accumulate), [batch])
    assert step.losses == pytest.approx({"depth": depth.item(), "total": 20 * depth.item()}, rel=1e-5)


def owned(network):
    """Every parameter with its tasks: both, or that of its head."""
    return [
        (parameter, frozenset({name.split(".")[1]} if name.startswith("heads") else {"seg", "depth"}))
        for name, parameter in network.named_parameters()
    ]


def state_of(subject, network):
    """Weights and Adam's state, copied, by name."""
    return {
        name: [weight.detach().clone(), *(part.clone() for part in subject.optimizer.state[weight].values())]
        for name, weight in network.named_parameters()
    }


def test_the_state_of_adam_is_there_from_the_start():
    lazy, eager = still(), still()
    for parameter in lazy.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    for parameter in eager.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    plain, made = torch.optim.Adam(lazy.parameters(), lr=PLAN.lr, fused=True), make_optimizer(eager, PLAN)
    plain.step()
    made.step()
    for one, two in zip(lazy.parameters(), eager.parameters(), strict=True):
        assert torch.equal(one, two)
        assert {name: (v.dtype, v.tolist()) for name, v in plain.state[one].items()} == {
            name: (v.dtype, v.tolist()) for name, v in made.state[two].items()
        }


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_absent_task_leaves_its_weights_where_they_are(accumulate):
    # momentum of the step before and weight decay would move them
    network, plan = still(), replace(PLAN, accumulate=accumulate)
    subject = learner(network, owners=owned(network))
    subject.optimizer.param_groups[0]["weight_decay"] = 0.1
    given = [make_batch(2, 0), without(make_batch(2, 1), "seg", [0, 1]), make_batch(2, 2)]
    steps = train(subject, plan, given)
    next(steps)
    before = state_of(subject, network)
    next(steps)
    after = state_of(subject, network)
    for name, kept in before.items():
        still_there = all(torch.equal(*pair) for pair in zip(kept, after[name], strict=True))
        assert still_there == name.startswith("heads.seg"), name
    next(steps)
    assert not torch.equal(after["heads.seg.weight"][0], network.heads["seg"].weight)


def test_a_batch_without_any_task_changes_and_shows_nothing():
    network = still()
    subject = learner(network, owners=owned(network))
    empty = without(without(make_batch(2, 0), "seg", [0, 1]), "depth", [0, 1])
    steps = train(subject, PLAN, [make_batch(2, 1), empty])
    next(steps)
    before = state_of(subject, network)
    assert next(steps).losses == {}
    after = state_of(subject, network)
    assert all(torch.equal(*pair) for name in before for pair in zip(before[name], after[name], strict=True))
