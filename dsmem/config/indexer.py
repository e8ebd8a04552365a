"""The indexer of DeepSeek Sparse Attention: its layers, linear layers, cached keys and parameters.

It scores every earlier token for every new one, with a few narrow heads that share one cached key per token; attention
then reads the best `index_topk` alone (arXiv 2512.02556, section 2.1). Layers may share one choice (arXiv 2603.12201).
"""

from typing import Any

import numpy as np

from dsmem.units import whole_number


class IndexerShapes:
    """The part of `Shapes` that is the indexer's; the fields it is made of are those of `Architecture`."""

    @property
    def indexed(self) -> bool:
        """Whether an indexer chooses the keys that a token reads (DeepSeek Sparse Attention)."""
        return self.index_topk > 0

    def shares_index(self, index: int) -> bool:
        """Whether layer `index` (from 0) takes over the choice of the layer before it, and has no indexer."""
        return index < len(self.indexer_types) and self.indexer_types[index] == "shared"

    def hands_on_index(self, index: int) -> bool:
        """Whether the layer after layer `index` takes over its choice, which is then kept until that layer runs."""
        return index + 1 < self.num_hidden_layers and self.shares_index(index + 1)

    @property
    def indexer_layers(self) -> list[int]:
        """Indices of the layers that have an indexer; empty where attention reads all keys."""
        return [index for index in range(self.num_hidden_layers) if self.indexed and not self.shares_index(index)]

    def indexer_rows(self) -> dict[str, tuple[int, int]]:
        """The rows of `cache_rows` that an indexer reads: one key that its heads share; none without an indexer."""
        return {"indexer_keys": (1, self.index_head_dim)} if self.indexed else {}

    def chosen_keys(self, key_len: Any) -> Any:
        """Keys that one token reads of `key_len`, a number or an array.

        >>> import dsmem
        >>> arch = dsmem.Architecture.from_config("deepseek-r1")
        >>> arch.scaled(index_n_heads=64, index_head_dim=128, index_topk=2048).chosen_keys(131_072)
        2048
        """
        chosen = np.minimum(key_len, self.index_topk)
        return chosen if chosen.ndim else int(chosen)

    def indexer_linears(self) -> dict[str, tuple[int, int, bool]]:
        """The linear layers of an indexer that a scheme may convert, as in DeepSeek's FP8 files."""
        if not self.indexed:
            return {}
        width = self.index_n_heads * self.index_head_dim
        query = self.q_lora_rank, width, False
        return {"indexer.wq_b": query, "indexer.wk": (self.hidden_size, self.index_head_dim, False)}

    def indexer_census(self) -> dict[str, int]:
        """Parameters of one indexer by named part: its norm has a bias, and no scheme converts its `weights_proj`."""
        if not self.indexed:
            return {}
        linears = {name: n_in * n_out for name, (n_in, n_out, _) in self.indexer_linears().items()}
        weights = self.hidden_size * self.index_n_heads
        return linears | {"indexer.k_norm": 2 * self.index_head_dim, "indexer.weights_proj": weights}

    def check_indexer(self) -> None:
        """Raise ValueError where the fields of the indexer do not go together."""
        for field in ("index_n_heads", "index_head_dim", "index_topk"):
            whole_number(field, getattr(self, field), what="a size")
        if not self.latent or self.q_lora_rank is None:
            raise ValueError(
                f"index_topk={self.index_topk} needs q_lora_rank and kv_lora_rank: an indexer reads the queries' latent"
            )
        if self.index_head_dim < self.qk_rope_head_dim:
            raise ValueError(
                f"index_head_dim={self.index_head_dim} is less than its rotated part; it must be at least "
                f"qk_rope_head_dim={self.qk_rope_head_dim}"
            )
        if self.shares_index(0):
            raise ValueError(
                "indexer_types begins with 'shared', and no layer comes before it; it must begin with 'full'"
            )
