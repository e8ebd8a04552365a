"""A training step on one rank of many, instant by instant.

Replicas: DDP keeps all of it on every rank and each gradient a second time, in buckets; ZeRO's stage 1 the optimizer
states of some tensors alone; stage 3 is FSDP2 with each layer a unit and the rest of the model one more, which stays
gathered from forward to backward: see `units`. A pipeline's stage keeps the activations of the microbatches in
flight (1F1B); its instants are those of a microbatch in the middle, when gradients of others are there already.
"""

import functools
from typing import Any

import numpy as np

from dsmem.config.architecture import Architecture
from dsmem.config.ranks import RankArchitecture, rank_architecture
from dsmem.config.sharding import Sharding
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.inference import given
from dsmem.footprint.sharded import shares
from dsmem.footprint.sharded.taped import RankTrained, step
from dsmem.footprint.sharded.units import units
from dsmem.footprint.training import optimizers
from dsmem.footprint.training.stepping import Stepped
from dsmem.units import dtype_bits


def spread_of(arch: Architecture, work: Workload, training: Training, sharding: Any) -> Sharding:
    """The `Sharding` of a step. Raises ValueError, naming what it is, for one that no formula tells of."""
    if not isinstance(sharding, Sharding | dict):
        raise ValueError(
            f"sharding={sharding!r} does not say who shares what in training; it must be a Sharding, or its fields as "
            "a dict: {'data': 8, 'zero': 3}"
        )
    spread = Sharding.of(sharding)
    copies = spread.data * spread.context
    refused = {
        f"zero={spread.zero}": spread.zero == 2,
        f"zero_unit={spread.zero_unit!r}": spread.zero == 1 and spread.zero_unit != "tensors",
        f"context={spread.context}": spread.context > 1,
        f"attention={spread.attention!r}": spread.attention != "tensor",
        f"expert={spread.expert}": spread.expert > 1,
        f"tensor={spread.tensor} of the mixture {arch.name}": spread.tensor > 1 and arch.n_routed_experts > 0,
        f"pipeline={spread.pipeline} with zero={spread.zero} of {copies} replicas": spread.pipeline > 1
        and copies > 1
        and spread.zero == 3,
        f"seq_len={work.seq_len!r} that {spread.tensor} ranks do not divide": spread.sequence_parallel
        and np.any(np.asarray(work.seq_len) % spread.tensor),
        f"optimizer={training.optimizer!r}": training.optimizer not in optimizers.MOMENTS,
        "step_in_backward=True": training.step_in_backward,
        f"loss_chunk={training.loss_chunk}": training.loss_chunk is not None,
        "gradients='fp32'": training.gradients == "fp32",
        "precision='autocast'": training.precision == "autocast",
        f"lora_rank={training.lora_rank!r}": training.lora_rank is not None,
        f"precision='master' with zero={spread.zero}": spread.zero == 3 and training.precision == "master",
    }
    if found := next((what for what, is_so in refused.items() if is_so), None):
        raise ValueError(
            f"{found} has no formula of a step on many ranks; footprint.rank_parameters, rank_gradients and "
            "rank_states say what each holds at rest"
        )
    return spread


def phases(arch: Architecture, work: Workload, training: Training, spread: Sharding, rank: int) -> tuple[Any, Any, Any]:
    """(few, all, the rank's share): {phase: {instant: {part: bytes}}} of the ends of stretches, and a call for all."""
    share = rank_architecture(arch, spread, rank)
    bits = dtype_bits(work.activations)
    stepped = training.stepped(work)
    owned = {name: Stepped((count,), stepped) for name, count in shares.owned_elements(share).items()}
    held = given(share, work)
    if spread.zero == 3:
        held["weights"] = sum(shares.rank_parameters(arch, work, spread, rank).values())
    held |= optimizers.states(training, owned)
    whole = sum(count * bits // 8 for count in shares.elements(share).values())
    if spread.data * spread.context > 1 and spread.zero < 3:
        held["gradient_buckets"] = whole
    p = RankTrained(share, work, training, held)
    step(p)
    steps = optimizers.instants(training, owned) if owned else {}

    def told(instants):
        found = microbatches(share, held, instants, whole)
        if spread.zero == 3:
            found = units(share, bits, found)
        return optimizers.step_phases(found, steps)

    every = functools.cache(lambda: told(p.folded.instants()))
    # what FSDP2 holds beside a layer depends on its neighbours, so the ends of a stretch say less
    return told(p.folded.instants(2) if spread.zero == 3 else p.t.instants), every, share


# --- Microbatches -----------------------------------------------------------------------------------------------------


def microbatches(share: RankArchitecture, held: dict, instants: dict, gradients: Any) -> dict[str, dict[str, Any]]:
    """The instants of a microbatch beside the others in flight, whose activations wait and whose gradients are there.

    held: {part: bytes} alive from the first instant to the last. gradients: bytes of all of the rank's.
    """
    others = share.sharding.in_flight(share.place.pipeline) - 1
    if share.sharding.pipeline == 1:
        return instants
    kept = instants["end of forward"]
    waiting = sum(size for part, size in kept.items() if part not in held)
    found, before = {}, 0
    for name, parts in instants.items():
        now = parts.get("gradients", 0)
        fresh = now - before if name != "end of backward" else 0  # added to those that are there, then gone
        found[name] = parts | {"gradients": gradients + (fresh > 0) * fresh, "other_microbatches": others * waiting}
        before = now
    found["end of backward"]["other_microbatches"] = 0 * waiting  # of the last microbatch of a step
    return found
