"""A pass on one rank of many: the walk of `walk` over the rank's own share, and what ranks hand to one another.

Each collective writes into a tensor of its own, as torch's functional ones and vLLM's do, and is an instant by itself:

- Ranks that cut a layer each make an addend of attention's output and of the MLP's: "all_reduce ..." has it beside the
  sum. Each makes the logits of its part of the vocabulary: "gather_logits" has them beside those of all ranks, one
  block a rank, "order_logits" those blocks beside a copy in the vocabulary's order. Where the vocabulary does not
  divide, DTensor also fills up the logits of the rank with fewest words, in a copy that padded weights spare: left out.
- Where attention is shared out by sequences, the ranks' tokens are brought together for the MLP and for the head
  ("gather_tokens"), and the MLP's output is added up and handed back ("reduce_scatter ...").
- Where experts are shared out among replicas, the tokens of all of them are brought together on each rank, which runs
  those that have chosen its experts ("gather_tokens of experts", "reduce_scatter experts_out"), as vLLM does with its
  all-gather backend. DeepEP, which sends each token to its experts alone, is not modelled.

Tokens choose experts evenly here; a rank whose experts are chosen more often holds more rows.
"""

from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.ranks import RankArchitecture, rank_architecture
from dsmem.config.sharding import Sharding
from dsmem.config.workload import Workload
from dsmem.footprint.sharded.shares import check_blocks
from dsmem.footprint.stored import cache_bytes
from dsmem.footprint.walk import Pass
from dsmem.units import one_of


def own_work(share: RankArchitecture, work: Workload) -> Workload:
    """What the rank runs of a replica's workload: all of it, or its own sequences, filled up to the largest number.

    Raises ValueError for a pass that is not modelled.
    """
    sharding = share.sharding
    refused = {
        f"zero={sharding.zero}": sharding.zero > 0,
        f"context={sharding.context}": sharding.context > 1,
        "sequence_parallel=True": sharding.sequence_parallel,
        f"attention='data' of {share.name}, whose head is tied,": sharding.attention == "data"
        and share.tie_word_embeddings,
        f"expert={sharding.expert} across replicas of {sharding.tensor} tensor ranks": sharding.expert
        * sharding.expert_tensor
        % sharding.tensor
        > 0
        and sharding.expert * sharding.expert_tensor > sharding.tensor,
    }
    if found := next((what for what, is_so in refused.items() if is_so), None):
        raise ValueError(
            f"{found} has no formula of a forward pass; footprint.rank_parameters and rank_cache say what a rank stores"
        )
    check_blocks(share, work)
    if sharding.attention == "tensor":
        return work
    return work.changed(batch=-(-work.batch // sharding.tensor))


def rank_cache(
    arch: Any, work: Workload | None = None, sharding: Any = None, rank: int = 0, **fields: Any
) -> dict[str, Any]:
    """{part: bytes} of the KV cache that a rank keeps of a replica's sequences, as `stored.cache_bytes` has it.

    Tensor ranks share out key-value heads, as long as there are any, and never a latent; context ranks the tokens of
    each sequence (vLLM's `--decode-context-parallel-size`); with attention="data" the sequences. Shares are filled up
    to the largest. Arguments as in `inference_footprint`; a static or paged cache, which has room for all tokens.

    >>> one, cut, by_token = (rank_cache("deepseek-r1", seq_len=4096, weights="bf16", sharding=s)["latent_cache"]
    ...                       for s in (1, {"tensor": 8}, {"context": 8}))
    >>> one // cut, one // by_token
    (1, 8)
    """
    arch = Architecture.of(arch)
    work = Workload.of(work, **fields).on(arch)
    one_of("cache", work.cache, ("static", "paged"), "a cache that ranks share out here")
    share = rank_architecture(arch, Sharding.of(sharding), rank)
    spread = share.sharding
    sequences = spread.tensor if spread.attention == "data" else 1
    tokens = -(-work.cache_len // spread.context)
    whole = {"batch": -(-work.batch // sequences), "seq_len": tokens, "phase": "prefill", "cached_tokens": None}
    return cache_bytes(share, work.changed(**whole))


class RankPass(Pass):
    """`Pass` of a rank's share: arch is a `RankArchitecture`, work what the rank itself runs."""

    def __init__(self, arch: RankArchitecture, work: Workload, held: dict[str, Any]):
        super().__init__(arch, work, held)
        self.sharding, self._own = arch.sharding, work
        cut = self.sharding.expert * self.sharding.expert_tensor
        self._sets = max(1, cut // self.sharding.tensor) if arch.n_routed_experts else 1
        if arch.first_stage and arch.embedding_rows < arch.whole.vocab_size:
            self.instant("all_reduce embed_tokens", residual=self.hidden(), residual_reduced=self.hidden())

    @property
    def choices(self) -> Any:
        """Rows that the rank's experts work on, where all are chosen equally often."""
        return -(-self.span * super().choices // self.sharding.expert)

    @property
    def by_sequence(self) -> bool:
        """Whether the ranks that cut a layer attend to sequences of their own."""
        return self.sharding.attention == "data" and self.sharding.tensor > 1

    def gathered(self, part: str) -> None:
        if self.by_sequence:
            whole = self.sharding.tensor * self.alive[part]
            self.instant("gather_tokens", tokens_gathered=whole)
            self.alive[part] = whole
            self._run(self._own.changed(batch=self.sharding.tensor * self._own.batch))

    def reduced(self, part: str) -> None:
        if self.by_sequence and part == "mlp_out":
            self._run(self._own)
            self.instant(f"reduce_scatter {part}", **{f"{part}_scattered": self.hidden()})
            self.alive[part] = self.hidden()
        elif self.sharding.tensor > 1 and not self.by_sequence and part != "shared_out":  # added to the experts' first
            self.instant(f"all_reduce {part}", **{f"{part}_reduced": self.alive[part]})

    def dispatched(self) -> None:
        if self._sets > 1:
            self.span = self._sets
            self.make("gather_tokens of experts", tokens_gathered=self.span * self.hidden())

    def combined(self) -> None:
        if self._sets > 1:
            self.drop("tokens_gathered")
            self.instant(
                "reduce_scatter experts_out", experts_out_gathered=self.span * self.hidden(), experts_out=self.hidden()
            )
            self.span = 1

    def joined_logits(self) -> None:
        if self.sharding.tensor == 1 or self.arch.head != "lm_head":
            return
        whole = self.sharding.tensor * self.alive["logits"]
        self.instant("gather_logits", logits_gathered=whole)
        self.instant("order_logits", logits_gathered=whole, logits_in_order=whole)
        self.alive["logits"] = whole

    def _run(self, work):
        """From here on the pass is over the tokens of `work`."""
        self.work, self.tokens = work, work.batch * work.new_tokens
