"""MLPs in training, dense and in mixtures: `model.layers.MLP`, `model.experts`."""

from dsmem import formulas
from dsmem.footprint.training.graph import NARROW, PASSING, Fresh, Tensor, View, gives
from dsmem.footprint.training.operators import Trained
from dsmem.footprint.walk import COPIED


def swiglu(p: Trained, x: View, out: str, prefix: str = "") -> View:
    """`MLP.forward`, of a dense layer or of the shared experts."""
    act = p.arch.hidden_act
    if p.arch.joined_gate_up and not prefix:
        joined = p.linear("gate_up_proj", x, "gate_up")
        half = joined.nbytes // 2
        gate, up = p.t.parts("chunk", joined, (half, half))
        del joined
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
    x = p.cast("router_input", tokens, "router_input", 32)
    weight = p.cast("router_weight", p.parameter("gate", count * arch.hidden_size), "router_weight", 32)
    logits = p.product("router", x, "router_logits", arch.hidden_size, count, weight=weight, flat=True)
    del x, weight
    logits = p.cast("router.float32", logits, "router_logits_float32", 32)
    return routed(p, logits, tokens.bits)


def routed(p: Trained, logits: View, bits: int) -> tuple[View, Tensor, Tensor, Tensor]:
    """`operators.route`: weights of each token's choices, in `bits` each, and whose turn it is."""
    choices = p.tokens * p.arch.num_experts_per_tok
    made = {"route_weights": formulas.tensor_bytes(choices, 32), "routing_token": 8 * choices}
    made |= {"routing_slot": 8 * choices, "routing_ends": 4 * p.arch.n_routed_experts}
    weights, *places = p.t.apply("route", [logits], made, gives(logits.nbytes), [logits, 2, 3], late=True)
    return p.cast("cast_weights", weights, "route_weights", bits), *places


def experts(p: Trained, x: View, weights: View, token: View, slot: View, ends: View) -> View:
    """`experts.Experts.forward`; each turn of a sum holds one choice of all tokens beside it."""
    arch, hidden = p.arch, x.nbytes
    many, choices = arch.num_experts_per_tok > 1, p.tokens * arch.num_experts_per_tok
    spread = {"expert_rows": p.bytes(choices * arch.hidden_size, x.bits)}
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
    return summed(p, rows, p.cast("cast_shares", weights, "expert_shares", rows.bits), slot)


def summed(p: Trained, rows: View, weights: View, slot: View) -> View:
    """For every token the weighted sum over its experts; keeps rows where the weights learn."""
    hidden = p.rows(p.arch.hidden_size, rows.bits)
    rule = gives(rows.nbytes, weights.nbytes, hidden, p.rows(1, rows.bits))
    inputs, made = [rows, weights], {"experts_out": hidden}
    return p.t.apply("experts.sum", inputs, made, rule, [(rows, 1), weights, slot], True, {"expert_choice": hidden})


def stack(p: Trained, name: str, x: View, ends: View, out: str) -> View:
    """`operators.grouped_linear`: keeps its rows where the weight learns, the weight, and where each expert's end."""
    _, n_out, n_in = p.arch.expert_stacks()[name]
    scheme = p.work.scheme(p.arch, name)
    if scheme in COPIED:
        return stack_by_copy(p, name, x, ends, out, n_in, n_out, scheme)
    x = p.lowered(x, f"{name}.input")
    weight = p.lowered(p.parameter(name, p.arch.n_routed_experts * n_out * n_in), f"{name}.weight", held=False)
    part = NARROW if weight.bits < p.stored else PASSING
    rule = [Fresh(x.nbytes), Fresh(weight.nbytes, part)]
    made = {out: p.bytes(p.tokens * p.arch.num_experts_per_tok * n_out, x.bits)}
    return p.t.apply(name, [x, weight], made, lambda _: rule, [(x, 1), weight, ends], late=True)


def stack_by_copy(p: Trained, name: str, x: View, ends: View, out: str, n_in: int, n_out: int, scheme: str) -> View:
    """`quantize.QuantizedStack`: a copy of one expert's matrix at a time, in forward and in backward."""
    copy = {"weight_copy": p.bytes(n_in * n_out)}
    if scheme == "int4":
        copy["weight_unpacked"] = formulas.tensor_bytes(n_in, 4) * n_out
    made = {out: p.bytes(p.tokens * p.arch.num_experts_per_tok * n_out)}
    rule = [Fresh(x.nbytes), *[Fresh(nbytes, part) for part, nbytes in copy.items()]]
    return p.t.apply(name, [x], made, lambda _: rule, [ends], late=True, beside=copy)
