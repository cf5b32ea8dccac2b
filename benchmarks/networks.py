"""Public networks through the library: what a ratio covers, and whether everything holds.

Every network is built from its package without a download, small where its configuration allows, given two
losses, made 80 % sparse by `sparsify`, trained one step with the mask attached, its mask moved once, saved
and loaded. Zeros are counted over all parameters, not only over those that the mask covers.

usage: python3 -m benchmarks.networks [--only PATTERN] [--out docs/networks.md]
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import prune_utils as pu
from common.command_line import Parser

from .public_networks import Case, cases

RATIO = 80


def _tensors(out: Any) -> list[Tensor]:
    if hasattr(out, "to_tuple"):
        out = out.to_tuple()
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.requires_grad]


# two tasks that look at the same outputs in different ways
LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {
    "size": lambda out, _: torch.stack([((t - 0.5) ** 2).mean() for t in _tensors(out)]).sum(),
    "spread": lambda out, _: torch.stack([(t + 0.3 * t.sin()).abs().mean() for t in _tensors(out)]).sum(),
}


@dataclass(frozen=True)
class Row:
    """What happened to one network; `failed`: the sentence of the first thing that went wrong."""

    name: str
    parameters: int = 0
    covered: int = 0
    pruned: int = 0
    zeros: int = 0
    failed: str = ""


def try_case(case: Case) -> Row:
    """The whole way of one network. Never raises: a failure is a row."""
    torch.manual_seed(0)
    try:
        return _try(case)
    except Exception as error:  # whatever it is, the table shall say it
        return Row(case.name, failed=f"{type(error).__name__}: {error}".split("\n")[0][:160])


def _try(case: Case) -> Row:
    model, batch = case.make(), case.batch()
    for weight in model.parameters():
        if (
            weight.dim() > 1 and not weight.any()
        ):  # a head that starts at 0: no gradient passes it before training
            nn.init.normal_(weight, std=0.02)
    fresh = copy.deepcopy(model)
    sparsity = pu.sparsify(model, LOSSES, [batch], RATIO, forward=case.call)
    _step(sparsity, model, case, batch)
    asked = pu.keep_count(pu.size(sparsity.mask), RATIO)
    assert sparsity.verify()["kept"] == asked
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    pruned = pu.size(sparsity.mask) - asked
    assert zeros >= pruned, f"{zeros} zeros of {pruned} pruned weights"
    sparsity.detach()
    voters = pu.task_voters(LOSSES, sparsity.owners)
    growth = pu.Growth(voters, forward=case.call)
    moving = pu.Regrowth(
        model, sparsity.mask, None, pu.Schedule(9, 1), growth, batches=[batch], owners=sparsity.owners
    )
    _step(moving, model, case, batch)
    assert moving.updates == 1 and moving.figures["dropped"] > 0
    assert moving.verify()["kept"] == asked
    with tempfile.TemporaryDirectory() as folder:
        path = pu.save_sparse(Path(folder) / "net.safetensors", model, moving.mask, moving.certificate)
        pu.load_sparse(path, fresh)
    states = zip(model.state_dict().values(), fresh.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states), "the loaded network differs"
    parameters = sum(p.numel() for p in model.parameters())
    return Row(case.name, parameters, pu.size(sparsity.mask), pruned, zeros)


def _step(sparsity: pu.Masked, model: nn.Module, case: Case, batch: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    sparsity.attach(optimizer)
    model.train()
    out = case.call(model, batch)
    sum((loss(out, batch) for loss in LOSSES.values()), torch.zeros(())).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    sparsity.detach()


def table(rows: list[Row]) -> str:
    lines = [
        "| network | parameters | covered | pruned | true zeros | of all | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        cells = [row.name, *[""] * 5]
        if row.parameters:
            shares = [f"{part / row.parameters:.1%}" for part in (row.covered, row.zeros)]
            cells = [
                row.name,
                f"{row.parameters:,}",
                shares[0],
                f"{row.pruned:,}",
                f"{row.zeros:,}",
                shares[1],
            ]
        lines.append("| " + " | ".join([*cells, row.failed or "holds"]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="*", help="shell pattern of names")
    parser.add_argument("--out", type=Path, help="file that the table is written to")
    given = parser.parse_args()
    rows = []
    for case in cases():
        if fnmatchcase(case.name, given.only):
            rows.append(try_case(case))
            print(rows[-1], flush=True)
    text = table(rows)
    print(text)
    if given.out:
        given.out.write_text(f"{HEAD}\n{text}\n", encoding="utf-8")


HEAD = f"""# Public networks

Networks as their packages ship them, with random weights (the MTCNN with its trained ones), {RATIO} % sparse
by `sparsify` with two losses. Made by

<!-- not run: gigabytes of packages -->
```
python3 -m pip install -r requirements-networks.txt && python3 -m pip install --no-deps facenet-pytorch LibMTL
python3 -m benchmarks.networks --out docs/networks.md
```

*Covered* is the share of all parameters that the ratio speaks of: what multiplies the input. The rest are
embeddings, norms, biases and tables, and weights that no output depends on (in these small language models
the embedding is large). *Pruned* is the number that was asked for, exactly. *True zeros* are counted over all
parameters after a training step with AdamW, whoever made them: biases that start at 0 and get no gradient
count as well. A row *holds* if the count is exact after one training step with the mask attached and after
one move of the mask, and if the saved file loads to the same network, bit for bit.

Two kinds needed care: functions of a network's own that hide their layers from autograd (Reformer's
reversible layers), and weights that are divided by a norm of themselves (weight_norm in Wav2Vec2), of which
something must stay in every slice. Weight standardisation (`test_nfnet`, BiT) subtracts a mean in the forward
pass: a zero of the parameter is then no zero of the product, so that such layers get no faster.
"""


if __name__ == "__main__":
    main()
