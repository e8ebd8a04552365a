"""Devices by every name that a caller may use, and what each can run."""

import pytest
import torch

from dsmem.model import hub
from dsmem.model.devices import attention_for, check_device, settled
from dsmem.model.flash import unpadded


@pytest.fixture
def gpu(monkeypatch):
    """A machine whose present GPU is number 1, of compute capability 7.5."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))


@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda"), torch.device("cuda", 1)])
def test_the_present_gpu_has_one_name(gpu, device):
    assert check_device(device) == "cuda"


@pytest.mark.parametrize("device", ["cuda:0", torch.device("cuda:0")])
def test_another_gpu_is_refused_with_the_way_on(gpu, device, refuses):
    refuses(lambda: check_device(device), "device", "'cuda:1'", "torch.cuda.set_device(0)")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "meta", torch.device("meta"), None, 0])
def test_what_is_not_a_device_here_is_refused(device, refuses):
    refuses(lambda: check_device(device), f"device={device!r}", "'cuda', 'cpu', 'fake'", "the GPU")


@pytest.mark.parametrize(("activations", "expected"), [("fp16", "expanded"), (torch.float32, "expanded")])
def test_an_old_gpu_shares_no_keys(gpu, activations, expected):
    assert attention_for("cuda", "qwen2.5-0.5b", activations) == expected
    assert attention_for("cpu", "qwen2.5-0.5b", activations) == "fused"


def test_auto_is_settled_and_the_rest_stays(gpu):
    from dsmem import Architecture, Workload

    arch, work = Architecture.of("qwen2.5-0.5b"), Workload(1, 8, attention="auto")
    assert settled(arch, work, "cuda") == work.changed(attention="expanded")
    assert settled(arch, work.changed(attention="eager"), "cuda").attention == "eager"


def test_their_attention_does_without_cudnn_on_a_gpu_alone():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with hub.pinned_attention("cuda"):
        assert not torch.backends.cuda.cudnn_sdp_enabled() and torch.backends.cuda.flash_sdp_enabled()
    with hub.pinned_attention("cpu"):
        assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_a_slice_that_counts_as_contiguous_loses_its_padding():
    whole, padded = torch.ones(2, 3), torch.ones(1, 1, 32)[..., :9]
    assert padded.is_contiguous() and padded.untyped_storage().nbytes() == 128
    assert unpadded(whole) is whole and unpadded(padded).untyped_storage().nbytes() == 36
