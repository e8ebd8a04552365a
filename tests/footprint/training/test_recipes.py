"""Bytes a parameter against what papers print and what a step of the decoder holds."""

import pytest
import torch
from small_configs import TINY

import dsmem
from dsmem.config.training import Training
from dsmem.footprint.training.recipes import RECIPES, bytes_per_parameter, recipes_table
from dsmem.memory.ledger import Ledger
from dsmem.runs.training_run import our_step

PUBLISHED = {
    "master copy (ZeRO's 16)": 16,  # arXiv 1910.02054, section 3.1
    "master copy, FP32 gradients (18)": 18,  # stas00/ml-engineering: 6 weights, 8 AdamW, 4 gradients
    "DeepSeek-V3: BF16 moments": 14,  # arXiv 2412.19437, section 3.3.3, with weights in BF16
    "all in FP32": 16,
}
SHAPE = TINY | {"hidden_size": 128, "intermediate_size": 512, "vocab_size": 4000}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes(name):
    weights, training = RECIPES[name]
    assert sum(bytes_per_parameter(training, weights).values()) == PUBLISHED[name]


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_holds_what_its_recipe_says(name):
    weights, training = RECIPES[name]
    if training.optimizer in ("lion", "adamw8bit"):
        pytest.importorskip("bitsandbytes")
    arch = dsmem.Architecture.of(SHAPE)
    work = training.workload(weights=weights, batch=1, seq_len=8)
    step = our_step(arch, work, training, "fake")
    with Ledger(step.module) as ledger:
        step.observer = ledger
        step.run()
    held, start = {}, ledger.marks["optimizer step"]
    for record, sign in ledger.events[:start]:
        held[record.category] = held.get(record.category, 0) + sign * record.nbytes
    parts = bytes_per_parameter(training, weights)
    states = parts.get("master_weights", 0) + parts["optimizer_states"]
    expected = {"weight": parts["weights"], "gradient": parts["gradients"], "optimizer": states}
    for category, each in expected.items():
        # norms and biases are too small for 8 bit, and AdamW counts its steps
        assert held[category] / arch.n_params == pytest.approx(each, rel=0.01), category


def test_the_table_has_a_row_for_each_and_sums_up():
    table = recipes_table()
    assert table.column("recipe") == list(RECIPES)
    for _, *parts, total in table:
        assert sum(part or 0 for part in parts) == total


def test_what_keeps_no_fixed_share_is_refused(refuses):
    for name in ("adafactor", "muon"):
        refuses(lambda name=name: bytes_per_parameter(name), f"optimizer={name!r}", "adamw")
    refuses(lambda: bytes_per_parameter({"lora_rank": 4}), "lora_rank=4", "adapters")


def test_a_format_by_any_name():
    assert bytes_per_parameter("sgd", torch.float32) == {"weights": 4, "gradients": 4, "optimizer_states": 4}
    assert bytes_per_parameter(Training("none"), "bf16") == {"weights": 2, "gradients": 2, "optimizer_states": 0}
