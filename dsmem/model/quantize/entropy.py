"""Huffman coding of BF16 weights: lossless, because their exponents take few values (DFloat11, arXiv 2504.11651).

A BF16 number is a sign, 8 bits of exponent and 7 of mantissa. Signs and mantissas look random; the exponents of trained
weights carry about 2.6 bits. So they alone are coded, by one of two coders: `huffman`, whose every step can be read
here, or zlib's (RFC 1951) without its search for repeats, which is faster and takes a little more room.
"""

import dataclasses
import zlib

import numpy as np
import torch

from dsmem.model.quantize import huffman
from dsmem.model.quantize.int8 import quantize_rows
from dsmem.units import one_of

CODERS = ("zlib", "own")


@dataclasses.dataclass(frozen=True)
class Packed:
    """A BF16 tensor with coded exponents.

    rest: sign and mantissa of each number, one byte. coded: the exponents. shape: of the tensor.
    """

    rest: bytes
    coded: "bytes | huffman.Coded"
    shape: torch.Size

    @property
    def nbytes(self) -> int:
        """All that must be kept to get the tensor back, its shape left out."""
        return len(self.rest) + (len(self.coded) if isinstance(self.coded, bytes) else self.coded.nbytes)


def fields(weight: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The exponents of a BF16 tensor, and sign and mantissa of each number in one byte: both (elements,), uint8.

    Raises ValueError for another dtype.

    >>> exponents, rest = fields(torch.tensor([1.0, -1.5]).bfloat16())
    >>> exponents.tolist(), [f"{byte:08b}" for byte in rest]
    ([127, 127], ['00000000', '11000000'])
    """
    if weight.dtype != torch.bfloat16:
        raise ValueError(f"weight is in {weight.dtype}, whose exponents lie elsewhere; it must be in torch.bfloat16")
    bits = weight.detach().cpu().contiguous().flatten().view(torch.int16).numpy().view(np.uint16)
    return (bits >> 7 & 0xFF).astype(np.uint8), (bits >> 8 & 0x80 | bits & 0x7F).astype(np.uint8)


def pack(weight: torch.Tensor, coder: str = "zlib") -> Packed:
    """A BF16 tensor with its exponents coded. coder: "zlib", or "own" for `huffman`.

    Raises ValueError for another dtype or coder.

    >>> weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    >>> packed = pack(weight)
    >>> torch.equal(unpack(packed), weight), 0.65 < packed.nbytes / weight.nbytes < 0.70
    (True, True)
    """
    one_of("coder", coder, CODERS, "a coder of exponents")
    exponents, rest = fields(weight)
    coded = huffman.encode(exponents) if coder == "own" else _by_zlib(exponents.tobytes())
    return Packed(rest.tobytes(), coded, weight.shape)


def unpack(packed: Packed) -> torch.Tensor:
    """The tensor that `pack` was given, every bit of it."""
    own = not isinstance(packed.coded, bytes)
    exponents = huffman.decode(packed.coded) if own else np.frombuffer(zlib.decompress(packed.coded, -15), np.uint8)
    rest = np.frombuffer(packed.rest, np.uint8).astype(np.uint16)
    bits = (rest & 0x80) << 8 | exponents.astype(np.uint16) << 7 | rest & 0x7F
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).view(packed.shape)


def entropy(symbols: np.ndarray) -> float:
    """Bits that a symbol carries on average, if all were drawn alike (Shannon): no code by symbols takes fewer.

    symbols: whole numbers from 0, of any shape.

    >>> entropy(np.array([0, 0, 1, 2]))
    1.5
    """
    counts = np.bincount(np.ravel(symbols))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def normal_shares(deviations: tuple = (0.008, 0.012, 0.02, 0.03, 0.045), seed: int = 1) -> dict[str, float]:
    """{format: share} that coding leaves of normally distributed weights; a layer for each of `deviations`.

    BF16: the exponents coded, one layer, or all under one code. FP8 (E4M3, one scale for all) and INT8 (a scale for
    each row): the entropy of a byte, below which no code by symbols comes.

    >>> {name: round(share, 2) for name, share in normal_shares().items()}
    {'BF16, one layer': 0.66, 'BF16, all layers under one code': 0.68, 'FP8': 0.81, 'INT8': 0.89}
    """
    generator = torch.Generator().manual_seed(seed)
    layers = [(each * torch.randn(256, 1024, generator=generator)).bfloat16() for each in deviations]
    wide = torch.randn(256, 4096, generator=generator)
    fp8 = (wide / wide.abs().max() * torch.finfo(torch.float8_e4m3fn).max).to(torch.float8_e4m3fn)
    eight = {"FP8": fp8, "INT8": quantize_rows(wide)[0]}
    shares = {name: entropy(numbers.view(torch.uint8).numpy()) / 8 for name, numbers in eight.items()}
    tensors = {"BF16, one layer": layers[0], "BF16, all layers under one code": torch.cat(layers)}
    return {name: pack(each, "own").nbytes / each.nbytes for name, each in tensors.items()} | shares


def _by_zlib(data):
    # no header and no checksum (-15), and most of zlib's memory, which makes its blocks long
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()
