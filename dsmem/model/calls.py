"""What a decoder may be called with, and what follows from it."""

from typing import TYPE_CHECKING

import torch

from dsmem.model.devices import ATTENTION
from dsmem.units import format_name, one_of

if TYPE_CHECKING:
    from dsmem.model.cache import KVCache

LOGITS = ("all", "last", "none")


def check_call(tokens: torch.Tensor, cache: "KVCache | None", attention: str, logits: str) -> None:
    """Raise ValueError for a call of `Decoder.forward` that cannot be run; the arguments are those of it."""
    one_of("attention", attention, ATTENTION, "an attention that runs here")
    one_of("logits", logits, LOGITS, "a choice")
    if tokens.dim() != 2 or 0 in tokens.shape:
        raise ValueError(f"tokens has shape {tuple(tokens.shape)}; it must be (batch, seq_len), neither of them 0")
    if tokens.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"tokens has dtype={format_name(tokens.dtype)!r}; it must be whole numbers, int64 or int32")
    if cache is None:
        return
    if tokens.shape[0] != cache.batch or (cache.room is not None and tokens.shape[1] > cache.room):
        raise ValueError(
            f"tokens has shape {tuple(tokens.shape)}; the cache takes {cache.batch} sequences of at most {cache.room} "
            "more tokens"
        )
    if cache.layout == "sink" and cache.length and tokens.shape[1] > 1:
        raise ValueError(
            f"tokens has {tokens.shape[1]} per sequence; a cache that gives tokens up takes 1 more at a time"
        )
    if cache.layout == "sink" and tokens.shape[1] > cache.max_len:
        raise ValueError(
            f"tokens has {tokens.shape[1]} per sequence; a cache that gives tokens up takes at most {cache.max_len} at "
            "once"
        )


def settled_absorbed(tokens: torch.Tensor, cache: "KVCache | None", absorbed: bool | None) -> bool:
    """Whether latent attention works on the cached latents themselves; the arguments are those of `Decoder.forward`.

    Raises ValueError where that cannot be.
    """
    latent = cache is not None and cache.latent
    if absorbed and not (latent and tokens.shape[1] == 1):
        raise ValueError(f"absorbed={absorbed!r} goes with a latent cache and 1 new token; leave it out")
    return bool(latent and cache.length and tokens.shape[1] == 1) if absorbed is None else absorbed
