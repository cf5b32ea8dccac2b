"""Growth by progress: who is behind asks louder."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from prune_utils.arbiters import weighted
from prune_utils.fan_in import FanInRegrowth
from prune_utils.granularity import FanIn, Grain
from prune_utils.progress import Progress
from prune_utils.regrow import Growth, Regrowth, Schedule
from prune_utils.voters import Voter

OWNS = frozenset({"row.weight"})


class Row(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.row = nn.Linear(inputs, 1, bias=False)

    def forward(self, x):
        return self.row(x)


def voter(name, loss=None):
    return Voter(name, loss or (lambda out, target: target[name]), OWNS)


def hear(progress, *targets, voted=("a", "b")):
    for target in targets:
        for one in progress.voters:
            one.loss(None, {name: torch.tensor(value) for name, value in target.items()})
    progress.note(voted, torch.device("cpu"))


def seen(progress):
    return {voter: pair.exp().tolist() for voter, pair in progress.seen.items()}


def knowing(strength, **pairs):
    """Progress of voters with these first losses and averages."""
    progress = Progress(tuple(map(voter, pairs)), strength)
    progress.load({name: torch.tensor(pair, dtype=torch.float64).log() for name, pair in pairs.items()})
    return progress


def test_rates_are_losses_over_their_first_over_their_mean():
    progress = Progress((voter("a"), voter("b")), 1.0)
    assert progress.factors() == {}
    hear(progress, {"a": 4.0, "b": 10.0})
    assert progress.factors() == pytest.approx({"a": 1.0, "b": 1.0})
    hear(progress, {"a": 4.0, "b": 0.0})  # b's average: 10 - 0.1 * 10 = 9
    assert seen(progress)["b"] == pytest.approx([10.0, 9.0])
    assert progress.factors() == pytest.approx({"a": 1 / 0.95, "b": 0.9 / 0.95})


@pytest.mark.parametrize(
    ("strength", "expected"),
    [(2.0, {"a": 1.5625, "b": 0.5625}), (50.0, {"a": 4.0, "b": 0.25}), (1e6, {"a": 4.0, "b": 0.25})],
)
def test_strength_is_a_power_and_factors_have_limits(strength, expected):
    assert knowing(strength, a=[1.0, 1.25], b=[4.0, 3.0]).factors() == pytest.approx(expected)


@pytest.mark.parametrize("numbers", [[0.0, 1e308], [-1e308, 1e308], [1e308, -1e308]])
def test_any_finite_numbers_of_a_checkpoint_give_factors_within_the_limits(numbers):
    progress = Progress((voter("a"), voter("b")), 1.0)
    progress.load({"a": torch.tensor(numbers, dtype=torch.float64), "b": torch.zeros(2).half()})
    assert all(0.25 <= factor <= 4 for factor in progress.factors().values())
    hear(progress, {"a": 1.0, "b": 1.0})
    assert all(0.25 <= factor <= 4 for factor in progress.factors().values())


def test_several_batches_are_averaged_and_a_task_without_label_waits():
    progress = Progress((voter("a"), voter("b", lambda out, target: target.get("b"))), 1.0)
    hear(progress, {"a": 1.0}, {"a": 3.0})
    assert seen(progress) == {"a": pytest.approx([2.0, 2.0])}
    assert progress.factors() == pytest.approx({"a": 1.0})
    hear(progress, {"a": 2.0, "b": 5.0})
    assert seen(progress)["b"] == pytest.approx([5.0, 5.0])


def test_a_task_whose_votes_say_nothing_says_nothing_of_its_progress():
    """A loss over no label may be 0 instead of None: its gradients are, too, and the voter abstains."""
    progress = Progress((voter("a"), voter("b")), 1.0)
    hear(progress, {"a": 1.0, "b": 0.0}, voted=("a",))
    assert set(progress.seen) == {"a"}
    hear(progress, {"a": 1.0, "b": 3.0})
    assert seen(progress)["b"] == pytest.approx([3.0, 3.0])


def test_processes_share_what_they_heard():
    """One saw a loss of 1, another two of 4: the mean is 3, and a task that this one lacks is known."""
    progress = Progress((voter("a"), voter("b", lambda out, target: target.get("b"))), 1.0)
    progress.gather = lambda sums: [sums, torch.tensor([[8.0, 2.0], [6.0, 1.0]], dtype=torch.float64)]
    hear(progress, {"a": 1.0})
    assert seen(progress) == {"a": pytest.approx([3.0, 3.0]), "b": pytest.approx([6.0, 6.0])}


def test_a_copy_hears_for_itself():
    progress = Progress((voter("a"), voter("b")), 1.0)
    twin = copy.deepcopy(progress)
    hear(twin, {"a": 1.0, "b": 2.0})
    assert seen(twin) == {"a": pytest.approx([1.0, 1.0]), "b": pytest.approx([2.0, 2.0])}
    progress.note(("a", "b"), torch.device("cpu"))
    assert progress.seen == {}


def test_own_factors_of_the_arbiter_stay():
    rule = knowing(1.0, a=[1.0, 1.0], b=[1.0, 0.5]).weighed(weighted({"a": 3.0, "c": 2.0}))
    assert rule.factors == pytest.approx({"a": 4.0, "b": 2 / 3, "c": 2.0})


def test_losses_that_have_no_ratio():
    progress = Progress((voter("a"), voter("b")), 1.0)
    with pytest.raises(ValueError, match="voter 'b' is 0: it needs losses above 0"):
        hear(progress, {"a": 1.0, "b": 0.0})
    hear(progress, {"a": 1.0, "b": 2.0})
    with pytest.raises(ValueError, match="voter 'a' is -0.5: it needs losses of at least 0"):
        hear(progress, {"a": -0.5, "b": 2.0})


def grown(strength, second, kind=Regrowth, **changes):
    """Which of the inputs 4 to 7 grow where two may: a wants them in this order, b in the reverse.

    The first losses of both are 1; the average of a's is `second` now, that of b's 1.
    """
    losses = {"a": 1 + 10 * (second - 1), "b": 1.0}  # an average moves a tenth of the way
    wishes = {"a": torch.tensor([4.0, 3.0, 2.0, 1.0]), "b": torch.tensor([1.0, 2.0, 3.0, 4.0])}

    model = Row(8)
    with torch.no_grad():
        model.row.weight.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0, 0, 0, 0, 0]]))

    def asks(name):  # the gradient of each inactive weight is what the voter wishes
        def of(out, target):
            want = (model.row.weight[:, 4:] * wishes[name]).sum()
            return losses[name] + want - want.detach()

        return of

    mask = {"row.weight": torch.tensor([[True] * 4 + [False] * 4])}
    voters = tuple(Voter(name, asks(name), OWNS) for name in losses)
    growth = Growth(voters, progress=strength, **changes)
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    regrowth = kind(model, mask, sgd, Schedule(10**9, 1, 0.5), growth)
    if regrowth.progress:
        regrowth.progress.load({name: torch.zeros(2) for name in losses})
    regrowth.after_step(1, (torch.zeros(1, 8), None))
    return regrowth.mask["row.weight"][0, 4:].int().tolist()


@pytest.mark.parametrize("kind", [Regrowth, FanInRegrowth])
def test_who_is_behind_gets_more_of_what_grows(kind):
    more = {} if kind is Regrowth else {"grain": Grain(FanIn())}
    assert grown(0.0, 1.0, kind, **more) == [1, 0, 0, 1]  # the first wish of each
    assert grown(1.0, 1.0, kind, **more) == [1, 0, 0, 1]
    assert grown(1.0, 2.5, kind, **more) == [1, 1, 0, 0]  # factors 2.5 / 1.75 and 1 / 1.75: both are a's


def test_growth_goes_by_the_losses_of_all_processes():
    """Here a is behind, elsewhere b by far."""

    def gather(tensor):
        if tensor.shape == (2, 2):  # losses and their number
            return [tensor, torch.tensor([[1.0, 1.0], [100.0, 1.0]], dtype=torch.float64)]
        return [tensor, tensor]

    assert grown(1.0, 2.5, gather=gather) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"progress": -1.0}, "growth progress -1.0 is not at least 0"),
        ({"voters": (voter("joint"),)}, "growth progress 1 tells voters apart"),
        ({"arbiter": "share"}, "choose arbiter unanimous or weighted"),
        ({"arbiter": "majority"}, "choose arbiter unanimous or weighted"),
        ({"arbiter": "intersection"}, "choose arbiter unanimous or weighted"),
        ({"criterion": "random"}, "criterion 'random' asks for none"),
        ({"criterion": "synflow"}, "criterion 'synflow' asks for none"),
    ],
)
def test_growth_that_cannot_go_by_progress(changes, said):
    with pytest.raises(ValueError, match=said):
        Growth(**{"voters": (voter("a"), voter("b")), "progress": 1.0} | changes)
