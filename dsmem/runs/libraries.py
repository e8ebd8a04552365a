"""The usual quantization libraries beside our own schemes: one real decoder layer in torchao and bitsandbytes.

Their layers cannot be built on fake tensors, so one layer is quantized for real; a model is that layer many times,
with embedding, head and last norm in 16 bit, as bitsandbytes and transformers leave them. Where a library is not
installed its rows are left out, and `missing()` says so. Sizes hold on every device. Temporaries and times are those
of a CPU: a GPU runs other kernels, and bitsandbytes' CPU path makes a 16-bit copy where its GPU path multiplies INT8.
"""

import contextlib
import copy
import dataclasses
import functools
import importlib.metadata
import importlib.util
import logging
import sys
import time
import warnings

import torch
from torch import nn

from dsmem.memory.ledger import Ledger
from dsmem.memory.records import plain_tensors
from dsmem.model.decoder import build_model
from dsmem.model.quantize import LAYERS
from dsmem.units import format_bytes

ROWS = {
    "torchao int8": ("torchao", "Int8WeightOnlyConfig"),
    "torchao int8 dynamic": ("torchao", "Int8DynamicActivationInt8WeightConfig"),
    "bitsandbytes int8": ("bitsandbytes", None),
    "bitsandbytes nf4": ("bitsandbytes", False),
    "bitsandbytes nf4 double": ("bitsandbytes", True),
}
"""Name: the library, and its configuration (torchao) or whether scales are quantized as well (bitsandbytes NF4)."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to store a layer. layer_bytes, model_bytes: stored; temporary_bytes: alive beside it at a pass's peak.

    A ledger sees what operators return: what bitsandbytes' own make inside is not in temporary_bytes. error: norm of
    the difference to float64 over the norm, of what the layer adds to its input. seconds: the fastest pass.
    """

    name: str
    layer_bytes: int
    model_bytes: int
    temporary_bytes: int
    error: float
    seconds: float | None = None

    @property
    def peak_bytes(self):
        """The layer and what is alive beside it at the peak of a pass."""
        return self.layer_bytes + self.temporary_bytes


def versions():
    """{library: version}, or None for one that is not installed."""
    return {name: _version(name) for name in ("torchao", "bitsandbytes")}


def missing():
    """One line on what is left out for want of a library, or None."""
    absent = [name for name, version in versions().items() if version is None]
    if not absent:
        return None
    return f"Not shown: {' and '.join(absent)}, not installed here; `pip install dsmem[quant]` adds what is missing."


def available():
    """The rows that can be made here, ours first."""
    found = versions()
    return ["bf16", *LAYERS, *(name for name, (library, _) in ROWS.items() if found[library])]


def compare(arch, batch=1, seq_len=64, names=None, repeats=5, seed=0):
    """A `Row` for each way to store one decoder layer of `arch`, run in BF16 on this machine's CPU.

    names: some of `available()`, else all of them. Takes about four seconds a row for a layer of 50 million weights.
    Raises ValueError for a name that is unknown or whose library is missing, or repeats below 1.
    """
    if not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"repeats={repeats!r} is not a count; it must be a whole number of at least 1")
    chosen = available() if names is None else names
    _, layer, step = _layer(arch, "bf16", seq_len, seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, seq_len, arch.hidden_size, generator=generator).bfloat16()
    wide = dataclasses.replace(step, cos=step.cos.double(), sin=step.sin.double())
    exact = _added(copy.deepcopy(layer).double(), x.double(), wide)
    layers = [quantized(layer, name, arch, seed) for name in chosen]
    rows = [_row(name, arch, made, x, step, exact) for name, made in zip(chosen, layers, strict=True)]
    # in turns, so that a busy moment of the machine meets all of them
    rounds = [[_seconds(made, x, step) for made in layers] for _ in range(repeats)]
    fastest = [min(times) for times in zip(*rounds, strict=True)]
    return [dataclasses.replace(row, seconds=each) for row, each in zip(rows, fastest, strict=True)]


def quantized(layer, name, arch, seed=0):
    """A copy of `layer`, a 16-bit decoder layer of `arch`, stored as `name`, one of `available()`, says."""
    if name == "bf16":
        return layer
    if name in LAYERS:
        return _layer(arch, name, 1, seed)[1]
    if name not in available():
        raise ValueError(f"name={name!r} cannot be made here; allowed: {', '.join(available())}")
    library, option = ROWS[name]
    with quiet():
        return (_by_torchao if library == "torchao" else _by_bitsandbytes)(copy.deepcopy(layer), option)


def stored_tensors(module):
    """{place: tensor} of everything that `module` keeps, each storage once, with what libraries hang on their weights.

    A quantized weight keeps its scales in attributes (bitsandbytes) or inside a tensor subclass (torchao), where
    `sum(p.nbytes for p in module.parameters())` does not see them.
    """
    found, seen = {}, set()
    for name, part in module.named_modules():
        for place, tensor in _walk(
            name, {**part._parameters, **part._buffers, "state": vars(part).get("state")}, set()
        ):
            for plain in plain_tensors(tensor):
                if plain.untyped_storage()._cdata not in seen:
                    seen.add(plain.untyped_storage()._cdata)
                    found[place if place not in found else f"{place} ({len(found)})"] = plain
    return found


def stored_bytes(module):
    """Bytes of `stored_tensors`."""
    return sum(tensor.untyped_storage().nbytes() for tensor in stored_tensors(module).values())


def model_bytes(arch, layer_bytes):
    """Stored bytes of a whole model from those of one layer: embedding, last norm and head stay in 16 bit."""
    census = arch.census()
    others = sum(census[part] for part in ("embed_tokens", "norm", "lm_head") if part in census)
    return arch.num_hidden_layers * layer_bytes + 2 * others


def table(rows):
    """The rows as lines of text; times are left out, for they differ from machine to machine."""
    head = f"{'':<25}{'layer':>12}{'model':>12}{'peak adds':>12}{'error':>9}"
    lines = [
        f"{r.name:<25}{format_bytes(r.layer_bytes):>12}{format_bytes(r.model_bytes):>12}"
        f"{format_bytes(r.temporary_bytes):>12}{r.error:>9.2%}"
        for r in rows
    ]
    return "\n".join([head, *lines])


def time_table(prompt, token):
    """Times of the rows of two `compare`s, of a prompt and of one token, as multiples of the first row's, as text.

    floor: the bytes of the layer over those of the first row. If reading the weights once were all that takes time, the
    time of one token would be that multiple.
    """
    lines = [f"{'':<25}{'prompt':>10}{'token':>10}{'its floor':>12}"]
    for long, short in zip(prompt, token, strict=True):
        ratios = long.seconds / prompt[0].seconds, short.seconds / token[0].seconds
        floor = short.layer_bytes / token[0].layer_bytes
        lines.append(f"{long.name:<25}{ratios[0]:>10.2f}{ratios[1]:>10.2f}{floor:>12.2f}")
    return "\n".join(lines)


@contextlib.contextmanager
def quiet():
    """No warnings and no log lines from inside.

    Both libraries report, at import and at their first call, GPU kernels that a CPU build has no use for; a reader of
    a notebook would take these lines for errors of theirs.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@functools.cache
def _version(name):
    if importlib.util.find_spec(name) is None:
        return None
    return importlib.metadata.version(name)


@torch.no_grad()
def _layer(arch, weights, seq_len, seed):
    """A one-layer model with this scheme, its layer, and the step of a pass; few words, for nobody reads them."""
    one = arch.scaled(num_hidden_layers=1, vocab_size=8, tie_word_embeddings=False, rope_scaling=())
    model = build_model(one, weights, "cpu", activations="bf16", seed=seed)
    return model, model.layers[0], model.step(seq_len)


@torch.no_grad()
def _added(layer, x, step):
    """What the layer adds to its input."""
    return layer(x, step) - x


@torch.no_grad()
def _row(name, arch, layer, x, step, exact):
    # before any pass: at its first one bitsandbytes repacks NF4 for the CPU at hand, scales in another format
    size = stored_bytes(layer)
    with quiet():
        out = layer(x, step)
        error = float((out.double() - x.double() - exact).norm() / exact.norm())
        del out
        with Ledger(layer) as ledger:
            layer(x, step)
    beside = ledger.peak_bytes - stored_bytes(layer)
    return Row(name, size, model_bytes(arch, size), beside, error)


@torch.no_grad()
def _seconds(layer, x, step):
    with quiet():
        start = time.perf_counter()
        layer(x, step)
        return time.perf_counter() - start


def _by_torchao(layer, config):
    import torchao.quantization as torchao

    torchao.quantize_(layer, getattr(torchao, config)())
    return layer


def _by_bitsandbytes(layer, double):
    """Every `nn.Linear` replaced as transformers does it; `double` None for INT8, else NF4."""
    import bitsandbytes

    for parent in list(layer.modules()):
        for name, linear in list(parent.named_children()):
            if isinstance(linear, nn.Linear):
                setattr(parent, name, _bitsandbytes_linear(bitsandbytes.nn, linear, double))
    return layer


def _bitsandbytes_linear(library, linear, double):
    shape = linear.in_features, linear.out_features
    options = {"bias": linear.bias is not None, "device": "meta"}
    if double is None:
        made = library.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0, **options)
        made.weight = library.Int8Params(linear.weight.data, has_fp16_weights=False, requires_grad=False)
    else:
        kind = {"quant_type": "nf4", "compress_statistics": double}
        made = library.Linear4bit(*shape, compute_dtype=linear.weight.dtype, **kind, **options)
        made.weight = library.Params4bit(linear.weight.data, requires_grad=False, module=made, **kind)
    made.bias = linear.bias
    return made.to("cpu").eval()  # the move is what quantizes


def _walk(place, item, seen, depth=0):
    """The tensors in `item`, in its values, and in the attributes of tensors and states, with their places."""
    if id(item) in seen or depth > 6:
        return
    seen.add(id(item))
    if isinstance(item, torch.Tensor):
        yield place, item
    if isinstance(item, dict):
        inside = item
    elif isinstance(item, (torch.Tensor, *_states())):
        inside = {name: value for name, value in vars(item).items() if not isinstance(value, nn.Module)}
    else:
        return
    for name, value in inside.items():
        yield from _walk(f"{place}.{name}".strip("."), value, seen, depth + 1)


def _states():
    """The classes in which bitsandbytes keeps what belongs to a weight."""
    library = sys.modules.get("bitsandbytes")
    return () if library is None else (library.functional.QuantState, library.MatmulLtState)
