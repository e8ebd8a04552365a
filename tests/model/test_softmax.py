"""Eager attention with its softmax in float32 is transformers' eager attention, number by number."""

import pytest
import torch
from decoders import CONFIGS, TOKENS, theirs_and_ours
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.llama import modeling_llama
from transformers.models.opt import modeling_opt

from dsmem.model.devices import TORCH_DTYPES
from dsmem.model.layers import eager_attention, future_mask
from dsmem.model.softmax import from_fp16, softmax

each_format = pytest.mark.parametrize("dtype", TORCH_DTYPES.values(), ids=TORCH_DTYPES)
KEYS, NEW = 40, 24


class Whole(torch.nn.Module):
    """What transformers' functions ask of a layer whose heads all have keys of their own."""

    num_key_value_groups, head_dim = 1, 16


@each_format
@pytest.mark.parametrize(
    ("theirs", "softcap"),
    [(modeling_llama, None), (modeling_opt, None), (modeling_gemma2, None), (modeling_gemma2, 5.0)],
)
def test_it_is_their_function_bit_by_bit(theirs, softcap, dtype):
    random = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 3, length, 16, generator=random).mul_(3).to(dtype) for length in (NEW, KEYS, KEYS))
    hidden = future_mask(torch.arange(KEYS - NEW, KEYS), range(KEYS))
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)
    options = {} if softcap is None else {"softcap": softcap}
    want, _ = theirs.eager_attention_forward(Whole().eval(), q, k, v, mask, scaling=16**-0.5, **options)
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    # torch's softmax of 16-bit numbers adds up in float32, too: what it saves is memory, not precision
    for attention in ("eager_fp32", "eager"):
        assert torch.equal(eager_attention(q, k, v, hidden, attention, softcap=softcap), want.flatten(2))


@pytest.mark.parametrize("weights", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["llama", "llama, one key head", "gemma2", "minicpm3", "opt"])
@torch.no_grad()
def test_logits_in_16_bit_are_those_of_their_eager_code(name, weights):
    theirs, ours = theirs_and_ours(CONFIGS[name], weights)
    theirs.set_attn_implementation("eager")
    exact = theirs(TOKENS).logits
    want = theirs.to(TORCH_DTYPES[weights])(TOKENS).logits.float()
    off = ours(TOKENS, attention="eager_fp32").float() - want
    # as near to theirs as theirs is to what it is without rounding
    assert off.square().mean() < 2 * (want - exact).square().mean() < 0.01 * exact.square().mean()


@each_format
def test_weights_have_the_format_of_the_scores_and_sum_to_1(dtype):
    weights = softmax(torch.full((1, 1, 1, 3000), 2.0, dtype=dtype), "eager_fp32")
    assert weights.dtype == dtype
    assert weights.float().sum() == pytest.approx(1, rel=2**-8)


def test_its_gradient_is_torchs_own():
    ours, theirs = (torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(1)).half() for _ in range(2))
    for scores, function in ((ours, from_fp16), (theirs, lambda x: x.softmax(dim=-1, dtype=torch.float32))):
        (function(scores.requires_grad_()) * torch.arange(50.0)).sum().backward()
    assert ours.grad.dtype == torch.float16 and torch.equal(ours.grad, theirs.grad)
