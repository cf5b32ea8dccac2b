"""The loop: what happens in which step, which weights are the best, and when it stops by itself."""

import math

import pytest
import torch
from lightning_fabric import Fabric

from tests.training.examples import BATCHES, Small, make_tasks
from training.loop import Hooks, Learner, Objective, Plan, make_optimizer, parts, train

PLAN = Plan(steps=5, lr=1e-3, weight_decay=5e-4, step_every=2, step_factor=0.5, eval_every=2, log_every=3)
WEIGHTS = {"seg": 1.0, "depth": 20.0}


class Diary:
    """Sparsifier, hooks and record in one: notes who is called when. losses: of the evaluations in turn."""

    def __init__(self, losses=(), batches=BATCHES):
        self.said, self.losses, self.given = [], iter(losses), batches

    def hooks(self):
        return Hooks(self.batches, self.validate, self.keep_best, self.save, self.at_step)

    def batches(self, start, stop):
        return self.given[start:stop]

    def validate(self):
        return {"loss/total": next(self.losses)}

    def keep_best(self, step, loss):
        self.said.append(("best", step, loss))

    def save(self, step, best):
        self.said.append(("save", step, best))

    def at_step(self, step):
        self.said.append(("step", step))

    def mask_gradients(self):
        self.said.append(("mask",))

    def after_step(self, step, batch):
        return {}

    def add(self, step, phase, figures):
        if figures:
            self.said.append((phase, step, figures.get("lr")))

    def tick(self, step, figures=None):
        pass

    def told(self, word):
        return [line[1:] for line in self.said if line[0] == word]


def run(diary, plan=PLAN, start=0, best=None):
    fabric = Fabric(accelerator="cpu", devices=1)
    network, optimizer = fabric.setup(model := Small(), make_optimizer(model, plan))
    learner = Learner(fabric, network, optimizer, Objective(make_tasks(), WEIGHTS), diary)
    train(learner, plan, diary.hooks(), diary, start, best)
    return model


def test_as_many_steps_as_asked_and_gradients_are_masked_before_each():
    diary = Diary(losses=(3.0, 2.0, 1.0))
    run(diary)
    order = [line[:2] for line in diary.said if line[0] in ("mask", "step")]
    assert order == [part for step in range(1, 6) for part in (("mask",), ("step", step))]
    assert diary.told("train") == [(3, 0.0005), (5, 0.00025)]  # the rate of the step itself, halved every two


def test_a_resumed_run_does_the_steps_that_are_left():
    diary = Diary(losses=(3.0, 1.0))
    run(diary, start=3, best=2.0)
    assert diary.told("step") == [(4,), (5,)]
    assert diary.told("best") == [(5, 1.0)]


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ((3.0, 2.0, 2.5), [(2, 3.0), (4, 2.0)]),
        ((2.0, 2.0, 2.0), [(2, 2.0)]),
        ((math.nan, math.nan, math.nan), [(2, math.inf)]),  # the first always counts
        ((math.nan, 9.0, math.nan), [(2, math.inf), (4, 9.0)]),
    ],
)
def test_the_best_weights(losses, best):
    diary = Diary(losses)
    run(diary)
    assert diary.told("best") == best
    assert [step for step, _ in diary.told("evaluate")] == [2, 4, 5]


def test_a_run_shorter_than_the_interval_is_evaluated_at_its_end():
    diary = Diary(losses=(3.0,))
    run(diary, Plan(steps=1, lr=1e-3, weight_decay=0, step_every=9, step_factor=0.5, eval_every=500))
    assert diary.told("best") == [(1, 3.0)]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_checkpoint():
    image, targets = BATCHES[3]
    diary = Diary((3.0,), [*BATCHES[:3], (image * math.nan, targets)])
    plan = Plan(
        steps=5, lr=1e-3, weight_decay=0, step_every=9, step_factor=0.5, eval_every=2, checkpoint_every=2
    )
    with pytest.raises(ValueError, match="loss of 'seg' became nan in step 4; the last good .* is of step 2"):
        run(diary, plan)
    assert diary.told("save") == [(2, 3.0)] and diary.told("step")[-1] == (3,)


def test_dropout_follows_from_seed_and_step_alone():
    once, again = run(Diary((1.0,) * 3)), run(Diary((1.0,) * 3))
    torch.manual_seed(5)  # whatever was drawn before
    other = run(Diary((1.0,) * 3))
    for name, value in once.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]) and torch.equal(value, other.state_dict()[name])


def test_parts_cover_the_batch_in_order():
    image, targets = BATCHES[2]
    pieces = parts((image, targets), 2)
    assert [len(piece) for piece, _ in pieces] == [2, 1]
    assert torch.equal(torch.cat([piece for piece, _ in pieces]), image)
    assert torch.equal(torch.cat([of["depth"].valid for _, of in pieces]), targets["depth"].valid)
    assert len(parts((image, targets), 8)) == 3
