"""What one rank holds of an architecture: an `Architecture` of its own, with its heads, its widths and its layers."""

import dataclasses
import functools
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.sharding import Place, Sharding


@dataclasses.dataclass(frozen=True, repr=False)
class RankArchitecture(Architecture):
    """The share of `whole` that the rank at `place` of `sharding` holds; make one with `rank_architecture`.

    Heads, `intermediate_size`, `moe_intermediate_size`, `vocab_size` and the layers are the rank's own. Whole on each
    rank stay the norms, latent attention's down-projections, an indexer, the router and `n_routed_experts`, which it
    scores: those that it holds are in `expert_stacks`. Key-value heads that are fewer than the ranks stand on several.
    """

    whole: Architecture | None = None
    sharding: Sharding | None = None
    place: Place | None = None

    @property
    def first_stage(self) -> bool:
        """Whether this rank's stage begins with the embedding."""
        return self.place.pipeline == 0

    @property
    def last_stage(self) -> bool:
        """Whether this rank's stage ends with the final norm and the head."""
        return self.place.pipeline == self.sharding.pipeline - 1

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding: all where attention is shared out by sequences, else as many as the head has."""
        return self.whole.vocab_size if self.sharding.attention == "data" else self.vocab_size

    def shared_linears(self) -> dict[str, tuple[int, int, bool]]:
        """The linear layers of the experts that every token passes through, cut as a dense MLP is."""
        cut, hidden = self.sharding.tensor, self.hidden_size
        widths = {name: (n_in, n_out) for name, (n_in, n_out, _) in self.whole.shared_linears().items()}
        return {
            name: (n_in // cut, hidden, self.mlp_bias)
            if name.endswith("down_proj")
            else (hidden, n_out // cut, self.mlp_bias)
            for name, (n_in, n_out) in widths.items()
        }

    def expert_stacks(self) -> dict[str, tuple[int, int, int]]:
        """The routed experts' matrices that this rank holds of a layer."""
        return {name: (n // self.sharding.expert, *shape) for name, (n, *shape) in super().expert_stacks().items()}

    def census(self) -> dict[str, int]:
        """Parameters by named part, of this rank alone."""
        found = super().census()
        found["embed_tokens"] = self.embedding_rows * self.hidden_size
        for name in (*(() if self.first_stage else _FRONT), *(() if self.last_stage else ("norm", self.head))):
            found.pop(name, None)
        return found


_FRONT = ("embed_tokens", "embed_positions")


@functools.lru_cache(maxsize=4096)
def rank_architecture(arch: Architecture, sharding: Sharding, rank: int = 0) -> RankArchitecture:
    """The `RankArchitecture` of `rank`. Raises ValueError where `arch` cannot be cut so, or there is no such rank.

    >>> r1 = rank_architecture(Architecture.of("deepseek-r1"), Sharding(tensor=8, expert=8))
    >>> r1.attention_linears()["q_b_proj"], r1.attention_linears()["kv_a_proj_with_mqa"], r1.cache_rows()
    ((1536, 3072, False), (7168, 576, False), {'latents': (1, 576)})
    """
    sharding.check(arch)
    place = sharding.place(rank)
    own = {field.name: getattr(arch, field.name) for field in dataclasses.fields(Architecture)}
    return RankArchitecture(
        **own | _cut(arch, sharding) | _layers(arch, sharding, place), whole=arch, sharding=sharding, place=place
    )


def _cut(arch: Architecture, sharding: Sharding) -> dict[str, Any]:
    """The fields that tensor ranks cut."""
    heads = arch.num_attention_heads // sharding.attention_tensor
    # fewer key-value heads than ranks: each rank has a whole one
    kv_heads = heads if arch.latent else max(1, arch.num_key_value_heads // sharding.attention_tensor)
    found = {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    if arch.intermediate_size % sharding.tensor == 0:  # else no layer has such an MLP: see `Sharding.check`
        found["intermediate_size"] = arch.intermediate_size // sharding.tensor
    if arch.n_routed_experts:
        found["moe_intermediate_size"] = arch.moe_intermediate_size // sharding.expert_tensor
    filled = -(-arch.vocab_size // sharding.vocab_multiple) * sharding.vocab_multiple
    return found | {"vocab_size": -(-filled // sharding.tensor)}


def _layers(arch: Architecture, sharding: Sharding, place: Place) -> dict[str, Any]:
    """The fields that say which layers a stage has, and whether its head is a table of its own."""
    stage = sharding.stages(arch.num_hidden_layers)[place.pipeline]
    start, stop = stage.start, stage.stop
    found = {"num_hidden_layers": len(stage), "first_k_dense_replace": max(0, arch.first_k_dense_replace - start)}
    found["mlp_only_layers"] = tuple(index - start for index in arch.mlp_only_layers if index in stage)
    for field in ("layer_types", "indexer_types"):
        found[field] = getattr(arch, field)[start:stop]
    # a tied table stands on the first stage and again on the last
    return found | {"tie_word_embeddings": arch.tie_word_embeddings and sharding.pipeline == 1}
