"""Growth by progress: who is behind asks louder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prune_utils.arbiters import find_arbiter, weighted
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


def hear(progress, *targets):
    for target in targets:
        for one in progress.voters:
            one.loss(None, {name: torch.tensor(value) for name, value in target.items()} | {None: None})
    progress.note(torch.device("cpu"))


def test_rates_are_losses_over_their_first_over_their_mean():
    progress = Progress((voter("a"), voter("b")), 1.0)
    assert progress.factors() == {}
    hear(progress, {"a": 4.0, "b": 10.0})
    assert progress.factors() == {"a": 1.0, "b": 1.0}
    hear(progress, {"a": 4.0, "b": 0.0})  # b's average: 10 - 0.1 * 10 = 9
    assert progress.seen["b"].tolist() == pytest.approx([10.0, 9.0])
    assert progress.factors() == pytest.approx({"a": 1 / 0.95, "b": 0.9 / 0.95})


def test_strength_is_a_power_and_factors_have_limits():
    for strength, expected in ((2.0, {"a": 1.5625, "b": 0.5625}), (50.0, {"a": 4.0, "b": 0.25})):
        progress = Progress((voter("a"), voter("b")), strength)
        progress.load({"a": torch.tensor([1.0, 1.25]), "b": torch.tensor([4.0, 3.0])})
        assert progress.factors() == pytest.approx(expected)


def test_several_batches_are_averaged_and_a_task_without_label_waits():
    def may_lack(out, target):
        return target.get("b")

    progress = Progress((voter("a"), voter("b", may_lack)), 1.0)
    hear(progress, {"a": 1.0}, {"a": 3.0})
    assert {name: pair.tolist() for name, pair in progress.seen.items()} == {"a": [2.0, 2.0]}
    assert progress.factors() == {"a": 1.0}
    hear(progress, {"a": 2.0, "b": 5.0})
    assert progress.seen["b"].tolist() == [5.0, 5.0]


def test_processes_share_what_they_heard():
    """One saw a loss of 1, another two of 4: the mean is 3, and a task that this one lacks is known."""
    progress = Progress((voter("a"), voter("b", lambda out, target: target.get("b"))), 1.0)
    progress.gather = lambda sums: [sums, torch.tensor([[8.0, 2.0], [6.0, 1.0]], dtype=torch.float64)]
    hear(progress, {"a": 1.0})
    assert {name: pair.tolist() for name, pair in progress.seen.items()} == {"a": [3.0, 3.0], "b": [6.0, 6.0]}


def test_own_factors_of_the_arbiter_stay():
    progress = Progress((voter("a"), voter("b")), 1.0)
    progress.load({"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([1.0, 0.5])})
    rule = progress.weighed(weighted({"a": 3.0, "c": 2.0}))
    assert rule.factors == pytest.approx({"a": 4.0, "b": 2 / 3, "c": 2.0})
    assert progress.weighed(find_arbiter("majority"))(3) == 2


def test_a_loss_that_is_not_above_0_has_no_progress():
    progress = Progress((voter("a"), voter("b")), 1.0)
    with pytest.raises(ValueError, match="voter 'b' against its first value, and that is -2, not above 0"):
        hear(progress, {"a": 1.0, "b": -2.0})
    for pair in ([0.0, 1.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="losses .* of voter 'a' are none that progress is of"):
            progress.load({"a": torch.tensor(pair)})


def grown(strength, second):
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
    growth = Growth(voters, progress=strength)
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    regrowth = Regrowth(model, mask, sgd, Schedule(10**9, 1, 0.5), growth)
    if regrowth.progress:
        regrowth.progress.load({name: torch.tensor([1.0, 1.0]) for name in losses})
    regrowth.after_step(1, (torch.zeros(1, 8), None))
    return regrowth.mask["row.weight"][0, 4:].int().tolist()


def test_who_is_behind_gets_more_of_what_grows():
    assert grown(0.0, 1.0) == [1, 0, 0, 1]  # the first wish of each
    assert grown(1.0, 1.0) == [1, 0, 0, 1]
    assert grown(1.0, 2.5) == [1, 1, 0, 0]  # a has factor 2.5 / 1.75, b 1 / 1.75: both are a's


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"progress": -1.0}, "growth progress -1.0 is not at least 0"),
        ({"progress": 1.0, "voters": (voter("joint"),)}, "growth progress 1 tells voters apart"),
        ({"progress": 1.0, "arbiter": "share"}, "other standings: choose unanimous, majority"),
    ],
)
def test_growth_that_cannot_go_by_progress(changes, said):
    with pytest.raises(ValueError, match=said):
        Growth(**{"voters": (voter("a"), voter("b"))} | changes)
