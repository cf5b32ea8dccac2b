"""Networks that keep what they computed are copied, without its graph."""

import copy

import pytest
import torch
from torch import nn

import prune_utils as pu
from prune_utils.copying import copied
from prune_utils.inventory import survey
from prune_utils.resizing import hollow

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
LOSSES = {task: lambda out, _, task=task: out[task].square().mean() for task in ("a", "b")}
BATCHES = [(IMAGE, None)]


class Keeping(nn.Module):
    """Keeps its features as attributes of several kinds."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
            self.heads = nn.ModuleDict({task: nn.Linear(8, 4) for task in ("a", "b")})

    def forward(self, image):
        first = self.first(image).relu()
        second = self.second(first).relu()
        self.features, self.all, self.named = first, [first, (second,)], {"second": [second]}
        return {task: head(second.mean((2, 3))) for task, head in self.heads.items()}


class Normed(Keeping):
    def __init__(self):
        super().__init__()
        self.second = nn.utils.weight_norm(self.second)


NETWORKS = pytest.mark.parametrize("make", [Keeping, Normed])
pytestmark = pytest.mark.filterwarnings("ignore")


@NETWORKS
def test_a_copy_shares_nothing_and_has_no_graph(make):
    net = make()
    net(IMAGE)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)
    twin, paper = copied(net), hollow(net)
    assert torch.equal(twin.features, net.features) and twin.features.is_leaf
    assert twin.features is twin.all[0] and twin.features.data_ptr() != net.features.data_ptr()
    assert twin.named["second"][0].is_leaf and paper.all[1][0].is_meta
    assert all(torch.equal(net(IMAGE)[task], twin(IMAGE)[task]) for task in LOSSES)
    assert survey(net, IMAGE.shape)[0]["first.weight"] == 49


@NETWORKS
@pytest.mark.parametrize("asked", [{"method": "synflow"}, {"method": "snip", "score_init": "xavier"}])
@pytest.mark.parametrize("ran", [False, True])
def test_masks_are_made_of_networks_that_keep_what_they_computed(make, asked, ran):
    net = make()
    if ran:
        net(IMAGE)
    assert pu.sparsify(net, LOSSES, BATCHES, ratio=50, **asked).verify()["pruned"] > 0


def test_channels_are_removed_from_them():
    pytest.importorskip("torch_pruning")
    net = Keeping()
    net(IMAGE)
    removal = pu.remove_channels(net, LOSSES, BATCHES, ratio=10)
    assert removal.after.params == sum(value.numel() for value in net.parameters()) <= removal.asked


@NETWORKS
def test_contracts_measure_copies_of_them(make):
    net = make()
    net(IMAGE)

    def latency(model):
        return float(sum(int(value.count_nonzero()) for value in model.parameters()))

    scores = dict.fromkeys(LOSSES, lambda model: 1.0)
    shared = dict(latencies=latency, smallest=20)
    limits = dict.fromkeys(LOSSES, 1.0)
    found = pu.contract(net, LOSSES, BATCHES, scores, lambda *_: None, limits, **shared)
    assert found.best.kept


class Casting(Keeping):
    def forward(self, image):
        return super().forward(image.float())


def test_synflow_runs_in_single_precision_where_a_network_converts_its_input():
    masks = [
        pu.sparsify(net, LOSSES, BATCHES, ratio=60, method="synflow").mask for net in (Casting(), Keeping())
    ]
    same = [(one == other).float().mean() for one, other in zip(*map(dict.values, masks), strict=True)]
    assert min(same) > 0.98
