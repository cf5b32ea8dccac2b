"""Copies of networks, also of those that keep what a forward pass computed.

torch copies leaves alone; an activation that a network keeps as an attribute, and the weight that old-style
weight_norm leaves in its layer, are none.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils import _pytree as pytree

M = TypeVar("M", bound=nn.Module)


def copied(model: M, instead: Mapping[int, Any] | None = None) -> M:
    """A deep copy, what is no leaf without its graph. instead: id of an object -> what takes its place."""
    known = dict(instead or {})
    for value in computed(model):
        if id(value) not in known:
            known[id(value)] = value.detach().clone()
    return copy.deepcopy(model, known)


def computed(model: nn.Module) -> list[Tensor]:
    """The tensors in attributes of a network's modules, in lists and dicts too, that have a graph."""
    held = [value for module in model.modules() for value in pytree.tree_leaves(vars(module))]
    return [value for value in held if isinstance(value, Tensor) and not value.is_leaf]
