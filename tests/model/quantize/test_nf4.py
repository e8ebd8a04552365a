"""Bytes of 4-bit NF4: the bits per weight of the paper, and the size of a 7B model."""

import pytest

from dsmem import Architecture, formulas
from dsmem.config.schemes import SCHEMES, table
from dsmem.units import GIB

QWEN_7B = Architecture.from_config("deepseek-r1-distill-qwen-7b")


def model_bytes(arch, linear_bytes):
    """Bytes of the linear layers of all decoder layers by the formula, plus everything else in 16 bit."""
    linears = arch.attention_linears() | arch.mlp_linears()
    shapes = [(n_in, n_out) for n_in, n_out, _ in linears.values()]
    others = arch.n_params - arch.num_hidden_layers * sum(n_in * n_out for n_in, n_out in shapes)
    return 2 * others + arch.num_hidden_layers * sum(linear_bytes(*shape) for shape in shapes)


@pytest.mark.parametrize(
    ("linear_bytes", "gib"),
    [
        (formulas.int8_linear_bytes, 8.113),  # bitsandbytes; embedding and head in 16 bit
        (formulas.nf4_linear_bytes, 5.449),
        (formulas.nf4_double_linear_bytes, 5.166),
    ],
)
def test_the_7b_model_has_bitsandbytes_size(linear_bytes, gib):
    assert round(model_bytes(QWEN_7B, linear_bytes) / GIB, 3) == gib


def test_the_papers_bits_per_weight():
    # QLoRA, section 3: 32 / 64 = 0.5 bits for scales; double-quantized 8 / 64 + 32 / (64 * 256) = 0.127
    n_in, n_out = 2**13, 2**15
    assert round(SCHEMES["nf4"].bits_per_weight(n_in, n_out), 3) == 4.5
    assert round(SCHEMES["nf4_double"].bits_per_weight(n_in, n_out), 3) == 4.127


def test_half_a_byte_for_every_parameter_is_a_wrong_answer():
    assert round(QWEN_7B.n_params / 2 / GIB, 2) == 3.55
    assert model_bytes(QWEN_7B, formulas.nf4_double_linear_bytes) > 1.45 * QWEN_7B.n_params / 2


def test_the_table_has_a_line_for_each_scheme():
    lines = str(table()).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(SCHEMES)
    for line, scheme in zip(lines[1:], SCHEMES.values(), strict=True):
        assert scheme.stored in line and line.endswith(scheme.scales)
        assert line.split()[1] == f"{scheme.bits_per_weight(3584, 18_944):.3f}"
