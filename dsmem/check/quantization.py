"""Exercises of notebook 04: layers in INT8 and INT4."""

from dsmem import formulas
from dsmem.check.cases import LAYERS
from dsmem.check.exercise import Exercise, Mistake

_SIZES = tuple({name: case[name] for name in ("in_features", "out_features")} for case in LAYERS)


int8_linear_bytes = Exercise(
    "int8_linear_bytes",
    "Return the bytes of a linear layer's weight in INT8, with one float32 scale for every output channel.",
    formulas.int8_linear_bytes,
    _SIZES,
    nudge="Add two things: the bytes of all elements, and the bytes of all scales.",
    mistakes=(
        Mistake(
            "scales forgotten",
            "There are 4 bytes for every output channel.",
            lambda in_features, out_features: in_features * out_features,
        ),
        Mistake(
            "16 bit",
            "An element in INT8 takes one byte.",
            lambda in_features, out_features: 2 * in_features * out_features,
        ),
        Mistake(
            "a scale per input channel",
            "The elements of one output channel share a scale, so there are out_features of them.",
            lambda in_features, out_features: in_features * out_features + 4 * in_features,
        ),
        Mistake(
            "one scale for the whole matrix",
            "Every output channel has a scale of its own.",
            lambda in_features, out_features: in_features * out_features + 4,
        ),
        Mistake(
            "scales of 2 bytes",
            "A float32 takes 4 bytes.",
            lambda in_features, out_features: in_features * out_features + 2 * out_features,
        ),
    ),
    notebook="00",
)


int4_linear_bytes = Exercise(
    "int4_linear_bytes",
    "Return the bytes of a layer's weight in INT4, with a 16-bit scale and a 16-bit zero point for every group.",
    formulas.int4_linear_bytes,
    tuple(case | {"group_size": size} for case, size in zip(_SIZES, (128, 100, 32), strict=True)),
    nudge="Take one output channel: how many bytes are its numbers, and how many groups are they cut into?",
    mistakes=(
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
            lambda in_features, out_features, group_size: formulas.int4_linear_bytes(
                out_features, in_features, group_size
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
    notebook="04",
)
