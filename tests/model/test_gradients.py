"""Gradients of a whole model: those of transformers' model with the same weights."""

import contextlib
import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from decoders import CONFIGS, TOKENS, theirs_and_ours

from dsmem import Architecture, Ledger, build_model
from dsmem.model import checkpoint
from dsmem.model.layers import RMSNorm, drop

# one for each kind of attention, of MLP, and of place where inference writes in place
NAMES = (
    "llama",
    "qwen2, tied",
    "phi3, rotated in part",
    "qwen3",
    "minimax_m2",
    "mixtral",
    "gpt_oss",
    "qwen2_moe",
    "qwen3_moe",
    "v2",
    "v3",
    "v3.2",
    "minicpm3",
    "gpt2",
    "gpt2, scores by layer",
    "opt",
    "gemma2",
    "gemma3",
)


def loss_of(logits):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())


@pytest.mark.parametrize(
    ("name", "attention"),
    [*((name, "fused") for name in NAMES), *((name, "eager") for name in ("llama", "v3", "gpt2", "gemma2", "gpt_oss"))],
)
def test_gradients_are_those_of_transformers(name, attention):
    theirs, ours = theirs_and_ours(CONFIGS[name])
    theirs.requires_grad_(True)
    theirs.set_attn_implementation("eager")
    loss_of(theirs(TOKENS).logits).backward()
    ours.requires_grad_(True).train()
    loss_of(ours(TOKENS, attention=attention)).backward()
    wanted = in_our_layout(theirs, ours)
    learned = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert set(learned) == {name for name in wanted if "indexer" not in name}  # one is trained apart
    for name, grad in learned.items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: name + text)


def in_our_layout(theirs, ours):
    """transformers' gradients by our names: they are read as a checkpoint's weights are."""
    learned = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    holder = copy.deepcopy(ours)
    blank = {name: torch.zeros_like(tensor) for name, tensor in theirs.state_dict().items()}
    checkpoint.fill_from(holder, blank | learned)
    # what is read as one of Gemma's norms gets one added
    norms = {f"{name}.weight" for name, module in holder.named_modules() if isinstance(module, RMSNorm)}
    added = norms if ours.arch.gemma_block else ()
    return {name: p.detach() - float(name in added) for name, p in holder.named_parameters()}


def events(name, device, attention, dropout=0.0, weights="bf16"):
    """Births and deaths of a forward and a backward pass: sign, shape, format and bytes, in order."""
    arch = Architecture.from_config(CONFIGS[name])
    model = build_model(arch, weights, device).requires_grad_(True).train()
    model.dropout = dropout
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=weights == "fp32")
    tokens, mode = TOKENS, contextlib.nullcontext()
    if device == "fake":
        mode, tokens = model.fake_mode, model.fake_mode.from_tensor(TOKENS)
    with mode, Ledger(model) as ledger:
        with autocast:
            logits = model(tokens, attention=attention).float()
        F.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    return [(sign, r.op, r.shape, r.dtype, r.nbytes) for r, sign in ledger.events]


@pytest.mark.parametrize(
    ("name", "attention", "dropout"),
    [
        *((name, attention, 0.0) for name in ("llama", "v3", "gemma2") for attention in ("fused", "eager")),
        *((name, "fused", 0.0) for name in ("phi3, rotated in part", "minimax_m2", "qwen2_moe", "v3.2", "opt")),
        *(("gpt2", attention, dropout) for attention in ("fused", "eager") for dropout in (0.0, 0.1)),
    ],
)
def test_a_step_on_fake_tensors_allocates_and_frees_as_on_real_ones(name, attention, dropout):
    assert events(name, "fake", attention, dropout) == events(name, "cpu", attention, dropout)


@pytest.mark.parametrize("name", ["llama", "v3", "qwen3_moe", "gpt2"])
def test_so_does_one_under_autocast(name):
    fake, real = (Counter(events(name, device, "fused", weights="fp32")) for device in ("fake", "cpu"))
    assert fake == real  # copies of weights die together, in no order


def test_only_a_gpt_block_in_training_drops():
    model = build_model(Architecture.from_config(CONFIGS["gpt2"]), "fp32", "cpu")
    plain = model(TOKENS)
    model.dropout = 0.1
    assert torch.equal(model(TOKENS), plain)
    model.train()
    assert not torch.equal(model(TOKENS), plain) and not torch.equal(model(TOKENS), model(TOKENS))
    model.dropout = 0.0
    assert torch.equal(model(TOKENS), plain)
    half = drop(torch.ones(100, 100), 0.5)
    assert set(half.unique().tolist()) == {0.0, 2.0} and abs(half.mean() - 1) < 0.05
