"""The shape of a decoder, dense or with experts, with grouped or latent attention: its fields, read and checked."""

import dataclasses
from typing import Any

from dsmem.config import families
from dsmem.config.shapes import Shapes
from dsmem.config.windows import FULL, SLIDING
from dsmem.table import Table
from dsmem.units import one_of, whole_number


@dataclasses.dataclass(frozen=True, repr=False)
class Architecture(Shapes):
    """The shape of one decoder: frozen, hashable, every field spelled as in `config.json` where it has one.

    Widths are in elements. `qkv_bias`, `o_bias`, `mlp_bias` say which projections carry a bias, `qk_norm` whether
    queries and keys pass an RMSNorm: each head by itself (Qwen3), or with `qk_norm_type` "per_layer" all at once
    (MiniMax-M2). `rotary_dim` elements of a head are rotated, all where it is None. With `kv_lora_rank` attention is
    latent (MLA, arXiv 2405.04434, section 2.1), and `head_dim` is the part of a head that is rotated. With `index_topk`
    an indexer of `index_n_heads` heads, each `index_head_dim` wide, chooses for every token the `index_topk` keys that
    it reads (DeepSeek Sparse Attention, arXiv 2512.02556, section 2.1); `indexer_types` says which layers have one
    ("full") and which take over the choice of the layer before ("shared"), where not all are "full". With
    `n_routed_experts` every layer is a mixture of experts, but the `first_k_dense_replace` first and those in
    `mlp_only_layers`; all tokens share `n_shared_experts`, or one of `shared_expert_intermediate_size` whose output a
    gate scales. `attention_sinks` says whether each head has a number that its softmax counts as one more score,
    `expert_bias` whether the mixtures are gpt-oss's: router and routed experts carry biases, an expert's gate and up
    lie in turn and are clamped at `swiglu_limit`, and `swiglu_alpha` sharpens the gate. With `sliding_window` the
    layers that `layer_types` calls "sliding_attention" attend to so many tokens alone; it is () where all do. With
    `layer_norm_epsilon` the layers are GPT blocks: LayerNorms with a bias, an MLP without a gate, and a table of
    `learned_positions`, whose first `position_offset` rows no token reads; `joined_qkv` says whether one matrix makes
    queries, keys and values, `joined_gate_up` whether one makes gate and up (Phi-3). With `gemma_block` what attention
    and MLP give is normed, too, norms multiply by 1 + their weight, and embeddings are scaled; scores and logits may be
    capped, and layers that slide turn by a base of their own. `head` stands on the decoder: "lm_head", "score" (a
    number for each of `num_labels` labels) or "none". `apart` names what the config holds beside the language model
    (`vision_config`): none of it is counted here. `stored` is how the config says that weights are stored, where that
    is not in 16 bit: "fp8", "fp32", or a method's name. `scale_emb`, `scale_depth` and `dim_model_base` scale
    embedding, residual branches and logits (MiniCPM). `max_position_embeddings` is the longest context that the config
    says the model is made for, None where it says none; it moves no byte. Build one with `Architecture.from_config`.
    """

    name: str
    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    qk_norm_type: str = "per_head"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: tuple = ()
    rope_interleave: bool = False
    rotary_dim: int | None = None
    sliding_window: int | None = None
    layer_types: tuple = ()
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    index_n_heads: int = 0
    index_head_dim: int = 0
    index_topk: int = 0
    indexer_types: tuple = ()
    indexer_rope_interleave: bool = False
    n_routed_experts: int = 0
    n_shared_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    shared_expert_intermediate_size: int = 0
    first_k_dense_replace: int = 0
    mlp_only_layers: tuple = ()
    scoring_func: str = "softmax"
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0
    attention_sinks: bool = False
    expert_bias: bool = False
    swiglu_limit: float | None = None
    swiglu_alpha: float = 1.702
    num_nextn_predict_layers: int = 0
    hidden_act: str = "silu"
    gemma_block: bool = False
    query_pre_attn_scalar: int | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    rope_local_base_freq: float | None = None
    layer_norm_epsilon: float | None = None
    learned_positions: int = 0
    position_offset: int = 0
    joined_qkv: bool = False
    joined_gate_up: bool = False
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    head: str = "lm_head"
    num_labels: int = 0
    score_bias: bool = False
    scale_emb: float = 1.0
    scale_depth: float | None = None
    dim_model_base: int | None = None
    max_position_embeddings: int | None = dataclasses.field(default=None, compare=False)
    apart: tuple = ()
    stored: str = ""

    def __post_init__(self):
        for field in _POSITIVE:
            whole_number(field, getattr(self, field), what="a size")
        for field in _COUNTS:
            whole_number(field, getattr(self, field), least=0)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} does not divide into "
                f"num_key_value_heads={self.num_key_value_heads}; it must be a multiple of it"
            )
        self._settle_window()
        one_of("head", self.head, HEADS, "a head")
        if self.head == "score":
            whole_number("num_labels", self.num_labels, what="a number of labels")
        if self.tie_word_embeddings and self.head != "lm_head":
            raise ValueError(f"head={self.head!r} is not tied to an embedding; tie_word_embeddings must be False")
        if self.head_dim % 2 and not self.gpt_block:
            name = "qk_rope_head_dim" if self.latent else "head_dim"
            raise ValueError(f"{name}={self.head_dim} is odd; rotary positions turn pairs, so it must be even")
        one_of("qk_norm_type", self.qk_norm_type, ("per_head", "per_layer"), "a norm of queries and keys")
        if self.rotary_dim is not None:
            self._check_rotary()
        if self.joined_qkv and not self.gpt_block and (self.latent or self.qk_norm):
            raise ValueError("joined_qkv=True is not known beside kv_lora_rank or qk_norm; it must be False there")
        if self.gemma_block:
            self.check_fields(_NO_GEMMA, "is not known beside gemma_block=True of {name}")
        if self.latent:
            self._check_latent()
            self.check_fields({"attention_sinks": False}, "is not known beside kv_lora_rank of {name}")
        if self.indexed:
            self.check_indexer()
        self.check_experts()
        self.check_gpt_block()

    def _check_rotary(self):
        whole_number("rotary_dim", self.rotary_dim, what="a part of a head")
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim or self.latent:
            raise ValueError(
                f"rotary_dim={self.rotary_dim} is not a part of head_dim={self.head_dim} to rotate; it must be even "
                "and at most that, or None, as in latent attention"
            )

    def _settle_window(self):
        """Layers that are alike need no list, and those that were cut off have no place in it."""
        kinds = self.layer_types[: self.num_hidden_layers]
        if self.sliding_window is None or (kinds and SLIDING not in kinds):
            return self._settle(sliding_window=None, layer_types=())
        whole_number("sliding_window", self.sliding_window, least=2, what="a window")
        if kinds and len(kinds) < self.num_hidden_layers:
            raise ValueError(
                f"layer_types names {len(kinds)} layers; it must name all {self.num_hidden_layers} of num_hidden_layers"
            )
        self._settle(layer_types=kinds if FULL in kinds else ())
        if self.latent:
            raise ValueError(
                f"sliding_window={self.sliding_window} is not read with kv_lora_rank={self.kv_lora_rank}; it must be "
                "None"
            )

    def _settle(self, **fields):
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _check_latent(self):
        for field in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
            whole_number(field, getattr(self, field), what="a size")
        if self.q_lora_rank is not None:
            whole_number("q_lora_rank", self.q_lora_rank, what="a size")
        if self.head_dim != self.qk_rope_head_dim:
            raise ValueError(
                f"head_dim={self.head_dim} is not qk_rope_head_dim={self.qk_rope_head_dim}; with kv_lora_rank it must "
                "be"
            )
        if self.v_head_dim > self.qk_head_dim:
            raise ValueError(
                f"v_head_dim={self.v_head_dim} is wider than a query; it must be at most {self.qk_head_dim}, "
                "qk_nope_head_dim and qk_rope_head_dim together"
            )
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(
                f"num_key_value_heads={self.num_key_value_heads} goes with grouped heads; with kv_lora_rank it must be "
                f"num_attention_heads={self.num_attention_heads}"
            )

    @classmethod
    def from_config(cls, source: Any) -> "Architecture":
        """The architecture that `source` describes.

        source: a `config.json` as dict, a path to one (or to its folder), a transformers config object, or the
        name of a model in `data/models` ("deepseek-r1-distill-qwen-7b", hub spelling welcome).
        Raises ValueError for a family that is not read, a missing or impossible number, a damaged file.

        >>> Architecture.from_config("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B").n_params
        7615616512
        >>> Architecture.from_config("deepseek-ai/DeepSeek-R1").n_params
        671026404352
        """
        return cls(**families.read(source))

    @classmethod
    def of(cls, source: Any) -> "Architecture":
        """`source` itself if it is an `Architecture`, else `from_config(source)`: a name, a path, a dict, a config."""
        return source if isinstance(source, cls) else cls.from_config(source)

    def scaled(self, **changes: Any) -> "Architecture":
        """The same architecture with some fields changed: `arch.scaled(num_hidden_layers=2)`.

        Raises ValueError for a field that an architecture does not have, or a shape that cannot be.
        """
        for name in changes:
            one_of("field", name, (field.name for field in dataclasses.fields(self)), "a field of Architecture")
        return dataclasses.replace(self, **changes)

    def table(self) -> Table:
        """The census as a `Table`: parameters of each part, and their share."""
        rows = [(part, count, count / self.n_params) for part, count in self.census().items()]
        return Table(
            {"part": None, "parameters": ",", "share": ".1%"}, [*rows, ("total", self.n_params, 1.0)], str(self)
        )

    def __str__(self) -> str:
        attention = "latent attention" if self.latent else f"{self.num_attention_heads} heads"
        if self.indexed:
            attention += f" to the {self.index_topk:,} keys that an indexer chooses"
        if not self.latent and self.num_key_value_heads < self.num_attention_heads:
            attention += f" over {self.num_key_value_heads} key-value heads"
        active = f", {self.n_active_params:,} active" if self.n_routed_experts else ""
        layers = f"{self.num_hidden_layers} layers of width {self.hidden_size:,}"
        apart = f"; the language model alone, without {' and '.join(self.apart)}" if self.apart else ""
        head = {"lm_head": "", "score": f", {self.num_labels} labels", "none": ", no head"}[self.head]
        kind = f"{layers}, {attention}{head}{apart}"
        return f"{self.name} ({self.model_type}): {self.n_params:,} parameters{active}; {kind}"

    def __repr__(self) -> str:
        return f"<Architecture {self}>"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


HEADS = ("lm_head", "score", "none")
_POSITIVE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
)
_NO_GEMMA = {"kv_lora_rank": None, "n_routed_experts": 0, "rotary_dim": None}
_NO_GEMMA |= {"joined_qkv": False, "joined_gate_up": False, "attention_sinks": False}
_COUNTS = (
    "n_routed_experts",
    "n_shared_experts",
    "shared_expert_intermediate_size",
    "first_k_dense_replace",
    "num_nextn_predict_layers",
    "index_n_heads",
    "index_head_dim",
    "index_topk",
    "learned_positions",
    "position_offset",
)
