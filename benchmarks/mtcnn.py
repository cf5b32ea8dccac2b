"""The trained MTCNN that facenet-pytorch ships, pruned and fine-tuned by distillation from its own outputs.

Three small networks (proposals, refinement, output) are pruned as one, with three tasks: the probability of a
face, its box, its five landmarks. No label is needed: the dense network says what is right. The last quarter
of every folder, in name order, is held back; all figures are on those photographs.

usage: python3 -m benchmarks.mtcnn --photos FOLDER [FOLDER ...] [--steps 2000] [--out docs/mtcnn.md]
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import prune_utils as pu
from common.command_line import Parser

RATIOS = (50, 70, 90)
STAGES = {"pnet": 12, "rnet": 24, "onet": 48}  # name -> pixels that a window has
THRESHOLDS = {"pnet": 0.6, "rnet": 0.7, "onet": 0.7}  # from which the package lets a window pass
FACE, FACTOR = 20, 0.709  # smallest face in pixels, step of the pyramid: the package's defaults
BEST, RANDOM = 12, 4  # windows of a photograph: the likeliest faces, and some others
SUFFIXES = (".jpg", ".jpeg", ".png")

Batch = dict[str, Tensor]  # stage -> pixels from -1 to 1, [N, 3, H, W]
Maps = dict[str, dict[str, Tensor]]  # stage -> probability, box, landmarks


def maps(cascade: nn.Module, batch: Batch) -> Maps:
    """What each stage says: probability [N, ...], box [N, 4, ...] in windows, landmarks [N, 10]."""
    said: Maps = {}
    for stage, pixels in batch.items():
        box, *landmarks, probability = getattr(cascade, stage)(pixels)
        said[stage] = {"probability": probability[:, 1], "box": box}
        if landmarks:
            said[stage]["landmarks"] = landmarks[0]
    return said


def _probability(said: Maps, wanted: Maps) -> Tensor:
    """Cross entropy with the dense network's probability, mean over the windows of each stage."""
    losses = []
    for stage, of in said.items():
        p = of["probability"].clamp(1e-6, 1 - 1e-6)
        losses.append(F.binary_cross_entropy(p, wanted[stage]["probability"].clamp(0, 1)))
    return torch.stack(losses).sum()


def _regression(what: str, said: Maps, wanted: Maps) -> Tensor:
    """Squared distance, windows weighted by how likely a face they are (no less than a twentieth)."""
    losses = []
    for stage, of in said.items():
        if what in of:
            weight = 0.05 + wanted[stage]["probability"]
            error = (of[what] - wanted[stage][what]).square().mean(1)
            losses.append((weight * error).sum() / weight.sum())
    return torch.stack(losses).sum()


LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {
    "probability": _probability,
    "box": lambda said, wanted: 10 * _regression("box", said, wanted),
    "landmarks": lambda said, wanted: 10 * _regression("landmarks", said, wanted),
}


def photographs(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(to learn from, held back). Raises ValueError for a folder without any."""
    learn, held = [], []
    for folder in folders:
        found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
        if len(found) < 4:
            raise ValueError(
                f"{folder} holds {len(found)} photographs ({', '.join(SUFFIXES)}), not 4 or more"
            )
        learn += found[: -(len(found) // 4)]
        held += found[-(len(found) // 4) :]
    return learn, held


def read(path: Path) -> Tensor:
    """[1, 3, H, W] in bytes."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]


def scaled(values: Tensor) -> Tensor:
    """Bytes as the package scales them, from -1 to 1."""
    return (values.float() - 127.5) / 128


def pyramid(photo: Tensor) -> list[Tensor]:
    scale, levels = 12 / FACE, []
    while min(photo.shape[2:]) * scale >= 12:
        size = [int(length * scale + 1) for length in photo.shape[2:]]
        levels.append(F.interpolate(photo, size=size, mode="area"))
        scale *= FACTOR
    return levels


@torch.no_grad()
def windows(cascade: Any, photo: Tensor, draws: torch.Generator) -> dict[str, Tensor]:
    """Windows of a photograph for the two later stages, where the dense network would look: the likeliest by
    its first stage, moved as each stage before says, and some drawn at random.
    {"rnet": [N, 3, 24, 24], "onet": [N, 3, 48, 48]}, bytes."""
    likely, squares = [], []
    height, width = photo.shape[2:]
    for level in pyramid(photo):
        box, probability = (said[0] for said in cascade.pnet(level))
        value, at = probability[1].flatten().topk(min(BEST, probability[1].numel()))
        columns, zoom = probability.shape[2], height / level.shape[2]
        corner = 2 * zoom * torch.stack([at % columns, at // columns], 1)
        likely.append(value)
        squares.append(_square(torch.cat([corner, corner + 12 * zoom], 1), box.flatten(1)[:, at].T))
    best = torch.cat(likely).topk(BEST).indices
    side = FACE + torch.rand(RANDOM, 1, generator=draws) * (min(height, width) - FACE)
    corner = torch.rand(RANDOM, 2, generator=draws) * (torch.tensor([width, height]) - side)
    places = torch.cat([torch.cat(squares)[best], torch.cat([corner, corner + side], 1)])
    found = {"rnet": _crops(photo, places, STAGES["rnet"])}
    found["onet"] = _crops(photo, _square(places, cascade.rnet(found["rnet"])[0]), STAGES["onet"])
    return {stage: (crops * 128 + 127.5).round().to(torch.uint8) for stage, crops in found.items()}


def _square(box: Tensor, moved: Tensor) -> Tensor:
    """Boxes [N, 4] (left, top, right, bottom in pixels) moved by shares of their size, made square."""
    size = (box[:, 2:] - box[:, :2]).repeat(1, 2)
    box = box + moved * size
    side = (box[:, 2:] - box[:, :2]).amax(1, keepdim=True).clamp_min(4)
    corner = (box[:, 2:] + box[:, :2] - side) / 2
    return torch.cat([corner, corner + side], 1)


def _crops(photo: Tensor, places: Tensor, size: int) -> Tensor:
    height, width = photo.shape[2:]
    crops = []
    for left, top, right, bottom in places.round().int().tolist():
        left, top = min(max(left, 0), width - 4), min(max(top, 0), height - 4)
        part = photo[:, :, top : max(bottom, top + 4), left : max(right, left + 4)]
        crops.append(F.interpolate(part, size=(size, size), mode="area"))
    return torch.cat(crops)


@torch.no_grad()
def _likely(cascade: nn.Module, stage: str, crops: Tensor) -> Tensor:
    parts = [maps(cascade, {stage: scaled(part)})[stage]["probability"] for part in crops.split(256)]
    return torch.cat(parts)


class Photos:
    """Photographs with their windows, in bytes; batches of them without end."""

    def __init__(self, cascade: nn.Module, paths: Sequence[Path]) -> None:
        draws = torch.Generator().manual_seed(1)
        self.whole = [read(path) for path in paths]
        made = [windows(cascade, scaled(photo), draws) for photo in self.whole]
        self.crops = {stage: torch.cat([each[stage] for each in made]) for stage in ("rnet", "onet")}
        # faces are rare: a window is drawn the more often the likelier the dense network finds one
        self.weight = {stage: 0.02 + _likely(cascade, stage, crops) for stage, crops in self.crops.items()}

    def batches(self, seed: int, number: int = 64) -> Iterator[Batch]:
        draws = torch.Generator().manual_seed(seed)
        while True:
            photo = self.whole[int(torch.randint(len(self.whole), (), generator=draws))]
            levels = pyramid(scaled(photo))[:4]
            batch = {"pnet": levels[int(torch.randint(len(levels), (), generator=draws))]}
            for stage, crops in self.crops.items():
                some = torch.multinomial(self.weight[stage], number, replacement=True, generator=draws)
                batch[stage] = scaled(crops[some])
            if torch.rand((), generator=draws) < 0.5:
                batch = {stage: values.flip(3) for stage, values in batch.items()}
            yield batch

    def held(self) -> Iterator[Batch]:
        """All levels of every fourth photograph, then all windows of all."""
        for photo in self.whole[::4]:
            for level in pyramid(scaled(photo)):
                yield {"pnet": level}
        for stage, crops in self.crops.items():
            for part in crops.split(256):
                yield {stage: scaled(part)}


def prune(dense: nn.Module, photos: Photos, ratio: float, steps: int) -> tuple[nn.Module, pu.Masked, Any]:
    """(pruned and fine-tuned network, its mask, the network as it was pruned only)."""
    network = copy.deepcopy(dense)

    def forward(model: nn.Module, pair: tuple[Batch, Maps]) -> Maps:
        return maps(model, pair[0])

    def labelled(seed: int) -> Iterator[tuple[Batch, Maps]]:
        for batch in photos.batches(seed):
            with torch.no_grad():
                wanted = maps(dense, batch)
            yield batch, wanted

    first = [next(labelled(2))]
    sparsity = pu.sparsify(network, LOSSES, first, ratio, "disparse_pt", forward=forward, budget=BUDGET)
    untrained = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    sparsity.attach(optimizer)
    for _, pair in zip(range(steps), labelled(3), strict=False):
        optimizer.zero_grad()
        said = forward(network, pair)
        torch.stack([loss(said, pair[1]) for loss in LOSSES.values()]).sum().backward()
        optimizer.step()
        schedule.step()
    sparsity.detach()
    return network, sparsity, untrained


BUDGET, RATE = "erk", 5e-4


class Figures(NamedTuple):
    """Of one stage on the held-back windows. Means over all windows, and over those that the dense network
    lets pass; kept: share of these that the sparse one lets pass too; extra: windows that it alone lets
    pass, as a share of the same number."""

    windows: int
    passing: int
    probability: float
    probability_passing: float
    kept: float
    extra: float
    box: float
    landmarks: float


@torch.no_grad()
def say(network: nn.Module, photos: Photos) -> Iterator[Maps]:
    for batch in photos.held():
        yield maps(network, batch)


def compare(dense: Sequence[Maps], sparse: Iterable[Maps]) -> dict[str, Figures]:
    """dense, sparse: what the two networks say about the same batches of one stage each."""
    sums = {stage: dict.fromkeys(Figures._fields, 0.0) for stage in STAGES}
    for wanting, saying in zip(dense, sparse, strict=True):
        (stage,) = wanting
        wanted, said = wanting[stage], saying[stage]
        passes = wanted["probability"] >= THRESHOLDS[stage]
        also = said["probability"] >= THRESHOLDS[stage]
        off = (said["probability"] - wanted["probability"]).abs()
        add: dict[str, Any] = {
            "windows": passes.numel(),
            "passing": passes.sum(),
            "probability": off.sum(),
            "probability_passing": off[passes].sum(),
            "kept": (passes & also).sum(),
            "extra": (also & ~passes).sum(),
            "box": (said["box"] - wanted["box"]).abs().mean(1)[passes].sum(),
        }
        if "landmarks" in said:
            add["landmarks"] = (said["landmarks"] - wanted["landmarks"]).abs().mean(1)[passes].sum()
        for figure, value in add.items():
            sums[stage][figure] += float(value)
    found = {}
    for stage, of in sums.items():
        number, passing = int(of["windows"]), int(of["passing"])
        shares = {name: of[name] / max(passing, 1) for name in Figures._fields[3:]} | {
            "probability": of["probability"] / max(number, 1)
        }
        found[stage] = Figures(windows=number, passing=passing, **shares)
    return found


class Boxes(NamedTuple):
    """Of the whole cascade. dense: boxes of the dense network; found: those that the sparse network finds
    too, with an overlap (intersection / union) of a half or more; overlap: their mean; points: mean distance
    of their landmarks in pixels; extra: boxes of the sparse network that match none."""

    dense: int
    found: int
    extra: int
    overlap: float
    points: float


Found = list[tuple[Any, Any]]  # boxes [4] with landmarks [5, 2], in pixels


def detect(network: Any, paths: Sequence[Path]) -> list[Found]:
    """What the package's own detection finds on every photograph."""
    every = []
    for path in paths:
        with Image.open(path) as image:
            found, _, points = network.detect(image.convert("RGB"), landmarks=True)
        every.append([] if found is None else list(zip(found, points, strict=True)))
    return every


def boxes(dense: Sequence[Found], sparse: Sequence[Found]) -> Boxes:
    total, extra, overlaps, distances = 0, 0, list[float](), list[float]()
    for wanted, said in zip(dense, sparse, strict=True):
        total += len(wanted)
        free = list(said)
        for box, points in wanted:
            best = max(free, key=lambda other: _overlap(box, other[0]), default=None)
            if best is not None and _overlap(box, best[0]) >= 0.5:
                free = [each for each in free if each is not best]
                overlaps.append(_overlap(box, best[0]))
                distances.append(float(np.linalg.norm(np.asarray(points - best[1], float), axis=1).mean()))
        extra += len(free)
    means = [float(np.mean(each)) if each else float("nan") for each in (overlaps, distances)]
    return Boxes(total, len(overlaps), extra, *means)


def _overlap(one: Any, other: Any) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.clip(high - low, 0, None)))
    areas = [float(np.prod(box[2:] - box[:2])) for box in (one, other)]
    return shared / (sum(areas) - shared)


def rows(ratio: float, how: str, figures: dict[str, Figures], found: Boxes) -> tuple[list[str], str]:
    """The rows of the two tables."""
    stages = []
    for stage, f in figures.items():
        cells = [f"{ratio:g} %", how, stage, f"{f.windows:,}", f"{f.passing:,}", f"{f.probability:.4f}"]
        cells += [f"{f.probability_passing:.4f}", f"{f.kept:.1%}", f"{f.extra:.1%}", f"{f.box:.4f}"]
        stages.append("| " + " | ".join([*cells, f"{f.landmarks:.4f}" if stage == "onet" else ""]) + " |")
    cells = [f"{ratio:g} %", how, f"{found.dense}", f"{found.found}", f"{found.extra}"]
    whole = [f"{found.overlap:.3f}", f"{found.points:.2f}"] if found.found else ["", ""]
    return stages, "| " + " | ".join(cells + whole) + " |"


HEAD = """# A trained face detector, sparse

The MTCNN of facenet-pytorch 2.6 ({weights:,} parameters, {covered:.2%} of them considered), pruned by
`disparse_pt` ({budget} budget) and fine-tuned by distillation from its own outputs, {steps} steps on {learn}
photographs. All figures are on {held} others, which neither saw. Made by

<!-- not run: your own photographs, and a minute a ratio -->
```
python3 -m benchmarks.mtcnn --photos {folders} --steps {steps}{limit} --out docs/mtcnn.md
```

## The raw maps against the dense network's

Windows: of the first stage all, on every fourth photograph; of the later stages the {best} likeliest faces of
every photograph, where the dense network would look, and {random} drawn at random. Distances are means of
absolute differences: of the probability over all windows and over those that the dense network lets pass, of
box and landmarks (in lengths of the window) over the latter. Kept: the share of these that the sparse network
lets pass too; extra: windows that it alone lets pass, in shares of the same number.

| ratio | | stage | windows | passing | probability | passing | kept | extra | box | landmarks |
| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""

BOXES = """
## Boxes

Of the whole cascade, by the package's own `detect`. The dense network finds {dense} boxes, on {seen} of the
photographs, which show streets and rooms: pictures of faces and false alarms, hardly a person. The sparse
networks look at these {seen}. Found: overlap of a half or more; overlap and distance of the landmarks
(pixels) are means over those; extra: boxes that match none.

| ratio | | dense | found | extra | overlap | landmarks |
| ---: | --- | ---: | ---: | ---: | ---: | ---: |
"""


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="folders of photographs")
    parser.add_argument("--steps", type=int, default=2000, help="of fine-tuning")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS, help="percent removed")
    parser.add_argument(
        "--limit", type=int, help="at least so many photographs to learn from: every n-th of all"
    )
    parser.add_argument("--out", type=Path, help="file that the page is written to")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        from facenet_pytorch import MTCNN

        learn, held = photographs(asked.photos)
    except ImportError:
        parser.error("facenet-pytorch is not installed: python3 -m pip install --no-deps facenet-pytorch")
    except ValueError as error:
        parser.error(str(error))
    torch.manual_seed(0)
    learn = learn[:: max(len(learn) // asked.limit, 1)] if asked.limit else learn
    dense = MTCNN(keep_all=True, min_face_size=FACE).eval()
    photos, others = Photos(dense, learn), Photos(dense, held)
    finds = [(path, found) for path, found in zip(held, detect(dense, held), strict=True) if found]
    seen, known = [path for path, _ in finds], [found for _, found in finds]
    said = list(say(dense, others))
    stages: list[str] = []
    whole: list[str] = []
    number = covered = 0
    for ratio in asked.ratios:
        sparse, sparsity, untrained = prune(dense, photos, ratio, asked.steps)
        sparsity.verify()
        covered = pu.size(sparsity.mask)
        for how, network in (("pruned", untrained), ("fine-tuned", sparse)):
            found = boxes(known, detect(network.eval(), seen))
            number = found.dense
            lines, line = rows(ratio, how, compare(said, say(network, others)), found)
            stages, whole = [*stages, *lines], [*whole, line]
            print("\n".join([*lines, line]), flush=True)
    weights = sum(p.numel() for p in dense.parameters())
    page = HEAD.format(
        weights=weights,
        covered=covered / weights,
        budget=BUDGET,
        steps=asked.steps,
        limit=f" --limit {asked.limit}" if asked.limit else "",
        learn=len(learn),
        held=len(held),
        folders=" ".join("FOLDER" for _ in asked.photos),
        best=BEST,
        random=RANDOM,
    )
    page += "\n".join(stages) + "\n" + BOXES.format(dense=number, seen=len(seen)) + "\n".join(whole) + "\n"
    if asked.out:
        asked.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
