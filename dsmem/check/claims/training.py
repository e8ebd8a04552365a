"""Claims on training: what is kept for backward, checkpointing, optimizer states, LoRA."""

from dsmem import formulas
from dsmem.check.claims.claim import SEVEN, Claim, cited, computed
from dsmem.config.architecture import Architecture
from dsmem.footprint.stored import weight_bytes

KORTHIKANTI = "arXiv 2205.05198, table 4"
SHAPE = {"batch": 16, "seq_len": 2048, "hidden_size": 4096, "num_attention_heads": 32, "bits": 16}
LAYERS = 32


def _n_params():
    return Architecture.of(SEVEN).n_params


def _kept_of_block(**shape):
    """Checkpoints against all that a fused block keeps."""
    checkpoint = formulas.hidden_state_bytes(shape["batch"], shape["seq_len"], shape["hidden_size"], shape["bits"])
    return checkpoint / formulas.fused_block_saved_bytes(**shape)


def _states(moments, bits):
    return formulas.optimizer_states_bytes(_n_params(), moments, bits)


def _lora_total():
    """Frozen BF16 weights, and a thousandth as many parameters trained at 16 bytes each."""
    return weight_bytes(SEVEN) + formulas.training_states_bytes(_n_params() // 1000, 16, 16, 32, 32)


def _full_total():
    return formulas.training_states_bytes(_n_params(), 16, 16, 32, 32)


CLAIMS = (
    Claim(
        "d",
        "training doubles the memory of activations",
        "wrong",
        "Every layer keeps what backward will need: hundreds of hidden states, not two.",
        "06",
        (
            computed(
                "one hidden state of 16 × 2,048 × 4,096", lambda: formulas.hidden_state_bytes(16, 2048, 4096, 16), "GiB"
            ),
            computed(
                "32 GPT blocks, fused attention", lambda: LAYERS * formulas.fused_block_saved_bytes(**SHAPE), "GiB"
            ),
            computed("32 GPT blocks, stored scores", lambda: LAYERS * formulas.block_saved_bytes(**SHAPE), "GiB"),
        ),
    ),
    Claim(
        "e",
        "activation checkpointing saves 60 to 80% for 20 to 30% more computing",
        "holds under conditions",
        "Full recomputation saves more and costs more, selective saves less and costs little; states stay as they are.",
        "06",
        (
            computed("a checkpointed block keeps, of a fused one", lambda: _kept_of_block(**SHAPE), "%"),
            computed("time of one more forward pass, of three", lambda: 1 / 3, "%"),
            cited("more time, full, 22B", 0.39, "%", KORTHIKANTI),
            cited("more time, selective, 22B", 0.07, "%", KORTHIKANTI),
            cited("saved by selective recomputation, GPT-3", 0.70, "%", "arXiv 2205.05198, section 5"),
        ),
    ),
    Claim(
        "f",
        "AdamW's state is parameters × 2 (momentum) × 2 (variance) × 2 bytes: 56 GB for a 7B",
        "wrong",
        "The figure is right for 7.0 billion, its derivation is not: two FP32 states add up to 8 bytes a parameter.",
        "06",
        (
            computed("two FP32 states of 7.0 billion", lambda: formulas.optimizer_states_bytes(7 * 10**9, 2, 32), "GB"),
            computed("of R1-Distill-Qwen-7B", lambda: _states(2, 32), "GB"),
            computed("with its weights, gradients and FP32 copy", _full_total, "GB"),
            computed("with FP32 gradients", lambda: formulas.training_states_bytes(_n_params(), 16, 32, 32, 32), "GB"),
            computed("in BF16, as DeepSeek-V3 keeps them", lambda: _states(2, 16), "GB"),
        ),
    ),
    Claim(
        "g",
        "Lion halves the optimizer's state; 8-bit optimizers cut it, too",
        "holds",
        "Of the state alone; of all that grows with the parameters Lion saves a quarter.",
        "06",
        (
            computed("AdamW, FP32", lambda: _states(2, 32), "GB"),
            computed("Lion, FP32", lambda: _states(1, 32), "GB"),
            computed("AdamW in 8 bit", lambda: formulas.optimizer_states_8bit_bytes(_n_params(), 2), "GB"),
            computed("Lion's saving of 16 bytes a parameter", lambda: _states(1, 32) / _full_total(), "%"),
        ),
    ),
    Claim(
        "o",
        "LoRA trains 0.1% of the parameters, so memory falls from 14 GB to 0.14 GB",
        "wrong",
        "The frozen base stays, and so do its activations; only gradients and states shrink (and 0.1% of 14 is 0.014).",
        "06",
        (
            computed("frozen weights in BF16", lambda: weight_bytes(SEVEN), "GB"),
            computed("with adapters, their gradients and states", _lora_total, "GB"),
            computed("full training, before activations", _full_total, "GB"),
            computed("full against LoRA", lambda: _full_total() / _lora_total(), "×"),
            cited("GPT-3, full training", 1.2e12, "GB", "arXiv 2106.09685, section 4.2"),
            cited("GPT-3, LoRA", 350e9, "GB", "arXiv 2106.09685, section 4.2"),
        ),
    ),
)
