"""Requests in batches: padding never helps, sorting never hurts, and a cache's births and deaths are PyTorch's own."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from matplotlib.figure import Figure

from dsmem import formulas, plots
from dsmem.config.architecture import Architecture
from dsmem.formulas import kv_cache_bytes
from dsmem.memory.ledger import Ledger
from dsmem.memory.replay import replay
from dsmem.model.decoder import build_model
from dsmem.serving import requests as serving
from dsmem.serving.requests import Requests, bucketed_tokens, packed_tokens, padded_tokens, request_mix, serve

lengths = st.lists(st.integers(1, 3000), min_size=1, max_size=40)
requests = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=9).map(
    lambda pairs: Requests(*np.array(pairs).T)
)
SMALL = {"layers": 2, "token_bytes": 1024, "longest": 100}


@given(lengths, st.integers(1, 9))
def test_packed_is_the_tokens_themselves_and_padding_only_adds(lengths, batch):
    assert packed_tokens(lengths) == sum(lengths)
    assert sum(lengths) <= padded_tokens(lengths, batch) <= len(lengths) * max(lengths)
    assert bucketed_tokens(lengths, batch) >= sum(lengths)


@given(lengths, st.integers(1, 9))
def test_sorting_never_hurts_where_all_batches_are_whole(lengths, batch):
    lengths = lengths * batch
    assert bucketed_tokens(lengths, batch) <= padded_tokens(lengths, batch)


@given(lengths)
def test_alone_or_all_together(lengths):
    assert padded_tokens(lengths, 1) == bucketed_tokens(lengths, 1) == sum(lengths)
    assert padded_tokens(lengths, len(lengths)) == len(lengths) * max(lengths)


def test_padding_is_what_torch_pads():
    lengths, batch = [5, 3, 7, 2, 4], 2
    rows = [torch.ones(length) for length in lengths]
    groups = [torch.nn.utils.rnn.pad_sequence(rows[start : start + batch]) for start in range(0, 5, batch)]
    assert padded_tokens(lengths, batch) == sum(group.numel() for group in groups)


@given(requests, st.integers(1, 4), st.sampled_from(serving.LAYOUTS))
def test_a_cache_holds_all_tokens_and_its_tensors_are_what_the_events_say(requests, batch, layout):
    served = serve(requests, batch, layout, **SMALL)
    assert np.all(served.held_bytes <= served.room_bytes) and 0 < served.token_share <= 1
    replayed = replay(served.events)
    at_ends = replayed.requested_bytes[served.ends]
    assert replayed.requested_bytes[-1] == 0
    if layout == "paged":
        assert np.all(at_ends == served.room_bytes.max())
    else:
        assert np.all(at_ends == served.room_bytes)


@given(requests)
def test_alone_a_growing_cache_holds_nothing_but_tokens(requests):
    assert serve(requests, 1, "growing", **SMALL).token_share == 1


@given(requests, st.integers(1, 4), st.integers(1, 20))
def test_pages_waste_less_than_one_page_for_each_request_at_work(requests, batch, page):
    served = serve(requests, batch, "paged", page=page, **SMALL)
    assert np.all(served.room_bytes - served.held_bytes < batch * page * 2 * 2 * 1024)


def test_a_growing_cache_is_what_the_ledger_sees_of_torch_cat():
    """Two layers' keys and values, grown by hand on real tensors."""
    served = serve(Requests(np.array([6, 4]), np.array([3, 3])), 2, "growing", **SMALL)
    with Ledger() as ledger:
        cache = [torch.empty(2, 6, 512, dtype=torch.float16) for _ in range(4)]
        for _ in range(3):
            for slot in range(4):
                fresh = torch.empty(2, 1, 512, dtype=torch.float16)
                cache[slot] = torch.cat((cache[slot], fresh), dim=1)
        del cache, fresh
    cats = [(record.nbytes, sign) for record, sign in ledger.events if record.shape[1] > 1]
    changes = [abs(change) // 1024 for _, change, _ in served.events]
    assert [nbytes for nbytes, _ in cats] == [tokens * 1024 for tokens in changes]
    assert [sign for _, sign in cats] == [1 if change > 0 else -1 for _, change, _ in served.events]


def test_a_static_cache_is_the_formula():
    served = serve(Requests(np.array([6, 4]), np.array([3, 3])), 2, "static", **SMALL)
    assert set(served.room_bytes) == {kv_cache_bytes(2, 100, 2, 4, 128, 16)}


def test_a_request_that_is_done_waits_for_the_longest_of_its_batch():
    served = serve(Requests(np.array([1, 1]), np.array([1, 3])), 2, "growing", **SMALL)
    unit = 2 * 2 * 1024
    assert (served.held_bytes // unit).tolist() == [2, 4, 3, 4]
    assert (served.room_bytes // unit).tolist() == [2, 4, 6, 8]


def test_a_mix_is_the_same_each_time_and_keeps_to_its_longest():
    one, two = request_mix(500, seed=3), request_mix(500, seed=3)
    assert one.lengths.tolist() == two.lengths.tolist()
    assert one.lengths.max() <= 2048 and one.prompts.min() >= 1 and one.outputs.min() >= 1
    assert np.median(one.prompts) == pytest.approx(400, rel=0.2)


def test_the_ceiling_of_a_decode_step_rises_with_the_batch_until_the_cache_is_all():
    batch = np.array([1, 8, 1e9])
    ceiling = formulas.decode_tokens_per_s(batch, 15e9, 0.1e9, 300e9)
    assert ceiling[0] == pytest.approx(300 / 15.1) and ceiling[1] == pytest.approx(8 * 300 / 15.8)
    assert ceiling[2] == pytest.approx(300e9 / 0.1e9, rel=1e-6)


def test_bad_input_is_refused_in_a_sentence(refuses):
    mix = request_mix(2)
    refuses(lambda: request_mix(0), "count", "0", "at least 1")
    refuses(lambda: request_mix(2, longest=1), "longest", "1", "at least 2")
    refuses(lambda: padded_tokens([3, 0], 2), "lengths", "[3, 0]", "at least 1")
    refuses(lambda: padded_tokens([3], 0), "batch", "0", "at least 1")
    refuses(lambda: serve(mix, 1, "rolling", layers=1, token_bytes=1), "layout", "'rolling'", "growing, static, paged")
    refuses(lambda: serve(mix, 1, "paged", layers=1, token_bytes=0), "token_bytes", "0", "at least 1")
    refuses(lambda: serve(mix, 1, "static", layers=1, token_bytes=1, longest=5), "longest", "5", "must fit")


@given(requests, st.integers(1, 4), st.sampled_from(serving.LAYOUTS))
def test_the_parts_of_a_served_mix_add_up_to_what_is_reserved(requests, batch, layout):
    served = serve(requests, batch, layout, **SMALL)
    assert sum(served.mean_parts.values()) == pytest.approx(served.reserved_bytes.mean())
    assert served.mean_parts["kv_cache"] == pytest.approx(served.held_bytes.mean())
    assert 0 <= served.free_share < 1 and min(served.mean_parts.values()) > -1


def test_a_server_keeps_the_last_caches_and_nothing_of_the_weights():
    arch = Architecture.from_config("qwen2.5-0.5b").scaled(num_hidden_layers=2)
    events = serving.prompt_events(build_model(arch, device="fake"), np.array([7, 5, 9]), keep=2, room=10)
    born = [nbytes for _, nbytes, label in events if label == "kv_cache" and nbytes > 0]
    wanted = [
        kv_cache_bytes(1, length + 10, 2, arch.num_key_value_heads, arch.head_dim, bits=16) for length in (7, 5, 9)
    ]
    assert sum(born) == sum(wanted)
    assert sum(nbytes for _, nbytes, label in events if label == "kv_cache") == sum(wanted[1:])
    assert "weight" not in {label for _, _, label in events}


def test_throughput_is_drawn_in_multiples_of_the_first_batch():
    ax = Figure(layout="constrained").subplots()
    plots.plot_throughput({"line": ([1, 2], [10, 15])}, {"dots": ([1, 4], [5, 15])}, ax=ax)
    assert ax.dsmem_data == [("line", 1, 1.0), ("line", 2, 1.5), ("dots", 1, 1.0), ("dots", 4, 3.0)]
