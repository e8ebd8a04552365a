"""Quantization-aware training of the small model: the recorded runs, the fake quantizers, and a short new run."""

import csv
import importlib.util
import subprocess
import sys

import pytest

from dsmem.model import small

KINDS = {"none": ["fp32", "int8", "int4"], "float": ["fp32", "int8", "int4"], "int8": ["int8"], "int4": ["int4"]}


def rows(path):
    """The rows of a table of runs, as dicts of strings."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_training_is_recorded_with_three_seeds_and_the_same_steps():
    found = rows(small.small_path("qat.csv"))
    for kind, formats in KINDS.items():
        for stored in formats:
            of_kind = [row for row in found if (row["training"], row["stored"]) == (kind, stored)]
            assert len({row["seed"] for row in of_kind}) == len(of_kind) >= (1 if kind == "none" else 3)
            assert {row["steps"] for row in of_kind} == {"0" if kind == "none" else "200"}
    assert len({(row["batch"], row["context"], row["lr"], row["torch"]) for row in found}) == 1
    assert all(row["bits_per_byte"] and row["device"] and row["torchao"] and row["date"] for row in found)


def test_the_losses_of_one_seed_stand_at_one_place():
    found = {
        (row["training"], row["seed"], row["stored"]): row["heldout_loss"] for row in rows(small.small_path("qat.csv"))
    }
    tuned = small.tuned_losses()
    for (training, stored), losses in tuned.items():
        if training != "none":
            assert losses == [float(found[training, str(seed), stored]) for seed in range(len(losses))]


def test_the_untrained_row_is_what_the_stored_weights_give():
    fp32 = small.tuned_losses()["none", "fp32"]
    assert fp32 == pytest.approx([small.small_record()["heldout_loss"]], abs=2e-4)


def test_extra_steps_help_and_rounding_in_the_loop_helps_where_it_hurts():
    tuned = small.tuned_losses()
    assert max(tuned["float", "fp32"]) < min(tuned["none", "fp32"])
    pairs = zip(tuned["int4", "int4"], tuned["float", "int4"], tuned["float", "fp32"], strict=True)
    assert all(exact < trained < afterwards for trained, afterwards, exact in pairs)


def test_a_rise_is_over_the_same_seeds_training_without_rounding():
    tuned, rises = small.tuned_losses(), small.tuned_rises()
    assert list(rises) == [
        f"{b}, {w}" for b in ("int8", "int4") for w in ("rounded afterwards", "trained with rounding")
    ]
    ratio = tuned["int4", "int4"][1] / tuned["float", "fp32"][1]
    assert rises["int4, trained with rounding"][1] == pytest.approx(100 * ratio - 100)


@pytest.fixture
def script(monkeypatch):
    """qat.py as a module."""
    pytest.importorskip("transformers", minversion="5")
    from dsmem.runs.libraries import quiet

    with quiet():
        pytest.importorskip("torchao")
        monkeypatch.syspath_prepend(small.small_path())
        spec = importlib.util.spec_from_file_location("qat", small.small_path("qat.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    sys.modules.pop("train", None)


def as_stored(kind, weight):
    """A matrix, rounded as a quantized layer of the kit stores it."""
    from dsmem.model.quantize import LAYERS

    layer = LAYERS[kind](*reversed(weight.shape), bias=False, dtype=weight.dtype, device="cpu")
    layer.set_weight(weight)
    return layer.weight_copy(weight.dtype)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_training_sees_the_weights_as_the_kit_stores_them(script, kind):
    import torch

    for width in (32, 64, 96, 128, 256):
        experts = torch.randn(3, 48, width, generator=torch.Generator().manual_seed(width)) / 8
        stored = torch.stack([as_stored(kind, weight) for weight in experts])
        same = torch.isclose(script.Rounding(kind, experts)(experts), stored, rtol=0, atol=1e-6)
        assert same.float().mean() > 0.999  # a number halfway between two steps may go either way


def test_the_gradient_goes_straight_through(script):
    import torch

    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    slope = torch.arange(64.0)
    (script.Rounding("int4", weight)(weight) * slope).sum().backward()
    through = torch.isclose(weight.grad, slope.expand(8, 64), rtol=1e-5, atol=1e-5)
    assert through.float().mean() > 0.95 and not weight.grad[~through].any()  # clipped numbers get no gradient


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
