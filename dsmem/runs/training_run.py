"""The levels of a training step, in our code or in transformers': what `measure(..., training=...)` gives."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from tqdm.auto import tqdm

from dsmem.config.architecture import Architecture
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.instants import Footprint
from dsmem.footprint.training.step import training_footprint
from dsmem.memory.ledger import Ledger
from dsmem.model.decoder import build_model
from dsmem.model.devices import settled
from dsmem.model.folding import layers_of
from dsmem.model.library import LibraryModel
from dsmem.model.library_training import library_step
from dsmem.model.lora import put_adapters
from dsmem.model.training import TrainingStep
from dsmem.runs.folded import PATIENCE
from dsmem.runs.watching import watch
from dsmem.units import format_bytes

TIMES = 3
"""Steps of which the median time is taken, on real tensors."""

WHERE = {"optimizer step": "the optimizer step"}
PLURALS = {"weight": "weights", "buffer": "buffers", "gradient": "gradients", "optimizer": "optimizer states"}
PLURALS |= {"activation": "activations", "temporary": "temporaries"}


def levels(
    model: LibraryModel | None,
    arch: Architecture | None,
    work: Workload,
    training: Training,
    seed: int,
    beside: tuple,
    notes: tuple = (),
) -> dict[str, Any]:
    """The fields of a `Run` of one training step but its arch and code, by their names.

    model: of transformers, or None for ours. arch: for the formula. work: from `Training.workload`. beside: device, and
    what `watch` takes after it. notes: to stand after the run's own. Raises ValueError for what is not run.
    """
    device = beside[0]
    footprint, why = _footprint(arch, work, training)
    if model is None:
        ready = our_step(arch, work, training, device, seed), work, []
    else:
        ready = library_step(model, work, training, device, seed)
    step, work, said = ready
    with progress(step.module, (model or arch).name) if device != "cuda" else contextlib.nullcontext():
        seen = watch(step.run, step.module, *beside, attend=step)
    times = None if device == "fake" else step.seconds(TIMES)
    more = {"work": work, "device": device, "training": training, "step_seconds": times}
    more |= {"footprint": footprint, "notes": (*said, *why, *notes)}
    return seen._asdict() | more


def our_step(arch: Architecture, work: Workload, training: Training, device: str, seed: int = 0) -> TrainingStep:
    """A training step of our decoder with random weights and tokens. Arguments as in `levels`."""
    work = settled(arch, work, device)
    adapters = training.lora_rank is not None
    formats = {"weights": work.weights, "activations": work.activations}
    formats = formats if adapters else {"weights": training.parameters(work)}
    model = build_model(arch, **formats, device=device, seed=seed)
    put_adapters(model, training)
    if device == "cuda":
        torch.cuda.empty_cache()  # what building left behind must not hold what the step makes
    tokens = torch.randint(arch.vocab_size, (work.batch, work.seq_len), device="cpu" if device == "fake" else device)
    return TrainingStep(model, tokens, training, work.activations, work.attention)


def words(ledger: Ledger) -> str:
    """Where a step's peak is and what it is made of, a sentence."""
    peaks = ledger.phases
    worst = max(peaks, key=peaks.get)
    parts = sorted(ledger.by_category(worst).items(), key=lambda part: -part[1])
    said = [
        f"{PLURALS.get(name, name)} {format_bytes(nbytes)}" for name, nbytes in parts if 100 * nbytes >= peaks[worst]
    ]
    return f"The peak, {format_bytes(peaks[worst])}, is in {WHERE.get(worst, worst)}: {', '.join(said)}."


def _footprint(arch, work, training) -> tuple[Footprint | None, tuple]:
    """The formula's answer, or None and a sentence on why there is none."""
    if arch is None:
        return None, ()
    try:
        return training_footprint(arch, work, training), ()
    except ValueError as error:
        return None, (f"No formula: {error}.",)


@contextlib.contextmanager
def progress(module: torch.nn.Module, words: str) -> Iterator[None]:
    """A bar that counts a step's layers, forward and backward, once it lasts; `words` stand before it."""
    layers, done = layers_of(module), set()
    bar = tqdm(total=2 * len(layers), desc=words, unit="layer", delay=PATIENCE, leave=False)
    with bar, contextlib.ExitStack() as hooks:

        def count(*key):
            def hook(*_):  # what a hook returns would stand for the layer's output
                if key not in done:  # a layer may run again in backward
                    done.add(key)
                    bar.update()

            return hook

        for index, layer in enumerate(layers):
            hooks.callback(layer.register_forward_hook(count("forward", index)).remove)
            first = next((p for p in layer.parameters() if p.requires_grad), None)
            if first is not None:
                hooks.callback(first.register_post_accumulate_grad_hook(count("backward", index)).remove)
        yield
