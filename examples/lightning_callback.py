"""A sparse network in Lightning's Trainer (pip install lightning)."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

import prune_utils as pu
from prune_utils.integrations.lightning import SparsityCallback

LOSSES = {task: lambda out, true, task=task: (out[task] - true[task]).abs().mean() for task in ("sum", "max")}


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU())
        self.heads = torch.nn.ModuleDict({task: torch.nn.Linear(64, 1) for task in LOSSES})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {task: head(self.trunk(x))[:, 0] for task, head in self.heads.items()}

    def training_step(self, batch: tuple[Tensor, dict[str, Tensor]], index: int) -> Tensor:
        out = self(batch[0])
        return torch.stack([loss(out, batch[1]) for loss in LOSSES.values()]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


rows = [(x, {"sum": x.sum(), "max": x.max()}) for x in torch.randn(256, 8)]
loader: Any = torch.utils.data.DataLoader(rows, 16)  # type: ignore[arg-type]  # a list is a data set
module = Module()
sparsity = pu.sparsify(module, LOSSES, loader, 80, "disparse_dynamic", schedule=pu.Schedule(24, 8))
Trainer(max_epochs=2, callbacks=[SparsityCallback(sparsity)], logger=False, accelerator="cpu").fit(
    module, loader
)
print(sparsity.verify(), "after", sparsity.updates, "moves of the mask")
