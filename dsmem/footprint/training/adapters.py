"""What LoRA trains: two thin matrices beside each linear layer that it is asked for (`model.lora`)."""

from dsmem.config.architecture import Architecture
from dsmem.config.training import Training


def adapted(training: Training, name: str) -> bool:
    """Whether the linear layer `name`, as in `Architecture.linears`, has an adapter: its last name is what counts."""
    return training.lora_rank is not None and name.rpartition(".")[2] in training.lora_targets


def first_adapted(arch: Architecture, training: Training) -> int:
    """The number of the first layer that has something to train: 0 but for LoRA, which may have it late or nowhere."""
    if training.lora_rank is None:
        return 0
    layers = range(arch.num_hidden_layers)
    return next((n for n in layers if any(adapted(training, name) for name in _linears(arch, n))), len(layers))


def adapter_shapes(arch: Architecture, training: Training) -> dict[str, tuple[int, int]]:
    """{name: (rows, columns)} of all adapters, in the order of the decoder's parameters.

    Raises ValueError where none of `training.lora_targets` is a linear layer of `arch`.

    >>> import dsmem
    >>> found = adapter_shapes(dsmem.Architecture.of("qwen2.5-0.5b"), Training(lora_rank=8, lora_targets=("k_proj",)))
    >>> found["layers.0.k_proj.A"], found["layers.0.k_proj.B"]
    ((8, 896), (128, 8))
    """
    found = {}
    for index in range(arch.num_hidden_layers):
        layer = {f"layers.{index}.{name}": shape for name, shape in _linears(arch, index).items()}
        found |= _beside(training, layer)
    found |= _beside(training, arch.head_linears())
    if not found:
        raise ValueError(
            f"lora_targets={training.lora_targets!r} are not in {arch.name}; at least one must name a linear layer"
        )
    return found


def _linears(arch, index):
    feed = arch.shared_linears() if arch.has_experts(index) else arch.mlp_linears()
    return arch.attention_linears() | feed


def _beside(training, linears):
    found, rank = {}, training.lora_rank
    for name, (n_in, n_out, _) in linears.items():
        if adapted(training, name):
            found |= {f"{name}.A": (rank, n_in), f"{name}.B": (n_out, rank)}
    return found
