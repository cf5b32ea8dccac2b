"""The backbone started from torchvision's ImageNet ResNets: names, and the other image convention.

torchvision's networks see RGB in 0..1 less a mean and divided by a deviation; ours see BGR in 0..255 less a
mean. Their first convolution is turned around and scaled, so that both compute the same (but for the means,
which differ by less than a grey level). Leaves out the class head.
"""

from __future__ import annotations

import re

from torch import Tensor

from common.tensors import flaw

State = dict[str, Tensor]
IMAGENET = "imagenet"
DEVIATION = (0.229, 0.224, 0.225)  # of torchvision's images, red first
_OURS_TO_THEIRS = (
    (r"stem\.conv\.", "conv1."),
    (r"stem\.norm\.", "bn1."),
    (r"stages\.(\d)\.0\.shortcut\.", r"layer{}.0.downsample."),
    (r"stages\.(\d)\.(\d+)\.norm(\d)\.", r"layer{}.\2.bn\3."),
    (r"stages\.(\d)\.(\d+)\.", r"layer{}.\2."),
)


def torchvision_name(name: str) -> str | None:
    """Our parameter or buffer name in torchvision's spelling; None for what is no part of a backbone."""
    match = re.match(r"(backbone|branches\.[^.]+)\.(.*)", name)
    if match is None:
        return None
    for pattern, replacement in _OURS_TO_THEIRS:
        found = re.match(pattern, match[2])
        if found:
            stage = int(found[1]) + 1 if found.groups() else 0
            return found.expand(replacement.format(stage)) + match[2][found.end() :]
    return None


def backbone_state(state: State, ours: State) -> State:
    """The tensors of our backbone (private continuations too) from a torchvision state dict.

    ours: a state dict of the network that shall receive them, for names and shapes. ValueError names the
    first tensor that is missing or of another shape.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    result = {}
    for name, own in ours.items():
        theirs = torchvision_name(name)
        if theirs is None:
            continue
        if theirs not in state:
            raise ValueError(
                f"tensor '{theirs}' is missing, {name} needs it with shape {tuple(own.shape)}: "
                "--backbone-weights takes torchvision's ResNet18 or ResNet34, to match --backbone"
            )
        if state[theirs].shape != own.shape:
            raise ValueError(
                f"tensor '{theirs}' has shape {tuple(state[theirs].shape)}, the network's {name} is "
                f"{tuple(own.shape)}: ImageNet weights need --width 1 and the same --backbone"
            )
        wrong = flaw(state[theirs], own)
        if wrong:
            raise ValueError(f"tensor '{theirs}' {wrong}")
        value = state[theirs].to(own.dtype)
        if name.endswith("stem.conv.weight"):
            value = value / (255 * value.new_tensor(DEVIATION)).view(3, 1, 1)
            value = value.flip(1)
        result[name] = value
    known = {torchvision_name(name) for name in result}
    extra = [name for name in state if name not in known and not name.startswith("fc.")]
    if extra:
        raise ValueError(f"tensor '{extra[0]}' is not part of this backbone: is --backbone right?")
    return result


def download(backbone: str) -> State:
    """torchvision's ImageNet weights, from its cache or from the network, the checksum verified.

    OSError where there is no connection.
    """
    from torchvision.models import get_model_weights

    weights = get_model_weights(backbone).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise ConnectionError(
            f"cannot download {weights.url}: {error}; fetch it elsewhere and name the file with "
            "--backbone-weights FILE"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"the download of {weights.url} is damaged: {error}") from error
