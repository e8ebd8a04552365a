"""FP8 in tiles of 128 x 128, the format that DeepSeek-V3 and R1 are published in (arXiv 2412.19437, section 3.3)."""

import torch

from dsmem.config.schemes import FP8_TILE as TILE
from dsmem.model.quantize.base import QuantizedLinear, stored, tiles

LARGEST = 448  # of E4M3: 1.75 * 2**8


class Fp8Linear(QuantizedLinear):
    """FP8 E4M3, one float32 scale per 128 x 128 tile, named as in DeepSeek's checkpoints: weight = weight * scale."""

    def __init__(self, in_features, out_features, bias, dtype, device):
        super().__init__(in_features, out_features, bias, dtype, device)
        self.weight = stored(torch.zeros(out_features, in_features, dtype=torch.float8_e4m3fn, device=device))
        shape = -(-out_features // TILE), -(-in_features // TILE)
        self.weight_scale_inv = stored(torch.ones(shape, device=device))

    def set_weight(self, weight):
        """Store `weight` (out_features, in_features; any float format), rounded to FP8 tile by tile."""
        wide = weight.float()  # a copy even of float32, for the tiles are divided in place
        wide = wide.clone() if wide is weight else wide
        for tile, index in tiles(wide, TILE, TILE):
            scale = tile.abs().amax(dim=(1, 3), keepdim=True).div_(LARGEST)
            scale.clamp_min_(torch.finfo(torch.float32).tiny)
            tile.div_(scale)  # may leave a hair more than the largest number, which rounds to it
            self.weight_scale_inv[index[::2]] = scale[:, 0, :, 0]
        self.weight.copy_(wide)

    def weight_copy(self, dtype):
        """The weight (out_features, in_features) in `dtype`, scaled in place, so that it is the one temporary."""
        copy = self.weight.to(dtype)  # exact: every FP8 number is a 16-bit one
        for tile, index in tiles(copy, TILE, TILE):
            tile.mul_(self.weight_scale_inv[index])
        return copy


def fp8_scales(in_features, out_features):
    """How many scales an FP8 weight has: one for each 128 x 128 tile, cut or whole.

    >>> fp8_scales(7168, 2048)
    896
    """
    return -(-in_features // TILE) * -(-out_features // TILE)
