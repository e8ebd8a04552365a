"""A mixture of experts on one small GPU: routed experts in host memory, attention and cache on the GPU."""

from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.workload import EXPERTS, Workload
from dsmem.footprint.stored import buffer_bytes, cache_bytes, weight_part, weights_by_layer
from dsmem.units import one_of


def experts_on_host(
    arch: Any, work: Workload | None = None, embedding: str = "host", **fields: Any
) -> dict[str, dict[str, int]]:
    """{"gpu": {part: bytes}, "host": {part: bytes}} of weights and cache, as people run R1 on one card of 24 GB.

    arch: whatever `Architecture.of` takes, with routed experts. work: a `Workload` or its fields as keywords. The host
    holds the routed experts, and the embedding, which is only looked up (`embedding="gpu"` moves it): all else, the
    shared experts and the cache among it, is on the GPU. Scales lie with what they scale. Parts as in `stored.PARTS`.
    Raises ValueError for a model without routed experts. Left out: what a pass makes, and what an engine adds.

    >>> split = experts_on_host("deepseek-r1", seq_len=65536, weights="bf16", kv_cache="q8_0")
    >>> split["gpu"]["latent_cache"], f"{split['host']['experts'] / sum(split['host'].values()):.1%}"
    (2446589952, '99.9%')
    """
    arch, work = Architecture.of(arch), Workload.of(work, **fields)
    one_of("embedding", embedding, ("host", "gpu"), "a place")
    if not arch.expert_layers:
        raise ValueError(f"{arch.name} has no routed experts to keep on the host; see dsmem.fit for all of it")
    work = work.on(arch)
    options = {"modules_to_not_convert": work.modules_to_not_convert, "activations": work.activations}
    split: dict[str, dict[str, int]] = {"gpu": {}, "host": {}}
    for name, sizes in weights_by_layer(arch, work.weights, **options).items():
        on_host = name in EXPERTS or (embedding == "host" and name == "embed_tokens")
        part, place = weight_part(arch, name), split["host" if on_host else "gpu"]
        place[part] = place.get(part, 0) + sum(sizes)
    split["gpu"] |= {"buffers": buffer_bytes(arch)} | cache_bytes(arch, work)
    return split
