"""Gradients on a GPU, by its own kernels: those of the CPU, each in a storage of its own; skipped where none is."""

import pytest
import torch
from gradients import CASES, inputs

import dsmem
from dsmem.model import flash, operators

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]
PLAIN = {name: case for name, case in CASES.items() if name in ("rms_norm", "layer_norm") or "route" in name}


def on_gpu(tensors):
    return [tensor.detach().cuda().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("name", PLAIN)
def test_norms_and_router(name):
    shapes, ours, _ = CASES[name]
    if "biased=True" in name:
        pytest.skip("its offsets lie on the CPU")
    tensors = inputs(shapes)
    there = on_gpu(tensors)
    ours(*tensors).sum().backward()
    ours(*there).sum().backward()
    for here, gpu in zip(tensors, there, strict=True):
        torch.testing.assert_close(gpu.grad.cpu(), here.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("head_dim", [16, 20])
@pytest.mark.parametrize(("new", "seen", "kv_heads"), [(40, 40, 4), (40, 40, 2), (7, 40, 4)])
def test_attention(new, seen, kv_heads, head_dim, window):
    if flash.attention_backend("cuda") != "flash" and kv_heads != 4:
        pytest.skip("its kernel wants as many key heads as query heads")
    tensors = inputs([(2, new, 4, head_dim), (2, seen, kv_heads, head_dim), (2, seen, kv_heads, head_dim)])
    there = [tensor.detach().half().cuda().requires_grad_() for tensor in tensors]
    operators.attention(*tensors, True, None, window)[0].sum().backward()
    out = operators.attention(*there, True, None, window)[0]
    grad = torch.ones_like(out)
    with dsmem.Ledger() as ledger:
        gradients = torch.autograd.grad(out, there, grad)
    for here, gpu in zip(tensors, gradients, strict=True):
        torch.testing.assert_close(gpu.float().cpu(), here.grad, rtol=2e-2, atol=2e-2)
        assert gpu.is_contiguous() and gpu.untyped_storage().nbytes() == gpu.nbytes
    made = [record.shape for record in ledger.records if record.op == "attention_backward"]
    assert made == [tuple(tensor.shape) for tensor in tensors]


def test_attention_with_a_bias():
    shapes, _, _ = CASES["attention with a bias"]
    tensors = inputs(shapes, torch.float32)
    there = [tensor.detach().half().cuda().requires_grad_() for tensor in tensors]
    bias = torch.zeros(2, 1, 7, 16)[..., :7].masked_fill_(torch.ones(7, 7).triu(2).bool(), -torch.inf)
    operators.attention(*tensors, False, bias)[0].sum().backward()
    wide = torch.zeros(2, 1, 7, 16, device="cuda", dtype=torch.half)[..., :7].copy_(bias)
    operators.attention(*there, False, wide)[0].sum().backward()
    for here, gpu in zip(tensors, there, strict=True):
        torch.testing.assert_close(gpu.grad.float().cpu(), here.grad, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts(dtype):
    ends = torch.tensor([30, 30, 71, 128], dtype=torch.int32)  # an expert without rows gets a gradient of zeros
    x, weight = inputs([(128, 64), (4, 32, 64)])
    there = [tensor.detach().to(dtype).cuda().requires_grad_() for tensor in (x, weight)]
    operators.grouped_linear(x, weight, ends).sum().backward()
    operators.grouped_linear(*there, ends.cuda()).sum().backward()
    for here, gpu in zip((x, weight), there, strict=True):
        torch.testing.assert_close(gpu.grad.float().cpu(), here.grad, rtol=3e-2, atol=3e-2 * here.grad.abs().max())
