"""Quantization-aware training of the small model: the recorded runs, the fake quantizers, and that it runs again."""

import csv
import importlib.util
import subprocess
import sys

import pytest

from dsmem import small

KINDS = {"none": ["fp32", "int8", "int4"], "float": ["fp32", "int8", "int4"], "int8": ["int8"], "int4": ["int4"]}


def rows(path):
    """The rows of a table of runs as dicts of text."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def script(monkeypatch):
    """qat.py as a module."""
    pytest.importorskip("transformers", minversion="5")
    from dsmem.libraries import quiet

    with quiet():
        pytest.importorskip("torchao")
        monkeypatch.syspath_prepend(small.small_path())
        spec = importlib.util.spec_from_file_location("qat", small.small_path("qat.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    sys.modules.pop("train", None)


def as_stored(kind, weight):
    """A matrix as a quantized layer of the kit gives it back."""
    from dsmem.quantize import SCHEMES

    layer = SCHEMES[kind](*reversed(weight.shape), bias=False, dtype=weight.dtype, device="cpu")
    layer.set_weight(weight)
    return layer.weight_copy(weight.dtype)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_training_sees_the_weights_as_the_kit_stores_them(script, kind):
    import torch

    for width in (32, 64, 96, 128, 256):
        experts = torch.randn(3, 48, width, generator=torch.Generator().manual_seed(width)) / 8
        stored = torch.stack([as_stored(kind, weight) for weight in experts])
        same = torch.isclose(script.Rounding(kind, experts)(experts), stored, rtol=0, atol=1e-6)
        assert same.float().mean() > 0.999  # a number halfway between two steps may fall to either side


def test_the_gradient_goes_straight_through(script):
    import torch

    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    slope = torch.arange(64.0)
    (script.Rounding("int4", weight)(weight) * slope).sum().backward()
    through = torch.isclose(weight.grad, slope.expand(8, 64), rtol=1e-5, atol=1e-5)
    assert through.float().mean() > 0.95 and not weight.grad[~through].any()  # what is cut off at an end learns nothing


def test_every_matrix_but_embedding_head_and_routers_is_rounded(script):
    model = script.trained_model()
    places = {id(getattr(module, name)) for module, name in script.rounded_places(model, "int4")}
    kept = {name for name, weight in model.named_parameters() if weight.dim() > 1 and id(weight) not in places}
    routers = {f"model.layers.{layer}.mlp.gate.weight" for layer in (1, 2, 3)}
    assert kept == {"model.embed_tokens.weight", "lm_head.weight"} | routers


def test_it_runs_again_from_what_lies_beside_it(tmp_path):
    pytest.importorskip("transformers", minversion="5")
    pytest.importorskip("torchao")
    options = ["--steps", "2", "--seeds", "5", "--context", "32", "--batch", "2", "--windows", "1"]
    command = [sys.executable, str(small.small_path("qat.py")), *options, "--out", str(tmp_path / "qat.csv")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "warn" not in done.stderr.lower() and "Failed to load" not in done.stderr
    found = rows(tmp_path / "qat.csv")
    assert [(row["training"], row["stored"]) for row in found] == [(k, s) for k, v in KINDS.items() for s in v]
    assert all(0.5 < float(row["heldout_loss"]) < 2 for row in found)
    assert {row["steps"] for row in found} == {"0", "2"}
