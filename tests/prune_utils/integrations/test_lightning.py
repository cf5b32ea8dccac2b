"""Lightning's own Trainer, interrupted and resumed: the same masks and weights, and exact counts."""

import warnings

import pytest
import torch
from torch import nn

import prune_utils as pu

pytest.importorskip("lightning")

from lightning.pytorch import LightningModule, Trainer, seed_everything  # noqa: E402
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402

from prune_utils.integrations.lightning import SparsityCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
LOSSES = {
    "a": lambda out, true: (out["a"] - true["a"]).square().mean(),
    "b": lambda out, true: (out["b"] - true["b"]).abs().mean(),
}


class Module(LightningModule):
    def __init__(self, optimizers=1):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8))
        self.heads = nn.ModuleDict({task: nn.Linear(8, 3) for task in LOSSES})
        self.kind = optimizers
        self.automatic_optimization = optimizers == 1

    def forward(self, x):
        x = self.trunk(x)
        return {task: head(x) for task, head in self.heads.items()}

    def training_step(self, batch, index):
        out = self(batch[0])
        loss = sum(loss(out, batch[1]) for loss in LOSSES.values())
        if self.kind == 1:
            return loss
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        return None

    def configure_optimizers(self):
        if self.kind == 1:
            return torch.optim.AdamW(self.parameters(), lr=0.02, weight_decay=0.1)
        return [
            torch.optim.AdamW(self.trunk.parameters(), lr=0.02),
            torch.optim.SGD(self.heads.parameters(), 0.1),
        ]


def batches(number=5):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return [(draw(4, 6), {"a": draw(4, 3), "b": draw(4, 3)}) for _ in range(number)]


def fit(folder, method, steps, resume=None, kind=1):
    module = Module(kind)
    more = {"schedule": pu.Schedule(8, 2)} if pu.method(method).grow else {}
    sparsity = pu.sparsify(module, LOSSES, batches(2), 80, method, seed=int(resume is not None), **more)
    saver = ModelCheckpoint(
        folder,
        "{step}",
        every_n_epochs=1,
        save_top_k=-1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    trainer = Trainer(
        max_epochs=steps // 5,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=0.5 if kind == 1 else None,
        callbacks=[SparsityCallback(sparsity), saver],
    )
    loader = torch.utils.data.DataLoader(batches(), batch_size=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seed_everything(3, verbose=False)
        trainer.fit(module, loader, ckpt_path=resume)
    return module, sparsity


@pytest.mark.parametrize("method", ["disparse_static", "disparse_dynamic"])
def test_a_resumed_fit_ends_with_the_same_mask_and_weights(tmp_path, method):
    module, sparsity = fit(tmp_path, method, 10)
    fit(tmp_path, method, 5)
    # another seed, so that the mask comes from the checkpoint
    other, again = fit(tmp_path, method, 10, tmp_path / "step=5.ckpt")
    total = pu.size(sparsity.mask)
    assert sparsity.verify()["kept"] == pu.keep_count(total, 80)
    assert again.verify() == sparsity.verify()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))
    assert sparsity.step == again.step == 10
    assert not again.attached
    assert method == "disparse_static" or again.updates == 4


def test_several_optimizers_in_manual_optimization(tmp_path):
    _, sparsity = fit(tmp_path, "disparse_dynamic", 5, kind=2)
    assert sparsity.verify()["kept"] == pu.keep_count(pu.size(sparsity.mask), 80)
    assert (sparsity.step, sparsity.updates) == (5, 2)
