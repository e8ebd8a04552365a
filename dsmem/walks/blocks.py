"""What follows attention in a layer: a dense MLP, or a mixture of experts."""

from dsmem import formulas
from dsmem.units import dtype_bits
from dsmem.walks.base import COPIED, walk_linear


def walk_mlp(walk, arch, work):
    """`Layer`'s MLP half; the residual stream stands there twice, for Python still holds the layer's input."""
    hidden = _enter(walk, arch, work)
    walk_swiglu(walk, arch, work, arch.intermediate_size)
    walk.drop("normed")
    walk.instant("add_mlp", mlp_out=hidden, residual_out=hidden)


def walk_experts(walk, arch, work):
    """The same half with experts: `experts.MoE.forward`."""
    hidden = _enter(walk, arch, work)
    walk_router(walk, arch, work)
    walk_routed(walk, arch, work)
    out = {"mlp_out": hidden}
    if arch.n_shared_experts:
        walk.alive |= {"experts_out": hidden}
        walk_swiglu(walk, arch, work, arch.n_shared_experts * arch.moe_intermediate_size, "shared_experts.")
        walk.instant("add_shared_experts", shared_out=hidden, **out)
        walk.drop("experts_out")
    walk.drop("normed")
    walk.instant("add_experts", **out, residual_out=hidden)


def _enter(walk, arch, work):
    hidden = formulas.hidden_state_bytes(work.batch, work.new_tokens, arch.hidden_size, dtype_bits(work.activations))
    walk.alive |= {"residual_mid": hidden, "normed": hidden}
    return hidden


def walk_swiglu(walk, arch, work, width, prefix=""):
    """`layers.MLP.forward`, of a dense layer or of the shared experts."""
    tokens, bits = (work.batch, work.new_tokens), dtype_bits(work.activations)
    hidden = formulas.hidden_state_bytes(*tokens, arch.hidden_size, bits)
    wide = formulas.mlp_width_bytes(*tokens, width, bits)
    walk_linear(walk, arch, work, f"{prefix}gate_proj", {"gate": wide})
    walk.instant(f"{prefix}silu", gate=wide, gate_activated=wide)
    walk_linear(walk, arch, work, f"{prefix}up_proj", {"up": wide}, gate_activated=wide)
    walk.instant(f"{prefix}gate_times_up", gate_activated=wide, up=wide, gated=wide)
    walk_linear(walk, arch, work, f"{prefix}down_proj", {"mlp_out": hidden}, gated=wide)


def walk_router(walk, arch, work):
    """`experts.Router.forward`: float32 scores, then each token's choices, which stay until the experts are through."""
    tokens, bits = work.batch * work.new_tokens, dtype_bits(work.activations)
    experts, choices = arch.n_routed_experts, arch.num_experts_per_tok
    logits = formulas.tensor_bytes(tokens * experts, 32)
    # in fp32 the input and the weight are float32 as they are
    wide = (bits < 32) * formulas.tensor_bytes(tokens * arch.hidden_size, 32)
    weight = (bits < 32) * formulas.tensor_bytes(experts * arch.hidden_size, 32)
    walk.instant("router", router_input=wide, router_weight=weight, router_logits=logits)
    scores = formulas.tensor_bytes(tokens * choices, 32)
    places = formulas.routing_bytes(tokens, choices, experts)
    kept = formulas.tensor_bytes(tokens * choices, bits)
    walk.instant("route", router_logits=logits, route_weights=scores + (bits < 32) * kept, routing=places)
    walk.alive |= {"route_weights": kept, "routing": places}


def walk_routed(walk, arch, work):
    """`experts.Experts.forward`: one row for each of a token's choices, sorted by expert, and their weighted sum."""
    tokens, bits = work.batch * work.new_tokens, dtype_bits(work.activations)
    hidden = formulas.expert_rows_bytes(tokens, arch.num_experts_per_tok, arch.hidden_size, bits)
    width = formulas.expert_rows_bytes(tokens, arch.num_experts_per_tok, arch.moe_intermediate_size, bits)
    gate_up = formulas.expert_rows_bytes(tokens, arch.num_experts_per_tok, 2 * arch.moe_intermediate_size, bits)
    walk_stack(walk, arch, work, "experts.gate_up_proj", {"expert_gate_up": gate_up}, expert_rows=hidden)
    walk.instant("experts.silu", expert_gate_up=gate_up, expert_activated=width)
    walk.instant("experts.gate_times_up", expert_gate_up=gate_up, expert_activated=width, expert_gated=width)
    walk_stack(walk, arch, work, "experts.down_proj", {"expert_out": hidden}, expert_gated=width)
    one = formulas.hidden_state_bytes(work.batch, work.new_tokens, arch.hidden_size, bits)
    walk.instant("experts.sum", expert_out=hidden, experts_out=one, expert_choice=one)
    walk.drop("route_weights", "routing")


def walk_stack(walk, arch, work, name, out, **beside):
    """A stack of experts' matrices at work; quantized ones through a copy of one expert's matrix at a time."""
    _, n_out, n_in = arch.expert_stacks()[name]
    scheme, bits = work.scheme(arch, name), dtype_bits(work.activations)
    copy = {}
    if scheme in COPIED:
        copy = {"weight_copy": formulas.tensor_bytes(n_in * n_out, bits)}
    if scheme == "int4":
        copy |= {"weight_unpacked": n_out * formulas.tensor_bytes(n_in, 4)}
    walk.instant(name, **beside, **copy, **out)
