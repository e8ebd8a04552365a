"""What one may ask of a training step, and what is refused."""

import pytest
import torch

from dsmem.config.training import Training
from dsmem.config.workload import Workload


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"optimizer": "adam"}, ["optimizer='adam'", "adamw"]),
        ({"optimizer_kernel": "for-loop"}, ["optimizer_kernel", "foreach, loop, fused"]),
        ({"precision": "mixed"}, ["precision='mixed'", "autocast"]),
        ({"gradients": "fp32"}, ["gradients='fp32'", "precision='master'"]),
        ({"precision": "master", "gradients": "int8"}, ["gradients='int8'"]),
        ({"moments": "fp4"}, ["moments='fp4'"]),
        ({"checkpointing": True}, ["checkpointing=True", "none, full, selective"]),
        ({"loss_chunk": 0}, ["loss_chunk=0"]),
        ({"lora_rank": 8.0}, ["lora_rank=8.0"]),
        ({"lora_targets": ("q",)}, ["lora_targets='q'"]),
        ({"step_in_backward": 1}, ["step_in_backward=1"]),
        ({"step_in_backward": True, "optimizer": "none"}, ["step_in_backward=True", "none"]),
        ({"dropout": 1.0}, ["dropout=1.0"]),
        ({"dropout": "a"}, ["dropout='a'"]),
        ({"lora_targets": ("q_proj",)}, ["lora_targets=('q_proj',)", "lora_rank"]),
        ({"lora_weights": "bf16"}, ["lora_weights='bf16'", "lora_rank"]),
    ],
)
def test_one_sentence_names_what_cannot_be(fields, words, refuses):
    refuses(lambda: Training(**fields), *words)


def test_whatever_says_a_training_is_taken(refuses):
    assert Training.of("lion", lora_rank=4) == Training.of({"optimizer": "lion", "lora_rank": 4})
    assert Training.of(Training(), moments=torch.bfloat16).moments == "bf16"
    refuses(lambda: Training.of(5), "training=5")
    refuses(lambda: Training.of({"batch": 5}), "field='batch'")


def test_the_optimizer_steps_the_parameters_or_their_master_copy():
    work = Workload(weights="bf16")
    kept = {precision: Training(precision=precision) for precision in ("pure", "autocast", "master")}
    assert [kept[p].parameters(work) for p in kept] == ["bf16", "fp32", "bf16"]
    assert [kept[p].stepped(work) for p in kept] == ["bf16", "fp32", "fp32"]
