"""Prefix caching outside the GPU: the KV cache of a prompt that many requests begin with, stored once, fetched often.

What it saves is computing the prefix again (prefill). It saves no GPU memory: a fetched cache lies there whole while a
sequence uses it, as a computed one does. Whether fetching is the quicker of the two is a matter of the link:
`formulas.fetch_seconds`, `prefill_seconds`, `break_even_tokens`. Only an exact prefix counts: a cached key or value
depends on every token before it, so one other token at the front makes all that follows worthless.

A store never hands out a wrong cache: the key is a digest of all that the numbers depend on, and what comes back must
match the key and its own digest. It is no safe for secrets: who can read a store can read what a prompt was about, and
who can write to it can plant a cache that passes. A payload is a safetensors file, so reading one runs no code.

Left out, and done by LMCache (whose documentation lists Redis among its backends) and by vLLM's automatic prefix
caching (design page of that name): reuse of a part, block by block, by a hash chained over blocks; eviction; layers
sent while later ones are still computed; RDMA from memory to memory; sharing within the GPU.
"""

import dataclasses
import hashlib
import json
import re
import time

import torch
from safetensors.torch import load, save

from dsmem.config.architecture import Architecture
from dsmem.serving.stores import Damaged, FileStore, RedisStore, StoreError, one_line
from dsmem.units import format_bytes

__all__ = [
    "Damaged",
    "FileStore",
    "Key",
    "RedisStore",
    "Result",
    "StoreError",
    "fetch_or_compute",
    "model_fingerprint",
    "pack",
    "prefix_key",
    "unpack",
]

FORMAT = "dsmem prefix 1"


@dataclasses.dataclass(frozen=True)
class Key:
    """The name of one prefix's cache: a SHA-256 digest in hexadecimal, and how many tokens the prefix has."""

    digest: str
    tokens: int

    def __post_init__(self):
        if not re.fullmatch("[0-9a-f]{64}", self.digest):
            raise ValueError(f"digest={self.digest!r} is no SHA-256 digest; it must be 64 hexadecimal digits")


@dataclasses.dataclass(frozen=True)
class Result:
    """A prefix's cache, and how it was come by.

    tensors: {name: tensor}; on the CPU if fetched, as `compute` gave them if computed. source: "fetched" or "computed".
    reason: why, as part of a sentence. nbytes: of the tensors; payload_bytes: as stored, header included (0 if nothing
    is stored). Seconds: of looking for it and fetching, of computing, of storing.
    """

    tensors: dict = dataclasses.field(repr=False)
    source: str
    reason: str
    nbytes: int
    payload_bytes: int
    fetch_seconds: float
    compute_seconds: float = 0.0
    store_seconds: float = 0.0

    @property
    def stored(self):
        """Whether the store holds this cache now."""
        return self.payload_bytes > 0

    def __str__(self):
        seconds = self.fetch_seconds if self.source == "fetched" else self.compute_seconds
        return f"{self.source} {format_bytes(self.nbytes)} in {seconds:.3f} s: {self.reason}"


def model_fingerprint(arch, weights, source):
    """A digest of everything about a model that its cache depends on, for `prefix_key`.

    arch: an `Architecture`, all of whose fields count. weights: the format they are stored in ("int8"), in words.
    source: the weights themselves, as a module or as {name: tensor}, hashed to the last byte (a second for 1 or 2 GB);
    or a name that stands for them and for no others, such as a checkpoint's with its revision. Raises ValueError.
    """
    if not isinstance(arch, Architecture):
        raise ValueError(f"arch is a {type(arch).__name__}; it must be a dsmem.Architecture")
    _check_text("weights", weights)
    if isinstance(source, torch.nn.Module):
        source = source.state_dict()
    if isinstance(source, str):
        _check_text("source", source)
    else:
        _check("source", source)
        source = ["sha256", _digest(source)]
    described = [dataclasses.asdict(arch), weights, source]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def prefix_key(token_ids, fingerprint, cache):
    """The key of a prefix: a digest of the model, the form of its cache, and every token.

    token_ids: the whole prefix from position 0, (tokens,) or (batch, tokens), whole numbers. fingerprint: what
    `model_fingerprint` returned. cache: kind and format in words, such as "latent bf16". Two machines or attention
    kernels round differently; where that matters, name them in `cache`. Raises ValueError for anything else.

    >>> key = prefix_key([1, 2, 3], "a model", "static fp16")
    >>> key.tokens, key == prefix_key([1, 2, 4], "a model", "static fp16")
    (3, False)
    """
    _check_text("fingerprint", fingerprint)
    _check_text("cache", cache)
    ids = _token_ids(token_ids)
    digest = hashlib.sha256()
    # each part after its length, so that no two lists of parts run together to the same bytes
    for part in (FORMAT, fingerprint, cache, str(tuple(ids.shape)), ids.numpy().astype("<i8").tobytes()):
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little") + part)
    return Key(digest.hexdigest(), ids.shape[-1])


def _token_ids(token_ids):
    allowed = "it must be (tokens,) or (batch, tokens) whole numbers of at least 0"
    try:
        ids = torch.as_tensor(token_ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"token_ids cannot be read ({one_line(error)}); {allowed}") from None
    if ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex() or ids.dim() not in (1, 2):
        raise ValueError(f"token_ids is {ids.dtype} of shape {tuple(ids.shape)}; {allowed}")
    ids = ids.cpu().to(torch.int64)
    if not ids.numel() or ids.min() < 0:
        raise ValueError(f"token_ids has shape {tuple(ids.shape)}, and none or a negative one among them; {allowed}")
    return ids


def pack(key, tensors):
    """The tensors as the bytes of a safetensors file, with key, tokens, formats and a digest in its header.

    Raises ValueError for anything but real tensors by name, and `StoreError` for a format that the file cannot hold.
    """
    _check("tensors", tensors)
    # the file wants each tensor in one piece, in memory that it shares with none
    copies = {name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}
    try:
        return save(copies, metadata=_header(key, copies))
    except Exception as error:  # its kind differs from release to release
        raise StoreError(f"safetensors cannot hold these tensors ({type(error).__name__}: {one_line(error)})") from None


def unpack(key, payload):
    """The tensors in `payload`, on the CPU; raises `Damaged` unless it is whole and was packed for this key."""
    try:
        end = 8 + int.from_bytes(payload[:8], "little")
        found = dict(json.loads(payload[8:end])["__metadata__"])
        tensors = load(payload)
        wanted = _header(key, tensors)
    except Exception as error:  # bytes from anywhere can make a parser raise anything
        raise Damaged(f"no prefix cache can be read from it ({type(error).__name__})") from None
    wrong = [name for name in wanted | found if wanted.get(name) != found.get(name)]
    if wanted["format"] != found.get("format"):
        raise Damaged(f"its format is {str(found.get('format'))[:40]!r}, and {FORMAT!r} is read here")
    if wrong:
        raise Damaged(f"its header is wrong about {' and '.join(wrong)}")
    return tensors


def _header(key, tensors):
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    header = {"format": FORMAT, "key": key.digest, "tokens": str(key.tokens), "dtypes": ", ".join(dtypes)}
    return header | {"sha256": _digest(tensors)}


def _digest(tensors):
    """SHA-256 over names, formats, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        label = json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode()
        digest.update(len(label).to_bytes(8, "little") + label)
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_text(argument, value):
    if not isinstance(value, str) or not value:
        raise ValueError(f"{argument}={value!r} says nothing; it must be a text of at least one letter")


def _check(argument, tensors):
    if not isinstance(tensors, dict) or not tensors:
        raise ValueError(f"{argument} is a {type(tensors).__name__}; it must be a dict of at least one tensor by name")
    for name, tensor in tensors.items():
        real = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type != "meta"
        if not isinstance(name, str) or name == "__metadata__" or not real:
            raise ValueError(f"{argument} has {type(tensor).__name__} {name!r}; it must hold real tensors by name")


def fetch_or_compute(store, key, compute):
    """The cache of a prefix: from `store` if it holds a sound one, else from `compute`, and then stored.

    store: a `FileStore`, a `RedisStore`, or anything with their `get` and `put`. key: a `Key`. compute: called without
    arguments, returns {name: tensor} of exactly the key's tokens. A store that fails, and a payload that is refused,
    cost a computation and nothing else: the `Result` says why. Errors of `compute` are the caller's.
    """
    start = time.perf_counter()
    tensors, payload_bytes, reason, usable = _fetch(store, key)
    looked = time.perf_counter()
    if tensors is not None:
        return Result(tensors, "fetched", reason, _nbytes(tensors), payload_bytes, looked - start)
    tensors = compute()
    _check("the result of compute", tensors)
    if any(tensor.is_cuda for tensor in tensors.values()):
        torch.cuda.synchronize()  # a GPU may still be at it
    computed = time.perf_counter()
    if usable:
        payload_bytes, trouble = _store(store, key, tensors)
        reason += trouble
    seconds = (looked - start, computed - looked, time.perf_counter() - computed)
    return Result(tensors, "computed", reason, _nbytes(tensors), payload_bytes, *seconds)


def _store(store, key, tensors):
    """Bytes stored, and what there is to add to the reason."""
    try:
        payload = pack(key, tensors)
        store.put(key, payload)
        return len(payload), ""
    except StoreError as error:
        return 0, f", and it was not stored, since {error}"


def _fetch(store, key):
    """Tensors or None, bytes of the payload, the reason, and whether the store can be written to."""
    try:
        payload = store.get(key)
        if payload is None:
            return None, 0, "nothing is stored under this key", True
        return unpack(key, payload), len(payload), "it is stored under this key", True
    except Damaged as error:
        return None, 0, f"what is stored is refused, {error}", True
    except StoreError as error:
        return None, 0, str(error), False


def _nbytes(tensors):
    return sum(tensor.nbytes for tensor in tensors.values())
