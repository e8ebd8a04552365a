"""A training step on fake tensors tells what one on real tensors does, and real ones learn."""

from collections import Counter

import pytest
import torch
from small_configs import TINY, TINY_LATENT

from dsmem import Training, Workload, build_model
from dsmem.memory.ledger import Ledger
from dsmem.memory.records import BEFORE
from dsmem.model import library
from dsmem.model.library_pass import LibraryPass
from dsmem.model.training import PHASES, TrainingStep


def watched(device, training, **work):
    """The ledger of the second step of transformers' llama: a first one may set up what stays."""
    work, training = Workload(2, 16, weights="bf16", cache="none", **work), Training.of(training)
    ready = LibraryPass(library.read(TINY), work, device, weights=training.parameters(work))
    ready.fill()
    step = TrainingStep(ready.module, ready.tokens, training, work.activations, around=ready.running)
    step.run()
    with Ledger(ready.module) as ledger:
        step.observer = ledger
        step.run()
    return ledger


def story(ledger):
    """What is born and dies, in order; what was there before; and the phases.

    Not the order of what transformers asks of positions; and torch lifts a number that it makes of a fake tensor alone.
    """
    new = [(sign, r) for sign, r in ((sign, r) for r, sign in ledger.events) if r.op not in (BEFORE, "lift_fresh")]
    events = [(sign, r.nbytes, r.op, r.category, r.module) for sign, r in new if r.module != "model"]
    return events, sorted(r.nbytes for r in ledger.records if r.op == BEFORE), ledger.phases, ledger.at_marks


TRAININGS = [
    {},
    {"optimizer_kernel": "loop"},
    {"optimizer_kernel": "fused"},
    {"checkpointing": "full"},
    {"precision": "autocast"},
    {"precision": "autocast", "checkpointing": "full", "optimizer_kernel": "fused"},
    {"checkpointing": "selective"},
    {"optimizer": "sgd", "loss_chunk": 5},
    {"optimizer": "none", "step_in_backward": False},
    {"optimizer_kernel": "loop", "step_in_backward": True},
]


GPT = {"model_type": "gpt2", "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 61}


def our_story(config, device, training, attention):
    training = Training.of(training)
    work = Workload(2, 16, weights="bf16")
    model = build_model(config, weights=training.parameters(work), device=device)
    step = TrainingStep(model, torch.arange(32).reshape(2, 16), training, work.activations, attention)
    step.run()
    with Ledger(model) as ledger:
        step.observer = ledger
        step.run()
    return story(ledger)


OURS = [(TINY, training, "fused") for training in TRAININGS]
OURS += [(GPT, {}, "fused"), (GPT, {"checkpointing": "full"}, "eager"), (TINY, {"precision": "autocast"}, "eager")]
OURS += [(TINY_LATENT, {"precision": "autocast", "checkpointing": "full"}, "fused"), (TINY_LATENT, {}, "eager")]
OURS += [(TINY_LATENT, {"checkpointing": "selective"}, attention) for attention in ("fused", "eager")]


def shown(value):
    return value.get("model_type") or str(value) if isinstance(value, dict) else value


@pytest.mark.parametrize(("config", "training", "attention"), OURS, ids=shown)
def test_our_fake_step_tells_the_same_story_as_a_real_one(config, training, attention):
    (fake, *others), (real, *same) = (our_story(config, device, training, attention) for device in ("fake", "cpu"))
    if training.get("precision") == "autocast":
        fake, real = Counter(fake), Counter(real)
    assert fake == real and others == same


@pytest.mark.parametrize("training", TRAININGS, ids=str)
def test_fake_tensors_tell_the_same_story_of_a_training_step_as_real_ones(training):
    (fake, *others), (real, *same) = (story(watched(device, training)) for device in ("fake", "cpu"))
    if training.get("precision") == "autocast":  # copies of weights die together, in no order
        fake, real = Counter(fake), Counter(real)
    assert fake == real and others == same
    assert list(others[1]) == list(PHASES)


def test_the_ledger_knows_what_a_training_step_keeps():
    ledger = watched("fake", {})
    params = 4 * (2 * 100 * 64 + 2 * (64 * (2 * 64 + 2 * 32) + 3 * 64 * 96 + 2 * 64) + 64)
    held = ledger.by_category()
    assert held["weight"] == held["gradient"] == params // 2  # BF16
    assert held["optimizer"] == 2 * params // 2 + 21 * 4  # two moments, and a step in float32 for each tensor
    assert ledger.at_marks["forward"] == held["weight"] + held["optimizer"] + held["buffer"] + held["input"]
    assert ledger.by_category("optimizer step") == held and sum(held.values()) == ledger.peak_bytes


def test_a_gradient_that_is_used_at_once_is_known_as_one():
    whole, single = (
        watched("fake", {"optimizer": "sgd"}),
        watched("fake", {"optimizer": "sgd", "step_in_backward": True}),
    )
    gradients = [[r.nbytes for r in ledger.records if r.category == "gradient"] for ledger in (whole, single)]
    assert sorted(gradients[0]) == sorted(gradients[1]) and len(gradients[0]) == 21
    assert whole.by_category("backward")["gradient"] > single.by_category("backward").get("gradient", 0)
