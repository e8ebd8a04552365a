"""MLPs in training, dense and in mixtures: `model.layers.MLP`, `model.experts`."""

from typing import Any

from dsmem import formulas
from dsmem.footprint.tape import Tensor, View, gives
from dsmem.footprint.trained import Trained


def swiglu(p: Trained, x: View, out: str, prefix: str = "") -> View:
    """`MLP.forward`, of a dense layer or of the shared experts."""
    act = p.arch.hidden_act
    if p.arch.joined_gate_up and not prefix:
        half = p.rows(p.arch.intermediate_size)
        gate, up = p.t.parts("chunk", p.linear("gate_up_proj", x, "gate_up"), (half, half))
        gated = p.times("gate_times_up", p.activated(act, gate, "gate_activated"), up, "gated")
        del gate, up
        return p.linear("down_proj", gated, out)
    gate = p.activated(f"{prefix}{act}", p.linear(f"{prefix}gate_proj", x, "gate"), "gate_activated")
    gated = p.times(f"{prefix}gate_times_up", gate, p.linear(f"{prefix}up_proj", x, "up"), "gated")
    del gate
    return p.linear(f"{prefix}down_proj", gated, out)


def dense(p: Trained, x: View) -> View:
    """The MLP of a dense layer."""
    return swiglu(p, x, "mlp_out")


def mixture(p: Trained, x: View) -> View:
    """`experts.MoE.forward`."""
    tokens = p.t.view(x)
    out = experts(p, tokens, *router(p, tokens))
    if not p.arch.shared_linears():
        return out
    return p.plus("add_shared_experts", out, shared(p, x), "mlp_out")


def shared(p: Trained, x: View) -> View:
    """`experts.MoE.shared`."""
    out = swiglu(p, x, "shared_out", "shared_experts.")
    if not p.arch.shared_expert_intermediate_size:
        return out
    return p.scaled("scale_shared_experts", out, shared_gate(p, x), "shared_scaled")


def shared_gate(p: Trained, x: View) -> View:
    """One number for each token, which scales what the shared expert made."""
    logit = p.product("shared_expert_gate", x, "shared_gate_logit", p.arch.hidden_size, 1)
    return p.activated("shared_gate_sigmoid", logit, "shared_gate")


def router(p: Trained, tokens: View) -> tuple[View, Tensor, Tensor, Tensor]:
    """`experts.Router.forward`: scores in float32 from copies in float32; the copies and the scores are kept."""
    arch, count = p.arch, p.arch.n_routed_experts
    elements = count * arch.hidden_size
    weight = p.parameter("gate", p.bytes(elements))
    x = p.cast("router_input", tokens, "router_input", p.tokens * arch.hidden_size, 32)
    wide = weight
    if p.bits < 32:
        made = {"router_weight": formulas.tensor_bytes(elements, 32)}
        wide = p.t.apply("router_weight", [weight], made, gives(weight.nbytes))
    sizes = formulas.tensor_bytes(p.tokens * arch.hidden_size, 32), formulas.tensor_bytes(elements, 32)
    scores = formulas.tensor_bytes(p.tokens * count, 32)
    keep = [x, wide if p.bits < 32 else None]
    logits = p.t.apply("router", [x, wide], {"router_logits": scores}, gives(*sizes), keep)
    del x, wide, keep
    return routed(p, logits, scores)


def routed(p: Trained, logits: View, scores: Any) -> tuple[View, Tensor, Tensor, Tensor]:
    """`operators.route`: weights of each token's choices, and whose turn it is."""
    choices = p.tokens * p.arch.num_experts_per_tok
    made = {"route_weights": formulas.tensor_bytes(choices, 32), "routing_token": 8 * choices}
    made |= {"routing_slot": 8 * choices, "routing_ends": 4 * p.arch.n_routed_experts}
    weights, *places = p.t.apply("route", [logits], made, gives(scores), [logits, 2, 3], late=True)
    if p.bits < 32:
        weights = p.resized("cast_weights", weights, "route_weights", p.bytes(choices))
    return weights, *places


def experts(p: Trained, x: View, weights: View, token: View, slot: View, ends: View) -> View:
    """`experts.Experts.forward`; each turn of a sum holds one choice of all tokens beside it."""
    arch, hidden = p.arch, p.rows(p.arch.hidden_size)
    many, choices = arch.num_experts_per_tok > 1, p.tokens * arch.num_experts_per_tok
    spread = {"expert_rows": p.bytes(choices * arch.hidden_size)}
    rows = p.t.apply("spread", [x], spread, gives(*[hidden] * (1 + many)), [slot], late=True)
    gate_up = stack(p, "experts.gate_up_proj", rows, ends, "expert_gate_up")
    del rows
    half = gate_up.nbytes // 2
    gate, up = p.t.parts("experts.chunk", gate_up, (half, half))
    del gate_up
    act = p.activated(f"experts.{arch.hidden_act}", gate, "expert_activated")
    gated = p.times("experts.gate_times_up", act, up, "expert_gated")
    del gate, up, act
    rows = stack(p, "experts.down_proj", gated, ends, "expert_out")
    del gated
    rule = gives(rows.nbytes, weights.nbytes, hidden, p.rows(1))
    inputs, made = [rows, weights], {"experts_out": hidden}
    return p.t.apply("experts.sum", inputs, made, rule, [rows, weights, slot], True, {"expert_choice": hidden})


def stack(p: Trained, name: str, x: View, ends: View, out: str) -> View:
    """`operators.grouped_linear`: keeps its rows and where each expert's end."""
    _, n_out, n_in = p.arch.expert_stacks()[name]
    weight = p.parameter(name, p.bytes(p.arch.n_routed_experts * n_out * n_in))
    made = {out: p.bytes(p.tokens * p.arch.num_experts_per_tok * n_out)}
    return p.t.apply(name, [x, weight], made, gives(x.nbytes, weight.nbytes), [x, None, ends], late=True)
