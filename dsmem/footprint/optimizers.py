"""What an optimizer keeps for each trained tensor, and what its step makes and lets go of."""

from typing import Any

from dsmem.config.training import Training

ORDER = (
    *("input_layernorm", "qkv_proj", "q_proj", "k_proj", "v_proj", "q_a_proj", "q_b_proj", "q_a_layernorm"),
    *("kv_a_proj_with_mqa", "kv_b_proj", "kv_a_layernorm", "o_proj", "q_norm", "k_norm", "post_attention_layernorm"),
    *("gate_up_proj", "gate_proj", "up_proj", "down_proj", "experts.gate_up_proj", "experts.down_proj", "gate"),
    *("shared_experts.gate_proj", "shared_experts.up_proj", "shared_experts.down_proj", "shared_expert_gate"),
)
"""The tensors of a layer as the decoder names its parameters, one after the other; a bias follows its weight."""

MOMENTS = {"adamw": 2, "sgd": 1, "none": 0}
"""Numbers that each optimizer keeps for a parameter, in the parameter's own format."""


def in_order(tensors: dict[str, Any]) -> list[Any]:
    """The sizes of `tensors`, {name: bytes}, in the order of the decoder's parameters.

    >>> in_order({"embed_tokens": 1, "layers.0.up_proj": 4, "layers.0.up_proj.bias": 5, "layers.0.q_proj": 2})
    [1, 2, 4, 5]
    """
    first = {name: at for at, name in enumerate(tensors)}

    def place(name):
        stem, _, end = name.rpartition(".")
        layer, bare = (stem, end) if end in ("bias", "A", "B") else (name, "")
        if not name.startswith("layers."):
            in_front = name.startswith("embed")
            return (0 if in_front else 2, 0, first[layer] if layer in first else 0, bare)
        _, index, own = layer.split(".", 2)
        return (1, int(index), ORDER.index(own), bare)

    return [tensors[name] for name in sorted(tensors, key=place)]


def states(training: Training, tensors: dict[str, Any], bits: int) -> dict[str, Any]:
    """{part: bytes} that the optimizer keeps of `tensors`, {name: bytes}: moments, and with AdamW a count for each.

    With precision="master" it keeps an FP32 copy of them, too, and its moments are FP32. bits: of one element of them.
    The counts are float32; of AdamW's kernels on a GPU "fused" keeps them there, the others on the host.
    """
    stepped, parts = sum(tensors.values()), {}
    if training.optimizer == "none":
        return parts
    if training.precision == "master":
        stepped = stepped * 32 // bits
        parts["master_weights"] = stepped
    if moments := MOMENTS[training.optimizer]:
        parts["optimizer_states"] = moments * stepped
    return parts | ({"step_counts": 4 * len(tensors)} if training.optimizer == "adamw" else {})


def instants(training: Training, tensors: dict[str, Any], bits: int) -> dict[str, dict[str, Any]]:
    """{instant: {part: bytes}} of the optimizer's step, what it makes beside all that is there already.

    AdamW divides by the root of its second moment: with "foreach" the roots of all tensors are there at once; with
    "loop" a tensor's root and its quotient, while the last one's quotient waits to be replaced; with "fused" none is.
    A master copy is stepped tensor by tensor, each with its gradient in FP32. bits: as in `states`.
    """
    if training.optimizer == "none":
        return {}
    roots = {"foreach": 1, "loop": 2, "fused": 0}[training.optimizer_kernel] * (training.optimizer == "adamw")
    sizes = in_order(tensors)
    if training.precision == "master":
        wide = [size * 32 // bits for size in sizes]
        steps = [{"wide_gradient": size, "optimizer_temporaries": roots * size} for size in wide]
    elif roots < 2:
        steps = [{"optimizer_temporaries": roots * sum(sizes)}]
    else:
        before = [0, *sizes[:-1]]
        steps = [{"optimizer_temporaries": last + roots * size} for last, size in zip(before, sizes, strict=True)]
    return {f"optimizer step {number}" if number else "optimizer step": parts for number, parts in enumerate(steps)}
