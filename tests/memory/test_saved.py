"""What autograd keeps: the published 34 and 5as/h of a GPT block, and for any model what is alive after forward."""

import pytest
import torch
from decoders import CONFIGS, TOKENS, transformers_model

import dsmem
from dsmem import Architecture, build_model
from dsmem.memory import saved_tensors
from dsmem.memory.saved import SHARED

B, S, H, A = 2, 32, 64, 4
GPT = {"model_type": "gpt2", "n_embd": H, "n_layer": 3, "n_head": A, "n_positions": S, "vocab_size": 61}
IDS = torch.randint(61, (B, S), generator=torch.Generator().manual_seed(1))
STATISTICS = 4 * B * S * 4  # two norms' mean and inverse deviation, FP32
LOGSUMEXP = A * B * S * 4


def gpt(device, dropout, weights="bf16", **fields):
    model = build_model(Architecture.from_config(GPT | fields), weights, device).requires_grad_(True).train()
    model.dropout = dropout
    return model


@pytest.mark.parametrize("device", ["cpu", "fake"])
@pytest.mark.parametrize(
    ("attention", "dropout", "in_layer"),
    [
        # arXiv 2205.05198, section 4.1: bytes of a layer in 16 bit
        ("eager", 0.1, 34 * S * B * H + 5 * A * S * S * B + STATISTICS),
        # without dropout three masks go, and the weights that were not dropped are the softmax's own
        ("eager", 0.0, 32 * S * B * H + 2 * A * S * S * B + STATISTICS),
        ("fused", 0.1, 34 * S * B * H + LOGSUMEXP + STATISTICS),
        ("fused", 0.0, 32 * S * B * H + LOGSUMEXP + STATISTICS),
    ],
)
def test_a_gpt_block_keeps_what_is_published(device, attention, dropout, in_layer):
    model = gpt(device, dropout)
    saved = saved_tensors(lambda: model(IDS, attention=attention), model)
    assert [saved.layers[f"layers.{index}"] for index in range(3)] == [in_layer] * 3
    assert saved.layers.get(SHARED, 0) == (S * S if attention == "eager" else 0)  # the mask, a byte each
    assert saved.copy_bytes == 2 * B * S * H
    assert saved.of_layer("layers.2").total_bytes == in_layer


def test_relu_keeps_its_result_which_the_next_layer_keeps_anyway():
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_dim", "max_position_embeddings")
    sizes = dict(zip(names, (H, 3, A, 4 * H, S), strict=True)) | {"word_embed_proj_dim": H, "vocab_size": 61}
    model = build_model(Architecture.from_config({"model_type": "opt", **sizes}), "bf16", "fake").requires_grad_(True)
    saved = saved_tensors(lambda: model(IDS), model)
    assert saved.layers["layers.1"] == (32 - 8) * S * B * H + LOGSUMEXP + STATISTICS


def alive_after(forward, model):
    """Bytes that a forward pass leaves behind beside weights, buffers and its result, by the ledger."""
    with dsmem.Ledger(model) as ledger:
        logits = getattr(result := forward(), "logits", result)
    alive = sum(r.nbytes for r in ledger.records if r.death is None and r.category not in ("weight", "buffer"))
    return alive - logits.untyped_storage().nbytes()


@pytest.mark.parametrize("attention", ["fused", "eager"])
@pytest.mark.parametrize("name", ["llama", "phi3", "qwen3_moe", "v3", "gpt2", "gemma2"])
def test_all_that_our_decoder_leaves_alive_is_what_is_kept(name, attention):
    model = build_model(Architecture.from_config(CONFIGS[name]), "bf16", "cpu").requires_grad_(True).train()

    def forward():
        return model(TOKENS, attention=attention)

    assert saved_tensors(forward, model).total_bytes == alive_after(forward, model)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_all_that_transformers_leaves_alive_is_what_is_kept(name):
    model = transformers_model(CONFIGS[name]).train()

    def forward():
        return model(TOKENS, use_cache=False)

    saved = saved_tensors(forward, model)
    assert saved.total_bytes == alive_after(forward, model)
    assert len([layer for layer in saved.layers if layer and layer != SHARED]) == len(
        next(each for each in model.modules() if isinstance(each, torch.nn.ModuleList))
    )


def test_tables_sum_to_the_total():
    model = gpt("fake", 0.1)
    saved = saved_tensors(lambda: model(IDS, attention="eager"), model)
    assert sum(saved.layers.values()) == saved.total_bytes == sum(saved.table().column("bytes"))
    for fields in (("layer",), ("module", "operation"), ("dtype",)):
        table = saved.by(*fields)
        assert sum(table.column("bytes")) == saved.total_bytes
        assert sum(table.column("copies of [b, s, h]")) == pytest.approx(saved.total_bytes / saved.copy_bytes)
    assert "kept for backward" in repr(saved) and "layers.1" in saved._repr_html_()
    kinds = {row.operation for row in saved.tensors if row.layer == "layers.1"}
    assert kinds == {"layer_norm", "Addmm", "Bmm", "Softmax", "NativeDropout", "Gelu"}


def test_a_checkpointed_layer_keeps_its_input_alone():
    model = gpt("cpu", 0.0)
    layer = model.layers[1]
    inner = layer.forward
    layer.forward = lambda *args: torch.utils.checkpoint.checkpoint(inner, *args, use_reentrant=False)
    saved = saved_tensors(lambda: model(IDS), model)
    assert saved.layers["layers.1"] == 2 * B * S * H
    assert saved.layers["layers.0"] == 32 * S * B * H + LOGSUMEXP + STATISTICS


def test_what_cannot_be_read_is_refused():
    model = build_model(Architecture.from_config(GPT), "bf16", "fake")
    with pytest.raises(ValueError, match="requires_grad_"):
        saved_tensors(lambda: model(IDS), model)
    saved = saved_tensors(lambda: model(IDS), model.requires_grad_(True))
    with pytest.raises(ValueError, match="place"):
        saved.by("place")
    with pytest.raises(ValueError, match=r"layers\.9"):
        saved.of_layer("layers.9")
