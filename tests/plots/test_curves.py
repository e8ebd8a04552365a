"""What rounding costs on real weights: the errors of the small model's layers, and the pictures."""

import math

import pytest
import torch
from matplotlib.figure import Figure

from dsmem.model.checkpoint import load_model
from dsmem.model.quantize.errors import layer_errors
from dsmem.model.small import small_path, small_text
from dsmem.plots import errors as quality


@pytest.fixture(scope="module")
def errors():
    model = load_model(small_path(), weights="fp32")
    return layer_errors(model, torch.tensor([list(small_text()[:256])]))


@pytest.fixture
def ax():
    return Figure(figsize=(6.4, 4), layout="constrained").subplots()


def test_every_linear_layer_is_measured(errors):
    # per layer: five projections of latent attention and three matrices of the dense or the shared MLP; and the head
    assert len(errors) == 4 * (5 + 3) + 1
    assert all(outlier >= 1 and math.isfinite(e) for outlier, each in errors.values() for e in each.values())


def test_the_outliers_come_in_at_the_down_projections_and_mixed_precision_answers_them(errors):
    largest = sorted(errors, key=lambda name: errors[name][0])[-4:]
    assert all(name.endswith("down_proj") for name in largest)
    for name in largest:
        of_layer = errors[name][1]
        assert of_layer["per tensor"] > 2 * of_layer["per token"] > 2 * of_layer["mixed"]


def test_an_error_is_that_of_the_rounded_product(errors):
    model = load_model(small_path(), weights="fp32")
    rounded = load_model(small_path(), weights="int8_w8a8", activations="fp32")
    seen = []
    hook = model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(torch.tensor([list(small_text()[:256])]))
        hook.remove()
        x, layer = seen[0][0], type(rounded.layers[0].self_attn.o_proj)(128, 256, False, torch.float32, "cpu")
        layer.set_weight(model.lm_head.weight)
        exact = model.lm_head(x)
        wrong = float((layer(x) - exact).norm() / exact.norm())
    assert errors["lm_head"][1]["per token"] == pytest.approx(wrong, rel=0.01)


def test_the_hooks_are_gone_afterwards():
    model = load_model(small_path(), weights="fp32")
    layer_errors(model, torch.zeros(1, 4, dtype=torch.int64))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_picture_has_a_marker_for_every_layer_and_way(errors, ax):
    assert quality.plot_layer_errors(errors, ax=ax, title="Found") is ax
    assert [len(points.get_offsets()) for points in ax.collections] == 3 * [len(errors)]
    assert "(%)" in ax.get_ylabel() and ax.get_title(loc="left") == "Found"


def test_dots_stand_where_the_numbers_are(ax):
    assert quality.plot_dots({"a": [1.0, 2.0, 6.0], "b": 0.5}, xlabel="loss (%)", ax=ax) is ax
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 6]
    assert [text.get_text() for text in ax.texts] == ["3.00", "0.50"]
    assert ax.dsmem_data[0] == ("a", 0, 1.0)


@pytest.mark.parametrize("groups", [{}, {"a": []}])
def test_nothing_to_show_is_refused(groups, refuses):
    refuses(lambda: quality.plot_dots(groups, xlabel="x"), "groups", "at least one number")
