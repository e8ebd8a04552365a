"""A step of LoRA or QLoRA as fitcheck's script measured it on a T4: transformers' code on fake tensors, replayed.

The script (github.com/Anassbzdd/fitcheck, scripts/measure.py, MIT): an FP16 model, or one in NF4 with all else in FP32;
adapters in FP32; checkpointing; AdamW; no autocast. One step is run before the one that is measured, and the model's
output, logits in it, lives to the end of each.
"""

import contextlib
import functools
import json

from dsmem.config.source import DATA
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.memory.allocator import rounded_bytes
from dsmem.memory.cuda import expected_workspace_bytes
from dsmem.memory.ledger import Ledger
from dsmem.memory.replay import replay
from dsmem.memory.steps import KEPT, StepEvents
from dsmem.model import library
from dsmem.model.folding import layers_of
from dsmem.model.library_training import library_step

T4 = (7, 5)
WORKSPACES = (expected_workspace_bytes(T4),) * 2
"""cuBLAS's, of the thread that runs forward and of the one that autograd runs backward in."""


@functools.cache
def configs() -> dict[str, dict]:
    """{name: config.json} of the models that were trained; constants that move no byte are left out."""
    return json.loads((DATA / "measured" / "t4_lora.json").read_text(encoding="utf-8"))["configs"]


@functools.cache
def lora_peaks(
    model: str, quant: str, attention: str, batch: int, seq_len: int, rank: int, targets: tuple
) -> dict[str, int]:
    """Bytes allocated at most in each phase of a step, resident before the first, and reserved after two.

    model: a name of `configs()`. quant: "none" or "nf4". attention: transformers' "eager" or "sdpa". Other arguments:
    as in `Workload` and `Training`.
    """
    layers = configs()[model]["num_hidden_layers"]
    work = Workload(
        batch, seq_len, weights="fp16", cache="none", attention="eager" if attention == "eager" else "fused"
    )
    training = Training(checkpointing="full", lora_rank=rank, lora_targets=targets)
    ledger, owners = _ledger(configs()[model] | {"num_hidden_layers": KEPT}, work, training, quant)
    return _peaks(ledger, StepEvents(ledger, owners, layers), layers)


def _ledger(config, work, training, quant):
    """The ledger of a step with a mark where each layer begins, forward and again, and whose the tensors are."""
    step, _, _ = library_step(library.read(config), work, training, "fake", nf4=quant == "nf4")
    module, held = step.module, []
    step.loss = functools.partial(_held_loss, module, held)
    layers = layers_of(module)
    with Ledger(module) as ledger, contextlib.ExitStack() as hooks:
        step.observer, calls = ledger, [0] * len(layers)

        def begin(index, *_):
            ledger.mark(f"{('forward', 'again')[calls[index]]} {index}")
            calls[index] += 1

        # the norm, for hooks of a layer itself stay outside of what is run again
        for index, layer in enumerate(layers):
            hook = layer.input_layernorm.register_forward_pre_hook(functools.partial(begin, index))
            hooks.callback(hook.remove)
        step.run()
        owners = {}
        for index, layer in enumerate(layers):
            for tensor in (*layer.parameters(), *layer.buffers()):
                for each in (tensor, *step.states_of(tensor)):
                    owners[ledger.record_of(each)] = index
        held.clear()
    return ledger, owners


def _held_loss(module, held, tokens):
    held[:] = [module(input_ids=tokens, labels=tokens, use_cache=False)]
    return held[0].loss


def _peaks(ledger, events, layers):
    """Two steps on the allocator: the optimizer's states are born in the first, and what it freed is there again."""
    weights = [event for category, event in events.before if category != "optimizer"]
    states = [event for category, event in events.before if category == "optimizer"]
    first = [(("first", *key), change, label) for key, change, label in events.step]
    left = {}
    for key, change, label in first:
        left[key] = (key, -change, label) if change > 0 else left.pop(key) and None
    ends = [event for event in left.values() if event]
    run = replay([*weights, *first, *states, *ends, *events.step], workspace_bytes=WORKSPACES)
    start = len(run.events) - len(events.step)
    forward, backward = (
        run.allocated_bytes[start - 1 : start + events.turn],
        run.allocated_bytes[start + events.turn - 1 :],
    )
    return {
        "resident_before_step": int(run.allocated_bytes[len(WORKSPACES) + len(weights) - 1]) - sum(WORKSPACES),
        "peak_forward": int(forward.max()),
        "peak_backward": int(backward.max()),
        "peak_optimizer": int(backward[-1]) + _beside(ledger) * layers // KEPT,
        "peak_allocated": int(max(forward.max(), backward.max())),
        "peak_reserved": run.peak_reserved_bytes,
    }


def _beside(ledger):
    """What the optimizer makes beside what it finds, at the most: in proportion to the layers, which have all of it."""
    now = peak = 0
    for record, sign in ledger.events[ledger.marks["optimizer step"] :]:
        now += sign * rounded_bytes(record.nbytes) if record.shape else 0
        peak = max(peak, now)
    return peak
