"""Parameters sharded over two processes (FSDP2, gloo): everything as one process has it."""

import copy

import pytest
import torch
from torch import distributed, multiprocessing, nn

import prune_utils as pu

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")


class Net(nn.Module):
    """Layers whose first axes do not divide by two, two heads, one layer that no task uses."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh())
        self.left, self.right = nn.Linear(7, 1), nn.Linear(7, 3)
        self.spare = nn.Linear(7, 2)

    def forward(self, x):
        shared = self.trunk(x)
        return {"left": self.left(shared), "right": self.right(shared)}


LOSSES = {
    "left": lambda out, y: (out["left"] - y).square().mean(),
    "right": lambda out, y: (out["right"] + y).square().mean(),
}
TOTAL = 54 + 63 + 7 + 21


def batches(seed, number):
    draws = torch.Generator().manual_seed(seed)
    rows = [torch.randn(8, 6, generator=draws, dtype=torch.float64) for _ in range(number)]
    return [(x, x.sum(1, keepdim=True)) for x in rows]


def make():
    torch.manual_seed(0)
    return Net().double()


def shard(net):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    fully_shard(net.trunk, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def course(net, path, own=slice(None)):
    """Prunes by all batches, trains by the process's own rows of each; what came out, in plain values."""
    found = {}
    owners = pu.owners_from_graph(net, LOSSES, batches(1, 1)[0])
    found["owners"] = {name: sorted(tasks) for name, tasks in owners.items()}
    for criterion in ("snip", "magnitude", "random", "lamp"):
        scores = pu.score(net, pu.task_voters(LOSSES, owners), enumerate(batches(1, 2)), criterion)
        found[criterion] = {task: {n: s.clone() for n, s in of.items()} for task, of in scores.items()}
    sparsity = pu.sparsify(
        net, LOSSES, batches(1, 2), 70, "disparse_dynamic", schedule=pu.Schedule(20, 2), rounds=2
    )
    found["first"] = pu.mask_hash(sparsity.mask)
    found["certificate"] = sparsity.certificate
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    sparsity.attach(optimizer)
    for x, y in batches(2, 6):
        optimizer.zero_grad()
        sparsity.batch = (x[own], y[own])
        out = net(x[own])
        torch.stack([loss(out, y[own]) for loss in LOSSES.values()]).sum().backward()
        optimizer.step()
    with torch.no_grad():
        net(x)  # leaves the parameters gathered
    found["updates"] = sparsity.updates
    found["verified"] = sparsity.verify()
    found["replaced"] = sparsity.figures
    pu.save_sparse(path, net, sparsity.mask, sparsity.certificate)
    resumed = copy.deepcopy(sparsity.state_dict())
    sparsity.load_state_dict(resumed)
    found["resumed"] = sparsity.verify()["hash"]
    return found


def one_process(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", world_size=2, rank=rank)
    try:
        net = shard(make())
        found = course(net, folder / "shards.safetensors", slice(rank, None, 2))
        again = shard(make())
        content = pu.load_sparse(folder / "shards.safetensors", again)
        found["loaded"] = pu.verify(again, content.mask, content.certificate)
        for refused in ("grasp", "synflow"):
            with pytest.raises(ValueError, match="sharded networks do not allow"):
                pu.score(
                    net,
                    pu.task_voters(LOSSES, pu.owners_from_graph(net, LOSSES, batches(1, 1)[0])),
                    list(enumerate(batches(1, 1))),
                    refused,
                )
        voters = pu.task_voters(LOSSES, pu.owners_from_graph(net, LOSSES, batches(1, 1)[0]))
        with pytest.raises(ValueError, match="progress of a sharded network needs `gather`"):
            pu.Regrowth(net, content.mask, None, pu.Schedule(20, 2), pu.Growth(voters, progress=1.0))
        torch.save(found, folder / f"found{rank}")
    finally:
        distributed.destroy_process_group()


def test_two_processes_have_what_one_has(tmp_path):
    multiprocessing.spawn(one_process, args=(tmp_path,), nprocs=2)
    alone = course(make(), tmp_path / "alone.safetensors")
    ranks = [torch.load(tmp_path / f"found{rank}", weights_only=True) for rank in range(2)]
    assert alone["verified"]["kept"] == pu.keep_count(TOTAL, 70)
    for found in ranks:
        assert found["owners"] == alone["owners"]
        for criterion in ("snip", "magnitude", "random", "lamp"):
            torch.testing.assert_close(found[criterion], alone[criterion], rtol=1e-12, atol=0)
        assert found["first"] == alone["first"]
        assert found["certificate"] == alone["certificate"]
        assert found["updates"] == alone["updates"] == 3
        # the mask has moved three times, by gradients of both halves of each batch
        assert found["verified"] == alone["verified"]
        assert found["replaced"] == alone["replaced"]
        assert found["resumed"] == found["loaded"]["hash"] == alone["verified"]["hash"]
    files = [pu.read_sparse(tmp_path / f"{name}.safetensors") for name in ("alone", "shards")]
    assert pu.mask_hash(files[0].mask) == pu.mask_hash(files[1].mask)
    torch.testing.assert_close(files[1].state, files[0].state, rtol=1e-9, atol=1e-12)
