"""How long the kit's two heavy questions take on this machine: `python tests/bench.py`.

One million footprints in one call, as behind a heat map, and one fake pass of a 7B model under the ledger.
"""

import time

import numpy as np
import torch

import dsmem

ARCH = dsmem.Architecture.from_config("deepseek-r1-distill-qwen-7b")


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


def timed(call):
    """The answer of `call()` and the seconds it took."""
    start = time.perf_counter()
    answer = call()
    return answer, time.perf_counter() - start


def main():
    totals, seconds = timed(million_footprints)
    print(f"{totals.size:,} inference footprints: {seconds:.2f} s")
    _, seconds = timed(fake_pass)
    print(f"fake forward pass of {ARCH.name} under the ledger, first of the process: {seconds:.2f} s")
    peak, seconds = timed(fake_pass)
    print(f"the same again: {seconds:.2f} s (peak {peak:,} bytes)")


if __name__ == "__main__":
    main()
