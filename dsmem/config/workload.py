"""What is asked of a model in one pass: how many tokens, in which formats, through which kernels."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from dsmem.units import FLOATS, QUANTIZED, format_name, names, one_of, whole_numbers

if TYPE_CHECKING:
    from dsmem.config.architecture import Architecture

_SWIGLU = ("gate_proj", "up_proj", "down_proj")
LATENT_LINEARS = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
INDEXER = ("indexer.wq_b", "indexer.wk")
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")
SHARED = tuple(f"shared_experts.{name}" for name in _SWIGLU)
LINEARS = (
    *("q_proj", "k_proj", "v_proj", "qkv_proj", *LATENT_LINEARS, "o_proj", *INDEXER),
    *("gate_up_proj", *_SWIGLU, *SHARED, *EXPERTS, "lm_head"),
)
CACHE_FORMATS = (*FLOATS, "fp8", "int8")
STORED_CACHES = ("q8_0", "q4_0", "fp8_ds_mla")  # of llama.cpp and FlashMLA: their size is known, no pass is modelled
EAGER = ("eager", "eager_fp32")  # attention that has its scores in memory
_CHOICES = {
    "phase": ("prefill", "decode"),
    "attention": ("fused", "expanded", *EAGER, "auto"),
    "logits": ("all", "last"),
    "cache": ("static", "growing", "paged", "none"),
    "mla_cache": ("latent", "expanded"),
}


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is asked of a model in one forward pass.

    batch: sequences. seq_len: tokens per sequence; a prefill runs all of them at once. Both may be arrays.
    phase: "prefill": seq_len new tokens per sequence after `cached_tokens` earlier ones, by default 0; with some, a
    chunk of a longer prompt, or what follows a cached prefix. Or "decode": one new token after `cached_tokens`, by
    default seq_len - 1, so that it is the last of the sequence. cached_tokens may be an array, and arrays broadcast.
    weights: "fp32", "bf16", "fp16", or a scheme for the linear layers: "int8", "int8_w8a8", "fp8", "int4". Not given,
    they are "fp16", or what the model's own config says (its `quantization_config`, or float32): see `on`.
    activations: a float format; defaults to the weights' own, or "fp16" for a scheme. kv_cache: a float format, "fp8"
    (E4M3) or "int8" (a float32 scale per token and head); defaults to the activations' format. Formats may be spelled
    as torch spells them: "float16", `torch.float16`. Of llama.cpp's kv_cache "q8_0" and "q4_0", and of
    FlashMLA's "fp8_ds_mla", the size is known (`footprint.stored.cache_bytes`), and no pass is modelled.
    modules_to_not_convert: linear layers that a scheme leaves in the activations' format, by name; embedding and norms
    always stay.
    attention: "fused": one kernel, which never has the scores of all pairs of tokens in memory. "expanded": the same
    after copying keys and values for all heads. "eager": operator by operator, scores in memory, their softmax in the
    activations' format. "eager_fp32": the same with the softmax in float32, then rounded back, as transformers' eager
    attention has it in most families; in FP16 as a GPU allocates it (a CPU makes a float32 copy of the scores more).
    "auto": what the device can run, "fused" where no device is asked.
    logits: of "all" positions or the "last".
    cache: "static" (allocated once, for all tokens cached and new, or a decode's seq_len), "growing" (concatenated at
    every step), "paged" (the same room as static, in pages of `block_size` tokens) or "none". mla_cache: what latent
    attention (MLA) keeps, its "latent" or keys and values "expanded" for every head; other attention has no choice.
    Raises ValueError, one sentence, for anything else.
    """

    batch: "int | np.ndarray" = 1
    seq_len: "int | np.ndarray" = 1024
    phase: str = "prefill"
    cached_tokens: "int | np.ndarray | None" = None
    weights: str | None = None
    activations: str | None = None
    kv_cache: str | None = None
    attention: str = "fused"
    logits: str = "all"
    cache: str = "static"
    mla_cache: str = "latent"
    block_size: int = 16
    modules_to_not_convert: tuple = ("lm_head",)

    def __post_init__(self):
        self._settle("weights_from", "" if self.weights is not None else "default")
        self._settle("weights", "fp16" if self.weights is None else self.weights)
        for argument, allowed in _CHOICES.items():
            one_of(argument, getattr(self, argument), allowed)
        for argument in ("weights", "activations", "kv_cache"):
            value = getattr(self, argument)
            self._settle(argument, value if value is None else format_name(value))
        one_of("weights", self.weights, FLOATS + QUANTIZED)
        self._settle("activations", self.activations or (self.weights if self.weights in FLOATS else "fp16"))
        self._settle("kv_cache", self.kv_cache or self.activations)
        one_of("activations", self.activations, FLOATS if self.weights in QUANTIZED else (self.weights,))
        one_of("kv_cache", self.kv_cache, CACHE_FORMATS + STORED_CACHES)
        self._settle("modules_to_not_convert", names("modules_to_not_convert", self.modules_to_not_convert))
        for name in self.modules_to_not_convert:
            one_of("modules_to_not_convert", name, LINEARS)
        self._settle("batch", whole_numbers("batch", self.batch))
        self._settle("seq_len", whole_numbers("seq_len", self.seq_len))
        self._settle("block_size", whole_numbers("block_size", self.block_size))
        self._settle_cached_tokens()

    @classmethod
    def of(cls, work: "Workload | None" = None, **fields: Any) -> "Workload":
        """`work` itself, changed by `fields`; without one, the workload of these fields.

        Raises ValueError for what is neither, or for a field that a workload does not have.

        >>> Workload.of(batch=4).batch, Workload.of(Workload(batch=4), seq_len=8).batch
        (4, 4)
        """
        if work is not None and not isinstance(work, cls):
            raise ValueError(f"work={work!r} is not a Workload; it must be one, or its fields as keywords: batch=4")
        for name in fields:
            one_of("field", name, (field.name for field in dataclasses.fields(cls)), "a field of Workload")
        return cls(**fields) if work is None else work.changed(**fields) if fields else work

    def on(self, arch: "Architecture") -> "Workload":
        """This workload with the weights that the config of `arch` says, where none were asked for.

        Raises ValueError where it says a format in which no pass is modelled.
        """
        if self.weights_from != "default" or not arch.stored:
            return self
        if arch.stored not in FLOATS + QUANTIZED:
            raise ValueError(
                f"weights are not given, and the config of {arch.name} stores them as {arch.stored}, in which no pass "
                f"is modelled; allowed: weights=... of {', '.join(FLOATS + QUANTIZED)} (dsmem.checkpoint weighs the "
                "files as they are)"
            )
        found = self.changed(weights=arch.stored)
        found._settle("weights_from", "config")
        return found

    @property
    def weights_words(self) -> str:
        """The format of the weights in words, and that the config says it where nobody asked for it."""
        return f"{self.weights}, as its config says" if self.weights_from == "config" else self.weights

    def check(self, arch: "Architecture") -> None:
        """Raise ValueError where `arch` cannot be stored as this workload says: a tied head stays as it is."""
        self.scheme(arch, "lm_head")

    def scheme(self, arch: "Architecture", name: str) -> str:
        """How `arch` stores the linear layer or expert stack called `name`: a scheme, or the activations' format.

        Routed experts never multiply in INT8: "int8_w8a8" stores them as "int8". Raises ValueError where a head that
        is tied to the embedding would have to convert.
        """
        if self.weights in FLOATS or name in self.modules_to_not_convert or name == "score":
            return self.activations
        if name == "lm_head" and arch.tie_word_embeddings:
            raise ValueError(
                f"modules_to_not_convert={self.modules_to_not_convert!r} leaves out lm_head, which {arch.name} ties to "
                "its embedding; it must name lm_head"
            )
        return "int8" if self.weights == "int8_w8a8" and name in EXPERTS else self.weights

    def _settle_cached_tokens(self):
        start = 0 if self.phase == "prefill" else self.seq_len - 1
        cached = start if self.cached_tokens is None else self.cached_tokens
        self._settle("cached_tokens", whole_numbers("cached_tokens", cached, least=0))
        if self.cache == "none" and (self.phase == "decode" or np.any(self.cached_tokens)):
            reader = "phase='decode'" if self.phase == "decode" else f"cached_tokens={cached!r}"
            raise ValueError(f"cache='none' has nothing for {reader} to read; allowed there: static, growing, paged")

    def _settle(self, name, value):
        object.__setattr__(self, name, value)

    def changed(self, **changes: Any) -> "Workload":
        """This workload with some fields changed; what followed a changed field by default follows it again.

        >>> Workload(weights="fp16").changed(weights="bf16").kv_cache
        'bf16'
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.kv_cache == self.activations:
            fields["kv_cache"] = None
        if self.activations == (self.weights if self.weights in FLOATS else "fp16"):
            fields["activations"] = None
        if np.array_equal(self.cached_tokens, 0 if self.phase == "prefill" else self.seq_len - 1):
            fields["cached_tokens"] = None
        if self.weights_from == "default":
            fields["weights"] = None
        found = Workload(**fields | changes)
        if self.weights_from == "config" and "weights" not in changes:
            found._settle("weights_from", "config")
        return found

    def absorbed(self, arch: "Architecture") -> bool:
        """Whether `arch` attends to its cached latents themselves: in decoding, where they are what is cached."""
        return arch.latent and self.phase == "decode" and self.mla_cache == "latent"

    @property
    def eager(self) -> bool:
        """Whether attention has its scores in memory."""
        return self.attention in EAGER

    @property
    def new_tokens(self) -> "int | np.ndarray":
        """Tokens per sequence that this pass computes."""
        return self.seq_len if self.phase == "prefill" else 1

    @property
    def key_len(self) -> "int | np.ndarray":
        """Tokens per sequence that attention reads."""
        return self.cached_tokens + self.new_tokens

    @property
    def cache_len(self) -> "int | np.ndarray":
        """Tokens per sequence that a cache has room for, pages not filled up."""
        if self.phase == "prefill":
            return self.key_len
        sizes = self.seq_len, self.key_len
        return max(sizes) if all(isinstance(size, int) for size in sizes) else np.maximum(*sizes)
