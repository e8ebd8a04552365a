"""Notebook 04's exercises: the right answers and the common mistakes, written as a reader would write them."""

from exercises import checks_of, up

RIGHT = {
    "int8_linear_bytes": lambda in_features, out_features: (in_features + 4) * out_features,
    "int4_linear_bytes": lambda in_features, out_features, group_size: (
        out_features * in_features // 2 + 4 * out_features * up(in_features, group_size)
    ),
}

WRONG = {
    "int8_linear_bytes": {
        "scales forgotten": lambda in_features, out_features: in_features * out_features,
        "16 bit": lambda in_features, out_features: in_features * out_features * 16 // 8,
        "a scale per input channel": lambda in_features, out_features: in_features * (out_features + 4),
        "one scale for the whole matrix": lambda in_features, out_features: 4 + in_features * out_features,
        "scales of 2 bytes": lambda in_features, out_features: (in_features + 2) * out_features,
    },
    "int4_linear_bytes": {
        "scales and zero points forgotten": lambda in_features, out_features: in_features * out_features / 2,
        "zero points forgotten": lambda in_features, out_features, group_size: (
            in_features * out_features // 2 + 2 * out_features * up(in_features, group_size)
        ),
        "a byte for each number": lambda in_features, out_features, group_size: (
            in_features * out_features + 4 * out_features * up(in_features, group_size)
        ),
        "groups along the outputs": lambda in_features, out_features, group_size: (
            in_features * out_features // 2 + 4 * in_features * up(out_features, group_size)
        ),
        "the shorter last group forgotten": lambda in_features, out_features, group_size: (
            in_features * out_features // 2 + 4 * out_features * (in_features // group_size)
        ),
    },
}

test_a_mistake_is_refused_and_named, test_the_right_answer_and_all_mistakes_stand_apart = checks_of(RIGHT, WRONG)
