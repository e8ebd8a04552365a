"""What spreads a decoder over ranks: torch's DistributedDataParallel, ZeroRedundancyOptimizer, FSDP2 and DTensor."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import _disable_current_modes

from dsmem.config.sharding import Sharding
from dsmem.config.training import Training
from dsmem.model.optimizers import Several, make_optimizer
from dsmem.runs.ranks.experts import spread_experts

if TYPE_CHECKING:
    from dsmem.model.decoder import Decoder


class Spread:
    """A decoder made ready by an engine. model: whose parameters are trained. call: what takes tokens to logits.

    optimizer: makes one, as `make_optimizer` does; `made` holds it then. warm: steps before all that follow are alike.
    """

    def __init__(self, model: "Decoder", call: Callable | None = None, optimizer: Callable = make_optimizer):
        self.model, self.call, self._optimizer, self.made = model, call or model, optimizer, []
        self.warm = 2 if isinstance(self.call, DistributedDataParallel) else 1

    def make(self, training: Training, named: list) -> Any:
        """The optimizer of named parameters, or None; for `TrainingStep`."""
        optimizer = self._optimizer(training, named)
        self.made += [] if optimizer is None else [optimizer]
        return optimizer


def spread(model: "Decoder", sharding: Sharding, engine: str, device: str) -> Spread:
    """Hand a decoder, whole on every rank, to an engine; each rank keeps its part. device: "cpu", "cuda" or "fake"."""
    model.requires_grad_(True).train()
    mesh = init_device_mesh("cpu" if device == "fake" else device, (dist.get_world_size(),))
    if engine == "fsdp2":
        return Spread(_sharded(model, mesh, sharding.zero))
    if engine == "tensor":
        return Spread(_cut(model, mesh), optimizer=_by_kind)
    ignored = spread_experts(model, dist.group.WORLD) if engine == "expert" else []
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)
    call = DistributedDataParallel(model, broadcast_buffers=False)
    return Spread(model, call, ZeroOne if engine == "zero1" else make_optimizer)


# ---- FSDP2 -----------------------------------------------------------------------------------------------------------


def _sharded(model, mesh, zero):
    """Each layer is a unit that is gathered at once, and the rest of the model one more.

    Stage 3 leaves `reshard_after_forward` as it is by default: layers let go of what they gathered after forward, the
    outermost unit (embedding, norm, head) does not, for backward begins with it.
    """
    with getattr(model, "fake_mode", contextlib.nullcontext()):
        for unit in (*model.layers, model):
            fully_shard(unit, mesh=mesh, reshard_after_forward=False if zero == 2 else None)
    for unit in model.modules():
        if isinstance(unit, FSDPModule):
            unit.set_custom_reduce_scatter(_reduce_scatter())
    return model


def _reduce_scatter():
    """FSDP2's own, out of a ledger's sight: on a CPU gloo makes copies inside, on a GPU NCCL does not."""
    from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultReduceScatter

    class Unseen(DefaultReduceScatter):
        def __call__(self, *args: Any, **options: Any):
            with _disable_current_modes():
                return super().__call__(*args, **options)

    return Unseen()


# ---- ZeRO, stage 1 ---------------------------------------------------------------------------------------------------


class ZeroOne(Several):
    """torch's ZeroRedundancyOptimizer: each rank steps whole tensors of its own, and sends them to the others.

    training: with AdamW or SGD and no master copy. named: (name, parameter) of all that are trained.
    """

    def __init__(self, training: Training, named: list):
        from torch.distributed.optim import ZeroRedundancyOptimizer  # not above: its room warns of torch.jit

        own = make_optimizer(training, named).optimizers[0]
        options = {name: value for name, value in own.defaults.items() if name != "decoupled_weight_decay"}
        del own
        kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.SGD
        self.zero = ZeroRedundancyOptimizer([p for _, p in named], optimizer_class=kind, **options)
        super().__init__([self.zero.optim])

    def step(self) -> None:
        """Step this rank's tensors, and take the others' from their ranks."""
        self.zero.step()


# ---- Tensor parallel -------------------------------------------------------------------------------------------------


def _cut(model, mesh):
    """The decoder with its matrices cut by columns and rows, each tensor that is not cut whole on every rank."""
    tied = model.arch.tie_word_embeddings
    parallelize_module(model, mesh, tensor_plan(model, mesh.size()))
    if tied:
        model.lm_head.weight = model.embed_tokens.weight
    for layer in model.layers:
        if model.arch.latent:
            layer.self_attn.heads //= mesh.size()
    return model


def tensor_plan(model: "Decoder", tensor: int) -> dict[str, Any]:
    """{name of a module: how DTensor cuts it}: Megatron's plan (arXiv 1909.08053), the vocabulary cut as well.

    An intermediate size that `tensor` does not divide is cut as torch.chunk does, the last rank's part the smallest;
    gate and up are then handed on as DTensors, which alone know how wide they are.
    """
    plan = {"embed_tokens": RowwiseParallel(input_layouts=Replicate())}
    plan |= {name: ColwiseParallel(output_layouts=Replicate()) for name in model.arch.head_linears()}
    columns = ("q_b_proj", "kv_b_proj") if model.arch.q_lora_rank else ("q_proj", "kv_b_proj")
    columns = columns if model.arch.latent else ("q_proj", "k_proj", "v_proj")
    even = model.arch.intermediate_size % tensor == 0
    for index in range(len(model.layers)):
        attention, mlp = f"layers.{index}.self_attn", f"layers.{index}.mlp"
        plan |= {f"{attention}.{name}": ColwiseParallel() for name in columns}
        plan |= {f"{mlp}.{name}": ColwiseParallel(use_local_output=even) for name in ("gate_proj", "up_proj")}
        plan |= {f"{attention}.o_proj": RowwiseParallel(), f"{mlp}.down_proj": RowwiseParallel()}
    return plan


def _by_kind(training: Training, named: list) -> Several:
    """One optimizer for DTensors and one for plain tensors, which no foreach operator takes together."""
    kinds: dict[Any, list] = {}
    for name, parameter in named:
        kinds.setdefault(isinstance(parameter, DTensor), []).append((name, parameter))
    return Several([make_optimizer(training, group) for group in kinds.values() if training.optimizer != "none"])
