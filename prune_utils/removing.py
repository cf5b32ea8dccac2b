"""Whole channels removed by the tasks' vote: what is left is an ordinary, smaller, dense network.

Which channels go says a mask (channelwise.py), of one choice or of the last of several rounds; here they
leave the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .arbiters import Arbiter
from .channels import Axis
from .channelwise import Channelwise, Size, channel_grain, link
from .choosing import choose
from .copying import copied
from .deploy.comparing import differences
from .masks import Mask, Scores
from .resizing import all_shapes, put

# share of an output's range by which the smaller network may differ from the masked one, by its precision
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
Call = Callable[[nn.Module, tuple[Any, ...]], Any]


@dataclass(frozen=True)
class Removal:
    """What goes: tensor name and axis -> indices. before, after: sizes; asked: of `of`, what was to be kept.

    widths: layer -> (channels, those that stay), of the first layer of each set that hangs together. whole:
    layers whose channels could not go -> why. names: all of a tensor that has several, by its first.
    """

    gone: dict[Axis, tuple[int, ...]]
    before: Size
    after: Size
    of: str
    asked: int
    widths: dict[str, tuple[int, int]]
    whole: dict[str, str] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @torch.no_grad()
    def cut(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by name (a state dict, masks, scores) without what goes."""
        made = dict(state)
        for name, axis, indices in self._places(made):
            rest = torch.ones(made[name].shape[axis], dtype=torch.bool)
            rest[list(indices)] = False
            made[name] = made[name].index_select(axis, rest.nonzero().flatten().to(made[name].device))
        return made

    @torch.no_grad()
    def zeroed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors in their old shapes, 0 where something goes."""
        made = {name: value.clone() for name, value in state.items()}
        self._clear(made)
        return made

    def apply(self, model: nn.Module) -> None:
        """Takes the channels out of a network, in place. Optimizers of its parameters are to be made anew."""
        put(model, self.cut(self._held(model)))

    def silence(self, model: nn.Module) -> None:
        """Sets to 0, in place, all that `apply` takes out."""
        self._clear(self._held(model))

    def changed(self, model: nn.Module) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that were cut, of a network from which the channels are gone."""
        shapes = all_shapes(model)
        return {name: shapes[name] for name in dict.fromkeys(name for name, _ in self.gone)}

    def _held(self, model: nn.Module) -> dict[str, Tensor]:
        """A network's tensors of which something goes, by their first names."""
        found = dict(model.named_parameters()) | dict(model.named_buffers())
        names = {name for name, _ in self.gone}
        return {name: found[name].detach() for name in found if name in names}

    def _clear(self, tensors: Mapping[str, Tensor]) -> None:
        for name, axis, indices in self._places(tensors):
            tensors[name].index_fill_(axis, torch.tensor(indices, device=tensors[name].device), 0)

    def _places(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, int, tuple[int, ...]]]:
        """Name, axis and indices of what goes of these tensors, whichever of its names each has."""
        for (first, axis), indices in self.gone.items():
            for name in self.names.get(first, (first,)):
                if name in tensors:
                    yield name, axis, indices


def choose_channels(
    model: nn.Module,
    example: tuple[Any, ...],
    scores: Mapping[str, Scores],
    uses: Mapping[str, int],
    ratio: float,
    of: str = "params",
    *,
    arbiter: str | Arbiter = "unanimous",
    multiple: int = 1,
    protect: Iterable[str] = (),
    call: Call | None = None,
) -> Removal:
    """Which channels go: the fewest, worst first, after which the ratio is met.

    scores: by voter and weight. uses: multiply-adds of a weight in one forward pass, by name (weight_uses).
    ratio: percent of all parameters (of="params"), or of the multiply-adds (of="macs"), that are removed.
    multiple: of what remains of a layer's channels, where it did not have fewer. Every layer keeps so many.
    Raises ValueError for a ratio that no removal meets, or a network whose channels cannot be followed.
    """
    grain = channel_grain(link(model, example, protect, call), uses, of, multiple)
    keep = grain.keep(ratio)
    return removal_of(grain, choose(scores, grain.budget(keep), arbiter, grain=grain), keep)


def removal_of(grain: Channelwise, mask: Mask, asked: int) -> Removal:
    """What is to go where a mask of this grain (channelwise.py) prunes. asked: what was to be kept."""
    left = grain.counted(mask)
    widths = {
        channels.name: (len(channels.units) * channels.width, count * channels.width)
        for channels, count in zip(grain.linked.channels, left.counts, strict=True)
    }
    linked, gone = grain.linked, left.gone()
    return Removal(
        gone, grain.whole, left.size(), grain.of, asked, widths, dict(linked.whole), dict(linked.names)
    )


@torch.no_grad()
def check_removal(
    model: nn.Module, removal: Removal, example: tuple[Any, ...], call: Call | None = None
) -> float:
    """How far the smaller network's outputs are from those of the network with the channels at 0: the largest
    difference as a share of an output's range, in float64; where the network does not run so because it
    converts its input, in its own precision.

    Raises ValueError where that is more than rounding: the channels do not hang together as they were traced.
    """

    def run(network: nn.Module, given: tuple[Any, ...]) -> Any:
        return network(*given) if call is None else call(network, given)

    smaller, masked = (copied(model).eval() for _ in range(2))
    removal.apply(smaller)
    removal.silence(masked)
    wide = pytree.tree_map_only(
        Tensor, lambda value: value.double() if value.is_floating_point() else value, example
    )
    try:
        expected = run(copied(masked).double(), wide)
    except Exception:  # float32 meets float64, or the network looks at the type itself
        expected = run(masked, example)
    else:
        smaller, example = smaller.double(), wide
    try:
        made = run(smaller, example)
    except Exception as error:  # of any kind, from the network's code
        raise ValueError(
            f"the network does not run without these channels ({error}); `protect` keeps layers whole"
        ) from error
    for ours, theirs in zip(*map(pytree.tree_leaves, (made, expected)), strict=True):
        if isinstance(theirs, Tensor) and ours.shape != theirs.shape:
            raise ValueError(f"an output of shape {tuple(theirs.shape)} became {tuple(ours.shape)}")
    worst = 0.0
    for off, theirs in zip(differences(made, expected), pytree.tree_leaves(expected), strict=True):
        if off and not off <= TOLERANCE.get(theirs.dtype, 0.0):
            raise ValueError(
                f"without these channels an output is off by {off:.1e} of its range: they do not hang "
                "together as torch-pruning traced them (a shuffle of channels, for example); `protect` keeps "
                "layers whole"
            )
        worst = max(worst, off)
    return worst
