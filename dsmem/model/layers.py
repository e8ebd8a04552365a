"""The plain parts of the decoder: linear layer, embedding, norm, MLP, rotary positions, and eager attention.

Shapes are written (batch, seq_len, ...). Every function says what it allocates where that is not its result alone.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from dsmem.config.workload import EAGER
from dsmem.model import operators
from dsmem.model.softmax import softmax

if TYPE_CHECKING:
    from dsmem.config.architecture import Architecture
    from dsmem.model.cache import KVCache


@dataclasses.dataclass(frozen=True)
class Step:
    """What all layers of one pass share; `Decoder.step` makes it.

    cos: cosines of the new tokens' rotary angles, (seq_len, 1, rotated_dim); both halves of a pair have the same one.
    sin: their sines, (seq_len, 1, rotated_dim / 2). Both are in the model's dtype; None where positions are learned.
    mask: True where a token may not look, (seq_len, key_len); eager attention has one, and an indexer. window_mask: the
    same of the layers that slide, over the tokens that they keep and the new ones.
    cache: the `KVCache` that holds the earlier tokens, or None.
    attention: as in `Workload`, but "auto". absorbed: whether latent attention reads the cached latents as they are.
    chosen: the bias of an indexer, between the layers that share it. window_angles: cosines and sines of the
    layers that slide, where they have a rotary base of their own. dropout: of a model in training.
    """

    cos: torch.Tensor | None
    sin: torch.Tensor | None
    mask: torch.Tensor | None = None
    cache: "KVCache | None" = None
    attention: str = "fused"
    absorbed: bool = False
    chosen: list[torch.Tensor] = dataclasses.field(default_factory=list)
    window_mask: torch.Tensor | None = None
    window_angles: tuple[torch.Tensor, torch.Tensor] | None = None
    dropout: float = 0.0

    @property
    def eager(self) -> bool:
        """Whether attention has its scores in memory."""
        return self.attention in EAGER


class Linear(nn.Linear):
    """`nn.Linear` that leaves its weights as they were allocated; `build_model` fills them once."""

    def reset_parameters(self) -> None:
        """Nothing to do: random weights made here would be overwritten."""

    def weight_copy(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight (out_features, in_features) itself: multiplying with it needs no copy.

        dtype: what a layer with rounded weights would convert to.
        """
        return self.weight


class Embedding(nn.Embedding):
    """`nn.Embedding`, filled by `build_model` like every `Linear`."""

    def reset_parameters(self) -> None:
        """Nothing to do: random weights made here would be overwritten."""


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, one fused operator (arXiv 1910.07467).

    width: elements of the last axis. eps: added under the root. like: dtype and device of the weight, (width,).
    """

    def __init__(self, width: int, eps: float, **like: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, **like))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` normed, in its own shape and dtype."""
        # under autocast the weight alone may be in FP32, and a GPU's kernel wants one format
        return operators.rms_norm(x, self.weight.to(x.dtype), self.eps)[0]


class LayerNorm(nn.Module):
    """Mean and standard deviation taken out along the last axis, then a weight and a bias (arXiv 1607.06450).

    width: elements of the last axis. eps: added under the root. like: dtype and device of both, (width,).
    """

    def __init__(self, width: int, eps: float, **like: Any):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width, **like)), nn.Parameter(torch.zeros(width, **like))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` normed, in its own shape and dtype."""
        return operators.layer_norm(x, self.weight, self.bias, self.eps)[0]


class MLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))` (arXiv 2002.05202).

    make_linear: gives the layer of a name, as in `Decoder`. prefix: stands before the three names.
    """

    def __init__(self, make_linear: Callable, prefix: str = ""):
        super().__init__()
        self.gate_proj, self.up_proj = make_linear(prefix + "gate_proj"), make_linear(prefix + "up_proj")
        self.down_proj = make_linear(prefix + "down_proj")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len, hidden_size), from the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class JoinedMLP(nn.Module):
    """The same with gate and up from one matrix, as Phi-3 has them. make_linear: as in `MLP`."""

    def __init__(self, make_linear: Callable):
        super().__init__()
        self.gate_up_proj, self.down_proj = make_linear("gate_up_proj"), make_linear("down_proj")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len, hidden_size), from the same shape."""
        return self.down_proj(self.inner(x))

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        """What goes into `down_proj`, (batch, seq_len, intermediate_size); gate and up die on return."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return F.silu(gate) * up


def dense_mlp(arch: "Architecture", make_linear: Callable) -> nn.Module:
    """The MLP of a dense layer of `arch`. make_linear: as in `MLP`."""
    return JoinedMLP(make_linear) if arch.joined_gate_up else MLP(make_linear)


def rope_frequencies(arch: "Architecture", device: torch.device | str, theta: float | None = None) -> torch.Tensor:
    """Angle per position of each pair of head dimensions: (rotated_dim / 2,), float32 (arXiv 2104.09864, section 3.2).

    device: as torch takes it. theta: the base, never scaled; defaults to `rope_theta` as it is scaled. Raises
    ValueError for scaled angles, which this code does not run.
    """
    if theta is None and arch.rope_scaling:
        kind = dict(arch.rope_scaling)["rope_type"]
        raise ValueError(
            f"rope_scaling={kind!r} is not run; allowed: 'default' (it moves no byte: arch.scaled(rope_scaling=()), or "
            "device='fake', takes the same memory)"
        )
    exponents = torch.arange(0, arch.rotated_dim, 2, device=device) / arch.rotated_dim
    return (arch.rope_theta if theta is None else theta) ** -exponents


def future_mask(positions: torch.Tensor, keys: range, window: int | None = None) -> torch.Tensor:
    """True where a key lies after the token at positions[i], or `window` tokens or more before it: (seq_len, keys).

    positions: of the new tokens, (seq_len,). keys: the positions of the keys, cached ones included.
    """
    places = torch.arange(keys.start, keys.stop, device=positions.device)
    mask = places > positions[:, None]
    if window is not None:
        mask.logical_or_(places <= positions[:, None] - window)
    return mask


def once(call: Callable, *tensors: torch.Tensor, **options: Any) -> Any:
    """What `call` makes of `tensors`. In its place an attention layer may have one that makes it again in backward."""
    return call(*tensors, **options)


def autocasted(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors as torch.autocast would hand them to a product: copies in its format, where it is on.

    torch does so for its own operators, attention among them, and does not know ours.
    """
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)


def split_heads(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """(batch, seq_len, heads * head_dim) seen as (batch, seq_len, heads, head_dim); moves nothing."""
    return x.view(*x.shape[:-1], -1, head_dim)


def repeat_heads(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(batch, len, heads, head_dim) copied to (batch, len, heads * groups, head_dim), in memory head by head.

    groups: query heads that share one key head; 1 copies into the new order alone.
    """
    by_head = x.transpose(1, 2)[:, :, None].expand(-1, -1, groups, -1, -1)
    return by_head.clone(memory_format=torch.contiguous_format).flatten(1, 2).transpose(1, 2)


def squeeze(x: torch.Tensor, cap: float) -> torch.Tensor:
    """`x` between `cap` and its negative, in place but for the last product where a gradient is to come back."""
    x = x.div_(cap).tanh_()
    return x * cap if x.requires_grad else x.mul_(cap)


def drop(x: torch.Tensor, probability: float) -> torch.Tensor:
    """`x` with zeros at random places and the rest scaled up; a mask of one byte each is kept (arXiv 1207.0580)."""
    return torch.native_dropout(x, probability, True)[0] if probability else x


def eager_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    attention: str = "eager",
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attention with its scores (batch, heads, seq_len, key_len) in memory, and what `softmax` makes of them.

    q: (batch, seq_len, heads, head_dim). k, v: (batch, key_len, heads, head_dim), of as many heads.
    mask, attention: as in `Step`.
    bias: added to the scores in the mask's place, (batch, 1, seq_len, key_len); None where no indexer chooses.
    softcap: scores are squeezed between this and its negative, in place; where a gradient is to come back, the last
    product is a second tensor, since that of tanh is kept. dropout: as in `Step`, of the weights. sinks: one more score
    for each head, (heads,), which takes its share of the softmax and has no value; the scores are copied beside it.
    Returns (batch, seq_len, heads * head_dim).
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    scores = torch.matmul(q, k.transpose(2, 3)).mul_(q.shape[-1] ** -0.5)
    if softcap is not None:
        scores = squeeze(scores, softcap)
    scores = scores.masked_fill_(mask, -torch.inf) if bias is None else scores.add_(bias)
    if sinks is not None:
        column = sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, column), dim=-1)
    weights = softmax(scores, attention)
    del scores
    weights = drop(weights, dropout)
    out = torch.matmul(weights[..., : k.shape[2]], v).transpose(1, 2)
    return out.clone(memory_format=torch.contiguous_format).flatten(2)
