"""Small random networks with random masks."""

import torch

from models.multitask import MultiTaskNet

CHANNELS = {"seg": 3, "sn": 3, "depth": 1}


def random_network(seed, density=0.1, width=0.05, branch_after=None, backbone="resnet18"):
    """(network in evaluation mode with random norms and zeroed weights, its mask).

    density: of every layer, or a list from which each layer draws one.
    """
    generator = torch.Generator().manual_seed(seed)
    network = MultiTaskNet(CHANNELS, backbone, width, branch_after).eval()
    choices = density if isinstance(density, list) else [density]
    mask = {}
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
            if value.dim() == 4:
                picked = choices[int(torch.randint(len(choices), (1,), generator=generator))]
                mask[name] = torch.rand(value.shape, generator=generator) < picked
                value.mul_(mask[name]).mul_((2 / max(1.0, value[0].numel() * picked)) ** 0.5)
        for name, value in network.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(torch.randn(value.shape, generator=generator))
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return network, mask


def random_image(seed, batch=2, height=33, width=47):
    return torch.randn((batch, 3, height, width), generator=torch.Generator().manual_seed(seed))


def worst(found, expected):
    """Largest difference over the tasks of `found`, as a share of the largest expected value."""
    return max(
        float((found[task].double() - expected[task].double()).abs().max() / expected[task].abs().max())
        for task in found
    )
