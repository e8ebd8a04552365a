"""The memory-efficient kernel's stand-in: torch's own numbers, the kernel's own tensors."""

import pytest
import torch
from small_configs import TINY_LATENT

import dsmem
from dsmem.memory.ledger import Ledger
from dsmem.model import efficient


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_torchs_attention(masked):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 7, width, dtype=torch.float32, requires_grad=True) for width in (8, 8, 6)]
    mask = torch.randn(2, 1, 7, 7) if masked else None
    theirs = torch.nn.functional.scaled_dot_product_attention(*inputs, mask, is_causal=not masked)
    ours = efficient.attention(*inputs, mask, not masked, None).transpose(1, 2)
    weights = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(*(torch.autograd.grad((out * weights).sum(), inputs) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)


def test_without_a_gradient_nothing_but_the_output_is_made():
    q, v = torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 5, 4)
    with Ledger() as ledger:
        out = efficient.attention(q, q, v, None, True, None)
    assert sum(r.nbytes for r in ledger.records if r.op == "efficient_attention") == out.nbytes
    with Ledger() as ledger:
        out = efficient.attention(q.requires_grad_(), q, v, None, True, None)
    assert sum(r.nbytes for r in ledger.records if r.op == "efficient_attention") == out.nbytes + 2 * 32 * 4


def test_transformers_latent_attention_trains_without_scores_in_memory():
    fake, real = (
        dsmem.measure(
            TINY_LATENT, batch=1, seq_len=32, weights="fp32", training=True, code="transformers", device=device
        )
        for device in ("fake", "cpu")
    )
    assert fake.ledger.phases == real.ledger.phases
    assert any("memory-efficient" in note for note in fake.notes)
    scores = 4 * 32 * 32 * 4
    assert not [r for r in fake.ledger.records if r.nbytes == scores and r.shape[-2:] == (32, 32)]
