"""What follows from the fields of an `Architecture`: widths, linear layers, cache rows, and counts of parameters."""

from dsmem.config.gpt_block import GPTShapes
from dsmem.config.indexer import IndexerShapes
from dsmem.config.mixture import MixtureShapes, swiglu
from dsmem.config.windows import WindowShapes
from dsmem.units import one_of


class Shapes(MixtureShapes, IndexerShapes, WindowShapes, GPTShapes):
    """Derived shapes: the fields they are made of are those of `Architecture`, which inherits from this class."""

    first_stage = last_stage = True  # whether the embedding is here, and norm and head: of all but a rank's share

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding."""
        return self.vocab_size

    @property
    def latent(self) -> bool:
        """Whether attention goes through a latent that all heads share (MLA)."""
        return self.kv_lora_rank is not None

    @property
    def qk_head_dim(self) -> int:
        """Elements of one head's query or key: in latent attention the plain and the rotated part together."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim if self.latent else self.head_dim

    @property
    def rotated_dim(self) -> int:
        """Elements of one head that rotary positions turn."""
        return self.rotary_dim or self.head_dim

    @property
    def value_head_dim(self) -> int:
        """Elements of one head's value, and of its output."""
        return self.v_head_dim if self.latent else self.head_dim

    @property
    def latent_width(self) -> int:
        """Elements that latent attention keeps per token: the latent and the rotated key that all heads share."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def query_width(self) -> int:
        """Elements of one token's queries: heads x qk_head_dim."""
        return self.num_attention_heads * self.qk_head_dim

    @property
    def kv_width(self) -> int:
        """Elements of one token's keys: key-value heads x qk_head_dim."""
        return self.num_key_value_heads * self.qk_head_dim

    @property
    def output_width(self) -> int:
        """Elements of one token's attention output before `o_proj`: heads x value_head_dim."""
        return self.num_attention_heads * self.value_head_dim

    def cache_rows(self, mla_cache: str = "latent") -> dict[str, tuple[int, int]]:
        """What a cache keeps of one token in one layer: {name: (heads, elements per head)}.

        mla_cache: "latent" or "expanded" (keys and values of every head); only latent attention has the choice.
        "indexer_keys" are kept in the layers that have an indexer: see `layers_caching`. Raises ValueError for
        anything else.

        >>> import dsmem
        >>> dsmem.Architecture.from_config("deepseek-r1").cache_rows()
        {'latents': (1, 576)}
        """
        return self.indexer_rows() | self.attended_rows(mla_cache)  # in the order in which a layer writes them

    def attended_rows(self, mla_cache: str = "latent") -> dict[str, tuple[int, int]]:
        """The rows of `cache_rows` that attention itself reads."""
        one_of("mla_cache", mla_cache, ("latent", "expanded"))
        if self.latent and mla_cache == "latent":
            return {"latents": (1, self.latent_width)}
        heads = self.num_key_value_heads
        return {"keys": (heads, self.qk_head_dim), "values": (heads, self.value_head_dim)}

    def census(self) -> dict[str, int]:
        """Parameters by named part, all layers together.

        A tied head is the embedding used a second time, so it has no row of its own. The router's bias is a buffer,
        and a module that predicts further tokens (MTP) is not part of the model proper: see `checkpoints.published`.

        >>> import dsmem
        >>> census = dsmem.Architecture.from_config("deepseek-r1-distill-qwen-7b").census()
        >>> census["embed_tokens"], sum(census.values())
        (544997376, 7615616512)
        """
        layers = self.layer_census(False), self.layer_census(True)
        sparse = len(self.expert_layers)
        counts = self.num_hidden_layers - sparse, sparse
        names = dict.fromkeys(name for census in layers for name in census)
        parts = {name: sum(n * part.get(name, 0) for n, part in zip(counts, layers, strict=True)) for name in names}
        parts |= {name: len(self.indexer_layers) * count for name, count in self.indexer_census().items()}
        parts = {name: count for name, count in parts.items() if count}
        head = {} if self.tie_word_embeddings else _elements(self.head_linears())
        embedding = {"embed_tokens": self.vocab_size * self.hidden_size}
        if self.learned_positions:
            embedding["embed_positions"] = (self.learned_positions + self.position_offset) * self.hidden_size
        return embedding | parts | {"norm": self.norm_params} | head

    def layer_census(self, experts: bool) -> dict[str, int]:
        """Parameters of one layer by named part, dense or with experts."""
        norms = dict.fromkeys(self.layer_norms(), self.norm_params) | self.norms()
        shapes = self.attention_linears() | (self.shared_linears() if experts else self.mlp_linears())
        sinks = {"sinks": self.num_attention_heads} if self.attention_sinks else {}
        return norms | _elements(shapes) | sinks | (self.expert_census() if experts else {})

    def layer_norms(self) -> tuple[str, ...]:
        """Names of a layer's norms that are as wide as the model."""
        usual = ("input_layernorm", "post_attention_layernorm")
        return (*usual, "pre_feedforward_layernorm", "post_feedforward_layernorm") if self.gemma_block else usual

    def norms(self) -> dict[str, int]:
        """Widths of the norms inside attention: {name: elements}."""
        if self.latent:
            query = {} if self.q_lora_rank is None else {"q_a_layernorm": self.q_lora_rank}
            return query | {"kv_a_layernorm": self.kv_lora_rank}
        if not self.qk_norm:
            return {}
        whole = self.qk_norm_type == "per_layer"
        return {
            "q_norm": self.query_width if whole else self.head_dim,
            "k_norm": self.kv_width if whole else self.head_dim,
        }

    def linears(self) -> dict[str, tuple[int, int, bool]]:
        """The linear layers of the model, in order, the head last: {name: (in_features, out_features, has a bias)}.

        A dense layer has no `shared_experts`, a mixture of experts no plain `gate_proj`, `up_proj`, `down_proj`:
        see `layers_with`.

        >>> import dsmem
        >>> dsmem.Architecture.from_config("llama-2-7b").linears()["lm_head"]
        (4096, 32000, False)
        """
        attention = self.attention_linears() | self.indexer_linears()
        return attention | self.mlp_linears() | self.shared_linears() | self.head_linears()

    def head_linears(self) -> dict[str, tuple[int, int, bool]]:
        """What stands on the decoder: the language model's head, a score for each label, or nothing."""
        heads = {
            "lm_head": (self.hidden_size, self.vocab_size, False),
            "score": (self.hidden_size, self.num_labels, self.score_bias),
        }
        return {name: shape for name, shape in heads.items() if name == self.head}

    def matrices(self) -> dict[str, tuple[int, int, int]]:
        """Every matrix that a scheme may convert: {name of `census()`: (in_features, out_features, copies in all)}.

        A tied head is not among them, for it is the embedding; nor are scores, which stay as they are.

        >>> import dsmem
        >>> dsmem.Architecture.from_config("deepseek-r1").matrices()["experts.down_proj"]
        (2048, 7168, 14848)
        """
        found = {name: (n_in, n_out, self.layers_with(name)) for name, (n_in, n_out, _) in self.linears().items()}
        found.pop("score", None)
        for name, (experts, n_out, n_in) in self.expert_stacks().items():
            found[name] = n_in, n_out, experts * self.layers_with(name)
        return {name: matrix for name, matrix in found.items() if matrix[2]}

    def layers_with(self, name: str) -> int:
        """Number of decoder layers that have the linear layer or stack called `name`; of the head 1, or 0 if tied.

        >>> import dsmem
        >>> dsmem.Architecture.from_config("deepseek-r1").layers_with("gate_proj")
        3
        """
        if name in self.head_linears():
            return int(not self.tie_word_embeddings)
        if name in self.attention_linears():
            return self.num_hidden_layers
        if name in self.indexer_linears():
            return len(self.indexer_layers)
        sparse = len(self.expert_layers)
        return self.num_hidden_layers - sparse if name in self.mlp_linears() else sparse

    def attention_linears(self) -> dict[str, tuple[int, int, bool]]:
        """The linear layers of attention, in order; latent attention has others than grouped attention."""
        hidden = self.hidden_size
        if self.joined_qkv:
            joined = hidden, self.query_width + 2 * self.kv_width, self.qkv_bias
            return {"qkv_proj": joined, "o_proj": (self.query_width, hidden, self.o_bias)}
        if not self.latent:
            return {
                "q_proj": (hidden, self.query_width, self.qkv_bias),
                "k_proj": (hidden, self.kv_width, self.qkv_bias),
                "v_proj": (hidden, self.kv_width, self.qkv_bias),
                "o_proj": (self.query_width, hidden, self.o_bias),
            }
        query = {"q_proj": (hidden, self.query_width, False)}
        if self.q_lora_rank is not None:
            query = {
                "q_a_proj": (hidden, self.q_lora_rank, self.qkv_bias),
                "q_b_proj": (self.q_lora_rank, self.query_width, False),
            }
        expanded = self.num_attention_heads * (self.qk_nope_head_dim + self.v_head_dim)
        return query | {
            "kv_a_proj_with_mqa": (hidden, self.latent_width, self.qkv_bias),
            "kv_b_proj": (self.kv_lora_rank, expanded, False),
            "o_proj": (self.output_width, hidden, self.o_bias),
        }

    def mlp_linears(self) -> dict[str, tuple[int, int, bool]]:
        """The linear layers of a dense layer's MLP."""
        hidden, width = self.hidden_size, self.intermediate_size
        if self.gpt_block:
            return {"up_proj": (hidden, width, self.mlp_bias), "down_proj": (width, hidden, self.mlp_bias)}
        found = swiglu("", hidden, width, self.mlp_bias)
        if not self.joined_gate_up:
            return found
        return {"gate_up_proj": (hidden, 2 * width, self.mlp_bias), "down_proj": found["down_proj"]}

    @property
    def n_params(self) -> int:
        """All parameters, a tied head counted once."""
        return sum(self.census().values())


def _elements(shapes):
    return {name: n_in * n_out + bias * n_out for name, (n_in, n_out, bias) in shapes.items()}
