"""LoRA beside peft, which is the oracle: parameters, numbers, gradients, and what is kept for backward."""

import pytest
import torch
from small_configs import TINY
from torch import nn

import dsmem
from dsmem.memory.ledger import Ledger
from dsmem.model.hub import quiet
from dsmem.model.lora import LoRALinear, add_lora
from dsmem.model.nf4 import Nf4Linear, nf4_layers

TARGETS = ("q_proj", "v_proj")
SIZES = {name: size for name, size in TINY.items() if name != "model_type"}
TOKENS = torch.arange(24).reshape(2, 12)


def qwen(dtype, **changes):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    with quiet():
        return Qwen2ForCausalLM._from_config(Qwen2Config(**SIZES | changes), dtype=dtype).train()


def by_peft(model, rank):
    with quiet():
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(TARGETS), task_type="CAUSAL_LM")
        return peft.get_peft_model(model, config)


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def fill(model):
    """The same numbers in the adapters of either model: those of one layer have other shapes than those of the next."""
    for parameter in trained(model):
        numbers = torch.Generator().manual_seed(sum(parameter.shape))
        parameter.data = torch.randn(parameter.shape, generator=numbers).to(parameter.dtype) / 8


def step(model):
    """Logits, gradients by shape, and (shape, dtype) of what is kept for backward beside parameters."""
    own, kept = {tensor.data_ptr() for tensor in model.parameters()}, []

    def keep(tensor):
        if tensor.data_ptr() not in own:
            kept.append((tuple(tensor.shape), tensor.dtype))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), quiet():
        out = model(input_ids=TOKENS, labels=TOKENS, use_cache=False)
    out.loss.backward()
    return (
        out.logits,
        sorted((tuple(p.shape), p.grad.double().norm().item()) for p in trained(model)),
        sorted(kept, key=str),
    )


def alike(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=0)
    assert [shape for shape, _ in ours[1]] == [shape for shape, _ in theirs[1]]
    assert [norm for _, norm in ours[1]] == pytest.approx([norm for _, norm in theirs[1]], rel=1e-4)
    assert ours[2] == theirs[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_trains_what_peft_trains_makes_its_numbers_and_keeps_its_tensors(dtype):
    theirs, ours = by_peft(qwen(dtype), 4), qwen(dtype)
    assert add_lora(ours, 4, TARGETS) == theirs.get_nb_trainable_parameters()[0]
    assert {p.dtype for p in trained(ours)} == {p.dtype for p in trained(theirs)} == {torch.float32}
    fill(theirs)
    fill(ours)
    alike(step(ours), step(theirs))


def test_on_a_4_bit_base_too():
    """Widths in whole blocks: bitsandbytes 0.50.2 reads others wrongly on CPUs with AVX-512."""
    library = pytest.importorskip("bitsandbytes")
    theirs, ours = (qwen(torch.float32, intermediate_size=128) for _ in range(2))
    for parent in list(theirs.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.Linear) and name != "lm_head":
                made = library.nn.Linear4bit(
                    part.in_features, part.out_features, part.bias is not None, torch.float32, False, "nf4"
                )
                made.load_state_dict(part.state_dict())
                setattr(parent, name, made.to("cpu"))
    theirs.is_loaded_in_4bit = True
    theirs = by_peft(theirs, 4)
    nf4_layers(ours)
    assert add_lora(ours, 4, TARGETS) == theirs.get_nb_trainable_parameters()[0]
    fill(theirs)
    fill(ours)
    theirs, ours = step(theirs), step(ours)
    torch.testing.assert_close(ours[0], theirs[0])
    assert [norm for _, norm in ours[1]] == pytest.approx([norm for _, norm in theirs[1]], rel=1e-3)
    assert ours[2] == theirs[2]


def test_a_4_bit_layer_is_bitsandbytes_own_number_by_number():
    library = pytest.importorskip("bitsandbytes.functional")
    linear = nn.Linear(128, 40, dtype=torch.float16)
    made = Nf4Linear.of(linear)
    packed, state = library.quantize_4bit(linear.weight.data, blocksize=64, quant_type="nf4")
    want = library.dequantize_4bit(packed, state)
    x = torch.randn(5, 128, dtype=torch.float16, requires_grad=True)
    out = made(x)
    torch.testing.assert_close(out, nn.functional.linear(x, want, linear.bias), rtol=0, atol=0)
    out.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(5, 40, dtype=torch.float16) @ want)
    stored = sum(parameter.nbytes for parameter in (made.weight, made.absmax, made.code))
    assert stored == dsmem.formulas.nf4_linear_bytes(128, 40)


def test_the_copy_of_a_4_bit_weight_lives_in_forward_and_again_in_backward():
    made = Nf4Linear.of(nn.Linear(256, 512, bias=False, dtype=torch.bfloat16))
    x = torch.zeros(1, 256, dtype=torch.bfloat16, requires_grad=True)
    with Ledger(made) as ledger:
        ledger.mark("forward")
        out = made(x)
        ledger.mark("backward")
        out.sum().backward()
    copies = [record for record in ledger.records if record.nbytes == 2 * 256 * 512]
    assert [record.op for record in copies] == ["nf4_weight", "nf4_weight"]
    assert copies[0].death < ledger.marks["backward"] < copies[1].birth


def test_adapters_have_the_format_that_is_asked_for_and_all_else_is_frozen(refuses):
    model = qwen(torch.bfloat16)
    count = add_lora(model, 2, ["down_proj"], torch.bfloat16)
    assert count == 2 * 2 * (64 + 96) and {p.dtype for p in trained(model)} == {torch.bfloat16}
    assert sum(isinstance(part, LoRALinear) for part in model.modules()) == 2
    refuses(lambda: add_lora(qwen(torch.bfloat16), 2, ["c_attn"]), "c_attn", "name a linear layer")
    refuses(lambda: add_lora(qwen(torch.bfloat16), 0), "rank=0")


@pytest.mark.parametrize("code", ["dsmem", "transformers"])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_a_step_on_fake_tensors_trains_the_adapters_alone(code, checkpointing):
    config = SIZES | {"model_type": "qwen2"}
    training = {"lora_rank": 4, "lora_targets": TARGETS, "checkpointing": checkpointing}
    run = dsmem.measure(config, batch=2, seq_len=8, weights="fp16", training=training, code=code)
    held = run.ledger.by_category("optimizer step")
    adapters = 4 * sum(p.numel() for p in trained(by_count(4)))
    assert held["gradient"] == adapters and held["optimizer"] - 2 * adapters in range(0, 64)


def by_count(rank):
    model = qwen(torch.float16)
    add_lora(model, rank, TARGETS)
    return model
