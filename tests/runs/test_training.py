"""A training step through the front door, in transformers' code and in ours, on fake and on real tensors."""

import pytest
import torch
from small_configs import TINY

import dsmem
from dsmem.model.training import PHASES

GIB = 2**30
MIXED = {"precision": "autocast", "checkpointing": "full"}


def library_run(source=TINY, **options):
    options = {"batch": 2, "seq_len": 16, "training": True, "code": "transformers"} | options
    return dsmem.measure(source, **options)


@pytest.mark.parametrize(("kernel", "peak"), {"foreach": 141.85, "loop": 117.54, "fused": 113.51}.items())
def test_a_7b_model_in_mixed_precision_peaks_where_each_kernel_of_adamw_has_it(kernel, peak):
    # equal layers: two depths run, and the peak of all 28 lies on the straight line through theirs
    arch = dsmem.Architecture.of("qwen2.5-7b")
    shallow, deeper = (
        library_run(
            arch.scaled(num_hidden_layers=layers), batch=1, seq_len=2048, training=MIXED | {"optimizer_kernel": kernel}
        ).ledger
        for layers in (2, 3)
    )
    grown = {phase: nbytes - shallow.phases[phase] for phase, nbytes in deeper.phases.items()}
    whole = {phase: nbytes + 26 * grown[phase] for phase, nbytes in shallow.phases.items()}
    assert round(max(whole.values()) / GIB, 2) == peak
    assert max(whole, key=whole.get) == ("backward" if kernel == "fused" else "optimizer step")


def test_a_run_says_which_phase_wins_and_what_it_is_made_of():
    run = library_run(training={"optimizer": "adamw"} | MIXED)
    peaks = run.ledger.phases
    assert list(peaks) == list(PHASES) and max(peaks.values()) == run.ledger.peak_bytes
    assert run.training.checkpointing == "full" and run.step_seconds is None
    assert run.footprint.peak_phase == max(peaks, key=peaks.get)
    text = repr(run)
    for words in ("a training step of 2 × 16 tokens", "fp32 parameters under bf16 autocast", "full checkpointing"):
        assert words in text
    for words in ("is in the optimizer step", "optimizer states", "gradients", "forward ", "reserved (predicted)"):
        assert words in text


def test_a_run_of_a_step_is_drawn_with_its_phases_marked():
    run = library_run()
    ax = run.plot_timeline()
    assert set(PHASES) <= {
        text.get_text().strip() for text in ax.figure.findobj(match=lambda a: hasattr(a, "get_text"))
    }
    assert run.plot_tensors() and run.plot_gaps()


def test_on_a_cpu_a_step_runs_at_once_and_takes_time():
    run = library_run(device="cpu", weights="fp32")
    assert set(run.step_seconds) == set(PHASES) and all(seconds > 0 for seconds in run.step_seconds.values())
    assert run.ledger.phases == library_run(weights="fp32").ledger.phases


def test_what_a_training_step_does_not_have_is_refused(refuses):
    refuses(lambda: library_run(phase="decode"), "phase='decode'", "training step", "prefill")
    refuses(lambda: library_run(cached_tokens=4), "cached_tokens=4", "0")
    refuses(lambda: library_run(weights="int8"), "weights='int8'", "bf16")
    refuses(lambda: library_run(training="adam"), "optimizer='adam'", "adamw")
    refuses(lambda: library_run(training={"kernel": "foreach"}), "kernel", "optimizer_kernel")


def test_a_model_learns():
    from dsmem.config.training import Training
    from dsmem.model import library
    from dsmem.model.library_training import library_step

    work = dsmem.Workload(2, 16, weights="fp32", cache="none")
    step, *_ = library_step(library.read(TINY), work, Training(), "cpu")
    losses = [float(step.run()) for _ in range(20)]
    assert losses[-1] < losses[0] and not torch.isnan(torch.tensor(losses)).any()
