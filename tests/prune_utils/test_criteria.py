import copy

import pytest
import torch
from torch import nn

from prune_utils import CRITERIA, Voter, prunable, score, task_voters


class Line(nn.Module):
    """y = w x with w = (2, -3): every gradient is known."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[2.0, -3.0]]))

    def forward(self, x):
        return self.layer(x)


def line_scores(criterion, loss, *inputs, gather=None):
    voter = Voter("a", loss, frozenset({"layer.weight"}))
    batches = [(torch.tensor([x]), None) for x in inputs]
    scores = score(Line(), [voter], list(enumerate(batches)), criterion, gather=gather)
    return scores["a"]["layer.weight"].tolist()


@pytest.mark.parametrize(
    ("criterion", "expected"),
    # gradients (1, 4) and (-2, 5): signed sum (-1, 9), sum of squares (5, 41)
    [("snip_signed", [2, 27]), ("fisher", [20, 369])],
)
def test_sums_over_batches_by_hand(criterion, expected):
    assert line_scores(criterion, lambda out, _: out.sum(), [1.0, 4.0], [-2.0, 5.0]) == [expected]


def test_grasp_by_hand():
    """Loss y^2 / 2, x = (1, 0), (1, 2): g = (2, 0) + (-4, -8), H = [[2, 2], [2, 4]], H g = (-20, -36)."""
    assert line_scores("grasp", lambda out, _: out.square().sum() / 2, [1.0, 0.0], [1.0, 2.0]) == [[-40, 108]]


def test_grasp_has_nothing_to_say_of_a_loss_without_curvature():
    with pytest.raises(ValueError, match="voter 'a' has nothing to say: all its scores are 0"):
        line_scores("grasp", lambda out, _: out.sum(), [1.0, 4.0])


def test_grasp_reads_the_batches_twice():
    voter = Voter("a", lambda out, _: out.square().sum(), frozenset({"layer.weight"}))
    with pytest.raises(ValueError, match="reads the batches twice"):
        score(Line(), [voter], enumerate([(torch.ones(1, 2), None)]), "grasp")


def test_grasp_of_several_processes_is_that_of_all_batches():
    """Every process adds the same batch: twice the gradient and twice the Hessian."""
    loss = lambda out, _: out.square().sum() / 2  # noqa: E731
    alone = line_scores("grasp", loss, [1.0, 2.0])
    both = line_scores("grasp", loss, [1.0, 2.0], gather=lambda g: [g, g])
    assert both == [[4 * value for value in alone[0]]]


def test_grasp_is_the_slope_of_the_squared_gradient(tiny):
    """w (H g) says, to first order, how much |g|^2 / 2 falls for each weight that goes."""
    net = tiny("a", "b")
    model = net.model.double()
    model.drop.p = 0.0
    batches = [(x.double(), {t: v.double() for t, v in targets.items()}) for x, targets in net.batches]
    voters = task_voters(net.losses, net.owners)
    scores = score(model, voters, list(enumerate(batches)), "grasp")

    def half_square(scale, task):
        twin = copy.deepcopy(model).train()
        with torch.no_grad():
            prunable(twin)["trunk.weight"].mul_(scale)
        leaves = [w for name, w in prunable(twin).items() if task in net.owners[name]]
        loss = sum(net.losses[task](twin(x), targets) for x, targets in batches)
        gradients = torch.autograd.grad(loss, leaves)
        return sum(float(g.square().sum()) for g in gradients) / 2

    for task in net.losses:
        slope = (half_square(1 + 1e-5, task) - half_square(1 - 1e-5, task)) / 2e-5
        assert float(scores[task]["trunk.weight"].sum()) == pytest.approx(slope, rel=1e-6)
        assert (scores[task]["trunk.weight"] < 0).any()


def test_lamp_by_hand():
    """Squares 9, 4, 4, 1 from above: 9/9, 4/13, 4/17 (the later one), 1/18."""
    found = CRITERIA["lamp"].saliency(torch.tensor([[3.0, -1.0], [2.0, -2.0]]), None, torch.Generator())
    assert found.flatten().tolist() == pytest.approx([1, 1 / 18, 4 / 13, 4 / 17], rel=1e-15)


def test_lamp_keeps_the_order_within_a_layer_and_one_weight_of_each():
    weight = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    found = CRITERIA["lamp"].saliency(weight, None, torch.Generator())
    assert torch.equal(found.flatten().argsort(), weight.abs().flatten().argsort())
    assert float(found.max()) == 1
    assert CRITERIA["lamp"].saliency(torch.zeros(3, 2), None, torch.Generator()).tolist() == [[0, 0]] * 3


class Chain(nn.Module):
    """Two layers without bias, dropout between them, a norm that was trained."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 1, bias=False), nn.Linear(1, 2, bias=False)
        self.drop, self.norm = nn.Dropout(0.9), nn.BatchNorm1d(2)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, -2.0]]))
            self.second.weight.copy_(torch.tensor([[3.0], [-4.0]]))
            self.norm.weight.fill_(-2.0)
            self.norm.running_var.fill_(1 - self.norm.eps)

    def forward(self, x):
        return {"a": [self.norm(self.second(self.drop(self.first(x))))]}


def test_synflow_by_hand():
    """R = 2 (3 + 4) (1 + 2): |w| dR/d|w| is 14, 28 in one layer, 18, 24 in the other; both add up to R."""
    voters = [Voter(t, lambda out, _: 1 / 0, frozenset({"first.weight", "second.weight"})) for t in "ab"]
    batch = torch.full((5, 2), torch.nan), None
    scores = score(Chain(), voters, [(0, batch)], "synflow")
    for of in scores.values():
        assert of["first.weight"].tolist() == [pytest.approx([14, 28], rel=1e-7)]
        assert of["second.weight"].flatten().tolist() == pytest.approx([18, 24], rel=1e-7)
        assert of["first.weight"].dtype == torch.float64


def test_synflow_needs_a_shape_and_stays_finite():
    voters = [Voter("a", None, frozenset({"first.weight", "second.weight"}))]
    with pytest.raises(ValueError, match="at least one batch"):
        score(Chain(), voters, [], "synflow")
    model = Chain().double()
    with torch.no_grad():
        model.first.weight.fill_(1e200)
        model.second.weight.fill_(1e200)
    with pytest.raises(ValueError, match="the flow through the network is not finite"):
        score(model, voters, [(0, (torch.zeros(1, 2), None))], "synflow")


def test_synflow_leaves_the_network_alone():
    model = Chain()
    before = copy.deepcopy(model.state_dict())
    score(model, [Voter("a", None, frozenset({"first.weight"}))], [(0, (torch.zeros(1, 2), None))], "synflow")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters())


def test_synflow_takes_indices_as_they_are():
    """An embedding of whole numbers has no input of ones; two tables of 2 and 3 ones, weights 2 and 4."""

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(3, 2), nn.Linear(2, 1, bias=False)
            with torch.no_grad():
                self.words.weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 3.0], [0.0, 0.0]]))
                self.head.weight.copy_(torch.tensor([[2.0, -4.0]]))

        def forward(self, index):
            return self.head(self.words(index).sum(1))

    voter = Voter("a", None, frozenset({"head.weight"}))
    for kind in (torch.int64, torch.int32):
        batch = torch.tensor([[0, 1], [2, 2]], dtype=kind), None
        found = score(Words(), [voter], [(0, batch)], "synflow")
        assert found["a"]["head.weight"].tolist() == [[2 * 3, 4 * 4]]  # of the first example alone
