"""How long the kit's heavy questions take on this machine: `python tests/bench.py`.

One million footprints in one call, as behind a heat map; one fake pass of a 7B model under the ledger; all of
DeepSeek-R1 on fake tensors, beside transformers' own code; DeepSeek-V3.2 in that code alone, its equal layers folded
and all of them; one hundred thousand births and deaths on the model of the allocator.
"""

import random
import resource
import time

import numpy as np
import torch

import dsmem
from dsmem.config.source import DATA
from dsmem.runs import compare_checkpointing

ARCH = dsmem.Architecture.from_config("deepseek-r1-distill-qwen-7b")
R1 = dsmem.Architecture.from_config("deepseek-r1")


V32 = {
    "model_type": "deepseek_v32",
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 2048,
    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
}
"""DeepSeek-V3.2 as its config.json says it; transformers' config class has the other sizes by default."""


def million_footprints():
    """Peak bytes of 1,000 batch sizes x 1,000 lengths."""
    work = dsmem.Workload(np.arange(1, 1001)[:, None], np.arange(128, 128_128, 128), attention="eager")
    return dsmem.inference_footprint(ARCH, work).total_bytes


def fake_pass():
    """Peak bytes of one 7B forward pass, 4 x 1,024 tokens, on fake tensors."""
    model, tokens = dsmem.build_model(ARCH, weights="fp16", device="fake"), torch.zeros(4, 1024, dtype=torch.long)
    with torch.no_grad(), dsmem.Ledger(model) as ledger:
        model(tokens, cache=model.new_cache(4, 1024))
    return ledger.peak_bytes


def r1_passes():
    """Peak bytes of DeepSeek-R1 at full size, in FP8, on fake tensors: a prefill of 4,096 tokens, a decode step."""
    model = dsmem.build_model(R1, weights="fp8", activations="bf16", device="fake")
    cache, peaks = model.new_cache(1, 4097), []
    with torch.no_grad():
        for tokens in (torch.zeros(1, 4096, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)):
            with dsmem.Ledger(model) as ledger:
                model(tokens, cache=cache)
            peaks.append(ledger.peak_bytes)
    return peaks


def transformers_r1_passes():
    """The same two passes of transformers' DeepseekV3, in BF16, for it builds no FP8 weights on fake tensors."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(DATA / "models" / "deepseek-r1.json", num_nextn_predict_layers=0)
    config._experts_implementation = "grouped_mm"
    peaks, past = [], None
    with FakeTensorMode(), torch.no_grad():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        for tokens in (torch.zeros(1, 4096, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)):
            with dsmem.Ledger(model) as ledger:
                past = model(input_ids=tokens, past_key_values=past, use_cache=True).past_key_values
            peaks.append(ledger.peak_bytes)
    return peaks


def v32_pass(fold, seq_len=4096):
    """What a ledger says of one prefill of DeepSeek-V3.2 in transformers' code: peak, parts at the peak, cache."""
    run = dsmem.measure(V32, seq_len=seq_len, weights="bf16", code="transformers", fold=fold)
    return run.ledger.peak_bytes, run.ledger.by_category(), run.cache, run.replay.peak_reserved_bytes


SMALL = {"model_type": "llama", "hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 688}
SMALL |= {"num_key_value_heads": 8, "vocab_size": 512, "max_position_embeddings": 1024, "num_hidden_layers": 2}


def checkpointing(depths=(2, 4, 8), attention="eager", seq_len=128):
    """What checkpointing keeps and what it costs, as ratios, of steps of a small model in FP32 on this CPU."""
    options = {"batch": 2, "seq_len": seq_len, "weights": "fp32", "attention": attention}
    return compare_checkpointing(SMALL, depths, device="cpu", **options)


def host_bytes():
    """The most bytes of RAM that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def replayed_events(count=100_000):
    """Peak reserved bytes of a random stream, at most 400 tensors alive at a time."""
    draw, live, events = random.Random(0).random, [], []
    for key in range(count):
        if len(live) == 400 or (live and draw() < 0.45):
            old, nbytes = live.pop(int(draw() * len(live)))
            events.append((old, -nbytes, ""))
        else:
            live.append((key, int(2 ** (26 * draw()))))
            events.append((*live[-1], "tensor"))
    return dsmem.replay(events).peak_reserved_bytes


def timed(call):
    """The answer of `call()` and the seconds it took."""
    start = time.perf_counter()
    answer = call()
    return answer, time.perf_counter() - start


def compared():
    """One line on transformers' passes, or on why there are none."""
    try:
        import transformers
    except ModuleNotFoundError:
        return "not installed"
    try:
        (prefill, decode), seconds = timed(transformers_r1_passes)
    except Exception as error:
        return f"{transformers.__version__} stops: {type(error).__name__}: {str(error).splitlines()[0]}"
    return f"{transformers.__version__}, BF16: {seconds:.2f} s, peaks {prefill:,} and {decode:,} bytes"


def main():
    totals, seconds = timed(million_footprints)
    print(f"{totals.size:,} inference footprints: {seconds:.2f} s")
    _, seconds = timed(fake_pass)
    print(f"fake forward pass of {ARCH.name} under the ledger, first of the process: {seconds:.2f} s")
    peak, seconds = timed(fake_pass)
    print(f"the same again: {seconds:.2f} s (peak {peak:,} bytes)")
    before = host_bytes()
    (prefill, decode), seconds = timed(r1_passes)
    print(f"DeepSeek-R1, FP8, 1 x 4,096 prefill and one decode step on fake tensors: {seconds:.2f} s")
    print(f"  peaks {prefill:,} and {decode:,} bytes; {(host_bytes() - before) / 2**20:.0f} MiB of host memory")
    print(f"  the same in transformers: {compared()}")
    v32_pass(True, seq_len=8)  # imports
    (folded, seconds), (whole, more) = timed(lambda: v32_pass(True)), timed(lambda: v32_pass(False))
    same = "the same bytes" if folded == whole else f"{folded} against {whole}"
    print(f"DeepSeek-V3.2 in transformers, 1 x 4,096, folded: {seconds:.2f} s; all layers: {more:.2f} s, {same}")
    table, seconds = timed(checkpointing)
    print(f"training steps with and without checkpointing, three depths: {seconds:.2f} s")
    for depth, mode, _, share, _, _, ratio in table:
        print(f"  {depth} layers, {mode}: {share:.1%} kept for backward, {ratio:.2f} of the time")
    _, seconds = timed(replayed_events)
    print(f"100,000 allocator events replayed: {seconds:.2f} s")


if __name__ == "__main__":
    main()
