"""What users of the library stumbled over: one small network, one mistake or habit each."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import prune_utils as pu


class Pair(nn.Module):
    """A trunk of two layers and two heads on it."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 8))
        self.left, self.right = nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x):
        shared = self.trunk(x)
        return {"left": self.left(shared), "right": self.right(shared)}


WEIGHTS = ["trunk.0.weight", "trunk.2.weight", "left.weight", "right.weight"]  # 60, 80, 16, 24 elements
OWNERS = {
    "trunk.0.weight": {"left", "right"},
    "trunk.2.weight": {"left", "right"},
    "left.weight": {"left"},
    "right.weight": {"right"},
}
LOSSES = {
    "left": lambda out, y: (out["left"] - y).square().mean(),
    "right": lambda out, y: (out["right"] + y).abs().mean(),
}


def make(kind=Pair):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind()


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
BATCH = (X, torch.tensor(0.5))


def prune(model, losses=LOSSES, batch=BATCH, ratio=90, **how):
    """Owners, and the mask that keeps exactly 100 - ratio percent of what they speak of."""
    owners = pu.owners_from_graph(model, losses, batch, **how)
    forward = how.get("forward")
    scores = pu.score(model, pu.task_voters(losses, owners), [(0, batch)], "snip", forward=forward)
    keep = pu.keep_count(sum(shape.numel() for shape in map(torch.Size, owners.shapes.values())), ratio)
    return owners, pu.choose(scores, pu.global_budget(owners.shapes, keep), "unanimous")


def equal(one, two):
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


class Checkpointed(Pair):
    def forward(self, x):
        shared = checkpoint(self.trunk, x, use_reentrant=True)
        return {"left": self.left(shared), "right": self.right(shared)}


@pytest.mark.parametrize("differentiable", [True, False])
def test_reentrant_checkpointing_hides_nothing(differentiable):
    batch = (X.clone().requires_grad_(differentiable), BATCH[1])
    owners, mask = prune(make(Checkpointed), batch=batch)
    plain = prune(make(), batch=batch)
    assert owners == OWNERS
    assert equal(mask, plain[1])
    assert torch.utils.checkpoint.CheckpointFunction.__name__ == "CheckpointFunction"  # put back


class Hidden(torch.autograd.Function):
    """Somebody's own reentrant checkpointing: the layer's weights are in no graph."""

    @staticmethod
    def forward(ctx, x, layer):
        return layer(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Inside(torch.autograd.Function):
    """A function that hides its layer: it runs forward without a graph, and backward on its own."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        ctx.save_for_backward(x)
        with torch.no_grad():
            return layer(x)

    @staticmethod
    def backward(ctx, gradient):
        x = ctx.saved_tensors[0].detach().requires_grad_(True)
        with torch.enable_grad():
            ctx.layer(x).backward(gradient)
        return x.grad, None


class Reversible(Pair):
    def forward(self, x):
        shared = Inside.apply(self.trunk[:2](x), self.trunk[2])
        return {"left": self.left(shared), "right": self.right(shared)}


def test_weights_in_functions_of_the_networks_own_are_found_and_scored():
    plain, hiding = make(), make(Reversible)
    owners = pu.owners_from_graph(hiding, LOSSES, BATCH)
    assert owners == OWNERS
    before = hiding.left.weight.grad = torch.ones_like(hiding.left.weight)
    found = pu.score(hiding, pu.task_voters(LOSSES, owners), [(0, BATCH)], "snip")
    wanted = pu.score(plain, pu.task_voters(LOSSES, owners), [(0, BATCH)], "snip")
    for task, of in wanted.items():
        torch.testing.assert_close(found[task], of)
    # what the inner backward pass wrote is gone, what the user had is there
    assert hiding.trunk[2].weight.grad is None
    assert hiding.left.weight.grad is before
    assert before.eq(1).all()


def test_a_graph_that_hides_weights_is_refused_by_name():
    hiding = type("CheckpointFunction", (Hidden,), {})

    class Hides(Pair):
        def forward(self, x):
            shared = self.trunk[2](torch.tanh(hiding.apply(x.clone().requires_grad_(), self.trunk[0])))
            return {"left": self.left(shared), "right": self.right(shared)}

    model = make(Hides)
    model.trunk[2] = nn.Linear(10, 8)
    with pytest.raises(ValueError, match="reentrant checkpointing.*CheckpointFunctionBackward"):
        pu.owners_from_graph(model, LOSSES, BATCH)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda out, y: 0 * out["left"].sum(), "voter 'left' has nothing to say: all its scores are 0"),
        (
            lambda out, y: (out["left"] - out["left"].detach()).square().mean(),
            "voter 'left' has nothing to say",
        ),
        (lambda out, y: out["left"].sum() * float("nan"), "not finite: voter 'left'"),
    ],
    ids=["no label", "target is the output", "not finite"],
)
def test_a_task_with_nothing_to_say_does_not_vote(loss, words):
    with pytest.raises(ValueError, match=words):
        prune(make(), LOSSES | {"left": loss})


def test_equal_scores_say_nothing_either():
    model = make()
    with torch.no_grad():
        for name in WEIGHTS:
            model.get_parameter(name).fill_(0.5)
    owners = pu.owners_from_graph(model, LOSSES, BATCH)
    with pytest.raises(ValueError, match="'left' has nothing to say: all its scores are 0.5"):
        pu.score(model, pu.task_voters(LOSSES, owners), None, "magnitude")


def test_a_silent_task_may_abstain():
    model, losses = make(), LOSSES | {"left": lambda out, y: 0 * out["left"].sum()}
    voters = pu.task_voters(losses, pu.owners_from_graph(model, losses, BATCH))
    assert list(pu.score(model, voters, [(0, BATCH)], "snip", silent="abstain")) == ["right"]
    with pytest.raises(ValueError, match="silent 'shout' is not one of refuse, abstain"):
        pu.score(model, voters, [(0, BATCH)], "snip", silent="shout")


def test_the_mask_holds_after_loading_by_assignment():
    model = make()
    _, mask = prune(model)
    holder = pu.Masked(model, mask)
    model.load_state_dict(copy.deepcopy(make().state_dict()), assign=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sum(loss(model(X), BATCH[1]) for loss in LOSSES.values()).backward()
    holder.mask_gradients()
    optimizer.step()
    holder.after_step(1, None)
    alive = sum(int(weight.count_nonzero()) for weight in pu.prunable(model).values())
    assert alive == pu.count(mask) == 18


def test_nan_stays_out_of_pruned_weights():
    model = make()
    _, mask = prune(model)
    holder = pu.Masked(model, mask)
    with torch.no_grad():
        model.trunk[0].weight.fill_(float("nan"))
    holder.after_step(1, None)
    assert not model.trunk[0].weight[~mask["trunk.0.weight"]].any()


@pytest.mark.parametrize(
    "wrap_in", [nn.DataParallel, torch.optim.swa_utils.AveragedModel], ids=["DataParallel", "AveragedModel"]
)
def test_wrappers_are_in_no_name(wrap_in):
    wrapped = wrap_in(make())
    owners, mask = prune(wrapped)
    plain = prune(make())
    assert list(mask) == WEIGHTS == list(pu.prunable(wrapped)) == list(owners)
    assert equal(mask, plain[1])
    pu.Masked(make(), mask)
    pu.apply(make(), {f"module.{name}": kept for name, kept in mask.items()})  # of a file made elsewhere


@pytest.mark.slow
def test_compiled_networks_have_the_owners_of_what_was_compiled():
    plain = prune(make())
    whole, inner = torch.compile(make(), backend="aot_eager"), make()
    whole(X)
    inner.trunk = torch.compile(inner.trunk, backend="aot_eager")
    for model in (whole, inner):
        owners, mask = prune(model)
        assert owners == OWNERS
        assert equal(mask, plain[1])


def test_a_layer_that_no_task_uses_is_left_out_and_said_so():
    model = make()
    model.unused = nn.Linear(8, 50)
    owners, mask = prune(model)
    assert owners == OWNERS and list(mask) == WEIGHTS
    assert owners.coverage.left_out()["unowned"] == {"unused.weight": 400}
    cert = pu.certificate(mask, owners, {"ratio": 90})
    assert "not considered, unowned: 400 in unused.weight" in pu.format_certificate(cert)
    (warning,) = [text for text in cert["warnings"] if "the ratio speaks of" in text]
    assert "unowned" in warning


def test_a_layer_that_no_task_uses_may_be_pruned_or_named():
    model = make()
    model.unused = nn.Linear(8, 50)
    owners = pu.owners_from_graph(model, LOSSES, BATCH, unowned="prune")
    assert owners["unused.weight"] == frozenset()
    scores = pu.score(model, pu.task_voters(LOSSES, owners), [(0, BATCH)], "snip")
    budget = pu.global_budget(owners.shapes, 200)
    with pytest.raises(ValueError, match="'unused.weight' is in the budget .* no task uses it"):
        pu.choose(scores, budget, "unanimous")
    mask = pu.choose(scores, budget, "unanimous", among=pu.dense_mask(model, owners))
    assert int(mask["unused.weight"].count_nonzero()) == 200 - 180  # after all that have an owner
    for rule, kept in {"global": 0, "erk": 62}.items():  # a budget by layer leaves it its share
        pruned = pu.sparsify(model, LOSSES, [BATCH], 80, budget=rule, unowned="prune", floor=0).mask
        assert int(pruned["unused.weight"].count_nonzero()) == kept
    with pytest.raises(ValueError, match="unowned 'burn' is not one of leave_out, prune"):
        pu.owners_from_graph(model, LOSSES, BATCH, unowned="burn")


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda out, y: (out["left"] - y).square().mean(1), r"task 'left' has shape \(5,\), not a single"),
        (lambda out, y: 1.5, "task 'left' is 1.5, a float"),
        (lambda out, y: None, "task 'left' has no loss in any of the 1 batches"),
        (lambda out, y: y.sum(), "task 'left' depends on no weight"),
    ],
    ids=["vector", "float", "None", "constant"],
)
def test_a_loss_that_is_none(loss, words):
    with pytest.raises(ValueError, match=words):
        prune(make(), LOSSES | {"left": loss})


def test_none_says_that_the_task_is_not_in_this_batch():
    losses = LOSSES | {"left": lambda out, y: None if y > 1 else LOSSES["left"](out, y)}
    batches = [(X, torch.tensor(2.0)), BATCH]
    model = make()
    owners = pu.owners_from_graph(model, losses, *batches)
    assert owners == OWNERS
    voters = pu.task_voters(losses, owners)
    scores = pu.score(model, voters, enumerate(batches), "snip")
    alone = pu.score(model, voters, [(1, BATCH)], "snip")
    assert equal(scores["left"], alone["left"]) and not equal(scores["right"], alone["right"])
    with pytest.raises(ValueError, match="'left' has nothing to say: its loss is None in every batch"):
        pu.score(model, voters, [(0, batches[0])], "snip")
    joint = pu.joint_voter(losses, {"left": 2.0, "right": 3.0}, owners)
    one, two = (pu.score(model, [voter], [(0, batches[0])], "gradient") for voter in (joint, voters[1]))
    torch.testing.assert_close(one["joint"]["right.weight"], 3 * two["right"]["right.weight"])


def test_several_optimizers_and_regrowth():
    model = make()
    owners, mask = prune(model)
    mask = {name: torch.arange(kept.numel()).reshape(kept.shape) % 3 == 0 for name, kept in mask.items()}
    optimizers = [
        torch.optim.Adam(model.trunk.parameters()),
        torch.optim.SGD([*model.left.parameters(), *model.right.parameters()], 0.1),
    ]
    growth = pu.Growth(pu.task_voters(LOSSES, owners))
    moving = pu.Regrowth(model, mask, optimizers, pu.Schedule(9, 1, 0.3), growth)
    moving.after_step(1, BATCH)
    assert moving.updates == 1
    assert {n: int(k.sum()) for n, k in moving.mask.items()} == {n: int(k.sum()) for n, k in mask.items()}


class Gated(Pair):
    def forward(self, x, gate):
        return super().forward(x * gate)


def test_any_signature_and_batches_that_are_dictionaries():
    gate = torch.ones(5, 6)
    plain = prune(make())
    pairs = prune(make(Gated), batch=((X, gate), BATCH[1]), forward=lambda model, batch: model(*batch[0]))
    named = {"x": X, "gate": gate, "y": BATCH[1]}
    losses = {task: lambda out, batch, loss=loss: loss(out, batch["y"]) for task, loss in LOSSES.items()}
    mapped = prune(make(Gated), losses, named, forward=lambda model, batch: model(batch["x"], batch["gate"]))
    assert equal(pairs[1], plain[1]) and equal(mapped[1], plain[1])
    with pytest.raises(TypeError, match="pass forward=lambda model, batch"):
        pu.owners_from_graph(make(Gated), LOSSES, ((X, gate), BATCH[1]))
    with pytest.raises(ValueError, match="a batch of type dict is no pair .*pass forward="):
        pu.owners_from_graph(make(Gated), losses, named)


class Words(nn.Module):
    """A language model whose output layer is the word embedding."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.left, self.right = nn.Linear(6, 20, bias=False), nn.Linear(6, 3)
        self.left.weight = self.words.weight

    def forward(self, index):
        z = self.words(index)
        return {"left": self.left(z), "right": self.right(z)}


def test_a_tied_embedding_is_left_alone_and_all_its_names_are_shown():
    model, batch = make(Words), (torch.arange(8).reshape(2, 4), BATCH[1])
    losses = {"right": LOSSES["right"]}
    owners, mask = prune(model, losses, batch, ratio=50)
    assert list(mask) == ["right.weight"]
    cert = pu.certificate(mask, owners, {"ratio": 50})
    assert cert["of_all"]["left_out"]["embedding"] == {"words.weight = left.weight": 120}
    asked = pu.owners_from_graph(model, LOSSES, batch, include="left.weight")
    assert asked == {"words.weight": {"left", "right"}, "right.weight": {"right"}}


def test_a_gradient_in_sparse_storage_is_refused_by_name():
    class Rows(Pair):
        def __init__(self):
            super().__init__()
            self.rows = nn.Embedding(9, 6, sparse=True)

        def forward(self, x):
            return super().forward(self.rows(x))

    words = "the gradient of 'rows.weight' is torch.sparse_coo: make its layer with sparse=False"
    with pytest.raises(ValueError, match=words):
        pu.sparsify(Rows(), LOSSES, [(torch.arange(5), torch.tensor(0.5))], include="rows.weight")


def test_frozen_weights_are_left_alone_unless_asked_for():
    model = make()
    model.trunk.requires_grad_(False)
    owners, mask = prune(model)
    assert list(mask) == ["left.weight", "right.weight"]
    assert owners.coverage.left_out()["frozen"] == {"trunk.0.weight": 60, "trunk.2.weight": 80}
    asked, _ = prune(model, include="trunk.*.weight")
    assert asked == OWNERS
    assert not model.trunk[0].weight.requires_grad
