"""What it costs in quality to keep the first and the newest tokens only: read a whole text at once, through a mask.

A decode loop over a `caches.Sink` takes a pass for each token. The same numbers come out of one pass over all of them,
if attention is kept from what such a cache would have given up by then. Memory is the cache's, not this pass's: the
mask, and scores of all pairs of tokens, are the price of doing it at once.
"""

import dataclasses

import torch


def sink_mask(seq_len, sink, recent, device=None):
    """True where token i cannot see token j, (seq_len, seq_len): it is yet to come, or was given up.

    Token i sees the first `sink` tokens and the `recent` newest ones, itself among them.
    Source: arXiv 2309.17453, section 3.

    >>> sink_mask(5, sink=1, recent=2).int()[4]
    tensor([0, 1, 1, 0, 0], dtype=torch.int32)
    """
    for argument, value, least in (("seq_len", seq_len, 1), ("sink", sink, 0), ("recent", recent, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{argument}={value!r} is no count of tokens; it must be a whole number, at least {least}")
    position = torch.arange(seq_len, device=device)
    age = position[:, None] - position
    return (age < 0) | ((age >= recent) & (position >= sink))


@torch.no_grad()
def sink_logits(model, tokens, sink, recent):
    """Logits (batch, seq_len, vocab_size) of a `Decoder`, as from a decode loop over a cache of `sink + recent` tokens.

    tokens: (batch, seq_len), read from position 0. sink, recent: as in `sink_mask`.
    """
    mask = sink_mask(tokens.shape[1], sink, recent, tokens.device)
    step = dataclasses.replace(model.step(tokens.shape[1]), mask=mask, attention="eager")
    return model.lm_head(model.norm(model.hidden(tokens, step)))
