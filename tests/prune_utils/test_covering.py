import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from prune_utils import apply, coverage, erk_budget, prunable, weight_shapes
from prune_utils.parameters import find_parameters
from prune_utils.roles import Shape


class Own(nn.Module):
    """Bare parameters of a class that nobody knows."""

    def __init__(self, **parameters):
        super().__init__()
        for name, shape in parameters.items():
            setattr(self, name, nn.Parameter(torch.ones(shape)))


def kinds(model, **how):
    return {entry.name: entry.reason or entry.kind for entry in coverage(model, **how).entries}


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_and_their_transposes(dims):
    model = nn.Sequential(
        getattr(nn, f"Conv{dims}d")(2, 4, 3), getattr(nn, f"ConvTranspose{dims}d")(4, 6, 3, groups=2)
    )
    assert list(prunable(model)) == ["0.weight", "1.weight"]
    conv, transposed = weight_shapes(model).values()
    window = 3**dims
    assert (conv.fan_in, conv.fan_out) == (2 * window, 4 * window)
    assert (transposed.fan_in, transposed.fan_out) == (4 * window, 3 * window)  # [in, out / groups, ...]


def test_recurrent_layers_and_cells():
    model = nn.ModuleDict(
        {
            "lstm": nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2),
            "gru": nn.GRU(3, 5),
            "rnn": nn.RNN(3, 5),
            "cell": nn.LSTMCell(3, 5),
            "gated": nn.GRUCell(3, 5),
            "plain": nn.RNNCell(3, 5),
        }
    )
    shapes = weight_shapes(model)
    assert all(".weight_" in name for name in shapes)
    assert len(shapes) == 2 * 2 * 3 + 5 * 2
    assert (shapes["lstm.weight_ih_l0"], shapes["lstm.weight_ih_l0"].matrix) == ((20, 3), (5, 3))
    assert shapes["lstm.weight_hr_l0"].matrix == (2, 5)
    assert [shapes[f"{name}"].matrix for name in ("gru.weight_hh_l0", "rnn.weight_ih_l0")] == [(5, 5), (5, 3)]
    assert [shapes[f"{cell}.weight_ih"].blocks for cell in ("cell", "gated", "plain")] == [4, 3, 1]


def test_attention_with_one_width_and_with_several():
    one, several = nn.MultiheadAttention(6, 2), nn.MultiheadAttention(6, 2, kdim=3, vdim=4, add_bias_kv=True)
    assert kinds(one) == {
        "in_proj_weight": "attention",
        "in_proj_bias": "bias",
        "out_proj.weight": "linear",
        "out_proj.bias": "bias",
    }
    assert weight_shapes(one)["in_proj_weight"].matrix == (6, 6)
    assert list(prunable(several)) == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]


def test_what_is_no_weight():
    model = nn.ModuleDict(
        {
            "words": nn.Embedding(5, 4),
            "bag": nn.EmbeddingBag(5, 4),
            "norm": nn.LayerNorm([2, 4]),
            "batch": nn.BatchNorm2d(4),
            "slope": nn.PReLU(4),
            "both": nn.Bilinear(2, 3, 4),
        }
    )
    assert {name: kind for name, kind in kinds(model).items() if not name.endswith("bias")} == {
        "words.weight": "embedding",
        "bag.weight": "embedding",
        "norm.weight": "norm",
        "batch.weight": "norm",
        "slope.weight": "table",
        "both.weight": "bilinear",
    }
    assert (weight_shapes(model)["both.weight"].fan_in, weight_shapes(model)["both.weight"].fan_out) == (6, 4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (nn.utils.weight_norm, "weight_v"),
        (nn.utils.spectral_norm, "weight_orig"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "weight_orig"),
        (parametrizations.weight_norm, "parametrizations.weight.original1"),
        (parametrizations.spectral_norm, "parametrizations.weight.original"),
    ],
)
def test_the_original_is_pruned_where_the_weight_is_computed(make, name):
    layer = make(nn.Linear(4, 6))
    assert list(prunable(layer)) == [name]
    kept = torch.arange(24).reshape(6, 4) % 3 > 0
    apply(layer, {name: kept})
    layer.eval()(torch.ones(1, 4))
    assert not layer.weight[~kept].any() and layer.weight[kept].any()


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


class Shifted(nn.Module):
    def forward(self, weight):
        return weight + 1


def test_a_parametrization_that_fills_zeros_is_left_alone():
    halved, shifted, rotated = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
    parametrize.register_parametrization(halved, "weight", Halved())
    parametrize.register_parametrization(shifted, "weight", Shifted())
    parametrizations.orthogonal(rotated)
    original = "parametrizations.weight.original"
    assert kinds(halved)[original] == "linear"
    assert kinds(shifted)[original] == kinds(rotated)[original] == "parametrized"


def test_names_and_dimensions_decide_about_foreign_classes():
    model = nn.ModuleDict(
        {
            "layer": Own(weight=(4, 3), bias=(3,), scale=(4,), gate_up_proj=(2, 4, 3), lora_a=(4, 2)),
            "tables": Own(pos_embed=(1, 9, 4), cls_token=(1, 1, 4), relative_position_bias_table=(9, 2)),
            "scales": Own(gamma=(4, 1, 1), temperature=(2, 1, 1), layer_scale=(4, 1)),
            "list": nn.ParameterList([torch.ones(3, 3)]),
        }
    )
    assert [name for name, kind in kinds(model).items() if kind == "product"] == [
        "layer.weight",
        "layer.gate_up_proj",
        "layer.lora_a",
        "list.0",
    ]


class Tricky(nn.Module):
    """Names that mislead: only what is multiplied with the input is a weight."""

    def __init__(self):
        super().__init__()
        for name in ("query", "added", "looked_up", "looked_up_too", "inner"):
            setattr(self, name, nn.Parameter(torch.ones(3, 3)))
        self.experts = nn.Parameter(torch.ones(2, 3, 3))
        self.unused = nn.Parameter(torch.ones(3, 3))

    def forward(self, x):
        x = torch.einsum("bi,ij->bj", x, self.query) + self.added
        x = x + self.looked_up[torch.tensor([0, 1, 2])]
        x = x @ self.looked_up_too[torch.tensor([0, 1, 2])].half().float().t()
        x = torch.bmm(x.expand(2, 3, 3), self.experts).sum(0)
        return x @ (self.inner + 1).exp()


def test_a_forward_pass_tells_what_multiplies_the_input():
    guessed = kinds(Tricky())
    assert guessed["query"] == "table" and guessed["added"] == "product"
    assert kinds(Tricky(), batches=[(torch.ones(3, 3), None)]) == {
        "query": "product",
        "added": "table",
        "looked_up": "table",
        "looked_up_too": "product",
        "inner": "table",  # its zeros are not those of what multiplies
        "experts": "experts" if guessed["experts"] == "experts" else "product",
        "unused": guessed["unused"],
    }
    seen = kinds(Tricky(), batches=[{"x": torch.ones(3, 3)}], forward=lambda model, batch: model(**batch))
    assert seen["query"] == "product"


class Constants(nn.Module):
    """Bare weights that meet what the forward pass makes of nothing, and data that is written into such."""

    def __init__(self):
        super().__init__()
        self.mixed, self.low, self.one_hot = (nn.Parameter(torch.randn(6, 6)) for _ in range(3))
        self.blocks = nn.Parameter(torch.randn(2, 3, 3))
        self.filled, self.noise = (nn.Parameter(torch.randn(6, 6)) for _ in range(2))
        self.table, self.ones = (nn.Parameter(torch.randn(6, 6)) for _ in range(2))

    def forward(self, x):
        y = x @ (self.mixed * torch.tril(torch.ones(6, 6))) @ self.low.tril()
        whole = torch.zeros(6, 6)
        whole[:3, :3], whole[3:, 3:] = self.blocks[0], self.blocks[1]
        y = y @ whole + torch.eye(6)[x.argmax(-1)] @ self.one_hot
        room = torch.zeros_like(x)
        room[:, :3] = x[:, :3]
        y = y + room @ self.filled + torch.zeros(4, 6).normal_() @ self.noise
        return y + x.new_ones(4, 6) @ self.ones + self.table[:4]


def test_what_a_forward_pass_makes_of_nothing_is_a_constant():
    found = coverage(Constants(), batches=[(torch.randn(4, 6), None)])
    assert found.names == ("mixed", "low", "one_hot", "blocks", "filled", "noise")
    assert found.left_out() == {"table": {"table": 36, "ones": 36}}


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).transpose(-1, -2)


@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_a_parametrization_that_mirrors_weights_is_left_alone(size):
    model = nn.Sequential(nn.Linear(size, size))
    nn.utils.parametrize.register_parametrization(model[0], "weight", Symmetric())
    assert coverage(model).names == ()


def test_include_and_exclude():
    model = nn.ModuleDict({"words": nn.Embedding(5, 4), "one": nn.Linear(4, 2), "two": nn.Linear(4, 2)})
    assert list(prunable(model, include="words.*")) == ["words.weight", "one.weight", "two.weight"]
    assert list(prunable(model, exclude=["two.*", "one.bias"])) == ["one.weight"]
    assert list(prunable(model, include="*", exclude="*.weight")) == ["one.bias", "two.bias"]
    large = lambda name, parameter, layer: parameter.numel() > 8 and isinstance(layer, nn.Embedding)  # noqa: E731
    assert "words.weight" in prunable(model, include=large)
    with pytest.raises(ValueError, match="exclude pattern 'three.*' matches no parameter; .* words.weight"):
        prunable(model, exclude="three.*")


def test_shares_by_hand():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Embedding(2, 5))  # 20 + 5, 10, 10
    found = coverage(model)
    assert (found.parameters, found.considered, found.share) == (45, 20, 20 / 45)
    assert found.left_out() == {
        "bias": {"0.bias": 5, "1.bias": 5},
        "norm": {"1.weight": 5},
        "embedding": {"2.weight": 10},
    }


def test_tied_weights_are_left_alone_with_all_their_names():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert coverage(model).left_out() == {"tied": {"0.weight = 1.weight": 9}}


@pytest.mark.parametrize("turn", [False, True])
def test_weights_tied_by_their_memory_are_left_alone(turn):
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False), nn.Linear(5, 5), nn.Linear(5, 5))
    if turn:
        model[1] = nn.Linear(5, 3, bias=False)
    model[1].weight.data = model[0].weight.data.t() if turn else model[0].weight.data
    model[3].weight.data = model[2].weight.data
    found = coverage(model)
    assert found.names == ()
    assert found.left_out()["tied"] == {"2.weight = 3.weight": 25}
    assert found.left_out()["embedding"] == {"0.weight = 1.weight": 15}
    with pytest.raises(ValueError, match=r"'2.weight' and '3.weight' share their memory as two parameters"):
        coverage(model, include="3.*")
    with pytest.raises(ValueError, match="include 5 is neither patterns of names nor a predicate"):
        coverage(model, include=5)


def test_one_layer_under_two_names_is_not_tied():
    model = nn.Module()
    model.first = nn.Linear(3, 3)
    model.again = nn.Sequential(model.first)
    assert list(prunable(model)) == ["first.weight"]
    assert coverage(model).entries[0].names == ("first.weight", "again.0.weight")


def test_lazy_layers_are_refused_by_name():
    with pytest.raises(ValueError, match="'0.weight' is lazy .* run one batch"):
        prunable(nn.Sequential(nn.LazyLinear(3)))


def test_a_name_that_is_not_there_has_a_nearest():
    with pytest.raises(ValueError, match="'wieght' is no parameter of the network; the nearest is 'weight'"):
        find_parameters(nn.Linear(2, 2), ["wieght"])


def test_erk_gives_stacked_matrices_the_density_of_one():
    stacked = {"gates": Shape((400, 100), "recurrent", 4), "experts": Shape((4, 100, 100), "experts", 4)}
    for name, shape in stacked.items():
        pools = erk_budget({name: shape, "alone": (100, 100), "large": (1000, 1000)}, 30_000)
        keep = {pool.names[0]: pool.keep for pool in pools}
        assert abs(keep[name] - 4 * keep["alone"]) <= 4
    plain = erk_budget({"a": (100, 100), "b": (4, 3, 3, 3)}, 1000)
    assert plain == erk_budget({"a": Shape((100, 100)), "b": Shape((4, 3, 3, 3), "convolution")}, 1000)
