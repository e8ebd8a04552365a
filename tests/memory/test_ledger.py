"""The ledger against torch's own tracker, against hand counts, and against itself on real and fake tensors."""

import contextlib
import gc
import weakref

import pytest
import torch
from strategies import KV_CACHES
from tiny_qwen import ARCH, transformers_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

import dsmem
from dsmem import Ledger, Workload, build_model


def tracked_peak(model, call, *external):
    """Peak bytes by torch's tracker. It hooks gradients, so parameters must want one."""
    model.requires_grad_(True)
    tracker = MemTracker()
    tracker.track_external(model, *external)
    with tracker:
        call()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_transformers_forward_pass_peaks_where_torchs_tracker_says(attention):
    with FakeTensorMode(), torch.no_grad():
        model, tokens = transformers_model(attention), torch.zeros(2, 16, dtype=torch.long)
        with Ledger(model) as ledger:
            model(input_ids=tokens)
        assert ledger.peak_bytes == tracked_peak(model, lambda: model(input_ids=tokens), tokens)


def test_a_training_step_of_transformers_peaks_where_torchs_tracker_says():
    with FakeTensorMode():
        model, tokens = transformers_model(), torch.zeros(2, 16, dtype=torch.long)

        def step():
            model(input_ids=tokens, use_cache=False).logits.float().sum().backward()

        with Ledger(model) as ledger:
            step()
        model.zero_grad(set_to_none=True)
        assert ledger.peak_bytes == tracked_peak(model, step, tokens)


@pytest.mark.parametrize("attention", ["fused", "expanded", "eager", "eager_fp32"])
@torch.no_grad()
def test_our_forward_pass_peaks_where_torchs_tracker_says(attention):
    model = build_model(ARCH, "fp16", "fake")
    cache = model.new_cache(2, 16)
    with model.fake_mode:
        tokens = torch.zeros(2, 16, dtype=torch.long)

    def call():
        cache.length = 0
        model(tokens, cache=cache, attention=attention)

    with Ledger(model) as ledger:
        call()
    with model.fake_mode:  # torch's tracker ignores a fake mode that is entered after its own
        assert ledger.peak_bytes == tracked_peak(model, call, tokens, *cache.tensors().values())


def test_a_peak_counted_by_hand():
    with Ledger() as ledger:
        a = torch.ones(1000)  # 4,000 bytes
        b = a * 2  # 8,000
        del a  # 4,000
        c = b.double()  # 12,000
        del b, c
    assert ledger.peak_bytes == 12_000
    assert ledger.timeline().live_bytes.tolist() == [4000, 8000, 4000, 12_000, 8000, 0]
    assert ledger.timeline().labels == ["ones", "mul", "ones", "_to_copy", "mul", "_to_copy"]


def test_at_the_peak_records_come_largest_first():
    with Ledger() as ledger:
        tensors = [torch.zeros(size, dtype=torch.uint8) for size in (10, 30, 20)]
    assert [record.nbytes for record in ledger.at_peak()] == [30, 20, 10]
    assert len(tensors) == 3


def test_a_record_says_what_who_and_when():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    with torch.no_grad(), Ledger(model) as ledger:
        model(torch.ones(3, 4))
    record = next(record for record in ledger.records if record.op == "relu")
    assert (record.module, record.shape, record.dtype, record.nbytes) == ("1", (3, 8), "float32", 96)
    assert record.birth < record.death


def test_views_are_not_counted_twice():
    with Ledger() as ledger:
        x = torch.ones(100)
        views = [x[10:], x.view(10, 10), x.expand(5, 100), x.t(), x.detach()]
    assert (ledger.peak_bytes, len(ledger.records), len(views)) == (400, 1, 5)


def test_a_view_of_a_tensor_from_before_is_no_birth():
    x = torch.ones(100)
    with Ledger() as ledger:
        view = x[:50]
        view.add_(1)
    assert [(record.op, record.nbytes) for record in ledger.records] == [("(before)", 400)]


def test_a_storage_lives_as_long_as_its_last_view():
    with Ledger() as ledger:
        x = torch.ones(100)
        view = x[:1]
        del x
        y = torch.zeros(100)
        del view
    assert ledger.peak_bytes == 800
    assert y.numel() == 100


def test_a_parameter_shared_by_two_modules_counts_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    with Ledger(model) as ledger:
        pass
    assert ledger.by_category() == {"weight": 256}


def test_two_parameters_on_one_storage_count_once():
    flat = torch.zeros(64)
    model = nn.ParameterList([flat[:32], flat[32:]])
    with Ledger(model) as ledger:
        pass
    assert ledger.by_category() == {"weight": 256}


def test_what_existed_before_is_counted_from_the_start_however_late_it_is_touched():
    old = torch.ones(100)
    with Ledger() as ledger:
        passing = torch.ones(1000)
        del passing
        old.add_(1)
    assert ledger.peak_bytes == 4400
    assert ledger.timeline().live_bytes.tolist() == [400, 4400, 400]


def test_a_storage_freed_and_refilled_in_place_is_followed():
    with Ledger() as ledger:
        x = torch.zeros(100)
        x.untyped_storage().resize_(0)
        y = torch.zeros(50)
        x.untyped_storage().resize_(800)
        del y
    assert ledger.timeline().live_bytes.tolist() == [400, 0, 0, 200, 200, 1000, 800]
    assert ledger.peak_bytes == 1000


def test_a_storage_that_is_met_as_it_is_refilled_counts_from_then_on():
    empty, full = torch.zeros(100), torch.zeros(25)
    empty.untyped_storage().resize_(0)
    with Ledger() as ledger:
        empty.untyped_storage().resize_(400)
        empty.add_(1)
        full.untyped_storage().resize_(0)
    assert ledger.timeline().live_bytes.tolist() == [0, 100, 100, 500, 400, 400]
    assert [(record.shape, record.dtype) for record in ledger.at_peak()] == [((100,), "float32"), ((100,), "bytes")]


def test_a_tensor_grown_by_an_operator_is_followed():
    with Ledger() as ledger:
        x = torch.zeros(10)
        x.resize_(1000)
    assert ledger.peak_bytes == 4000


def test_tensors_of_no_bytes_change_nothing():
    with Ledger() as ledger:
        empty = torch.empty(0, 5)
        x = torch.cat([empty, torch.ones(2, 5)])
        total = empty.sum() + x.sum()
    assert ledger.peak_bytes == 80  # the ones, and the result of cat
    assert total == 10 and x.shape == (2, 5)
    assert {record.nbytes for record in ledger.records if record.shape == (0, 5)} == {0}


def test_a_ledger_that_saw_nothing_is_empty():
    with Ledger() as ledger:
        pass
    assert (ledger.peak_bytes, ledger.at_peak(), ledger.by_category(), ledger.by_device()) == (0, [], {}, {})
    assert ledger.timeline().live_bytes.tolist() == []


class Failing(nn.Module):
    def forward(self, x):
        return x @ torch.ones(7, 9)


def test_an_exception_leaves_no_hook_behind():
    model, resize = nn.Sequential(nn.Linear(4, 4), Failing()), torch.UntypedStorage.resize_
    with pytest.raises(RuntimeError), Ledger(model):
        model(torch.ones(2, 4))
    assert [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks] == []
    assert torch.UntypedStorage.resize_ is resize
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_after_an_exception_inside_the_block_no_module_is_at_work():
    model = nn.Sequential(nn.Linear(4, 4), Failing())
    with Ledger(model) as ledger:
        with contextlib.suppress(RuntimeError):
            model(torch.ones(2, 4))
        later = torch.zeros(123)
    assert next(record for record in ledger.records if record.shape == (123,)).module == ""
    assert later.numel() == 123


def test_an_exception_still_gives_a_ledger():
    model = nn.Sequential(nn.Linear(4, 4), Failing())
    with contextlib.suppress(RuntimeError), Ledger(model) as ledger:
        model(torch.ones(2, 4))
    assert ledger.peak_bytes >= 80 + 32 + 32 + 7 * 9 * 4
    assert {record.category for record in ledger.records} <= set(dsmem.memory.ledger.CATEGORIES)


def test_a_finished_ledger_keeps_no_weights_alive():
    model = nn.Linear(4, 4)
    with Ledger(model) as ledger:
        model(torch.ones(2, 4))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert ledger.device == "cpu" and ledger.by_category()["weight"] == 80


def test_a_ledger_entered_again_does_not_count_the_weights_twice():
    model, x = nn.Linear(4, 4), torch.ones(2, 4)
    ledger = Ledger(model)
    with ledger:
        model(x)
    once = ledger.peak_bytes
    with contextlib.suppress(ValueError), ledger:  # a refusal is as good
        model(x)
    assert ledger.peak_bytes == once


class Pair(torch.Tensor):
    """The least that torch calls a traceable wrapper: a tensor that holds two, and claims the size of both."""

    @staticmethod
    def __new__(cls, a, b):
        shape = (2 * a.shape[0], *a.shape[1:])
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=a.dtype, device=a.device)

    def __init__(self, a, b):
        self.a, self.b = a, b

    def __tensor_flatten__(self):
        return ["a", "b"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return Pair(inner["a"], inner["b"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        halves = [[getattr(x, name) if isinstance(x, Pair) else x for x in args] for name in ("a", "b")]
        return Pair(*(func(*half, **(kwargs or {})) for half in halves))


def test_a_wrapper_subclass_counts_as_the_tensors_it_wraps():
    pair = Pair(torch.ones(10), torch.ones(10))
    with Ledger() as ledger:
        product = pair * 2
    assert sorted(record.nbytes for record in ledger.records) == [40] * 4
    assert ledger.peak_bytes == 160 and product.shape == (20,)


@pytest.fixture
def one_of_four_ranks():
    """A process group of four ranks of which only this one exists."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (4,))
    torch.distributed.destroy_process_group()


def test_a_sharded_parameter_counts_as_the_shard_of_this_rank(one_of_four_ranks):
    from torch.distributed.tensor import DTensor, Shard

    model = nn.Linear(8, 64, bias=False)
    shard = DTensor.from_local(torch.zeros(16, 8), one_of_four_ranks, [Shard(0)], run_check=False)
    model.weight = nn.Parameter(shard)
    assert model.weight.shape == (64, 8)
    with Ledger(model) as ledger:
        pass
    assert ledger.by_category() == {"weight": 16 * 8 * 4}


def events(run):
    """Births and deaths in order, but the deaths of inputs: a real pass leaves its token ids to the caller."""
    lasting = [(r, sign) for r, sign in run.ledger.events if sign > 0 or r.category != "input"]
    return [(r.op, r.module, r.nbytes, r.shape, r.dtype, r.category, sign) for r, sign in lasting]


@pytest.mark.parametrize("attention", ["fused", "expanded", "eager", "eager_fp32"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("kv_cache", KV_CACHES)
def test_fake_tensors_tell_the_same_story_as_real_ones(phase, attention, kv_cache):
    work = Workload(2, 9, phase, weights="bf16", kv_cache=kv_cache, attention=attention)
    fake, real = (dsmem.measure(ARCH, work, device=device) for device in ("fake", "cpu"))
    assert events(fake) == events(real)


def test_fake_tensors_of_transformers_tell_the_same_story_as_real_ones():
    def peak():
        model, tokens = transformers_model("eager"), torch.zeros(2, 16, dtype=torch.long)
        with torch.no_grad(), Ledger(model) as ledger:
            model(input_ids=tokens)
        return ledger.peak_bytes, ledger.by_category()

    real = peak()
    with FakeTensorMode():
        assert peak() == real


def test_the_peak_is_told_alike_in_every_way():
    ledger = dsmem.measure(ARCH, Workload(2, 16)).ledger
    peak = ledger.peak_bytes
    assert sum(record.nbytes for record in ledger.at_peak()) == peak
    assert sum(ledger.by_category().values()) == peak
    assert ledger.by_device() == {"cpu": peak}
    assert ledger.timeline().live_bytes.max() == peak


def test_the_ledger_changes_no_result():
    model, tokens = build_model(ARCH, "fp32", "cpu"), torch.zeros(2, 16, dtype=torch.long)
    without = model(tokens)
    with Ledger(model):
        within = model(tokens)
    assert torch.equal(without, within)


def test_a_ledger_shows_itself_at_work_and_afterwards(refuses):
    with Ledger() as ledger:
        del_me = torch.ones(256)
        del del_me
        assert repr(ledger) == "<a ledger at work: 1 tensors so far>" and ledger._repr_html_() is None
        refuses(ledger.by_category, "at work")
        refuses(ledger.timeline, "at work")
    assert repr(ledger).splitlines()[0] == "1 tensors on cpu, at most 1.00 KiB at one instant"
    assert ledger._repr_html_().startswith("<table>")
    assert repr(ledger.records) == "[<Record 1.00 KiB: temporary (256,) float32 on cpu, by ones, events 0 to 1>]"
    assert repr(Ledger()) == "<a ledger that has booked nothing>"
    refuses(lambda: ledger.by("size"), "field='size'", "category")
