"""Claims on sparsity, compression, bandwidth, and memories to come."""

from dsmem import formulas
from dsmem.check.claims.claim import Claim, cited, computed, quote
from dsmem.config.hardware import GPUS
from dsmem.config.quoted import quoted

MLP = (4096, 14_336)  # in and out of a gate projection, Llama-3-8B
SWIGLU = (8192, 14_336, 16)


def _exponents():
    """Share that is left of BF16 weights, normal as trained ones are, once their exponents are Huffman-coded."""
    import torch

    from dsmem.model.quantize import entropy

    weight = 0.02 * torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    weight = weight.to(torch.bfloat16)
    return entropy.pack(weight).nbytes / (2 * weight.numel())


def _sparse(bits):
    return formulas.sparse_linear_bytes(*MLP, bits) / formulas.tensor_bytes(MLP[0] * MLP[1], bits)


def _sparse_speed():
    """Seconds of 1,000 prompts, dense against pruned, as HPC-AI measured them."""
    return quoted("2:4, 1,000 prompts, dense") / quoted("2:4, 1,000 prompts, sparse")


def _cxl():
    """Bytes a second each way over 16 lanes of CXL 2.0."""
    return 16 * quoted("CXL 2.0, a lane") / 8


def _optical():
    """Bytes a second of all light that leaves one package."""
    return quoted("Passage M1000, optical") / 8


CLAIMS = (
    Claim(
        "r",
        "2:4 sparsity halves computing",
        "holds under conditions",
        "It doubles the peak rate of pruned products, from Ampere on; storage is not halved, and quality has a price.",
        "09",
        (
            computed("stored in 16 bit, of dense", lambda: _sparse(16), "%"),
            computed("stored in 8 bit, of dense", lambda: _sparse(8), "%"),
            computed("Llama-3-8B, end to end, faster", _sparse_speed, "×"),
            quote("MMLU, share right, dense", "2:4, MMLU, dense", "%"),
            quote("pruned", "2:4, MMLU, pruned", "%"),
            quote("pruned and fine-tuned", "2:4, MMLU, pruned and fine-tuned", "%"),
        ),
    ),
    Claim(
        "s",
        "Huffman coding of the weights saves 30% of storage",
        "holds",
        "Of BF16: its exponents carry under 3 of their 8 bits. Quantized weights have little left to save.",
        "09",
        (
            computed("BF16 weights, normally distributed, coded: of all", _exponents, "%"),
            cited("Llama-3.1-8B, coded: of all", 10.9 / 16.1, "%", "DFloat11, arXiv 2504.11651"),
        ),
    ),
    Claim(
        "t",
        "HBM3e brings 1.2 TB/s",
        "holds under conditions",
        "Per stack; a GPU has six or eight of them, and runs them a little slower.",
        "09",
        (
            computed(
                "a stack at 9.2 Gb/s a pin, 1,024 pins",
                lambda: quoted("HBM3E, a pin") * quoted("HBM3E, pins of a stack") / 8,
                "GB",
            ),
            computed("H200, six stacks", lambda: GPUS["H200"].bandwidth_bytes_per_s, "GB"),
        ),
    ),
    Claim(
        "u",
        "CXL 2.0 pools memory",
        "holds under conditions",
        "It does, for hosts; for a GPU it is a link many times slower than its own memory.",
        "09",
        (
            computed("CXL 2.0 × 16, each way, bytes a second", _cxl, "GB"),
            computed("H200's memory against it", lambda: GPUS["H200"].bandwidth_bytes_per_s / _cxl(), "×"),
            quote("latency beside local DRAM, at most", "CXL, latency beside local DRAM, at most", "×"),
        ),
    ),
    Claim(
        "x",
        "photonic chips bring 10 times the bandwidth, computing in memory saves 90% of the energy",
        "projection",
        "Announcements and simulations: optical links between chips, and a simulator's figure for phones.",
        "09",
        (
            computed(
                "114 Tb/s of optical links against B200's HBM",
                lambda: _optical() / GPUS["B200"].bandwidth_bytes_per_s,
                "×",
            ),
            computed("the same against NVLink 5", lambda: _optical() / quoted("NVLink 5, a GPU"), "×"),
            quote("less energy a token, at most, its maker's simulator", "PIM-AI, energy per token, at most", "×"),
        ),
    ),
    Claim(
        "af",
        "TensorRT-LLM optimises the graph",
        "holds",
        "Fusion saves traffic between operators: a fused SwiGLU moves three wide tensors, not five.",
        "09",
        (
            computed("moved by SiLU, then a product", lambda: 5 * formulas.mlp_width_bytes(1, *SWIGLU), "GiB"),
            computed("moved by one kernel for both", lambda: 3 * formulas.mlp_width_bytes(1, *SWIGLU), "GiB"),
        ),
    ),
)
