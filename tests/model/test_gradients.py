"""Gradients of a whole model: those of transformers' model with the same weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from decoders import CONFIGS, TOKENS, theirs_and_ours

from dsmem.model import checkpoint
from dsmem.model.layers import RMSNorm

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
