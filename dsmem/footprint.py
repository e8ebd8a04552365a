"""From an architecture and a workload to bytes: every named instant of a pass, and what is alive at it.

A peak is no sum of everything a pass touches. It is the largest of these instants, so they are listed one by one,
in the order in which the model runs them (`walks`); `tests/` holds each total against the ledger of a real pass.
"""

import functools

import numpy as np

from dsmem import formulas
from dsmem.schemes import SCHEMES
from dsmem.units import FLOATS, dtype_bits, format_bytes
from dsmem.walks import cache, walk


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
    return Footprint(walk(arch, work, resident(arch, work)))


def resident(arch, work):
    """Parts that are alive from the first instant to the last."""
    bits = dtype_bits(work.activations)
    biases = len(arch.expert_layers) if arch.scoring_func == "sigmoid" else 0
    parts = {
        **weight_bytes(arch, work),
        "buffers": formulas.rope_frequencies_bytes(arch.head_dim)
        + biases * formulas.router_bias_bytes(arch.n_routed_experts),
        "token_ids": formulas.token_ids_bytes(work.batch, work.new_tokens),
        **cache_bytes(arch, work),
        "rope_tables": formulas.rope_tables_bytes(work.new_tokens, arch.head_dim, bits),
    }
    if work.attention == "eager":
        parts["causal_mask"] = formulas.causal_mask_bytes(work.new_tokens, work.key_len)
    return parts


def cache_bytes(arch, work):
    """{part: bytes} of the KV cache before the pass: its rows, their scales, and the places of a paged one's tokens.

    >>> import dsmem
    >>> work = dsmem.Workload(batch=1, seq_len=4096, weights="bf16")
    >>> cache_bytes(dsmem.Architecture.from_config("deepseek-r1"), work)
    {'latent_cache': 287834112}
    """
    if work.cache == "none":
        return {}
    part, layers = cache.cache_part(arch, work), arch.num_hidden_layers
    tokens = work.cached_tokens if work.cache == "growing" else work.cache_len
    if work.cache == "paged":
        tokens = formulas.paged_tokens(work.cache_len, work.block_size)
    rows = [cache.stored_bytes(work, tokens, *shape) for shape in arch.cache_rows(work.mla_cache).values()]
    parts = {part: layers * sum(payload for payload, _ in rows)}
    if work.kv_cache == "int8":
        parts["cache_scales"] = layers * sum(scales for _, scales in rows)
    if work.cache == "paged":
        parts["slot_mapping"] = formulas.token_ids_bytes(work.batch, tokens)
    return parts


def weight_bytes(arch, work):
    """{part: bytes} of what is stored: quantized layers with their scales, and all that keeps its format."""
    shapes = {name: (n_in, n_out, arch.layers_with(name)) for name, (n_in, n_out, _) in arch.linears().items()}
    for name, (experts, n_out, n_in) in arch.expert_stacks().items():
        shapes[name] = (n_in, n_out, experts * arch.layers_with(name))
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


def _where(condition, yes, no):
    return np.where(condition, yes, no) if isinstance(condition, np.ndarray) else (yes if condition else no)
