"""INT4 in groups along the input, each with a scale and a zero point (AWQ, arXiv 2306.00978; GPTQ, 2210.17323)."""

import torch

from dsmem.config.schemes import INT4_GROUP as GROUP
from dsmem.model.quantize.base import QuantizedLinear, stored, tiles

LEVELS = 15  # codes 0 to 15


class Int4Linear(QuantizedLinear):
    """Two 4-bit codes per byte, and a scale and a zero point per group: weight = (code - zero point) * scale.

    Scales and zero points are bfloat16, which can hold the scale of any weight in 16 or 32 bits. group_size: how many
    numbers of one output channel share a scale; the last group of a channel may be shorter. Other arguments: as in
    `QuantizedLinear`. Raises ValueError for a `group_size` below 1.

    >>> layer = Int4Linear(256, 16, bias=False, dtype=torch.float32, device="cpu")
    >>> 8 * sum(parameter.nbytes for parameter in layer.parameters()) / (256 * 16)  # bits per number
    4.25
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device | str,
        group_size: int = GROUP,
    ):
        super().__init__(in_features, out_features, bias, dtype, device)
        if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
            raise ValueError(f"group_size={group_size!r} is not a count; it must be a whole number of at least 1")
        self.group_size = group_size
        self.weight = stored(torch.zeros(out_features, -(-in_features // 2), dtype=torch.uint8, device=device))
        like = {"dtype": torch.bfloat16, "device": device}
        self.scale = stored(torch.ones(out_features, -(-in_features // group_size), **like))
        self.zero_point = stored(torch.zeros(out_features, -(-in_features // group_size), **like))

    def set_weight(self, weight: torch.Tensor) -> None:
        """Round `weight` (out_features, in_features), of any float format, to 4 bits per group and store it."""
        codes = weight.new_zeros(self.out_features, 2 * self.weight.shape[1], dtype=torch.uint8)
        wide, codes_seen = weight.float(), codes[:, : self.in_features]
        groups = zip(tiles(wide, 1, self.group_size), tiles(codes_seen, 1, self.group_size), strict=True)
        for (group, index), (code, _) in groups:
            # 0 is always among the levels, so a weight of 0 stays 0
            low, high = group.amin((1, 3), keepdim=True).clamp_max_(0), group.amax((1, 3), keepdim=True).clamp_min_(0)
            # divided first, because the span of float32's largest numbers would overflow
            scale = (high / LEVELS - low / LEVELS).clamp_min_(torch.finfo(torch.bfloat16).tiny).bfloat16().float()
            zero = (-low / scale).round_().clamp_(0, LEVELS)
            code.copy_((group / scale).round_().add_(zero).clamp_(0, LEVELS))
            self.scale[index[::2]] = scale[:, 0, :, 0].bfloat16()
            self.zero_point[index[::2]] = zero[:, 0, :, 0].bfloat16()
        self.weight.copy_(codes[:, 0::2] + 16 * codes[:, 1::2])

    def weight_copy(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight (out_features, in_features) in `dtype`; while it is filled, half of the codes lie beside it."""
        copy = torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.weight.device)
        copy[:, 0::2] = self.weight & 15
        copy[:, 1::2] = (self.weight >> 4)[:, : self.in_features // 2]
        for group, index in tiles(copy, 1, self.group_size):
            group.sub_(self.zero_point[index]).mul_(self.scale[index])
        return copy
