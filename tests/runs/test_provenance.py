"""Where a recording was made, and which settings of the allocator the prediction knows."""

import pytest
import torch

from dsmem.memory.allocator import CachingAllocator
from dsmem.runs.provenance import SAME, allocator_settings, provenance, sdpa


def test_a_provenance_holds_all_that_must_stay_the_same():
    made = provenance("cpu", "a test")
    assert set(SAME) <= set(made)
    assert (made["torch"], made["command"], made["capability"]) == (torch.__version__, "a test", None)
    assert made["attention"] == "flash (CPU)" and made["source"] == provenance("fake")["source"]


def test_settings_in_the_environment_are_noted(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert provenance("cpu")["environment"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_the_kernels_of_torchs_own_attention_are_named():
    assert "math" in sdpa("cpu")["enabled"]
    assert set(sdpa("cpu")["chosen"]) == {"prefill", "decode"}
    assert set(sdpa("cpu")["chosen"].values()) <= set(torch.nn.attention.SDPBackend.__members__)


SETTINGS = {
    "": {},
    "expandable_segments:True": {"expandable_segments": True},
    "expandable_segments:False": {"expandable_segments": False},
    "max_split_size_mb:128, large_segment_size_mb:64": {"max_split_size_mb": 128, "large_segment_size_mb": 64},
    "backend:native,pinned_use_background_threads:True": {},
    "release_lock_on_cudamalloc:True,expandable_segments:True": {"expandable_segments": True},
}


@pytest.mark.parametrize("variable", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
@pytest.mark.parametrize(("said", "known"), SETTINGS.items())
def test_settings_that_the_replay_models_reach_it(variable, said, known):
    settings = allocator_settings({variable: said})
    assert settings == known
    CachingAllocator(**settings)


def test_the_newer_name_of_the_variable_goes_first():
    both = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:30", "PYTORCH_ALLOC_CONF": "max_split_size_mb:60"}
    assert allocator_settings(both) == {"max_split_size_mb": 60}


UNKNOWN = (
    "garbage_collection_threshold:0.8",
    "roundup_power2_divisions:4",
    "roundup_power2_divisions:[256:1,512:2,>:4]",
    "backend:cudaMallocAsync",
    "max_non_split_rounding_mb:100",
    "per_process_memory_fraction:0.5",
)


@pytest.mark.parametrize("said", UNKNOWN)
def test_settings_that_the_replay_does_not_model_are_refused_by_name(said, refuses, monkeypatch):
    name = said.partition(":")[0]
    refuses(lambda: allocator_settings({"PYTORCH_ALLOC_CONF": f"expandable_segments:True,{said}"}), name, "allowed")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", said)
    refuses(lambda: provenance("cpu"), "PYTORCH_ALLOC_CONF", name)


@pytest.mark.parametrize("said", ["expandable_segments:yes", "max_split_size_mb:1.5", "large_segment_size_mb:big"])
def test_a_value_that_torch_would_refuse_is_refused(said, refuses):
    refuses(lambda: allocator_settings({"PYTORCH_ALLOC_CONF": said}), said, "must be")


def test_an_allocator_that_is_turned_off_is_refused(refuses):
    refuses(lambda: allocator_settings({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}), "PYTORCH_NO_CUDA_MEMORY_CACHING")
