"""One pass of a model in transformers' code, with a cache that holds what came before: what a ledger watches."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dsmem.config.workload import Workload
from dsmem.model.devices import TORCH_DTYPES, check_device
from dsmem.model.hub import explained, pinned_attention, quiet, version
from dsmem.model.kernels import GpuKernels
from dsmem.model.library import LibraryModel, build

KERNELS = {"auto": "sdpa", "fused": "sdpa", "expanded": "sdpa", "eager": "eager"}
"""What transformers calls each attention; "sdpa" itself decides whether it widens keys and values first."""

_FIELDS = {
    "weights": tuple(TORCH_DTYPES),
    "cache": ("static", "growing", "none"),
    "mla_cache": ("latent",),
}


@dataclasses.dataclass(frozen=True)
class LibraryPass:
    """A pass that is ready to run: `forward()` runs it and returns what transformers returns, `past_key_values` too.

    module: transformers' model, random weights. work: what really runs: attention="eager" where the class has no other.
    notes: what differs from what one may expect, a sentence each; a list, for the pass itself may add to it.
    """

    module: torch.nn.Module
    work: Workload
    forward: Callable
    notes: list


def prepare(model: LibraryModel, work: Workload, device: Any, seed: int = 0) -> LibraryPass:
    """The pass of `work` on `model`; the tokens that its cache already holds were run before, unwatched.

    device: as in `devices.check_device`. seed: of the random weights and tokens. Raises ValueError for what is not run
    in transformers' code: weights of a scheme, a cache in another format than the activations, pages.

    A known difference from a GPU: eager attention takes its softmax in float32, for which a CPU and fake tensors copy
    FP16 scores and a GPU does not, so on fake tensors an FP16 pass counts 4 bytes a score too many. BF16 and FP32 do
    not differ.
    """
    device = check_device(device)
    _check(work, device)
    mode = FakeTensorMode() if device == "fake" else contextlib.nullcontext()
    kernels = contextlib.nullcontext() if device == "cuda" else GpuKernels()
    torch.manual_seed(seed)
    with mode, torch.device("cpu" if device == "fake" else device), torch.no_grad():
        module = build(model, work.weights, KERNELS[work.attention], values=device != "fake")
        if device == "cuda":
            torch.cuda.empty_cache()  # what building left behind must not hold what the pass makes
        words = module.config.get_text_config().vocab_size
        before, tokens = (torch.randint(words, (work.batch, count)) for count in (work.cached_tokens, work.new_tokens))

    def run(ids, **options):
        calm = quiet(), explained(f"{version()} does not run {model.name}")
        with mode, kernels, torch.no_grad(), pinned_attention(device), calm[0], calm[1]:
            return module(input_ids=ids, **options)

    options = _options(module, work)
    if before.numel():
        options["past_key_values"] = run(before, **options | _last(module)).past_key_values

    attention = _attention(module, work)
    notes = _notes(model, work, attention)

    def forward():
        out = run(tokens, **options)
        notes.extend(sentence for sentence in getattr(kernels, "said", {}).values() if sentence not in notes)
        return out

    return LibraryPass(module, work.changed(attention=attention), forward, notes)


def cache_kinds(output: Any) -> dict[str, int]:
    """Bytes that the cache of transformers' `output` holds, by the class of its layers; a shared storage counts once.

    A layer that keeps a slice keeps the whole tensor that it is a slice of.
    """
    kinds, seen = {}, set()
    for layer in getattr(getattr(output, "past_key_values", None), "layers", ()):
        for tensor in _tensors(vars(layer)):
            storage = tensor.untyped_storage()
            if storage._cdata not in seen:
                seen.add(storage._cdata)
                kinds[type(layer).__name__] = kinds.get(type(layer).__name__, 0) + storage.nbytes()
    return kinds


def _tensors(values):
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict | list | tuple):
            yield from _tensors(value)


def _check(work, device):
    """Raise ValueError for a field that transformers' code has no counterpart of."""
    for field, allowed in _FIELDS.items():
        if getattr(work, field) not in allowed:
            raise ValueError(
                f"{field}={getattr(work, field)!r} is not run in transformers' code; allowed: {', '.join(allowed)} "
                "(code='dsmem' runs all, on the families that it reads)"
            )
    if work.kv_cache != work.activations:
        raise ValueError(
            f"kv_cache={work.kv_cache!r} is not run in transformers' code; it must be that of the activations, "
            f"{work.activations}"
        )
    if work.cached_tokens and device == "cuda":
        raise ValueError(
            f"cached_tokens={work.cached_tokens} is not run in transformers' code on a GPU, where a pass is repeated "
            "and its cache has grown by then; allowed: device='fake' or 'cpu'"
        )


def _options(module, work):
    options = {"use_cache": work.cache != "none"} if _takes(module, "use_cache") else {}
    return options | (_last(module) if work.logits == "last" else {})


def _last(module):
    return {"logits_to_keep": 1} if _takes(module, "logits_to_keep") else {}


def _takes(module, argument):
    return argument in inspect.signature(module.forward).parameters


def _attention(module, work):
    """What the module's attention really is, by the kit's name."""
    theirs = module.config.get_text_config()._attn_implementation
    return "eager" if theirs == "eager" else "fused" if work.attention == "auto" else work.attention


def _notes(model, work, attention):
    """What a reader of the run must know, a sentence each."""
    notes = []
    if model.quantized:
        notes.append(f"Its quantization_config ({model.quantized}) is not applied: it runs in {work.weights}.")
    if attention == "eager" != work.attention:
        notes.append(f"Attention is eager: {model.model_class.__name__} has no other in {version()}.")
    if work.cache != "none":
        notes.append("The cache is transformers' own, which grows by copying.")
    return notes
