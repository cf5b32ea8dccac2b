import copy
import random
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from prune_utils import CRITERIA, Voter, joint_voter, prunable, score, task_voters


class Line(nn.Module):
    """y = w x with w = (2, -3): every gradient is known."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[2.0, -3.0]]))

    def forward(self, x):
        return self.layer(x)


LINE_VOTER = Voter("a", lambda out, target: (out * target).sum(), frozenset({"layer.weight"}))
# gradients: (1, 4) and (-2, 5); their signs must not cancel: sum |g| = (3, 9)
LINE_BATCHES = [
    (torch.tensor([[1.0, 4.0]]), torch.tensor(1.0)),
    (torch.tensor([[2.0, -5.0]]), torch.tensor(-1.0)),
]


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [("gradient", [3, 9]), ("snip", [6, 27]), ("taylor", [12, 81]), ("magnitude", [2, 3])],
)
def test_by_hand(criterion, expected):
    scores = score(Line(), [LINE_VOTER], enumerate(LINE_BATCHES), criterion)
    assert scores["a"]["layer.weight"].tolist() == [expected]


def test_every_voter_scores_what_it_owns(tiny):
    net = tiny("a", "b", "c")
    scores = score(net.model, task_voters(net.losses, net.owners), enumerate(net.batches), "snip")
    weights = prunable(net.model)
    assert {voter: list(of) for voter, of in scores.items()} == {
        task: [name for name in weights if task in net.owners[name]] for task in net.losses
    }
    for of in scores.values():
        assert all(of[name].shape == weights[name].shape for name in of)


def test_equals_one_plain_backward_per_task(tiny):
    net = tiny("a", "b", "c")
    net.model.drop.p = 0.0
    scores = score(net.model, task_voters(net.losses, net.owners), enumerate(net.batches), "snip")
    for task, loss in net.losses.items():
        total = {name: torch.zeros_like(w) for name, w in prunable(net.model).items()}
        for inputs, targets in net.batches:
            twin = copy.deepcopy(net.model).train()
            loss(twin(inputs), targets).backward()
            for name, weight in prunable(twin).items():
                if weight.grad is not None:
                    total[name] += (weight * weight.grad).abs().detach()
        for name, of in scores[task].items():
            torch.testing.assert_close(of, total[name], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("criterion", ["snip", "gradient"])
def test_memory_order_of_gradients_changes_nothing(tiny, criterion):
    net = tiny("a", "b")
    net.model.double()
    rows = [(image.double(), {t: v.double() for t, v in targets.items()}) for image, targets in net.batches]
    pixels = [(image.to(memory_format=torch.channels_last), targets) for image, targets in rows]
    net.model.drop.p = 0.0  # draws in memory order
    voters = task_voters(net.losses, net.owners)
    one, two = (score(net.model, voters, enumerate(batches), criterion) for batches in (rows, pixels))
    for task, of in one.items():
        for name, expected in of.items():
            assert expected.is_contiguous() and two[task][name].is_contiguous()
            torch.testing.assert_close(two[task][name], expected, rtol=1e-9, atol=1e-12)


def test_one_task_of_weight_one_is_the_joint_voter(tiny):
    net = tiny("a")
    tasks = score(net.model, task_voters(net.losses, net.owners), enumerate(net.batches), "snip")
    joint = score(
        net.model, [joint_voter(net.losses, {"a": 1.0}, net.owners)], enumerate(net.batches), "snip"
    )
    assert all(torch.equal(tasks["a"][name], joint["joint"][name]) for name in tasks["a"])


def test_leaves_everything_as_it_was(tiny):
    net = tiny("a", "b")
    model = net.model.eval()
    model.norm.train()
    model.stem.weight.requires_grad_(False)
    model.trunk.weight.grad = torch.full_like(model.trunk.weight, 7.0)
    buffers = {name: id(buffer) for name, buffer in model.named_buffers()}
    state = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}
    streams = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    with torch.no_grad():
        scores = score(model, task_voters(net.losses, net.owners), enumerate(net.batches), "snip")
        assert not torch.is_grad_enabled()
    assert scores["a"]["stem.weight"].any()
    assert torch.equal(streams[0], torch.get_rng_state())
    assert streams[1] == random.getstate()
    assert np.array_equal(streams[2], np.random.get_state()[1])
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert buffers == {name: id(buffer) for name, buffer in model.named_buffers()}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {"stem.weight"}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"trunk.weight"}
    assert (model.trunk.weight.grad == 7).all()


def test_an_error_in_the_middle_leaves_everything_as_it_was_too(tiny):
    net = tiny("a", "b")
    model = net.model.eval()
    state = copy.deepcopy(model.state_dict())
    voters = [Voter("a", lambda out, target: out["nothing"], frozenset({"stem.weight"}))]
    with pytest.raises(KeyError):
        score(model, voters, enumerate(net.batches), "snip")
    assert not model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_batches_may_be_dealt_to_several_processes(tiny):
    net = tiny("a", "b")
    voters = task_voters(net.losses, net.owners)
    numbered = list(enumerate(net.batches))
    alone = score(net.model, voters, numbered, "gradient", seed=5)
    parts = [score(net.model, voters, [pair], "gradient", seed=5) for pair in numbered]
    other = score(net.model, voters, numbered, "gradient", seed=6)
    for task, of in alone.items():
        for name, total in of.items():
            torch.testing.assert_close(parts[0][task][name] + parts[1][task][name], total)
    assert not torch.equal(alone["a"]["stem.weight"], other["a"]["stem.weight"])  # another dropout


def test_gradients_of_all_processes_are_added_without_their_signs():
    alone = score(Line(), [LINE_VOTER], enumerate(LINE_BATCHES), "taylor")["a"]["layer.weight"]
    both = score(Line(), [LINE_VOTER], enumerate(LINE_BATCHES), "taylor", gather=lambda g: [g, -g])
    assert both["a"]["layer.weight"].tolist() == (2 * alone).tolist()


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_without_gradients_no_batch_is_read(tiny, criterion):
    net = tiny("a", "b")
    scores = score(net.model, task_voters(net.losses, net.owners), None, criterion, seed=3)
    again = score(net.model, task_voters(net.losses, net.owners), None, criterion, seed=3)
    assert all(torch.equal(scores[t][n], again[t][n]) for t in scores for n in scores[t])


def test_noise_differs_between_layers_voters_and_seeds(tiny):
    net = tiny("a", "b")
    voters = task_voters(net.losses, net.owners)
    one, two = (score(net.model, voters, None, "random", seed=seed) for seed in (0, 1))
    draws = [one["a"]["stem.weight"], one["b"]["stem.weight"], two["a"]["stem.weight"]]
    assert len({draw.sum().item() for draw in draws}) == 3


def test_no_batch_and_unknown_criterion(tiny):
    net = tiny("a")
    voters = task_voters(net.losses, net.owners)
    with pytest.raises(ValueError, match="at least one batch"):
        score(net.model, voters, [], "snip")
    with pytest.raises(ValueError, match="criterion 'snap' is not one of fisher, gradient, grasp"):
        score(net.model, voters, [], "snap")


def test_a_gradient_that_is_not_finite_is_named(tiny):
    net = tiny("a", "b")
    net.losses["b"] = lambda out, target: out["b"].sum() * float("inf")
    with pytest.raises(ValueError, match="not finite: voter 'b', batch 4, layer 'stem.weight'"):
        score(net.model, task_voters(net.losses, net.owners), [(4, net.batches[0])], "snip")


def test_a_loss_that_uses_no_weight_is_named(tiny):
    net = tiny("a")
    voter = Voter("a", lambda out, target: target["a"].sum(), frozenset({"stem.weight"}))
    with pytest.raises(ValueError, match="loss of voter 'a' depends on no weight"):
        score(net.model, [voter], enumerate(net.batches), "snip")


def test_a_weight_that_no_batch_used_scores_zero(tiny):
    net = tiny("a", "b")
    voter = Voter("a", net.losses["a"], frozenset({"stem.weight", "heads.b.weight"}))
    scores = score(net.model, [voter], enumerate(net.batches), "snip")
    assert not scores["a"]["heads.b.weight"].any()


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_tensors_stay_on_the_networks_device(tiny, criterion):
    net = tiny("a", "b", device="meta")
    batches = list(enumerate(net.batches))
    scores = score(net.model, task_voters(net.losses, net.owners), batches, criterion)
    assert all(of.is_meta for scored in scores.values() for of in scored.values())


class Stopped(torch.autograd.Function):
    """The identity, which passes no gradient on."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None


def test_a_weight_behind_a_stopped_gradient_scores_zero(tiny):
    net = tiny("a", "b")
    voter = Voter("a", lambda out, _: out["a"].sum() + Stopped.apply(out["b"]).sum(), frozenset(net.owners))
    scores = score(net.model, [voter], enumerate(net.batches), "gradient")["a"]
    assert scores["stem.weight"].any() and scores["heads.a.weight"].any()
    assert not scores["heads.b.weight"].any()


def test_low_precision_weights_are_summed_in_float32(tiny):
    net = tiny("a")
    model = net.model.to(torch.bfloat16)
    batches = [(image.bfloat16(), targets) for image, targets in net.batches]
    scores = score(model, task_voters(net.losses, net.owners), enumerate(batches), "gradient")
    assert scores["a"]["stem.weight"].dtype == torch.float32


def test_the_graph_of_one_voter_is_gone_when_the_next_is_counted(tiny):
    net = tiny("a", "b")
    hidden = {}
    for task, head in net.model.heads.items():
        # the loss squares this tensor, so its graph keeps it
        head.register_forward_hook(lambda *call, task=task: hidden.update({task: weakref.ref(call[2])}))
    alive = []

    def gather(gradient):
        alive.append({task: ref() is not None for task, ref in hidden.items()})
        return [gradient]

    voters = task_voters({task: lambda out, _, t=task: out[t].square().sum() for task in "ab"}, net.owners)
    score(net.model, voters, [(0, net.batches[0])], "snip", gather=gather)
    first, second = alive[: len(voters[0].owns)], alive[len(voters[0].owns) :]
    assert all(state == {"a": True, "b": True} for state in first)
    assert [state["a"] for state in second] == [False] * len(voters[1].owns)


def test_a_gradient_is_added_before_the_next_is_known(tiny):
    net = tiny("a", "b")
    events, seen = [], []
    for weight in prunable(net.model).values():
        weight.register_hook(lambda gradient: events.append("known"))

    def gather(gradient):
        events.append("added" if not any(ref() is not None for ref in seen) else "another is still there")
        seen.append(weakref.ref(gradient))
        return [gradient]

    score(net.model, task_voters(net.losses, net.owners), enumerate(net.batches), "snip", gather=gather)
    count = len(net.batches) * sum(len(tasks) for tasks in net.owners.values())
    assert events == ["known", "added"] * count


def test_a_weight_that_only_the_second_batch_uses(tiny):
    net = tiny("a", "b")
    voter = Voter(
        "a", lambda out, use: out["a"].sum() + (out["b"].sum() if use else 0), frozenset(net.owners)
    )
    numbered = [(0, (net.batches[0][0], False)), (1, (net.batches[1][0], True))]
    both = score(net.model, [voter], numbered, "gradient")["a"]
    second = score(net.model, [voter], numbered[1:], "gradient")["a"]
    assert torch.equal(both["heads.b.weight"], second["heads.b.weight"])
    assert list(both) == list(prunable(net.model))


def test_cudnn_repeats_itself_while_scores_are_made_and_is_not_turned_off(tiny):
    case, cudnn, seen = tiny("a"), torch.backends.cudnn, []
    before = (cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)

    def loss(predictions, targets):
        seen.append((cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark))
        return case.losses["a"](predictions, targets)

    score(case.model, task_voters({"a": loss}, case.owners), [(0, case.batches[0])], "snip")
    assert seen == [(*before[:2], True, False)]
    assert (cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == before


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("criterion", "inputs", "weight"), [("fisher", 1e-4, 1.0), ("taylor", 1.0, 1e-4)])
def test_squares_are_taken_in_the_precision_of_the_sum(kind, criterion, inputs, weight):
    """1e-8 is less than the smallest number of float16."""
    model = Line().to(kind)
    with torch.no_grad():
        model.layer.weight.fill_(weight)
    batch = (torch.tensor([[inputs, 2 * inputs]], dtype=kind), torch.tensor(1.0, dtype=kind))
    found = score(model, [LINE_VOTER], [(0, batch)], criterion)["a"]["layer.weight"]
    exact = torch.promote_types(kind, torch.float32)
    gradient, weight = batch[0].to(exact), model.layer.weight.detach().to(exact)
    gradient = gradient.square() if criterion == "fisher" else gradient
    assert found.dtype == exact and found.all()
    assert torch.equal(found, gradient * weight.square())


def test_expanded_buffers_and_their_bases_are_as_before(tiny):
    class Expanded(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1, bias=False)
            self.register_buffer("base", torch.tensor([[1.0, 2.0]]))
            self.register_buffer("wide", self.base.expand(3, 2))
            self.register_buffer("none", torch.zeros(0, 2).expand(0, 2))

        def forward(self, x):
            self.base.add_(1)
            return self.layer(x) * self.wide.mean()

    model = Expanded()
    base, wide = model.base, model.wide
    score(model, [LINE_VOTER], enumerate(LINE_BATCHES), "snip")
    assert model.base is base and model.wide is wide
    assert base.tolist() == [[1, 2]] and wide.tolist() == [[1, 2]] * 3
