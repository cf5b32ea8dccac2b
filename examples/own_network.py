"""Make your own multitask network sparse, from training to deployment: three heads on a ResNet-18.

"parts" leaves the trunk before its last stage, which therefore belongs to two of the three tasks. Nobody has
to say so: who owns which weight is read off the graph. Data is drawn on the spot: a coloured square on noise.

    python3 examples/own_network.py [FOLDER]        writes the sparse network and its exported program there
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # not needed where prune_utils is installed

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss, mse_loss
from torchvision.models import resnet18

import prune_utils as pu


class ThreeHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        *early, last, pool, _ = resnet18(weights=None).children()
        self.early, self.last = nn.Sequential(*early), nn.Sequential(last, pool, nn.Flatten())
        self.kind, self.size, self.parts = nn.Linear(512, 3), nn.Linear(512, 1), nn.Conv2d(256, 1, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        early = self.early(image)
        late = self.last(early)
        return {"kind": self.kind(late), "size": self.size(late), "parts": self.parts(early)}


Batch = tuple[Tensor, dict[str, Tensor]]  # images, and targets by task

LOSSES = {
    "kind": lambda out, true: cross_entropy(out["kind"], true["kind"]),
    "size": lambda out, true: mse_loss(out["size"], true["size"]),
    "parts": lambda out, true: l1_loss(out["parts"], true["parts"]),
}


def draw(number: int, seed: int, images: int = 16) -> Iterator[Batch]:
    """Batches of 64 x 64 images with a square: its colour, its side, and where it covers a 4 x 4 grid."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        image = 0.3 * torch.randn(images, 3, 64, 64, generator=generator)
        kind = torch.randint(3, (images,), generator=generator)
        side = torch.randint(12, 40, (images,), generator=generator)
        for n in range(images):
            top, left = torch.randint(0, 64 - int(side[n]), (2,), generator=generator).tolist()
            image[n, kind[n], top : top + side[n], left : left + side[n]] += 1.5
        parts = nn.functional.avg_pool2d(image.amax(1, keepdim=True).gt(1).float(), 16)
        yield image, {"kind": kind, "size": side[:, None] / 64, "parts": parts}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Batch]) -> None:
    model.train()
    for image, target in batches:
        out = model(image)
        optimizer.zero_grad()
        torch.stack([loss(out, target) for loss in LOSSES.values()]).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()


@torch.no_grad()
def evaluate(model: nn.Module, title: str) -> dict[str, float]:
    model.eval()
    batches = list(draw(4, seed=99))
    found = {task: sum(float(loss(model(x), y)) for x, y in batches) / 4 for task, loss in LOSSES.items()}
    print(f"{title:12}" + "  ".join(f"{task} {value:.3f}" for task, value in found.items()))
    return found


def main(target: str | Path, *, steps: int = 24) -> None:
    folder = Path(target)
    torch.manual_seed(0)
    model = ThreeHeads()
    train(model, torch.optim.Adam(model.parameters(), 1e-3), draw(steps, seed=1))
    evaluate(model, "dense")

    sparsity = pu.sparsify(model, LOSSES, draw(2, seed=2), ratio=90)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    sparsity.attach(optimizer)  # pruned gradients and weights are 0 from here on
    evaluate(model, "pruned")
    train(model, optimizer, draw(steps, seed=3))
    evaluate(model, "fine-tuned")
    sparsity.verify()
    print(pu.format_certificate(sparsity.certificate))

    path = pu.save_sparse(folder / "own.safetensors", model, sparsity.mask, sparsity.certificate)
    again = ThreeHeads().eval()
    pu.load_sparse(path, again)
    print(f"\n{path}: {path.stat().st_size / 2**20:.1f} MiB instead of {dense_bytes(model) / 2**20:.1f}")

    image = next(draw(1, seed=4, images=1))[0]
    program = torch.export.export(again, (image,))
    torch.export.save(program, folder / "own.pt2")
    for name, net in {"module": again, "exported": program.module()}.items():
        print(f"{name}: {milliseconds(net, image):.1f} ms an image")


def dense_bytes(model: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


@torch.inference_mode()
def milliseconds(net: Callable[[Tensor], object], image: Tensor, runs: int = 5) -> float:
    net(image)
    start = time.perf_counter()
    for _ in range(runs):
        net(image)
    return 1000 * (time.perf_counter() - start) / runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("folder", nargs="?", default="outputs/own_network", help="where the files go")
    main(parser.parse_args().folder)
