"""Forward and backward on one rank of many, on the tape: a rank's own share, and what ranks hand to one another.

Cut by tensor ranks, o_proj and down_proj give addends, whose sum is a tensor of its own, and in backward so is the sum
of the gradients that enter each of q_proj, k_proj, v_proj, gate_proj and up_proj (DTensor's plan of Megatron's cut).
With sequence_parallel a rank has its part of the tokens between: they are gathered once for attention and once for the
MLP, and what is gathered is kept for backward, as DTensor keeps it (Megatron gathers once more instead). Logits stay
cut through the loss (torch's `loss_parallel`); left out are its sums of a few numbers a token.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from dsmem.config.ranks import RankArchitecture
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.training import decoder, gpt
from dsmem.footprint.training.graph import PASSING, Operator, View
from dsmem.footprint.training.operators import Trained

COLUMNS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "q_b_proj", "kv_b_proj", "gate_proj", "up_proj", "gate_up_proj")
ROWS = ("o_proj", "down_proj")
ENDS = ("input_layernorm", "post_attention_layernorm", "norm")


class RankTrained(Trained):
    """`Trained` of a rank's share."""

    def __init__(self, arch: RankArchitecture, work: Workload, training: Training, held: dict[str, Any]):
        super().__init__(arch, work, training, held)
        self.cut, self._gathered = arch.sharding.tensor, None
        self._parts = self.cut if arch.sharding.sequence_parallel else 1
        self._all = self.tokens
        self.tokens = self._all // self._parts

    def linear(self, name: str, x: View, out: str, weight: Any = None) -> View:
        if self.cut == 1 or name not in (*COLUMNS, *ROWS, "lm_head"):
            return super().linear(name, x, out, weight)
        if name in ROWS:
            return self._added_up(name, super().linear(name, x, out, weight), out)
        return super().linear(name, self._entering(name, x), out, weight)

    def _entering(self, name, x):
        """What a matrix cut by columns is given: all tokens, and a gradient that ranks add up."""
        if self._parts == 1:
            return self.t.seen(f"{name} all_reduce", x)
        if self._gathered is None:
            whole = x.nbytes * self._parts
            self._gathered = self.resized(f"{name} all_gather", x, "tokens_gathered", whole)
        if name == "lm_head":
            gathered, self._gathered = self._gathered, None
            return gathered
        return self._gathered

    def _added_up(self, name, addend, out):
        """The sum of what a matrix cut by rows gives; with sequence_parallel a rank's own tokens of it."""
        self._gathered = None
        self.tokens = self._all // self._parts
        if self._parts == 1:
            return self.copied(f"{name} all_reduce", addend, f"{out}_reduced")
        return self.resized(f"{name} reduce_scatter", addend, f"{out}_scattered", addend.nbytes // self._parts)

    def norm(self, name: str, x: View, out: str, width: int, vectors: int = 1) -> View:
        with self._own_tokens(name):
            return super().norm(name, x, out, width, vectors)

    def layer_norm(self, name: str, x: View, out: str) -> View:
        with self._own_tokens(name):
            return super().layer_norm(name, x, out)

    @contextlib.contextmanager
    def _own_tokens(self, name: str) -> Iterator[None]:
        """Norms of the residual stream see a rank's part of the tokens; what comes after them sees all."""
        whole = self.work
        if self._parts > 1 and name in ENDS:
            self.work = whole.changed(seq_len=whole.seq_len // self._parts)
        yield
        self.work = whole
        if name in ENDS:
            self.tokens = self._all


def step(p: RankTrained) -> None:
    """Forward, loss and backward of one microbatch on a rank; every instant is on the tape afterwards."""
    out = forward(p)
    p.t.note("end of forward")
    # the last stage begins backward with the loss, the others with a gradient that the next stage sends
    seed = p.t.make("loss", 4) if p.arch.last_stage else p.t.make(PASSING, out.nbytes)
    p.t.backward(out, seed)
    del seed
    p.t.where = ""
    p.t.note("end of backward")


def received(p: RankTrained) -> View:
    """What the stage before has sent, and is sent a gradient of."""
    receive = Operator("receive", [], 1, lambda grad: [])
    p.t.operators.append(receive)
    return View(p.t.make("received", p.rows(p.arch.hidden_size)), receive, p.bits)


def forward(p: RankTrained) -> View:
    """The stage's layers, with the embedding before them and norm, head and loss after them where it has these."""
    arch, t, table = p.arch, p.t, None
    if arch.first_stage:
        uses = 1 + arch.tie_word_embeddings
        table = p.parameter("embed_tokens", arch.embedding_rows * arch.hidden_size, uses)
    shared = p.shared()
    h = decoder.embedding(p, table) if arch.first_stage else received(p)
    if arch.first_stage and arch.learned_positions:
        h = gpt.positions(p, h)
    for index in p.folded.ends:
        with p.folded.layer(index):
            t.where = f"layers.{index}."
            run = functools.partial(gpt.block if arch.gpt_block else decoder.layer, p, shared, index)
            h = t.again(run, h) if p.training.checkpointing == "full" else run(h)
    t.where = ""
    del shared, run
    if not arch.last_stage:
        return h
    h = p.layer_norm("norm", h, "normed") if arch.gpt_block else p.norm("norm", h, "normed", arch.hidden_size)
    logits = p.linear("lm_head", h, "logits", table if arch.tie_word_embeddings else None)
    del h
    return decoder.loss(p, logits)
