"""A program recorded by torch.fx as it is: changes in place too, code that decides by values whole."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from .steps import AUGMENTED


def root_of(net: nn.Module, names: list[str]) -> nn.Module:
    """A module that calls the network with these arguments, so that the network itself is a submodule."""
    space: dict[str, Any] = {}
    words = ", ".join(names)
    exec(
        f"def forward(self, {words}): return self.net({words})", space
    )  # fx counts the arguments in the code
    root = type("Root", (nn.Module,), {"forward": space["forward"]})()
    root.net = net
    return root


class _Proxy(fx.Proxy):
    """Records `x += y` and its like as they are; torch.fx would tell `x = x + y`."""

    def __getattr__(self, k: str) -> _Attribute:
        return _Attribute(self, k)


class _Attribute(fx.proxy.Attribute):
    """The same of an attribute: `x.data += y`."""

    def __getattr__(self, k: str) -> _Attribute:
        return _Attribute(self, k)


def _recorded(change: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda x, y: x.tracer.create_proxy("call_function", change, (x, y), {})


for _change in AUGMENTED:
    for _kind_of_proxy in (_Proxy, _Attribute):
        setattr(_kind_of_proxy, f"__{_change.__name__}__", _recorded(_change))


class Tracer(fx.Tracer):
    """Leaves a submodule whole where its code asks for values that only a run knows."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return conv_like(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        last, stack = next(iter(reversed(self.graph.nodes)), None), OrderedDict(self.module_stack)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # whatever the network's own code says when it is given a proxy
            for node in reversed(self.graph.nodes):
                if node is last:
                    break
                self.graph.erase_node(node)
            self.module_stack = stack
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def conv_like(module: nn.Module) -> bool:
    """A convolution whose own forward computes what torch's does and says so by `computes_as`."""
    return getattr(type(module), "computes_as", None) is nn.Conv2d
