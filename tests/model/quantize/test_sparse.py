"""2:4 sparsity against PyTorch's own format and its own pruning, and what it costs the small trained model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.ao.pruning import WeightNormSparsifier
from torch.sparse import SparseSemiStructuredTensorCUTLASS as Semi
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from dsmem import formulas
from dsmem.model import heldout_loss, load_model, small_path
from dsmem.model.quantize import sparse

WIDTHS = {torch.bfloat16: 16, torch.float16: 16, torch.int8: 8}
every_format = pytest.mark.parametrize("dtype", WIDTHS, ids=str)


@pytest.fixture(scope="module")
def trained_losses():
    """{how it is stored: nats a byte} of the small model on the first KiB of its held-out text."""
    models = {"fp32": load_model(small_path(), weights="fp32")}
    models["int8"] = load_model(small_path(), weights="int8", activations="fp32")
    for name, seed in (("2:4", None), ("2:4 at random", 0)):
        models[name] = load_model(small_path(), weights="fp32")
        assert 0.4 < sparse.prune_layers(models[name], seed) < 0.5  # all but embedding, head, norms and routers
    return {name: heldout_loss(model, windows=4) for name, model in models.items()}


def random(rows, width, dtype, seed=0):
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return (40 * weight).clamp(-128, 127).to(dtype) if dtype == torch.int8 else weight.to(dtype)


@every_format
def test_the_kept_numbers_and_the_bytes_are_those_of_pytorchs_format(dtype):
    weight = sparse.prune(random(64, 256, dtype))
    theirs, meta = sparse_semi_structured_from_dense_cutlass(weight)
    values, places = sparse.pack(weight)
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(theirs, meta), weight)
    assert torch.equal(sparse.unpack(values, places), weight)
    full = (weight.unflatten(1, (-1, 4)) != 0).sum(-1).repeat_interleave(2, 1) == 2  # elsewhere a zero is kept
    assert torch.equal(values[full], theirs[full])
    assert places.nbytes == meta.nbytes
    assert values.nbytes + places.nbytes == formulas.sparse_linear_bytes(256, 64, WIDTHS[dtype])


@every_format
def test_the_share_that_is_stored_is_the_one_pytorch_states(dtype):
    # an eighth of 9 (16 bit) or 10 (8 bit), halved: pytorch/torch/sparse/semi_structured.py
    factor = {16: 9, 8: 10}[WIDTHS[dtype]] / 16
    assert formulas.sparse_linear_bytes(4096, 11008, WIDTHS[dtype]) == factor * 4096 * 11008 * WIDTHS[dtype] / 8
    assert dtype in Semi._DTYPE_SHAPE_CONSTRAINTS


def test_pruning_keeps_what_pytorchs_own_sparsifier_keeps():
    linear = torch.nn.Linear(128, 48)
    ours = sparse.prune(linear.weight.detach())
    theirs = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    theirs.prepare(torch.nn.Sequential(linear), [{"tensor_fqn": "0.weight"}])
    theirs.step()
    theirs.squash_mask()
    assert torch.equal(linear.weight.detach(), ours)


@given(st.integers(1, 5), st.integers(1, 9), st.sampled_from(list(WIDTHS)), st.integers(0, 99))
def test_whatever_is_packed_comes_back(rows, fours, dtype, seed):
    weight = sparse.prune(random(rows, 4 * fours, dtype, seed))
    values, places = sparse.pack(weight)
    assert torch.equal(sparse.unpack(values, places), weight)
    assert len(places) == -(-rows * fours // 2)


@pytest.mark.parametrize("weight", [torch.zeros(2, 8), torch.tensor([[0.0, 0, 0, 3], [1, 0, 0, 0], [0, 2, 0, 0]])])
def test_fewer_than_two_numbers_among_four_come_back(weight):
    assert torch.equal(sparse.unpack(*sparse.pack(weight)), weight)


def test_a_layer_multiplies_by_the_pruned_weight_and_stores_nine_sixteenths():
    weight, x = random(48, 128, torch.bfloat16), random(5, 128, torch.bfloat16, seed=1)
    layer = sparse.SparseLinear(128, 48, bias=False, dtype=torch.bfloat16, device="cpu")
    layer.set_weight(weight)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, sparse.prune(weight)))
    assert (
        sum(p.nbytes for p in layer.parameters())
        == 9 * weight.nbytes // 16
        == formulas.sparse_linear_bytes(128, 48, 16)
    )


def test_what_does_not_fit_the_pattern_is_refused(refuses):
    refuses(lambda: sparse.prune(torch.ones(2, 6)), "weight has rows of 6 numbers; they must be a multiple of 4")
    refuses(lambda: sparse.pack(torch.ones(2, 8)), "more than two of four numbers other than 0")
    refuses(lambda: sparse.SparseLinear(12, 4, False, torch.float32, "cpu"), "in_features=12 does not fill whole bytes")


def test_pruning_costs_the_trained_model_more_than_eight_bits_do(trained_losses):
    assert trained_losses["int8"] / trained_losses["fp32"] < 1.001
    assert 1.1 < trained_losses["2:4"] / trained_losses["fp32"] < 3
    assert trained_losses["2:4"] < trained_losses["2:4 at random"]
