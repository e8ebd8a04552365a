"""The decoder that the kit runs: one file, read top to bottom, for any dense `Architecture`.

A pass allocates the same tensors on a GPU, on a CPU and on fake tensors, so each line that allocates can be held
against `footprint.py`, which walks the same instants in the same order.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from dsmem import operators
from dsmem.quantize import SCHEMES, QuantizedLinear
from dsmem.workload import Workload

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ATTENTION = ("fused", "expanded", "eager")
LOGITS = ("all", "last")


class Linear(nn.Linear):
    """`nn.Linear` that leaves its weights as they were allocated; `build_model` fills them once."""

    def reset_parameters(self):
        pass


class Embedding(nn.Embedding):
    """`nn.Embedding`, filled by `build_model` like every `Linear`."""

    def reset_parameters(self):
        pass


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, one fused operator."""

    def __init__(self, width, eps, **like):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, **like))
        self.eps = eps

    def forward(self, x):
        return operators.rms_norm(x, self.weight, self.eps)[0]


class StaticCache:
    """Keys and values of every layer, allocated once for `max_len` tokens.

    keys[i], values[i]: (batch, max_len, kv_heads, head_dim). `length` tokens of each sequence are filled. Kept in
    another dtype than the pass computes in, they are copied back, all of them, one layer at a time.
    """

    def __init__(self, arch, batch, max_len, **like):
        shape = (batch, max_len, arch.num_key_value_heads, arch.head_dim)
        self.keys = [torch.zeros(shape, **like) for _ in range(arch.num_hidden_layers)]
        self.values = [torch.zeros(shape, **like) for _ in range(arch.num_hidden_layers)]
        self.length = 0

    def update(self, layer, key, value):
        """Write the new tokens' keys and values; return views of all that is filled so far."""
        end = self.length + key.shape[1]
        self.keys[layer][:, self.length : end].copy_(key)
        self.values[layer][:, self.length : end].copy_(value)
        return self.keys[layer][:, :end].to(key.dtype), self.values[layer][:, :end].to(value.dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, arch, index, make_linear, **like):
        super().__init__()
        self.index, self.head_dim, self.groups = index, arch.head_dim, arch.query_width // arch.kv_width
        self.q_proj, self.k_proj = make_linear("q_proj"), make_linear("k_proj")
        self.v_proj, self.o_proj = make_linear("v_proj"), make_linear("o_proj")
        self.q_norm = RMSNorm(arch.head_dim, arch.rms_norm_eps, **like) if arch.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(arch.head_dim, arch.rms_norm_eps, **like) if arch.qk_norm else nn.Identity()

    def forward(self, x, tables, cache, attention):
        return self.o_proj(self.mix(x, tables, cache, attention))

    def mix(self, x, tables, cache, attention):
        """What goes into `o_proj`: (batch, seq_len, heads * head_dim). Queries, keys and values die on return."""
        cos, sin, mask = tables
        q = split_heads(self.q_proj(x), self.head_dim)
        k = split_heads(self.k_proj(x), self.head_dim)
        v = split_heads(self.v_proj(x), self.head_dim)
        q = self.q_norm(q)
        k = self.k_norm(k)
        q = rotate(q, cos, sin)
        k = rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.update(self.index, k, v)
        if attention == "eager" or (attention == "expanded" and self.groups > 1):
            k = repeat_heads(k, self.groups)
            v = repeat_heads(v, self.groups)
        if attention == "eager":
            q = repeat_heads(q, 1)
            return eager_attention(q, k, v, mask)
        return operators.attention(q, k, v, causal=q.shape[1] > 1)[0].flatten(2)


class MLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))` (arXiv 2002.05202)."""

    def __init__(self, make_linear):
        super().__init__()
        self.gate_proj, self.up_proj = make_linear("gate_proj"), make_linear("up_proj")
        self.down_proj = make_linear("down_proj")

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One decoder layer: attention, then MLP, each on a normed copy and added back to the residual stream."""

    def __init__(self, arch, index, make_linear, **like):
        super().__init__()
        self.input_layernorm = RMSNorm(arch.hidden_size, arch.rms_norm_eps, **like)
        self.self_attn = Attention(arch, index, make_linear, **like)
        self.post_attention_layernorm = RMSNorm(arch.hidden_size, arch.rms_norm_eps, **like)
        self.mlp = MLP(make_linear)

    def forward(self, h, tables, cache, attention):
        h = h + self.self_attn(self.input_layernorm(h), tables, cache, attention)
        return h + self.mlp(self.post_attention_layernorm(h))


class Decoder(nn.Module):
    """Embedding, layers, final norm, head. Parameter names are those of transformers, less the leading `model.`."""

    def __init__(self, arch, make_linear, **like):
        super().__init__()
        self.arch, self.like = arch, like
        self.embed_tokens = Embedding(arch.vocab_size, arch.hidden_size, **like)
        self.layers = nn.ModuleList(Layer(arch, i, make_linear, **like) for i in range(arch.num_hidden_layers))
        self.norm = RMSNorm(arch.hidden_size, arch.rms_norm_eps, **like)
        self.lm_head = make_linear("lm_head")
        if arch.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.register_buffer("inv_freq", rope_frequencies(arch, like["device"]), persistent=False)

    def forward(self, tokens, cache=None, attention="fused", logits="all"):
        """Logits (batch, seq_len or 1, vocab_size) of `tokens` (batch, seq_len), in the model's dtype.

        cache: from `new_cache`; the tokens it holds come before `tokens`.
        attention: "fused", "expanded" (keys and values widened to all heads first) or "eager" (scores in memory).
        logits: of "all" positions, or of the "last" alone. Raises ValueError for a call that cannot be run.
        """
        _check_call(tokens, cache, attention, logits)
        tables = self.position_tables(0 if cache is None else cache.length, tokens.shape[1], attention)
        h = self.embed_tokens(tokens)
        for layer in self.layers:
            h = layer(h, tables, cache, attention)
        if cache is not None:
            cache.length += tokens.shape[1]
        if logits == "last":
            h = h[:, -1:].clone(memory_format=torch.contiguous_format)
        h = self.norm(h)
        return self.lm_head(h)

    def position_tables(self, start, seq_len, attention):
        """Cosines (seq_len, 1, head_dim), sines (seq_len, 1, head_dim / 2) and, for eager attention, the mask."""
        positions = torch.arange(start, start + seq_len, device=self.inv_freq.device)
        angles = (positions[:, None] * self.inv_freq)[:, None]
        cos = angles.cos().to(self.like["dtype"])
        sin = angles.sin().to(self.like["dtype"])
        mask = future_mask(positions, start + seq_len) if attention == "eager" else None
        return torch.cat((cos, cos), dim=-1), sin, mask

    def new_cache(self, batch, max_len, dtype=None):
        """An empty `StaticCache` for `max_len` tokens of `batch` sequences; dtype: "fp16", ... or the model's."""
        for argument, value in (("batch", batch), ("max_len", max_len)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{argument}={value!r} is not a count; it must be a whole number of at least 1")
        if dtype not in (None, *TORCH_DTYPES):
            raise ValueError(f"dtype={dtype!r} cannot hold a cache; allowed: {', '.join(TORCH_DTYPES)}")
        like = self.like if dtype is None else self.like | {"dtype": TORCH_DTYPES[dtype]}
        return StaticCache(self.arch, batch, max_len, **like)


class FakeDecoder(Decoder):
    """A `Decoder` of fake tensors: it has shapes, dtypes and lifetimes, and no memory. Calling it enters its mode."""

    def __init__(self, arch, make_linear, **like):
        # nn.Module's own attribute check would refuse a plain assignment before super().__init__
        object.__setattr__(self, "fake_mode", FakeTensorMode())
        with self.fake_mode:
            super().__init__(arch, make_linear, **like)

    def __call__(self, tokens, cache=None, **options):
        if not isinstance(tokens, FakeTensor):
            tokens = self.fake_mode.from_tensor(tokens)
        with self.fake_mode:
            return super().__call__(tokens, cache, **options)

    def new_cache(self, batch, max_len, dtype=None):
        with self.fake_mode:
            return super().new_cache(batch, max_len, dtype)


def build_model(arch, weights="fp16", device="cuda", activations=None, modules_to_not_convert=("lm_head",), seed=0):
    """The decoder of `arch` with random weights (normal, standard deviation 0.02), built on the device it runs on.

    weights: "fp32", "bf16", "fp16", or a scheme of `quantize` for the linear layers: "int8", "int8_w8a8", "fp8",
    "int4"; the same seed gives the same weights before rounding. device: "cuda", "cpu", or "fake", which builds any
    size in no memory. activations: the format that the pass computes in; left out, that of the weights, or "fp16" for
    a scheme.
    modules_to_not_convert: linear layers that a scheme leaves alone, by name; embedding and norms always stay.
    Raises ValueError for an unknown format, device or module name.
    """
    check_device(device)
    work = Workload(weights=weights, activations=activations, modules_to_not_convert=modules_to_not_convert)
    like = {"dtype": TORCH_DTYPES[work.activations], "device": "cpu" if device == "fake" else device}
    if device == "fake":
        arch = arch.scaled(rope_scaling=())  # scaled angles move no byte, and nobody reads them
    kind = FakeDecoder if device == "fake" else Decoder
    model = kind(arch, functools.partial(linear_layer, arch, work, like), **like)
    if device != "fake":
        fill(model, seed)
    return model.requires_grad_(False).eval()


def linear_layer(arch, work, like, name):
    """The linear layer called `name` in the scheme that `work` stores it in."""
    shapes = arch.linears() | {"lm_head": (arch.hidden_size, arch.vocab_size, False)}
    in_features, out_features, bias = shapes[name]
    kind = SCHEMES.get(work.scheme(arch, name), Linear)
    return kind(in_features, out_features, bias=bias, **like)


def check_device(device):
    """Raise ValueError unless `device` is "fake", "cpu", or "cuda" (the present one) on a machine that has it."""
    if device not in ("cuda", "cpu", "fake"):
        raise ValueError(f"device={device!r} is unknown; allowed: 'cuda', 'cpu', 'fake'")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} is not on this machine; allowed here: 'cpu', 'fake'")


def attention_for(device, arch, activations="fp16"):
    """The fused attention that this device can run on `arch`: "fused", or "expanded" where its kernel shares no keys.

    Below compute capability 8.0 (a T4), and in fp32, torch's kernel takes as many key heads as query heads.
    """
    grouped = arch.num_attention_heads > arch.num_key_value_heads
    backend = operators.attention_backend(device, TORCH_DTYPES[activations])
    return "expanded" if grouped and backend == "memory-efficient" else "fused"


@torch.no_grad()
def fill(model, seed):
    """Random matrices and zero biases, layer by layer; norms keep their ones."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.normal_(std=0.02)
        elif isinstance(module, QuantizedLinear):
            like = {"dtype": model.like["dtype"], "device": model.like["device"]}
            module.set_weight(torch.empty(module.out_features, module.in_features, **like).normal_(std=0.02))
        if getattr(module, "bias", None) is not None:
            module.bias.zero_()


def rope_frequencies(arch, device):
    """Angle per position of each pair of head dimensions: (head_dim / 2,) float32 (arXiv 2104.09864, section 3.2)."""
    if arch.rope_scaling:
        kind = dict(arch.rope_scaling)["rope_type"]
        raise ValueError(f"rope_scaling={kind!r} is not run; allowed: 'default' (memory is the same without scaling)")
    exponents = torch.arange(0, arch.head_dim, 2, device=device) / arch.head_dim
    return arch.rope_theta**-exponents


def future_mask(positions, key_len):
    """True where key j lies after the token at positions[i]: (seq_len, key_len)."""
    return torch.arange(key_len, device=positions.device) > positions[:, None]


def split_heads(x, head_dim):
    """(batch, seq_len, heads * head_dim) seen as (batch, seq_len, heads, head_dim); moves nothing."""
    return x.view(*x.shape[:-1], -1, head_dim)


def rotate(x, cos, sin):
    """Turn each pair (x[i], x[i + half]) by its position's angle (RoPE, arXiv 2104.09864); allocates one x."""
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin, value=-1)
    out[..., half:].addcmul_(x[..., :half], sin)
    return out


def repeat_heads(x, groups):
    """(batch, len, heads, head_dim) copied to (batch, len, heads * groups, head_dim), in memory head by head."""
    by_head = x.transpose(1, 2)[:, :, None].expand(-1, -1, groups, -1, -1)
    return by_head.clone(memory_format=torch.contiguous_format).flatten(1, 2).transpose(1, 2)


def eager_attention(q, k, v, mask):
    """Attention with its scores (batch, heads, seq_len, key_len) in memory, and the softmax's copy of them."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    scores = torch.matmul(q, k.transpose(2, 3)).mul_(q.shape[-1] ** -0.5).masked_fill_(mask, -torch.inf)
    weights = scores.softmax(dim=-1)
    del scores
    out = torch.matmul(weights, v).transpose(1, 2)
    return out.clone(memory_format=torch.contiguous_format).flatten(2)


def _check_call(tokens, cache, attention, logits):
    for argument, value, allowed in (("attention", attention, ATTENTION), ("logits", logits, LOGITS)):
        if value not in allowed:
            raise ValueError(f"{argument}={value!r} is unknown; allowed: {', '.join(allowed)}")
    if tokens.dim() != 2 or 0 in tokens.shape:
        raise ValueError(f"tokens has shape {tuple(tokens.shape)}; it must be (batch, seq_len), neither of them 0")
    if cache is None:
        return
    batch, room = cache.keys[0].shape[0], cache.keys[0].shape[1] - cache.length
    if tokens.shape[0] != batch or tokens.shape[1] > room:
        raise ValueError(
            f"tokens has shape {tuple(tokens.shape)}; the cache takes {batch} sequences of at most {room} more tokens"
        )
    if cache.length and tokens.shape[1] > 1:
        raise ValueError(f"tokens has {tokens.shape[1]} per sequence; a cache in use takes 1 new token at a time")
