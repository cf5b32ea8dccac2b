"""Hugging Face's own Trainer, interrupted and resumed: the same masks and weights, and exact counts."""

import shutil

import pytest
import torch
from torch import nn

import prune_utils as pu

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from prune_utils.integrations.transformers import FILE, SparsityCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
LOSSES = {
    "a": lambda out, batch: (out["a"] - batch["a"]).square().mean(),
    "b": lambda out, batch: (out["b"] - batch["b"]).abs().mean(),
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8))
        self.heads = nn.ModuleDict({task: nn.Linear(8, 3) for task in LOSSES})

    def forward(self, x, a, b):
        trunk = self.trunk(x)
        out = {task: head(trunk) for task, head in self.heads.items()}
        return {"loss": sum(loss(out, {"a": a, "b": b}) for loss in LOSSES.values())} | out


def rows(number=40):
    generator = torch.Generator().manual_seed(1)
    sizes = {"x": 6, "a": 3, "b": 3}
    return [{name: torch.randn(n, generator=generator) for name, n in sizes.items()} for _ in range(number)]


def train(folder, method, steps, resume=None, resume_from=None, **settings):
    model = Net()
    more = {"schedule": pu.Schedule(8, 2)} if pu.method(method).grow else {}
    data = rows()
    batches = [
        {name: torch.stack([row[name] for row in data[i : i + 4]]) for name in data[0]} for i in (0, 4)
    ]
    sparsity = pu.sparsify(
        model,
        LOSSES,
        batches,
        80,
        method,
        seed=int(resume is not None),
        forward=lambda net, b: net(**b),
        **more,
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        save_steps=5,
        per_device_train_batch_size=4,
        learning_rate=0.02,
        weight_decay=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.5,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    callback = SparsityCallback(sparsity, resume_from)
    given = {"eval_dataset": data} if "eval_strategy" in settings else {}
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback], **given)
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return model, sparsity, trainer


@pytest.mark.parametrize("method", ["disparse_static", "disparse_dynamic"])
def test_a_resumed_training_ends_with_the_same_mask_and_weights(tmp_path, method):
    model, sparsity, _ = train(tmp_path / "whole", method, 10)
    train(tmp_path / "parts", method, 5)
    # another seed, so that the mask comes from the checkpoint
    other, again, _ = train(tmp_path / "parts", method, 10, tmp_path / "parts" / "checkpoint-5")
    assert sparsity.verify()["kept"] == pu.keep_count(pu.size(sparsity.mask), 80)
    assert again.verify() == sparsity.verify()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert sparsity.step == again.step == 10 and not again.attached
    assert method == "disparse_static" or again.updates == 4


def test_a_checkpoint_elsewhere_is_asked_for(tmp_path):
    train(tmp_path / "parts", "random", 5)
    shutil.move(tmp_path / "parts" / "checkpoint-5", tmp_path / "moved")
    with pytest.raises(ValueError, match="pass the checkpoint's folder as resume_from"):
        train(tmp_path / "new", "random", 6, tmp_path / "moved")
    _, sparsity, _ = train(tmp_path / "new", "random", 6, tmp_path / "moved", tmp_path / "moved")
    assert sparsity.verify() and sparsity.step == 6


def test_the_best_checkpoint_brings_its_mask(tmp_path):
    _, sparsity, trainer = train(
        tmp_path,
        "set",
        10,
        load_best_model_at_end=True,
        eval_strategy="steps",
        eval_steps=5,
        metric_for_best_model="eval_loss",
        label_names=["a", "b"],
        prediction_loss_only=True,
    )
    best = torch.load(f"{trainer.state.best_model_checkpoint}/{FILE}", weights_only=True)
    assert all(torch.equal(sparsity.mask[name], kept) for name, kept in best["mask"].items())
    assert sparsity.verify()["kept"] == pu.keep_count(pu.size(sparsity.mask), 80)
