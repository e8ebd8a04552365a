"""What an optimizer keeps for each tensor that it steps, and the instants of its step."""

from typing import Any, NamedTuple

from dsmem.config.training import Training
from dsmem.footprint.training import stepping
from dsmem.footprint.training.stepping import Stepped

MOMENTS = {"adamw": 2, "sgd": 1, "none": 0}
"""Numbers that each of these optimizers keeps for a parameter, in one format, whatever its shape."""

BITSANDBYTES = {"lion": 1, "adamw8bit": 2, "lion8bit": 1}
"""The same for those of bitsandbytes: FP32, or 8 bit."""

LEAST_8BIT, BLOCK_8BIT, TABLE_8BIT = 4096, 256, 4 * 256
"""bitsandbytes' `min_8bit_size`: smaller tensors keep FP32; the numbers that share a float32 scale (`blocksize`); and
the bytes of the table of what a byte stands for, one for each number kept."""


class Kept(NamedTuple):
    """Bytes that one tensor makes an optimizer keep: its numbers, their scales, and a count of steps."""

    numbers: int
    scales: int = 0
    count: int = 0


def states(training: Training, tensors: dict[str, Stepped]) -> dict[str, Any]:
    """{part: bytes} that the optimizer keeps of `tensors`, {name: `Stepped`}.

    With precision="master" they are FP32 copies that it keeps, too. Counts are float32, one for each tensor of AdamW
    and Adafactor; of the kernels on a GPU "fused" keeps them there, the others on the host.
    """
    parts = {}
    if training.optimizer == "none":
        return parts
    if training.precision == "master":
        parts["master_weights"] = sum(each.nbytes for each in tensors.values())
    kept = [_kept(training, each) for each in tensors.values()]
    parts["optimizer_states"] = sum(each.numbers for each in kept)
    parts["state_scales"] = sum(each.scales for each in kept)
    if parts["state_scales"]:
        own = sum(each.scales > 0 for each in kept) if training.step_in_backward else 1  # optimizers, each with its own
        parts["state_tables"] = own * BITSANDBYTES[training.optimizer] * TABLE_8BIT
    parts["step_counts"] = sum(each.count for each in kept)
    return {part: nbytes for part, nbytes in parts.items() if nbytes}


def instants(training: Training, tensors: dict[str, Stepped]) -> dict[str, dict[str, Any]]:
    """{instant: {part: bytes}} of the optimizer's step, what it makes beside all that is there already.

    A master copy is stepped tensor by tensor, each with its gradient widened to FP32; or, where all gradients are in
    FP32 already, as any other parameters. tensors: in the order of the decoder's parameters.
    """
    if training.optimizer == "none":
        return {}
    if training.precision == "master" and training.gradients != "fp32":
        steps = [
            {"wide_gradient": each.nbytes, "optimizer_temporaries": nbytes}
            for each in tensors.values()
            for nbytes in stepping.heights(training, [each])
        ]
    else:
        steps = [{"optimizer_temporaries": nbytes} for nbytes in stepping.heights(training, tensors.values())]
    return {f"optimizer step {number}" if number else "optimizer step": parts for number, parts in enumerate(steps)}


def step_phases(instants: dict[str, dict], steps: dict[str, dict]) -> dict[str, dict[str, dict[str, Any]]]:
    """{phase: {instant: {part: bytes}}} of a training step: "forward", "backward", "optimizer step".

    instants: {instant: {part: bytes}} of forward, which ends with "end of forward", then of backward. steps: as
    `instants` gives them, for the optimizer's; what backward left is there beside them.
    """
    names = list(instants)
    first = names.index("end of forward") + 1
    return {
        "forward": {name: instants[name] for name in names[:first]},
        "backward": {name: instants[name] for name in names[first:]},
        "optimizer step": {name: instants[names[-1]] | parts for name, parts in steps.items()},
    }


def _kept(training, tensor):
    """`Kept` of one tensor."""
    if training.optimizer in BITSANDBYTES:
        return _kept_by_bitsandbytes(training.optimizer, tensor)
    if training.optimizer == "adafactor":
        factored = len(tensor.shape) > 1
        return Kept(tensor.rows + tensor.columns if factored else tensor.nbytes, count=4)
    if training.optimizer == "muon" and tensor.by_muon:
        return Kept(tensor.nbytes)
    if training.optimizer == "adamw" and stepping.narrow(training, tensor):
        return Kept(2 * 2 * tensor.elements)
    if training.optimizer == "sgd":
        return Kept(tensor.nbytes)
    return Kept(2 * tensor.nbytes, count=4)


def _kept_by_bitsandbytes(optimizer, tensor):
    numbers = BITSANDBYTES[optimizer]
    if optimizer == "lion" or tensor.elements < LEAST_8BIT:
        return Kept(4 * numbers * tensor.elements)
    return Kept(numbers * tensor.elements, scales=4 * numbers * -(-tensor.elements // BLOCK_8BIT))
