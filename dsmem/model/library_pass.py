"""One pass of a model in transformers' code, with a cache that holds what came before: what a ledger watches."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dsmem.config.workload import EAGER, Workload
from dsmem.model.devices import TORCH_DTYPES, check_device
from dsmem.model.hub import explained, pinned_attention, quiet, unpacked, version
from dsmem.model.kernels import GpuKernels
from dsmem.model.library import LibraryModel, allocate, build

KERNELS = dict.fromkeys(("auto", "fused", "expanded"), "sdpa") | dict.fromkeys(EAGER, "eager")
"""What transformers calls each attention; "sdpa" itself decides whether it widens keys and values first."""

_RECURRENT = ("Mamba", "GatedDelta", "LinearAttention", "ShortConv", "RecurrentBlock")
_FIELDS = {
    "weights": tuple(TORCH_DTYPES),
    "cache": ("static", "growing", "none"),
    "mla_cache": ("latent",),
}


class LibraryPass:
    """The pass of `work` on a `LibraryModel`: `fill()` makes it ready, `forward()` runs it.

    `running()` is what others run its `module` and `tokens` in. weights: the format of the parameters, by default that
    of the workload.

    device: as in `devices.check_device`. seed: of the random weights and tokens. Raises ValueError for what is not run
    in transformers' code: weights of a scheme, a cache in another format than the activations, pages.
    module: transformers' model. work: what really runs: attention="eager" where the class has no other.
    notes: what differs from what one may expect, a sentence each; a pass may add to them.

    What allocates otherwise on a CPU than on a GPU, a softmax in float32 of FP16 scores among it, is led to operators
    that allocate as a GPU's (`kernels.GpuKernels`), on fake tensors and on a CPU; a note says so.
    """

    def __init__(self, model: LibraryModel, work: Workload, device: Any, seed: int = 0, weights: str | None = None):
        self._model, self._device = model, check_device(device)
        _check(work, self._device)
        fake = self._device == "fake"
        self._mode = FakeTensorMode() if fake else contextlib.nullcontext()
        self._kernels = contextlib.nullcontext() if self._device == "cuda" else GpuKernels()
        torch.manual_seed(seed)
        with torch.device("meta" if fake else self._device), torch.no_grad():
            self.module = build(model, weights or work.weights, KERNELS[work.attention])
        if self._device == "cuda":
            torch.cuda.empty_cache()  # what building left behind must not hold what the pass makes
        with self._mode, torch.device("cpu" if fake else self._device):
            words, counts = self.module.config.get_text_config().vocab_size, (work.cached_tokens, work.new_tokens)
            self._before, self.tokens = (torch.randint(words, (work.batch, count)) for count in counts)
        self.work = work.changed(attention=_attention(self.module, work))
        self.notes, self._options = _notes(model, self.module, work, self.work.attention), _options(self.module, work)

    @property
    def cache(self) -> Any:
        """transformers' cache of the tokens before, None where there are none."""
        return self._options.get("past_key_values")

    def fill(self) -> None:
        """Give the layers that the module has storages, if fake ones, and run the tokens before, for their cache."""
        if self._device == "fake":
            with self._mode:
                allocate(self.module)
        if self._before.numel():
            out = self._run(self._before, **self._options | _last(self.module))
            self._options["past_key_values"] = out.past_key_values

    def forward(self) -> Any:
        """What transformers returns for the new tokens, logits and `past_key_values` among it."""
        out = self._run(self.tokens, **self._options)
        self._note(self._of_softmax())
        return out

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Inside, the module runs on its device as on a GPU; what it raises is one sentence, what differs is noted."""
        said = explained(f"{version()} does not run {self._model.name}")
        with self._mode, self._kernels, pinned_attention(self._device), quiet(), unpacked(), said:
            yield
        self._note(getattr(self._kernels, "said", {}).values())

    def _note(self, said):
        self.notes += [sentence for sentence in said if sentence not in self.notes]

    def _of_softmax(self):
        """A sentence where the softmax of scores was seen in another format than this attention has by our formula."""
        seen = getattr(self._kernels, "softmax_in", set())
        formats = {"eager": self.work.activations, "eager_fp32": "fp32"}
        ours, other = formats.get(self.work.attention), "eager" if self.work.attention == "eager_fp32" else "eager_fp32"
        if seen and ours and ours not in seen:
            return [f"Its softmax of scores is in {min(seen)}: attention={other!r} is the formula of that."]
        return []

    def _run(self, ids, **options):
        with self.running(), torch.no_grad():
            return self.module(input_ids=ids, **options)


def layer_caches(output: Any) -> list[tuple[str, int]]:
    """(class, bytes) of every layer of the cache in transformers' `output`; a shared storage counts where it is first.

    A layer that keeps a slice keeps the whole tensor that it is a slice of.
    """
    found, seen = [], set()
    for layer in getattr(getattr(output, "past_key_values", None), "layers", ()):
        storages = [tensor.untyped_storage() for tensor in _tensors(vars(layer))]
        fresh = {storage._cdata: storage.nbytes() for storage in storages if storage._cdata not in seen}
        seen |= set(fresh)
        found.append((type(layer).__name__, sum(fresh.values())))
    return found


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
    if theirs == "eager":
        return work.attention if work.attention in EAGER else "eager"
    return "fused" if work.attention == "auto" else work.attention


def _notes(model, module, work, attention):
    """What a reader of the run must know, a sentence each."""
    notes = []
    if model.quantized:
        notes.append(f"Its quantization_config ({model.quantized}) is not applied: it runs in {work.weights}.")
    if attention != work.attention and attention == "eager":
        notes.append(f"Attention is eager: {model.model_class.__name__} has no other in {version()}.")
    if any(word in type(part).__name__ for part in module.modules() for word in _RECURRENT):
        notes.append("Linear attention runs in torch's own operators: kernels of fla or mamba-ssm make fewer tensors.")
    if work.cache != "none":
        notes.append("The cache is transformers' own, which grows by copying.")
    return notes
