"""A pass retold instant by instant, in the order in which `model`, `attention` and `experts` run it.

Each function walks beside one of theirs: what it makes, what is alive next to it, what dies. Of layers that are alike
only the last is walked, for no earlier one holds more.
"""

from dsmem import formulas
from dsmem.units import dtype_bits
from dsmem.walks.attention import walk_attention
from dsmem.walks.base import Walk, walk_linear
from dsmem.walks.blocks import walk_experts, walk_mlp
from dsmem.walks.cache import set_grown


def walk(arch, work, held):
    """{instant: {part: bytes}} of one pass, with the parts `held` alive all through."""
    walk = Walk(held)
    walk_attention(walk, arch, work)
    sparse = arch.expert_layers
    dense = [index for index in range(arch.num_hidden_layers) if not arch.has_experts(index)]
    for layers, walk_kind in ((dense, walk_mlp), (sparse, walk_experts)):
        if layers:
            before = dict(walk.alive)
            set_grown(walk, arch, work, max(layers) + 1)
            walk_kind(walk, arch, work)
            walk.alive = before
    set_grown(walk, arch, work, arch.num_hidden_layers)
    walk.drop("residual")
    walk_head(walk, arch, work)
    return walk.phases


def walk_head(walk, arch, work):
    """The final norm and the logits, of all positions or of the last."""
    positions = work.new_tokens if work.logits == "all" else 1
    bits = dtype_bits(work.activations)
    walk.alive |= {"normed": formulas.hidden_state_bytes(work.batch, positions, arch.hidden_size, bits)}
    logits = formulas.logits_bytes(work.batch, positions, arch.vocab_size, bits)
    walk_linear(walk, arch, work, "lm_head", {"logits": logits}, positions=positions)
