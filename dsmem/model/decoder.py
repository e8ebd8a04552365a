"""The decoder that the kit runs, for any `Architecture`; its parts: `layers`, `attention`, `experts`, `cache`.

A pass allocates the same tensors on a GPU, on a CPU and on fake tensors, so each line that allocates can be held
against `footprint`, which walks the same instants in the same order.

Two things are handed down from `build_model` to every part: `make_linear` and `make_stack` (the name of a linear layer,
or of a stack of experts, as in `Architecture.linears` and `.expert_stacks` -> the module, in the format it is stored
in), and `like`, the dtype that the pass computes in and the torch device.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from dsmem.config.architecture import Architecture
from dsmem.config.workload import EAGER, Workload
from dsmem.model.attention import Attention, LatentAttention
from dsmem.model.cache import KVCache
from dsmem.model.calls import check_call, settled_absorbed
from dsmem.model.devices import TORCH_DTYPES, attention_for, check_device
from dsmem.model.experts import ExpertStack, MoE, Router
from dsmem.model.gemma import GemmaLayer, embedding_scale
from dsmem.model.gpt import GPTBlock, LearnedPositions
from dsmem.model.layers import (
    Embedding,
    LayerNorm,
    Linear,
    RMSNorm,
    Step,
    dense_mlp,
    future_mask,
    rope_frequencies,
    squeeze,
)
from dsmem.model.mtp import FurtherToken
from dsmem.model.quantize import LAYERS, QuantizedLinear, QuantizedStack
from dsmem.units import whole_number


class Layer(nn.Module):
    """One decoder layer: attention, then MLP or experts, each on a normed copy and added to the residual stream.

    index: its place, from 0, which decides whether it has experts and where its rows lie in a cache.
    """

    def __init__(self, arch: Architecture, index: int, make_linear: Callable, make_stack: Callable, **like: Any):
        super().__init__()
        self.input_layernorm = RMSNorm(arch.hidden_size, arch.rms_norm_eps, **like)
        self.self_attn = (LatentAttention if arch.latent else Attention)(arch, index, make_linear, **like)
        self.post_attention_layernorm = RMSNorm(arch.hidden_size, arch.rms_norm_eps, **like)
        mixture = arch.has_experts(index)
        self.mlp = MoE(arch, make_linear, make_stack, **like) if mixture else dense_mlp(arch, make_linear)
        self.scale = 1.0 if arch.scale_depth is None else arch.scale_depth * arch.num_hidden_layers**-0.5

    def forward(self, h: torch.Tensor, step: Step) -> torch.Tensor:
        """The residual stream (batch, seq_len, hidden_size) after this layer."""
        h = torch.add(h, self.self_attn(self.input_layernorm(h), step), alpha=self.scale)
        return torch.add(h, self.mlp(self.post_attention_layernorm(h)), alpha=self.scale)


class Decoder(nn.Module):
    """Embedding, layers, final norm, head. Parameter names are those of transformers, less the leading `model.`.

    Build one with `build_model`. mtp: with the modules that predict further tokens, where `arch` has them.
    dropout: probability of a GPT block's three dropouts, while the model is in training (`model.train()`).
    """

    dropout = 0.0

    def __init__(self, arch: Architecture, make_linear: Callable, make_stack: Callable, mtp: bool = False, **like: Any):
        super().__init__()
        self.arch, self.like = arch, like

        def layer(index):
            kind = GPTBlock if arch.gpt_block else GemmaLayer if arch.gemma_block else Layer
            return kind(arch, index, make_linear, make_stack, **like)

        self.embed_tokens = Embedding(arch.vocab_size, arch.hidden_size, **like)
        if arch.learned_positions:
            self.embed_positions = LearnedPositions(arch, **like)
        self.layers = nn.ModuleList(layer(index) for index in range(arch.num_hidden_layers))
        if arch.gpt_block:
            self.norm = LayerNorm(arch.hidden_size, arch.layer_norm_epsilon, **like)
        else:
            self.norm = RMSNorm(arch.hidden_size, arch.rms_norm_eps, **like)
        for name in arch.head_linears():
            setattr(self, name, make_linear(name))
        if arch.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        # each further token has a layer of the last one's kind
        further = range(arch.num_nextn_predict_layers if mtp else 0)
        self.mtp = nn.ModuleList(FurtherToken(arch, layer(arch.num_hidden_layers - 1), **like) for _ in further)
        if not arch.learned_positions:
            self.register_buffer("inv_freq", rope_frequencies(arch, like["device"]), persistent=False)
        if arch.rope_local_base_freq is not None:
            local = rope_frequencies(arch, like["device"], arch.rope_local_base_freq)
            self.register_buffer("local_inv_freq", local, persistent=False)

    def forward(
        self,
        tokens: torch.Tensor,
        cache: KVCache | None = None,
        attention: str = "fused",
        logits: str = "all",
        absorbed: bool | None = None,
    ) -> torch.Tensor:
        """Logits of `tokens`, (batch, seq_len, vocab_size) or with logits="last" (batch, 1, vocab_size).

        A model with a score gives (..., num_labels), one without a head its normed states (..., hidden_size).

        tokens: ids, (batch, seq_len), on the model's device (a fake model takes any).
        cache: from `new_cache`; the tokens that it holds come before `tokens`, and the new ones are added to it.
        attention: "fused", "expanded" (keys and values widened to all heads first), "eager" (scores in memory),
        "eager_fp32" (their softmax in float32), or "auto": what the device can run.
        logits: of "all" positions, or of the "last" alone; with "none" the normed states that the head would be given.
        absorbed: whether latent attention works on the cached latents as they are, for one new token; by default
        wherever such a cache holds tokens. Raises ValueError for a call that cannot be run.
        """
        check_call(tokens, cache, attention, logits)
        self.arch.check_positions(tokens.shape[1] + (0 if cache is None else cache.length))
        step = self.step(tokens.shape[1], cache, attention, settled_absorbed(tokens, cache, absorbed))
        h = self.hidden(tokens, step)
        if logits == "last":
            h = h[:, -1:].clone(memory_format=torch.contiguous_format)
        h = self.norm(h)
        return h if logits == "none" else self.head(h)

    def head(self, h: torch.Tensor) -> torch.Tensor:
        """What stands on the decoder, of normed states (..., hidden_size): logits, scores, or the states themselves."""
        if self.arch.dim_model_base is not None and self.arch.head == "lm_head":
            h.mul_(self.arch.dim_model_base / self.arch.hidden_size)
        out = h if self.arch.head == "none" else getattr(self, self.arch.head)(h)
        cap = self.arch.final_logit_softcapping
        return out if cap is None or self.arch.head != "lm_head" else squeeze(out, cap)

    def hidden(self, tokens: torch.Tensor, step: Step) -> torch.Tensor:
        """The residual stream after the last layer, (batch, seq_len, hidden_size); the cache of `step` moves on."""
        h = self.embed(tokens, 0 if step.cache is None else step.cache.length)
        for layer in self.layers:
            h = layer(h, step)
        if step.cache is not None:
            step.cache.length += tokens.shape[1]
        return h

    def embed(self, tokens: torch.Tensor, start: int) -> torch.Tensor:
        """The residual stream before the first layer, (batch, seq_len, hidden_size); `start` tokens came before."""
        h = self.embed_tokens(tokens)
        if self.arch.scale_emb != 1:
            h.mul_(self.arch.scale_emb)
        if self.arch.gemma_block:
            h.mul_(embedding_scale(self.arch, h.dtype))
        return h + self.embed_positions(start, tokens.shape[1]) if self.arch.learned_positions else h

    def step(
        self, seq_len: int, cache: KVCache | None = None, attention: str = "fused", absorbed: bool = False
    ) -> Step:
        """The `Step` of `seq_len` new tokens after those in `cache`; the other arguments as in `forward`."""
        if attention == "auto":
            attention = attention_for(self.like["device"], self.arch, self.like["dtype"])
        start = 0 if cache is None else cache.length
        positions = torch.arange(start, start + seq_len, device=self.like["device"])
        masks = [self._mask(positions, start, slide, attention) for slide in (False, True)]
        if self.arch.learned_positions:
            return Step(None, None, masks[0], cache, attention, dropout=self.dropout if self.training else 0.0)
        cos, sin = self._tables(positions, self.inv_freq)
        local = None if self.arch.rope_local_base_freq is None else self._tables(positions, self.local_inv_freq)
        windows = {"window_mask": masks[1], "window_angles": local}
        return Step(cos, sin, masks[0], cache, attention, absorbed, **windows)

    def _tables(self, positions, inv_freq):
        """Cosines and sines as in `Step`."""
        angles = (positions[:, None] * inv_freq)[:, None]
        cos = angles.cos().to(self.like["dtype"])
        sin = angles.sin().to(self.like["dtype"])
        if self.arch.rope_interleave:
            return torch.stack((cos, cos), dim=-1).flatten(-2), sin
        return torch.cat((cos, cos), dim=-1), sin

    def _mask(self, positions, start, slide, attention):
        """The mask of the layers that slide, or of the others; None where there are none of them, or no need of it."""
        if not self.arch.layers_that(slide) or not (attention in EAGER or self.arch.indexed):
            return None
        keys = range(start - self.arch.kept_tokens(slide, start), start + len(positions))
        return future_mask(positions, keys, self.arch.sliding_window if slide else None)

    def new_cache(self, batch: int, max_len: int, dtype: Any = None, layout: str = "static", **options: Any) -> KVCache:
        """An empty `KVCache` for `max_len` tokens of `batch` sequences, on the model's device.

        dtype: its format, in any spelling; defaults to the model's. layout, options: as in `KVCache`. Raises ValueError
        for what a cache cannot be.
        """
        dtype = self.like["dtype"] if dtype is None else dtype
        return KVCache(self.arch, batch, max_len, dtype, self.like["device"], layout, **options)


class FakeDecoder(Decoder):
    """A `Decoder` of fake tensors: it has shapes, dtypes and lifetimes, and no memory. Calling it enters its mode."""

    def __init__(self, arch: Architecture, make_linear: Callable, make_stack: Callable, mtp: bool = False, **like: Any):
        # nn.Module's own attribute check would refuse a plain assignment before super().__init__
        object.__setattr__(self, "fake_mode", FakeTensorMode())
        with self.fake_mode:
            super().__init__(arch, make_linear, make_stack, mtp, **like)

    def __call__(self, tokens: torch.Tensor, cache: KVCache | None = None, **options: Any) -> torch.Tensor:
        """As `Decoder.forward`; real tokens are turned into fake ones."""
        if not isinstance(tokens, FakeTensor):
            tokens = self.fake_mode.from_tensor(tokens)
        with self.fake_mode:
            return super().__call__(tokens, cache, **options)

    def new_cache(self, *args: Any, **options: Any) -> KVCache:
        """As `Decoder.new_cache`, of fake tensors."""
        with self.fake_mode:
            return super().new_cache(*args, **options)


def build_model(
    arch: Any,
    weights: Any = "fp16",
    device: Any = "cuda",
    activations: Any = None,
    modules_to_not_convert: Iterable[str] = ("lm_head",),
    seed: int = 0,
    mtp: bool = False,
) -> Decoder:
    """The decoder of `arch` with random weights (normal, standard deviation 0.02), built on the device it runs on.

    arch: whatever `Architecture.of` takes: a name, a path, a dict, a config, an `Architecture`.
    weights: "fp32", "bf16", "fp16" (or as torch spells them), or a scheme for the linear layers: "int8", "int8_w8a8",
    "fp8", "int4".
    device: "cuda", "cpu", or "fake", which builds any size in no memory; see `devices.check_device`.
    activations: the format that the pass computes in; defaults to that of the weights, or "fp16" for a scheme.
    modules_to_not_convert: linear layers that a scheme leaves alone, by name; embedding and norms always stay.
    seed: the same one gives the same weights before rounding.
    mtp: with the modules that predict further tokens, where `arch` has them; `mtp.further_logits` runs them.
    Raises ValueError for an unknown format, device or module name, and torch.OutOfMemoryError where it does not fit.

    >>> model = build_model("qwen2.5-0.5b", weights="int8", device="fake")
    >>> tuple(model(torch.zeros(1, 5, dtype=torch.long), attention="auto").shape)
    (1, 5, 151936)
    """
    arch, device, seed = Architecture.of(arch), check_device(device), whole_number("seed", seed, 0, "a seed")
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


def linear_layer(arch: Architecture, work: Workload, like: dict, name: str) -> nn.Module:
    """The linear layer called `name` in the scheme that `work` stores it in; like: its dtype and device."""
    in_features, out_features, bias = arch.linears()[name]
    kind = LAYERS.get(work.scheme(arch, name), Linear)
    return kind(in_features, out_features, bias=bias, **like)


def expert_stack(arch: Architecture, work: Workload, like: dict, name: str) -> nn.Module:
    """The routed experts' stack called `name` in the scheme that `work` stores it in; like: its dtype and device."""
    scheme = work.scheme(arch, name)
    if scheme in LAYERS:
        return QuantizedStack(scheme, *arch.expert_stacks()[name], **like)
    return ExpertStack(*arch.expert_stacks()[name], **like)


@torch.no_grad()
def fill(model: Decoder, seed: int) -> None:
    """Random matrices and zero biases, layer by layer; norms keep their ones. seed: of torch's generator."""
    torch.manual_seed(seed)

    def drawn(module):
        return torch.empty(module.out_features, module.in_features, **model.like).normal_(std=0.02)

    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding, Router)):
            module.weight.normal_(std=0.02)
        elif isinstance(module, ExpertStack):
            for matrix in module.weight:
                matrix.normal_(std=0.02)
        elif isinstance(module, QuantizedLinear):
            module.set_weight(drawn(module))
        elif isinstance(module, QuantizedStack):
            for expert in range(module.experts):
                module.set_weight(expert, drawn(module))
        if getattr(module, "bias", None) is not None:
            module.bias.zero_()
