"""A callback for Lightning: the network stays sparse while a Trainer fits it, and after resuming.

Needs `lightning` (or `pytorch_lightning`). Strategies that shard or flatten parameters are left out.
"""

from __future__ import annotations

from typing import Any

from prune_utils.masked import Masked
from prune_utils.masks import check_same_everywhere

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise ImportError(f"the callback needs Lightning ({error}): pip install lightning") from error


class SparsityCallback(Callback):
    """`Trainer(callbacks=[SparsityCallback(sparsity)])`: attaches to every optimizer of the module, hands
    each batch to a mask that moves, which the processes of a strategy vote on together, and travels in
    Lightning's checkpoints.

    sparsity: what `sparsify` returned for the LightningModule or a network inside it.
    """

    def __init__(self, sparsity: Masked) -> None:
        self.sparsity = sparsity

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Raises RuntimeError where processes were given different masks."""
        check_same_everywhere(self.sparsity.mask, None)
        self.sparsity.detach()  # of an earlier fit
        self.sparsity.attach(*trainer.optimizers)
        self.sparsity.zero_pruned()  # weights may have been loaded since

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.sparsity.batch = batch

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.sparsity.figures:  # the mask has moved
            pl_module.log_dict({f"mask/{name}": value for name, value in self.sparsity.figures.items()})

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.sparsity.batch = None
        self.sparsity.detach()

    def state_dict(self) -> dict[str, Any]:
        return self.sparsity.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.sparsity.load_state_dict(state_dict)
