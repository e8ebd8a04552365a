"""From an architecture, a workload and a way to train to bytes: every instant of a training step.

Nothing here is measured: the decoder's operators run on sizes (`decoder`), each keeps what autograd would keep, and
backward takes them in reverse. `tests/` holds every instant against the ledger of a real step.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from dsmem.config.architecture import Architecture
from dsmem.config.sharding import Sharding
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.inference import given
from dsmem.footprint.instants import Footprint
from dsmem.footprint.parameters import tensors as parameters
from dsmem.footprint.sharded import step as rank_step
from dsmem.footprint.stored import check_range
from dsmem.footprint.training import decoder, optimizers
from dsmem.footprint.training.adapters import adapter_shapes
from dsmem.footprint.training.operators import Trained
from dsmem.footprint.training.stepping import Stepped
from dsmem.footprint.training.used import user
from dsmem.units import one_of


class TrainingFootprint(Footprint):
    """A `Footprint` of a training step: its instants are those of forward, of backward, and of the optimizer's step.

    phases: {phase: {instant: {part: bytes}}} of those that can be the largest: where layers do the same one after the
    other, the first's and the last's. all_phases: a call that tells all, made when `instants` or `totals` are asked
    for. training: as in `training_footprint`.
    """

    def __init__(
        self, phases: dict[str, dict], all_phases: Callable, arch: Architecture, work: Workload, training: Training
    ):
        super().__init__(_flat(phases), arch, work)
        self.training, self._phases, self._all_phases = training, phases, all_phases

    @functools.cached_property
    def instants(self) -> dict[str, dict[str, Any]]:
        """{instant: {part: bytes}} of every layer, in the order of the step."""
        return _flat(self._all_phases())

    @functools.cached_property
    def phases(self) -> dict[str, Any]:
        """{phase: bytes at its largest instant}: "forward", "backward", "optimizer step"."""
        return {phase: Footprint(instants).total_bytes for phase, instants in self._phases.items() if instants}

    @property
    def can_be_largest(self) -> dict[str, dict[str, dict[str, Any]]]:
        """{phase: {instant: {part: bytes}}} of those that can be the largest; the last of backward is what it left."""
        return self._phases

    @property
    def peak_phase(self) -> "str | np.ndarray":
        """The phase that the peak lies in, elementwise where the workload holds arrays."""
        names, totals = list(self.phases), np.broadcast_arrays(*self.phases.values())
        found = np.array(names)[np.argmax(totals, axis=0)]
        return found if found.ndim else str(found)

    def at(self, phase: str) -> dict[str, Any]:
        """{part: bytes} at the largest instant of a phase; ValueError for one that the step does not have."""
        return Footprint(self._phases[one_of("phase", phase, self.phases, "a phase of this step")]).parts


def training_footprint(
    arch: Any,
    work: Workload | None = None,
    training: Any = None,
    sharding: Any = None,
    rank: int = 0,
    **fields: Any,
) -> TrainingFootprint:
    """The `TrainingFootprint` of one step of training, of all parameters or adapters, on one device or a rank of many.

    arch: whatever `Architecture.of` takes. work: a `Workload` or its fields as keywords, a prefill; without a format of
    weights it is BF16. training: as in `Training.of`, or its fields as keywords beside those of the workload. sharding:
    None for one device, else a `Sharding` or its fields as a dict; work is then a microbatch of one replica, and these
    are the bytes of `rank`: see `sharded.step`. Gradients are None before the step, and the optimizer has its
    states. With precision="autocast" the residual stream and the norms are FP32, and products make casts of what they
    take: of weights these are there from their first use to the end of forward, or of the layer that runs again. With a
    lora_rank all but the adapters is frozen, in the workload's format, and nothing before the first of them keeps a
    thing for backward; a base in "int8", "int4" or "fp8" is copied at each use.
    Raises ValueError, one sentence, for what is not modelled. Left out: allocator rounding, workspaces, the context, a
    GradScaler's few numbers.

    >>> fp = training_footprint("qwen2.5-0.5b", seq_len=1024, optimizer_kernel="fused")
    >>> fp.peak_phase, max(fp.at("backward"), key=fp.at("backward").get)
    ('backward', 'optimizer_states')
    """
    arch = Architecture.of(arch)
    own = {name: fields.pop(name) for name in list(fields) if name in Training.__dataclass_fields__}
    training = Training.of(training, **own)
    work = training.workload(work, **fields)
    training.check_optimizer([training.stepped(work)])
    arch.check_positions(work.seq_len)
    _check(arch, work, training)
    check_range(work, lambda largest: training_footprint(arch, largest, training, sharding, rank).total_bytes)
    if sharding is not None:
        spread = rank_step.spread_of(arch, work, training, sharding)
        return TrainingFootprint(*rank_step.phases(arch, work, training, spread, rank), work, training)
    Sharding().place(rank)  # which refuses any but 0
    frozen, own = training.lora_rank is not None, training.parameters(work)
    kept = work if frozen else work.changed(weights=own, activations=None)
    held = given(arch, kept)
    states, steps, few = _steps(arch, training.stepped(work), training)
    held |= {"adapters": sum(each.nbytes for each in _stepped(arch, own, training).values())} if frozen else {}
    p = Trained(arch, work, training, held | states)
    p.t.use = user(training, _stepped(arch, training.stepped(work), training))
    decoder.all_of(p)
    phases = optimizers.step_phases(p.t.instants, few)
    return TrainingFootprint(phases, lambda: optimizers.step_phases(p.folded.instants(), steps), arch, work, training)


def optimizer_step(arch: Architecture, work: Workload, training: Training) -> tuple[dict, dict]:
    """({part: bytes} that an optimizer keeps, {instant: {part: bytes}} of its step beside what backward left).

    work: as `training.workload` makes it. Of instants that are equal the first. Raises ValueError for what the
    optimizer has not.
    """
    training.check_optimizer([training.stepped(work)])
    states, _, few = _steps(arch, training.stepped(work), training)
    return states, few


@functools.lru_cache(maxsize=64)  # the same wherever the slider of a batch or a length stands
def _steps(arch, stepped, training):
    """The optimizer's states, its instants, and of equal ones the first. stepped: the format of what it steps."""
    tensors, few = _stepped(arch, stepped, training), {}
    steps = {} if training.step_in_backward else optimizers.instants(training, tensors)
    for name, parts in steps.items():
        few.setdefault(tuple(parts.items()), name)
    return optimizers.states(training, tensors), steps, {name: steps[name] for name in few.values()}


def _stepped(arch, stepped, training):
    """{name: `Stepped`} of all that is trained: parameters, or adapters. stepped: their format."""
    shapes = {name: each.shape for name, each in parameters(arch).items()}
    shapes = shapes if training.lora_rank is None else adapter_shapes(arch, training)
    return {name: Stepped(shape, stepped, name.startswith("layers.")) for name, shape in shapes.items()}


def _flat(phases):
    return {name: parts for instants in phases.values() for name, parts in instants.items()}


def _check(arch, work, training):
    """Raise ValueError, naming what it is, for a step that no formula tells of."""
    lora, own = training.lora_rank is not None, training.parameters(work)
    refused = {
        f"seq_len={work.seq_len!r}": np.any(np.asarray(work.seq_len) < 2),
        f"eager attention of batches {work.batch!r} at once": work.attention == "eager" and _mixed(work.batch),
        f"gradients={training.gradients!r}": training.gradients not in (None, own, "fp32"),
        f"precision={training.precision!r} of FP32 weights": training.precision != "pure"
        and (own if training.precision == "master" else work.activations) == "fp32",
        f"attention={work.attention!r}": work.attention not in ("fused", "expanded", "eager", "auto"),
        f"lora_weights={training.lora_weights!r} beside {work.activations}": lora
        and own not in ("fp32", work.activations),
        f"weights={work.weights!r}": lora and work.weights == "int8_w8a8",
        f"loss_chunk={training.loss_chunk!r} of {_unlike(work, training)}": training.loss_chunk is not None
        and _unlike(work, training),
        f"head={arch.head!r}": arch.head != "lm_head",
        f"the indexer of {arch.name}": arch.indexed,
        f"the Gemma blocks of {arch.name}": arch.gemma_block,
        f"the attention sinks of {arch.name}": arch.attention_sinks,
        f"the clamped experts of {arch.name}": arch.expert_bias or arch.swiglu_limit is not None,
        f"the scaled residuals of {arch.name}": arch.scale_emb != 1
        or (arch.scale_depth, arch.dim_model_base) != (None, None),
    }
    found = next((what for what, is_so in refused.items() if is_so), None)
    if found:
        raise ValueError(f"{found} has no formula in training; dsmem.measure(..., training=...) runs such a step")


def _unlike(work, training):
    """What a loss in chunks has no formula of; "" for nothing."""
    if training.precision == "autocast":
        return "precision='autocast'"
    if training.lora_rank is not None:
        return f"lora_rank={training.lora_rank}"
    if isinstance(work.seq_len, np.ndarray):
        return "many lengths at once"
    return "batches of one and of more at once" if _mixed(work.batch) else ""


def _mixed(batch):
    """Whether one sequence and several stand side by side: torch copies what several have, and not of one."""
    alone = np.asarray(batch) == 1
    return bool(alone.any() and not alone.all())
