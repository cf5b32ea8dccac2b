import pytest
import torch
from torch import nn

from prune_utils import apply, count, dense_mask, mask_hash, prunable, shuffle_within_layers, size, sparsify
from prune_utils.masks import check_same_everywhere, matching


def test_prunable_are_conv_and_linear_weights_only(tiny):
    names = list(prunable(tiny("a", "b").model))
    assert names == ["stem.weight", "trunk.weight", "branch.weight", "heads.a.weight", "heads.b.weight"]


def test_prunable_sees_subclasses_and_leaves_tied_weights_alone():
    class MyLinear(nn.Linear):
        pass

    model = nn.Sequential(MyLinear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Embedding(2, 2))
    assert list(prunable(model)) == ["0.weight", "1.weight"]
    model[1].weight = model[0].weight
    assert list(prunable(model)) == []
    assert list(prunable(model, include="1.weight")) == ["0.weight"]  # by its first name
    assert list(prunable(nn.Linear(2, 1))) == ["weight"]


def test_apply_zeroes_exactly_what_is_pruned():
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, float("nan"), 4.0]]))
    before = model.weight.data_ptr()
    apply(model, {"weight": torch.tensor([[True, False, False, True]])})
    assert model.weight.tolist() == [[1.0, 0.0, 0.0, 4.0]]
    assert model.weight.data_ptr() == before


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"wieght": torch.ones(1, 4, dtype=torch.bool)}, "'wieght' fits no prunable weight"),
        ({"weight": torch.ones(4, 1, dtype=torch.bool)}, r"'weight' has shape \(4, 1\), the weight \(1, 4\)"),
        ({"weight": torch.ones(1, 4)}, "torch.float32, not torch.bool"),
    ],
)
def test_apply_names_the_layer_that_does_not_fit(mask, words):
    with pytest.raises(ValueError, match=words):
        apply(nn.Linear(4, 1), mask)


def test_count_and_size():
    mask = {"a": torch.tensor([True, False, True]), "b": torch.tensor([[False], [True]])}
    assert (count(mask), size(mask)) == (3, 5)
    assert count(dense_mask(nn.Linear(4, 2))) == 8


def test_hash_knows_names_shapes_and_bits_but_not_the_order_of_layers():
    mask = {"a": torch.tensor([True, False]), "b": torch.tensor([True])}
    assert mask_hash(mask) == mask_hash({"b": mask["b"], "a": mask["a"]})
    others = [
        {"a": torch.tensor([False, True]), "b": mask["b"]},
        {"a": mask["a"][None], "b": mask["b"]},
        {"a": mask["a"], "c": mask["b"]},
    ]
    assert len({mask_hash(m) for m in [mask, *others]}) == 4
    assert mask_hash({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of no bytes


def test_shuffle_keeps_every_layers_count_and_follows_the_seed():
    mask = {"a": torch.arange(100).reshape(10, 10) < 30, "b": torch.arange(40) < 1}
    once, again, other = (shuffle_within_layers(mask, seed) for seed in (1, 1, 2))
    assert {name: int(kept.sum()) for name, kept in once.items()} == {"a": 30, "b": 1}
    assert mask_hash(once) == mask_hash(again) != mask_hash(other)
    assert not torch.equal(once["a"], mask["a"])


def test_patterns_match_whole_layer_names():
    names = ["task1.conv.weight", "task10.conv.weight", "stem.weight"]
    assert matching(names, ["task1.*"]) == {"task1.conv.weight"}
    assert matching(names, ["*.conv", "stem"]) == set(names)
    with pytest.raises(ValueError, match="pattern 'tsak' matches no prunable layer; .* task1.conv"):
        matching(names, ["tsak"])


class Tied(nn.Module):
    """`up` and `down` hold one weight, which the network calls first by the name of `up`."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.out = (nn.Linear(6, 6, bias=False) for _ in range(3))
        self.down.weight = self.up.weight

    def forward(self, x):
        return self.out(self.down(self.up(x).relu()))


@pytest.mark.parametrize("asked", ["up", "down", "down.weight", "d*"])
@pytest.mark.parametrize("rule", [{"ratio": 40}, {"keep_ratio": 0.5}, {"ratio": 40, "budget": "erk"}])
def test_a_tied_weight_is_protected_by_each_of_its_names(asked, rule):
    net, losses = Tied(), {"a": lambda out, _: out.square().sum()}
    include = ["up.weight", "out.weight"]
    batches = [(torch.ones(2, 6), None)]
    mask = sparsify(net, losses, batches, include=include, protect=[asked], **rule).mask
    assert count({"up": mask["up.weight"]}) == 36 and 0 < count(mask) - 36 < 36
    assert matching(mask, [asked], net) == {"up.weight"}


def test_processes_must_hold_the_same_mask():
    mask, other = {"a": torch.tensor([True, False])}, {"a": torch.tensor([False, True])}
    seen = []

    def gather(values):
        seen.append(values)
        return list(seen)

    check_same_everywhere(other, None)
    check_same_everywhere(mask, gather)
    check_same_everywhere(mask, gather)
    with pytest.raises(RuntimeError, match="different masks"):
        check_same_everywhere(other, gather)
