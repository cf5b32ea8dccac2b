"""The training loop: steps, parts of a batch, evaluation, stopping; on the meta device too."""

import math
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from tasks.base import Target
from tests.training.examples import Small, make_batch, make_tasks
from training.interrupt import Interrupted
from training.loop import Hooks, Learner, Objective, Plan, make_optimizer, train, training_step
from training.sharing import parts
from training.sparsifier import Dense

PLAN = Plan(steps=6, lr=0.1, weight_decay=0.0, step_every=2, step_factor=0.5, eval_every=4, log_every=2)
OBJECTIVE = Objective(make_tasks(), {"seg": 1.0, "depth": 20.0})


class Silent:
    """A record that keeps what it is told."""

    def __init__(self):
        self.rows = []

    def add(self, step, phase, figures):
        if figures:
            self.rows.append((step, phase, figures))

    def tick(self, step, figures=None):
        pass


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


class Calls:
    """Hooks that note what is called; validation losses as given."""

    def __init__(self, losses=(3.0, 2.0), at_step=lambda step: None):
        self.losses, self.made = iter(losses), []
        self.hooks = Hooks(
            lambda start, stop: [make_batch(2, step) for step in range(start, stop)],
            lambda: {"loss/total": next(self.losses)},
            lambda step, loss: self.made.append(("best", step, loss)),
            lambda step, best: self.made.append(("save", step, best)),
            at_step,
        )


def test_learning_rate_halves_every_two_steps():
    assert [PLAN.lr_at(step) for step in (1, 2, 3, 4, 5)] == [0.1, 0.1, 0.05, 0.05, 0.025]


def test_rhythm_of_a_run():
    calls, record = Calls(), Silent()
    train(learner(Small()), PLAN, calls.hooks, record)
    assert [(step, phase) for step, phase, _ in record.rows] == [
        (2, "train"),
        (4, "train"),
        (4, "evaluate"),
        (6, "train"),
        (6, "evaluate"),
    ]
    assert calls.made == [("best", 4, 3.0), ("best", 6, 2.0)]
    assert list(record.rows[0][2]) == ["seg", "depth", "total", "lr"]


@pytest.mark.parametrize(
    ("losses", "best"),
    [((2.0, 3.0), [4]), ((math.nan, 3.0), [4, 6]), ((math.nan, math.nan), [4]), ((2.0, 2.0), [4])],
)
def test_best_is_kept_at_the_first_evaluation_and_when_it_improves(losses, best):
    calls = Calls(losses)
    train(learner(Small()), PLAN, calls.hooks, Silent())
    assert [step for what, step, _ in calls.made if what == "best"] == best


def test_a_run_from_the_middle_takes_the_same_steps():
    whole, halves = Small(), Small()
    train(learner(whole), PLAN, Calls().hooks, Silent())
    first = learner(halves)

    def stop(step):
        if step == 3:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        train(first, PLAN, Calls(at_step=stop).hooks, Silent())
    torch.manual_seed(99)
    train(first, PLAN, Calls().hooks, Silent(), start=3)
    assert all(torch.equal(whole.state_dict()[n], value) for n, value in halves.state_dict().items())


def test_a_signal_saves_and_ends_the_run_after_its_step():
    def interrupt(step):
        if step == 2:
            signal.raise_signal(signal.SIGTERM)

    calls, before = Calls(at_step=interrupt), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped after step 3; --resume continues") as stop:
        train(learner(Small()), PLAN, calls.hooks, Silent())
    assert calls.made == [("save", 3, None)] and stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("task", ["seg", "depth"])
def test_a_loss_that_is_not_finite_names_step_task_and_checkpoint(task):
    network = Small()

    def spoil(step):
        if step == 3:
            nn.init.constant_(network.heads[task].bias, math.inf)

    calls, plan = Calls(at_step=spoil), Plan(**(vars(PLAN) | {"checkpoint_every": 2}))
    message = rf"loss of '{task}' became (nan|inf) in step 4; the last good checkpoint is of step 2"
    with pytest.raises(ValueError, match=message):
        train(learner(network), plan, calls.hooks, Silent())


@pytest.mark.parametrize("count", [2, 3, 5, 50])
def test_parts_add_up_to_the_whole_batch(count):
    # images have unequal numbers of valid pixels, so that parts do not weigh the same
    batch = make_batch(5, 0)
    one, many = still(), still()
    whole = training_step(learner(one), batch)
    summed = training_step(learner(many), batch, count)
    torch.testing.assert_close(summed, whole, rtol=1e-5, atol=0)
    for alone, together in zip(many.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(alone.grad, together.grad, rtol=1e-4, atol=1e-6)


def test_figures_are_the_unweighted_losses_and_their_weighted_sum():
    batch, network = make_batch(3, 1), still()
    seg, depth, total = training_step(learner(network), batch).tolist()
    losses = OBJECTIVE.losses(network(batch[0]), batch[1])
    assert (seg, depth) == (losses["seg"].item(), losses["depth"].item())
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
    figures = training_step(mixed, make_batch(3, 1))
    exact = training_step(learner(still()), make_batch(3, 1))
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
        assert training_step(subject, (image.to("meta"), targets), accumulate).is_meta
    subject.optimizer.step()
    assert all(weight.grad.is_meta for weight in network.parameters())
