"""Softmax as a GPU allocates it: torch's numbers; the tensors that a T4's peaks say there are."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from dsmem.memory.ledger import Ledger
from dsmem.model.kernels import GpuKernels

CALLS = {
    "functional": lambda x: F.softmax(x, dim=-1, dtype=torch.float32),
    "torch": lambda x: torch.softmax(x, -1, torch.float32),
    "method": lambda x: x.softmax(-1, dtype=torch.float32),
    "own format": lambda x: F.softmax(x, -1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_numbers_and_gradients_are_torchs(call, dtype):
    found = []
    for kernels in (False, True):
        x = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
        weight = torch.arange(7.0)
        if kernels:
            with GpuKernels():
                out = call(x)
        else:
            out = call(x)
        (out * weight).sum().backward()
        found.append((out.detach(), x.grad))
    for theirs, ours in zip(*found, strict=True):
        assert theirs.dtype == ours.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-2 if dtype != torch.float32 else 1e-5)


def peaks(device, dtype):
    """Bytes a number at most, forward and in the whole step, of softmax in float32 between two 16-bit tensors."""
    with FakeTensorMode() if device == "fake" else torch.device("cpu"), GpuKernels():
        x = torch.zeros(64, 64, dtype=dtype, requires_grad=True)
        with Ledger() as ledger:
            ledger.mark("forward")
            out = F.softmax(x, dim=-1, dtype=torch.float32).to(dtype)
            ledger.mark("backward")
            torch.autograd.grad(out, x, torch.ones_like(out))
    return {phase: nbytes / x.numel() for phase, nbytes in ledger.phases.items()}


@pytest.mark.parametrize("device", ["fake", "cpu"])
def test_bytes_are_those_of_a_gpus_kernels(device):
    # forward: scores, result in float32, its copy in FP16; a CPU copies the scores to float32 as well
    # backward: beside scores, output and the result that is kept: the gradient, its float32 copy, the product with the
    # result, the gradient of the scores (a T4 at 2,048 tokens: 1,792 MiB for 128 Mi scores, at 512 + 512 + 512 + 256)
    assert peaks(device, torch.float16) == {"forward": 2 + 4 + 2, "backward": 2 + 2 + 4 + 2 + 4 + 4 + 2}
