"""Latent attention in training, where the latent and the rotated key stay apart: `model.attention.LatentAttention`."""

from dsmem.footprint.training.attending import attended
from dsmem.footprint.training.graph import View, passes_on_twice
from dsmem.footprint.training.operators import Shared, Trained


def mix(p: Trained, shared: Shared, slides: bool, x: View) -> View:
    """`LatentAttention.mix`."""
    q = queries(p, shared.angles, x)
    k, v = keys_and_values(p, shared.angles, x)
    arch = p.arch
    if p.work.attention == "eager":
        k = p.by_head(k)
        v = p.by_head(v)
        q = p.by_head(q)
        return attended(p, q, k, v, shared.masks.get(slides))
    q, k, v = p.autocasted(q, k, v)
    if arch.v_head_dim == arch.qk_head_dim:
        return attended(p, q, k, v, shared.masks.get(slides))
    v = p.resized("pad_values", v, "value_padded", q.nbytes)
    return trimmed(p, attended(p, q, k, v, shared.masks.get(slides)))


def queries(p: Trained, angles: list, x: View) -> View:
    """`LatentAttention.queries`."""
    arch = p.arch
    if arch.q_lora_rank is None:
        q = p.linear("q_proj", x, "query")
    else:
        latent = p.norm(
            "q_a_layernorm", p.linear("q_a_proj", x, "query_latent"), "query_latent_normed", arch.q_lora_rank
        )
        q = p.linear("q_b_proj", latent, "query")
        del latent
    return p.rotated_part("rotate", q, "query", angles, arch.qk_rope_head_dim, arch.qk_head_dim)


def latents(p: Trained, angles: list, x: View) -> tuple[View, View]:
    """`LatentAttention.latents`."""
    arch = p.arch
    both = p.linear("kv_a_proj_with_mqa", x, "latents")
    if not both.learns:
        return in_place(p, both)
    sizes = p.rows(arch.kv_lora_rank, both.bits), p.rows(arch.qk_rope_head_dim, both.bits)
    latent, key = p.t.parts("split_latents", both, sizes)
    del both
    latent = p.norm(
        "kv_a_layernorm", p.copied("copy_latent", latent, "latent_copy"), "latent_normed", arch.kv_lora_rank
    )
    return latent, p.rotated("rotate_key", key, "key_rotated", angles)


def in_place(p: Trained, both: View) -> tuple[View, View]:
    """The same where no gradient comes back: latent and key are written over what they come from."""
    arch = p.arch
    sizes = p.rows(arch.kv_lora_rank, both.bits), p.rows(arch.qk_rope_head_dim, both.bits)
    latent, key = p.t.parts("split_latents", both, sizes)
    copy = p.copied("copy_latent", latent, "latent_copy")
    p.norm("kv_a_layernorm", copy, "latent_normed", arch.kv_lora_rank)
    del copy
    p.t.glimpse("rotate_key", key_rotated=key.nbytes)
    return latent, key


def keys_and_values(p: Trained, angles: list, x: View) -> tuple[View, View]:
    """`LatentAttention.expand` of the latents."""
    arch, heads = p.arch, p.arch.num_attention_heads
    latent, key = latents(p, angles, x)
    both = p.linear("kv_b_proj", latent, "kv_expanded")
    sizes = p.rows(heads * arch.qk_nope_head_dim, both.bits), p.rows(heads * arch.v_head_dim, both.bits)
    plain, v = p.t.parts("split_keys_values", both, sizes)
    del both
    wide = p.t.seen("expand", key) if heads > 1 else key
    plain = p.cast("keys.widen", plain, "key_plain_float32", wide.bits)
    # the gradients of both parts are views of the one of the keys
    made = {"key": p.rows(heads * arch.qk_head_dim, wide.bits)}
    return p.t.apply("keys", [plain, wide], made, passes_on_twice), v


def trimmed(p: Trained, out: View) -> View:
    """Attention's output cut back to the width of values, and a copy in order."""
    arch = p.arch
    narrow = p.rows(arch.num_attention_heads * arch.v_head_dim, out.bits)
    cut = p.t.seen("slice", out, narrow)
    return p.copied("trim_heads", cut, "attention_trimmed")
