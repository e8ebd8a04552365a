"""The headers of checkpoint files: every tensor's name, format, shape and bytes. No tensor is read."""

import importlib.util
import json
import math
from pathlib import Path
from typing import NamedTuple

SAFETENSORS = {"F32": "fp32", "BF16": "bf16", "F16": "fp16", "F8_E4M3": "fp8", "F64": "fp64", "BOOL": "bool"}
SAFETENSORS |= {
    f"{letter}{bits}": f"{word}{bits}" for letter, word in (("I", "int"), ("U", "uint")) for bits in (8, 16)
}
SAFETENSORS |= {
    f"{letter}{bits}": f"{word}{bits}" for letter, word in (("I", "int"), ("U", "uint")) for bits in (32, 64)
}
"""The kit's names of the formats of safetensors; others keep the file's own, in lower case."""


class StoredTensor(NamedTuple):
    """One tensor as its file's header describes it.

    shape: as stored, packed formats packed. element: the format of what is stored. nbytes: its bytes, padding apart.
    """

    name: str
    shape: tuple[int, ...]
    element: str
    nbytes: int
    file: str

    @property
    def elements(self) -> int:
        """Elements as stored: of a GGUF type the numbers, of a packed format the words they are packed in."""
        return math.prod(self.shape)


def safetensors_header(path: Path) -> list[StoredTensor]:
    """The tensors of one safetensors file. Raises ValueError, one sentence, for a damaged or unfinished file."""
    from safetensors import SafetensorError, safe_open

    names = _names_twice(path)
    if names:
        raise ValueError(f"{path.name} lists the tensor {names[0]!r} twice; it must list each tensor once")
    try:
        with safe_open(path, framework="numpy"):  # checks every offset against the shapes and the file
            pass
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged or cut short{_lacking(path)}; fetch it again ({error})") from None
    return [
        StoredTensor(name, tuple(entry["shape"]), _format(entry["dtype"]), _length(entry), path.name)
        for name, entry in _safetensors_json(path).items()
        if name != "__metadata__"
    ]


def gguf_header(path: Path) -> list[StoredTensor]:
    """The tensors of one GGUF file, by the PyPI package `gguf`; shapes in the order that torch gives them.

    Raises ValueError, one sentence, for a damaged or unfinished file, or without the package.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"{path.name} is read with the package gguf, which is not here; install it: pip install gguf")
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except Exception as error:  # the reader checks little: a damaged file ends in errors of many kinds
        said = " ".join(str(error).split())
        raise ValueError(f"{path.name} is damaged or cut short; fetch it again ({said})") from None
    _check_places(path, reader)
    return [
        StoredTensor(t.name, tuple(map(int, t.shape[::-1])), gguf_format(t.tensor_type.name), int(t.n_bytes), path.name)
        for t in reader.tensors
    ]


def gguf_format(name: str) -> str:
    """The kit's name of a GGUF type: "q4_K" for "Q4_K", "fp16" for "F16".

    >>> gguf_format("Q4_K"), gguf_format("F16"), gguf_format("MXFP4")
    ('q4_K', 'fp16', 'mxfp4')
    """
    if name[0] == "Q":
        return f"q{name[1:]}"
    return SAFETENSORS.get(name, name.lower())


def _safetensors_json(path, pairs_hook=None):
    """The header as JSON: eight bytes of its length, then the text."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(min(length, path.stat().st_size)), object_pairs_hook=pairs_hook)


def _names_twice(path):
    """Tensors that one header lists more than once, which the library takes without a word."""
    names = []
    try:
        _safetensors_json(path, lambda pairs: names.append([name for name, _ in pairs]))
    except ValueError:  # the library says what is wrong with it
        return []
    listed = names[-1] if names else []  # the outermost object ends last
    return [] if len(set(listed)) == len(listed) else sorted(name for name in set(listed) if listed.count(name) > 1)


def _lacking(path):
    """By how many bytes a file is shorter or longer than its header says, in words; "" where the header is unread."""
    try:
        header = _safetensors_json(path)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return ""
    with path.open("rb") as file:
        said = 8 + int.from_bytes(file.read(8), "little") + max(ends, default=0)
    return f", with {path.stat().st_size:,} bytes of the {said:,} that its header says"


def _check_places(path, reader):
    """Raise ValueError where two tensors of a GGUF file overlap."""
    placed = sorted((t.data_offset, t.n_bytes, t.name) for t in reader.tensors)
    for (start, nbytes, name), (following, _, other) in zip(placed, placed[1:], strict=False):
        if start + nbytes > following:
            raise ValueError(f"{path.name} is damaged: {name!r} and {other!r} overlap; fetch it again")


def _format(name):
    return SAFETENSORS.get(name, name.lower())


def _length(entry):
    start, end = entry["data_offsets"]
    return end - start
