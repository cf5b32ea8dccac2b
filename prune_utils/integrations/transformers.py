"""A callback for Hugging Face's Trainer: the network stays sparse while it trains, and after resuming.

Needs `transformers`. A mask that moves votes on the batches that `sparsify` was given, as the Trainer tells
callbacks of no batch; several processes vote together. Strategies whose optimizer is not torch's (DeepSpeed)
are refused by `attach`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from prune_utils.files import replacing
from prune_utils.masked import Masked
from prune_utils.masks import check_same_everywhere

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(f"the callback needs transformers ({error}): pip install transformers") from error

FILE = "sparsity.pt"  # in the folder of every checkpoint


class SparsityCallback(TrainerCallback):
    """`Trainer(..., callbacks=[SparsityCallback(sparsity)])`: attaches to the optimizer, writes the mask into
    every checkpoint's folder, and takes it from there when training resumes or the best checkpoint is loaded.

    sparsity: what `sparsify` returned for the Trainer's model. resume_from: the folder that training resumes
    from, needed only if it is not inside the Trainer's output_dir.
    """

    def __init__(self, sparsity: Masked, resume_from: str | Path | None = None) -> None:
        self.sparsity = sparsity
        self.resume_from = resume_from

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Raises ValueError where the weights that training resumes from are of another mask, RuntimeError
        where processes were given different masks."""
        if state.global_step:
            folder = self.resume_from or args.resume_from_checkpoint
            if not isinstance(folder, (str, Path)):
                folder = _folder(args, state)
            self._load(Path(folder))
        check_same_everywhere(self.sparsity.mask, None)
        self.sparsity.detach()  # of an earlier training
        self.sparsity.attach(given["optimizer"])
        self.sparsity.zero_pruned()

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.is_world_process_zero:
            with replacing(_folder(args, state) / FILE) as path:
                torch.save(self.sparsity.state_dict(), path)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.sparsity.detach()
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load(Path(state.best_model_checkpoint))

    def _load(self, folder: Path) -> None:
        path = folder / FILE
        if path.is_file():
            self.sparsity.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            return
        try:
            self.sparsity.verify()
        except ValueError as error:
            raise ValueError(
                f"there is no {path} with the mask of the weights that were loaded, and they are not of this "
                f"mask ({error}): pass the checkpoint's folder as resume_from"
            ) from error


def _folder(args: Any, state: Any) -> Path:
    """Where the Trainer keeps the checkpoint of this step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
