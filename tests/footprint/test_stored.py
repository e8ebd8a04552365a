"""Weights part by part: the sums are the footprint's and bitsandbytes'; every choice of what is kept is pinned."""

import pytest

import dsmem
from dsmem.config.workload import EXPERTS, LINEARS
from dsmem.footprint.stored import KEPT, PARTS, weight_bytes, weight_formats, weight_parts
from dsmem.units import GIB, QUANTIZED

ARCHS = {name: dsmem.Architecture.from_config(name) for name in dsmem.model_names()}
SEVEN, R1 = ARCHS["deepseek-r1-distill-qwen-7b"], ARCHS["deepseek-r1"]


@pytest.mark.parametrize("weights", ["fp32", "bf16", *QUANTIZED])
@pytest.mark.parametrize("name", ARCHS)
def test_the_parts_sum_to_what_the_footprint_stores(name, weights):
    stored = weight_formats(ARCHS[name], dsmem.Workload(weights=weights))
    assert sum(weight_parts(ARCHS[name], weights).values()) == sum(stored.values())


@pytest.mark.parametrize("kept", [(), ("lm_head", *EXPERTS), KEPT["head and attention"]])
def test_the_parts_sum_to_it_whatever_is_kept(kept):
    stored = weight_formats(R1, dsmem.Workload(weights="fp8", modules_to_not_convert=kept))
    assert sum(weight_parts(R1, "fp8", modules_to_not_convert=kept).values()) == sum(stored.values())


@pytest.mark.parametrize(("weights", "gib"), [("int8", 8.113), ("nf4", 5.449), ("nf4_double", 5.166)])
def test_the_7b_takes_what_it_takes_in_bitsandbytes(weights, gib):
    assert sum(weight_parts(SEVEN, weights).values()) / GIB == pytest.approx(gib, abs=0.0005)


@pytest.mark.parametrize(
    ("menu", "r1", "seven"),
    [
        ("head", 673_150_611_808, 8_711_506_944),  # R1: as published, without its further-token module
        ("nothing more", 672_224_159_008, 8_167_117_824),
        ("head and attention", 684_561_240_576, 9_532_673_024),
        ("all but routed experts", 688_303_742_976, 2 * 7_615_616_512),
    ],
)
def test_each_choice_of_what_is_kept_takes_its_bytes(menu, r1, seven):
    router_biases = 4 * 58 * 256  # buffers, which the published file counts
    assert weight_bytes(R1, "fp8", modules_to_not_convert=KEPT[menu]) + router_biases == r1
    assert weight_bytes(SEVEN, "int8", modules_to_not_convert=KEPT[menu]) == seven


def test_each_choice_of_what_is_kept_names_what_it_says():
    indexed = R1.scaled(index_n_heads=64, index_head_dim=128, index_topk=2048)
    attention = (
        R1.attention_linears()
        | indexed.indexer_linears()
        | SEVEN.attention_linears()
        | R1.scaled(q_lora_rank=None).attention_linears()
    )
    assert set(KEPT["head and attention"]) == {"lm_head", "qkv_proj", *attention}
    assert set(KEPT["all but routed experts"]) == set(LINEARS) - set(EXPERTS)
    assert (KEPT["head"], KEPT["nothing more"]) == (("lm_head",), ())
    names = {"q_proj", "qkv_proj", "gate_up_proj"}  # plain beside latents, and joined
    assert set(LINEARS) == names | indexed.linears().keys() | SEVEN.linears().keys() | R1.expert_stacks().keys()


def test_fused_experts_left_out_leave_qwen3_at_56_gib():
    """What transformers 5 stores when bitsandbytes converts `nn.Linear` and no experts."""
    parts = weight_parts(ARCHS["qwen3-30b-a3b"], "int8", modules_to_not_convert=("lm_head", *EXPERTS))
    assert sum(parts.values()) / GIB == pytest.approx(56.0, abs=0.05)


@pytest.mark.parametrize("name", ARCHS)
def test_every_parameter_is_in_a_part(name):
    arch = ARCHS[name]
    parts = weight_parts(arch, "bf16")
    assert sum(parts.values()) == 2 * arch.n_params and set(parts) <= set(PARTS)
    assert ("experts" in parts) == bool(arch.n_routed_experts)
    assert ("lm_head" in parts) != arch.tie_word_embeddings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "int3"}, "weights='int3' is not a format; allowed: fp32, .*nf4_double"),
        (
            {"modules_to_not_convert": ("head",)},
            "modules_to_not_convert='head' is not a linear layer; allowed: q_proj, .*lm_head",
        ),
    ],
)
def test_what_is_not_known_is_refused_in_a_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        weight_parts(SEVEN, **changes)
