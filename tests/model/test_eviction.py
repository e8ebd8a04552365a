"""One masked pass gives the logits of a decode loop over a cache that drops tokens."""

import pytest
import torch

from dsmem import Architecture, build_model
from dsmem.model import checkpoint, small
from dsmem.model.eviction import sink_logits, sink_mask

TEXT = torch.tensor(list(small.small_text()))
MODEL = checkpoint.load_model(small.small_path(), weights="fp32")


def decoded(model, tokens, sink, recent):
    """Logits of a decode loop over a sink cache, token by token."""
    cache = model.new_cache(len(tokens), sink + recent, layout="sink", sink=sink)
    with torch.no_grad():
        return torch.cat([model(tokens[:, [i]], cache=cache) for i in range(tokens.shape[1])], dim=1)


@pytest.mark.parametrize(("sink", "recent"), [(4, 4), (0, 3), (1, 1), (4, 60)])
def test_a_masked_pass_is_a_decode_loop_over_a_sink_cache(sink, recent):
    tokens = TEXT[:80].view(2, 40)
    torch.testing.assert_close(
        sink_logits(MODEL, tokens, sink, recent), decoded(MODEL, tokens, sink, recent), rtol=1e-4, atol=1e-4
    )


def test_grouped_heads_give_up_tokens_too():
    arch = Architecture.from_config("qwen2.5-0.5b").scaled(num_hidden_layers=2, vocab_size=300)
    model, tokens = build_model(arch, "fp32", "cpu"), TEXT[:40].view(2, 20)
    torch.testing.assert_close(sink_logits(model, tokens, 2, 5), decoded(model, tokens, 2, 5), rtol=1e-3, atol=1e-3)


def test_with_room_for_all_it_is_the_model_itself():
    tokens = TEXT[None, :50]
    with torch.no_grad():
        torch.testing.assert_close(sink_logits(MODEL, tokens, 4, 50), MODEL(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("sink", "recent"), [(0, 1), (2, 3), (4, 8), (9, 1)])
def test_a_token_sees_as_many_as_the_cache_holds(sink, recent):
    seen = (~sink_mask(12, sink, recent)).sum(dim=1).tolist()
    assert seen == [min(count, sink + recent) for count in range(1, 13)]


def test_impossible_windows_are_refused(refuses):
    refuses(lambda: sink_mask(8, -1, 4), "sink=-1", "at least 0")
    refuses(lambda: sink_mask(8, 4, 0), "recent=0", "at least 1")
    refuses(lambda: sink_mask(8.0, 4, 1), "seq_len=8.0", "whole number")
