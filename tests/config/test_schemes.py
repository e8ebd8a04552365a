"""The schemes as data: each has a layer and a size; NF4's bits are the paper's; the table has a line for each."""

import pytest

from dsmem.config.schemes import SCHEMES, table
from dsmem.footprint.stored import weight_bytes
from dsmem.model.quantize import LAYERS
from dsmem.units import QUANTIZED


def test_every_scheme_has_a_layer_and_a_size():
    assert set(LAYERS) == {name for name, scheme in SCHEMES.items() if scheme.runs} == set(QUANTIZED)


@pytest.mark.parametrize(("scheme", "bits"), [("nf4", 4.5), ("nf4_double", 4.127)])
def test_the_papers_bits_per_weight(scheme, bits):
    # QLoRA, section 3: 32 / 64 = 0.5 bits for scales; double-quantized 8 / 64 + 32 / (64 * 256) = 0.127
    assert round(SCHEMES[scheme].bits_per_weight(2**13, 2**15), 3) == bits


def test_half_a_byte_for_every_parameter_is_a_wrong_answer():
    name, n_params = "deepseek-r1-distill-qwen-7b", 7_615_616_512
    assert weight_bytes(name, "nf4_double") > 1.45 * n_params / 2


def test_the_table_has_a_line_for_each_scheme():
    lines = str(table()).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(SCHEMES)
    for line, scheme in zip(lines[1:], SCHEMES.values(), strict=True):
        assert scheme.stored in line and line.endswith(scheme.scales)
        assert line.split()[1] == f"{scheme.bits_per_weight(3584, 18_944):.3f}"
