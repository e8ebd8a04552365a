"""Three bars of a training step: their lengths are the formula's, and every control moves them."""

from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

import dsmem
from dsmem import runs
from dsmem.footprint.training.step import training_footprint
from dsmem.plots import explorers, families
from dsmem.plots.training import PARAMETERS, TrainingPicture, plot_kept, plot_phases, plot_training

MODEL = "qwen2.5-0.5b"
SHAPE = {"batch": 4, "seq_len": 2048}


def drawn(ax, row):
    return sum(n for _, place, n in ax.dsmem_data if place == row)


@pytest.mark.parametrize("precision", ["pure", "master"])
def test_bars_are_as_long_as_the_footprint_says(precision):
    fp = training_footprint(MODEL, **SHAPE, precision=precision)
    ax = plot_training(MODEL, **SHAPE, precision=precision, ax=Figure().subplots())
    assert {row: drawn(ax, row) for row in fp.phases} == fp.phases
    states = {family: n for family, row, n in ax.dsmem_data if row == "forward"}
    assert states["optimizer states"] == 2 * (2 if precision == "master" else 1) * states["weights"] + 4 * 290


def test_without_weights_and_states_the_rest_is_shown():
    ax = plot_training(MODEL, **SHAPE, hide=PARAMETERS, capacity="T4", ax=Figure().subplots())
    assert not {family for family, *_ in ax.dsmem_data} & set(PARAMETERS)
    whole = plot_training(MODEL, **SHAPE, ax=Figure().subplots())
    left = sum(n for family, row, n in whole.dsmem_data if row == "backward" and family not in PARAMETERS)
    assert drawn(ax, "backward") == left and "without weights" in ax.get_xlabel()


def test_every_part_of_a_step_has_a_family():
    eager = training_footprint("gpt2", seq_len=64, precision="master", attention="eager", dropout=0.1)
    cast = training_footprint("gpt2", seq_len=64, precision="autocast")
    sums = []
    for fp in (eager, cast):
        own = [families.by_family(parts, families.TRAINING) for parts in fp.instants.values()]
        assert [sum(each.values()) for each in own] == list(fp.totals.values())
        sums += own
    assert {name for each in sums for name, n in each.items() if n} == set(families.TRAINING)


def test_adapters_are_weights_and_a_master_copy_of_them_is_not_another_one():
    explorer = explorers.explore_training(MODEL, seq_len=256)
    explorer.set(lora_rank=8, weights="int4")
    fp = training_footprint(MODEL, seq_len=256, weights="int4", lora_rank=8)
    assert f"{fp.total_bytes:,} bytes" in explorer.alt and "LoRA of rank 8" in explorer.alt
    explorer.set(lora_rank=0)
    assert "weights='int4'" in explorer.error  # and the picture stays


def test_every_option_of_every_control_moves_the_picture():
    explorer = explorers.explore_training([MODEL, "gpt2"], capacity=["T4", "A100 80 GB"], seq_len=[256, 512])
    for control, widget in explorer.controls.items():
        explorer.set(lora_rank=8 if control == "weights" else 0)  # nothing else than floats is trained itself
        start = widget.value
        options = [value for _, value in widget.options if value != start]
        seen = {explorer.png}
        for value in [*options[:1], *options[-1:]]:
            explorer.set(**{control: value})
            assert explorer.error is None
            seen.add(explorer.png)
        assert len(seen) > 1, control
        explorer.set(**{control: start})
    assert "the peak is in" in explorer.alt and "tokens" in explorer.alt


def test_the_sentence_names_the_peak_and_what_fits():
    explorer = explorers.explore_training(MODEL, capacity="T4")
    explorer.set(batch=8, seq_len=2048)
    fp = training_footprint(MODEL, batch=8, seq_len=2048, precision="master")
    assert f"the peak is in {fp.peak_phase}, {fp.total_bytes:,} bytes" in explorer.alt
    assert "does not fit T4" in explorer.alt
    explorer.set(hide="weights and states", batch=1)
    assert "shown without weights, master copy, optimizer states" in explorer.alt


def test_what_is_no_field_is_refused(refuses):
    refuses(lambda: explorers.explore_training(MODEL, optimiser=["adamw"]), "field='optimiser'", "optimizer")


def test_a_picture_that_is_used_again_is_the_one_drawn_afresh():
    def rows(picture):
        return sorted(map(str, picture.ax.dsmem_data))

    arch, used = dsmem.Architecture.of(MODEL), TrainingPicture(Figure(layout="constrained").subplots())
    fresh = TrainingPicture(Figure(layout="constrained").subplots())
    training = dsmem.Training()
    for work in (training.workload(batch=64, seq_len=4096), training.workload(**SHAPE)):
        used(arch, work, training)
    fresh(arch, training.workload(**SHAPE), training)
    assert rows(used) == rows(fresh)


@pytest.mark.parametrize("code", ["dsmem", "transformers"])
def test_what_a_layer_keeps_is_drawn_whole_and_by_part(code):
    if code == "transformers":
        pytest.importorskip("transformers")
    kept = runs.kept_for_backward(dsmem.Architecture.of(MODEL).scaled(num_hidden_layers=3), seq_len=64, code=code)
    ax = plot_kept({code: kept, "by formula": {"mlp": 7}}, ax=Figure().subplots())
    [layer] = (nbytes for name, nbytes in kept.layers.items() if name.endswith("layers.1"))
    assert drawn(ax, code) == layer and drawn(ax, "by formula") == 7
    sizes = {part: nbytes for part, row, nbytes in ax.dsmem_data if row == code}
    assert set(sizes) == {"norm", "attention_out", "mlp"} and max(sizes, key=sizes.get) == "mlp"


def test_one_layer_alone_has_no_second(refuses):
    kept = runs.kept_for_backward(dsmem.Architecture.of(MODEL).scaled(num_hidden_layers=1), seq_len=64)
    refuses(lambda: plot_kept({"one": kept}), "layers['one']", "at least two")


def peaks(*found):
    lines = [SimpleNamespace(name=name, measured=m, predicted=p, error=p / m - 1) for name, m, p in found]
    return SimpleNamespace(modelled=lines)


def test_peaks_of_phases_are_lines_and_markers_and_the_title_has_the_worst_error(refuses):
    first = peaks(("peak_forward_mib", 100, 100), ("peak_backward_mib", 200, 196), ("peak_optimizer_mib", 50, 10))
    second = peaks(("peak_forward_mib", 200, 201), ("peak_backward_mib", 400, 400))
    ax = plot_phases({2: first, 4: second}, ax=Figure().subplots())
    assert ax.get_title(loc="left") == "Peaks that others measured, predicted within 2.0%"
    assert [row for row in ax.dsmem_data if row[0].startswith("backward")] == [
        ("backward", 2, 196), ("backward", 4, 400), ("backward, measured", 2, 200), ("backward, measured", 4, 400)
    ]  # fmt: skip
    refuses(lambda: plot_phases({2: peaks(("peak_forward_mib", 1, 1))}), "compared[2]", "backward")
