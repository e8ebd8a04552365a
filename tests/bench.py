"""How long the kit's heavy questions take on this machine: `python tests/bench.py`.

One million footprints in one call, as behind a heat map; one fake pass of a 7B model under the ledger; one hundred
thousand births and deaths on the model of the allocator.
"""

import random
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


def main():
    totals, seconds = timed(million_footprints)
    print(f"{totals.size:,} inference footprints: {seconds:.2f} s")
    _, seconds = timed(fake_pass)
    print(f"fake forward pass of {ARCH.name} under the ledger, first of the process: {seconds:.2f} s")
    peak, seconds = timed(fake_pass)
    print(f"the same again: {seconds:.2f} s (peak {peak:,} bytes)")
    _, seconds = timed(replayed_events)
    print(f"100,000 allocator events replayed: {seconds:.2f} s")


if __name__ == "__main__":
    main()
