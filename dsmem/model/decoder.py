"""The decoder that the kit runs, for any `Architecture`; its parts: `layers`, `attention`, `experts`, `caches`.

A pass allocates the same tensors on a GPU, on a CPU and on fake tensors, so each line that allocates can be held
against `footprint.py`, which walks the same instants in the same order.
"""

import functools

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from dsmem.config.architecture import Architecture
from dsmem.config.workload import Workload
from dsmem.model import cache as caches
from dsmem.model import operators
from dsmem.model.attention import Attention, LatentAttention
from dsmem.model.experts import ExpertStack, MoE, Router
from dsmem.model.layers import MLP, Embedding, Linear, RMSNorm, Step
from dsmem.model.mtp import FurtherToken
from dsmem.model.quantize import LAYERS, QuantizedLinear, QuantizedStack
from dsmem.units import whole_number

TORCH_DTYPES = caches.DTYPES
CACHE_FORMATS = (*TORCH_DTYPES, "fp8", "int8")
ATTENTION = ("fused", "expanded", "eager")
LOGITS = ("all", "last")


class Layer(nn.Module):
    """One decoder layer: attention, then MLP or experts, each on a normed copy and added to the residual stream."""

    def __init__(self, arch, index, make_linear, make_stack, **like):
        super().__init__()
        self.input_layernorm = RMSNorm(arch.hidden_size, arch.rms_norm_eps, **like)
        self.self_attn = (LatentAttention if arch.latent else Attention)(arch, index, make_linear, **like)
        self.post_attention_layernorm = RMSNorm(arch.hidden_size, arch.rms_norm_eps, **like)
        self.mlp = MoE(arch, make_linear, make_stack, **like) if arch.has_experts(index) else MLP(make_linear)

    def forward(self, h, step):
        h = h + self.self_attn(self.input_layernorm(h), step)
        return h + self.mlp(self.post_attention_layernorm(h))


class Decoder(nn.Module):
    """Embedding, layers, final norm, head. Parameter names are those of transformers, less the leading `model.`."""

    def __init__(self, arch, make_linear, make_stack, mtp=False, **like):
        super().__init__()
        self.arch, self.like = arch, like
        self.embed_tokens = Embedding(arch.vocab_size, arch.hidden_size, **like)
        indices = range(arch.num_hidden_layers)
        self.layers = nn.ModuleList(Layer(arch, index, make_linear, make_stack, **like) for index in indices)
        self.norm = RMSNorm(arch.hidden_size, arch.rms_norm_eps, **like)
        self.lm_head = make_linear("lm_head")
        if arch.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        last = arch.num_hidden_layers - 1
        further = range(arch.num_nextn_predict_layers if mtp else 0)
        blocks = (Layer(arch, last, make_linear, make_stack, **like) for _ in further)
        self.mtp = nn.ModuleList(FurtherToken(arch, block, **like) for block in blocks)
        self.register_buffer("inv_freq", rope_frequencies(arch, like["device"]), persistent=False)

    def forward(self, tokens, cache=None, attention="fused", logits="all", absorbed=None):
        """Logits (batch, seq_len or 1, vocab_size) of `tokens` (batch, seq_len), in the model's dtype.

        cache: from `new_cache`; the tokens it holds come before `tokens`.
        attention: "fused", "expanded" (keys and values widened to all heads first) or "eager" (scores in memory).
        logits: of "all" positions, or of the "last" alone. absorbed: latent attention on the cached latents as they
        are, for one new token; left out, wherever such a cache holds tokens. Raises ValueError for a call that cannot
        be run.
        """
        _check_call(tokens, cache, attention, logits)
        step = self.step(tokens.shape[1], cache, attention, _absorbed(tokens, cache, absorbed))
        h = self.hidden(tokens, step)
        if logits == "last":
            h = h[:, -1:].clone(memory_format=torch.contiguous_format)
        h = self.norm(h)
        return self.lm_head(h)

    def hidden(self, tokens, step):
        """The residual stream after the last layer: (batch, seq_len, hidden_size)."""
        h = self.embed_tokens(tokens)
        for layer in self.layers:
            h = layer(h, step)
        if step.cache is not None:
            step.cache.length += tokens.shape[1]
        return h

    def step(self, seq_len, cache=None, attention="fused", absorbed=False):
        """The `Step` of `seq_len` new tokens after those in `cache`; the other arguments as in `forward`.

        Its cosines are (seq_len, 1, head_dim), its sines (seq_len, 1, head_dim / 2); only eager attention has a mask.
        """
        start = 0 if cache is None else cache.length
        positions = torch.arange(start, start + seq_len, device=self.inv_freq.device)
        angles = (positions[:, None] * self.inv_freq)[:, None]
        cos = angles.cos().to(self.like["dtype"])
        sin = angles.sin().to(self.like["dtype"])
        mask = future_mask(positions, start + seq_len) if attention == "eager" else None
        if self.arch.rope_interleave:
            cos = torch.stack((cos, cos), dim=-1).flatten(-2)
        else:
            cos = torch.cat((cos, cos), dim=-1)
        return Step(cos, sin, mask, cache, attention, absorbed)

    def new_cache(self, batch, max_len, dtype=None, layout="static", **options):
        """An empty `caches.KVCache` for `max_len` tokens of `batch` sequences.

        dtype: "fp32", "bf16", "fp16", "fp8", "int8", or left out the model's; layout: "static", "growing", "paged" or
        "sink"; options: mla_cache ("latent" or "expanded"), block_size (of "paged"), sink (of "sink").
        """
        for argument, value in (("batch", batch), ("max_len", max_len)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{argument}={value!r} is not a count; it must be a whole number of at least 1")
        own = next(name for name, torch_dtype in TORCH_DTYPES.items() if torch_dtype is self.like["dtype"])
        choices = {"dtype": (dtype or own, CACHE_FORMATS), "layout": (layout, caches.LAYOUTS)}
        choices["mla_cache"] = (options.get("mla_cache", "latent"), ("latent", "expanded"))
        for argument, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(f"{argument}={value!r} cannot hold a cache; allowed: {', '.join(allowed)}")
        return caches.KVCache(self.arch, batch, max_len, dtype or own, self.like["device"], layout, **options)


class FakeDecoder(Decoder):
    """A `Decoder` of fake tensors: it has shapes, dtypes and lifetimes, and no memory. Calling it enters its mode."""

    def __init__(self, arch, make_linear, make_stack, mtp=False, **like):
        # nn.Module's own attribute check would refuse a plain assignment before super().__init__
        object.__setattr__(self, "fake_mode", FakeTensorMode())
        with self.fake_mode:
            super().__init__(arch, make_linear, make_stack, mtp, **like)

    def __call__(self, tokens, cache=None, **options):
        if not isinstance(tokens, FakeTensor):
            tokens = self.fake_mode.from_tensor(tokens)
        with self.fake_mode:
            return super().__call__(tokens, cache, **options)

    def new_cache(self, *args, **options):
        with self.fake_mode:
            return super().new_cache(*args, **options)


def build_model(
    arch, weights="fp16", device="cuda", activations=None, modules_to_not_convert=("lm_head",), seed=0, mtp=False
):
    """The decoder of `arch` with random weights (normal, standard deviation 0.02), built on the device it runs on.

    arch: an `Architecture`, or whatever `Architecture.of` takes: a name, a path, a dict.
    weights: "fp32", "bf16", "fp16", or a scheme of `quantize` for the linear layers: "int8", "int8_w8a8", "fp8",
    "int4"; the same seed gives the same weights before rounding. device: "cuda", "cpu", or "fake", which builds any
    size in no memory. activations: the format that the pass computes in; left out, that of the weights, or "fp16" for
    a scheme.
    modules_to_not_convert: linear layers that a scheme leaves alone, by name; embedding and norms always stay.
    mtp: with the modules that predict further tokens, where `arch` has them; `mtp.further_logits` runs them.
    Raises ValueError for an unknown format, device or module name.
    """
    check_device(device)
    arch, seed = Architecture.of(arch), whole_number("seed", seed, 0, "a seed")
    work = Workload(weights=weights, activations=activations, modules_to_not_convert=modules_to_not_convert)
    like = {"dtype": TORCH_DTYPES[work.activations], "device": "cpu" if device == "fake" else device}
    if device == "fake":
        arch = arch.scaled(rope_scaling=())  # scaled angles move no byte, and nobody reads them
    kind = FakeDecoder if device == "fake" else Decoder
    makers = (functools.partial(make, arch, work, like) for make in (linear_layer, expert_stack))
    model = kind(arch, *makers, mtp, **like)
    if device != "fake":
        fill(model, seed)
    return model.requires_grad_(False).eval()


def linear_layer(arch, work, like, name):
    """The linear layer called `name` in the scheme that `work` stores it in."""
    in_features, out_features, bias = arch.linears()[name]
    kind = LAYERS.get(work.scheme(arch, name), Linear)
    return kind(in_features, out_features, bias=bias, **like)


def expert_stack(arch, work, like, name):
    """The routed experts' stack called `name` in the scheme that `work` stores it in."""
    scheme = work.scheme(arch, name)
    if scheme in LAYERS:
        return QuantizedStack(scheme, *arch.expert_stacks()[name], **like)
    return ExpertStack(*arch.expert_stacks()[name], **like)


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
        if isinstance(module, (nn.Linear, nn.Embedding, Router)):
            module.weight.normal_(std=0.02)
        elif isinstance(module, ExpertStack):
            for matrix in module.weight:
                matrix.normal_(std=0.02)
        elif isinstance(module, QuantizedLinear):
            like = {"dtype": model.like["dtype"], "device": model.like["device"]}
            module.set_weight(torch.empty(module.out_features, module.in_features, **like).normal_(std=0.02))
        elif isinstance(module, QuantizedStack):
            like = {"dtype": model.like["dtype"], "device": model.like["device"]}
            for expert in range(module.experts):
                matrix = torch.empty(module.out_features, module.in_features, **like).normal_(std=0.02)
                module.set_weight(expert, matrix)
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


def _check_call(tokens, cache, attention, logits):
    for argument, value, allowed in (("attention", attention, ATTENTION), ("logits", logits, LOGITS)):
        if value not in allowed:
            raise ValueError(f"{argument}={value!r} is unknown; allowed: {', '.join(allowed)}")
    if tokens.dim() != 2 or 0 in tokens.shape:
        raise ValueError(f"tokens has shape {tuple(tokens.shape)}; it must be (batch, seq_len), neither of them 0")
    if cache is None:
        return
    if tokens.shape[0] != cache.batch or (cache.room is not None and tokens.shape[1] > cache.room):
        raise ValueError(
            f"tokens has shape {tuple(tokens.shape)}; the cache takes {cache.batch} sequences of at most {cache.room} "
            "more tokens"
        )
    if cache.length and tokens.shape[1] > 1:
        raise ValueError(f"tokens has {tokens.shape[1]} per sequence; a cache in use takes 1 new token at a time")
    if cache.layout == "sink" and tokens.shape[1] > cache.max_len:
        raise ValueError(
            f"tokens has {tokens.shape[1]} per sequence; a cache that gives tokens up takes at most {cache.max_len} at "
            "once"
        )


def _absorbed(tokens, cache, absorbed):
    latent = cache is not None and cache.latent
    if absorbed and not (latent and tokens.shape[1] == 1):
        raise ValueError(f"absorbed={absorbed!r} goes with a latent cache and 1 new token; leave it out")
    return bool(latent and cache.length) if absorbed is None else absorbed
