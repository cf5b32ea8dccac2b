"""Owners, positions and multiply-adds of a network; its table and picture."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from prune_utils.inventory import Group, amount, groups, inventory, markdown
from prune_utils.picture import draw, short_names


class Pair(nn.Module):
    """Two tasks on one strided convolution; named on the command line by the tests below."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.trunk = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.heads = nn.ModuleDict({"a": nn.Conv2d(width, 2, 1), "b": nn.Linear(width, 5)})

    def forward(self, image):
        x = self.norm(self.trunk(image))
        return {"a": self.heads["a"](x), "b": self.heads["b"](x.mean((2, 3)))}


MASK = {"trunk.weight": torch.arange(108).reshape(4, 3, 3, 3) < 27}


def test_inventory_counts_weights_positions_and_owners():
    trunk, a, b = inventory(Pair(), MASK, (2, 3, 8, 6))
    assert (trunk.name, trunk.owners, trunk.kept, trunk.total) == ("trunk", ("a", "b"), 27, 108)
    assert trunk.positions == 4 * 3
    assert (a.owners, a.kept, a.total, a.positions) == (("a",), 8, 8, 12)
    assert (b.owners, b.kept, b.total, b.positions) == (("b",), 20, 20, 1)


class Mixed(nn.Module):
    """Layers of other kinds, one frozen."""

    def __init__(self):
        super().__init__()
        self.flat = nn.Conv1d(3, 4, 3, padding=1)
        self.up = nn.ConvTranspose1d(4, 2, 2, stride=2)
        self.memory = nn.LSTM(2, 3, batch_first=True)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.head = nn.Linear(3, 1)

    def forward(self, rows):
        x = self.up(self.flat(rows))
        return {"a": self.head(self.frozen(self.memory(x.movedim(1, 2))[0]))}


def test_inventory_knows_other_kinds_of_layers():
    found = {layer.name: layer for layer in inventory(Mixed(), None, (2, 3, 8))}
    # 8 positions in, and 8 before 16 come out of the transposed one; 16 rows; nobody counts the LSTM's
    assert {name: layer.positions for name, layer in found.items()} == {
        "flat": 8,
        "up": 8,
        "memory.weight_ih_l0": 0,
        "memory.weight_hh_l0": 0,
        "head": 16,
    }
    assert found["memory.weight_ih_l0"].total == 4 * 3 * 2
    assert all(layer.owners == ("a",) for layer in found.values())
    assert "| `memory.weight_ih_l0` | all tasks | 24 | 24 | 100.00% | 0 | 0 | - |" in markdown(
        list(found.values())
    ).replace("only a", "all tasks")


@pytest.mark.parametrize(
    "computed",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda layer: prune.identity(layer, "weight"),
    ],
)
def test_a_weight_that_is_computed_is_multiplied_as_often(computed):
    plain, net = Pair(), Pair()
    computed(net.trunk), computed(net.heads["b"])
    shape = (2, 3, 8, 6)
    expected = [(layer.positions, layer.total, layer.owners) for layer in inventory(plain, None, shape)]
    assert [(of.positions, of.total, of.owners) for of in inventory(net, None, shape)] == expected


def test_groups_sum_multiply_adds():
    found = groups(inventory(Pair(), MASK, (2, 3, 8, 6)))
    assert [group.name for group in found] == ["all tasks", "only a", "only b"]
    assert [(group.kept_macs, group.macs) for group in found] == [(27 * 12, 108 * 12), (96, 96), (20, 20)]


def test_partly_shared_layers_are_a_group_of_their_own(tiny):
    found = groups(inventory(tiny("a", "b", "c").model, None, (2, 2, 5, 5)))
    assert [group.name for group in found][:2] == ["all tasks", "a + b"]
    assert [layer.name for layer in found[1].layers] == ["branch"]


def test_the_model_stays_as_it_is(tiny):
    model = tiny("a", "b").model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inventory(model, None, (2, 2, 5, 5))
    assert model.training and all(not module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_markdown_holds_every_layer():
    text = markdown(inventory(Pair(), MASK, (2, 3, 8, 6)))
    assert "| all tasks | 108 | 27 | 25.00% | 1.3 k | 324 | 25.00% |" in text
    assert "| `heads.b` | only b | 20 | 20 | 100.00% | 20 | 20 | 100.00% |" in text
    assert "| **together** | 136 | 55 | 40.44% |" in text


def test_amounts():
    assert [amount(n) for n in (0, 999, 1234, 21_300_000, 2.5e9)] == ["0", "999", "1.23 k", "21.3 M", "2.5 G"]
    assert Group("none", ()).macs == 0


def test_short_names_drop_what_all_share():
    assert short_names(["heads.a.0.conv1", "heads.a.1.conv1"]) == ["0.conv1", "1.conv1"]
    assert short_names(["stem", "stem.conv"]) == ["stem", "stem.conv"]
    assert short_names(["only.one"]) == ["only.one"]


def test_draw_writes_a_png(tmp_path):
    path = draw(inventory(Pair(), MASK, (2, 3, 8, 6)), "pair", (8, 6), tmp_path / "pair.png")
    assert path.read_bytes().startswith(b"\x89PNG")
