"""What a rank holds at rest is what torch's engines hold, and what papers and logs print."""

import pytest

from dsmem.footprint.inference import inference_footprint
from dsmem.footprint.sharded.rest import at_rest, even_share


@pytest.mark.parametrize("zero, printed", [(0, 16), (1, 4 + 12 / 64), (3, 16 / 64)])
def test_a_parameter_takes_what_zero_says(zero, printed):
    # arXiv 1910.02054, table 1; shares of rows are filled up a little
    held = at_rest("llama-1-65b", training={"precision": "master"}, sharding={"data": 64, "zero": zero})
    n_params = 65_285_660_672
    assert sum(held.values()) / n_params == pytest.approx(printed, rel=3e-3)


def test_serving_is_what_a_pass_holds():
    for spread in ({"tensor": 8}, {"tensor": 8, "expert": 8, "attention": "data"}, {"data": 8, "expert": 8}):
        fields = {"batch": 32, "seq_len": 4096, "weights": "fp8", "sharding": spread}
        parts = inference_footprint("deepseek-r1", **fields).parts
        held = at_rest("deepseek-r1", **fields)
        weights = ("weights", "weights_fp8", "weight_scales")
        assert held["weights"] == sum(parts[part] for part in weights)
        assert held["latent_cache"] == parts["latent_cache"]


def test_an_even_share_is_the_whole_over_all_ranks():
    fields = {"batch": 4, "seq_len": 1024, "weights": "bf16"}
    alone = at_rest("qwen3-30b-a3b", **fields)
    even = even_share("qwen3-30b-a3b", sharding={"tensor": 4, "pipeline": 2}, **fields)
    assert even == {part: nbytes / 8 for part, nbytes in alone.items()}
    replicas = even_share("qwen3-30b-a3b", sharding={"data": 4}, **fields)
    assert replicas["kv_cache"] == alone["kv_cache"] and replicas["weights"] == alone["weights"] / 4


def test_fully_sharded_experts_of_r1_stop_shrinking_at_256_ranks():
    # a row of the joined experts is a whole expert, of which there are 256
    held = {data: at_rest("deepseek-r1", training=True, sharding={"data": data, "zero": 3}) for data in (256, 1024)}
    few, many = (sum(parts.values()) for parts in held.values())
    assert few / many < 1.05


def test_what_is_not_served_so_is_refused(refuses):
    refuses(lambda: at_rest("qwen2.5-7b", sharding={"data": 8, "zero": 3}, weights="bf16"), "zero=3")
