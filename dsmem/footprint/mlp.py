"""What follows attention in a layer, a dense MLP or a mixture of experts; and the head after the last layer."""

from dsmem import formulas
from dsmem.footprint.walk import COPIED, Pass


def mlp(p: Pass) -> None:
    """`Layer`'s MLP half; the residual stream stands there twice, for Python still holds the layer's input."""
    p.alive |= {"residual": p.hidden(), "residual_mid": p.hidden(), "normed": p.hidden()}
    p.gathered("normed")
    swiglu(p, "mlp_out")
    p.drop("normed")
    if p.arch.gemma_block:
        p.normed_output("post_feedforward_layernorm")
    p.instant("add_mlp", residual_out=p.hidden())
    p.drop("mlp_out")


def experts(p: Pass) -> None:
    """The same half with experts: `experts.MoE.forward`."""
    p.alive |= {"residual": p.hidden(), "residual_mid": p.hidden(), "normed": p.hidden()}
    p.gathered("normed")
    router(p)
    routed(p)
    out = {"mlp_out": p.hidden()}
    if p.arch.shared_linears():
        p.alive |= {"experts_out": p.hidden()}
        swiglu(p, "shared_out", "shared_experts.")
        if p.arch.shared_expert_intermediate_size:
            shared_gate(p)
        p.instant("add_shared_experts", **out)
        p.drop("experts_out", "shared_out")
    p.alive |= out
    p.reduced("mlp_out")
    p.drop("normed")
    p.instant("add_experts", residual_out=p.hidden())


def shared_gate(p):
    """One number for each token, which scales what the shared expert made."""
    gate = formulas.tensor_bytes(p.tokens, p.bits)
    p.instant("shared_expert_gate", shared_gate=gate)
    p.instant("shared_gate_sigmoid", shared_gate=gate, shared_gate_activated=gate)
    p.instant("scale_shared_experts", shared_gate_activated=gate, shared_scaled=p.hidden())


def swiglu(p, out, prefix=""):
    """`layers.MLP.forward`, of a dense layer or of the shared experts; its output is the part `out`."""
    if p.arch.joined_gate_up and not prefix:
        return joined_swiglu(p, out)
    p.linear(f"{prefix}gate_proj", "gate")
    wide = p.alive["gate"]
    p.instant(f"{prefix}{p.arch.hidden_act}", gate_activated=wide)
    p.alive |= {"gate_activated": p.alive.pop("gate")}
    p.linear(f"{prefix}up_proj", "up")
    p.instant(f"{prefix}gate_times_up", gated=wide)
    p.drop("gate_activated", "up")
    p.alive |= {"gated": wide}
    p.linear(f"{prefix}down_proj", out)
    p.reduced(out)
    p.drop("gated")


def joined_swiglu(p, out):
    """`layers.JoinedMLP.forward`: gate and up are parts of one tensor."""
    wide = p.new(formulas.hidden_state_bytes, p.arch.intermediate_size)
    p.linear("gate_up_proj", "gate_up")
    p.instant("silu", gate_activated=wide)
    p.instant("gate_times_up", gate_activated=wide, gated=wide)
    p.drop("gate_up")
    p.alive |= {"gated": wide}
    p.linear("down_proj", out)
    p.reduced(out)
    p.drop("gated")


def router(p):
    """`experts.Router.forward`: float32 scores, then each token's choices, which stay until the experts are through."""
    n_experts, choices = p.arch.n_routed_experts, p.arch.num_experts_per_tok
    logits = formulas.tensor_bytes(p.tokens * n_experts, 32)
    # in fp32 the input and the weight are float32 as they are
    wide = (p.bits < 32) * formulas.tensor_bytes(p.tokens * p.arch.hidden_size, 32)
    weight = (p.bits < 32) * formulas.tensor_bytes(n_experts * p.arch.hidden_size, 32)
    bias = p.arch.expert_bias * (p.bits < 32) * formulas.tensor_bytes(n_experts, 32)
    p.instant("router", router_input=wide, router_weight=weight + bias, router_logits=logits)
    scores = formulas.tensor_bytes(p.tokens * choices, 32)
    places = formulas.routing_bytes(p.tokens, choices, n_experts)
    kept = formulas.tensor_bytes(p.tokens * choices, p.bits)
    p.instant("route", router_logits=logits, route_weights=scores + (p.bits < 32) * kept, routing=places)
    p.alive |= {"route_weights": kept, "routing": places}


def routed(p):
    """`experts.Experts.forward`: one row for each of a token's choices, sorted by expert, and their weighted sum."""
    p.dispatched()
    hidden, width = _rows(p, p.arch.hidden_size), _rows(p, p.arch.moe_intermediate_size)
    gate_up = _rows(p, 2 * p.arch.moe_intermediate_size)
    stack(p, "experts.gate_up_proj", expert_rows=hidden, expert_gate_up=gate_up)
    if p.arch.expert_bias:
        p.instant("experts.clamped_swiglu", expert_gate_up=gate_up, expert_gated=width)
    else:
        p.instant("experts.silu", expert_gate_up=gate_up, expert_activated=width)
        p.instant("experts.gate_times_up", expert_gate_up=gate_up, expert_activated=width, expert_gated=width)
    stack(p, "experts.down_proj", expert_gated=width, expert_out=hidden)
    out = p.span * p.hidden()
    p.instant("experts.sum", expert_out=hidden, experts_out=out, expert_choice=out)
    p.drop("route_weights", "routing")
    p.combined()


def _rows(p, width):
    return formulas.expert_rows_bytes(p.choices, 1, width, p.bits)


def stack(p, name, **parts):
    """A stack of experts' matrices at work; quantized ones through a copy of one expert's matrix at a time."""
    _, n_out, n_in = p.arch.expert_stacks()[name]
    scheme, copy = p.work.scheme(p.arch, name), {}
    if scheme in COPIED:
        copy = {"weight_copy": formulas.tensor_bytes(n_in * n_out, p.bits)}
    if scheme == "int4":
        copy |= {"weight_unpacked": n_out * formulas.tensor_bytes(n_in, 4)}
    p.instant(name, **copy, **parts)


def head(p: Pass) -> None:
    """The final norm and the logits or scores, of all positions or of the last; without a head the norm is the end."""
    positions = p.work.new_tokens if p.work.logits == "all" else 1
    normed = formulas.hidden_state_bytes(p.work.batch, positions, p.arch.hidden_size, p.bits)
    if p.arch.head == "none":
        inverse_rms = formulas.inverse_rms_bytes(p.work.batch, positions, 1)
        return p.instant("norm", residual=normed, normed=normed, inverse_rms=inverse_rms)
    p.alive |= {"normed": normed}
    p.gathered("normed")
    p.linear(p.arch.head, "logits", positions)
    p.joined_logits()
