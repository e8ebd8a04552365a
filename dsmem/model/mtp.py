"""Multi-token prediction: modules beside the decoder that predict tokens further ahead (arXiv 2412.19437, section 2.2).

DeepSeek-V3 and R1 have one. It has 11.6 billion parameters, which a server may leave out or use to draft tokens.
"""

import torch
from torch import nn

from dsmem.model.layers import Linear, RMSNorm


class FurtherToken(nn.Module):
    """One module: joins the model's state at a position with the token after it, and runs one more decoder layer.

    arch: an `Architecture`. layer: the decoder layer that it runs. like: `dtype` and `device` of the parameters.
    Embedding and head are the decoder's own. Parts are named as in transformers' `MtpLayer`.
    """

    def __init__(self, arch, layer, **like):
        super().__init__()
        if arch.shares_index(arch.num_hidden_layers - 1):
            raise ValueError(
                f"mtp=True builds modules like the last layer of {arch.name}, which has no indexer; allowed: False"
            )
        self.enorm = RMSNorm(arch.hidden_size, arch.rms_norm_eps, **like)
        self.hnorm = RMSNorm(arch.hidden_size, arch.rms_norm_eps, **like)
        self.eh_proj = Linear(2 * arch.hidden_size, arch.hidden_size, bias=False, **like)
        self.mtp_block = layer
        self.post_norm = RMSNorm(arch.hidden_size, arch.rms_norm_eps, **like)

    def forward(self, embedded, h, step):
        """Normed states (batch, seq_len, hidden_size); the head turns them into logits of the token one further ahead.

        embedded: embedding of the token after each position, (batch, seq_len, hidden_size). h: normed states of the
        model, or of the module before, in the same shape. step: from `model.step`.
        """
        joined = torch.cat((self.enorm(embedded), self.hnorm(h)), dim=-1)
        return self.post_norm(self.mtp_block(self.eh_proj(joined), step))


def further_logits(model: nn.Module, tokens: torch.Tensor, attention: str = "fused") -> list[torch.Tensor]:
    """Logits of the tokens two and more ahead, one tensor per module: (batch, seq_len - 1 - i, vocab_size).

    model: a `Decoder` built with `mtp=True`. tokens: (batch, seq_len), with seq_len larger than the number of modules.
    attention: as in `Step`. The rotary positions of each module start at 0, as in transformers.
    Raises ValueError for a model without modules and for too few tokens.
    """
    if not model.mtp:
        raise ValueError(f"model={model.arch.name} has no modules for further tokens; build it with mtp=True")
    if tokens.shape[1] < len(model.mtp) + 1:
        raise ValueError(f"tokens has {tokens.shape[1]} per sequence; it must have at least {len(model.mtp) + 1}")
    h, logits = model.norm(model.hidden(tokens, model.step(tokens.shape[1], attention=attention))), []
    for depth, module in enumerate(model.mtp, start=1):
        embedded = model.embed_tokens(tokens[:, depth:])
        h = module(embedded, h[:, :-1], model.step(embedded.shape[1], attention=attention))
        logits.append(model.lm_head(h))
    return logits
