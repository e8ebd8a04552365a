"""From an architecture and a workload to bytes: every named instant of a pass, and what is alive at it.

A peak is no sum of everything a pass touches. It is the largest of these instants, so they are listed one by one,
in the order in which `model.py` runs them; `tests/` holds each total against the ledger of a real pass.
"""

import functools

import numpy as np

from dsmem import formulas
from dsmem.schemes import SCHEMES
from dsmem.units import FLOATS, dtype_bits, format_bytes


class Footprint:
    """Bytes by instant and part.

    phases: {instant: {part: bytes}}, in the order of the pass. `parts`, `total_bytes` and `peak_phase` are those of
    the largest instant (the earliest of equals), elementwise where the workload holds arrays.
    """

    def __init__(self, phases):
        self.phases = phases
        self.totals = {instant: sum(parts.values()) for instant, parts in phases.items()}

    @functools.cached_property
    def _winner(self):
        """Index of the largest instant, or an array of indices."""
        totals = list(self.totals.values())
        best, winner = totals[0], 0
        for index, total in enumerate(totals[1:], start=1):
            larger = total > best
            best, winner = _where(larger, total, best), _where(larger, index, winner)
        return winner

    @property
    def total_bytes(self):
        """The peak: the total of the largest instant."""
        return self._pick(list(self.totals.values()))

    @property
    def peak_phase(self):
        """The name of the largest instant."""
        return self._pick(list(self.phases))

    @property
    def parts(self):
        """{part: bytes} at the peak, in the order of the pass; they sum to `total_bytes`."""
        names = dict.fromkeys(part for parts in self.phases.values() for part in parts)
        parts = {name: self._pick([parts.get(name, 0) for parts in self.phases.values()]) for name in names}
        return {name: nbytes for name, nbytes in parts.items() if np.any(nbytes)}

    def _pick(self, values):
        """From one value per instant, that of the largest."""
        if not isinstance(self._winner, np.ndarray):
            return values[self._winner]
        picked = np.empty(self._winner.shape, dtype=np.array(values).dtype if isinstance(values[0], str) else np.int64)
        for index in np.flatnonzero(np.bincount(self._winner.ravel())):
            mask = self._winner == index
            picked[mask] = np.broadcast_to(values[index], picked.shape)[mask]
        return picked

    def table(self):
        """The parts at the peak as text: bytes, unit and share. Of one workload, not of arrays."""
        if isinstance(self._winner, np.ndarray):
            raise ValueError(f"table() is of one workload; this footprint holds {self._winner.size}")
        rows = [*self.parts.items(), ("total", self.total_bytes)]
        lines = [f"{part:<18}{n:>20,}{format_bytes(n):>14}{n / self.total_bytes:>8.1%}" for part, n in rows]
        return "\n".join([f"peak instant: {self.peak_phase}", *lines])

    def __repr__(self):
        if isinstance(self._winner, np.ndarray):
            return f"<Footprint of {self._winner.size} workloads, {len(self.phases)} instants each>"
        return self.table()


class Walk:
    """A pass retold instant by instant: what is alive so far, and the instants it has been through."""

    def __init__(self, held):
        self.alive = dict(held)
        self.phases = {}

    def instant(self, name, **temporary):
        """Note an instant: all that is alive, and `temporary` parts that are gone right after it."""
        self.phases[name] = self.alive | temporary

    def make(self, name, **parts):
        """Note the instant at which `parts` come to life; they stay alive."""
        self.alive |= parts
        self.instant(name)

    def drop(self, *parts):
        """These parts die."""
        for part in parts:
            self.alive.pop(part, None)


def inference_footprint(arch, work, sharding=None):
    """The `Footprint` of one forward pass of `arch` under `work`, on one device.

    arch: an `Architecture`. work: a `Workload`. sharding: None; one device is all that is modelled.
    Raises ValueError where the pass is not modelled. Left out: allocator rounding, workspaces and the CUDA context.

    >>> import dsmem
    >>> arch = dsmem.Architecture.from_config("deepseek-r1-distill-qwen-7b")
    >>> print(dsmem.inference_footprint(arch, dsmem.Workload(batch=4, seq_len=1024)))
    peak instant: lm_head
    weights                 15,231,233,024     14.19 GiB   91.0%
    buffers                            256         256 B    0.0%
    token_ids                       32,768     32.00 KiB    0.0%
    kv_cache                   234,881,024    224.00 MiB    1.4%
    rope_tables                    393,216    384.00 KiB    0.0%
    normed                      29,360,128     28.00 MiB    0.2%
    logits                   1,245,708,288      1.16 GiB    7.4%
    total                   16,741,608,704     15.59 GiB  100.0%
    """
    if sharding is not None:
        raise ValueError(f"sharding={sharding!r} is not modelled; allowed: None")
    if arch.sliding_window and np.any(work.key_len > arch.sliding_window):
        raise ValueError(
            f"seq_len={np.max(work.key_len)} is past sliding_window={arch.sliding_window} of {arch.name}; "
            "allowed: no more than the window"
        )
    walk = Walk(resident(arch, work))
    walk_attention(walk, arch, work)
    walk_mlp(walk, arch, work)
    walk_head(walk, arch, work)
    return Footprint(walk.phases)


def resident(arch, work):
    """Parts that are alive from the first instant to the last."""
    bits = dtype_bits(work.activations)
    parts = {
        **weight_bytes(arch, work),
        "buffers": formulas.rope_frequencies_bytes(arch.head_dim),
        "token_ids": formulas.token_ids_bytes(work.batch, work.new_tokens),
    }
    if work.cache == "static":
        shape = work.cache_len, arch.num_hidden_layers, arch.num_key_value_heads, arch.head_dim
        parts["kv_cache"] = formulas.kv_cache_bytes(work.batch, *shape, dtype_bits(work.kv_cache))
    parts["rope_tables"] = formulas.rope_tables_bytes(work.new_tokens, arch.head_dim, bits)
    if work.attention == "eager":
        parts["causal_mask"] = formulas.causal_mask_bytes(work.new_tokens, work.key_len)
    return parts


def weight_bytes(arch, work):
    """{part: bytes} of what is stored: quantized layers with their scales, and all that keeps its format."""
    shapes = {name: (n_in, n_out, arch.num_hidden_layers) for name, (n_in, n_out, _) in arch.linears().items()}
    shapes["lm_head"] = (arch.hidden_size, arch.vocab_size, 1)
    shapes = {name: shape for name, shape in shapes.items() if work.scheme(arch, name) not in FLOATS}
    converted = sum(n_in * n_out * count for n_in, n_out, count in shapes.values())
    parts = {"weights": formulas.tensor_bytes(arch.n_params - converted, dtype_bits(work.activations))}
    if shapes:
        scheme = SCHEMES[work.weights]
        payload = sum(count * scheme.payload_bytes(n_in, n_out) for n_in, n_out, count in shapes.values())
        stored = sum(count * scheme.linear_bytes(n_in, n_out) for n_in, n_out, count in shapes.values())
        parts |= {f"weights_{scheme.element}": payload, "weight_scales": stored - payload}
    return parts


def walk_attention(walk, arch, work):
    """`Layer`'s attention half, from the norm to `o_proj`; the order is that of `model.Attention`."""
    tokens, bits = (work.batch, work.new_tokens), dtype_bits(work.activations)
    hidden = formulas.hidden_state_bytes(*tokens, arch.hidden_size, bits)
    query = formulas.query_bytes(*tokens, arch.num_attention_heads, arch.head_dim, bits)
    key = formulas.key_bytes(*tokens, arch.num_key_value_heads, arch.head_dim, bits)
    walk.alive |= {"residual": hidden, "normed": hidden}
    for name, part in (("q_proj", {"query": query}), ("k_proj", {"key": key}), ("v_proj", {"value": key})):
        walk_linear(walk, arch, work, name, part)
        walk.alive |= part
    if arch.qk_norm:
        inverse_rms = formulas.inverse_rms_bytes(*tokens, arch.num_attention_heads)
        walk.instant("q_norm", query_normed=query, inverse_rms=inverse_rms)
    walk.instant("rotate", query_rotated=query)
    walk_cache(walk, arch, work)
    walk_widening(walk, arch, work)
    if work.attention == "eager":
        walk_eager_attention(walk, arch, work, query)
    else:
        walk.instant(
            "attention",
            attention_out=query,
            logsumexp=formulas.logsumexp_bytes(*tokens, arch.num_attention_heads),
        )
    walk.drop("query", "key", "value", "key_expanded", "value_expanded")
    walk_linear(walk, arch, work, "o_proj", {"attention_projected": hidden}, attention_out=query)
    walk.drop("normed")
    walk.instant("add_attention", attention_projected=hidden, residual_mid=hidden)


def walk_cache(walk, arch, work):
    """New keys and values go into the cache; in another format than the pass computes in, all are copied back."""
    if work.cache == "none":
        return
    if work.kv_cache != work.activations:
        bits = dtype_bits(work.activations)
        copy = formulas.key_bytes(work.batch, work.key_len, arch.num_key_value_heads, arch.head_dim, bits)
        walk.instant("read_cache", key_read=copy, value_read=copy)
        walk.alive |= {"key": copy, "value": copy}
        return
    walk.drop("key", "value")


def walk_widening(walk, arch, work):
    """Keys, then values, copied to every head, where the kernel cannot share them."""
    grouped = arch.num_attention_heads > arch.num_key_value_heads
    if work.attention == "fused" or (work.attention == "expanded" and not grouped):
        return
    bits = dtype_bits(work.activations)
    wide = formulas.query_bytes(work.batch, work.key_len, arch.num_attention_heads, arch.head_dim, bits)
    walk.make("widen_keys", key_expanded=wide)
    walk.drop("key")
    walk.make("widen_values", value_expanded=wide)
    walk.drop("value")


def walk_eager_attention(walk, arch, work, query):
    """Scores in memory, and again as the softmax's result; queries and outputs change between two layouts."""
    shape = work.batch, work.new_tokens, work.key_len, arch.num_attention_heads
    scores = formulas.attention_scores_bytes(*shape, dtype_bits(work.activations))
    walk.instant("queries_by_head", query_by_head=query)
    walk.instant("scores", scores=scores)
    walk.instant("softmax", scores=scores, attention_weights=scores)
    walk.instant("merge_heads", attention_weights=scores, attention_by_head=query, attention_out=query)


def walk_mlp(walk, arch, work):
    """`Layer`'s MLP half; the residual stream stands there twice, for Python still holds the layer's input."""
    tokens, bits = (work.batch, work.new_tokens), dtype_bits(work.activations)
    hidden = formulas.hidden_state_bytes(*tokens, arch.hidden_size, bits)
    wide = formulas.mlp_width_bytes(*tokens, arch.intermediate_size, bits)
    walk.alive |= {"residual_mid": hidden, "normed": hidden}
    walk_linear(walk, arch, work, "gate_proj", {"gate": wide})
    walk.instant("silu", gate=wide, gate_activated=wide)
    walk_linear(walk, arch, work, "up_proj", {"up": wide}, gate_activated=wide)
    walk.instant("gate_times_up", gate_activated=wide, up=wide, gated=wide)
    walk_linear(walk, arch, work, "down_proj", {"mlp_out": hidden}, gated=wide)
    walk.drop("normed")
    walk.instant("add_mlp", mlp_out=hidden, residual_out=hidden)
    walk.drop("residual", "residual_mid")


def walk_head(walk, arch, work):
    """The final norm and the logits, of all positions or of the last."""
    positions = work.new_tokens if work.logits == "all" else 1
    bits = dtype_bits(work.activations)
    walk.alive |= {"normed": formulas.hidden_state_bytes(work.batch, positions, arch.hidden_size, bits)}
    logits = formulas.logits_bytes(work.batch, positions, arch.vocab_size, bits)
    walk_linear(walk, arch, work, "lm_head", {"logits": logits}, positions=positions)


def walk_linear(walk, arch, work, name, out, positions=None, **beside):
    """A linear layer's instants: one, and one before it where numbers are unpacked or the input is rounded.

    out: its output's part; beside: other parts alive only now; positions: tokens per sequence, else all new ones.
    """
    n_in, n_out, _ = (arch.linears() | {"lm_head": (arch.hidden_size, arch.vocab_size, False)})[name]
    rows, bits = work.batch * (work.new_tokens if positions is None else positions), dtype_bits(work.activations)
    scheme = work.scheme(arch, name)
    if scheme in ("int8", "fp8", "int4"):
        copy = {**beside, "weight_copy": formulas.tensor_bytes(n_in * n_out, bits)}
        if scheme == "int4":
            walk.instant(f"{name} unpack", **copy, weight_unpacked=n_out * formulas.tensor_bytes(n_in, 4))
        walk.instant(name, **copy, **out)
    elif scheme == "int8_w8a8":
        scales = formulas.tensor_bytes(rows, bits)
        held = {**beside, "input_int8": formulas.int8_rows_bytes(rows, n_in)}
        scaled = formulas.tensor_bytes(rows * n_in, bits)
        walk.instant(f"{name} quantize", **held, input_scales=scales, input_scaled=scaled)
        product, wide = formulas.int32_product_bytes(rows, n_out), formulas.tensor_bytes(rows * n_out, 32)
        # the scales are widened to float32, unless they are that already
        scales = scales + (work.activations != "fp32") * formulas.tensor_bytes(rows, 32)
        walk.instant(name, **held, input_scales=scales, int32_product=product, float32_product=wide)
    else:
        walk.instant(name, **beside, **out)


def _where(condition, yes, no):
    return np.where(condition, yes, no) if isinstance(condition, np.ndarray) else (yes if condition else no)
