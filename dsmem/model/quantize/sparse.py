"""2:4 sparsity: of every four numbers of a row two are kept, and two bits say where each of them stood.

That is the pattern for which GPUs from Ampere on have a product of twice the rate (arXiv 2104.08378). The numbers kept
are those of PyTorch's own format, and so are the bytes; its places are merely in another order, the one that a GPU's
kernel reads. Here a product runs through a copy of the whole weight, as in all of this room: nothing gets faster.
"""

import torch

from dsmem.model.experts import ExpertStack
from dsmem.model.quantize.base import QuantizedLinear, stored


def prune(weight: torch.Tensor) -> torch.Tensor:
    """A copy of `weight` (..., width) without the two smallest of every four numbers: zeros stand in their place.

    Raises ValueError for a width that is not a multiple of 4.

    >>> prune(torch.tensor([1.0, -4.0, 2.0, 3.0])).tolist()
    [0.0, -4.0, 0.0, 3.0]
    """
    fours = weight.unflatten(-1, (_fours(weight), 4))
    # wider, because the magnitude of -128 is no int8
    kept = fours.float().abs().argsort(dim=-1, descending=True, stable=True)[..., :2]
    return torch.zeros_like(fours).scatter_(-1, kept, fours.gather(-1, kept)).flatten(-2)


@torch.no_grad()
def prune_layers(model: torch.nn.Module, seed: int | None = None) -> float:
    """Prune the linear layers and the experts of a `Decoder` in place; returns the share of its parameters set to 0.

    Embedding, head, norms and routers stay. seed: None keeps the largest numbers; otherwise two of four by chance.
    """
    zeros = 0
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for module in model.layers.modules():
        if isinstance(module, torch.nn.Linear | ExpertStack):
            weight = module.weight
            if generator is None:
                pruned = prune(weight)
            else:
                pruned = weight * (prune(torch.rand(weight.shape, generator=generator)) > 0)
            zeros += int((pruned == 0).sum())
            weight.copy_(pruned)
    return zeros / sum(parameter.numel() for parameter in model.parameters())


def pack(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is stored of `weight` (rows, width), in any format: the kept numbers (rows, width / 2) and their places.

    The places are four in a byte, (rows * width / 8,) rounded up, uint8. Raises ValueError for a weight that has more
    than two numbers other than 0 among four: prune it first.

    >>> values, places = pack(torch.tensor([[0.0, 5.0, 0.0, 7.0, 0.0, 0.0, 0.0, 9.0]]))
    >>> values.tolist(), places.tolist()  # places 1, 3, 0, 3, the first in the lowest bits
    ([[5.0, 7.0, 0.0, 9.0]], [205])
    """
    fours = weight.unflatten(-1, (_fours(weight), 4))
    if int((fours != 0).sum(-1).max()) > 2:
        raise ValueError(
            "weight has more than two of four numbers other than 0; it must be pruned first, as by `prune`"
        )
    # numbers come before zeros, and of those the first; then in order
    kept = (fours == 0).to(torch.int8).argsort(dim=-1, stable=True)[..., :2].sort(-1).values
    return fours.gather(-1, kept).flatten(-2), _in_bytes(kept.flatten().to(torch.uint8))


def unpack(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The weight (rows, width) that `pack` was given, bit for bit but for the sign of a zero.

    >>> unpack(torch.tensor([[5.0, 7.0]]), torch.tensor([13], dtype=torch.uint8)).tolist()
    [[0.0, 5.0, 0.0, 7.0]]
    """
    pairs = values.unflatten(-1, (-1, 2))
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=places.device)
    kept = (places[:, None] >> shifts & 3).flatten()[: values.numel()].view(pairs.shape).long()
    return values.new_zeros((*pairs.shape[:-1], 4)).scatter_(-1, kept, pairs).flatten(-2)


class SparseLinear(QuantizedLinear):
    """`nn.Linear` that stores 2 of 4 numbers in `dtype`, and their places. Arguments: as in `QuantizedLinear`.

    Raises ValueError unless `in_features` is a multiple of 8.

    >>> layer = SparseLinear(64, 16, bias=False, dtype=torch.bfloat16, device="cpu")
    >>> sum(parameter.nbytes for parameter in layer.parameters()) / (64 * 16 * 2)
    0.5625
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, device: torch.device | str):
        if in_features % 8:
            raise ValueError(
                f"in_features={in_features} does not fill whole bytes of places; it must be a multiple of 8"
            )
        super().__init__(in_features, out_features, bias, dtype, device)
        self.weight = stored(torch.zeros(out_features, in_features // 2, dtype=dtype, device=device))
        self.places = stored(torch.zeros(out_features * in_features // 8, dtype=torch.uint8, device=device))

    def set_weight(self, weight: torch.Tensor) -> None:
        """Prune `weight` (out_features, in_features), of any float format, and store what is left."""
        values, places = pack(prune(weight.to(self.weight.dtype)))
        self.weight.copy_(values)
        self.places.copy_(places)

    def weight_copy(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight (out_features, in_features) in `dtype`, zeros and all."""
        return unpack(self.weight.to(dtype), self.places)


def _fours(weight):
    width = weight.shape[-1]
    if width % 4:
        raise ValueError(f"weight has rows of {width} numbers; they must be a multiple of 4")
    return width // 4


def _in_bytes(places):
    """Numbers from 0 to 3, four in a byte, the first in the lowest bits."""
    padded = torch.nn.functional.pad(places, (0, -len(places) % 4)).view(-1, 4)
    return padded[:, 0] | padded[:, 1] << 2 | padded[:, 2] << 4 | padded[:, 3] << 6
