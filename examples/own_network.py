"""Prune your own multitask network: three heads on a ResNet-18, one of which uses only part of the trunk.

"parts" leaves the trunk before its last stage, which therefore belongs to two of the three tasks. Nobody has
to say so: who owns which weight is read off the graph. Run: `python3 -m examples.own_network FILE`.
"""

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy, l1_loss, mse_loss
from torchvision.models import resnet18

import prune_utils as pu


class ThreeHeads(nn.Module):
    def __init__(self):
        super().__init__()
        *early, last, pool, _ = resnet18(weights=None).children()
        self.early, self.last = nn.Sequential(*early), nn.Sequential(last, pool, nn.Flatten())
        self.kind, self.size, self.parts = nn.Linear(512, 10), nn.Linear(512, 1), nn.Conv2d(256, 4, 1)

    def forward(self, image):
        early = self.early(image)
        late = self.last(early)
        return {"kind": self.kind(late), "size": self.size(late), "parts": self.parts(early)}


def main(path, steps=3):
    model = ThreeHeads()
    target = {"kind": torch.arange(4), "size": torch.rand(4, 1), "parts": torch.rand(4, 4, 4, 4)}
    batch = (torch.randn(4, 3, 64, 64), target)
    forms = {"kind": cross_entropy, "size": mse_loss, "parts": l1_loss}
    losses = {task: lambda out, true, t=task: forms[t](out[t], true[t]) for task in forms}

    owners = pu.owners_from_graph(model, losses, batch)
    scores = pu.score(model, pu.task_voters(losses, owners), enumerate([batch]), "snip")
    shapes = {name: weight.shape for name, weight in pu.prunable(model).items()}
    keep = pu.keep_count(sum(shape.numel() for shape in shapes.values()), ratio=90)
    mask = pu.choose(scores, pu.global_budget(shapes, keep), "unanimous")
    cert = pu.certificate(mask, owners, {"ratio": 90, "criterion": "snip", "arbiter": "unanimous"})

    masked, optimizer = pu.Masked(model, mask), torch.optim.Adam(model.parameters())
    for step in range(1, steps + 1):
        out = model(batch[0])
        optimizer.zero_grad()
        sum(loss(out, target) for loss in losses.values()).backward()
        masked.mask_gradients()
        optimizer.step()
        masked.after_step(step, batch)
    torch.save({"model": model.state_dict(), "mask": mask, "certificate": cert}, path)
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    print(pu.format_certificate(saved["certificate"]))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "own_network.pth")
