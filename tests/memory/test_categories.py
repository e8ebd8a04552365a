"""What kind of memory the ledger books each tensor as."""

import numpy as np
import pytest
import torch
from tiny_qwen import ARCH, transformers_model
from torch import nn

import dsmem
from dsmem import Ledger, Workload, build_model

CACHE_BYTES = 2 * 3 * (2 * 16 * 2 * 8) * 2  # keys and values, layers, batch x tokens x heads x width, FP16


def test_gradients_of_a_backward_pass_are_a_category_of_their_own():
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    with Ledger(model) as ledger:
        model(torch.ones(4, 16)).sum().backward()
    booked = sum(record.nbytes for record in ledger.records if record.category == "gradient")
    assert booked == sum(parameter.nbytes for parameter in model.parameters())
    assert ledger.by_category()["gradient"] <= booked


def test_activations_outlive_their_module_and_temporaries_do_not():
    class Square(nn.Module):
        def forward(self, x):
            wide = x.double()
            return (wide * wide).float()

    model = nn.Sequential(Square(), nn.ReLU())
    with Ledger(model) as ledger:
        out = model(torch.ones(10))
    made = {record.op: record.category for record in ledger.records if record.module == "0" and record.nbytes == 80}
    assert set(made.values()) == {"temporary"}
    assert [r.category for r in ledger.records if r.module == "0" and r.nbytes == 40] == ["activation"]
    assert out.sum() == 10


class Widening(nn.Module):
    """One tensor that dies with the module's last step, and one that the module gives away."""

    def forward(self, x):
        wide = x.double()
        out = wide.float()
        del wide
        return out


def test_what_the_module_gives_away_is_an_activation_even_if_nobody_takes_it():
    """The first death after the module's end is an activation's, the last one before it a temporary's."""
    model, x = nn.Sequential(Widening()), torch.ones(10)
    with Ledger(model) as ledger:
        model(x)  # the result dies at once
    made = {record.nbytes: record for record in ledger.records if record.module == "0"}
    assert (made[80].category, made[40].category) == ("temporary", "activation")
    assert made[40].death == made[80].death + 1 == len(ledger.events) - 1


def test_what_is_made_outside_any_module_is_a_temporary():
    model = nn.Sequential(nn.ReLU())
    with Ledger(model) as ledger:
        kept = torch.ones(20) * 2
    assert {record.category for record in ledger.records} == {"temporary"} and kept.numel() == 20


@pytest.mark.parametrize("layout", ["static", "paged", "growing"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_cache_with_room_is_born_before_the_pass_and_a_growing_one_in_it(phase, layout):
    ledger = dsmem.measure(ARCH, Workload(2, 16, phase, cache=layout)).ledger
    first = next(record.birth for record in ledger.records if record.op != "(before)")
    cache = [record for record in ledger.records if record.category == "kv_cache" and record.nbytes]
    lasting = [record for record in cache if record.death is None and record.dtype == "float16"]
    assert sum(record.nbytes for record in lasting) == CACHE_BYTES
    if layout != "growing":
        assert {(record.op, record.module, record.death) for record in cache} == {("(before)", "", None)}
        assert max(record.birth for record in cache) < first
    else:  # it has no room of its own: each tensor is made anew by the layer that adds to it
        assert {record.module.split(".")[-1] for record in lasting} == {"self_attn"}
        assert min(record.birth for record in lasting) > first


@pytest.mark.parametrize("by_name", [True, False])
@torch.no_grad()
def test_our_static_cache_is_booked_as_kv_cache(by_name):
    model = build_model(ARCH, "fp16", "cpu")
    cache, tokens = model.new_cache(2, 16), torch.zeros(2, 16, dtype=torch.long)
    with Ledger(model) as ledger:
        model(tokens, cache=cache) if by_name else model(tokens, cache)
    assert ledger.by_category()["kv_cache"] == CACHE_BYTES


@torch.no_grad()
def test_a_cache_that_transformers_makes_and_returns_is_booked_as_kv_cache():
    model, tokens = transformers_model(), torch.zeros(2, 16, dtype=torch.long)
    with Ledger(model) as ledger:
        out = model(input_ids=tokens, use_cache=True)
    booked = [record for record in ledger.records if record.category == "kv_cache"]
    assert sum(record.nbytes for record in booked) == CACHE_BYTES
    assert out.past_key_values.get_seq_length() == 16


@torch.no_grad()
def test_a_cache_handed_to_transformers_is_booked_as_kv_cache_before_and_after_it_grew():
    model, tokens = transformers_model(), torch.zeros(2, 17, dtype=torch.long)
    past = model(input_ids=tokens[:, :16], use_cache=True).past_key_values
    with Ledger(model) as ledger:
        model(input_ids=tokens[:, 16:], past_key_values=past)
    booked = [record for record in ledger.records if record.category == "kv_cache"]
    assert sum(record.nbytes for record in booked) == CACHE_BYTES + CACHE_BYTES // 16 * 17


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_categories_sum_to_the_live_bytes_at_every_step(phase):
    timeline = dsmem.measure(ARCH, Workload(2, 16, phase)).ledger.timeline()
    assert np.array_equal(sum(timeline.by_category.values()), timeline.live_bytes)
    assert timeline.live_bytes[timeline.peak_step] == timeline.live_bytes.max()
    assert len(timeline.labels) == len(timeline.step) == len(timeline.live_bytes)
    assert (timeline.live_bytes >= 0).all()


def test_the_logits_outlive_the_pass_and_the_hidden_states_do_not():
    model = build_model(ARCH, "fp32", "cpu")
    with Ledger(model) as ledger:
        logits = model(torch.zeros(2, 16, dtype=torch.long))
    left = [r.module for r in ledger.records if r.death is None and r.category not in ("weight", "buffer", "input")]
    assert left == ["lm_head"] and logits.shape == (2, 16, 100)
