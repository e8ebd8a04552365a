"""Prefix caching outside the GPU: the KV cache of a prompt that many requests begin with, stored once, fetched often.

It saves computing the prefix again (prefill). It saves no GPU memory: a fetched cache takes as much as a computed one
while a sequence uses it. Which of the two is quicker depends on the link: `formulas.fetch_seconds`, `prefill_seconds`,
`break_even_tokens`. Only an exact prefix counts: a cached key or value depends on every token before it.

A wrong cache is never handed out, and reading one runs no code: a payload is a safetensors file. It does not protect
secrets: who can read a store can read what a prompt was about, and who can write to it can plant a cache that passes.

Not here, but in LMCache and in vLLM's automatic prefix caching: reuse of a part, block by block; eviction; layers sent
while later ones are still computed; RDMA from memory to memory; sharing within the GPU.
"""

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from dsmem.config.architecture import Architecture
from dsmem.serving.stores import FileStore, RedisStore
from dsmem.units import format_bytes

__all__ = ["Damaged", "FileStore", "RedisStore", "Result", "fetch_or_compute", "model_fingerprint", "prefix_key"]

FORMAT = "dsmem prefix 2"  # a part of every key, so that nothing in an older form is found


class Damaged(ValueError):
    """What a store holds under a key is refused: damaged, incomplete, or of another prefix."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A prefix's cache, and where it came from.

    tensors: {name: tensor}; on the CPU if fetched, as `compute` gave them if computed. source: "fetched" or "computed".
    reason: why, as part of a sentence. seconds: of looking and fetching, or of computing. stored: whether the store
    holds this cache now.
    """

    tensors: dict[str, torch.Tensor] = dataclasses.field(repr=False)
    source: str
    reason: str
    seconds: float
    stored: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def __str__(self):
        return f"{self.source} {format_bytes(self.nbytes)} in {self.seconds:.3f} s: {self.reason}"


def model_fingerprint(arch: Architecture, weights: str, source: torch.nn.Module | dict[str, torch.Tensor] | str) -> str:
    """A digest of everything about a model that its cache depends on, for `prefix_key`.

    arch: an `Architecture`; all of its fields count. weights: the format they are stored in ("int8"), in words.
    source: the weights themselves, as a module or as {name: tensor}, hashed to the last byte (a second for 1 or 2 GB);
    or a name that stands for these weights alone, such as a checkpoint's with its revision. Raises ValueError.
    """
    if not isinstance(arch, Architecture):
        raise ValueError(f"arch is a {type(arch).__name__}; it must be a dsmem.Architecture")
    if isinstance(source, torch.nn.Module):
        source = source.state_dict()
    source = _text("source", source) if isinstance(source, str) else ["sha256", _digest(_real("source", source))]
    return _sha256(dataclasses.asdict(arch), _text("weights", weights), source)


def prefix_key(token_ids: Sequence | np.ndarray | torch.Tensor, fingerprint: str, cache: str) -> str:
    """The key of a prefix, a SHA-256 digest in hexadecimal of the model, the form of its cache, and every token.

    token_ids: the whole prefix from position 0, (tokens,) or (batch, tokens), whole numbers. fingerprint: what
    `model_fingerprint` returned. cache: kind and format in words, such as "latent bf16". Two machines or attention
    kernels round differently; where that matters, name them in `cache`. Raises ValueError for anything else.

    >>> prefix_key([1, 2, 3], "a model", "static fp16") == prefix_key([1, 2, 4], "a model", "static fp16")
    False
    """
    try:
        ids = np.asarray(token_ids.cpu() if isinstance(token_ids, torch.Tensor) else token_ids)
    except (TypeError, ValueError, RuntimeError):  # such as lists of unequal lengths
        ids = np.array(None)
    if ids.dtype.kind not in "iu" or ids.ndim not in (1, 2) or not ids.size or ids.min() < 0:
        allowed = "it must be (tokens,) or (batch, tokens) whole numbers of at least 0"
        raise ValueError(f"token_ids is {ids.dtype} of shape {ids.shape}; {allowed}")
    return _sha256(FORMAT, _text("fingerprint", fingerprint), _text("cache", cache), ids.tolist())


def fetch_or_compute(store: Any, key: str, compute: Callable[[], dict[str, torch.Tensor]]) -> Result:
    """The cache of a prefix: from `store` if it holds a sound one, else from `compute`, and then stored.

    store: a `FileStore`, a `RedisStore`, or anything with their `get` and `put`. key: from `prefix_key`. compute: takes
    nothing, returns {name: tensor} of exactly the key's tokens. A store that fails, and a payload that is refused, cost
    a computation and nothing else: the `Result` says why. Errors of `compute` are the caller's.
    """
    start = time.perf_counter()
    tensors, reason, usable = _fetch(store, key)
    if tensors is not None:
        return Result(tensors, "fetched", reason, time.perf_counter() - start, stored=True)
    start = time.perf_counter()
    tensors = _real("the result of compute", compute())
    if any(tensor.is_cuda for tensor in tensors.values()):
        torch.cuda.synchronize()  # a GPU may still be at it
    seconds = time.perf_counter() - start
    trouble = _store(store, key, tensors) if usable else ""
    return Result(tensors, "computed", reason + trouble, seconds, stored=usable and not trouble)


def _fetch(store, key):
    """Tensors or None, the reason, and whether the store can be written to."""
    try:
        payload = store.get(key)
        if payload is None:
            return None, "nothing is stored under this key", True
        return from_payload(key, payload), "it is stored under this key", True
    except Damaged as error:
        return None, f"what is stored is refused, {error}", True
    except Exception as error:  # a store can fail in any way
        return None, f"{store} cannot be used ({_one_line(error)})", False


def _store(store, key, tensors):
    """What there is to add to the reason."""
    try:
        store.put(key, to_payload(key, tensors))
        return ""
    except Exception as error:  # safetensors too raises different errors from release to release
        return f", and it was not stored in {store} ({_one_line(error)})"


def to_payload(key: str, tensors: dict[str, torch.Tensor]) -> bytes:
    """The tensors as the bytes of a safetensors file, with the key and a digest in its header."""
    # safetensors wants contiguous tensors that share no memory
    copies = {name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}
    return save(copies, metadata={"key": key, "sha256": _digest(copies)})


def from_payload(key: str, payload: bytes) -> dict[str, torch.Tensor]:
    """The tensors in `payload`, on the CPU. Raises `Damaged` unless it is whole and was made for this key."""
    try:
        end = 8 + int.from_bytes(payload[:8], "little")
        found = dict(json.loads(payload[8:end])["__metadata__"])
        tensors = load(payload)
        wanted = {"key": key, "sha256": _digest(tensors)}
    except Exception as error:  # bytes from anywhere can make a parser raise anything
        raise Damaged(f"no prefix cache can be read from it ({type(error).__name__})") from None
    for name, value in wanted.items():
        if found.get(name) != value:
            raise Damaged(f"its header has another {name}")
    return tensors


def _sha256(*parts):
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digest(tensors):
    """SHA-256 over names, formats, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _text(argument, value):
    if not isinstance(value, str) or not value:
        raise ValueError(f"{argument}={value!r} is not a text of at least one letter")
    return value


def _real(argument, tensors):
    if not isinstance(tensors, dict) or not tensors:
        raise ValueError(f"{argument} is a {type(tensors).__name__}; it must be a dict of at least one tensor by name")
    for name, tensor in tensors.items():
        real = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type != "meta"
        if not isinstance(name, str) or name == "__metadata__" or not real:
            raise ValueError(f"{argument} has {type(tensor).__name__} {name!r}; it must hold real tensors by name")
    return tensors


def _one_line(error):
    """An error's kind and text as part of a sentence."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
    return re.sub(r"[.!?]\s+(\w)", lambda match: ", " + match[1].lower(), text)
