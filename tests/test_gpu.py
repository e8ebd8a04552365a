"""What only a GPU can say. Skipped where there is none; everything here is small enough for a GPU of 15 GiB."""

import pytest
import standins
import torch

import dsmem
from dsmem import Architecture, Workload
from dsmem.memory import cuda
from dsmem.model import flash as kernels
from dsmem.model import operators
from dsmem.model.devices import attention_for
from dsmem.runs import cells, suite
from dsmem.runs.provenance import SAME, provenance
from dsmem.runs.workers import Worker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]

QWEN = Architecture.from_config("qwen2.5-0.5b")
SMALL = QWEN.scaled(num_hidden_layers=4)
MODERN = torch.cuda.is_available() and torch.cuda.get_device_capability() >= kernels.MIN_FLASH_CAPABILITY
flash = pytest.mark.skipif(not MODERN, reason="needs compute capability 8.0, the flash kernel")
old = pytest.mark.skipif(MODERN, reason="needs a GPU below compute capability 8.0, such as a T4")
LOST = []


@pytest.fixture(autouse=True)
def a_lost_gpu_is_named(request):
    """After an illegal address or the like every CUDA call of the process fails: the tests that follow are skipped."""
    if LOST:
        pytest.skip(f"{suite.LOST} since {LOST[0]}")
    yield
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        LOST.append(request.node.name)


def passes():
    """Workloads that the GPU at hand can run, with a name each."""
    fused = attention_for("cuda", QWEN) if torch.cuda.is_available() else "fused"
    yield "prefill", Workload(2, 512, weights="fp16", attention=fused)
    yield "prefill, last logits", Workload(4, 256, weights="fp16", attention=fused, logits="last")
    yield "prefill, eager", Workload(2, 256, weights="fp16", attention="eager")
    yield "prefill, eager, softmax in float32", Workload(2, 256, weights="fp16", attention="eager_fp32")
    yield "prefill, eager, softmax in float32, BF16", Workload(2, 256, weights="bf16", attention="eager_fp32")
    yield "prefill, widened", Workload(2, 256, weights="fp16", attention="expanded")
    yield "prefill, no cache", Workload(1, 1024, weights="fp16", attention=fused, cache="none")
    yield "chunk", Workload(2, 256, cached_tokens=768, weights="fp16", attention=fused)
    yield "chunk, eager", Workload(2, 256, cached_tokens=768, weights="fp16", attention="eager")
    yield "decode", Workload(8, 1024, "decode", weights="fp16", attention=fused)
    yield "decode, eager", Workload(8, 1024, "decode", weights="fp16", attention="eager")


NAMES, WORKLOADS = zip(*passes(), strict=True)
each_pass = pytest.mark.parametrize("work", WORKLOADS, ids=NAMES)


@each_pass
def test_the_formula_is_the_ledger_on_the_gpu_to_the_byte(work):
    run = dsmem.measure(SMALL, work, device="cuda")
    assert run.footprint.total_bytes == run.ledger.peak_bytes


def rises(ledger):
    """Live bytes at every birth; deaths apart, for a fake pass also buries its copy of the token ids at the end."""
    live = ledger.timeline().live_bytes
    return [int(live[record.birth]) for record in ledger.records]


@each_pass
def test_the_ledger_on_the_gpu_is_the_one_on_fake_tensors(work):
    gpu, fake = (dsmem.measure(SMALL, work, device=device).ledger for device in ("cuda", "fake"))
    assert rises(gpu) == rises(fake)


def is_predicted(run):
    """Allocated within half a percent, reserved within two, without what lay on the GPU before."""
    said, predicted = run.device_memory, run.replay
    before = said["elsewhere"]
    assert said["requested"] - before == pytest.approx(run.ledger.peak_bytes + said["workspace"], rel=0.005)
    assert said["allocated"] - before == pytest.approx(predicted.peak_allocated_bytes, rel=0.005)
    assert said["reserved"] - before == pytest.approx(predicted.peak_reserved_bytes, rel=0.02)
    assert said["requested"] <= said["allocated"] <= said["reserved"] <= said["used"]


@each_pass
def test_the_gpus_own_peaks_are_the_predicted_ones(work):
    is_predicted(dsmem.measure(QWEN, work, device="cuda"))


@pytest.mark.parametrize("weights", ["fp16", "int8", "int8_w8a8"])
@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "deepseek-r1-distill-qwen-1.5b"])
def test_the_gpus_own_peaks_are_the_predicted_ones_in_int8_and_in_a_larger_model(name, weights):
    options = {"weights": weights, "attention": "auto", "device": "cuda"}
    is_predicted(dsmem.measure(name, batch=2, seq_len=512, **options))
    is_predicted(dsmem.measure(name, batch=4, seq_len=512, phase="decode", **options))  # after another, in one process


def test_nothing_of_an_earlier_run_stays_on_the_gpu():
    before = cuda.held_bytes()
    dsmem.measure(SMALL, WORKLOADS[0], device="cuda")
    assert cuda.held_bytes() == before


def test_the_workspace_is_the_published_one_and_what_cublaslt_keeps():
    published = cuda.expected_workspace_bytes(torch.cuda.get_device_capability())
    assert published <= cuda.workspace_bytes() <= published + 2**25


def test_a_second_run_does_not_count_what_the_first_one_left():
    work = WORKLOADS[0]
    kept = dsmem.measure(SMALL, work, device="cuda")
    again = dsmem.measure(SMALL, work, device="cuda")
    assert again.device_memory["requested"] == kept.device_memory["requested"]


def random(*shape, dtype=torch.float16):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


def close(gpu, cpu):
    torch.testing.assert_close(gpu.cpu().float(), cpu.float(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("width", [64, 896, 100])
def test_rms_norm_gives_what_it_gives_on_the_cpu(dtype, width):
    x, weight = random(2, 7, width, dtype=dtype), random(width, dtype=dtype)
    on_gpu, on_cpu = operators.rms_norm(x.cuda(), weight.cuda(), 1e-6), operators.rms_norm(x, weight, 1e-6)
    for gpu, cpu in zip(on_gpu, on_cpu, strict=True):
        assert (gpu.shape, gpu.dtype) == (cpu.shape, cpu.dtype)
        close(gpu, cpu)


def attention_agrees(heads, kv_heads, head_dim, seq_len, key_len):
    q, k, v = (
        random(2, seq_len, heads, head_dim),
        random(2, key_len, kv_heads, head_dim),
        random(2, key_len, kv_heads, head_dim),
    )
    causal = seq_len > 1
    on_gpu = operators.attention(q.cuda(), k.cuda(), v.cuda(), causal)
    on_cpu = operators.attention(q.float(), k.float(), v.float(), causal)
    for gpu, cpu in zip(on_gpu, on_cpu, strict=True):
        assert gpu.shape == cpu.shape
        assert gpu.is_contiguous() and gpu.untyped_storage().nbytes() == gpu.nbytes
        close(gpu, cpu)


@pytest.mark.parametrize(("seq_len", "key_len"), [(33, 33), (1, 40), (1, 1), (9, 40)])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_attention_gives_what_it_gives_on_the_cpu(head_dim, seq_len, key_len):
    attention_agrees(4, 4, head_dim, seq_len, key_len)


@flash
@pytest.mark.parametrize(("seq_len", "key_len"), [(33, 33), (1, 40), (9, 40)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 2), (6, 1)])
def test_grouped_attention_gives_what_it_gives_on_the_cpu(heads, kv_heads, seq_len, key_len):
    attention_agrees(heads, kv_heads, 64, seq_len, key_len)


@flash
@pytest.mark.parametrize("head_dim", [12, 20, 100])
def test_heads_that_are_no_multiple_of_eight_are_padded_without_a_trace(head_dim):
    attention_agrees(4, 2, head_dim, 33, 33)


def test_attention_in_float32_gives_what_it_gives_on_the_cpu():
    q, k, v = (random(1, 9, 4, 64, dtype=torch.float32) for _ in range(3))
    close(operators.attention(q.cuda(), k.cuda(), v.cuda(), True)[0], operators.attention(q, k, v, True)[0])


def test_keys_of_another_number_of_heads_are_refused_in_float32_with_the_way_out(refuses):
    q, k = random(1, 9, 4, 64, dtype=torch.float32).cuda(), random(1, 9, 2, 64, dtype=torch.float32).cuda()
    refuses(lambda: operators.attention(q, k, k, True), "key", "2 heads", "4", "attention='expanded'")


@old
def test_on_an_old_gpu_fused_attention_with_grouped_keys_is_refused_with_the_way_out(refuses):
    assert attention_for("cuda", QWEN) == "expanded"
    refuses(
        lambda: dsmem.measure(SMALL, Workload(1, 8, attention="fused"), device="cuda"), "key", "attention='expanded'"
    )


@flash
def test_on_a_modern_gpu_fused_attention_shares_keys():
    assert attention_for("cuda", QWEN) == "fused"
    assert kernels.attention_backend("cuda") == "flash"


def test_logits_on_the_gpu_are_those_on_the_cpu():
    models = {device: dsmem.build_model(SMALL, "fp32", device) for device in ("cpu", "cuda")}
    models["cuda"].load_state_dict(models["cpu"].state_dict())
    tokens = torch.arange(20).view(2, 10)
    close(models["cuda"](tokens.cuda(), attention="expanded"), models["cpu"](tokens, attention="expanded"))


def test_a_pass_that_does_not_fit_is_recorded_as_such(tmp_path):
    huge = Architecture.from_config("llama-3.1-405b")
    path = dsmem.runs.record(tmp_path, cells=[(huge, Workload(1, 8)), (SMALL, WORKLOADS[0])])
    assert [cell["outcome"] for cell in dsmem.runs.recordings.load(path)["cells"]] == ["did not fit", "ok"]


# R1's own architecture, narrow enough for any GPU; widths in eights, as INT8 products want them
NARROW = {"hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 128, "vocab_size": 1000}
NARROW |= {"num_attention_heads": 8, "num_key_value_heads": 8, "n_routed_experts": 16, "num_hidden_layers": 4}
DEEPSEEK = Architecture.from_config("deepseek-r1").scaled(**NARROW)
CHOOSING = DEEPSEEK.scaled(index_n_heads=16, index_head_dim=128, index_topk=64)  # as DeepSeek-V3.2
each_latent_arch = pytest.mark.parametrize("arch", [DEEPSEEK, CHOOSING], ids=["R1", "V3.2"])
LATENT_PASSES = {
    "prefill": Workload(2, 256, weights="fp16"),
    "prefill, expanded cache": Workload(2, 256, weights="fp16", mla_cache="expanded"),
    "prefill, eager": Workload(2, 128, weights="fp16", attention="eager"),
    "prefill, eager, softmax in float32": Workload(2, 128, weights="fp16", attention="eager_fp32"),
    "chunk over latents": Workload(2, 128, cached_tokens=384, weights="fp16"),
    "chunk, expanded cache": Workload(2, 128, cached_tokens=384, weights="fp16", mla_cache="expanded"),
    "decode on latents": Workload(4, 512, "decode", weights="fp16"),
    "decode, expanded cache": Workload(4, 512, "decode", weights="fp16", mla_cache="expanded"),
    "decode, growing": Workload(4, 512, "decode", weights="fp16", cache="growing"),
    "decode, paged": Workload(4, 512, "decode", weights="fp16", cache="paged"),
    "decode, cache in INT8": Workload(4, 512, "decode", weights="fp16", kv_cache="int8"),
    "decode, cache in FP8": Workload(4, 512, "decode", weights="fp16", kv_cache="fp8"),
    "INT8": Workload(2, 256, weights="int8"),
    "W8A8": Workload(2, 256, weights="int8_w8a8"),
    "FP8": Workload(2, 256, weights="fp8"),
    "INT4": Workload(2, 256, weights="int4"),
}
each_latent_pass = pytest.mark.parametrize("work", LATENT_PASSES.values(), ids=LATENT_PASSES)


@each_latent_arch
@each_latent_pass
def test_latent_attention_and_experts_are_on_the_gpu_what_they_are_on_fake_tensors(work, arch):
    gpu, fake = (dsmem.measure(arch, work, device=device) for device in ("cuda", "fake"))
    assert gpu.footprint.total_bytes == gpu.ledger.peak_bytes
    assert rises(gpu.ledger) == rises(fake.ledger)


@pytest.mark.parametrize("layout", ["static", "growing", "paged"])
@pytest.mark.parametrize("mla_cache", ["latent", "expanded"])
@each_latent_arch
@torch.no_grad()
def test_latent_attention_and_experts_give_on_the_gpu_what_they_give_on_the_cpu(layout, mla_cache, arch):
    arch = arch.scaled(index_topk=min(arch.index_topk, 4))
    models = {device: dsmem.build_model(arch, "fp32", device) for device in ("cpu", "cuda")}
    models["cuda"].load_state_dict(models["cpu"].state_dict())
    tokens, steps = torch.arange(20).view(2, 10), {}
    for device, model in models.items():
        cache, here = model.new_cache(2, 16, layout=layout, mla_cache=mla_cache), tokens.to(device)
        steps[device] = torch.cat([model(part, cache=cache) for part in here.split((5, 4, 1), dim=1)], dim=1)
    close(steps["cuda"], steps["cpu"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_grouped_product_gives_what_it_gives_on_the_cpu(dtype):
    x, weight = random(40, 64, dtype=dtype) / 8, random(5, 48, 64, dtype=dtype) / 8
    ends = torch.tensor([7, 7, 20, 39, 40], dtype=torch.int32)  # one expert without a row
    on_gpu = operators.grouped_linear(x.cuda(), weight.cuda(), ends.cuda())
    torch.testing.assert_close(
        on_gpu.cpu().float(), operators.grouped_linear(x, weight, ends).float(), rtol=2e-2, atol=2e-2
    )


@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
def test_tokens_are_routed_on_the_gpu_as_on_the_cpu(scoring):
    logits, bias = (
        random(30, 16, dtype=torch.float32),
        random(16, dtype=torch.float32) if scoring == "sigmoid" else None,
    )
    rules = (3, 4, 2, scoring, True, 2.5)
    on_cpu = operators.route(logits, bias, *rules)
    on_gpu = operators.route(logits.cuda(), None if bias is None else bias.cuda(), *rules)
    for gpu, cpu in zip(on_gpu[:1] + on_gpu[3:], on_cpu[:1] + on_cpu[3:], strict=True):
        close(gpu, cpu)


# wide enough that the kernels' scratch does not weigh, and 3 GiB in FP16
EXPERTS = Architecture.from_config("deepseek-v2-lite").scaled(num_hidden_layers=3)
LATENT_LEVELS = {
    "prefill": Workload(2, 512, weights="fp16", logits="last"),
    "prefill, eager, softmax in float32": Workload(2, 128, weights="fp16", attention="eager_fp32"),
    "chunk over latents": Workload(2, 128, cached_tokens=384, weights="fp16"),
    "chunk, expanded cache": Workload(2, 128, cached_tokens=384, weights="fp16", mla_cache="expanded"),
    "decode on latents": Workload(4, 1024, "decode", weights="fp16"),
    "decode, expanded cache": Workload(4, 1024, "decode", weights="fp16", mla_cache="expanded"),
    "prefill, FP8": Workload(2, 512, weights="fp8", logits="last"),
    "prefill, INT4": Workload(2, 512, weights="int4", logits="last"),
    "decode, INT8": Workload(4, 1024, "decode", weights="int8"),
}


def predicted_peaks_are_the_gpus(cell):
    """Allocated within half a percent and reserved within two, of a cell measured in a process of its own."""
    assert cell["outcome"] == "ok", cell.get("error")
    said = {level: cell["device"][level] - cell["device"]["elsewhere"] for level in ("allocated", "reserved")}
    assert cell["formula_bytes"] == cell["ledger_bytes"]
    assert said["allocated"] == pytest.approx(cell["replay_bytes"], rel=0.005)
    assert said["reserved"] == pytest.approx(cell["replay_reserved_bytes"], rel=0.02)


@pytest.fixture(scope="module")
def worker():
    with Worker("cuda") as worker:
        yield worker


@pytest.mark.parametrize("work", LATENT_LEVELS.values(), ids=LATENT_LEVELS)
def test_the_peaks_of_latent_attention_and_experts_are_the_predicted_ones(work, worker):
    predicted_peaks_are_the_gpus(worker.ask(cells.cell, "cuda", EXPERTS, work))


@pytest.mark.parametrize("weights", ["fp8", "int4"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_peaks_of_fp8_and_int4_are_the_predicted_ones(weights, phase, worker):
    work = Workload(2, 512, phase, weights=weights, attention=attention_for("cuda", QWEN))
    predicted_peaks_are_the_gpus(worker.ask(cells.cell, "cuda", QWEN, work))


def test_a_process_that_lost_the_gpu_is_replaced():
    with Worker("cuda") as worker:
        assert worker.ask(standins.gpu_sum) == 3
        number = worker.ask(standins.number)
        with pytest.raises(RuntimeError, match="CUDA error"):
            worker.ask(standins.poison_the_gpu)
        assert worker.ask(standins.number) != number
        assert worker.ask(standins.gpu_sum) == 3


def test_a_provenance_names_the_gpu_its_settings_and_what_others_hold():
    with Worker("cuda") as worker:
        made = worker.ask(provenance, "cuda")
    assert set(SAME) <= set(made) and made["capability"] == list(torch.cuda.get_device_capability())
    assert 0 < made["used_before_bytes"] < made["total_bytes"]
    assert made["workspace"]["measured"] > 0 and set(made["sdpa"]["chosen"]) == {"prefill", "decode"}
    assert isinstance(made["allocator"], dict)


def test_a_context_takes_more_than_nothing_and_less_than_two_gib():
    assert 2**26 < cuda.context_bytes() < 2**31


def test_tokens_a_second_of_a_model_are_recorded():
    how = {"attention": attention_for("cuda", SMALL), "logits": "last"}
    rate = cells.rate("cuda", SMALL, [Workload(1, 64, **how), Workload(4, 64, "decode", **how)])
    assert rate["outcome"] == "ok" and min(rate["tokens_per_second"]) > 0
