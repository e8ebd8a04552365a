"""Linear layers as a number format stores them, scales and tables included."""


def int8_linear_bytes(in_features, out_features):
    """A linear layer's weight in INT8, and one float32 scale per output channel.

    >>> int8_linear_bytes(3584, 18944)
    67971072
    """
    return in_features * out_features + 4 * out_features


def fp8_linear_bytes(in_features, out_features):
    """A linear layer's weight in FP8, and one float32 scale per 128 x 128 tile (arXiv 2412.19437, section 3.3).

    >>> fp8_linear_bytes(7168, 2048) - 7168 * 2048 == 4 * 56 * 16
    True
    """
    return in_features * out_features + 4 * -(-in_features // 128) * -(-out_features // 128)


def int4_linear_bytes(in_features, out_features, group_size):
    """A weight in INT4, two in a byte, and a 16-bit scale and zero point for each group of an output channel.

    >>> int4_linear_bytes(3584, 18944, 128) * 8 / (3584 * 18944)
    4.25
    """
    return out_features * (-(-in_features // 2) + 4 * -(-in_features // group_size))


def nf4_linear_bytes(in_features, out_features):
    """A weight in NF4, a float32 per block of 64, and the table of 16 values (QLoRA, arXiv 2305.14314, section 3).

    Blocks run through the rows. As bitsandbytes stores it, so each layer has a table of its own.

    >>> nf4_linear_bytes(3584, 18944) / (3584 * 18944) * 8 < 4.501
    True
    """
    return -(-in_features * out_features // 2) + 4 * -(-in_features * out_features // 64) + 64


def nf4_double_linear_bytes(in_features, out_features):
    """The same with double quantization: 8 bit per block of 64, a float32 per 256 blocks, one offset, two tables.

    bitsandbytes keeps the tables, of 16 and 256 values, for each layer (measured with release 0.50).

    >>> nf4_double_linear_bytes(3584, 18944) / (3584 * 18944) * 8 < 4.128
    True
    """
    return (
        -(-in_features * out_features // 2)
        + -(-in_features * out_features // 64)
        + 4 * -(-in_features * out_features // (64 * 256))
        + 4 * (1 + 16 + 256)
    )


def awq_linear_bytes(in_features, out_features, group_size):
    """A weight as AutoAWQ packs it: 4 bits a number, and for each group of a row 16 bits of scale, 4 of zero point.

    >>> awq_linear_bytes(8192, 28672, 128) * 8 / (8192 * 28672)
    4.15625
    """
    return -(-in_features * out_features // 2) + -(-in_features // group_size) * -(-5 * out_features // 2)


def gptq_linear_bytes(in_features, out_features, group_size, bits):
    """A weight as AutoGPTQ packs it: AWQ's, in any number of bits, and for each input a word that names its group.

    >>> gptq_linear_bytes(8192, 28672, 128, 4) - awq_linear_bytes(8192, 28672, 128) == 4 * 8192
    True
    """
    return (
        4 * -(-in_features * bits // 32) * out_features
        + -(-in_features // group_size) * (2 * out_features + 4 * -(-out_features * bits // 32))
        + 4 * in_features
    )


def nvfp4_linear_bytes(in_features, out_features):
    """A weight in NVFP4: 4 bits a number, an FP8 scale for each 16 of a row, two float32 for the matrix (ModelOpt).

    >>> nvfp4_linear_bytes(7168, 2048) * 8 / (7168 * 2048) < 4.501
    True
    """
    return out_features * (-(-in_features // 2) + -(-in_features // 16)) + 8


def block_linear_bytes(in_features, out_features, block_elements, bytes_per_block):
    """A weight in a format of blocks along the rows, as GGUF stores it: a block holds its numbers and their scales.

    >>> block_linear_bytes(3584, 18944, 256, 144) * 8 / (3584 * 18944)
    4.5
    """
    return out_features * -(-in_features // block_elements) * bytes_per_block


def sparse_linear_bytes(in_features, out_features, bits):
    """A weight of which 2 in every 4 numbers of a row are kept (2:4): those, and 2 bits for the place of each.

    bits: of a kept number; of its 4 the weight needs `bits + 2` for each of 2. Source: arXiv 2104.08378, section 3.

    >>> [sparse_linear_bytes(4096, 4096, bits) * 8 / (4096 * 4096 * bits) for bits in (16, 8)]
    [0.5625, 0.625]
    """
    return -(-in_features * out_features * (bits + 2) // 16)
