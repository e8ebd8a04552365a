"""What each rank holds when a model is spread over many: parameters, gradients and optimizer states, by tensor.

Names and order are those of the decoder's own parameters; a rank lists the tensors that it holds something of.
"""

import functools
import heapq
import math
from typing import Any

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.config.ranks import RankArchitecture, rank_architecture
from dsmem.config.schemes import FP8_TILE, INT4_GROUP, SCHEMES
from dsmem.config.sharding import Sharding
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.parameters import tensors
from dsmem.footprint.training import optimizers
from dsmem.footprint.training.stepping import Stepped
from dsmem.units import FLOATS, dtype_bits

# --- Bytes of one rank ------------------------------------------------------------------------------------------------


def rank_parameters(
    arch: Any, work: Workload | None = None, sharding: Any = None, rank: int = 0, **fields: Any
) -> dict[str, int]:
    """{name: bytes} of the parameters that `rank` holds at rest, a converted matrix with its scales.

    arch: whatever `Architecture.of` takes. work: a `Workload` or its fields as keywords, of which the formats count.
    sharding: whatever `Sharding.of` takes. At ZeRO's stage 3 a rank holds as many rows of each tensor as any other, the
    last filled up with zeros (FSDP2). Raises ValueError where the model cannot be cut so.

    >>> held = rank_parameters("deepseek-r1", sharding={"tensor": 8, "expert": 8}, weights="fp8")
    >>> held["layers.60.self_attn.kv_a_proj_with_mqa.weight"], held["layers.60.self_attn.q_b_proj.weight"]
    (4129888, 4719744)
    """
    share, work = _asked(arch, work, sharding, rank, fields)
    if share.sharding.zero < 3:
        stored = functools.cache(lambda held: _stored(share, work, held))  # many layers are alike
        return {name: stored(held) for name, held in tensors(share).items()}
    _only_floats(work, share.sharding)
    return _all_rows(share, dtype_bits(work.activations))


def rank_gradients(
    arch: Any, work: Workload | None = None, training: Any = None, sharding: Any = None, rank: int = 0, **fields: Any
) -> dict[str, int]:
    """{name: bytes} of the gradients that `rank` holds when backward is over: all of its parameters', or its share.

    training: whatever `Training.of` takes; the others as in `rank_parameters`. At stage 3 a share is filled up as
    parameters are; at stage 2 it is a stretch of one flat buffer.
    """
    share, work, training = _trained(arch, work, training, sharding, rank, fields)
    bits = dtype_bits(training.gradients or training.parameters(work))
    if share.sharding.zero == 3:
        return _all_rows(share, bits)
    found = _shares(share, "flat") if share.sharding.zero == 2 else elements(share)
    return {name: formulas.tensor_bytes(count, bits) for name, count in found.items()}


def rank_states(
    arch: Any, work: Workload | None = None, training: Any = None, sharding: Any = None, rank: int = 0, **fields: Any
) -> dict[str, int]:
    """{name: bytes} of what the optimizer keeps on `rank`: a master copy, moments, and AdamW's counts of 4 bytes.

    Arguments as in `rank_gradients`. From stage 1 on a rank has its share alone: see `Sharding.zero_unit`. Shares of
    rows are not filled up here; a rank that has no row of a tensor still counts its steps.

    >>> sum(rank_states("qwen2.5-0.5b", sharding={"data": 4, "zero": 3}).values())
    494033928
    """
    share, work, training = _trained(arch, work, training, sharding, rank, fields)
    if training.optimizer not in optimizers.MOMENTS:
        raise ValueError(
            f"optimizer={training.optimizer!r} is not shared out by a formula; allowed: {', '.join(optimizers.MOMENTS)}"
        )
    dtype = training.stepped(work)
    of = functools.cache(lambda count: optimizers.states(training, {"": Stepped((count,), dtype)}))
    parts = {name: of(count) for name, count in owned_elements(share).items()}
    found = {name: sum(each.values()) for name, each in parts.items()}
    if share.sharding.zero and share.sharding.zero_unit == "flat":  # the buffer is one tensor to the optimizer
        counts = {name: each.get("step_counts", 0) for name, each in parts.items()}
        found = {name: nbytes - counts[name] for name, nbytes in found.items()}
        found |= {"step_counts": max(counts.values())} if any(counts.values()) else {}
    return found


def _asked(arch, work, sharding, rank, fields):
    """The rank's architecture, and the workload."""
    arch = Architecture.of(arch)
    work = Workload.of(work, **fields).on(arch)
    share = rank_architecture(arch, Sharding.of(sharding), rank)
    check_blocks(share, work)
    return share, work


def _trained(arch, work, training, sharding, rank, fields):
    own = {name: fields.pop(name) for name in list(fields) if name in Training.__dataclass_fields__}
    training = Training.of(training, **own)
    share, work = _asked(arch, training.workload(work, **fields), sharding, rank, {})
    if training.lora_rank is not None:
        raise ValueError(f"lora_rank={training.lora_rank} is not shared out by a formula; it must be None")
    return share, work, training


def _stored(share, work, held):
    """Bytes of a parameter as its format stores it."""
    scheme = work.scheme(share, held.matrix) if held.matrix else work.activations
    *experts, n_out, n_in = held.shape if len(held.shape) > 1 else (1, *held.shape)
    if scheme in FLOATS:
        return formulas.tensor_bytes(math.prod(held.shape), dtype_bits(scheme))
    return math.prod(experts) * SCHEMES[scheme].linear_bytes(n_in, n_out)


def _only_floats(work, sharding):
    if work.weights not in FLOATS:
        raise ValueError(
            f"weights={work.weights!r} is not shared out by rows at zero={sharding.zero}; allowed: {', '.join(FLOATS)}"
        )


BLOCKS = {"fp8": FP8_TILE, "int4": INT4_GROUP}


def check_blocks(share: RankArchitecture, work: Workload) -> None:
    """Raise ValueError where a cut goes through a tile or a group of numbers that share a scale."""
    converted, block = set(), BLOCKS.get(work.weights)
    for name, held in tensors(share).items() if block else ():
        if not held.matrix or held in converted or work.scheme(share, held.matrix) != work.weights:
            continue
        converted.add(held)  # the same matrix of other layers is cut as this one
        whole = tensors(share.whole)[_name_in_whole(share, name)]
        sides = zip(held.shape[-2:], whole.shape[-2:], strict=True)
        # groups of INT4 lie along a row, FP8's tiles along both
        for own, all_of in list(sides)[0 if work.weights == "fp8" else 1 :]:
            if own != all_of and own % block:
                raise ValueError(
                    f"weights={work.weights!r} share a scale among {block} numbers, and a rank's {own} of {all_of} in "
                    f"{held.matrix} are no multiple of that; fewer ranks must cut it"
                )


def _name_in_whole(share, name):
    """The name that a layer's tensor has in the whole model."""
    if not name.startswith("layers."):
        return name
    _, index, own = name.split(".", 2)
    start = share.sharding.stages(share.whole.num_hidden_layers)[share.place.pipeline].start
    return f"layers.{int(index) + start}.{own}"


# --- Shares of replicas -----------------------------------------------------------------------------------------------


def replicas(share: RankArchitecture, name: str) -> tuple[int, int]:
    """(how many ranks hold the same of a tensor, which of them this rank is): those that ZeRO shares out among."""
    return _replicas(share, ".experts." in name)


def _replicas(share, of_experts):
    sharding, place = share.sharding, share.place
    if not of_experts:
        return sharding.data * sharding.context, place.data * sharding.context + place.context
    cut = sharding.expert * sharding.expert_tensor
    inside = (place.data * sharding.context + place.context) * sharding.tensor + place.tensor
    return sharding.stage_ranks // cut, inside // cut


def _all_rows(share, bits):
    """{name: bytes} of FSDP2's share of each tensor: rows of it, filled up to the same number on every rank."""
    ranks = {of_experts: _replicas(share, of_experts)[0] for of_experts in (False, True)}

    @functools.cache
    def rows(held, of_experts):
        first, *others = held.shape
        return formulas.shard_bytes(first, math.prod(others), ranks[of_experts], bits)

    return {name: rows(held, ".experts." in name) for name, held in tensors(share).items()}


def elements(share: RankArchitecture) -> dict[str, int]:
    """{name: numbers} of the parameters of a rank's share."""
    return {name: math.prod(held.shape) for name, held in tensors(share).items()}


def owned_elements(share: RankArchitecture) -> dict[str, int]:
    """{name: numbers} of what the rank's optimizer steps."""
    return _shares(share, share.sharding.zero_unit) if share.sharding.zero else elements(share)


def _shares(share, unit):
    """{name: elements} of what this rank's optimizer steps, of experts and of all else by themselves."""
    groups, of = {}, {of_experts: _replicas(share, of_experts) for of_experts in (False, True)}
    for name, held in tensors(share).items():
        groups.setdefault(of[".experts." in name], {})[name] = held.shape
    rule = {"tensors": _whole_tensors, "flat": _stretch, "rows": _own_rows}[unit]
    found = {name: count for (of, own), shapes in groups.items() for name, count in rule(shapes, of, own).items()}
    return found


def _whole_tensors(shapes, ranks, own):
    """ZeroRedundancyOptimizer: the largest first, each to the rank that has least."""
    sizes, found = [(0, rank) for rank in range(ranks)], {}  # a heap: the least first, of equals the first rank
    counts = {name: math.prod(shape) for name, shape in shapes.items()}
    for name in sorted(counts, key=counts.get, reverse=True):
        size, rank = sizes[0]
        heapq.heapreplace(sizes, (size + counts[name], rank))
        if rank == own:
            found[name] = counts[name]
    return found


def _stretch(shapes, ranks, own):
    """All tensors end to end, cut into stretches of equal length; what fills up the last counts under its own name."""
    total = sum(map(math.prod, shapes.values()))
    length = -(-total // ranks)
    start, found, at = own * length, {}, 0
    for name, shape in shapes.items():
        count = math.prod(shape)
        overlap = min(at + count, start + length) - max(at, start)
        if overlap > 0:
            found[name] = overlap
        at += count
    return found | ({"padding": length - sum(found.values())} if sum(found.values()) < length else {})


def _own_rows(shapes, ranks, own):
    """FSDP2: `torch.chunk` along the first axis."""
    found = {}
    for name, (rows, *others) in shapes.items():
        each = -(-rows // ranks)
        found[name] = max(0, min(each, rows - own * each)) * math.prod(others)
    return found
