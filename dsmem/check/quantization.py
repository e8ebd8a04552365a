"""Exercises of notebook 04: layers in INT8 and INT4."""

from dsmem import formulas
from dsmem.check.cases import LAYERS
from dsmem.check.exercise import Exercise, Mistake

int8_linear_bytes = Exercise(
    "int8_linear_bytes",
    "Return the bytes of a linear layer's weight in INT8, with one float32 scale for every output channel.",
    formulas.int8_linear_bytes,
    LAYERS,
    (
        Mistake(
            "scales forgotten",
            "There are 4 bytes for every output channel.",
            lambda in_features, out_features: in_features * out_features,
        ),
        Mistake(
            "16 bit",
            "INT8 takes one byte for an element.",
            lambda in_features, out_features: 2 * in_features * out_features,
        ),
        Mistake(
            "a scale per input channel",
            "The elements of one output channel share a scale, so there are out_features of them.",
            lambda in_features, out_features: in_features * out_features + 4 * in_features,
        ),
    ),
)


int4_linear_bytes = Exercise(
    "int4_linear_bytes",
    "Return the bytes of a layer's weight in INT4, with a 16-bit scale and a 16-bit zero point for every group.",
    formulas.int4_linear_bytes,
    tuple(case | {"group_size": size} for case, size in zip(LAYERS, (128, 100, 32), strict=True)),
    (
        Mistake(
            "scales and zero points forgotten",
            "Every group has 2 bytes for its scale and 2 for its zero point.",
            lambda in_features, out_features: out_features * in_features // 2,
        ),
        Mistake(
            "zero points forgotten",
            "Every group has a zero point of 2 bytes beside its scale.",
            lambda in_features, out_features, group_size: (
                out_features * (in_features // 2 + 2 * -(-in_features // group_size))
            ),
        ),
        Mistake(
            "a byte for each number",
            "Two numbers of 4 bits share a byte.",
            lambda in_features, out_features, group_size: (
                out_features * (in_features + 4 * -(-in_features // group_size))
            ),
        ),
        Mistake(
            "groups along the outputs",
            "A group is a piece of one output channel, so in_features are divided.",
            lambda in_features, out_features, group_size: (
                in_features * (out_features // 2 + 4 * -(-out_features // group_size))
            ),
        ),
        Mistake(
            "the shorter last group forgotten",
            "The last group of a channel may be shorter, and has a scale all the same.",
            lambda in_features, out_features, group_size: (
                out_features * (in_features // 2 + 4 * (in_features // group_size))
            ),
        ),
    ),
)
