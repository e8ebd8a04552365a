"""What it costs in quality to keep only the first and the newest tokens: read a whole text at once, through a mask.

A decode loop over a `layouts.Sink` takes one pass per token. A single pass over all tokens gives the same numbers, if a
mask hides what such a cache would have dropped by then. This pass does not save the memory that such a cache saves: it
needs the mask and the scores of all pairs of tokens.
"""

import dataclasses

import torch


def sink_mask(seq_len: int, sink: int, recent: int, device: torch.device | str | None = None) -> torch.Tensor:
    """True where token i cannot see token j, (seq_len, seq_len): j comes later, or has been dropped.

    Token i sees the first `sink` tokens and the `recent` newest ones, including itself. device: of the mask; defaults
    to PyTorch's. Raises ValueError for an impossible count. Source: arXiv 2309.17453, section 3.

    >>> sink_mask(5, sink=1, recent=2).int()[4]
    tensor([0, 1, 1, 0, 0], dtype=torch.int32)
    """
    for argument, value, least in (("seq_len", seq_len, 1), ("sink", sink, 0), ("recent", recent, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(
                f"{argument}={value!r} is not a count of tokens; it must be a whole number of at least {least}"
            )
    position = torch.arange(seq_len, device=device)
    age = position[:, None] - position
    return (age < 0) | ((age >= recent) & (position >= sink))


@torch.no_grad()
def sink_logits(model: torch.nn.Module, tokens: torch.Tensor, sink: int, recent: int) -> torch.Tensor:
    """Logits (batch, seq_len, vocab_size), as from a decode loop over a cache of `sink + recent` tokens.

    model: a `Decoder`. tokens: (batch, seq_len), read from position 0. sink, recent: as in `sink_mask`.
    Raises ValueError for a model whose layers slide.
    """
    if model.arch.sliding_window is not None:
        raise ValueError(
            f"model={model.arch.name!r} has layers that slide; it must attend to all tokens in every layer"
        )
    mask = sink_mask(tokens.shape[1], sink, recent, tokens.device)
    step = dataclasses.replace(model.step(tokens.shape[1]), mask=mask, attention="eager")
    return model.head(model.norm(model.hidden(tokens, step)))
