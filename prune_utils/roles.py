"""What a parameter does in its network: a weight that multiplies the input, or something that is left alone.

Layers of torch are known by their type. A parameter that another class holds bare (GPT-2's Conv1D, fused
experts, a projection) is a weight if a product takes it as its operand (tracing.py looks at a forward pass);
without a batch to look at, its dimensions and its name decide: two dimensions or more, and not called like a
table (positions, tokens, scales, ...).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList

from .isolation import same_modes
from .parameters import Held, Holder
from .seeds import generator

# kinds that a ratio speaks of
CONV, TRANSPOSED, LINEAR, BILINEAR = "convolution", "transposed convolution", "linear", "bilinear"
RECURRENT, ATTENTION, EXPERTS, PRODUCT = "recurrent", "attention", "experts", "product"
WEIGHTS = (CONV, TRANSPOSED, LINEAR, BILINEAR, RECURRENT, ATTENTION, EXPERTS, PRODUCT)
# kinds that are left alone unless asked for
EMBEDDING, NORM, BIAS, TABLE, PARAMETRIZED = "embedding", "norm", "bias", "table", "parametrized"

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
CELLS = ((nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1))
# words of names that foreign classes give to what is added, looked up or multiplied elementwise
TABLE_WORDS = re.compile(
    "pos(itions?|itional)?|rel(ative)?|tables?|tokens?|emb(eds?|eddings?)?|cls|dist|registers?|prompts?|latents?"
    "|query|queries|slots|anchors?|scales?|gamma|beta|lambda|alpha|temperature|tau|mask|freqs?|frequencies|sigma"
    "|mean|std|a_log|dt|codebook|centroids|memory"
)
WEIGHT_WORDS = re.compile("weights?|kernel|proj(ection)?|matrix|w")


class Shape(tuple[int, ...]):
    """A weight's shape that also knows its matrices: the equal blocks that its first axis stacks.

    An LSTM stacks four gates, an attention's in_proj three projections, fused experts one matrix each.
    `matrix` is the shape of one block: what fan-in, fan-out and the densities of ERK speak of.
    """

    blocks: int
    kind: str

    def __new__(cls, shape: Sequence[int], kind: str = PRODUCT, blocks: int = 1) -> Shape:
        made = super().__new__(cls, shape)
        made.kind, made.blocks = kind, blocks
        return made

    @property
    def matrix(self) -> tuple[int, ...]:
        if self.kind == EXPERTS or not self:
            return tuple(self[1:])
        return (self[0] // self.blocks, *self[1:])

    @property
    def fan_in(self) -> int:
        """Inputs of one output of a block; of a transposed convolution its axes stand the other way round."""
        return self._fan(0) if self._input_first else self._fan(1)

    @property
    def fan_out(self) -> int:
        return self._fan(1) if self._input_first else self._fan(0)

    @property
    def _input_first(self) -> bool:
        return self.kind in (TRANSPOSED, EXPERTS, PRODUCT)

    def _fan(self, axis: int) -> int:
        matrix = self.matrix
        if self.kind == BILINEAR:  # [out, in1, in2]: an output sums over both inputs
            return matrix[0] if axis == 0 else matrix[1] * matrix[2]
        window = 1
        for length in matrix[2:]:
            window *= length
        return (matrix[axis] if len(matrix) > axis else 1) * window


@dataclass(frozen=True)
class Role:
    """kind: one of WEIGHTS, or why the parameter is none. known: by type; False = by name and dimensions."""

    kind: str
    blocks: int = 1
    known: bool = True

    @property
    def weight(self) -> bool:
        return self.kind in WEIGHTS


def role_of(held: Held) -> Role:
    """The role of a parameter from the first of its holders that uses it as a weight, else from the first.

    Raises ValueError for a lazy parameter, whose shape nobody knows yet.
    """
    if is_lazy(held.parameter):
        raise ValueError(
            f"{held.name!r} is lazy and has no shape yet: run one batch through the network first"
        )
    roles = [_role(held.parameter, holder, held.name) for holder in held.holders]
    return next((role for role in roles if role.kind == EMBEDDING), None) or next(
        (role for role in roles if role.weight), roles[0]
    )


def _role(parameter: nn.Parameter, holder: Holder, name: str) -> Role:
    layer, attribute = holder.layer, holder.attribute
    if is_length(holder):
        return Role(NORM)
    role = _torch_role(layer, attribute) or _foreign_role(parameter, layer, attribute, name)
    if role.weight and holder.form.startswith("original") and not _keeps_zeros(layer, attribute, holder.form):
        return Role(PARAMETRIZED)
    return role


def _torch_role(layer: nn.Module, attribute: str) -> Role | None:
    """The role by the type of the layer (subclasses too), None for a tensor that the type does not know."""
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return Role(EMBEDDING) if attribute == "weight" else None
    if isinstance(layer, NORMS):
        return Role(BIAS if attribute == "bias" else NORM)
    if attribute == "bias" or attribute.startswith("bias_"):
        return Role(BIAS)
    if isinstance(layer, _ConvNd) and attribute == "weight":
        return Role(TRANSPOSED if isinstance(layer, _ConvTransposeNd) else CONV)
    if isinstance(layer, nn.Linear) and attribute == "weight":
        return Role(LINEAR)
    if isinstance(layer, nn.Bilinear) and attribute == "weight":
        return Role(BILINEAR)
    if isinstance(layer, nn.RNNBase) and attribute.startswith("weight_"):
        return Role(RECURRENT, 1 if attribute.startswith("weight_hr") else GATES[layer.mode])
    if isinstance(layer, nn.RNNCellBase) and attribute.startswith("weight_"):
        return Role(RECURRENT, next((gates for kind, gates in CELLS if isinstance(layer, kind)), 1))
    if isinstance(layer, nn.MultiheadAttention) and attribute.endswith("proj_weight"):
        return Role(ATTENTION, 3 if attribute == "in_proj_weight" else 1)
    return None


def _foreign_role(parameter: nn.Parameter, layer: nn.Module, attribute: str, name: str) -> Role:
    kind = type(layer).__name__.lower()
    if "norm" in kind:
        return Role(BIAS if "bias" in attribute or "beta" in attribute else NORM)
    words = _words(name, attribute)
    if "bias" in words or "biases" in words:
        return Role(BIAS)
    if parameter.dim() < 2:
        return Role(TABLE)
    if "embed" in kind or "position" in kind:
        return Role(TABLE, known=False)
    # a single row, or channels with nothing around them, is added or multiplied elementwise
    flat = sum(length > 1 for length in parameter.shape) < 2 or parameter.shape[0] == 1
    if (any(map(TABLE_WORDS.fullmatch, words)) or flat) and not any(map(WEIGHT_WORDS.fullmatch, words)):
        return Role(TABLE, known=False)
    expert = parameter.dim() == 3 and ("expert" in kind or "moe" in kind or "expert" in name.lower())
    return Role(EXPERTS if expert else PRODUCT, parameter.shape[0] if expert else 1, known=False)


def _words(name: str, attribute: str) -> set[str]:
    """`layers.0.gate_up_proj` -> {gate, up, proj}; in a ParameterList those of the list, not the number."""
    if attribute.isdigit():
        attribute = next((part for part in reversed(name.split(".")) if not part.isdigit()), attribute)
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", attribute).lower()
    return {re.sub(r"\d+$", "", word) for word in snake.split("_")} | {snake}


def is_length(holder: Holder) -> bool:
    """Whether a parameter is the lengths that weight_norm gives to the slices of a weight."""
    length = holder.form == "original0" and _is_weight_norm(holder.layer, holder.attribute)
    return length or holder.form == "g"


def _is_weight_norm(layer: nn.Module, attribute: str) -> bool:
    chain = _chain(layer, attribute)
    return chain is not None and isinstance(chain[0], _WeightNorm)


def parametrizations(layer: nn.Module, attribute: str) -> list[nn.Module]:
    """The steps that compute a layer's tensor from its originals, in order; [] for a plain parameter."""
    chain = _chain(layer, attribute)
    return [] if chain is None else list(chain)


def _chain(layer: nn.Module, attribute: str) -> ParametrizationList | None:
    chains = layer._modules.get("parametrizations")
    chain = chains._modules.get(attribute) if isinstance(chains, nn.ModuleDict) else None
    return chain if isinstance(chain, ParametrizationList) else None


@torch.no_grad()
def _keeps_zeros(layer: nn.Module, attribute: str, form: str) -> bool:
    """Whether zeros of this original are zeros of the weight that the parametrization makes from it."""
    chain = _chain(layer, attribute)
    assert chain is not None
    if all(isinstance(step, _SpectralNorm) for step in chain):
        return True
    if isinstance(chain[0], _WeightNorm) and len(chain) == 1:
        return form == "original1"
    original = getattr(chain, form)
    if original.is_meta:
        return False
    # nobody knows what a user's own one does: try it on every other weight, and some more by lot, as every
    # other one alone is symmetric
    draws = generator("keeps zeros")
    place = torch.arange(original.numel()).reshape(original.shape)
    patterns = [(place % 2 == odd) | (torch.rand(place.shape, generator=draws) < 0.5) for odd in (0, 1)]
    buffers = {name: buffer.clone() for name, buffer in chain.named_buffers()}
    with same_modes(chain), torch.random.fork_rng():
        chain.eval()
        for kept in (pattern.to(original.device) for pattern in patterns):
            made = torch.func.functional_call(chain, {form: torch.ones_like(original) * kept} | buffers, ())
            if not isinstance(made, Tensor) or made.shape != original.shape or made[~kept].any():
                return False
    return True
