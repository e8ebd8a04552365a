"""FP8 in tiles of 128 x 128, the format in which DeepSeek-V3 and R1 are published (arXiv 2412.19437, section 3.3)."""

import torch

from dsmem.config.schemes import FP8_TILE as TILE
from dsmem.model.quantize.base import QuantizedLinear, stored, tiles

LARGEST = 448  # the largest number of E4M3: 1.75 * 2**8


class Fp8Linear(QuantizedLinear):
    """FP8 E4M3 weight with one float32 scale per tile of 128 x 128: number = weight * weight_scale_inv.

    Both names are those of DeepSeek's checkpoints. Arguments: as in `QuantizedLinear`.

    >>> layer = Fp8Linear(256, 128, bias=False, dtype=torch.float32, device="cpu")
    >>> layer.weight.nbytes, layer.weight_scale_inv.nbytes
    (32768, 8)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, device: torch.device | str):
        super().__init__(in_features, out_features, bias, dtype, device)
        self.weight = stored(torch.zeros(out_features, in_features, dtype=torch.float8_e4m3fn, device=device))
        shape = -(-out_features // TILE), -(-in_features // TILE)
        self.weight_scale_inv = stored(torch.ones(shape, device=device))

    def set_weight(self, weight: torch.Tensor) -> None:
        """Round `weight` (out_features, in_features), of any float format, to FP8 per tile and store it."""
        wide = weight.float()  # a copy, even of float32, because the tiles are divided in place
        wide = wide.clone() if wide is weight else wide
        for tile, index in tiles(wide, TILE, TILE):
            scale = tile.abs().amax(dim=(1, 3), keepdim=True).div_(LARGEST)
            scale.clamp_min_(torch.finfo(torch.float32).tiny)
            tile.div_(scale)  # a result may be slightly above the largest number; it is rounded to it
            self.weight_scale_inv[index[::2]] = scale[:, 0, :, 0]
        self.weight.copy_(wide)

    def weight_copy(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight (out_features, in_features) in `dtype`; it is scaled in place, so it is the only temporary."""
        copy = self.weight.to(dtype)  # exact: 16 bits hold every FP8 number
        for tile, index in tiles(copy, TILE, TILE):
            tile.mul_(self.weight_scale_inv[index])
        return copy


def fp8_scales(in_features: int, out_features: int) -> int:
    """How many scales an FP8 weight has: one per tile of 128 x 128, partial tiles included.

    >>> fp8_scales(7168, 2048)
    896
    """
    return -(-in_features // TILE) * -(-out_features // TILE)
