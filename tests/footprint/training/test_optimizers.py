"""What optimizers keep and make, by formula: against live ones, and against the ledger of real steps."""

import pytest
import torch
from small_configs import SMALL, TINY, TINY_LATENT
from steps import check

import dsmem
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.parameters import tensors
from dsmem.footprint.training import optimizers
from dsmem.footprint.training.step import training_footprint
from dsmem.footprint.training.stepping import Stepped
from dsmem.model.decoder import build_model
from dsmem.model.optimizers import make_optimizer

BIASES = SMALL["qwen2_moe"] | {"num_hidden_layers": 1}
LOOP, FP32_GRADIENTS = {"optimizer_kernel": "loop"}, {"precision": "master", "gradients": "fp32"}
NARROW = LOOP | {"moments": "bf16"}
IN_BACKWARD = {"step_in_backward": True}
BITSANDBYTES = ("lion", "adamw8bit", "lion8bit")
WAYS = [
    {"optimizer": "adafactor"},
    {"optimizer": "adafactor"} | LOOP,
    {"optimizer": "muon"},
    {"optimizer": "muon"} | LOOP,
    *({"optimizer": name} for name in BITSANDBYTES),
    FP32_GRADIENTS,
    FP32_GRADIENTS | NARROW,
    {"precision": "master"} | NARROW,
    {"precision": "master", "optimizer": "muon"},
    {"precision": "autocast", "optimizer": "adamw8bit"},
    {"precision": "autocast"} | NARROW,
    IN_BACKWARD,
    IN_BACKWARD | {"optimizer": "adafactor"} | LOOP,
    IN_BACKWARD | {"optimizer": "adamw8bit"},
    IN_BACKWARD | FP32_GRADIENTS,
]


def named(way):
    """The id of a test."""
    return ", ".join(str(value) for value in way.values())


def training_of(way):
    if way.get("optimizer") in BITSANDBYTES:
        pytest.importorskip("bitsandbytes")
    return Training.of(way)


def work_of(weights="bf16"):
    """Few tokens, so that the step itself is higher than backward."""
    return Workload(batch=1, seq_len=4, weights=weights, cache="none")


@pytest.mark.parametrize("way", WAYS, ids=named)
def test_every_height_of_the_step(way):
    check(dsmem.Architecture.of(TINY_LATENT), work_of(), training_of(way))


@pytest.mark.parametrize("way", [FP32_GRADIENTS, *WAYS[-4:-2]], ids=named)
def test_a_bias_has_its_gradient_before_its_weight(way):
    check(dsmem.Architecture.of(BIASES), work_of(), training_of(way))


@pytest.mark.parametrize("weights", ["fp16", "fp32"])
@pytest.mark.parametrize("optimizer", ["adafactor", "muon", "lion8bit"])
def test_every_height_in_other_formats(optimizer, weights):
    check(dsmem.Architecture.of(TINY), work_of(weights), training_of({"optimizer": optimizer}))


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3], WAYS[5], FP32_GRADIENTS | IN_BACKWARD], ids=named)
def test_real_tensors_are_no_other(way):
    check(dsmem.Architecture.of(TINY), work_of(), training_of(way), "cpu")


@pytest.mark.parametrize("way", [*WAYS[:10], {"optimizer": "sgd"}], ids=named)
@pytest.mark.parametrize("weights", ["bf16", "fp32"])
def test_states_are_those_of_a_live_optimizer(way, weights):
    training, arch = training_of(way), dsmem.Architecture.of(TINY_LATENT)
    if weights == "fp32":
        training = Training.of(training, precision="pure", gradients=None)
    model = build_model(arch, weights=weights, device="cpu").requires_grad_(True)
    live = make_optimizer(training, model.named_parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    live.step()
    held = {name: sum(each.nbytes for each in found) for name, found in live.states().items()}
    dtype = training.stepped(work_of(weights))
    stepped = {name: Stepped(each.shape, dtype, name.startswith("layers.")) for name, each in tensors(arch).items()}
    told = optimizers.states(training, stepped)
    assert sum(told.values()) == sum(held.values())
    assert told.get("master_weights", 0) == held.get("master weights", 0)
    assert told.get("step_counts", 0) == held.get("step", 0)
    assert told.get("state_scales", 0) == held.get("absmax1", 0) + held.get("absmax2", 0)
    assert told.get("state_tables", 0) == held.get("qmap1", 0) + held.get("qmap2", 0)


def test_8_bits_are_a_quarter_of_fp32_and_lion_is_half_of_adamw():
    # arXiv 2110.02861, section 2: 8 bytes of a parameter become 2; blocks of 256 numbers share 4 bytes
    tensor = {"w": Stepped((512, 1024), "fp32")}
    parts = {name: optimizers.states(Training(name), tensor) for name in ("adamw", "lion", "adamw8bit", "lion8bit")}
    states = {name: each["optimizer_states"] / 2**19 for name, each in parts.items()}
    assert states == {"adamw": 8, "lion": 4, "adamw8bit": 2, "lion8bit": 1}
    assert parts["adamw8bit"]["state_scales"] == 2 * parts["lion8bit"]["state_scales"] == 2 * 4 * 2**19 / 256
    assert optimizers.states(Training("adamw8bit"), {"w": Stepped((4095,), "bf16")}) == {"optimizer_states": 8 * 4095}


def test_a_gradient_that_is_used_at_once_leaves_none_behind():
    ways = {"all at once": {}, "in backward": IN_BACKWARD}
    steps = {name: training_footprint("llama-2-7b", seq_len=512, **way) for name, way in ways.items()}
    assert steps["in backward"].at("backward").get("gradients", 0) < 0.05 * steps["all at once"].parts["gradients"]
    assert list(steps["in backward"].phases) == ["forward", "backward"]


def test_the_end_of_forward_is_forward_s_and_the_step_finds_what_backward_left():
    forward, backward = {"lm_head": {"logits": 9}, "end of forward": {"logits": 7}}, {"lm_head backward": {"logits": 8}}
    left = {"end of backward": {"gradients": 4}}
    steps = {"optimizer step": {"optimizer_temporaries": 5}, "optimizer step 1": {"optimizer_temporaries": 6}}
    phases = optimizers.step_phases(forward | backward | left, steps)
    assert (phases["forward"], phases["backward"]) == (forward, backward | left)
    assert phases["optimizer step"] == {name: {"gradients": 4} | parts for name, parts in steps.items()}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizer": "muon", "optimizer_kernel": "fused"}, ["optimizer_kernel", "muon", "foreach, loop"]),
        ({"moments": "bf16", "precision": "master"}, ["moments='bf16'", "foreach", "loop"]),
        ({"optimizer": "lion", "moments": "fp32"}, ["moments='fp32'", "lion"]),
        ({"precision": "master", "gradients": "fp16"}, ["gradients='fp16'"]),
    ],
)
def test_what_no_optimizer_does_is_refused(fields, words, refuses):
    refuses(lambda: training_footprint("qwen2.5-0.5b", **fields), *words)
