"""Exercises of notebook 00: one matrix product, and the weights of a model."""

import re

from dsmem import formulas
from dsmem.check.answers import call
from dsmem.check.cases import LAYERS, MODELS, bits_mistakes
from dsmem.check.exercise import Exercise, Mistake
from dsmem.units import gb, gib


def _matmul_bytes(tokens, in_features, out_features, bits):
    elements = tokens * in_features + in_features * out_features + tokens * out_features
    return elements * bits // 8


def _minus(first, second):
    """What is left of the matrix product without the tensor of these two widths."""
    return lambda bits, **inputs: (
        call(_matmul_bytes, inputs | {"bits": bits}) - inputs[first] * inputs[second] * bits // 8
    )


matmul_bytes = Exercise(
    "matmul_bytes",
    "Return the bytes of input, weight and output of one matrix product, all three alive at once.",
    _matmul_bytes,
    LAYERS,
    nudge="Write down the two widths of each of the three tensors, and add up their elements before you count bytes.",
    mistakes=(
        Mistake("output forgotten", "The product is a new tensor.", _minus("tokens", "out_features")),
        Mistake("weight forgotten", "It is there whatever the batch.", _minus("in_features", "out_features")),
        Mistake("input forgotten", "It is alive while the product is computed.", _minus("tokens", "in_features")),
        Mistake("one token only", "Input and output have a row for each of the tokens.", {"tokens": 1}),
        *bits_mistakes(_matmul_bytes),
    ),
    notebook="00",
)


def _weights_gib(arch, bits):
    return arch.n_params * bits / 8 / 2**30


def _weights(count, unit=gib):
    return lambda arch, bits: unit(formulas.tensor_bytes(count(arch), bits))


def _without(*parts):
    return _weights(lambda arch: arch.n_params - sum(arch.census().get(part, 0) for part in parts))


def _nominal(arch):
    return 1e9 * float(re.search(r"([\d.]+)b$", arch.name)[1])


weights_gib = Exercise(
    "weights_gib",
    "Return the GiB (2**30 bytes) of all weights of `arch` at `bits` per parameter.",
    _weights_gib,
    MODELS,
    nudge="`arch.n_params` counts the parameters; how many bytes is one of them, and how many bytes are a GiB?",
    mistakes=(
        Mistake("GB called GiB", "A GiB is 2**30 bytes, a GB 1e9.", _weights(lambda arch: arch.n_params, gb)),
        Mistake("embedding left out", "It has vocab_size * hidden_size parameters.", _without("embed_tokens")),
        Mistake("untied head left out", "Unless it is tied, it is as large as the embedding.", _without("lm_head")),
        Mistake(
            "embedding and head left out",
            "The layers are not all of the model.",
            _without("embed_tokens", "lm_head"),
        ),
        Mistake("two matrices in the MLP", "A gated MLP has three: gate, up and down.", _without("up_proj")),
        Mistake(
            "tied head counted twice",
            "Where tie_word_embeddings is true, head and embedding are one tensor.",
            _weights(lambda arch: arch.scaled(tie_word_embeddings=False).n_params),
        ),
        Mistake(
            "grouped heads ignored",
            "With num_key_value_heads heads, k_proj and v_proj are narrower than q_proj.",
            _weights(lambda arch: arch.scaled(num_key_value_heads=arch.num_attention_heads).n_params),
        ),
        Mistake(
            "the number in the name",
            "The 7B in a name is rounded, so count the parameters.",
            _weights(_nominal),
        ),
        *bits_mistakes(_weights_gib),
    ),
    unit="GiB",
)
