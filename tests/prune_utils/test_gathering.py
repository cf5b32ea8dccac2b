"""Two processes (gloo), batches of their own and no `gather`: the masks of one process that has all."""

import pytest
import torch
from torch import distributed, multiprocessing

import prune_utils as pu
from prune_utils.gathering import gather_for
from prune_utils.masks import check_same_everywhere

from .test_shards import LOSSES, batches, make

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")


def sparse(mine, method="disparse_static", **more):
    net = make()
    return net, pu.sparsify(net, LOSSES, mine, 70, method, **more)


def moved(mine, rows, **growth):
    """The mask after three moves, each voted on by these rows of a batch."""
    net = make()
    owners = pu.owners_from_graph(net, LOSSES, *mine)
    mask = {name: torch.arange(w.numel()).reshape(w.shape) % 3 == 0 for name, w in pu.prunable(net).items()}
    voting = pu.Growth(pu.task_voters(LOSSES, owners), **growth)
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    moving = pu.Regrowth(net, mask, optimizer, pu.Schedule(99, 1), voting)
    for step, (x, y) in enumerate(batches(2, 3), 1):
        moving.after_step(step, (x[rows], y[rows]))
    assert moving.updates == 3 and pu.mask_hash(moving.mask) != pu.mask_hash(mask)
    return pu.mask_hash(moving.mask)


def course(mine, rows):
    found = {method: pu.mask_hash(sparse(mine, method)[1].mask) for method in ("disparse_static", "snip")}
    return found | {"moved": moved(mine, rows), "by progress": moved(mine, rows, progress=1.0)}


def one_process(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", world_size=2, rank=rank)
    try:
        mine = batches(1, 4)[rank::2]
        found = course(mine, slice(rank, None, 2))
        net, sparsity = sparse(mine, gather=lambda tensor: [tensor])
        found["for itself"] = pu.mask_hash(sparsity.mask)
        with pytest.raises(RuntimeError, match="the processes hold different masks"):
            check_same_everywhere(sparsity.mask, None)
        own = lambda tensor: [tensor]  # noqa: E731
        assert gather_for(net, own) is own
        before = [weight.clone() for weight in net.parameters()]
        with pytest.raises(ValueError, match="the processes do not agree on the number of batches: "):
            pu.sparsify(net, LOSSES, batches(1, 2 + rank), 90)
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
        one_sided = LOSSES | {"left": lambda out, y: out["left" if rank else "right"].square().mean()}
        with pytest.raises(ValueError, match="the processes do not agree on the owners of the weights: "):
            pu.sparsify(net, one_sided, mine, 90)
        torch.save(found, folder / f"found{rank}")
    finally:
        distributed.destroy_process_group()


def test_two_processes_choose_together_what_one_process_chooses(tmp_path):
    multiprocessing.spawn(one_process, args=(tmp_path,), nprocs=2)
    alone = course(batches(1, 4), slice(None))
    ranks = [torch.load(tmp_path / f"found{rank}", weights_only=True) for rank in range(2)]
    themselves = {found.pop("for itself") for found in ranks}
    assert ranks == [alone, alone] and len(themselves) == 2


def test_one_process_gathers_from_nobody():
    net = make()
    assert gather_for(net) is None
    check_same_everywhere({"a": torch.tensor([True])}, None)
