"""The small trained model: what is stored, that it gives the recorded losses, and that it can be trained again."""

import json
import lzma
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsmem.model.small import bits_per_byte, small_path, small_record, small_text

CONFIG = json.loads(small_path("config.json").read_text(encoding="utf-8"))


def header():
    """The header of the stored weights, read from the file format itself: {name: dtype, shape, data_offsets}."""
    data = small_path("model.safetensors").read_bytes()
    tensors = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors.pop("__metadata__")
    return tensors


def recorded_losses():
    """The rows of loss.csv: step, training loss, and loss on the first 32 windows of the held-out text."""
    return np.loadtxt(small_path("loss.csv"), delimiter=",", skiprows=1)


def test_the_config_is_a_small_deepseek():
    assert (CONFIG["model_type"], CONFIG["vocab_size"]) == ("deepseek_v3", 256)
    assert CONFIG["first_k_dense_replace"] < CONFIG["num_hidden_layers"]
    assert all(CONFIG[name] % 8 == 0 for name in CONFIG if name.endswith(("_size", "_rank", "_head_dim")))


def test_the_weights_take_a_few_megabytes_in_bf16():
    assert 1e6 < small_path("model.safetensors").stat().st_size < 3e6
    wide = {name for name, tensor in header().items() if tensor["dtype"] != "BF16"}
    assert {name.split(".", 3)[3] for name in wide} == {"mlp.gate.e_score_correction_bias"}


def test_the_weights_have_the_shapes_that_the_config_asks_for():
    tensors, layers = header(), CONFIG["num_hidden_layers"]
    experts = [CONFIG["n_routed_experts"], 2 * CONFIG["moe_intermediate_size"], CONFIG["hidden_size"]]
    dense = [n for n in range(layers) if f"model.layers.{n}.mlp.gate_proj.weight" in tensors]
    sparse = [n for n in range(layers) if f"model.layers.{n}.mlp.experts.gate_up_proj" in tensors]
    assert dense + sparse == list(range(layers)) and len(dense) == CONFIG["first_k_dense_replace"]
    assert all(tensors[f"model.layers.{n}.mlp.experts.gate_up_proj"]["shape"] == experts for n in sparse)
    latent = [CONFIG["kv_lora_rank"] + CONFIG["qk_rope_head_dim"], CONFIG["hidden_size"]]
    assert tensors["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"]["shape"] == latent


def test_the_heldout_text_is_plain_english_that_training_never_saw():
    text, seen = small_text(), lzma.decompress(small_path("train.txt.xz").read_bytes())
    assert text.isascii() and seen.isascii() and 50_000 < len(text) < 100_000
    assert b"Gutenberg" not in text + seen
    paragraphs = [part for part in text.split(b"\n\n") if len(part) > 100]
    assert not any(part in seen for part in paragraphs)


def test_the_source_and_its_licence_are_named():
    notes = small_path("README.md").read_text(encoding="utf-8")
    for word in ("Jane Austen", "1811", "1813", "public domain", "janeaustenr"):
        assert word in notes
    assert f"{small_record()['bits_per_byte']:.2f} bits" in notes


def test_the_losses_fall_and_end_well_below_a_guess():
    steps, train, heldout = recorded_losses().T
    assert steps[-1] == small_record()["steps"] and (np.diff(steps) > 0).all()
    assert train[-1] < train[0] / 2 and heldout[-1] < heldout[0]
    assert small_record()["bits_per_byte"] == pytest.approx(small_record()["heldout_loss"] / math.log(2), abs=1e-3)
    assert small_record()["bits_per_byte"] < 2.3  # a uniform guess over 256 bytes costs 8


def test_an_unknown_file_is_refused_by_name():
    with pytest.raises(ValueError, match="name='weights.bin' is not a file of the small model; allowed: .*config.json"):
        small_path("weights.bin")


@pytest.fixture(scope="module")
def reference():
    """transformers' own model with the stored weights, in FP32."""
    transformers = pytest.importorskip("transformers", minversion="5")
    torch = pytest.importorskip("torch")
    model, info = transformers.DeepseekV3ForCausalLM.from_pretrained(
        small_path(), dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values())  # nothing missing, unexpected or of another shape
    return model.eval()


def test_transformers_reads_the_weights_and_finds_the_recorded_loss(reference):
    import torch

    windows = torch.tensor(list(small_text())).unfold(0, 513, 512)[:32]
    with torch.inference_mode():
        losses = [reference(part, labels=part).loss.item() for part in windows.split(8)]
    assert sum(losses) / len(losses) == pytest.approx(recorded_losses()[-1, 2], rel=0.01)
    assert small_record()["heldout_loss"] == pytest.approx(recorded_losses()[-1, 2], rel=0.01)


def test_bits_per_byte_are_those_of_transformers(reference):
    from dsmem.model.checkpoint import load_model

    ours = bits_per_byte(load_model(small_path(), weights="fp32"), windows=16, context=512)
    theirs = bits_per_byte(lambda tokens: reference(tokens).logits, windows=16, context=512)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours == pytest.approx(small_record()["bits_per_byte"], rel=0.05)  # the record is for the whole text


def test_our_decoder_finds_the_recorded_loss():
    from dsmem.model.checkpoint import load_model
    from dsmem.model.small import heldout_loss

    model = load_model(small_path(), weights="fp32")
    assert heldout_loss(model, windows=32) == pytest.approx(recorded_losses()[-1, 2], abs=1e-3)
    assert heldout_loss(model, windows=4, batch=3) == pytest.approx(heldout_loss(model, windows=4), rel=1e-5)


def test_every_expert_has_work(reference):
    import torch

    chosen, n_experts = [], CONFIG["n_routed_experts"]
    routers = [module for name, module in reference.named_modules() if name.endswith("mlp.gate")]
    hooks = [router.register_forward_hook(lambda _, __, out: chosen.append(out[2].flatten())) for router in routers]
    with torch.inference_mode():
        reference(torch.tensor(list(small_text()[:8192])).view(16, 512))
    for hook in hooks:
        hook.remove()
    shares = torch.stack([experts.bincount(minlength=n_experts) / len(experts) for experts in chosen])
    assert shares.shape == (CONFIG["num_hidden_layers"] - CONFIG["first_k_dense_replace"], n_experts)
    assert 0.5 < shares.min() * n_experts and shares.max() * n_experts < 2


def test_it_can_be_trained_again_from_what_lies_beside_it(tmp_path):
    pytest.importorskip("transformers", minversion="5")
    options = ["--steps", "2", "--context", "32", "--threads", "1", "--out", str(tmp_path)]
    subprocess.run([sys.executable, str(small_path("train.py")), *options], check=True, capture_output=True)
    written = {path.name for path in Path(tmp_path).iterdir()}
    assert written == {"model.safetensors", "loss.csv", "training.json"}
    size = small_path("model.safetensors").stat().st_size
    assert (tmp_path / "model.safetensors").stat().st_size == pytest.approx(size, abs=64)
